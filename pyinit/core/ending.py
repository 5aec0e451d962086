"""One service: how it is brought down, and what is done around its end.

Owns the steps from the first word of a stop, or the exit, to the end of the cleanup, and the running of hooks.
Must not know how a service comes up: `_next` is what follows its end (service.py).
Laws: those of service.py; each stop signal has its time, and KILL follows the last; a hook is over, or killed, before
what it was for goes on.
"""

from pyinit.core import actions as a
from pyinit.core import restart
from pyinit.core.events import Timer
from pyinit.core.inputs import Input
from pyinit.core.record import Record, Target, Why
from pyinit.core.transitions import Kind, State
from pyinit.model import StopStep, signal_name

CLEANUP_TIMEOUT_S = 2.0
SIGKILL, SIGABRT = 9, 6
PERMANENT_FAILURE = 125  # of finish, as s6 has it: don't start again


class Ending(Record):
    """Steps take (event, now), as the table has them."""

    def _next(self, event: Input, now: float) -> None:
        """It is down, and nothing of it is left."""
        raise NotImplementedError  # what follows an end is service.py's

    # Hooks

    def _run_hook(self, hook: str, index: int, now: float, arguments: tuple[str, ...] = ()) -> None:
        self._hook, self._run = (hook, index), self._run + 1
        limit_s: float = getattr(self.spec.hooks, f"{hook}_timeout_s")
        self._out.append(a.RunHook(self.spec.name, hook, index, self._run, arguments))
        self._arm(Timer.HOOK, now + limit_s)

    def _forget_hook(self) -> None:
        self._hook = ("", 0)
        self._cancel(Timer.HOOK)

    def _kill_hook(self) -> None:
        if self._hook[0]:
            self._out.append(a.KillHook(self.spec.name))
            self._forget_hook()

    # A stop

    def _stop(self, event: Input, now: float) -> None:
        self.target, self.why = Target.DOWN, Why.STOPPED
        self._begin_stop(event.text or "stop requested", now, ends_input=event.flag)

    def _unhealthy(self, event: Input, now: float) -> None:
        if self.state is State.READY:
            self.history = restart.ended(self.history, self.spec.restart_delay, now - self.ready_since_s)
        self.why, self.cause, self.final_code, self.faltered = Why.UNHEALTHY, event.text, 1, True
        action = self.spec.health.action if self.spec.health is not None and not event.flag else "restart"
        self._no_restart = action != "restart"
        self.ends_all = action == "exit"
        self._begin_stop(self.cause, now, abort=event.flag)

    def _time_out(self, event: Input, now: float) -> None:
        self._blame_ready_timeout(event.text)
        self._begin_stop(self.cause, now)

    def _blame_ready_timeout(self, why_not: str) -> None:
        self.why, self.final_code, self.faltered = Why.READY_TIMEOUT, 1, True
        if self._is_short() and self.state is State.RUNNING:
            self.cause = f"not done after {self.spec.timeout_s:g} s"
        else:
            self.cause = f"not ready after {self.spec.ready.timeout_s:g} s{': ' + why_not if why_not else ''}"

    def _kill_unborn(self, event: Input, now: float) -> None:
        if self._early_exit:  # it died and nothing ever told of its exec
            self._exited(self._early_exit, now)
            return
        self._blame_ready_timeout(event.text)
        self._leave_readiness()
        self._out.append(a.SendSignal(self.spec.name, SIGKILL, group=True))
        self._enter(State.STOPPING, self.cause)

    def _adopt(self, event: Input, now: float) -> None:
        if not self.pid:
            self.pid, self.since_s = event.pid, now
            self._out.append(a.SendSignal(self.spec.name, SIGKILL, group=True))

    def _abandon(self, event: Input, now: float) -> None:
        self.target, self.why, self.cause = Target.DOWN, Why.STOPPED, event.text
        self._leave_readiness()
        self._kill_hook()
        self._cancel(Timer.DRAIN)
        self._enter(State.STOPPING, event.text)

    def _begin_stop(self, reason: str, now: float, *, abort: bool = False, ends_input: bool = False) -> None:
        """Out of service first, then the signals; `abort`: it hangs, and shall say where by its core.

        `ends_input`: others' logger may be told of the end of its input, which comes before the signals.
        """
        was_ready = self.state is State.READY
        self._leave_readiness()
        self._kill_hook()
        self.cause = reason
        steps = self.spec.stop
        if steps[0].signal == a.END_OF_INPUT and not ends_input:
            steps = steps[1:]
        self._steps = (StopStep(SIGABRT, steps[0].wait_s),) if abort else steps
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

    def _escalate(self, event: Input, now: float) -> None:
        if self._steps:
            self._send_stop(now)
        else:
            self._out.append(a.SendSignal(self.spec.name, SIGKILL, group=True))

    def _leave_readiness(self) -> None:
        if self._is_checked() and not self._is_short() and self.state in (State.STARTING, State.RUNNING):
            self._out.append(a.Unwatch(self.spec.name))
        self._cancel(Timer.READY)

    # An end

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

    def _blame_exit(self, event: Input, now: float) -> None:
        if self.state is State.READY:
            self.history = restart.ended(self.history, self.spec.restart_delay, now - self.ready_since_s)
        self._leave_readiness()
        self.why = Why.OUT_OF_MEMORY if event.flag else Why.SIGNALLED if event.signal else Why.EXITED
        self.cause = how_it_ended(event.code, event.signal) + (": out of memory" if event.flag else "")
        self.final_code = 128 + event.signal if event.signal else event.code
        self.faltered = True

    def _clean(self, now: float) -> None:
        if self.spec.kill == "process" and self.target is Target.UP:  # live sessions outlive sshd's restart
            self._next(Input(Kind.CLEANED), now)
            return
        self._out.append(a.KillLeftovers(self.spec.name))
        self._arm(Timer.CLEANUP, now + CLEANUP_TIMEOUT_S)
        self._enter(State.CLEANING, self.cause)

    def _give_up_cleanup(self, event: Input, now: float) -> None:
        self.cause += f"; what it left behind outlived {CLEANUP_TIMEOUT_S:g} s of killing"
        self._next(event, now)

    def _unprepare(self, event: Input, now: float) -> None:
        """A stop that comes before the start is complete cancels it."""
        self.target, self.why, self.cause = Target.DOWN, Why.STOPPED, event.text or "stop requested"
        self._kill_hook()
        self._clean(now)

    def _unfinish(self, event: Input, now: float) -> None:
        self.target = Target.DOWN
        self._kill_hook()
        self._clean(now)


def how_it_ended(code: int, signal: int) -> str:
    return f"killed by {signal_name(signal)}" if signal else f"exit code {code}"
