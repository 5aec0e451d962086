"""What is known of one service, and the few things that every step does with it.

Owns the service's state, timers and orders. Must not know which step comes when (transitions.py).
Laws: what a step orders is in `_out`, in order; `armed` holds the timers that are armed, and no others.
"""

from _collections_abc import Callable

from pyinit.core import actions as a
from pyinit.core import restart
from pyinit.core.events import Timer
from pyinit.core.graph import CoreError
from pyinit.core.inputs import Input
from pyinit.core.transitions import DOWN, Kind, State
from pyinit.model import ServiceSpec, StopStep
from pyinit.records import Enum


class Target(Enum):
    UP = "up"
    DOWN = "down"


class Why(Enum):
    """Why it last stopped."""

    NEVER_RAN = "never ran"
    EXITED = "exited"
    SIGNALLED = "signalled"
    OUT_OF_MEMORY = "out of memory"
    EXEC_FAILED = "exec failed"
    HOOK_FAILED = "hook failed"
    UNHEALTHY = "unhealthy"
    UNMET = "condition not met"
    READY_TIMEOUT = "not ready in time"
    STOPPED = "stopped on request"
    RESTARTED = "restarted on request"
    DEPENDENCY = "dependency failed"
    START_LIMIT = "start limit"


class IllegalEventError(CoreError):
    """An event that can't happen in that state."""

    def __init__(self, name: str, state: State, kind: Kind) -> None:
        super().__init__(f"{name}: illegal {kind.value} in state {state.value}")


class Record:
    """One service; it has no opinion on what follows."""

    def __init__(self, spec: ServiceSpec, random: Callable[[], float]) -> None:
        self.spec = spec
        self.random = random
        self.state = State.STOPPED
        self.target = Target.DOWN
        self.why = Why.NEVER_RAN
        self.cause = ""  # why it last ended, in words, without what comes next
        self.reason = ""  # why it is in this state
        self.stop_reason = ""  # what a stop that waits for others will give as its reason
        self.pid = 0
        self.since_s = 0.0
        self.ready_since_s = 0.0
        self.restarts = 0
        self.exit_code: int | None = None
        self.exit_signal: int | None = None
        self.final_code = 0  # what the init would leave with for its sake
        self.faltered = False  # its latest attempt failed: those that only want it go on without
        self.history = restart.History()
        self.next_spec: ServiceSpec | None = None  # of a reload: takes effect when no process of the old one is left
        self.ends_all = False  # its health said "exit"
        self.armed: dict[Timer, float] = {}
        self._hook = ("", 0)  # the hook that is at work, and which of its commands
        self._run = 0  # of the latest hook's command
        self._steps: tuple[StopStep, ...] = ()  # of the stop that is under way, not yet sent
        self._no_restart = False  # whatever the policy says
        self._early_exit: Input | None = None  # the reaper was faster than the report of exec
        self._late_pid = 0  # of a process that is gone and may still be heard of
        self._out: list[a.Action] = []

    def on_its_way(self) -> bool:
        """Whether those that only want it, or come after it, should wait still."""
        settled = self.state in DOWN or self.state is State.READY or self.spec.kind == "task"
        return self.target is Target.UP and not settled and not self.faltered

    def satisfies(self) -> bool:
        """Whether those that require it may start."""
        if self.spec.kind == "task":
            return self.target is Target.UP and self.state not in DOWN
        over = self.state is State.DONE and (self.spec.kind == "oneshot" or self.why is Why.UNMET)
        return self.state is State.READY or over

    def has_failed(self) -> bool:
        """Whether its latest run ended, and neither well nor on request."""
        return self.why not in (Why.NEVER_RAN, Why.UNMET, Why.STOPPED, Why.RESTARTED) and not self._succeeded()

    def _enter(self, state: State, reason: str) -> None:
        self.state, self.reason = state, reason
        self._out.append(a.Publish(self.spec.name, state.word, reason))

    def _arm(self, timer: Timer, at_s: float) -> None:
        self.armed[timer] = at_s
        self._out.append(a.ArmTimer(self.spec.name, timer, at_s))

    def _cancel(self, timer: Timer) -> None:
        if timer in self.armed:
            del self.armed[timer]
            self._out.append(a.CancelTimer(self.spec.name, timer))

    def _renew(self) -> None:
        if self.next_spec is not None:
            self.spec, self.next_spec = self.next_spec, None

    def _succeeded(self) -> bool:
        return self.why is Why.EXITED and self.exit_code in self.spec.success_exit_codes

    def _is_short(self) -> bool:
        """A oneshot or a task: it is done when it exits."""
        return self.spec.kind != "service"

    def _is_checked(self) -> bool:
        return self.spec.ready.kind != "started"
