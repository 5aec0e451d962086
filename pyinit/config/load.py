"""From a file's path to a checked Config.

Owns the reading of config files and what is included. Must not know what a key means. Law: all errors of all files
are raised at once, in the order of files and lines; a config that is returned is whole.
"""

import os
from collections.abc import Mapping

try:
    import tomli as toml  # line and column of a syntax error, in every version
except ModuleNotFoundError:  # a small image without packages
    import tomllib as toml  # type: ignore[no-redef]

from pyinit.config import check
from pyinit.config import container as tables
from pyinit.config.decode import Document, Table
from pyinit.config.services import service
from pyinit.config.source import positions
from pyinit.errors import ConfigError
from pyinit.model import Config, Origin, ServiceSpec

_MOST_FILES = 1000
_MAGIC = "*?["


class _Loader:
    def __init__(self, environment: Mapping[str, str], log_to: str) -> None:
        self.environment = environment
        self.log_to = log_to
        self.problems: list[tuple[Origin, str]] = []
        self.files: list[str] = []  # as named in messages, in the order of reading
        self.once: dict[str, Table] = {}  # "init" and "container", of whichever file has them
        self.services: dict[str, ServiceSpec] = {}
        self.forwarded: list[tuple[int, str]] = []

    def note(self, origin: Origin, text: str) -> None:
        self.problems.append((origin, text))

    def read(self, file: str, included_at: Origin | None) -> None:
        self.files.append(file)
        try:
            with open(file, "rb") as source:
                text = source.read().decode("utf-8")
        except OSError as error:
            where = included_at or Origin(file, 0)
            what = f"{file}: {error.strerror}" if included_at else f"{error.strerror}; name the config with --config FILE"
            self.note(where, what)
            return
        except UnicodeDecodeError as error:
            self.note(Origin(file, 1), f"expected UTF-8, found the byte {error.object[error.start]:#04x} at {error.start}")
            return
        try:
            data = toml.loads(text.replace("\r\n", "\n"))
        except toml.TOMLDecodeError as error:
            self.note(*_syntax(file, str(error)))
            return
        document = Document(file, positions(text.replace("\r\n", "\n")), self.problems, self.environment)
        self._take(Table(document, (), data))

    def _take(self, root: Table) -> None:
        for number, pattern in enumerate(root.strings("include")):
            self._include(root, pattern, number)
        for key in ("init", "container"):
            table = root.table(key)
            if table is not None and key in self.once:
                self.note(table.origin, f"[{key}] is there twice; the other is at {self.once[key].origin}")
            elif table is not None:
                self.once[key] = table
        inner = root.table("services")
        for name in inner.data if inner is not None else ():
            assert inner is not None
            table = inner.table(name)
            if table is None:
                continue
            if name in self.services:
                self.note(table.origin, f"services.{name} is defined twice; the other is at {self.services[name].origin}")
                continue
            self.services[name], signals = service(name, table, log_to=self.log_to)
            self.forwarded += [(number, name) for number in signals]
        root.close(("cluster", "web"))

    def _include(self, root: Table, pattern: str, number: int) -> None:
        at = root.document.origin(("include", number))
        place = os.path.join(os.path.dirname(root.document.file), pattern)
        paths = [place]
        if set(pattern) & set(_MAGIC):
            import glob  # only for those who write a pattern

            paths = sorted(glob.glob(place))
        for path in paths:
            path = os.path.normpath(path)
            if any(os.path.abspath(path) == os.path.abspath(other) for other in self.files):
                self.note(at, f"include: {path} is included twice, or includes itself")
            elif len(self.files) < _MOST_FILES:
                self.read(path, at)


def _syntax(file: str, text: str) -> tuple[Origin, str]:
    """tomli says `... (at line 3, column 7)`, or `(at end of document)`."""
    what, _, where = text.rpartition(" (at ")
    words = where.rstrip(")").replace(",", "").split()
    if words[:1] == ["line"] and len(words) == 4:
        return Origin(file, int(words[1])), f"no valid TOML at column {words[3]}: {what[:1].lower()}{what[1:]}"
    with open(file, "rb") as source:
        last = source.read().count(b"\n") + 1
    return Origin(file, last), f"no valid TOML at its end: {(what or text)[:1].lower()}{(what or text)[1:]}"


def load(path: str, environment: Mapping[str, str], *, log_to: str = "file") -> Config:
    """The config of `path` and what it includes; ConfigError with every error, each `file:line: text`.

    `environment` is what `${NAME}` means; `log_to` the default of a service's `log.to`.
    """
    loader = _Loader(environment, log_to)
    loader.read(path, None)
    absolute = os.path.abspath(path)
    init = tables.init(loader.once.get("init"))._replace(forward_signals=tuple(loader.forwarded))
    box = tables.container(loader.once["container"], absolute) if "container" in loader.once else None
    config = Config(absolute, init, tuple(loader.services.values()), box)
    if not loader.services and not loader.problems:
        loader.note(Origin(path, 1), 'expected at least one service, such as [services.app] with command = ["..."], found none')
    found = [*loader.problems, *check.services(config)]
    main = loader.once.get("init")
    found = [(main.at("main") if main and text.startswith("init.main:") else at, text) for at, text in found]
    if box is not None:
        found += check.container(box)
    if found:
        raise ConfigError(_lines(found, loader.files))
    return config


def _lines(found: list[tuple[Origin, str]], files: list[str]) -> list[str]:
    order = {file: number for number, file in enumerate(files)}
    ordered = sorted(dict.fromkeys(found), key=lambda row: (order.get(row[0].file, len(order)), row[0].line))
    return [f"{at}: {text}" if at.line else f"{at.file}: {text}" for at, text in ordered]


