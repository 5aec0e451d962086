"""Facts that the supervisor is told; past tense, no opinion.

Owns the shapes of events. Must not know who saw them.
Law: an event about a process carries its pid, so that a late fact about an old process is told from a new one.
"""

from enum import Enum
from typing import NamedTuple


class Timer(Enum):
    """The deadlines a service (or, with name "", the whole) may have; at most one of each."""

    READY = "ready"  # it must be ready by then
    STOP = "stop"  # the stop signal had its time
    RESTART = "restart"  # the back-off is over
    CLEANUP = "cleanup"  # leftovers must be gone by then
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


class BecameReady(NamedTuple):
    """The readiness check of that very process said yes."""

    name: str
    pid: int


class CleanupFinished(NamedTuple):
    """Nothing that the service left behind is alive any more."""

    name: str


class TimerFired(NamedTuple):
    name: str
    timer: Timer


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
    | BecameReady
    | CleanupFinished
    | TimerFired
    | ShutdownRequested
)
