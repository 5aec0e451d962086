"""What every export of a config has: the config for inside, the image's parts, and what is told as lost.

Owns what may leave this host. Must not know the formats (oci.py, runc.py, nspawn.py).
Laws: no secret and no value of a variable of the host is in an export: what has `${NAME}` goes in as it is written, or is
told and left out; each key of [container] is in the export or told in a line of its own; the services are as they were.
"""

import os
import platform
import tomllib
from _collections_abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pyinit.config import layouts
from pyinit.config.cache import Witness
from pyinit.config.load import load
from pyinit.config.source import Path, positions
from pyinit.control.places import runtime_dir
from pyinit.errors import UsageError
from pyinit.image import parts, pyz, toml
from pyinit.image.spec import DEFAULT_EPOCH, BuildError
from pyinit.launch import digests, stores
from pyinit.launch.onhost import VerifyImage
from pyinit.model import DEFAULT_PROFILE, IMAGES, UNCONFINED, Config, Container, Mount, Origin, root_of
from pyinit.records import Any, NamedTuple

INIT, CONFIG = "/usr/bin/pyinit", "/etc/pyinit/services.toml"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DIGESTS = ".digests"  # the launcher's memory of them
_PYTHONS = ("usr/bin/python3", "usr/local/bin/python3")
_POINTS = {"proc": 0o755, "sys": 0o755, "dev": 0o755, "run": 0o755, "tmp": 0o1777, "etc": 0o755}
_FOLDER = "etc/pyinit"  # of the config inside
_OF_SERVICES = ("rlimits", "security.no_new_privileges")
_OF_VARIABLES = "has ${NAME}: its value here is no export's"


class Asked(NamedTuple):
    """A config, as it is meant and as it is written; `lines`: of each key of [container], by its path."""

    config: Config
    box: Container
    written: dict[str, Any]
    file: str  # that has [container]
    lines: Mapping[Path, int]
    variables: tuple[str, ...]  # that it names, which whoever runs it has to give
    folders: Mapping[str, str]  # of the files that the services stand in

    def origin(self, *path: str | int) -> Origin:
        """Of a key of [container], or of what it stands in."""
        key: Path = ("container", *path)
        while key and key not in self.lines:
            key = key[:-1]
        return Origin(self.file, self.lines.get(key, 1))

    def raw(self, *path: str | int) -> Any:
        """A value of [container] as it is written; None if it is not."""
        found: Any = self.written["container"]
        for part in path:
            try:
                found = found[part]
            except (KeyError, IndexError, TypeError):
                return None
        return found

    def is_private(self, *path: str | int) -> bool:
        """Whether it has a value of the host's environment."""
        return _has_variable(self.raw(*path))


def ask(path: str, environment: Mapping[str, str]) -> Asked:
    """The config of a file, which has a [container]; ConfigError, UsageError, LaunchError."""
    witness = Witness()
    config = stores.resolved(load(path, environment, log_to="stdout", witness=witness))
    if config.container is None:
        raise UsageError(f"{path}: an export needs a [container] with the image's layers, and there is none")
    root = root_of(config.container)
    if root is not None:
        raise UsageError(f"{root.origin}: container.share: the root is another's ({root.what}), and an export has one of its own: export that one, or give this one layers")
    written: dict[str, Any] = {}
    services: dict[str, Any] = {}
    folders: dict[str, str] = {}
    file, lines = path, {}
    for name, data in witness.files.items():
        text = data.decode().replace("\r\n", "\n")
        found = tomllib.loads(text)
        own = found.pop("services", {})
        services |= own
        folders |= dict.fromkeys(own, os.path.dirname(os.path.abspath(name)))
        if "container" in found:
            file, lines = name, positions(text)
        written |= {key: value for key, value in found.items() if key in ("init", "container")}
    written |= {"services": services}
    return Asked(config, config.container, written, file, lines, tuple(dict.fromkeys(_variables({**written, "container": {}}))), folders)


def _has_variable(value: object) -> bool:
    return next(_variables(value), None) is not None


def _variables(value: object) -> Iterator[str]:
    """The names in `${NAME}` and `${NAME:-default}`."""
    if isinstance(value, str):
        for piece in value.split("${")[1:]:
            yield piece.partition("}")[0].partition(":-")[0]
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _variables(one)
    elif isinstance(value, list):
        for one in value:
            yield from _variables(one)


def inner_config(asked: Asked) -> str:
    """services.toml for inside: [init] and the services as they are written, and of [container] what the init heeds there."""
    box: dict[str, Any] = {}
    if (nnp := asked.raw("security", "no_new_privileges")) is not None:
        box["security"] = {"no_new_privileges": nnp}
    if (limits := asked.raw("rlimits")) is not None:
        box["rlimits"] = limits
    rows = [row for row in _inner_mounts(asked) if row is not None]
    if rows:
        box["mounts"] = rows
    written = {key: asked.written[key] for key in ("init", "services") if asked.written.get(key)}
    if box:
        written = {"container": {"layers": ["/"], **box}, **written}
    return toml.text(written)


def _inner_mounts(asked: Asked) -> list[dict[str, Any] | None]:
    return [_inner_mount(asked, number) for number in range(len(asked.raw("mounts") or []))]


def _inner_mount(asked: Asked, number: int) -> dict[str, Any] | None:
    """A RAM disk with what the init writes into it: texts, and what comes from its own environment."""
    row = asked.raw("mounts", number)
    files = {name: one for name, one in (row.get("files") or {}).items() if _is_inner(one)}
    if row.get("type") != "tmpfs" or not files:
        return None
    return {key: value for key, value in row.items() if key in ("type", "target", "mode", "uid", "gid")} | {"files": files}


def _is_inner(content: object) -> bool:
    return isinstance(content, str) or (isinstance(content, Mapping) and not {"file", "command"} & set(content))


Why = Callable[[tuple[str | int, ...]], str]


def lost(asked: Asked, kept: tuple[str, ...], why: Why) -> list[str]:
    """A line for each key of [container] that is not in an export: `why(path)` says what stands for it there.

    `kept`: keys as "network.mode", "mounts" means that `why` is asked about each of them, and "" is nothing lost.
    """
    found = []
    for path in _keys(asked.raw()):
        name = ".".join(str(part) for part in path if not isinstance(part, int))
        if name in _OF_SERVICES and not asked.box.init:
            continue  # inside as it is written
        reason = "" if name in kept and not asked.is_private(*path) else _OF_VARIABLES if name in kept else why(path)
        if reason:
            shown = "container" + "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in path)
            found.append(f"{asked.origin(*path)}: {shown}: {reason}")
    found += [f"{asked.file}: ${{{name}}}: its value is not in the export: give it to what runs that, as a variable" for name in _of_inside(asked)]
    return found


def _of_inside(asked: Asked) -> list[str]:
    rows = [row for row in _inner_mounts(asked) if row is not None]
    own = [*asked.variables, *_variables(rows), *_variables(asked.raw("rlimits")), *_variables(asked.raw("security", "no_new_privileges"))]
    return sorted({name for name in own if name != "INSTANCE"})


_TABLES = ("network", "security", "cgroup", "hooks", "secrets", "sysctl")


def _keys(table: Mapping[str, Any]) -> Iterator[tuple[str | int, ...]]:
    for key, value in table.items():
        if key in _TABLES and isinstance(value, Mapping):
            yield from ((key, inner) for inner in value)
        elif key == "mounts":
            yield from ((key, number) for number in range(len(value)))
        elif key in ("layers", "name"):
            continue  # the one is the export, the other its name
        else:
            yield (key,)


def is_layer(asked: Asked, number: int) -> bool:
    """Whether it is an image of the host, which becomes a layer of the export."""
    one = asked.box.mounts[number]
    return one.type in IMAGES and not one.source.startswith("image:") and not asked.is_private("mounts", number, "target")


def files_lost(asked: Asked, number: int) -> str:
    """Of a RAM disk: which files nobody writes inside; "" if all are."""
    names = [name for name, one in (asked.raw("mounts", number, "files") or {}).items() if not _is_inner(one)]
    return f"{', '.join(names)} of it is what this host has: put it there yourself" if names else ""


@contextmanager
def layers(asked: Asked, environment: Mapping[str, str]) -> Iterator[list[parts.Part]]:
    """The parts of the image, lowest first, the last with pyinit, the config and the places that mounts need; BuildError.

    LaunchError for a pinned image that is another.
    """
    said = environment.get("SOURCE_DATE_EPOCH", "")
    if said and not (said.isascii() and said.isdigit() and int(said) < 2**32):
        raise UsageError(f"$SOURCE_DATE_EPOCH: expected seconds since 1970, found {said}")
    for path, sha256, at in _pinned(asked.box):
        digests.verify(VerifyImage(path, sha256, at), f"{runtime_dir()}/{_DIGESTS}")
    mounts = sorted((one for number, one in enumerate(asked.box.mounts) if is_layer(asked, number)), key=lambda one: one.target.count("/"))
    places = [(layer.path, "/") for layer in asked.box.layers] + [(one.source, one.target) for one in mounts]
    with parts.opened(places, int(said) if said else None) as found:
        below = {path: entry for path, (_, entry) in parts.merged(found).items()}
        yield [*found, _own(asked, below, int(said) if said else DEFAULT_EPOCH)]


def _pinned(box: Container) -> list[tuple[str, str, Origin]]:
    rows = [(layer.path, layer.sha256, layer.origin) for layer in box.layers]
    rows += [(one.source, one.sha256, one.source_origin) for one in box.mounts]
    return [row for row in rows if row[1]]


def _own(asked: Asked, below: dict[str, Any], epoch: int) -> parts.Part:
    own = program(asked)
    files = {} if own else {INIT[1:]: (0o755, pyz.make(epoch)), CONFIG[1:]: (0o644, inner_config(asked).encode()), **_profiles(asked)}
    if not own and not any(path in below for path in _PYTHONS):
        raise BuildError(f"{asked.box.origin}: the image has no /usr/bin/python3, which {INIT} needs: add python3-minimal and libpython3.11-stdlib to it")
    folders = dict(_POINTS)
    for number, one in enumerate(asked.box.mounts):
        if not is_layer(asked, number) and not asked.is_private("mounts", number, "target") and _is_folder(one):
            folders[one.target.strip("/")] = one.mode
    for path in [path for path in folders if _is_in_symlink(path, below)]:
        del folders[path]  # /run of some is /var/run's; the runtime mounts where that leads
    return parts.made(files, folders, epoch, below)


def _profiles(asked: Asked) -> dict[str, tuple[int, bytes]]:
    """Of system calls, which services name by a path from their file's folder on; BuildError for one that lies elsewhere."""
    found: dict[str, tuple[int, bytes]] = {}
    for name, row in asked.written["services"].items():
        said = row.get("seccomp", UNCONFINED)
        if said in (UNCONFINED, DEFAULT_PROFILE):
            continue
        inside = os.path.normpath(said)
        if inside.startswith(("/", "..")) or _has_variable(said):
            raise BuildError(f"{asked.config.path}: services.{name}.seccomp: {said} lies elsewhere than the config: put it beside that")
        content = (0o644, b"".join(parts.pieces(f"{asked.folders[name]}/{inside}")))
        if found.setdefault(f"{_FOLDER}/{inside}", content) != content:
            raise BuildError(f"{asked.config.path}: services.{name}.seccomp: {said} is another file than another service's: give it another name")
    return found


def program(asked: Asked) -> str:
    """The image's own init; "" for ours."""
    return "" if asked.is_private("init") else asked.box.init


def _is_folder(one: Mount) -> bool:
    return one.type != "bind" or not os.path.isfile(one.source)


def _is_in_symlink(path: str, below: dict[str, Any]) -> bool:
    while path:
        if path in below and below[path].kind != "folder":
            return True
        path = path.rpartition("/")[0]
    return False


def log_folder(asked: Asked) -> str:
    """Where a RAM disk has to be for files of logs, as a launcher would make one; "" for none."""
    box, folder = asked.box, asked.config.init.log_dir
    if box.init or not any(spec.log.to in ("file", "syslog") for spec in asked.config.services):
        return ""
    if (box.writable != "none" and not box.writable_paths) or _has_variable(asked.written.get("init", {}).get("log_dir")):
        return ""
    places = ("/run", "/tmp", *(one.target for one in box.mounts))
    return "" if any(folder == one or folder.startswith(f"{one}/") for one in places) else folder


def entrypoint(asked: Asked) -> list[str]:
    """What runs as PID 1."""
    own = program(asked)
    return [own] if own else [INIT, "--config", CONFIG]


def architecture() -> str:
    """As OCI has it."""
    return layouts.ARCHITECTURES.get(platform.machine(), platform.machine())


@contextmanager
def place(path: str) -> Iterator[str]:
    """A new folder that is at `path` once it is whole; BuildError if something is there."""
    if os.path.lexists(path):
        raise BuildError(f"{path} is there already: remove it, or name another place with --output")
    new = f"{path}.new"
    from pyinit.image import tree  # for its removal

    tree.remove(new)  # of one that was killed
    try:
        os.makedirs(new)
        yield new
        os.rename(new, path)
    except OSError as error:
        raise BuildError(f"{error.filename or path}: {error.strerror}") from error
    finally:
        tree.remove(new)
