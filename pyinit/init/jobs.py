"""Commands that run beside a service: hooks, exec probes, reload commands, `pyinit exec`.

Owns their processes and time limits. Must not know what an end leads to. Laws: a job's end is told once, from the
loop; a job that is cancelled or late is killed with its session, and its end is told to nobody.
"""

import errno
import os
import time
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.errors import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_SYSTEM
from pyinit.init import spawn
from pyinit.init.loop import Deadline, Loop
from pyinit.model import signal_name
from pyinit.records import NamedTuple

_KILL = 9


class Ended(NamedTuple):
    """`message` if there was no process, or if it was late; else `code` (-1 for a signal) and `signal`."""

    code: int
    signal: int
    message: str = ""

    def text(self) -> str:
        """"" for exit code 0."""
        if self.message:
            return self.message
        if self.signal:
            return f"killed by {signal_name(self.signal)}"
        return f"exit code {self.code}" if self.code else ""


Explain = Callable[[Exception | tuple[str, int]], Ended]


def no_process(stage: str, number: int, text: str) -> Ended:
    """With the code that a shell would have: 127 for a command that is not there, 126 for one that can't be executed."""
    code = EXIT_SYSTEM if stage != "exec" else EXIT_NOT_FOUND if number == errno.ENOENT else EXIT_NOT_EXECUTABLE
    return Ended(code, 0, text)


class Job:
    """One command; `pid` 0 before and after its process."""

    def __init__(self, done: Callable[[Ended], None]) -> None:
        self.pid = 0
        self.done: Callable[[Ended], None] | None = done
        self.deadline: Deadline | None = None

    def signal(self, number: int) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def cancel(self) -> None:
        """Kill it; its end is told to nobody."""
        self.done = None
        if self.deadline is not None:
            self.deadline.cancel()
        self.signal(_KILL)

    def outlive(self, arm: Callable[[], Deadline]) -> None:
        """Its end is told to nobody, and ends the deadline that `arm` sets."""
        self.done = None
        if self.deadline is not None:
            self.deadline.cancel()
        self.deadline = arm()

    def end(self, how: Ended) -> None:
        done = self.done
        self.done = None
        if self.deadline is not None:
            self.deadline.cancel()
        if done is not None:
            done(how)


class Jobs:
    """All of them; `exited` is told by the reaper."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._jobs: dict[int, Job] = {}
        self._starting: dict[int, Callable[[], None]] = {}  # of those whose exec has not been looked at

    def run(
        self, child: Callable[[], spawn.Child], timeout_s: float, explain: Explain,
        done: Callable[[Ended], None],
    ) -> Job:  # fmt: skip
        """`child()` may raise OSError or a PyinitError; `explain` says how that, or (stage, errno), ends the job. 0 s: no limit."""
        job = Job(done)
        try:
            spawned = spawn.spawn(child())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the end of this job only
            how = explain(error)
            self._loop.call_soon(lambda: job.end(how))
            return job
        job.pid = spawned.pid
        self._jobs[spawned.pid] = job
        if timeout_s:
            job.deadline = self._loop.call_at(time.monotonic() + timeout_s, lambda: self._late(job, timeout_s))
        if spawned.status_fd >= 0:
            self._starting[spawned.pid] = lambda: self._status(job, spawned, explain)
            self._loop.add_reader(spawned.status_fd, self._starting[spawned.pid])
        return job

    def exited(self, pid: int, code: int, signal: int) -> bool:
        """Whether that was a job's."""
        if pid in self._starting:
            self._starting[pid]()  # that has happened first
            if pid not in self._jobs:  # it never ran
                return True
        job = self._jobs.pop(pid, None)
        if job is None:
            return False
        job.pid = 0
        job.end(Ended(code, signal))
        return True

    def pids(self) -> list[int]:
        return list(self._jobs)

    def close(self) -> None:
        """No end is told any more; the processes are the shutdown's to kill."""
        for job in self._jobs.values():
            job.cancel()

    def _late(self, job: Job, timeout_s: float) -> None:
        job.signal(_KILL)
        job.end(Ended(-1, _KILL, f"not done after {timeout_s:g} s"))

    def _status(self, job: Job, spawned: spawn.Spawned, explain: Explain) -> None:
        try:
            data = os.read(spawned.status_fd, 64)
        except BlockingIOError:  # told of one that had this number, and was read with its exit, in this very turn
            return
        del self._starting[spawned.pid]
        self._loop.remove_reader(spawned.status_fd)
        os.close(spawned.status_fd)
        if data:
            self._jobs.pop(spawned.pid, None)
            job.pid = 0
            job.end(explain(spawn.read_failure(data)))
