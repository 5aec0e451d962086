"""Typed reading of TOML tables: every error noted with its place, none raised.

Owns the getters and the units. Must not know which keys there are. Laws: a wrong value is noted and answered with
the default, so that one pass finds all errors; a key that nobody asked for is unknown, and `close` says so.
"""

from _collections_abc import Mapping

from pyinit.config.expand import MissingError, SyntaxFaultError, expand
from pyinit.config.source import Path
from pyinit.errors import hint
from pyinit.model import NOWHERE, Origin, signal_number

DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_OF_NUMBERS = frozenset("0123456789+-._eE")
_LONGEST_S = 10 * 365 * 86400.0  # a longer wait is a slip of the pen, and epoll_wait(2) has its own limit


class Document:
    """One file: its name in messages, its lines, the errors of the whole config and the environment."""

    def __init__(self, file: str, lines: dict[Path, int], problems: list[tuple[Origin, str]], environment: Mapping[str, str]) -> None:
        self.file = file
        self.lines = lines
        self.problems = problems
        self.environment = environment
        self.unexpanded: set[Path] = set()  # what follows from a `${}` without a value, or from a NUL, is no error of its own

    def origin(self, path: Path) -> Origin:
        while path and path not in self.lines:
            path = path[:-1]
        return Origin(self.file, self.lines.get(path, 1))


class Table:
    """A table of the document at `path`."""

    def __init__(self, document: Document, path: Path, data: dict[str, object]) -> None:
        self.document = document
        self.path = path
        self.data = data
        self._asked: set[str] = set()
        self.origin = document.origin(path)

    def at(self, key: str) -> Origin:
        """Where a key stands; NOWHERE if it is not there."""
        return self.document.origin((*self.path, key)) if key in self.data else NOWHERE

    def fault(self, key: str, text: str, *tail: int) -> None:
        """Note an error of a key (or of an element of its list)."""
        path = (*self.path, key, *tail)
        if path not in self.document.unexpanded:
            self.document.problems.append((self.document.origin(path), f"{_dotted(path)}: {text}"))

    def has(self, key: str) -> bool:
        self._asked.add(key)
        return key in self.data

    def raw(self, key: str) -> object:
        self._asked.add(key)
        return self.data.get(key)

    def expanded(self, key: str, text: str, *tail: int) -> str:
        try:
            return expand(text, self.document.environment)
        except MissingError as error:
            self.fault(key, f"${{{error}}} is not set in the environment; set it, or write ${{{error}:-default}}", *tail)
        except SyntaxFaultError as error:
            self.fault(key, f"expected ${{NAME}} or ${{NAME:-default}}, found {error}", *tail)
        self.document.unexpanded.add((*self.path, key, *tail))
        return ""

    def _value(self, key: str) -> object:
        """As `raw`, expanded if it is a string."""
        value = self.raw(key)
        return self.expanded(key, value) if isinstance(value, str) else value

    def _scalar(self, key: str) -> object:
        """As `raw`; what `${}` gives is read as TOML would read it without quotes."""
        value = self.raw(key)
        if not isinstance(value, str) or "${" not in value:
            return value
        text = self.expanded(key, value)
        if text in ("true", "false"):
            return text == "true"
        bare = text.removeprefix("-").removeprefix("+")
        if set(text) - _OF_NUMBERS or (bare[:1] == "0" and bare[1:2].isdigit()):  # int() takes blanks and digits of every script
            return text
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
        return text

    def string(self, key: str, default: str = "", *, what: str = "a string") -> str:
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.fault(key, f"expected {what}, found {show(value)}")
            return default
        text = self.expanded(key, value)
        if "\0" in text:
            self.fault(key, f"expected {what} without NUL, found {show(text)}")
            self.document.unexpanded.add((*self.path, key))
            return default
        return text

    def path_of(self, key: str, default: str = "") -> str:
        """An absolute path of the container."""
        text = self.string(key, default, what="an absolute path")
        if isinstance(self.data.get(key), str) and not text.startswith("/"):
            self.fault(key, f"expected an absolute path, found {show(text)}")
            return default
        return text

    def boolean(self, key: str, *, default: bool = False) -> bool:
        value = self._scalar(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fault(key, f"expected true or false, found {show(value)}")
            return default
        return value

    def integer(self, key: str, default: int, lowest: int, highest: int) -> int:
        value = self._scalar(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            self.fault(key, f"expected an integer from {lowest} to {highest}, found {show(value)}")
            return default
        return value

    def number(self, key: str, default: float, lowest: float, highest: float) -> float:
        value = self._scalar(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
            self.fault(key, f"expected a number from {lowest:g} to {highest:g}, found {show(value)}")
            return default
        return float(value)

    def choice(self, key: str, default: str, choices: tuple[str, ...]) -> str:
        value = self._value(key)
        if value is None:
            return default
        if value not in choices:
            words = " or ".join([", ".join(f'"{word}"' for word in choices[:-1]), f'"{choices[-1]}"'])
            self.fault(key, f"expected {words}, found {show(value)}{hint(value, choices)}")
            return default
        return str(value)

    def duration(self, key: str, default: float) -> float:
        value = self._value(key)
        if value is None:
            return default
        seconds = _with_unit(value, DURATIONS)
        if seconds is None or seconds > _LONGEST_S:
            self.fault(key, f'expected a duration such as "250ms", "5s", "2m" or "1h", found {show(value)}')
            return default
        return seconds

    def size(self, key: str, default: int = 0) -> int:
        value = self._value(key)
        if value is None:
            return default
        count = _with_unit(value, SIZES)
        if not count or count > 1 << 62:
            self.fault(key, f'expected a size such as "64K", "512M" or "2G", found {show(value)}')
            return default
        return int(count)

    def octal(self, key: str, default: int, highest: int) -> int:
        value = self._value(key)
        if value is None:
            return default
        digits = isinstance(value, str) and value.isascii() and 1 <= len(value) <= 5 and not set(value) - set("01234567")
        if not digits or int(str(value), 8) > highest:
            self.fault(key, f'expected octal digits in a string, such as "0{default:o}", found {show(value)}')
            return default
        return int(str(value), 8)

    def signal(self, key: str, default: int) -> int:
        value = self._value(key)
        if value is None:
            return default
        number = signal_number(value) if isinstance(value, str) else None
        if number is None:
            self.fault(key, f'expected a signal such as "TERM" or "RTMIN+3", found {show(value)}')
            return default
        return number

    def signals(self, key: str) -> tuple[int, ...]:
        found = []
        for position, word in enumerate(self.strings(key)):
            number = signal_number(word)
            if number is None:
                self.fault(key, f'expected a signal such as "USR1" or "RTMIN+3", found {show(word)}', position)
            else:
                found.append(number)
        return tuple(found)

    def strings(self, key: str, default: tuple[str, ...] = (), *, literal: bool = False) -> tuple[str, ...]:
        """A list of strings; `literal` keeps `${}` as it is."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, list):
            self.fault(key, f"expected a list of strings, found {show(value)}")
            return default
        found = []
        for position, word in enumerate(value):
            if not isinstance(word, str) or "\0" in word:
                self.fault(key, f"expected a string, found {show(word)}", position)
            else:
                found.append(word if literal else self.expanded(key, word, position))
        return tuple(found)

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        """A table of strings; numbers are taken as written."""
        table = self.table(key)
        if table is None:
            return ()
        found = []
        for name, value in table.data.items():
            if not name or "=" in name or "\0" in name:
                table.fault(name, "expected a name without = and NUL")
            elif isinstance(value, int) and not isinstance(value, bool):
                found.append((name, str(value)))
            else:
                found.append((name, table.string(name)))
        return tuple(found)

    def table(self, key: str) -> "Table | None":
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.fault(key, f"expected a table, found {show(value)}")
            return None
        return Table(self.document, (*self.path, key), value)

    def tables(self, key: str) -> "list[Table]":
        """The elements of an array of tables."""
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            self.fault(key, f"expected an array of tables, [[{_dotted((*self.path, key))}]], found {show(value)}")
            return []
        return [Table(self.document, (*self.path, key, number), one) for number, one in enumerate(value)]

    def close(self, later: tuple[str, ...] = ()) -> None:
        """Every key that was not asked for is an error; `later` are those of a version to come."""
        for key in self.data:
            if key in self._asked:
                continue
            if key in later:
                self.fault(key, "this key is not supported yet; take it out")
            else:
                known = tuple(sorted(self._asked))
                self.fault(key, f"there is no such key{hint(key, known) or '; known are: ' + ', '.join(known)}")


def _dotted(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{_printable(part)}" if text else _printable(part)
    return text


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def show(value: object) -> str:
    """A found value in a message, short."""
    if isinstance(value, str):
        text = f'"{_printable(value)}"'
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, dict):
        text = "a table"
    elif isinstance(value, list):
        text = "a list"
    else:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + ("..." if text[0] != '"' else '..."')


def seconds(text: str) -> float | None:
    """Of "250ms"; None for what is no duration."""
    return _with_unit(text, DURATIONS)


def _with_unit(text: object, units: Mapping[str, float]) -> float | None:
    if not isinstance(text, str):
        return None
    for unit in sorted(units, key=len, reverse=True):
        digits = text.removesuffix(unit)
        if digits != text and digits.replace(".", "", 1).isdigit() and digits.isascii() and digits[0] != ".":
            return float(digits) * units[unit]
    return None
