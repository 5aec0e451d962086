"""Orders that the supervisor gives; imperative, complete, idempotent where they can be.

Owns the shapes of actions. Must not know how they are carried out.
"""

from pyinit.core.events import Timer
from pyinit.records import NamedTuple


class Spawn(NamedTuple):
    """Start the service's command; answered by ExecSucceeded or ExecFailed, later ProcessExited.

    The shell starts watching its readiness itself (kind "exec" needs none: the core knows it by ExecSucceeded).
    """

    name: str


class RunHook(NamedTuple):
    """Run a hook's command beside or around the service; answered by HookEnded with the same `run`."""

    name: str
    hook: str  # "pre_start", "post_start", "pre_stop", "finish"
    number: int  # which of its commands
    run: int
    arguments: tuple[str, ...] = ()


class KillHook(NamedTuple):
    """SIGKILL the hook's command and what it started, if it is still there."""

    name: str


class SetTask(NamedTuple):
    """Answer by Due when the task's schedule says so."""

    name: str


class UnsetTask(NamedTuple):
    name: str


class Forget(NamedTuple):
    """The service is no longer in the config, and down: nothing of it is kept."""

    name: str


END_OF_INPUT = 0


class SendSignal(NamedTuple):
    """Signal the main process; with `group`, everything the service's kill policy covers.

    END_OF_INPUT: no signal; close what the service, a logger of others, reads.
    """

    name: str
    signal: int
    group: bool = False


class KillLeftovers(NamedTuple):
    """SIGKILL all that the service left behind, by its kill policy; answered by CleanupFinished."""

    name: str


class ArmTimer(NamedTuple):
    """TimerFired(name, timer) at monotonic time `at_s`; replaces an armed one of the same name and timer."""

    name: str
    timer: Timer
    at_s: float


class CancelTimer(NamedTuple):
    name: str
    timer: Timer


class Unwatch(NamedTuple):
    """Drop the readiness watch of the service."""

    name: str


class Publish(NamedTuple):
    """Tell people: the service entered `state` (a State value), `reason` may be empty."""

    name: str
    state: str
    reason: str


class KillAll(NamedTuple):
    """SIGKILL every process of the container: the shutdown's time is over."""


class Exit(NamedTuple):
    """Everything is stopped: drain the logs and leave with this code."""

    code: int


Action = Spawn | RunHook | KillHook | SetTask | UnsetTask | Forget | SendSignal | KillLeftovers | ArmTimer | CancelTimer | Unwatch | Publish | KillAll | Exit
