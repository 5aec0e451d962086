"""One service: its state, what is wanted of it, and why it last stopped.

Owns the way in, starts and restarts; what is known of it is record.py, how it goes down ending.py. Must not know the
other services (supervisor.py) or who tells it.
Laws: `take()` is the only way in; a stale fact (an old process, a timer not armed) is ignored before the table is
asked; an illegal event raises and changes nothing; every transition ends in one Publish; every timer armed here
is fired or cancelled before the state it belongs to is left.
"""

from _collections_abc import Callable

from pyinit.core import actions as a
from pyinit.core import restart
from pyinit.core.ending import PERMANENT_FAILURE, Ending, how_it_ended
from pyinit.core.events import Timer
from pyinit.core.graph import CoreError
from pyinit.core.inputs import Input
from pyinit.core.record import IllegalEventError, Target, Why
from pyinit.core.transitions import DOWN, IDLE, TRANSITIONS, Kind, State, Step
from pyinit.model import ServiceSpec

__all__ = [
    "DOWN", "IDLE", "TRANSITIONS", "CoreError", "IllegalEventError", "Input", "Kind", "Service", "State", "Step",
    "Target", "Why",
]  # fmt: skip

_ENOENT = 2
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


class Service(Ending):
    """`take(input, now)` returns the actions; everything else is for reading."""

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

    def take_spec(self, spec: ServiceSpec, *, at_once: bool) -> list[a.Action]:
        """The config was read again: `spec` counts from now on, or once nothing of the old one runs."""
        self.next_spec = spec
        if at_once or self.state in IDLE:
            self._renew()
            if self.state is State.SCHEDULED:
                self._out.append(a.SetTask(self.spec.name))
        out, self._out = self._out, []
        return out

    def note_enabled(self, *, enabled: bool) -> None:
        """Of what it is, and of what it will be."""
        self.spec = self.spec._replace(enabled=enabled)
        if self.next_spec is not None:
            self.next_spec = self.next_spec._replace(enabled=enabled)

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

    # A start

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

    def _stop_to_start(self, event: Input, now: float) -> None:
        self._again(event, now)
        self._begin_stop("restart requested", now)

    # What follows a hook

    def _hook_ended(self, event: Input, now: float) -> None:
        hook, index = self._hook
        self._forget_hook()
        how = event.text or how_it_ended(event.code, event.signal)
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

    def _blame_hook(self, hook: str, index: int, how: str, now: float) -> None:
        self.why, self.final_code, self.faltered = Why.HOOK_FAILED, 1, True
        self.cause = f"{hook} {getattr(self.spec.hooks, hook)[index][0]}: {how}"
        if hook == "pre_start":
            self._clean(now)
        else:
            self._begin_stop(self.cause, now)

    # What follows the end

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

    def _wants_restart(self) -> bool:
        if self._is_short():  # "always" would make no sense: it is the model's default, not a wish
            return self.spec.restart == "on-failure" and not self._succeeded()
        return self.spec.restart == "always" or (self.spec.restart == "on-failure" and not self._succeeded())

    def _restart(self, event: Input, now: float) -> None:
        spec = self.spec
        verdict = restart.next_start(self.history, spec.restart_delay, spec.start_limit, now, self.random)
        limit = f"start limit of {spec.start_limit.count} within {spec.start_limit.within_s:g} s"
        if verdict.limited and spec.start_limit.then != "retry":
            self.why = Why.START_LIMIT
            self.cause = f"{limit}: {self.cause}"
            if spec.kind == "task":  # its next time is a new beginning
                self._set_task(self.cause)
            else:
                self._enter(State.FAILED, self.cause)
            return
        self.history = restart.retried(self.history)
        if verdict.delay_s <= 0:
            self._go(event, now)
            return
        self._arm(Timer.RESTART, now + verdict.delay_s)
        why = f"{limit}: {self.cause}" if verdict.limited else self.cause
        self._enter(State.BACKOFF, f"{why}; restart in {verdict.delay_s:.1f} s")


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
