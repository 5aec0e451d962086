"""Words of a verb: options that all of them share, and their errors.

Owns the parsing. Must not know what a verb does. By hand: argparse costs 8 ms of a `status` that takes 20.
"""

import os
from _collections_abc import Mapping

from pyinit.control.places import find_socket
from pyinit.errors import UsageError, hint

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FOR_EVER_S = 2e6  # poll(2) takes milliseconds as an int


class Options:
    """What was said: `names` are the words that are no options."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.values: dict[str, str] = {}
        self.flags: set[str] = set()
        self.several: list[str] = []  # values of what may be said more than once

    def socket(self, environment: Mapping[str, str] = os.environ) -> str:
        """The control socket that is meant."""
        return find_socket(self.values.get("-c"), self.values.get("--socket"), environment)

    def timeout_s(self) -> float | None:
        text = self.values.get("--timeout")
        if text is None:
            return None
        found = seconds(text)
        if found is None:
            raise UsageError(f'--timeout {text}: expected a duration such as "5s" or "2m"')
        return min(found, _FOR_EVER_S)

    def integer(self, name: str, default: int, highest: int) -> int:
        text = self.values.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= highest):
            raise UsageError(f"{name} {text}: expected a number up to {highest}")
        return int(text)


def parse(
    words: list[str], *, usage: str, values: tuple[str, ...] = (), flags: tuple[str, ...] = (), several: tuple[str, ...] = ()
) -> Options | None:
    """None if help was asked for and has been printed. UsageError for an option that is none of the verb's."""
    values = (*values, *several, "--socket", "-c")
    found, pending = Options(), list(words)
    while pending:
        word = pending.pop(0)
        name, mark, value = word.partition("=")
        if name not in values and word[:2] in values:  # -n5, -eA=1
            name, mark, value = word[:2], "=", word[2:]
        if word in ("--help", "-h"):
            print(usage, end="")
            return None
        if word == "--":
            found.names += pending
            break
        if name in values:
            if not mark and not pending:
                raise UsageError(f"{name} needs a value; `--help` tells more")
            found.values[name] = value if mark else pending.pop(0)
            if name in several:
                found.several.append(found.values[name])
        elif word in flags:
            found.flags.add(word)
        elif word.startswith("-") and word != "-":
            raise UsageError(f"{word}: there is no such option{_near(word, (*values, *flags))}")
        else:
            found.names.append(word)
    return found


def _near(word: str, known: tuple[str, ...]) -> str:
    return hint(word, known) or f"; there are: {' '.join(sorted(known))}"


def seconds(text: str) -> float | None:
    """Of `5s`, `250ms`, `2h`, `3d`; None if it is no duration."""
    for unit, factor in _UNITS.items():
        digits = text.removesuffix(unit)
        if digits != text and text.isascii() and digits.replace(".", "", 1).isdigit():
            return float(digits) * factor
    return None


def duration(seconds: float) -> str:
    """`4.2s`, `3m05s`, `2h10m`, `5d03h`: two units at most."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for size, unit, lower, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // lower:02}{below}"
    raise AssertionError(seconds)
