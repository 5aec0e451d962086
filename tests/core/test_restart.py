"""Back-off and start limit, with the jitter's roll in hand."""

from pyinit.core import restart
from pyinit.core.restart import History, Verdict
from pyinit.model import RestartDelay, StartLimit

LOW, MIDDLE, HIGH = (lambda: 0.0), (lambda: 0.5), (lambda: 1.0)


def test_the_first_restart_is_at_once_then_delays_double_up_to_the_maximum():
    policy = RestartDelay(first_s=0.0, initial_s=0.1, max_s=1.0, factor=2.0)
    assert [restart.delay_s(policy, tries, MIDDLE) for tries in range(7)] == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_jitter_spreads_around_the_delay_and_spares_the_first():
    policy = RestartDelay(first_s=3.0, initial_s=10.0, jitter=0.1)
    assert [restart.delay_s(policy, 0, roll) for roll in (LOW, HIGH)] == [3.0, 3.0]
    assert [restart.delay_s(policy, 1, roll) for roll in (LOW, MIDDLE, HIGH)] == [9.0, 10.0, 11.0]


def test_jitter_never_makes_a_negative_delay():
    assert restart.delay_s(RestartDelay(jitter=3.0), 1, LOW) == 0.0


def test_the_exponent_may_outgrow_a_float():
    assert restart.delay_s(RestartDelay(), 5000, MIDDLE) == 30.0


def test_a_long_life_resets_the_delay_and_a_short_one_does_not():
    history, policy = History(tries=4, starts=(1.0,)), RestartDelay(reset_after_s=10.0)
    assert restart.ended(history, policy, up_s=9.9) == history
    assert restart.ended(history, policy, up_s=10.0) == History(tries=0, starts=(1.0,))


def test_starts_out_of_the_window_are_forgotten():
    limit = StartLimit(count=10, within_s=60.0)
    assert restart.started(History(starts=(0.0, 39.0, 41.0)), limit, 100.0).starts == (41.0, 100.0)


def test_no_more_starts_are_kept_than_the_limit_can_count():
    history, limit = History(), StartLimit(count=3, within_s=60.0)
    for at in range(50):
        history = restart.started(history, limit, at / 10)
    assert len(history.starts) == 3


def test_one_start_more_than_the_limit_is_limited_and_waits_the_longest_delay():
    policy, limit = RestartDelay(first_s=0.0, max_s=30.0), StartLimit(count=2, within_s=60.0)
    assert restart.next_start(History(starts=(0.0,)), policy, limit, 1.0, MIDDLE) == Verdict(0.0, limited=False)
    assert restart.next_start(History(starts=(0.0, 1.0)), policy, limit, 1.0, MIDDLE) == Verdict(30.0, limited=True)


def test_a_delay_that_leaves_the_window_behind_is_not_limited():
    policy, limit = RestartDelay(initial_s=61.0, max_s=100.0), StartLimit(count=1, within_s=60.0)
    assert restart.next_start(History(1, (0.0,)), policy, limit, 0.0, MIDDLE) == Verdict(61.0, limited=False)
