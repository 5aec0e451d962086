"""From a file's path to a checked Config.

Owns the reading of config files and what is included. Must not know what a key means. Law: all errors of all files
are raised at once, in the order of files and lines; a config that is returned is whole.
"""

import os
from _collections_abc import Mapping

try:
    import tomli as toml  # line and column of a syntax error, in every version
except ModuleNotFoundError:  # a small image without packages
    import tomllib as toml  # type: ignore[no-redef]

from pyinit.config import check, devices
from pyinit.config import container as tables
from pyinit.config.decode import Document, Table
from pyinit.config.processes import LOGGER
from pyinit.config.seccomp import shown
from pyinit.config.services import Defaults, instances, service
from pyinit.config.source import positions
from pyinit.core.actions import END_OF_INPUT
from pyinit.errors import ConfigError
from pyinit.model import (
    DEFAULT_CAPABILITIES,
    UNCONFINED,
    Config,
    Container,
    Origin,
    Seccomp,
    ServiceSpec,
    StopStep,
    root_of,
)
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.config.cache import Witness
    from pyinit.config.profiles import Written

_MOST_FILES = 1000
_READS_ON_S = 2.0  # what a logger has, once its input has ended, before its own stop signals
_MAGIC = "*?["
_RELATIVE = "mend the path, which starts at this file's folder"


class _Loader:
    def __init__(self, environment: Mapping[str, str], log_to: str, kill: str, witness: "Witness | None") -> None:
        self.environment = environment
        self.witness = witness
        self.defaults = Defaults(log_to, kill)
        self.problems: list[tuple[Origin, str]] = []
        self.files: list[str] = []  # as named in messages, in the order of reading
        self.once: dict[str, Table] = {}  # "init" and "container", of whichever file has them
        self.services: dict[str, ServiceSpec] = {}
        self.tables: dict[str, Table] = {}  # of the services, for their lines
        self.templates: dict[str, Table] = {}  # by names that end in "@"
        self.groups: dict[str, tuple[str, ...]] = {}  # what stands for several instances
        self.forwarded: list[tuple[int, str]] = []

    def note(self, origin: Origin, text: str) -> None:
        self.problems.append((origin, text))

    def read(self, file: str, included_at: Origin | None) -> None:
        if included_at is None:
            root = self.root(file, Origin(file, 0), "", "name the config with --config FILE")
        else:
            root = self.root(file, included_at, f"include: {file}: ", _RELATIVE)
        if root is not None:
            self._take(root)

    def profile(self, wanted: Seccomp) -> Table | None:
        """The root of a profile of system calls."""
        file = shown(wanted.name, wanted.origin.file)
        return self.root(file, wanted.origin, f"seccomp: {file}: ", _RELATIVE)

    def root(self, file: str, where: Origin, what: str, advice: str) -> Table | None:
        """None if it can't be read: that is noted at `where`, between these words, or is no TOML: that is noted at its line."""
        self.files.append(file)
        try:
            with open(file, "rb") as source:
                content = source.read()
            if self.witness is not None:
                self.witness.read(file, content)
            text = content.decode("utf-8")
        except OSError as error:
            self.note(where, f"{what}{error.strerror}; {advice}")
            return None
        except UnicodeDecodeError as error:
            self.note(Origin(file, 1), f"expected UTF-8, found the byte {error.object[error.start]:#04x} at {error.start}")
            return None
        text = text.replace("\r\n", "\n")
        try:
            data = toml.loads(text)
            lines = positions(text)
        except RecursionError:
            self.note(Origin(file, 1), "lists and tables are nested too deeply to be a config; take them apart")
            return None
        except ValueError as error:  # TOMLDecodeError, or what Python says of a number with thousands of digits
            self.note(*_syntax(file, text, str(error)))
            return None
        return Table(Document(file, lines, self.problems, self.environment), (), data)

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
            self._add(name, table)
        root.close(("cluster", "web"))

    def _add(self, name: str, table: Table) -> None:
        there = self.tables.get(name) or self.templates.get(name)
        if there is not None:
            self.note(table.origin, f"services.{name} is defined twice; the other is at {there.origin}")
        elif name.endswith("@"):
            self.templates[name] = table
            service(f"{name}1", table, self.defaults)  # for its errors; "1" may stand in a port
        else:
            names = instances(name, table)
            if names != [name]:
                self.tables[name] = table
                self.groups[name] = tuple(names)
            for one in names:
                self._decode(one, table)

    def _decode(self, name: str, table: Table) -> None:
        if name in self.services:
            self.note(table.origin, f"services.{name} is defined twice; the other is at {self.services[name].origin}")
            return
        self.tables[name] = table
        self.services[name], signals = service(name, table, self.defaults)
        self.forwarded += [(number, name) for number in signals]

    def instantiate(self, names: tuple[str, ...]) -> None:
        """What others name, and these, made of the templates; what none makes is told by the check."""
        todo = [*names, *(other for spec in self.services.values() for other in _named(spec))]
        while todo:
            name = todo.pop(0)
            template = self.templates.get(f"{name.partition('@')[0]}@")
            if "@" in name and template is not None and name not in self.services and not name.endswith("@"):
                self._decode(name, template)
                todo += _named(self.services[name])

    def specs(self, box: Container | None, *, strict: bool) -> tuple[ServiceSpec, ...]:
        """All services, with what [init] and [container] say for each: in a container each has a cgroup of its own."""
        found = tuple(self._finished(name, spec, strict=strict) for name, spec in self.services.items())
        if box is not None and box.security.no_new_privileges:
            found = tuple(spec if "no_new_privileges" in self.tables[spec.name].data else _without_new_privileges(spec) for spec in found)
        if box is not None and box.rlimits:
            found = tuple(_limited(spec, box) for spec in found)
        loggers = {spec.log.to.removeprefix(LOGGER) for spec in found if spec.log.to.startswith(LOGGER)}
        return tuple(_as_logger(spec) if spec.name in loggers else spec for spec in found) if loggers else found

    def filtered(self, box: Container | None, specs: tuple[ServiceSpec, ...]) -> tuple[Container | None, tuple[ServiceSpec, ...]]:
        """With the programs of their profiles. `box`: the container that is made of this; in another's, or in none, a service has only its own."""
        if box is None and all(spec.process.seccomp.name == UNCONFINED for spec in specs):
            return box, specs
        from pyinit.config.profiles import Profiles  # for those who have any

        profiles = Profiles(os.uname().machine, self.profile, self.note)
        known: tuple[str, ...] = DEFAULT_CAPABILITIES
        if box is not None:
            known = box.security.capabilities
            own = box.security.seccomp
            own = own if own.origin.line else own._replace(origin=box.origin)
            own = profiles.compiled(own, known, comes_last=True)  # an init of the image has dropped it all
            box = box._replace(security=box.security._replace(seccomp=own))
        found = []
        for spec in specs:
            process = spec.process
            wanted = self._wanted(spec, box)
            has = known if process.capabilities is None else tuple(one for one in process.capabilities if box is None or one in known)
            made = profiles.compiled(wanted, has, comes_last=process.no_new_privileges)
            found.append(spec._replace(process=process._replace(seccomp=made)))
        return box, tuple(found)

    def _wanted(self, spec: ServiceSpec, box: Container | None) -> Seccomp:
        """What the service says itself, else the container."""
        own, data = spec.process.seccomp, self.tables[spec.name].data
        base = box.security.seccomp if box is not None else Seccomp()
        if "seccomp" not in data:
            own = base._replace(log=own.log, origin=own.origin) if "seccomp_log" in data else base
        elif "seccomp_log" not in data:
            own = own._replace(log=base.log)
        return own

    def _finished(self, name: str, spec: ServiceSpec, *, strict: bool) -> ServiceSpec:
        data = self.tables[name].data
        if "container" in self.once and "kill" not in data:
            spec = spec._replace(kill="cgroup")
        if "strict" not in data:
            spec = spec._replace(process=spec.process._replace(strict=strict))
        if spec.log.to.startswith(LOGGER):  # the lines' reader is there first, and last
            spec = spec._replace(after=(*spec.after, spec.log.to.removeprefix(LOGGER)))
        if not self.groups:
            return spec
        requires, wants, after, before = (
            tuple(one for other in others for one in self.groups.get(other, (other,)))
            for others in (spec.requires, spec.wants, spec.after, spec.before)
        )
        return spec._replace(requires=requires, wants=wants, after=after, before=before)

    def place(self, name: str, key: str, word: str) -> Origin:
        """Where a word of a service's list stands, or, without a service, the key of [init]."""
        table = self.tables[name] if name else self.once["init"]
        value = table.data[key]
        tail: tuple[int, ...] = ()
        if isinstance(value, list):
            for said in (word, word.partition("@")[0]):  # of a service with instances
                tail = tail or ((value.index(said),) if said in value else ())
        return table.document.origin((*table.path, key, *tail))

    def _include(self, root: Table, pattern: str, number: int) -> None:
        at = root.document.origin(("include", number))
        place = os.path.join(os.path.dirname(root.document.file), pattern)
        paths = [place]
        if set(pattern) & set(_MAGIC):
            import glob  # only for those who write a pattern

            if self.witness is not None:
                self.witness.searched(place)
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


def _limited(spec: ServiceSpec, box: Container) -> ServiceSpec:
    """With the container's limits, where it has none of its own.

    They are the services', and not set on PID 1, which all would inherit them from: it needs its own descriptors,
    processes and memory to go on, and a hard limit that it had lowered could not be raised again for a service that
    asks for more.
    """
    own = {name for name, _, _ in spec.process.rlimits}
    more = tuple(one for one in box.rlimits if one[0] not in own)
    places = tuple((f"rlimits.{name}", box.rlimits_origin) for name, _, _ in more)
    return spec._replace(process=spec.process._replace(rlimits=spec.process.rlimits + more, origins=spec.process.origins + places))


def _without_new_privileges(spec: ServiceSpec) -> ServiceSpec:
    return spec._replace(process=spec.process._replace(no_new_privileges=True))


def _named(spec: ServiceSpec) -> list[str]:
    logger = [spec.log.to.removeprefix(LOGGER)] if spec.log.to.startswith(LOGGER) else []
    return [*spec.requires, *spec.wants, *logger]


def _as_logger(spec: ServiceSpec) -> ServiceSpec:
    """Others log to it: it reads them from its standard input, and sees their end before it is told to stop."""
    if spec.process.stdin == "null":
        spec = spec._replace(process=spec.process._replace(stdin="logs"))
    return spec._replace(stop=(StopStep(END_OF_INPUT, _READS_ON_S), *spec.stop))


def load(
    path: str, environment: Mapping[str, str], *, log_to: str = "file", kill: str = "cgroup", on_host: bool = True,
    extra: tuple[str, ...] = (), witness: "Witness | None" = None,
) -> Config:  # fmt: skip
    """The config of `path` and what it includes; ConfigError with every error, each `file:line: text`.

    `environment` is what `${NAME}` means; `log_to` and `kill` are the defaults of a service's `log.to` and, where
    there is no [container], of its `kill`. `on_host`: the layers and sources of [container] must be there; they are
    not inside a container that another runtime made of the same file. `extra`: instances of templates that someone
    asked for, `worker@3`. `witness` is told what the config is made of.
    """
    loader = _Loader(environment, log_to, kill, witness)
    loader.read(path, None)
    loader.instantiate(extra)
    absolute = os.path.abspath(path)
    init = tables.init(loader.once.get("init"))._replace(forward_signals=tuple(loader.forwarded))
    box = tables.container(loader.once["container"], absolute) if "container" in loader.once else None
    if on_host and box is not None and root_of(box) is not None:
        init = tables.init_of_guest(init, loader.once.get("init"), box.name)
    specs = loader.specs(box, strict=init.strict)
    if on_host or box is None:
        box, specs = loader.filtered(box, specs)
    else:
        specs = loader.filtered(None, specs)[1]
    config = Config(absolute, init, specs, box, tuple(loader.templates))
    if not loader.services and not loader.templates and not loader.problems and not (box and box.init):
        loader.note(Origin(path, 1), 'expected at least one service, such as [services.app] with command = ["..."], found none')
    found = [*loader.problems, *check.services(config, loader.place)]
    if box is not None:
        found += check.targets(box)
        if on_host:
            found += check.container(box)
    if found:
        raise ConfigError(_lines(found, loader.files))
    return devices.numbered(config)


def profile_of(path: str, environment: Mapping[str, str]) -> "Written":
    """A profile of system calls by itself; ConfigError."""
    from pyinit.config.profiles import read  # for who asks for one

    loader = _Loader(environment, "", "", None)
    root = loader.root(path, Origin(path, 0), "", 'name a profile\'s file, or "default"')
    found = read(root) if root is not None else None
    if found is None or loader.problems:
        raise ConfigError(_lines(loader.problems, loader.files))
    return found


def _lines(found: list[tuple[Origin, str]], files: list[str]) -> list[str]:
    order = {file: number for number, file in enumerate(files)}
    ordered = sorted(dict.fromkeys(found), key=lambda row: (order.get(row[0].file, len(order)), row[0].line))
    return [f"{at}: {text}" if at.line else f"{at.file}: {text}" for at, text in ordered]


