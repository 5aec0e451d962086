"""Watching a service until it is ready: probes, the notification fd, a line of its log.

Owns the watch of each service that starts. Must not know what readiness leads to, nor sd_notify (notify.py).
Laws: nothing blocks; a watch ends with its answer, its service's end or `unwatch`, and leaves no fd behind; an
answer carries the pid that it was asked for; a service that is ready costs no wakeup.
"""

import os
import time
from _collections_abc import Callable

from pyinit.init.health import RunFor
from pyinit.init.loop import Deadline, Loop
from pyinit.init.probe import Answered, Attempt, Running
from pyinit.model import ServiceSpec

FIRST_RETRY_S, LONGEST_RETRY_S = 0.002, 0.1
_FIRST_COMMAND_S, _LONGEST_COMMAND_S = 0.1, 1.0  # a command costs a process each time
_LONGEST_ATTEMPT_S = 5.0
NO_FD = (-1, -1)


class _Watch:
    """One service's watch: what must be ended with it."""

    def __init__(self, spec: ServiceSpec, pid: int) -> None:
        self.spec = spec
        self.pid = pid
        self.fd = -1
        self.deadline: Deadline | None = None
        self.attempt: Attempt | None = None
        self.said = ""  # by the last attempt
        self.paused = False
        is_command = spec.ready.probe is not None and spec.ready.probe.kind == "exec"
        self.retry_s, self.longest_s = (
            (_FIRST_COMMAND_S, _LONGEST_COMMAND_S) if is_command else (FIRST_RETRY_S, LONGEST_RETRY_S)
        )


class LogWatch:
    """How a line of a log is waited for."""

    def __init__(self, watch: Callable[[str, str, Callable[[], None]], None], unwatch: Callable[[str], None]) -> None:
        self.watch = watch
        self.unwatch = unwatch


class Readiness:
    """`became_ready(name, pid)` is called from the loop."""

    def __init__(self, loop: Loop, became_ready: Callable[[str, int], None], run: RunFor, log: LogWatch) -> None:
        self._loop = loop
        self._became_ready = became_ready
        self._run = run
        self._log = log
        self._watches: dict[str, _Watch] = {}
        self._pipes: dict[int, int] = {}  # write end -> read end, between prepare and started

    def prepare(self, spec: ServiceSpec) -> tuple[int, int]:
        """(fd to pass, its number in the child) before the fork; OSError. A line may come before the fork has returned."""
        if spec.ready.kind == "log":
            self.unwatch(spec.name)
            self._log.watch(spec.name, spec.ready.pattern, lambda: self._line_came(spec.name))
        if spec.ready.kind != "fd":
            return NO_FD
        read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write_end, True)
        self._pipes[write_end] = read_end
        return write_end, spec.ready.fd

    def discard(self, spec: ServiceSpec, passed: tuple[int, int]) -> None:
        """There is no process after all, or nothing to wait for."""
        if spec.ready.kind == "log":
            self._log.unwatch(spec.name)
        if passed[0] in self._pipes:
            os.close(self._pipes.pop(passed[0]))
            os.close(passed[0])

    def started(self, spec: ServiceSpec, pid: int, passed: tuple[int, int]) -> None:
        """The process is there: watch it."""
        self.unwatch(spec.name)
        if spec.ready.kind in ("started", "notify") or spec.kind != "service":
            self.discard(spec, passed)
            return
        watch = self._watches[spec.name] = _Watch(spec, pid)
        if spec.ready.kind == "fd":
            watch.fd = self._pipes.pop(passed[0])
            os.close(passed[0])
            self._loop.add_reader(watch.fd, lambda: self._read_pipe(watch))
        elif spec.ready.kind == "probe":
            self._try(watch)

    def unwatch(self, name: str) -> None:
        """End the service's watch; none is fine."""
        watch = self._watches.pop(name, None)
        if watch is None:
            return
        if watch.deadline is not None:
            watch.deadline.cancel()
        if watch.attempt is not None:
            watch.attempt.cancel()
        if watch.fd >= 0:
            self._loop.remove_reader(watch.fd)
            os.close(watch.fd)
        if watch.spec.ready.kind == "log":
            self._log.unwatch(name)

    def pause(self, name: str) -> None:
        """Ask nothing of a service that stands still."""
        watch = self._watches.get(name)
        if watch is not None:
            watch.paused = True
            if watch.deadline is not None:
                watch.deadline.cancel()
            if watch.attempt is not None:
                watch.attempt.cancel()
                watch.attempt = None

    def resume(self, name: str) -> None:
        """Ask it again; none is fine."""
        watch = self._watches.get(name)
        if watch is not None and watch.paused:
            watch.paused = False
            if watch.spec.ready.kind == "probe":
                self._try(watch)

    def failing(self, name: str) -> str:
        """What the last attempt said."""
        watch = self._watches.get(name)
        return watch.said if watch else ""

    def close(self) -> None:
        """Leave nothing behind."""
        for name in list(self._watches):
            self.unwatch(name)

    def _ready(self, watch: _Watch) -> None:
        if self._watches.get(watch.spec.name) is watch:
            self.unwatch(watch.spec.name)
            self._became_ready(watch.spec.name, watch.pid)

    def _line_came(self, name: str) -> None:
        watch = self._watches.get(name)
        if watch is not None:
            self._ready(watch)

    def _read_pipe(self, watch: _Watch) -> None:
        """A newline says ready; an end without one says never (the ready timeout then speaks)."""
        try:
            data = os.read(watch.fd, 4096)
        except BlockingIOError:
            return
        if b"\n" in data:
            self._ready(watch)
        elif not data:
            watch.said = f"it closed fd {watch.spec.ready.fd} without a newline"
            self._loop.remove_reader(watch.fd)
            os.close(watch.fd)
            watch.fd = -1

    def _try(self, watch: _Watch) -> None:
        name, probe = watch.spec.name, watch.spec.ready.probe
        assert probe is not None

        def run(argv: tuple[str, ...], timeout_s: float, done: Answered) -> Running:
            return self._run(name, argv, timeout_s, done)

        timeout_s = min(_LONGEST_ATTEMPT_S, watch.spec.ready.timeout_s)
        watch.attempt = Attempt(self._loop, probe, timeout_s, lambda text: self._answered(watch, text), run)

    def _answered(self, watch: _Watch, text: str) -> None:
        watch.attempt = None
        if self._watches.get(watch.spec.name) is not watch:
            return
        if not text:
            self._ready(watch)
            return
        watch.said = text
        if watch.paused:
            return
        watch.deadline = self._loop.call_at(time.monotonic() + watch.retry_s, lambda: self._try(watch))
        watch.retry_s = min(watch.retry_s * 2, watch.longest_s)
