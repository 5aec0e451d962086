"""`[init]` and `[container]`: tables become InitSpec and Container.

Owns the keys of both and their defaults. Must not know files on disk (load.py looks at them) or services.
"""

import os
import zlib

from pyinit.config.decode import Table, show
from pyinit.config.hooks import hooks
from pyinit.config.probes import is_address
from pyinit.config.processes import capabilities, cgroup, rlimits
from pyinit.config.sysctl import sysctl
from pyinit.errors import hint
from pyinit.model import (
    DEFAULT_CAPABILITIES,
    DEFAULT_MASKED_PATHS,
    DEFAULT_READONLY_PATHS,
    IMAGES,
    Container,
    InitSpec,
    Layer,
    Mount,
    Network,
    Place,
    Security,
    is_name,
)

NAMESPACES = ("pid", "mount", "uts", "ipc", "cgroup", "net")
_MOUNT_TYPES = ("squashfs", "erofs", "tmpfs", "bind")
_TYPES_LATER = ("overlay", "nfs", "nfs4", "9p", "cifs", "fuse.sshfs", "proc", "sysfs", "ext4")
_MOUNT_KEYS = {  # beside type, target and read_only
    "squashfs": ("source",),
    "erofs": ("source",),
    "tmpfs": ("size", "mode", "uid", "gid", "files"),
    "bind": ("source", "create", "mode", "uid", "gid"),
}
_RESERVED = ("/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")
_LINK_BYTES = 15
_NOT_OF_THE_ROOT = ("/proc", "/sys", "/dev", "/run", "/tmp")
_NOT_IN_OVERLAYS = frozenset(":,\\")  # they part the options of its mount
_FEWEST_INODES = 16
_DIGESTS = ("sha256", "sha512", "sha384", "sha224", "sha1", "md5")
_SHA256_DIGITS = 64


def init(table: Table | None) -> InitSpec:
    if table is None:
        return InitSpec()
    base = InitSpec()
    found = InitSpec(
        control_socket=table.path_of("control_socket"),
        state_dir=table.path_of("state_dir", base.state_dir),
        log_dir=table.path_of("log_dir", base.log_dir),
        stop_timeout_s=table.duration("stop_timeout", base.stop_timeout_s),
        exit=table.choice("exit", base.exit, ("on-signal", "when-all-exited", "when-main-exits")),
        main=table.string("main"),
        environment=table.pairs("environment"),
        environment_clear=table.boolean("environment_clear"),
        strict=table.boolean("strict"),
        stop_signals=table.signals("stop_signals"),
    )
    if found.exit == "when-main-exits" and not found.main:
        table.fault("exit", 'expected main = "NAME" beside it: the service whose exit code counts')
    table.close(("reexec", "web"))
    return found


def default_name(path: str) -> str:
    """The folder's name and a short sum of the file's absolute path."""
    folder = os.path.basename(os.path.dirname(path))
    kept = "".join(char if is_name("x" + char) else "-" for char in folder).strip("-.@")[:40] or "pyinit"
    return f"{kept}-{zlib.crc32(os.fsencode(path)) & 0xFFFFFF:06x}"


def container(table: Table, path: str) -> Container:
    """`path`: the main file's, absolute."""
    name = table.string("name", default_name(path))
    if not is_name(name) or "@" in name:
        table.fault("name", f"expected up to 63 letters, digits, _ . or -, found {show(name)}")
        name = default_name(path)
    hostname = table.string("hostname", name.replace("_", "-"))
    if table.has("hostname") and not _is_hostname(hostname):
        table.fault("hostname", f"expected up to 63 letters, digits, . or -, found {show(hostname)}")
    namespaces = _namespaces(table)
    network = _network(table.table("network"))
    writable = _writable(table)
    found = Container(
        name=name,
        hostname=hostname,
        layers=_layers(table),
        writable=writable,
        writable_size_bytes=table.size("writable_size"),
        writable_inodes=table.integer("writable_inodes", 0, _FEWEST_INODES, 2**31 - 1),
        writable_paths=_writable_paths(table, writable),
        writable_origin=table.at("writable"),
        namespaces=namespaces,
        mounts=tuple(_mount(one) for one in table.tables("mounts")),
        cgroup=cgroup(table.table("cgroup")),
        network=network,
        security=_security(table.table("security")),
        orphan=table.boolean("orphan"),
        init=table.path_of("init"),
        origin=table.origin,
        sysctl=sysctl(table.table("sysctl"), namespaces, network.mode),
        rlimits=rlimits(table.table("rlimits")),
        rlimits_origin=table.at("rlimits"),
        hooks=hooks(table.table("hooks")),
    )
    if network.mode != "host" and "net" not in namespaces:
        text = 'expected "net" among them, or [container.network] mode = "host": without it the network is the host\'s'
        table.fault("namespaces", text)
    table.close(("user_namespace", "publish"))
    return found


def _is_hostname(text: str) -> bool:
    return is_name(text) and not set(text) & {"_", "@"}


def _namespaces(table: Table) -> tuple[str, ...]:
    found = table.strings("namespaces", NAMESPACES)
    for position, name in enumerate(found):
        if name in ("user", "time"):
            table.fault("namespaces", f'"{name}" is not supported yet; take it out', position)
        elif name not in NAMESPACES:
            table.fault("namespaces", f"expected one of {', '.join(NAMESPACES)}, found {show(name)}", position)
    for name in ("pid", "mount"):
        if name not in found and table.has("namespaces"):
            table.fault("namespaces", f'expected "{name}" among them: there is no container without it')
    return tuple(dict.fromkeys(found))


def _layers(table: Table) -> tuple[Layer, ...]:
    paths = table.strings("layers")
    if not paths:
        missing = 'layers: expected a list of squashfs files or folders, such as ["base.squashfs"], found none'
        table.document.problems.append((table.origin, f"container.{missing}"))
    found = []
    for number, text in enumerate(paths):
        path, sha256 = _pinned(table, "layers", text, number)
        found.append(Layer(_absolute(table, path), table.document.origin((*table.path, "layers", number)), sha256))
    return tuple(found)


def _pinned(table: Table, key: str, text: str, *tail: int) -> tuple[str, str]:
    """A path and the digest after it: `base.squashfs@sha256:...`."""
    path, mark, word = text.rpartition("@")
    name, colon, digest = word.partition(":")
    if not mark or not colon or name not in _DIGESTS:
        return text, ""
    digest = digest.lower()
    if name != "sha256" or len(digest) != _SHA256_DIGITS or set(digest) - set("0123456789abcdef"):
        table.fault(key, f"expected @sha256: and its {_SHA256_DIGITS} hexadecimal digits, found {show(mark + word)}", *tail)
        return path, ""
    return path, digest


def _absolute(table: Table, path: str) -> str:
    """Relative paths are relative to the file that they stand in."""
    folder = os.path.dirname(os.path.abspath(table.document.file))
    return os.path.normpath(os.path.join(folder, path))


def _writable(table: Table) -> str:
    """The word, or an absolute folder: that is told from a misspelt word by its slash."""
    value = table.string("writable", "none", what='"none", "tmpfs" or a folder with a / in its path')
    if "/" in value:
        value = _absolute(table, value)
    elif value not in ("none", "tmpfs"):
        near = hint(value, ("none", "tmpfs"))
        table.fault("writable", f'expected "none", "tmpfs" or a folder with a / in its path, found {show(value)}{near}')
        return "tmpfs"  # what follows from it is no error of its own
    for key in ("writable_size", "writable_inodes"):
        if value != "tmpfs" and key in table.data:
            table.fault(key, 'only writable = "tmpfs" has it; write that, or take it out')
    return value


def _writable_paths(table: Table, writable: str) -> tuple[Place, ...]:
    """Folders of the root, none in another."""
    found: list[Place] = []
    for position, text in enumerate(table.strings("writable_paths")):
        path = os.path.normpath(text).replace("//", "/")
        over = next((one.path for one in found if _is_in(path, one.path) or _is_in(one.path, path)), "")
        disk = next((one for one in _NOT_OF_THE_ROOT if _is_in(path, one)), "")
        if not text.startswith("/") or path == "/" or ".." in text.split("/") or set(text) & _NOT_IN_OVERLAYS:
            wanted = "expected an absolute path below the root, without .. : , and \\"
            table.fault("writable_paths", f"{wanted}, found {show(text)}", position)
        elif disk:
            table.fault("writable_paths", f"{path} does not lie on the root: {disk} is mounted by itself; take it out", position)
        elif over:
            table.fault("writable_paths", f"{path} and {over} lie in one another; take one out", position)
        else:
            found.append(Place(path, table.document.origin((*table.path, "writable_paths", position))))
    if writable == "none" and table.has("writable_paths"):
        table.fault("writable_paths", 'expected writable = "tmpfs" or a folder beside it: where the changes go')
    return tuple(found)


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _mount(table: Table) -> Mount:
    kind = table.string("type")
    if kind in _TYPES_LATER:
        table.fault("type", f'{show(kind)} is not supported yet: expected "squashfs", "erofs", "tmpfs" or "bind"')
    elif kind not in _MOUNT_TYPES:
        _missing_or_wrong(table, "type", '"squashfs", "erofs", "tmpfs" or "bind"')
    target = _target(table)
    source, sha256 = _pinned(table, "source", table.string("source"))
    if sha256 and (kind not in IMAGES or source.startswith("image:")):
        what = "an image inside an image, which is pinned with that one" if kind in IMAGES else "no image"
        table.fault("source", f"a digest pins an image on the host, and this is {what}; take @sha256:... out")
    if kind in (*IMAGES, "bind") and not source:
        _missing_or_wrong(table, "source", "a path on the host")
    elif source and not (kind in IMAGES and source.startswith("image:")):
        source = _absolute(table, source)
    if kind in _MOUNT_KEYS:
        _check_keys(table, kind)
    found = Mount(
        type=kind,
        target=target,
        source="" if kind == "tmpfs" else source,
        read_only=table.boolean("read_only"),
        size_bytes=table.size("size"),
        mode=table.octal("mode", 0o755, 0o7777),
        uid=table.integer("uid", 0, 0, 2**32 - 2),
        gid=table.integer("gid", 0, 0, 2**32 - 2),
        create=table.boolean("create"),
        files=_files(table.table("files")),
        origin=table.origin,
        source_origin=table.at("source"),
        sha256=sha256,
    )
    table.close(("options",))
    return found


def _target(table: Table) -> str:
    text = table.path_of("target")
    target = os.path.normpath(text).replace("//", "/")  # POSIX keeps two slashes at the start
    if not table.has("target"):
        _missing_or_wrong(table, "target", "an absolute path in the container")
    elif text and (".." in text.split("/") or target in _RESERVED or target.startswith("/proc/")):
        table.fault("target", f"expected a place of its own below the root, without .., found {show(text)}")
    return target


def _check_keys(table: Table, kind: str) -> None:
    """A key of another type of mount would be ignored without a word."""
    own = _MOUNT_KEYS[kind]
    for key in table.data:
        if key not in own and any(key in keys for keys in _MOUNT_KEYS.values()):
            table.fault(key, f"{_a(kind)} has no such key; its keys are: type, target, read_only, {', '.join(own)}")
    if kind in IMAGES and not table.boolean("read_only", default=True):
        table.fault("read_only", f"{_a(kind)} is always read-only; take it out")


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "erofs" else f"a {kind}"


def _missing_or_wrong(table: Table, key: str, what: str) -> None:
    value = table.raw(key)
    if value is None:
        where = ".".join(str(part) for part in table.path if not isinstance(part, int))
        table.document.problems.append((table.origin, f"{where}: {key} is missing: expected {what}"))
    else:
        table.fault(key, f"expected {what}, found {show(value)}")


def _files(table: Table | None) -> tuple[tuple[str, str, int], ...]:
    """Names relative to the target: text, or a table of content and mode."""
    if table is None:
        return ()
    found = []
    for name, value in table.data.items():
        if not name or name.startswith("/") or ".." in name.split("/") or name.endswith("/") or "\0" in name:
            table.fault(name, "expected a name below the target, without ..")
        if isinstance(value, dict):
            inner = table.table(name)
            assert inner is not None
            if "content" not in value:
                table.fault(name, "expected a text, or content = ...; a name with a dot stands in quotes")
                continue
            found.append((name, inner.string("content"), inner.octal("mode", 0o644, 0o7777)))
            inner.close()
        else:
            found.append((name, table.string(name), 0o644))
    return tuple(found)


def _network(table: Table | None) -> Network:
    if table is None:
        return Network()
    mode = table.choice("mode", "none", ("none", "host", "veth"))
    found = Network(
        mode=mode,
        bridge=table.string("bridge"),
        address=table.string("address"),
        gateway=table.string("gateway"),
        dns=table.strings("dns"),
        hosts=_hosts(table),
        origin=table.origin,
    )
    for number, server in enumerate(found.dns):
        if not is_address(server):
            table.fault("dns", f"expected a numeric address, found {show(server)}", number)
    if mode == "veth":
        _check_veth(table, found)
    for key in ("bridge", "address", "gateway"):
        if mode != "veth" and key in table.data:
            table.fault(key, 'only mode = "veth" has it; write that, or take it out')
    table.close(("publish", "mtu", "mac", "ipv6", "firewall"))
    return found


def _check_veth(table: Table, network: Network) -> None:
    bridge = network.bridge
    if not (0 < len(bridge.encode()) <= _LINK_BYTES and is_name(bridge)):
        _missing_or_wrong(table, "bridge", f"a link's name of up to {_LINK_BYTES} letters")
    address, mark, prefix = network.address.partition("/")
    widest = 128 if ":" in address else 32
    if not (is_address(address) and mark and prefix.isascii() and prefix.isdigit() and int(prefix) <= widest):
        _missing_or_wrong(table, "address", 'an address with its prefix, such as "10.91.0.2/24"')
    elif network.gateway and not _in_network(network.gateway, address, int(prefix)):
        table.fault("gateway", f"expected an address in the network of {network.address}, found {show(network.gateway)}")


def _in_network(text: str, address: str, prefix: int) -> bool:
    """Whether both are of one family and share the first `prefix` bits."""
    import socket  # as is_address()

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        ours, theirs = (socket.inet_pton(family, one) for one in (address, text))
    except OSError:
        return False
    shift = 8 * len(ours) - prefix
    return int.from_bytes(ours, "big") >> shift == int.from_bytes(theirs, "big") >> shift


def _hosts(table: Table) -> tuple[tuple[str, str], ...]:
    inner = table.table("hosts")
    if inner is None:
        return ()
    found = []
    for name in inner.data:
        address = inner.string(name)
        if not is_address(address):
            inner.fault(name, f"expected a numeric address, found {show(inner.data[name])}")
        if not _is_hostname(name):
            inner.fault(name, "expected a host name of letters, digits, . and -")
        found.append((name, address))
    return tuple(found)


def _security(table: Table | None) -> Security:
    if table is None:
        return Security()
    if table.string("seccomp", "unconfined") != "unconfined":
        table.fault("seccomp", 'only "unconfined" is supported yet; take it out')
    found = Security(
        capabilities=capabilities(table, "capabilities", DEFAULT_CAPABILITIES),
        masked_paths=_paths(table, "masked_paths", DEFAULT_MASKED_PATHS),
        readonly_paths=_paths(table, "readonly_paths", DEFAULT_READONLY_PATHS),
    )
    table.close(("no_new_privileges",))
    return found


def _paths(table: Table, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    if table.raw(key) == "default":
        return default
    paths = table.strings(key, default)
    for number, path in enumerate(paths):
        if not path.startswith("/"):
            table.fault(key, f"expected an absolute path, found {show(path)}", number)
    return paths
