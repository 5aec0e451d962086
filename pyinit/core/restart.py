"""When a service may start again: the back-off and the start limit.

Owns the arithmetic of delays. Must not know states, processes or where randomness comes from.
Laws: pure; a History is never changed, only replaced; the jitter's roll is injected.
"""

from _collections_abc import Callable

from pyinit.model import RestartDelay, StartLimit
from pyinit.records import NamedTuple


class History(NamedTuple):
    """What the next delay depends on: restarts since the last reset, and the recent starts (monotonic)."""

    tries: int = 0
    starts: tuple[float, ...] = ()


class Verdict(NamedTuple):
    """The wait before the next start; `limited` if that start would be one too many."""

    delay_s: float
    limited: bool


def delay_s(policy: RestartDelay, tries: int, random: Callable[[], float]) -> float:
    """The wait before restart number `tries` (from 0); only `first_s` is exact, the others carry jitter."""
    if tries == 0:
        return policy.first_s
    return _jittered(_exponential(policy, tries - 1), policy.jitter, random)


def _exponential(policy: RestartDelay, exponent: int) -> float:
    try:
        return min(policy.initial_s * policy.factor**exponent, policy.max_s)
    except OverflowError:  # weeks of retries: a float ends near 2.0**1024
        return policy.max_s


def _jittered(wait_s: float, jitter: float, random: Callable[[], float]) -> float:
    return max(0.0, wait_s * (1.0 + jitter * (2.0 * random() - 1.0)))


def started(history: History, limit: StartLimit, now: float) -> History:
    """Note a start; what no window can reach any more is dropped, so that the tuple stays short."""
    recent = [at for at in history.starts if at > now - limit.within_s]
    return history._replace(starts=(*recent, now)[-max(limit.count, 1) :])


def ended(history: History, policy: RestartDelay, up_s: float) -> History:
    """Note an end after `up_s` seconds of being ready: a long life forgives the earlier failures."""
    return history._replace(tries=0) if up_s >= policy.reset_after_s else history


def next_start(
    history: History, policy: RestartDelay, limit: StartLimit, now: float, random: Callable[[], float]
) -> Verdict:
    """The delay of the next start; over the limit it is the longest one, whatever `limit.then` says."""
    wait_s = delay_s(policy, history.tries, random)
    window = now + wait_s - limit.within_s
    if sum(at > window for at in history.starts) < limit.count:
        return Verdict(wait_s, limited=False)
    return Verdict(_jittered(policy.max_s, policy.jitter, random), limited=True)


def retried(history: History) -> History:
    """Note that a restart was ordered."""
    return history._replace(tries=history.tries + 1)
