"""Cron expressions: five fields, and the next minute that they mean. Times are UTC.

Owns the syntax and the calendar. Must not know clocks or tasks. Laws: pure; a search is bounded, and an expression
that never comes is refused. Source: crontab(5); the calendar's arithmetic is that of the proleptic Gregorian one.
"""

from pyinit.records import NamedTuple

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (
    ("minute", 0, 59, ()), ("hour", 0, 23, ()), ("day of month", 1, 31, ()), ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _DAYS),
)  # fmt: skip
_NAMED = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip
_MOST_DAYS = 28 * 366  # the calendar of weekdays and leap years repeats within, but around 1900 and 2100


class CronError(Exception):
    """No cron expression; the text says which field, and what was expected."""


class Cron(NamedTuple):
    """What each field allows; `either` if a day may fit by month or by week, as when both are restricted."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    either: bool


def parse(text: str) -> Cron:
    """CronError for what is none, or never comes."""
    words = _NAMED.get(text.strip().lower(), text).split()
    if words[:1] == ["@reboot"]:
        raise CronError('expected five fields, found "@reboot"; write a oneshot instead')
    if len(words) != len(_FIELDS):
        raise CronError(f'expected five fields, such as "*/5 * * * *", found {len(words)}')
    sets = [_field(word, *field) for word, field in zip(words, _FIELDS, strict=True)]
    weekdays = frozenset(day % 7 for day in sets[4])
    either = not words[2].startswith("*") and not words[4].startswith("*")
    cron = Cron(sets[0], sets[1], sets[2], sets[3], weekdays, either)
    if next_after(cron, 0) is None:
        raise CronError(f'"{text}" never comes: no such month has that day')
    return cron


def _field(word: str, name: str, low: int, high: int, names: tuple[str, ...]) -> frozenset[int]:
    found: set[int] = set()
    for part in word.split(","):
        span, mark, step_text = part.partition("/")
        step = int(step_text) if step_text.isascii() and step_text.isdigit() and len(step_text) < 4 else 0
        if mark and not step:
            raise CronError(f"{name}: expected a step above 0, found {part}")
        if span == "*":
            first, last = low, high
        else:
            start, dash, end = span.partition("-")
            first = _number(start, part, name, low, high, names)
            last = _number(end, part, name, low, high, names) if dash else high if mark else first
        if first > last:
            raise CronError(f"{name}: expected a range from low to high, found {part}")
        found.update(range(first, last + 1, step or 1))
    return frozenset(found)


def _number(word: str, part: str, name: str, low: int, high: int, names: tuple[str, ...]) -> int:
    if word.lower() in names:
        return names.index(word.lower()) + low
    if word.isascii() and word.isdigit() and len(word) < 4 and low <= int(word) <= high:
        return int(word)
    also = f" or {names[0]}-{names[-1]}" if names else ""
    raise CronError(f"{name}: expected {low}-{high}{also}, found {part or 'nothing'}")


def next_after(cron: Cron, unix_s: float) -> int | None:
    """The first matching minute after `unix_s`, as Unix time; None if there is none within 28 years."""
    minute = int(unix_s // 60) + 1
    day, rest = divmod(minute, 24 * 60)
    for ahead in range(_MOST_DAYS):
        if not _day_fits(cron, day + ahead):
            continue
        for hour in sorted(cron.hours):
            if ahead == 0 and hour < rest // 60:
                continue
            floor = rest % 60 if ahead == 0 and hour == rest // 60 else 0
            fitting = [one for one in cron.minutes if one >= floor]
            if fitting:
                return ((day + ahead) * 24 * 60 + hour * 60 + min(fitting)) * 60
    return None


def missed(cron: Cron, after_s: float, until_s: float, most: int = 1000) -> int:
    """How many matching minutes lie in (after, until]; counting ends at `most`."""
    count, at = 0, next_after(cron, after_s)
    while at is not None and at <= until_s and count < most:
        count, at = count + 1, next_after(cron, at)
    return count


def _day_fits(cron: Cron, day: int) -> bool:
    _, month, of_month = civil(day)
    if month not in cron.months:
        return False
    by_month, by_week = of_month in cron.days, (day + 4) % 7 in cron.weekdays  # 1970-01-01 was a Thursday
    return (by_month or by_week) if cron.either else (by_month and by_week)


def civil(day: int) -> tuple[int, int, int]:
    """(year, month, day of month) of a day since 1970-01-01. Eras of 400 years, years from March."""
    era, of_era = divmod(day + 719468, 146097)
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    shifted = (5 * of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year + era * 400 + (month <= 2), month, of_year - (153 * shifted + 2) // 5 + 1
