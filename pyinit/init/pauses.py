"""`pyinit pause` and `resume`: a service's processes stand still, and so do the clocks that would blame it.

Owns which services are paused, and their timers meanwhile. Must not know cgroups (groups.py). Laws: a pause ends with
a signal, a hook, a stop or the end of the process; what was left of a timer is left after it; no health check,
watchdog or readiness probe runs while it lasts.
"""

import time

from pyinit.core.events import Timer
from pyinit.core.service import State
from pyinit.errors import ControlError
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.init.pid1 import Init

_HAS_PROCESSES = (State.PREPARING, State.STARTING, State.RUNNING, State.STARTED, State.READY)


class Pauses:
    def __init__(self, init: "Init") -> None:
        self._init = init
        self._left_s: dict[str, dict[Timer, float]] = {}  # of each paused service: what its timers have left

    def is_paused(self, name: str) -> bool:
        return name in self._left_s

    def obstacle(self, name: str) -> str:
        """Why it can't be paused; "" if it can be, or is."""
        view = self._init.supervisor.view(name)
        if view.state not in _HAS_PROCESSES:
            return f"{name}: is {view.state.word}: there is nothing to pause"
        if not self._init.groups.can_freeze(name):
            return f"{name}: has no cgroup of its own that can be frozen, so it can't be paused"
        return ""

    def pause(self, name: str) -> None:
        """ControlError."""
        if name in self._left_s:
            return
        try:
            self._init.groups.freeze(name, frozen=True)
        except OSError as error:
            raise ControlError(f"{name}: can't be paused: {error.strerror}") from error
        now = time.monotonic()
        self._left_s[name] = {}
        for of, timer in list(self._init.deadlines):
            if of == name:
                deadline = self._init.deadlines.pop((of, timer))
                deadline.cancel()
                self._left_s[name][timer] = max(0.0, deadline.at_s - now)
        self._init.health.stopped(name)
        self._init.readiness.pause(name)
        self._init.words.pause(name)
        self._init.happened(name, "paused", "")

    def hold(self, name: str, timer: Timer, at_s: float) -> bool:
        """Whether a timer that is to be armed waits for the end of a pause."""
        if name not in self._left_s:
            return False
        self._left_s[name][timer] = max(0.0, at_s - time.monotonic())
        return True

    def drop(self, name: str, timer: Timer) -> None:
        """It is cancelled."""
        if name in self._left_s:
            self._left_s[name].pop(timer, None)

    def end(self, name: str, why: str = "") -> None:
        """It goes on; none is fine."""
        left_s = self._left_s.pop(name, None)
        if left_s is None:
            return
        try:
            self._init.groups.freeze(name, frozen=False)
        except OSError as error:
            self._init.log(f"{name}: can't be thawed: {error.strerror}")
        now = time.monotonic()
        for timer, seconds in left_s.items():
            self._init.arm(name, timer, now + seconds)
        view = self._init.supervisor.view(name)
        self._init.readiness.resume(name)
        self._init.words.resume(name)
        if view.ready:
            self._init.health.started(name, view.pid, self._init.supervisor.spec(name).health)
        self._init.happened(name, "resumed", why)

    def end_all(self, why: str) -> None:
        for name in list(self._left_s):
            self.end(name, why)
