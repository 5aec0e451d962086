r"""Where each key of a TOML text stands.

Owns the scanning of keys. Must not know what they mean. Law: the text was accepted by a TOML parser before, so that
this reads structure only: tables, arrays of tables, dotted keys, inline tables, strings of every kind.
Source: toml.io, version 1.0, and what tomli takes of 1.1: inline tables over lines, two escapes.
"""

Path = tuple[str | int, ...]

_BARE_END = " \t\r\n.=]"


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1
        self.found: dict[Path, int] = {}
        self.counts: dict[Path, int] = {}  # elements of each array of tables so far

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip_blank():
            line = self.line
            if self.text.startswith("[", self.at):
                table = self._header(line)
            else:
                self._pair(table)
        return self.found

    def _header(self, line: int) -> Path:
        many = self.text.startswith("[[", self.at)
        self.at += 2 if many else 1
        keys = self._keys()
        self.at = self.text.index("]", self.at) + (2 if many else 1)
        path = (*self._resolve(keys[:-1]), keys[-1])
        if many:
            number = self.counts.get(path, 0)
            self.counts[path] = number + 1
            self.found.setdefault(path, line)
            path += (number,)
        elif path in self.counts:
            path += (self.counts[path] - 1,)
        self._note(path, line)
        return path

    def _resolve(self, keys: list[str]) -> Path:
        """A name of an array of tables means its last element."""
        path: Path = ()
        for key in keys:
            path += (key,)
            if path in self.counts:
                path += (self.counts[path] - 1,)
        return path

    def _note(self, path: Path, line: int) -> None:
        """The key and, where a dotted key made them, the tables above it."""
        for length in range(1, len(path)):
            self.found.setdefault(path[:length], line)
        self.found[path] = line

    def _pair(self, table: Path) -> None:
        line = self.line
        path = table + tuple(self._keys())
        self._note(path, line)
        self.at = self.text.index("=", self.at) + 1
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip_space()
            keys.append(self._key())
            self._skip_space()
            if not self.text.startswith(".", self.at):
                return keys
            self.at += 1

    def _key(self) -> str:
        mark = self.text[self.at]
        if mark in "\"'":
            start = self.at
            self._string()
            inner = self.text[start + 1 : self.at - 1]
            return _unescape(inner) if mark == '"' else inner
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in _BARE_END:
            self.at += 1
        return self.text[start : self.at]

    def _value(self, path: Path) -> None:
        self._skip_space()
        mark = self.text[self.at]
        if mark in "\"'":
            self._string()
        elif mark == "[":
            self._array(path)
        elif mark == "{":
            self._inline_table(path)
        else:
            while self.at < len(self.text) and self.text[self.at] not in ",]}#\n":
                self.at += 1

    def _array(self, path: Path) -> None:
        self.at += 1
        number = 0
        while True:
            self._skip_blank()
            if self.text[self.at] == "]":
                self.at += 1
                return
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self.found[(*path, number)] = self.line
            self._value((*path, number))
            number += 1

    def _inline_table(self, path: Path) -> None:
        self.at += 1
        while True:
            self._skip_blank()
            if self.text[self.at] == "}":
                self.at += 1
                return
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self._pair(path)

    def _string(self) -> None:
        mark = self.text[self.at]
        triple = self.text.startswith(mark * 3, self.at)
        self.at += 3 if triple else 1
        while True:
            char = self.text[self.at]
            if char == "\\" and mark == '"':
                self.line += self.text[self.at + 1] == "\n"
                self.at += 2
            elif char == mark and not triple:
                self.at += 1
                return
            elif char == mark and self.text.startswith(mark * 3, self.at):
                self.at += 3
                while self.text.startswith(mark, self.at):  # up to two marks may end the content
                    self.at += 1
                return
            else:
                self.line += char == "\n"
                self.at += 1

    def _skip_space(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in " \t":
            self.at += 1

    def _skip_blank(self) -> bool:
        """Past spaces, line ends and comments; False at the end."""
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif char in " \t\r\n":
                self.line += char == "\n"
                self.at += 1
            else:
                return True
        return False


_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b", '"': '"', "\\": "\\"}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


def _unescape(text: str) -> str:
    out, at = "", 0
    while at < len(text):
        if text[at] != "\\":
            out += text[at]
            at += 1
        elif text[at + 1] in _HEX_DIGITS:
            length = _HEX_DIGITS[text[at + 1]]
            out += chr(int(text[at + 2 : at + 2 + length], 16))
            at += 2 + length
        else:
            out += _ESCAPES[text[at + 1]]
            at += 2
    return out


def positions(text: str) -> dict[Path, int]:
    """The line of every key and array element, by its path from the root."""
    return _Scanner(text).scan()
