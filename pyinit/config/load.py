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
    def __init__(self, environment: Mapping[str, str], log_to: str, kill: str) -> None:
        self.environment = environment
        self.log_to = log_to
        self.kill = kill
        self.problems: list[tuple[Origin, str]] = []
        self.files: list[str] = []  # as named in messages, in the order of reading
        self.once: dict[str, Table] = {}  # "init" and "container", of whichever file has them
        self.services: dict[str, ServiceSpec] = {}
        self.tables: dict[str, Table] = {}  # of the services, for their lines
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
            what = f"include: {file}: {error.strerror}; mend the path, which starts at this file's folder" if included_at else f"{error.strerror}; name the config with --config FILE"
            self.note(where, what)
            return
        except UnicodeDecodeError as error:
            self.note(Origin(file, 1), f"expected UTF-8, found the byte {error.object[error.start]:#04x} at {error.start}")
            return
        text = text.replace("\r\n", "\n")
        try:
            data = toml.loads(text)
            lines = positions(text)
        except RecursionError:
            self.note(Origin(file, 1), "lists and tables are nested too deeply to be a config; take them apart")
            return
        except ValueError as error:  # TOMLDecodeError, or what Python says of a number with thousands of digits
            self.note(*_syntax(file, text, str(error)))
            return
        self._take(Table(Document(file, lines, self.problems, self.environment), (), data))

    def _take(self, root: Table) -> None:
        for number, pattern in enumerate(root.strings("include")):
            if pattern:
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
            self.tables[name] = table
            self.services[name], signals = service(name, table, log_to=self.log_to, kill=self.kill)
            self.forwarded += [(number, name) for number in signals]
        root.close(("cluster", "web"))

    def specs(self) -> tuple[ServiceSpec, ...]:
        """All services; in a container each has a cgroup of its own to be killed by, whatever the role's default."""
        if "container" not in self.once:
            return tuple(self.services.values())
        return tuple(
            spec if "kill" in self.tables[name].data else spec._replace(kill="cgroup")
            for name, spec in self.services.items()
        )

    def place(self, name: str, key: str, word: str) -> Origin:
        """Where a word of a service's list stands, or, without a service, the key of [init]."""
        table = self.tables[name] if name else self.once["init"]
        value = table.data[key]
        tail = (value.index(word),) if isinstance(value, list) and word in value else ()
        return table.document.origin((*table.path, key, *tail))

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


def _syntax(file: str, text: str, said: str) -> tuple[Origin, str]:
    """tomli says `... (at line 3, column 7)`, or `(at end of document)`."""
    what, _, where = said.rpartition(" (at ")
    words = where.rstrip(")").replace(",", "").split()
    if words[:1] == ["line"] and len(words) == 4:
        return Origin(file, int(words[1])), f"no valid TOML at column {words[3]}: {what[:1].lower()}{what[1:]}"
    if not what:
        return Origin(file, 1), f"no valid TOML: {said[:1].lower()}{said[1:]}"
    return Origin(file, text.count("\n") + 1), f"no valid TOML at its end: {what[:1].lower()}{what[1:]}"


def load(
    path: str, environment: Mapping[str, str], *, log_to: str = "file", kill: str = "cgroup", on_host: bool = True
) -> Config:
    """The config of `path` and what it includes; ConfigError with every error, each `file:line: text`.

    `environment` is what `${NAME}` means; `log_to` and `kill` are the defaults of a service's `log.to` and, where
    there is no [container], of its `kill`. `on_host`: the layers and sources of [container] must be there; they are
    not inside a container that another runtime made of the same file.
    """
    loader = _Loader(environment, log_to, kill)
    loader.read(path, None)
    absolute = os.path.abspath(path)
    init = tables.init(loader.once.get("init"))._replace(forward_signals=tuple(loader.forwarded))
    box = tables.container(loader.once["container"], absolute) if "container" in loader.once else None
    config = Config(absolute, init, loader.specs(), box)
    if not loader.services and not loader.problems and not (box and box.init):
        loader.note(Origin(path, 1), 'expected at least one service, such as [services.app] with command = ["..."], found none')
    found = [*loader.problems, *check.services(config, loader.place)]
    if box is not None:
        found += check.targets(box)
        if on_host:
            found += check.container(box)
    if found:
        raise ConfigError(_lines(found, loader.files))
    return config


def _lines(found: list[tuple[Origin, str]], files: list[str]) -> list[str]:
    order = {file: number for number, file in enumerate(files)}
    ordered = sorted(dict.fromkeys(found), key=lambda row: (order.get(row[0].file, len(order)), row[0].line))
    return [f"{at}: {text}" if at.line else f"{at.file}: {text}" for at, text in ordered]


