"""One service: its state, what is wanted of it, and why it last stopped.

Owns a service's process, timers and restarts. Must not know the other services (supervisor.py) or who tells it.
Laws: `take()` is the only way in; a stale fact (an old process, a timer not armed) is ignored before the table is
asked; an illegal event raises and changes nothing; every transition ends in one Publish; every timer armed here
is fired or cancelled before the state it belongs to is left.
"""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from pyinit.core import actions as a
from pyinit.core import restart
from pyinit.core.events import Timer
from pyinit.core.graph import CoreError
from pyinit.core.transitions import DOWN, IDLE, TRANSITIONS, Kind, State, Step
from pyinit.model import ServiceSpec, signal_name

__all__ = [
    "DOWN", "IDLE", "TRANSITIONS", "CoreError", "IllegalEventError", "Input", "Kind", "Service", "State", "Step",
    "Target", "Why",
]  # fmt: skip

CLEANUP_TIMEOUT_S = 2.0
SIGKILL = 9
_ENOENT = 2


class Target(Enum):
    UP = "up"
    DOWN = "down"


class Why(Enum):
    """Why it last stopped."""

    NEVER_RAN = "never ran"
    EXITED = "exited"
    SIGNALLED = "signalled"
    EXEC_FAILED = "exec failed"
    READY_TIMEOUT = "not ready in time"
    STOPPED = "stopped on request"
    RESTARTED = "restarted on request"
    DEPENDENCY = "dependency failed"
    START_LIMIT = "start limit"


class IllegalEventError(CoreError):
    """An event that can't happen in that state."""

    def __init__(self, name: str, state: State, kind: Kind) -> None:
        super().__init__(f"{name}: illegal {kind.value} in state {state.value}")


class Input(NamedTuple):
    """An event as one service sees it; `code` is an exit code, an errno or the code of a failed requirement."""

    kind: Kind
    pid: int = 0
    code: int = 0
    signal: int = 0
    stage: str = ""
    text: str = ""


_TIMERS = {
    Kind.READY_TIMER: Timer.READY,
    Kind.STOP_TIMER: Timer.STOP,
    Kind.RESTART_TIMER: Timer.RESTART,
    Kind.CLEANUP_TIMER: Timer.CLEANUP,
}
_OF_A_PROCESS = frozenset({Kind.EXECED, Kind.EXEC_FAILED, Kind.EXITED, Kind.READY})


class Service:
    """`take(input, now)` returns the actions; everything else is for reading."""

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
        self.armed: set[Timer] = set()
        self._early_exit: Input | None = None  # the reaper was faster than the report of exec
        self._late_pid = 0  # of a process that is gone and may still be heard of
        self._out: list[a.Action] = []

    def take(self, event: Input, now: float) -> list[a.Action]:
        """The actions that `event` asks for. Raises IllegalEventError."""
        if self._is_stale(event):
            return []
        step = TRANSITIONS[self.state][event.kind]
        if step is Step.ILLEGAL or (event.kind is Kind.EXEC_FAILED and self.pid):
            raise IllegalEventError(self.spec.name, self.state, event.kind)
        if event.kind in _TIMERS:
            self.armed.discard(_TIMERS[event.kind])
        _STEPS[step](self, event, now)
        out, self._out = self._out, []
        return out

    def give_up(self) -> list[a.Action]:
        """Cancel what is armed: the whole leaves without it."""
        for timer in Timer:
            self._cancel(timer)
        out, self._out = self._out, []
        return out

    def on_its_way(self) -> bool:
        """Whether those that only want it, or come after it, should wait still."""
        settled = self.state in DOWN or self.state is State.READY
        return self.target is Target.UP and not settled and not self.faltered

    def satisfies(self) -> bool:
        """Whether those that require it may start."""
        return self.state is State.READY or (self.state is State.DONE and self.spec.kind == "oneshot")

    def _is_stale(self, event: Input) -> bool:
        if event.kind in _TIMERS:
            return _TIMERS[event.kind] not in self.armed
        if event.kind not in _OF_A_PROCESS:
            return False
        if self.pid:
            return event.pid != self.pid
        if self.state in (State.STARTING, State.STOPPING):  # its pid isn't known yet
            return event.pid == self._late_pid != 0
        return event.pid != 0

    # Steps: each is named by the table, and takes (event, now).

    def _ignore(self, event: Input, now: float) -> None:
        """Nothing, on purpose."""

    def _lower(self, event: Input, now: float) -> None:
        self.target = Target.DOWN

    def _raise(self, event: Input, now: float) -> None:
        self.target = Target.UP
        if self.state is State.RUNNING and self.spec.kind != "oneshot" and not self._is_checked():
            self._become_ready(event, now)  # it was held back from ready only because it was to be stopped

    def _queue(self, event: Input, now: float) -> None:
        self.target = Target.UP
        self._forget_failures()
        self._enter(State.WAITING, "")

    def _hurry(self, event: Input, now: float) -> None:
        self._cancel(Timer.RESTART)
        self._queue(event, now)

    def _again(self, event: Input, now: float) -> None:
        self.target, self.why = Target.UP, Why.RESTARTED
        self._forget_failures()

    def _forget_failures(self) -> None:
        self.history, self.faltered = restart.History(), False

    def _spawn(self, event: Input, now: float) -> None:
        again = event.kind is not Kind.GO
        self.history = restart.started(self.history, self.spec.start_limit, now)
        self.restarts += again
        self._early_exit = None
        self._out.append(a.Spawn(self.spec.name))
        self._arm(Timer.READY, now + self.spec.ready.timeout_s)
        self._enter(State.STARTING, f"restart after: {self.cause}" if again else "")

    def _refuse(self, event: Input, now: float) -> None:
        self.why, self.cause, self.final_code = Why.DEPENDENCY, event.text, event.code
        self._enter(State.FAILED, event.text)

    def _stop_without_process(self, event: Input, now: float) -> None:
        self.target, self.why = Target.DOWN, Why.STOPPED
        self._cancel(Timer.RESTART)
        self._enter(State.STOPPED, event.text)

    def _execed(self, event: Input, now: float) -> None:
        self.pid, self.since_s = event.pid, now
        if self.spec.kind == "oneshot" or not self._is_checked():
            self._cancel(Timer.READY)
        if self.spec.kind == "oneshot" or self._is_checked() or self.target is Target.DOWN or self._early_exit:
            self._enter(State.RUNNING, "")
        else:
            self._become_ready(event, now)
        if self._early_exit:
            self._exited(self._early_exit, now)

    def _become_ready(self, event: Input, now: float) -> None:
        if self.spec.kind == "oneshot":
            return  # it is ready by its exit
        if not self.pid:
            self.pid, self.since_s = event.pid, now
        self._cancel(Timer.READY)
        self.faltered, self.ready_since_s = False, now
        self._enter(State.READY, "")

    def _note_exit(self, event: Input, now: float) -> None:
        self._early_exit = event

    def _exec_failed(self, event: Input, now: float) -> None:
        self._cancel(Timer.READY)
        self._cancel(Timer.STOP)
        self._late_pid = event.pid
        self.exit_code = self.exit_signal = None
        if self.state is State.STARTING:
            self.why, self.cause = Why.EXEC_FAILED, event.text or f"{event.stage} failed, errno {event.code}"
            self.final_code = 111 if event.stage != "exec" else 127 if event.code == _ENOENT else 126
            self.faltered = True
        self._next(event, now)

    def _stop(self, event: Input, now: float) -> None:
        self.target, self.why = Target.DOWN, Why.STOPPED
        self._send_stop(event.text or "stop requested", now)

    def _stop_to_start(self, event: Input, now: float) -> None:
        self._again(event, now)
        self._send_stop("restart requested", now)

    def _time_out(self, event: Input, now: float) -> None:
        self._blame_ready_timeout()
        self._send_stop(self.cause, now)

    def _send_stop(self, reason: str, now: float) -> None:
        self._leave_readiness()
        self._out.append(a.SendSignal(self.spec.name, self.spec.stop_signal))
        self._arm(Timer.STOP, now + self.spec.stop_timeout_s)
        self.cause = reason
        self._enter(State.STOPPING, reason)

    def _abandon(self, event: Input, now: float) -> None:
        self.target, self.why, self.cause = Target.DOWN, Why.STOPPED, event.text
        self._leave_readiness()
        self._enter(State.STOPPING, event.text)

    def _kill_unborn(self, event: Input, now: float) -> None:
        if self._early_exit:  # it died and nothing ever told of its exec
            self._exited(self._early_exit, now)
            return
        self._blame_ready_timeout()
        self._leave_readiness()
        self._out.append(a.SendSignal(self.spec.name, SIGKILL, group=True))
        self._enter(State.STOPPING, self.cause)

    def _blame_ready_timeout(self) -> None:
        self.why, self.final_code, self.faltered = Why.READY_TIMEOUT, 1, True
        self.cause = f"not ready after {self.spec.ready.timeout_s:g} s"

    def _adopt(self, event: Input, now: float) -> None:
        if not self.pid:
            self.pid, self.since_s = event.pid, now
            self._out.append(a.SendSignal(self.spec.name, SIGKILL, group=True))

    def _escalate(self, event: Input, now: float) -> None:
        self._out.append(a.SendSignal(self.spec.name, SIGKILL, group=True))

    def _exited(self, event: Input, now: float) -> None:
        if not self.pid:
            self._late_pid = event.pid
        self.exit_code, self.exit_signal = (None, event.signal) if event.signal else (event.code, None)
        if self.state is State.STOPPING:
            self._cancel(Timer.STOP)
        else:
            self._blame_exit(event, now)
        self.pid, self.since_s = 0, 0.0
        if self.spec.kill == "process" and self.target is Target.UP:  # live sessions outlive sshd's restart
            self._next(event, now)
            return
        self._out.append(a.KillLeftovers(self.spec.name))
        self._arm(Timer.CLEANUP, now + CLEANUP_TIMEOUT_S)
        self._enter(State.CLEANING, self.cause)

    def _blame_exit(self, event: Input, now: float) -> None:
        if self.state is State.READY:
            self.history = restart.ended(self.history, self.spec.restart_delay, now - self.ready_since_s)
        self._leave_readiness()
        self.why = Why.SIGNALLED if event.signal else Why.EXITED
        self.cause = f"killed by {signal_name(event.signal)}" if event.signal else f"exit code {event.code}"
        self.final_code = 128 + event.signal if event.signal else event.code
        self.faltered = True

    def _give_up_cleanup(self, event: Input, now: float) -> None:
        self.cause += f"; what it left behind outlived {CLEANUP_TIMEOUT_S:g} s of killing"
        self._next(event, now)

    def _next(self, event: Input, now: float) -> None:
        self._cancel(Timer.CLEANUP)
        if self.target is Target.DOWN:
            self.why = Why.STOPPED
            self._enter(State.STOPPED, self.cause)
        elif self.why in (Why.STOPPED, Why.RESTARTED):
            self._enter(State.WAITING, self.cause)
        elif self._wants_restart():
            self._restart(event, now)
        else:
            self._enter(State.DONE if self._succeeded() else State.FAILED, self.cause)

    def _restart(self, event: Input, now: float) -> None:
        spec = self.spec
        verdict = restart.next_start(self.history, spec.restart_delay, spec.start_limit, now, self.random)
        limit = f"start limit of {spec.start_limit.count} within {spec.start_limit.within_s:g} s"
        if verdict.limited and spec.start_limit.then != "retry":
            self.why = Why.START_LIMIT
            self.cause = f"{limit}: {self.cause}"
            self._enter(State.FAILED, self.cause)
            return
        self.history = restart.retried(self.history)
        if verdict.delay_s <= 0:
            self._spawn(event, now)
            return
        self._arm(Timer.RESTART, now + verdict.delay_s)
        why = f"{limit}: {self.cause}" if verdict.limited else self.cause
        self._enter(State.BACKOFF, f"{why}; restart in {verdict.delay_s:.1f} s")

    def _succeeded(self) -> bool:
        return self.why is Why.EXITED and self.exit_code in self.spec.success_exit_codes

    def _wants_restart(self) -> bool:
        if self.spec.kind == "oneshot":  # "always" would make no sense: it is the model's default, not a wish
            return self.spec.restart == "on-failure" and not self._succeeded()
        return self.spec.restart == "always" or (self.spec.restart == "on-failure" and not self._succeeded())

    def _is_checked(self) -> bool:
        return self.spec.ready.kind != "exec"

    def _leave_readiness(self) -> None:
        if self._is_checked() and self.state in (State.STARTING, State.RUNNING):
            self._out.append(a.Unwatch(self.spec.name))
        self._cancel(Timer.READY)

    def _enter(self, state: State, reason: str) -> None:
        self.state, self.reason = state, reason
        self._out.append(a.Publish(self.spec.name, state.value, reason))

    def _arm(self, timer: Timer, at_s: float) -> None:
        self.armed.add(timer)
        self._out.append(a.ArmTimer(self.spec.name, timer, at_s))

    def _cancel(self, timer: Timer) -> None:
        if timer in self.armed:
            self.armed.discard(timer)
            self._out.append(a.CancelTimer(self.spec.name, timer))


_STEPS: dict[Step, Callable[[Service, Input, float], None]] = {
    Step.IGNORE: Service._ignore,
    Step.LOWER: Service._lower,
    Step.RAISE: Service._raise,
    Step.QUEUE: Service._queue,
    Step.SPAWN: Service._spawn,
    Step.REFUSE: Service._refuse,
    Step.CANCEL: Service._stop_without_process,
    Step.HURRY: Service._hurry,
    Step.EXECED: Service._execed,
    Step.EXEC_FAILED: Service._exec_failed,
    Step.NOTE_EXIT: Service._note_exit,
    Step.READY: Service._become_ready,
    Step.STOP: Service._stop,
    Step.STOP_TO_START: Service._stop_to_start,
    Step.ABANDON: Service._abandon,
    Step.TIME_OUT: Service._time_out,
    Step.KILL_UNBORN: Service._kill_unborn,
    Step.ADOPT: Service._adopt,
    Step.ESCALATE: Service._escalate,
    Step.AGAIN: Service._again,
    Step.EXITED: Service._exited,
    Step.NEXT: Service._next,
    Step.GIVE_UP_CLEANUP: Service._give_up_cleanup,
}
