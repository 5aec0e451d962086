"""Cron expressions against a table, and against a calendar that looks at every minute."""

import datetime as dt
import random

import pytest

from pyinit.core import cron

UTC = dt.UTC


def at(text):
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("expression", "now", "then"),
    [
        ("* * * * *", "2026-11-24T12:00:00", "2026-11-24T12:01"),
        ("* * * * *", "2026-11-24T12:00:59", "2026-11-24T12:01"),
        ("*/5 * * * *", "2026-11-24T12:56", "2026-11-24T13:00"),
        ("0 3 * * *", "2026-11-24T03:00", "2026-11-25T03:00"),
        ("30 23 31 12 *", "2026-12-31T23:29", "2026-12-31T23:30"),
        ("0 0 29 2 *", "2026-11-24T00:00", "2028-02-29T00:00"),
        ("0 0 1 * mon", "2026-11-24T00:00", "2026-11-30T00:00"),
        ("0 0 */2 * mon", "2026-11-24T00:00", "2026-12-07T00:00"),
        ("0 12 * * 7", "2026-11-24T00:00", "2026-11-29T12:00"),
        ("15,45 8-10/2 * jan-mar mon-FRI", "2026-12-30T00:00", "2027-01-01T08:15"),
        ("5/20 * * * *", "2026-11-24T12:26", "2026-11-24T12:45"),
        ("@weekly", "2026-11-24T00:00", "2026-11-29T00:00"),
        ("@yearly", "2026-11-24T00:00", "2027-01-01T00:00"),
    ],
)
def test_the_next_time(expression, now, then):
    assert cron.next_after(cron.parse(expression), at(now)) == at(then)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("", 'expected five fields, such as "*/5 * * * *", found 0'),
        ("* * * *", 'expected five fields, such as "*/5 * * * *", found 4'),
        ("75 * * * *", "minute: expected 0-59, found 75"),
        ("* * 0 * *", "day of month: expected 1-31, found 0"),
        ("* * * foo *", "month: expected 1-12 or jan-dec, found foo"),
        ("* * * * 1-9", "day of week: expected 0-7 or sun-sat, found 1-9"),
        ("*/0 * * * *", "minute: expected a step above 0, found */0"),
        ("9-5 * * * *", "minute: expected a range from low to high, found 9-5"),
        ("1,,2 * * * *", "minute: expected 0-59, found nothing"),
        ("0 0 30 2 *", '"0 0 30 2 *" never comes: no such month has that day'),
        ("@reboot", 'expected five fields, found "@reboot"; write a oneshot instead'),
    ],
)
def test_what_is_no_expression(expression, text):
    with pytest.raises(cron.CronError) as caught:
        cron.parse(expression)
    assert str(caught.value) == text


def slow_next(it: cron.Cron, start: int) -> int:
    now = dt.datetime.fromtimestamp(start // 60 * 60, UTC)
    while True:
        now += dt.timedelta(minutes=1)
        week = (now.weekday() + 1) % 7
        days = (now.day in it.days, week in it.weekdays)
        fits = any(days) if it.either else all(days)
        if fits and now.month in it.months and now.hour in it.hours and now.minute in it.minutes:
            return int(now.timestamp())


def random_field(dice, low, high):
    kind = dice.randrange(4)
    if kind == 0:
        return "*"
    if kind == 1:
        return f"*/{dice.randint(1, 7)}"
    first = dice.randint(low, high)
    return str(first) if kind == 2 else f"{first}-{dice.randint(first, high)}"


@pytest.mark.parametrize("seed", range(60))
def test_against_every_minute(seed):
    dice = random.Random(seed)
    fields = [random_field(dice, low, high) for low, high in ((0, 59), (0, 23), (1, 28))]
    it = cron.parse(" ".join([*fields, "*", random_field(dice, 0, 6)]))
    start = dice.randint(0, 4_000_000_000)
    found = cron.next_after(it, start)
    assert found is not None
    if found - start < 5 * 86400:  # else the slow way takes too long
        assert found == slow_next(it, start), (seed, it)
    assert cron.missed(it, start, found) == 1
    assert cron.missed(it, start, found - 1) == 0


def test_the_calendar_is_the_calendar():
    for day in range(-800_000, 2_000_000, 997):
        date = dt.date(1970, 1, 1).toordinal() + day
        if 1 <= date <= dt.date.max.toordinal():
            known = dt.date.fromordinal(date)
            assert cron.civil(day) == (known.year, known.month, known.day)
