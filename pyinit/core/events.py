"""Facts that the supervisor is told; past tense, no opinion.

Owns the shapes of events. Must not know who saw them.
Law: an event about a process carries its pid, so that a late fact about an old process is told from a new one.
"""

from pyinit.records import Enum, NamedTuple


class Timer(Enum):
    """The deadlines a service (or, with name "", the whole) may have; at most one of each."""

    READY = "ready"  # it must be ready by then
    STOP = "stop"  # the stop signal had its time
    RESTART = "restart"  # the back-off is over
    CLEANUP = "cleanup"  # leftovers must be gone by then
    HOOK = "hook"  # the hook's command must be done by then
    DRAIN = "drain"  # the drain delay is over
    SHUTDOWN = "shutdown"  # the whole stop must be over: everything left is killed


class StartRequested(NamedTuple):
    name: str


class StopRequested(NamedTuple):
    name: str


class RestartRequested(NamedTuple):
    name: str


class ExecSucceeded(NamedTuple):
    """The child has exec'd its command."""

    name: str
    pid: int


class ExecFailed(NamedTuple):
    """No process: fork or a step before exec failed. `stage` is "fork", "user", "exec", ...; `message` is for people."""

    name: str
    pid: int  # 0 if fork itself failed
    stage: str
    errno: int
    message: str


class ProcessExited(NamedTuple):
    """The main process was reaped: `code` 0-255 or, if `signal` is not 0, killed by it (code is then -1)."""

    name: str
    pid: int
    code: int
    signal: int
    oom: bool = False  # the kernel killed a process of the service for want of memory


class HookEnded(NamedTuple):
    """A hook's command is over; `run` is that of RunHook. `message` if there was no process at all."""

    name: str
    run: int
    code: int
    signal: int
    message: str = ""


class ConditionUnmet(NamedTuple):
    """What the service's condition asks for is not so: it is not started."""

    name: str
    message: str


class MainPidChanged(NamedTuple):
    """The service said so by sd_notify's MAINPID; `pid` is one of its processes."""

    name: str
    pid: int


class TimeoutExtended(NamedTuple):
    """The service asks for `seconds` more, from now, for its start or its stop (EXTEND_TIMEOUT_USEC)."""

    name: str
    seconds: float


class BecameUnhealthy(NamedTuple):
    """The health check of that very process failed too often, or (`watchdog`) it gave no sign."""

    name: str
    pid: int
    message: str
    watchdog: bool = False


class Due(NamedTuple):
    """The task's time has come."""

    name: str


class BecameReady(NamedTuple):
    """The readiness check of that very process said yes."""

    name: str
    pid: int


class CleanupFinished(NamedTuple):
    """Nothing that the service left behind is alive any more."""

    name: str


class TimerFired(NamedTuple):
    """`message`: what is known of the reason, such as what the last readiness probe said."""

    name: str
    timer: Timer
    message: str = ""


class ShutdownRequested(NamedTuple):
    """`exit_code` None: 0, or what a critical failure set. `kill`: do not wait, kill now."""

    reason: str
    exit_code: int | None = None
    kill: bool = False


Event = (
    StartRequested
    | StopRequested
    | RestartRequested
    | ExecSucceeded
    | ExecFailed
    | ProcessExited
    | HookEnded
    | ConditionUnmet
    | MainPidChanged
    | TimeoutExtended
    | BecameUnhealthy
    | Due
    | BecameReady
    | CleanupFinished
    | TimerFired
    | ShutdownRequested
)
