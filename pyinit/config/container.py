"""`[init]` and `[container]`: tables become InitSpec and Container.

Owns the keys of both and their defaults. Must not know files on disk (load.py looks at them) or services.
"""

import os
import zlib

from pyinit.config import mounts, sources
from pyinit.config import namespaces as spaces
from pyinit.config import network as networks
from pyinit.config.decode import Table, show
from pyinit.config.hooks import hooks
from pyinit.config.nodes import devices
from pyinit.config.processes import capabilities, cgroup, rlimits
from pyinit.config.seccomp import wanted
from pyinit.config.sysctl import sysctl
from pyinit.model import (
    DEFAULT_CAPABILITIES,
    DEFAULT_MASKED_PATHS,
    DEFAULT_PROFILE,
    DEFAULT_READONLY_PATHS,
    Container,
    InitSpec,
    Network,
    Place,
    Seccomp,
    Security,
    Shared,
    guest_folder,
    is_name,
)

_GROUPS = "/sys/fs/cgroup"
_NOT_OF_THE_ROOT = ("/proc", "/sys", "/dev", "/run", "/tmp")
_NOT_IN_OVERLAYS = frozenset(":,\\")  # they part the options of its mount
_FEWEST_INODES = 16
_PREFIX_DIGITS = 3


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


def init_of_guest(found: InitSpec, table: Table | None, name: str) -> InitSpec:
    """Of a container that stands in another's root: what is by default the other's there is this one's own."""
    said = table.data if table is not None else {}
    folder = guest_folder(name)
    return found._replace(
        control_socket=found.control_socket if "control_socket" in said else f"{folder}/control.sock",
        state_dir=found.state_dir if "state_dir" in said else folder,
        log_dir=found.log_dir if "log_dir" in said else f"{folder}/log",
    )


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
    if table.has("hostname") and not networks.is_hostname(hostname):
        table.fault("hostname", f"expected up to 63 letters, digits, . or -, found {show(hostname)}")
    network = networks.network(table.table("network"))
    shared = _with_network(spaces.share(table), network, table)
    namespaces = spaces.namespaces(table, shared)
    spaces.refuse_of_a_root(table, shared, namespaces)
    writable = sources.writable(table, ("writable_size", "writable_inodes"))
    found = Container(
        name=name,
        hostname=hostname,
        layers=() if any(one.kind == "mount" for one in shared) else sources.layers(table),
        writable=writable,
        writable_size_bytes=table.size("writable_size"),
        writable_inodes=table.integer("writable_inodes", 0, _FEWEST_INODES, 2**31 - 1),
        writable_paths=_writable_paths(table, writable),
        writable_origin=table.at("writable"),
        namespaces=namespaces,
        mounts=tuple(mounts.mount(one) for one in table.tables("mounts")),
        cgroup=cgroup(table.table("cgroup")),
        network=network,
        security=_security(table.table("security")),
        orphan=table.boolean("orphan"),
        init=table.path_of("init"),
        origin=table.origin,
        secrets=mounts.secrets(table.table("secrets")),
        secrets_origin=table.at("secrets"),
        sysctl=sysctl(table.table("sysctl"), namespaces, network.mode),
        rlimits=rlimits(table.table("rlimits")),
        rlimits_origin=table.at("rlimits"),
        hooks=hooks(table.table("hooks")),
        share=shared,
        user_namespace=spaces.user_namespace(table.table("user_namespace")),
        time_offsets=spaces.time_offsets(table.table("time_offsets")),
        time_origin=table.at("time_offsets"),
    )
    shares_net = any(one.kind == "net" for one in shared)
    if shares_net and network.mode not in ("none", "netns"):
        table.fault("network", "the network is shared with somebody who has it; take this out, or net out of share")
    if network.mode != "host" and "net" not in namespaces and not shares_net:
        text = 'expected "net" among them, or [container.network] mode = "host": without it the network is the host\'s'
        table.fault("namespaces", text)
    table.close(("publish",))
    return found


def _with_network(shared: tuple[Shared, ...], network: Network, table: Table) -> tuple[Shared, ...]:
    """A given network namespace is one that is shared with who made it."""
    if not network.path:
        return shared
    if any(one.kind == "net" for one in shared):
        table.fault("share", 'the network is that of [container.network] path; take net out, or mode = "netns"')
        return shared
    return (*shared, Shared("net", "path", network.path, network.origin))


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


def _security(table: Table | None) -> Security:
    if table is None:
        return Security(seccomp=Seccomp(DEFAULT_PROFILE))
    found = Security(
        capabilities=capabilities(table, "capabilities", DEFAULT_CAPABILITIES),
        masked_paths=_paths(table, "masked_paths", DEFAULT_MASKED_PATHS),
        readonly_paths=_paths(table, "readonly_paths", DEFAULT_READONLY_PATHS),
        seccomp=wanted(table, DEFAULT_PROFILE),
        no_new_privileges=table.boolean("no_new_privileges"),
        devices=devices(table),
        devices_origin=table.at("devices"),
    )
    table.close()
    return found


def _paths(table: Table, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    if table.raw(key) == "default":
        return default
    paths = table.strings(key, default)
    for number, path in enumerate(paths):
        if not path.startswith("/"):
            table.fault(key, f"expected an absolute path, found {show(path)}", number)
        elif path.startswith(_GROUPS + "/"):
            table.fault(key, f"expected {_GROUPS}, which is read-only, or what is not in it, found {show(path)}", number)
    return paths
