"""A build file's TOML becomes a BuildFile; every error of it at once, with its line.

Owns the keys of a build file; the only file reader of those. Must not know how an image is made.
Law: what leaves here is complete and checked: names are plain file names, folders exist, paths are absolute.
"""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from pyinit.errors import ConfigError
from pyinit.image.spec import COMPRESSORS, DEFAULT_EPOCH, BuildFile, Image
from pyinit.model import Origin

try:
    import tomli as tomllib
except ImportError:  # the standard library's: the same parser
    import tomllib

_FILE_KEYS = ("output", "source_date_epoch", "image")
_IMAGE_KEYS = ("name", "suite", "packages", "skeleton", "directory", "exclude", "compression", "compression_level")
_BASE_KEYS = ("suite", "packages", "skeleton")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*(?::[a-z0-9]+)?(?:[=/][A-Za-z0-9.+~:-]+)?")  # name[:arch][=version | /suite]
_SUITE = re.compile(r"[a-z][a-z0-9-]*")
_LATEST = 2**32 - 1  # squashfs has 32 bits for a time
_MOST_LEVELS = {"gzip": 9, "lzo": 9, "zstd": 22}
_HEADER = re.compile(r"\s*\[\[\s*image\s*\]\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")


def load(path: str, environment: Mapping[str, str]) -> BuildFile:
    """The build file; $SOURCE_DATE_EPOCH of `environment` goes before the file's. Raises ConfigError."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        table = tomllib.loads(text)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: expected UTF-8 text: {error.reason} at byte {error.start}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax(path, str(error))]) from error
    return _Reader(path, text).file(table, environment)


def _syntax(path: str, said: str) -> str:
    """`Expected ... (at line 3, column 9)` with the line where the others have it; at the file's end there is none."""
    found = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", said)
    return f"{path}:{found[2]}: {found[1]}" if found else f"{path}: {said}"


class _Lines(NamedTuple):
    """Where keys stand: by (index of the image, key), -1 for the file's own; an image's key "" is its header."""

    found: dict[tuple[int, str], int]

    @classmethod
    def of(cls, text: str) -> "_Lines":
        found: dict[tuple[int, str], int] = {}
        index = -1
        for number, line in enumerate(text.splitlines(), 1):
            if _HEADER.match(line):
                index += 1
                found[index, ""] = number
            elif key := _KEY.match(line):
                found.setdefault((index, key[1]), number)
        return cls(found)

    def line(self, index: int, key: str) -> int:
        return self.found.get((index, key)) or self.found.get((index, "")) or 1


class _Reader:
    """Typed getters that note each problem and go on with a value that fits."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.folder = os.path.dirname(os.path.abspath(path))
        self.lines = _Lines.of(text)
        self.problems: list[str] = []

    def file(self, table: dict[str, object], environment: Mapping[str, str]) -> BuildFile:
        self._known(table, -1, _FILE_KEYS)
        output = os.path.join(self.folder, self._text(table, -1, "output") or "images")
        epoch = self._epoch(table, environment)
        rows = table.get("image", [])
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            self._problem(-1, "image", "expected at least one [[image]] table")
            rows = []
        images = tuple(self._image(row, index) for index, row in enumerate(rows))
        self._unique(images)
        if self.problems:
            raise ConfigError(self.problems)
        return BuildFile(os.path.abspath(self.path), os.path.normpath(output), epoch, images)

    def _epoch(self, table: dict[str, object], environment: Mapping[str, str]) -> int:
        asked = environment.get("SOURCE_DATE_EPOCH", "")
        if asked:
            if asked.isascii() and asked.isdigit() and int(asked) <= _LATEST:
                return int(asked)
            self.problems.append(f"$SOURCE_DATE_EPOCH: expected seconds since 1970, up to {_LATEST}, found {asked!r}")
        return self._number(table, -1, "source_date_epoch", DEFAULT_EPOCH, _LATEST)

    def _image(self, row: dict[str, object], index: int) -> Image:
        self._known(row, index, _IMAGE_KEYS)
        name = self._text(row, index, "name")
        if not _NAME.fullmatch(name):
            self._problem(index, "name", f"expected name = a plain file name such as \"base.squashfs\", found {name!r}")
        image = Image(
            name=name,
            suite=self._text(row, index, "suite"),
            packages=self._texts(row, index, "packages"),
            skeleton=self._place(row, index, "skeleton"),
            directory=self._place(row, index, "directory"),
            exclude=self._texts(row, index, "exclude"),
            compression=self._text(row, index, "compression") or "zstd",
            level=self._level(row, index),
            origin=Origin(self.path, self.lines.line(index, "")),
        )
        self._content(image, row, index)
        return image

    def _content(self, image: Image, row: dict[str, object], index: int) -> None:
        """A base system or a directory; the former with a suite to take packages from."""
        clash = [key for key in _BASE_KEYS if key in row]
        if "directory" in row and clash:
            self._problem(index, clash[0], f"expected either directory or {', '.join(_BASE_KEYS)}, found both")
        elif "directory" not in row and not image.packages and "packages" not in row:
            self._problem(index, "", "expected packages = [...] (a base system) or directory = \"...\", found neither")
        if image.packages and not _SUITE.fullmatch(image.suite):
            self._problem(index, "suite", f"expected suite = a release's name such as \"bookworm\", found {image.suite!r}")
        for word in image.packages:
            if not _PACKAGE.fullmatch(word):
                self._problem(index, "packages", f"expected names of Debian packages, found {word!r}")
        for word in image.exclude:
            if not word or word.startswith(("/", "-")) or "\0" in word:
                self._problem(index, "exclude", f"expected patterns from the image's root, without a / before, found {word!r}")
        if image.compression not in COMPRESSORS:
            self._problem(index, "compression", f"expected one of {', '.join(COMPRESSORS)}, found {image.compression!r}")

    def _level(self, row: dict[str, object], index: int) -> int:
        if "compression_level" not in row:
            return 0
        compression = row.get("compression", "zstd")
        most = _MOST_LEVELS.get(compression, 0) if isinstance(compression, str) else 0
        if not most:
            self._problem(index, "compression_level", f"{compression} has no levels: remove the key")
            return 0
        return self._number(row, index, "compression_level", 0, most, least=1)

    def _unique(self, images: tuple[Image, ...]) -> None:
        seen: dict[str, Image] = {}
        for image in images:
            first = seen.setdefault(image.name, image)
            if first is not image and image.name:
                self.problems.append(f"{image.origin}: the name {image.name} is taken by the image at {first.origin}")

    def _known(self, table: dict[str, object], index: int, keys: tuple[str, ...]) -> None:
        for key in table:
            if key not in keys:
                import difflib  # only on the way to an error

                near = difflib.get_close_matches(key, keys, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; the keys are {', '.join(keys)}"
                self._problem(index, key, f"unknown key {key}{hint}")

    def _text(self, table: dict[str, object], index: int, key: str) -> str:
        value = table.get(key, "")
        if isinstance(value, str) and "\0" not in value:
            return value
        self._problem(index, key, f"expected {key} = a string, found {value!r}")
        return ""

    def _texts(self, table: dict[str, object], index: int, key: str) -> tuple[str, ...]:
        value = table.get(key, [])
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        self._problem(index, key, f"expected {key} = a list of strings, found {value!r}")
        return ()

    def _place(self, table: dict[str, object], index: int, key: str) -> str:
        """A folder that is there, absolute; relative ones start at the build file."""
        value = self._text(table, index, key)
        if not value:
            if key in table and table[key] == "":
                self._problem(index, key, f"expected {key} = a folder, found an empty string")
            return ""
        path = os.path.normpath(os.path.join(self.folder, value))
        if not os.path.isdir(path):
            self._problem(index, key, f"expected {key} = a folder, found none at {path}")
        return path

    def _number(
        self, table: dict[str, object], index: int, key: str, default: int, most: int, *, least: int = 0
    ) -> int:
        value = table.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        self._problem(index, key, f"expected {key} = a number from {least} to {most}, found {value!r}")
        return default

    def _problem(self, index: int, key: str, text: str) -> None:
        self.problems.append(f"{self.path}:{self.lines.line(index, key)}: {text}")
