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
from pyinit.model import ServiceSpec, StopStep, signal_name

__all__ = [
    "DOWN", "IDLE", "TRANSITIONS", "CoreError", "IllegalEventError", "Input", "Kind", "Service", "State", "Step",
    "Target", "Why",
]  # fmt: skip

CLEANUP_TIMEOUT_S = 2.0
SIGKILL, SIGABRT = 9, 6
PERMANENT_FAILURE = 125  # of finish, as s6 has it: don't start again
_ENOENT = 2


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


class Input(NamedTuple):
    """An event as one service sees it; `code` is an exit code, an errno or the code of a failed requirement.

    `pid` of a HOOK is the hook's run; `flag` is "out of memory" of an exit, "watchdog" of bad health.
    """

    kind: Kind
    pid: int = 0
    code: int = 0
    signal: int = 0
    stage: str = ""
    text: str = ""
    flag: bool = False
    seconds: float = 0.0


_TIMERS = {
    Kind.READY_TIMER: Timer.READY,
    Kind.STOP_TIMER: Timer.STOP,
    Kind.RESTART_TIMER: Timer.RESTART,
    Kind.CLEANUP_TIMER: Timer.CLEANUP,
    Kind.HOOK_TIMER: Timer.HOOK,
    Kind.DRAIN_TIMER: Timer.DRAIN,
}
_OF_A_PROCESS = frozenset({Kind.EXECED, Kind.EXEC_FAILED, Kind.EXITED, Kind.READY, Kind.UNHEALTHY})
_EXTENDABLE = (Timer.READY, Timer.STOP)


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

    def take(self, event: Input, now: float) -> list[a.Action]:
        """The actions that `event` asks for. Raises IllegalEventError."""
        if self._is_stale(event):
            return []
        step = TRANSITIONS[self.state][event.kind]
        if step is Step.ILLEGAL or (event.kind is Kind.EXEC_FAILED and self.pid):
            raise IllegalEventError(self.spec.name, self.state, event.kind)
        if event.kind in _TIMERS:
            del self.armed[_TIMERS[event.kind]]
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
        settled = self.state in DOWN or self.state is State.READY or self.spec.kind == "task"
        return self.target is Target.UP and not settled and not self.faltered

    def satisfies(self) -> bool:
        """Whether those that require it may start."""
        if self.spec.kind == "task":
            return self.target is Target.UP and self.state not in DOWN
        over = self.state is State.DONE and (self.spec.kind == "oneshot" or self.why is Why.UNMET)
        return self.state is State.READY or over

    def take_spec(self, spec: ServiceSpec, *, at_once: bool) -> list[a.Action]:
        """The config was read again: `spec` counts from now on, or once nothing of the old one runs."""
        self.next_spec = spec
        if at_once or self.state in IDLE:
            self._renew()
            if self.state is State.SCHEDULED:
                self._out.append(a.SetTask(self.spec.name))
        out, self._out = self._out, []
        return out

    def _renew(self) -> None:
        if self.next_spec is not None:
            self.spec, self.next_spec = self.next_spec, None

    def _is_stale(self, event: Input) -> bool:
        if event.kind in _TIMERS:
            return _TIMERS[event.kind] not in self.armed
        if event.kind is Kind.HOOK:
            return event.pid != self._run or not self._hook[0]
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
        if self.state is State.RUNNING and not self._is_short() and not self._is_checked():
            self._become_ready(event, now)  # it was held back from ready only because it was to be stopped

    def _queue(self, event: Input, now: float) -> None:
        if self.spec.kind == "task":
            self.target = Target.UP
            self._set_task("")
        else:
            self._run_now(event, now)

    def _run_now(self, event: Input, now: float) -> None:
        if self.state is State.SCHEDULED and event.kind is not Kind.DUE:
            self._out.append(a.UnsetTask(self.spec.name))
        self.target = Target.UP
        self._forget_failures()
        self._enter(State.WAITING, "")

    def _set_task(self, reason: str) -> None:
        self._out.append(a.SetTask(self.spec.name))
        self._enter(State.SCHEDULED, reason)

    def _hurry(self, event: Input, now: float) -> None:
        self._cancel(Timer.RESTART)
        self._run_now(event, now)

    def _again(self, event: Input, now: float) -> None:
        self.target, self.why = Target.UP, Why.RESTARTED
        self._forget_failures()

    def _forget_failures(self) -> None:
        self.history, self.faltered, self._no_restart, self.ends_all = restart.History(), False, False, False

    def _go(self, event: Input, now: float) -> None:
        """What came of the last start is past; `event` is GO, or what led to the restart."""
        again = event.kind is not Kind.GO
        self._renew()
        self.history = restart.started(self.history, self.spec.start_limit, now)
        self.restarts += again
        reason = f"restart after: {self.cause}" if again else ""
        if self.spec.hooks.pre_start:
            self._enter(State.PREPARING, reason)
            self._run_hook("pre_start", 0, now)
        else:
            self._spawn(reason, now)

    def _spawn(self, reason: str, now: float) -> None:
        self._early_exit = None
        self._out.append(a.Spawn(self.spec.name))
        self._arm(Timer.READY, now + self.spec.ready.timeout_s)
        self._enter(State.STARTING, reason)

    def _skip(self, event: Input, now: float) -> None:
        if self.pid:
            return
        self._forget_hook()
        self._cancel(Timer.READY)
        self._cancel(Timer.STOP)
        self.why, self.cause = Why.UNMET, event.text
        if self.target is Target.DOWN:
            self._enter(State.STOPPED, self.stop_reason)
        elif self.spec.kind == "task":
            self._set_task(event.text)
        else:
            self._enter(State.DONE, event.text)

    # Hooks

    def _run_hook(self, hook: str, index: int, now: float, arguments: tuple[str, ...] = ()) -> None:
        self._hook, self._run = (hook, index), self._run + 1
        limit_s: float = getattr(self.spec.hooks, f"{hook}_timeout_s")
        self._out.append(a.RunHook(self.spec.name, hook, index, self._run, arguments))
        self._arm(Timer.HOOK, now + limit_s)

    def _hook_ended(self, event: Input, now: float) -> None:
        hook, index = self._hook
        self._forget_hook()
        how = event.text or _how(event.code, event.signal)
        good = not event.text and not event.signal and event.code == 0
        if hook == "pre_start" and self.target is Target.DOWN:  # it waits for its dependants' end: nothing new begins
            self._unprepare(Input(Kind.STOP, text=self.stop_reason), now)
        elif hook in ("pre_start", "post_start") and not good:
            self._blame_hook(hook, index, how, now)
        elif index + 1 < len(getattr(self.spec.hooks, hook)):
            self._run_hook(hook, index + 1, now)
        elif hook == "pre_start":
            self._spawn(self.reason, now)
        elif hook == "post_start":
            self._enter(State.READY, "")
        elif hook == "pre_stop":
            self._drain(now)
        else:
            if not event.text and event.code == PERMANENT_FAILURE:
                self._no_restart = True
                self.cause += f"; finish left with {PERMANENT_FAILURE}: no restart"
            self._clean(now)

    def _hook_late(self, event: Input, now: float) -> None:
        hook, _ = self._hook
        self._out.append(a.KillHook(self.spec.name))
        limit_s: float = getattr(self.spec.hooks, f"{hook}_timeout_s")
        self._hook_ended(Input(Kind.HOOK, text=f"not done after {limit_s:g} s"), now)

    def _forget_hook(self) -> None:
        self._hook = ("", 0)
        self._cancel(Timer.HOOK)

    def _kill_hook(self) -> None:
        if self._hook[0]:
            self._out.append(a.KillHook(self.spec.name))
            self._forget_hook()

    def _blame_hook(self, hook: str, index: int, how: str, now: float) -> None:
        self.why, self.final_code, self.faltered = Why.HOOK_FAILED, 1, True
        self.cause = f"{hook} {getattr(self.spec.hooks, hook)[index][0]}: {how}"
        if hook == "pre_start":
            self._clean(now)
        else:
            self._begin_stop(self.cause, now)

    def _unprepare(self, event: Input, now: float) -> None:
        """A stop that comes before the start is complete cancels it."""
        self.target, self.why, self.cause = Target.DOWN, Why.STOPPED, event.text or "stop requested"
        self._kill_hook()
        self._clean(now)

    def _unfinish(self, event: Input, now: float) -> None:
        self.target = Target.DOWN
        self._kill_hook()
        self._clean(now)

    def _refuse(self, event: Input, now: float) -> None:
        self.why, self.cause, self.final_code = Why.DEPENDENCY, event.text, event.code
        if self.spec.kind == "task":
            self._set_task(event.text)
        else:
            self._enter(State.FAILED, event.text)

    def _stop_without_process(self, event: Input, now: float) -> None:
        self.target, self.why = Target.DOWN, Why.STOPPED
        self._cancel(Timer.RESTART)
        if self.state is State.SCHEDULED:
            self._out.append(a.UnsetTask(self.spec.name))
        self._enter(State.STOPPED, event.text)

    def _execed(self, event: Input, now: float) -> None:
        self.pid, self.since_s = event.pid, now
        if self._is_short():
            self._cancel(Timer.READY)
            if self.spec.timeout_s:
                self._arm(Timer.READY, now + self.spec.timeout_s)
        elif not self._is_checked():
            self._cancel(Timer.READY)
        if self._is_short() or self._is_checked() or self.target is Target.DOWN or self._early_exit:
            self._enter(State.RUNNING, "")
        else:
            self._become_ready(event, now)
        if self._early_exit:
            self._exited(self._early_exit, now)

    def _become_ready(self, event: Input, now: float) -> None:
        if self._is_short():
            return  # it is ready by its exit
        if not self.pid:
            self.pid, self.since_s = event.pid, now
        self._cancel(Timer.READY)
        self.faltered, self.ready_since_s = False, now
        if self.spec.hooks.post_start:
            self._enter(State.STARTED, "")
            self._run_hook("post_start", 0, now)
        else:
            self._enter(State.READY, "")

    def _take_mainpid(self, event: Input, now: float) -> None:
        self.pid = event.pid

    def _extend(self, event: Input, now: float) -> None:
        for timer in _EXTENDABLE:
            if now + event.seconds > self.armed.get(timer, now + event.seconds):
                self._arm(timer, now + event.seconds)

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
        self._begin_stop(event.text or "stop requested", now)

    def _stop_to_start(self, event: Input, now: float) -> None:
        self._again(event, now)
        self._begin_stop("restart requested", now)

    def _time_out(self, event: Input, now: float) -> None:
        self._blame_ready_timeout(event.text)
        self._begin_stop(self.cause, now)

    def _unhealthy(self, event: Input, now: float) -> None:
        if self.state is State.READY:
            self.history = restart.ended(self.history, self.spec.restart_delay, now - self.ready_since_s)
        self.why, self.cause, self.final_code, self.faltered = Why.UNHEALTHY, event.text, 1, True
        action = self.spec.health.action if self.spec.health is not None and not event.flag else "restart"
        self._no_restart = action != "restart"
        self.ends_all = action == "exit"
        self._begin_stop(self.cause, now, abort=event.flag)

    def _begin_stop(self, reason: str, now: float, *, abort: bool = False) -> None:
        """Out of service first, then the signals; `abort`: it hangs, and shall say where by its core."""
        was_ready = self.state is State.READY
        self._leave_readiness()
        self._kill_hook()
        self.cause = reason
        first = self.spec.stop[0]
        self._steps = (StopStep(SIGABRT, first.wait_s),) if abort else self.spec.stop
        if was_ready and not abort and (self.spec.hooks.pre_stop or self.spec.drain_s):
            self._enter(State.DRAINING, reason)
            if self.spec.hooks.pre_stop:
                self._run_hook("pre_stop", 0, now)
            else:
                self._drain(now)
            return
        self._send_stop(now)
        self._enter(State.STOPPING, reason)

    def _drain(self, now: float) -> None:
        if self.spec.drain_s:
            self._arm(Timer.DRAIN, now + self.spec.drain_s)
        else:
            self._drained(Input(Kind.DRAIN_TIMER), now)

    def _drained(self, event: Input, now: float) -> None:
        self._send_stop(now)
        self._enter(State.STOPPING, self.cause)

    def _send_stop(self, now: float) -> None:
        step, self._steps = self._steps[0], self._steps[1:]
        self._out.append(a.SendSignal(self.spec.name, step.signal))
        self._arm(Timer.STOP, now + step.wait_s)

    def _abandon(self, event: Input, now: float) -> None:
        self.target, self.why, self.cause = Target.DOWN, Why.STOPPED, event.text
        self._leave_readiness()
        self._kill_hook()
        self._cancel(Timer.DRAIN)
        self._enter(State.STOPPING, event.text)

    def _kill_unborn(self, event: Input, now: float) -> None:
        if self._early_exit:  # it died and nothing ever told of its exec
            self._exited(self._early_exit, now)
            return
        self._blame_ready_timeout(event.text)
        self._leave_readiness()
        self._out.append(a.SendSignal(self.spec.name, SIGKILL, group=True))
        self._enter(State.STOPPING, self.cause)

    def _blame_ready_timeout(self, why_not: str) -> None:
        self.why, self.final_code, self.faltered = Why.READY_TIMEOUT, 1, True
        if self._is_short() and self.state is State.RUNNING:
            self.cause = f"not done after {self.spec.timeout_s:g} s"
        else:
            self.cause = f"not ready after {self.spec.ready.timeout_s:g} s{': ' + why_not if why_not else ''}"

    def _adopt(self, event: Input, now: float) -> None:
        if not self.pid:
            self.pid, self.since_s = event.pid, now
            self._out.append(a.SendSignal(self.spec.name, SIGKILL, group=True))

    def _escalate(self, event: Input, now: float) -> None:
        if self._steps:
            self._send_stop(now)
        else:
            self._out.append(a.SendSignal(self.spec.name, SIGKILL, group=True))

    def _exited(self, event: Input, now: float) -> None:
        if not self.pid:
            self._late_pid = event.pid
        self.exit_code, self.exit_signal = (None, event.signal) if event.signal else (event.code, None)
        if self.state in (State.STOPPING, State.DRAINING):
            self._cancel(Timer.STOP)
            self._cancel(Timer.DRAIN)
            self._leave_readiness()
        else:
            self._blame_exit(event, now)
        self._kill_hook()
        self.pid, self.since_s = 0, 0.0
        if self.spec.hooks.finish:
            self._enter(State.FINISHING, self.cause)
            code = -1 if event.signal else event.code
            self._run_hook("finish", 0, now, (str(code), str(event.signal)))
        else:
            self._clean(now)

    def _clean(self, now: float) -> None:
        if self.spec.kill == "process" and self.target is Target.UP:  # live sessions outlive sshd's restart
            self._next(Input(Kind.CLEANED), now)
            return
        self._out.append(a.KillLeftovers(self.spec.name))
        self._arm(Timer.CLEANUP, now + CLEANUP_TIMEOUT_S)
        self._enter(State.CLEANING, self.cause)

    def _blame_exit(self, event: Input, now: float) -> None:
        if self.state is State.READY:
            self.history = restart.ended(self.history, self.spec.restart_delay, now - self.ready_since_s)
        self._leave_readiness()
        self.why = Why.OUT_OF_MEMORY if event.flag else Why.SIGNALLED if event.signal else Why.EXITED
        self.cause = _how(event.code, event.signal) + (": out of memory" if event.flag else "")
        self.final_code = 128 + event.signal if event.signal else event.code
        self.faltered = True

    def _give_up_cleanup(self, event: Input, now: float) -> None:
        self.cause += f"; what it left behind outlived {CLEANUP_TIMEOUT_S:g} s of killing"
        self._next(event, now)

    def _next(self, event: Input, now: float) -> None:
        self._cancel(Timer.CLEANUP)
        self._renew()
        if self.target is Target.DOWN:
            self.why = Why.STOPPED
            self._enter(State.STOPPED, self.cause)
        elif self.why in (Why.STOPPED, Why.RESTARTED):
            self._enter(State.WAITING, self.cause)
        elif self._no_restart:
            self._enter(State.FAILED, self.cause)
        elif self._wants_restart():
            self._restart(event, now)
        elif self.spec.kind == "task":
            self._set_task(self.cause)
        else:
            self._enter(State.DONE if self._succeeded() else State.FAILED, self.cause)

    def _restart(self, event: Input, now: float) -> None:
        spec = self.spec
        verdict = restart.next_start(self.history, spec.restart_delay, spec.start_limit, now, self.random)
        limit = f"start limit of {spec.start_limit.count} within {spec.start_limit.within_s:g} s"
        if verdict.limited and spec.start_limit.then != "retry" and spec.kind != "task":
            self.why = Why.START_LIMIT
            self.cause = f"{limit}: {self.cause}"
            self._enter(State.FAILED, self.cause)
            return
        self.history = restart.retried(self.history)
        if verdict.delay_s <= 0:
            self._go(event, now)
            return
        self._arm(Timer.RESTART, now + verdict.delay_s)
        why = f"{limit}: {self.cause}" if verdict.limited else self.cause
        self._enter(State.BACKOFF, f"{why}; restart in {verdict.delay_s:.1f} s")

    def _succeeded(self) -> bool:
        return self.why is Why.EXITED and self.exit_code in self.spec.success_exit_codes

    def _wants_restart(self) -> bool:
        if self._is_short():  # "always" would make no sense: it is the model's default, not a wish
            return self.spec.restart == "on-failure" and not self._succeeded()
        return self.spec.restart == "always" or (self.spec.restart == "on-failure" and not self._succeeded())

    def _is_short(self) -> bool:
        """A oneshot or a task: it is done when it exits."""
        return self.spec.kind != "service"

    def _is_checked(self) -> bool:
        return self.spec.ready.kind != "started"

    def _leave_readiness(self) -> None:
        if self._is_checked() and not self._is_short() and self.state in (State.STARTING, State.RUNNING):
            self._out.append(a.Unwatch(self.spec.name))
        self._cancel(Timer.READY)

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


def _how(code: int, signal: int) -> str:
    return f"killed by {signal_name(signal)}" if signal else f"exit code {code}"


_STEPS: dict[Step, Callable[[Service, Input, float], None]] = {
    Step.IGNORE: Service._ignore,
    Step.LOWER: Service._lower,
    Step.RAISE: Service._raise,
    Step.QUEUE: Service._queue,
    Step.RUN_NOW: Service._run_now,
    Step.GO: Service._go,
    Step.REFUSE: Service._refuse,
    Step.CANCEL: Service._stop_without_process,
    Step.HURRY: Service._hurry,
    Step.SKIP: Service._skip,
    Step.UNPREPARE: Service._unprepare,
    Step.EXECED: Service._execed,
    Step.EXEC_FAILED: Service._exec_failed,
    Step.NOTE_EXIT: Service._note_exit,
    Step.READY: Service._become_ready,
    Step.MAINPID: Service._take_mainpid,
    Step.EXTEND: Service._extend,
    Step.HOOK: Service._hook_ended,
    Step.HOOK_LATE: Service._hook_late,
    Step.STOP: Service._stop,
    Step.STOP_TO_START: Service._stop_to_start,
    Step.UNHEALTHY: Service._unhealthy,
    Step.ABANDON: Service._abandon,
    Step.TIME_OUT: Service._time_out,
    Step.KILL_UNBORN: Service._kill_unborn,
    Step.ADOPT: Service._adopt,
    Step.DRAINED: Service._drained,
    Step.ESCALATE: Service._escalate,
    Step.AGAIN: Service._again,
    Step.EXITED: Service._exited,
    Step.UNFINISH: Service._unfinish,
    Step.NEXT: Service._next,
    Step.GIVE_UP_CLEANUP: Service._give_up_cleanup,
}
