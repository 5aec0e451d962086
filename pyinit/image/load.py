"""A build file's TOML becomes a BuildFile; every error of it at once, with its line.

Owns the keys of a build file; the only file reader of those. Must not know how an image is made.
Law: what leaves here is complete and checked: names are plain file names, folders exist, paths are absolute.
"""

import os
import re
from _collections_abc import Mapping

from pyinit.config.decode import Document, Table, show
from pyinit.config.source import positions
from pyinit.errors import ConfigError
from pyinit.image.spec import COMPRESSORS, DEFAULT_EPOCH, BuildFile, Image
from pyinit.model import Origin

try:
    import tomli as tomllib
except ImportError:  # the standard library's: the same parser
    import tomllib  # type: ignore[no-redef]

_BASE_KEYS = ("suite", "packages", "skeleton")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*(?::[a-z0-9]+)?(?:[=/][A-Za-z0-9.+~:-]+)?")  # name[:arch][=version | /suite]
_SUITE = re.compile(r"[a-z][a-z0-9-]*")
_LATEST = 2**32 - 1  # squashfs has 32 bits for a time


def load(path: str, environment: Mapping[str, str]) -> BuildFile:
    """The build file; $SOURCE_DATE_EPOCH of `environment` goes before the file's. Raises ConfigError."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
        data = tomllib.loads(text)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: expected UTF-8 text: {error.reason} at byte {error.start}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax(path, str(error))]) from error
    problems: list[tuple[Origin, str]] = []
    found = _Reader(path).file(Table(Document(path, positions(text), problems, environment), (), data))
    if problems:
        problems.sort(key=lambda problem: problem[0].line)
        raise ConfigError([f"{origin}: {said}" for origin, said in problems])
    return found


def _syntax(path: str, said: str) -> str:
    """`Expected ... (at line 3, column 9)` with the line where the others have it; at the file's end there is none."""
    found = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", said)
    return f"{path}:{found[2]}: {found[1]}" if found else f"{path}: {said}"


class _Reader:
    """What is asked of each table; relative paths start at `folder`."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.folder = os.path.dirname(self.path)
        self.taken: dict[str, Origin] = {}

    def file(self, table: Table) -> BuildFile:
        output = os.path.normpath(os.path.join(self.folder, table.string("output", "images")))
        since = _epoch(table)
        lone = table.table("image") if isinstance(table.raw("image"), dict) else None  # image = { ... }, or [image]: the only one
        rows = [lone] if lone is not None else table.tables("image")
        if not rows and not table.data.get("image"):
            table.fault("image", "expected at least one [[image]]")
        images = tuple(self._image(row) for row in rows)
        table.close()
        return BuildFile(self.path, output, since, images)

    def _image(self, row: Table) -> Image:
        compression = row.choice("compression", "zstd", tuple(COMPRESSORS))
        image = Image(
            name=self._name(row),
            suite=row.string("suite"),
            packages=row.strings("packages"),
            skeleton=self._place(row, "skeleton"),
            directory=self._place(row, "directory"),
            init=_init(row),
            exclude=row.strings("exclude", literal=True),
            compression=compression,
            level=_level(row, compression),
            origin=row.origin,
        )
        _check_content(image, row)
        row.close()
        return image

    def _name(self, row: Table) -> str:
        name = row.string("name")
        first = self.taken.setdefault(name, row.at("name"))
        if not _NAME.fullmatch(name):
            row.fault("name", f'expected a plain file name such as "base.squashfs", found {show(name)}')
        elif first != row.at("name"):
            row.fault("name", f"the name {name} is taken at {first}")
        return name

    def _place(self, row: Table, key: str) -> str:
        """A folder that is there, absolute."""
        value = row.string(key, what="a folder")
        path = os.path.normpath(os.path.join(self.folder, value)) if value else ""
        if isinstance(row.raw(key), str) and not os.path.isdir(path):
            row.fault(key, f"expected a folder, found none at {path or show(value)}")
        return path


def epoch(environment: Mapping[str, str]) -> int:
    """$SOURCE_DATE_EPOCH, or the default; raises ConfigError."""
    asked = environment.get("SOURCE_DATE_EPOCH", "")
    if not asked:
        return DEFAULT_EPOCH
    if not (asked.isascii() and asked.isdigit() and int(asked) <= _LATEST):
        raise ConfigError([f"$SOURCE_DATE_EPOCH: expected seconds since 1970, found {show(asked)}"])
    return int(asked)


def _epoch(table: Table) -> int:
    stands = table.integer("source_date_epoch", DEFAULT_EPOCH, 0, _LATEST)
    if not table.document.environment.get("SOURCE_DATE_EPOCH"):
        return stands
    try:
        return epoch(table.document.environment)
    except ConfigError as error:
        table.fault("source_date_epoch", error.problems[0])
    return stands


def _level(row: Table, compression: str) -> int:
    most = COMPRESSORS[compression]
    if most or not row.has("compression_level"):
        return row.integer("compression_level", 0, 1, most)
    row.fault("compression_level", f"{compression} has no levels: remove the key")
    return 0


def _init(row: Table) -> str:
    path = row.path_of("init")
    if path and (path != os.path.normpath(path) or path == "/" or path.startswith("//")):
        row.fault("init", f'expected a file\'s path such as "/usr/bin/pyinit", found {show(path)}')
    return path


def _check_content(image: Image, row: Table) -> None:
    """A base system, a directory, or pyinit alone; the first with a suite to take packages from."""
    clash = [key for key in _BASE_KEYS if key in row.data]
    if "directory" in row.data and clash:
        row.fault(clash[0], f"expected either directory or {', '.join(_BASE_KEYS)}, found both")
    elif not {"directory", "packages", "init"} & row.data.keys():
        row.fault("packages", 'expected packages = [...] (a base system) or directory = "...", found neither')
    if image.packages and not _SUITE.fullmatch(image.suite):
        row.fault("suite", f'expected a release\'s name such as "bookworm", found {show(image.suite)}')
    for number, word in enumerate(image.packages):
        if not _PACKAGE.fullmatch(word):
            row.fault("packages", f"expected the name of a Debian package, found {show(word)}", number)
    for number, word in enumerate(image.exclude):
        if not word or word.startswith(("/", "-")):
            row.fault("exclude", f"expected a pattern from the image's root, without a / before it, found {show(word)}", number)
