"""What a config must hold as a whole: names that exist, no circle, images that are whole.

Owns the checks across tables and of the files on the host that a config names. Must not know TOML.
"""

import errno
import os
import stat
from _collections_abc import Callable

from pyinit.config import images
from pyinit.errors import hint
from pyinit.linux.programs import find_program
from pyinit.model import (
    FUSE,
    IMAGES,
    NOWHERE,
    SECRETS,
    Config,
    Container,
    Content,
    Layer,
    Mount,
    Origin,
    ServiceSpec,
    SocketSpec,
    root_of,
)
from pyinit.records import NamedTuple

_NAMES = {images.SQUASHFS: "squashfs", images.EROFS: "EROFS"}

Places = Callable[[str, str, str], Origin]


class Problem(NamedTuple):
    origin: Origin
    text: str


def services(config: Config, place: Places) -> list[Problem]:
    """References to services that are not there, and circles; the circle's first service gives the line.

    `place(service, key, word)` is where a word of a service's list stands, `place("", "main", word)` that of `[init]`.
    """
    from pyinit.config.processes import LOGGER  # a start from what was kept looks at images only
    from pyinit.core import graph

    names = [spec.name for spec in config.services]
    found = []
    for spec in config.services:
        for key in ("requires", "wants", "after", "before"):
            for other in getattr(spec, key):
                if key == "after" and spec.log.to == LOGGER + other:
                    continue  # told below, at its own line
                at = place(spec.name, key, other)
                if other not in names:
                    found.append(Problem(at, f"services.{spec.name}.{key}: there is no service {other}{_near(other, names)}"))
                elif other == spec.name:
                    found.append(Problem(at, f"services.{spec.name}.{key}: a service can't wait for itself; take it out"))
    found += _loggers(config, names)
    found += _collectors(config)
    found += _addresses(config)
    main = config.init.main
    if main and main not in names:
        found.append(Problem(place("", "main", main), f"init.main: there is no service {main}{_near(main, names)}"))
    cycle = graph.find_cycle(tuple(_without_self(spec) for spec in config.services))
    if cycle is not None:
        first = next(spec for spec in config.services if spec.name == cycle[0])
        found.append(Problem(first.origin, f"services wait for each other in a circle: {' -> '.join(cycle)}; remove one of these"))
    return found


def _loggers(config: Config, names: list[str]) -> list[Problem]:
    """Services that log to another one."""
    from pyinit.config.processes import LOGGER

    found = []
    specs = {spec.name: spec for spec in config.services}
    for spec in config.services:
        name = spec.log.to.removeprefix(LOGGER)
        if name == spec.log.to:
            continue
        at, key = spec.log.origin, f"services.{spec.name}.log.to"
        other = specs.get(name)
        if other is None:
            found.append(Problem(at, f"{key}: there is no service {name}{_near(name, names)}"))
        elif other is spec:
            found.append(Problem(at, f'{key}: a service can\'t be its own logger: expected another\'s name, or to = "file"'))
        elif other.kind != "service":
            found.append(Problem(at, f"{key}: {name} is a {other.kind}, which ends: expected a service that reads its standard input"))
        elif other.process.stdin != "logs" or other.process.tty:
            text = f"{key}: {name} reads these lines from its standard input, and has a stdin or tty of its own; take that out"
            found.append(Problem(at, text))
    return found


def _collectors(config: Config) -> list[Problem]:
    """Services that collect what comes to /dev/log, in a root whose /dev is another's."""
    if config.container is None or root_of(config.container) is None:
        return []
    text = 'the root is another\'s, and with it /dev/log; write to = "file"'
    return [Problem(spec.log.origin, f"services.{spec.name}.log.to: {text}") for spec in config.services if spec.log.to == "syslog"]


def _addresses(config: Config) -> list[Problem]:
    """Two that would listen on one address. A service that is not enabled may stand in for another."""
    found = []
    first: dict[tuple[str, str, int, str], tuple[str, SocketSpec]] = {}
    for spec in config.services:
        for one in spec.sockets if spec.enabled else ():
            if one.type == "inherited":
                continue
            kind = "" if one.path else one.type
            other, there = first.setdefault((kind, one.host, one.port, one.path), (spec.name, one))
            if there is one or (one.reuseport and there.reuseport):
                continue
            where = one.path or (f"[{one.host}]:{one.port}" if ":" in one.host else f"{one.host}:{one.port}")
            advice = "another path" if one.path else "another address, or reuseport = true for both"
            text = f"services.{spec.name}.sockets: {where} is {other}'s already ({there.origin}): expected {advice}"
            found.append(Problem(one.origin, text + ("; ${INSTANCE} may stand in it" if spec.template or "@" in spec.name else "")))
    return found


def _without_self(spec: ServiceSpec) -> ServiceSpec:
    keep = {key: tuple(n for n in getattr(spec, key) if n != spec.name) for key in ("requires", "wants", "after", "before")}
    return spec._replace(requires=keep["requires"], wants=keep["wants"], after=keep["after"], before=keep["before"])


def _near(name: str, names: list[str]) -> str:
    return hint(name, names) or f"; there are: {', '.join(names)}"


def container(box: Container) -> list[Problem]:
    """Layers and sources that are not there, or no whole images."""
    found: list[Problem] = []
    for layer in box.layers:
        if layer.oci:
            found += _layout(layer)
        elif not os.path.isdir(layer.path):
            found += _image(layer.path, layer.origin, "container.layers", (images.SQUASHFS, images.EROFS))
        elif layer.sha256:
            text = f"container.layers: {layer.path} is a folder, which has no digest; pin an image, or take @sha256:... out"
            found.append(Problem(layer.origin, text))
    for mount in box.mounts:
        found += _source(mount)
        for layer in mount.layers:
            if not os.path.isdir(layer.path):
                found += _image(layer.path, layer.origin, "container.mounts.layers", (images.SQUASHFS, images.EROFS))
        found += _contents([one.content for one in mount.files], "container.mounts.files")
        found += _contents([content for _, content in mount.secret_options], "container.mounts.secret_options")
    found += _contents([one.content for one in box.secrets], "container.secrets")
    found += _devices(box)
    if box.writable not in ("none", "tmpfs") and os.path.lexists(box.writable) and not os.path.isdir(box.writable):
        found.append(Problem(box.writable_origin, f"container.writable: expected a folder, found something else: {box.writable}"))
    return found


def targets(box: Container) -> list[Problem]:
    """Two mounts on one place: the second would hide the first. A writable path on a mount or in it: it is not of the root."""
    found = []
    for place in box.writable_paths:
        for mount in box.mounts:
            if place.path == mount.target or place.path.startswith(mount.target + "/"):
                text = f"container.writable_paths: {place.path} is hidden by the mount of {mount.target} at {mount.origin}; take one out"
                found.append(Problem(place.origin, text))
    fuse = [mount for mount in box.mounts if mount.type.startswith(FUSE)]
    for mount in box.mounts:
        for above in fuse:
            if mount.target.startswith(above.target + "/"):
                text = f"container.mounts: {mount.target} lies in {above.target}, which is mounted anew when its program ends; move one"
                found.append(Problem(mount.origin, text))
        if box.secrets and (SECRETS + "/").startswith(mount.target + "/") and mount.target != "/run":
            text = f"container.mounts: {mount.target} is where the secrets of {box.secrets_origin} are; move one"
            found.append(Problem(mount.origin, text))
    first: dict[str, Mount] = {}
    for mount in box.mounts:
        there = first.setdefault(mount.target, mount).origin
        if there != mount.origin and mount.target != "/":
            found.append(Problem(mount.origin, f"container.mounts: {mount.target} is the target of two mounts; the other is at {there}"))
    return found


def _contents(contents: list[Content], key: str) -> list[Problem]:
    """Files that can't be read, programs that are not there."""
    found = []
    for one in contents:
        if one.kind == "file" and not os.path.isfile(one.text):
            found.append(Problem(one.origin, f"{key}: expected a file on the host, found none: {one.text}"))
        if one.kind == "command" and one.command and not find_program(one.command[0], os.environ):
            found.append(Problem(one.origin, f"{key}: there is no program {one.command[0]} on the host; install it, or write its path"))
    return found


def _devices(box: Container) -> list[Problem]:
    """What is no device of the host."""
    found, key = [], "container.security.devices"
    for one in box.security.devices:
        try:
            mode = os.stat(one.path).st_mode
        except OSError as error:
            found.append(Problem(one.origin, f"{key}: {one.path}: {error.strerror}; load the module that it belongs to, or take it out"))
            continue
        if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
            what = "a folder" if stat.S_ISDIR(mode) else "something else"
            found.append(Problem(one.origin, f"{key}: expected a character or block device, found {what}: {one.path}"))
    return found


def _source(mount: Mount) -> list[Problem]:
    program = mount.type.removeprefix(FUSE)
    if program != mount.type and not find_program(program, os.environ):
        return [Problem(mount.origin, f"container.mounts.type: there is no program {program} on the host, which {mount.type} needs; install it")]
    at = mount.source_origin if mount.source_origin is not NOWHERE else mount.origin
    if mount.type in IMAGES and mount.source and not mount.source.startswith("image:"):
        return _image(mount.source, at, "container.mounts.source", (mount.type,))
    if mount.type == "bind" and mount.source and not mount.create and not os.path.exists(mount.source):
        return [Problem(at, f"container.mounts.source: {mount.source} is not there; make it, or write create = true")]
    return []


def _layout(layer: Layer) -> list[Problem]:
    """An image that is not there, or is not the one that is meant."""
    from pyinit.config import layouts  # for those who have one

    try:
        found = layouts.chosen(layer.path, layer.tag, os.uname().machine)
        layouts.manifest(layer.path, found)
        layouts.check_pin(layer.path, found, layer.sha256)
    except layouts.LayoutError as error:
        return [Problem(layer.origin, f"container.layers: {error}")]
    return []


def _image(path: str, origin: Origin, key: str, kinds: tuple[str, ...]) -> list[Problem]:
    """By its superblock."""
    wanted = " or ".join(_NAMES[kind] for kind in kinds)
    wanted = f"{'an' if wanted[0] == 'E' else 'a'} {wanted}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return [Problem(origin, f"{key}: {path} is not there; build or copy it (`pyinit build` makes images)")]
        return [Problem(origin, f"{key}: {path}: {error.strerror}")]
    try:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            return [Problem(origin, f"{key}: expected {wanted} file, found a folder: {path}")]
        head = os.read(fd, images.HEAD_BYTES)
        status = os.fstat(fd)
    except OSError as error:
        return [Problem(origin, f"{key}: {path}: {error.strerror}")]
    finally:
        os.close(fd)
    found = images.kind(head)
    if found not in kinds:
        what = f"an {_NAMES[found]} image" if found == images.EROFS else f"a {found} image" if found else "something else" if head else "an empty file"
        return [Problem(origin, f"{key}: expected {wanted} image, found {what}: {path}")]
    fault = images.fault(head, status.st_size if stat.S_ISREG(status.st_mode) else None)
    return [Problem(origin, f"{key}: {path} {fault}")] if fault else []
