"""When tasks are due.

Owns the timers of all tasks: one of the wall clock for the cron expressions, the loop's own for intervals. Must not
know what a task does. Laws: without a task there is no timer; a clock that is set moves what is due with it; a time
that passed while the task ran is skipped, and said.
"""

import os
import time
from _collections_abc import Callable

from pyinit.core import cron
from pyinit.init.loop import Deadline, Loop
from pyinit.linux import timer
from pyinit.model import Schedule


class _Task:
    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.cron = cron.parse(schedule.cron) if schedule.cron else None
        self.due_s: int | None = None  # wall clock, of cron
        self.last_due_s: int | None = None
        self.started_s: float | None = None  # monotonic, of the last run
        self.deadline: Deadline | None = None


class Schedules:
    """`due(name)` and `report(text)` are called from the loop."""

    def __init__(self, loop: Loop, due: Callable[[str], None], report: Callable[[str], None]) -> None:
        self._loop = loop
        self._due = due
        self._report = report
        self._tasks: dict[str, _Task] = {}
        self._fd = -1

    def set(self, name: str, schedule: Schedule) -> None:
        """Call `due` at its next time; an interval counts from the start of the last run, and the first is now."""
        task = self._tasks.get(name)
        if task is None or task.schedule != schedule:
            self.forget(name)
            task = self._tasks[name] = _Task(schedule)
        if task.cron is not None:
            self._set_cron(name, task)
            return
        at_s = time.monotonic() if task.started_s is None else task.started_s + schedule.interval_s
        if task.deadline is not None:
            task.deadline.cancel()
        task.deadline = self._loop.call_at(at_s, lambda: self._run(name, task))

    def unset(self, name: str) -> None:
        """Not now; what is known of the last run stays."""
        task = self._tasks.get(name)
        if task is not None:
            task.due_s = task.last_due_s = None
            if task.deadline is not None:
                task.deadline.cancel()
            self._arm()

    def forget(self, name: str) -> None:
        self.unset(name)
        self._tasks.pop(name, None)

    def next_run(self, name: str) -> str:
        """For people; "" if nothing is due."""
        task = self._tasks.get(name)
        if task is None:
            return ""
        if task.due_s is not None:
            t = time.gmtime(task.due_s)
            return f"next run at {t.tm_year:04}-{t.tm_mon:02}-{t.tm_mday:02}T{t.tm_hour:02}:{t.tm_min:02}:00Z"
        if task.deadline is not None and task.deadline.callback is not None:
            return f"next run in {max(0.0, task.deadline.at_s - time.monotonic()):.0f} s"
        return ""

    def close(self) -> None:
        for name in list(self._tasks):
            self.forget(name)
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _set_cron(self, name: str, task: _Task) -> None:
        assert task.cron is not None
        now = time.time()  # noqa: TID251 - the wall clock is what a schedule means
        if task.last_due_s is not None:
            count = cron.missed(task.cron, task.last_due_s, now)
            if count:
                self._report(f"{name}: {count} run{'s were' if count > 1 else ' was'} skipped: it was still running")
        task.due_s = cron.next_after(task.cron, now)
        self._arm()

    def _arm(self) -> None:
        due = [task.due_s for task in self._tasks.values() if task.due_s is not None]
        if due and self._fd < 0:
            self._fd = timer.timerfd()
            self._loop.add_reader(self._fd, self._fired)
        if self._fd >= 0:
            timer.set_wall_time(self._fd, min(due, default=0))

    def _fired(self) -> None:
        now = time.time()  # noqa: TID251 - see above
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        except OSError:  # ECANCELED: the clock was set
            for task in self._tasks.values():
                if task.due_s is not None and task.cron is not None and task.due_s > now:
                    task.due_s = cron.next_after(task.cron, now)
        for name, task in list(self._tasks.items()):
            if task.due_s is not None and task.due_s <= now:
                task.last_due_s, task.due_s = task.due_s, None
                self._run(name, task)
        self._arm()

    def _run(self, name: str, task: _Task) -> None:
        task.started_s, task.deadline = time.monotonic(), None
        self._due(name)
