"""Facts as one service sees them.

Owns the translation of an event, which names its service, into an Input, which its table knows. Must not know what
comes of it.
"""

from pyinit.core import events as e
from pyinit.core.events import Timer
from pyinit.core.graph import CoreError
from pyinit.core.transitions import Kind
from pyinit.records import NamedTuple, assert_never


class Input(NamedTuple):
    """An event as one service sees it; `code` is an exit code, an errno or the code of a failed requirement.

    `pid` of a HOOK is the hook's run; `flag` is "out of memory" of an exit, "watchdog" of bad health, of a STOP that
    nobody writes any more to a service that is others' logger.
    """

    kind: Kind
    pid: int = 0
    code: int = 0
    signal: int = 0
    stage: str = ""
    text: str = ""
    flag: bool = False
    seconds: float = 0.0


_TIMER_KINDS = {
    Timer.READY: Kind.READY_TIMER,
    Timer.STOP: Kind.STOP_TIMER,
    Timer.RESTART: Kind.RESTART_TIMER,
    Timer.CLEANUP: Kind.CLEANUP_TIMER,
    Timer.HOOK: Kind.HOOK_TIMER,
    Timer.DRAIN: Kind.DRAIN_TIMER,
}
_Fact = (
    e.ExecSucceeded | e.ExecFailed | e.ProcessExited | e.BecameReady | e.CleanupFinished | e.TimerFired | e.HookEnded
    | e.ConditionUnmet | e.MainPidChanged | e.TimeoutExtended | e.BecameUnhealthy | e.Due
)  # fmt: skip


def input_of(event: _Fact) -> Input:
    """Raises CoreError for a timer that no service has."""
    match event:
        case e.ExecSucceeded(_, pid):
            return Input(Kind.EXECED, pid)
        case e.ExecFailed(_, pid, stage, errno, message):
            return Input(Kind.EXEC_FAILED, pid, errno, stage=stage, text=message)
        case e.ProcessExited(_, pid, code, signal, oom):
            return Input(Kind.EXITED, pid, code, signal, flag=oom)
        case e.BecameReady(_, pid):
            return Input(Kind.READY, pid)
        case e.CleanupFinished():
            return Input(Kind.CLEANED)
        case e.HookEnded(_, run, code, signal, message):
            return Input(Kind.HOOK, run, code, signal, text=message)
        case e.ConditionUnmet(_, message):
            return Input(Kind.UNMET, text=message)
        case e.MainPidChanged(_, pid):
            return Input(Kind.MAINPID, pid)
        case e.TimeoutExtended(_, seconds):
            return Input(Kind.EXTEND, seconds=seconds)
        case e.BecameUnhealthy(_, pid, message, watchdog):
            return Input(Kind.UNHEALTHY, pid, text=message, flag=watchdog)
        case e.Due():
            return Input(Kind.DUE)
        case e.TimerFired(name, timer, message):
            if timer not in _TIMER_KINDS:
                raise CoreError(f"{name}: a service has no {timer.value} timer")
            return Input(_TIMER_KINDS[timer], text=message)
        case _:
            assert_never(event)
