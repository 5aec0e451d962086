"""The plan of a launch: a config becomes the ordered operations that make its container. Pure.

Owns what is done and in which order. Must not know how: no syscall, no clock, no file is touched here.
"""

import pyinit.launch.onhost as on_host
import pyinit.launch.operations as ops
from pyinit.core.limits import controllers, size_text
from pyinit.model import (
    FUSE,
    LINKED,
    SECRETS,
    SLIRP,
    CgroupLimits,
    Config,
    Container,
    Mount,
    Origin,
    guest_folder,
    root_of,
)
from pyinit.records import NamedTuple

_SERVER = f"{FUSE}squashfuse"
# RAM disks count against memory_max and can't be taken back: full ones, also of empty files, would have PID 1 killed in the end.
_SHARE_OF_MEMORY = 8  # of memory_max, for each whose size nobody said
_BYTES_A_FILE, _FEWEST_FILES = 4096, 1024
_SHARED_BYTES = 64 << 20  # of /dev/shm, at most


class Plan(NamedTuple):
    """`host`: done by the launcher; `inside`: by its builder; `own`: by PID 1 itself; `built`: by the launcher, then."""

    host: tuple[on_host.OnHost, ...]
    inside: tuple[ops.Inside, ...]
    own: tuple[ops.Own, ...]
    built: tuple[on_host.WhenBuilt, ...] = ()

    def operations(self) -> tuple[ops.Operation, ...]:
        return self.host + self.inside + self.own + self.built

    def network_first(self) -> bool:
        """Whether PID 1 has to wait for the network: settings of its links, or of what is the default of later ones."""
        return any(isinstance(step, on_host.MakeNetwork) for step in self.host) and any(
            isinstance(step, ops.SetSysctl) and step.path.startswith("net/") for step in self.inside
        )


def make(config: Config) -> Plan:
    """The plan of a config that has a `[container]`."""
    box = config.container
    assert box is not None
    host = _birth(box)  # first: Python takes longer to start than all that follows
    host += [on_host.VerifyImage(layer.path, layer.sha256, layer.origin) for layer in box.layers if layer.sha256]
    mounts = _with_defaults(config, box) if root_of(box) is None else []
    for mount in mounts:
        host += [on_host.VerifyImage(layer.path, layer.sha256, layer.origin) for layer in mount.layers if layer.sha256]
        if mount.sha256:
            host.append(on_host.VerifyImage(mount.source, mount.sha256, _first(mount.source_origin, mount.origin)))
    net, link = box.network, link_name(box.name)
    if net.mode in LINKED:
        host.append(on_host.TakeAddress(net, box.name, link, net.origin))
    if box.writable not in ("none", "tmpfs"):
        host.append(on_host.TakeFolder(box.writable, _first(box.writable_origin, box.origin)))
    host += [on_host.TakeFolder(mount.writable, mount.origin) for mount in mounts if mount.writable not in ("none", "tmpfs")]
    if box.rootless:
        host += _served(box, mounts)
    for mount in mounts:
        host += _outside(mount)
    of_services = frozenset(name for spec in config.services for name in controllers(spec.cgroup))
    joins_pid = any(one.kind == "pid" for one in box.share)  # what is left is then killed by its group alone
    limits_devices = bool(box.security.devices) or "MKNOD" in box.security.capabilities  # else it has no others, and can make none
    if "cgroup" in box.namespaces or box.cgroup != CgroupLimits() or of_services or joins_pid or limits_devices:
        at = _first(box.cgroup.origin, box.origin)
        host.append(on_host.MakeCgroup(box.name, box.cgroup, at, of_services, config.init.strict, limits_devices))
    if limits_devices:
        host.append(on_host.LimitDevices(box.security.devices, _first(box.security.devices_origin, box.origin), config.init.strict))
    if net.mode in LINKED and (net.nat or net.publish or net.outbound is not None):
        host.append(on_host.MakeRules(net, box.name, link, net.origin))
    if net.mode in (*LINKED, SLIRP):
        host.append(on_host.MakeNetwork(net, box.name, link, net.origin))
    if net.mode in LINKED and on_host.at_loopback6(net):
        host.append(on_host.ForwardLoopback(net, link, net.origin))
    inside = _building(box, mounts) if root_of(box) is None else []
    if "uts" in box.namespaces:
        inside.append(ops.SetHostname(box.hostname, box.origin))
    inside += [ops.SetSysctl(one.name, one.path, one.value, one.origin) for one in box.sysctl]
    hooks = box.hooks
    built: list[on_host.WhenBuilt] = [on_host.NoteHook(one.command, hooks.timeout_s, one.origin) for one in hooks.poststop]
    built += [on_host.RunHook(one.command, hooks.timeout_s, one.origin) for one in hooks.prestart]
    return Plan(tuple(host), tuple(inside), (*own(box), *_filters(config, box)), tuple(built))


def _building(box: Container, mounts: list[Mount]) -> list[ops.Inside]:
    """The root and all that is mounted in it."""
    inside: list[ops.Inside] = [ops.Stage(box.origin)]
    inside += [ops.AttachLayer(index, layer.path, layer.origin) for index, layer in enumerate(box.layers)]
    inside += [ops.CheckRelease(index, layer.path, layer.origin) for index, layer in enumerate(box.layers) if index]
    inside.append(_root(box, mounts))
    inside += [ops.MakeWritable(number, place.path, place.origin) for number, place in enumerate(box.writable_paths)]
    inside += _kernel_mounts(box)
    inside += [ops.MakeDevice(one, _first(one.origin, box.origin)) for one in box.security.devices]
    inside += [ops.MountDeclared(mount, _first(mount.origin, box.origin)) for mount in mounts]
    inside.append(ops.HidePaths(box.security.masked_paths, box.security.readonly_paths, box.origin))
    if box.network.mode in LINKED:
        inside.append(ops.BindNames(box.name, box.network.origin))
    return inside


def _birth(box: Container) -> list[on_host.OnHost]:
    """PID 1 is born where it will be; what its ids are it is told then, for its namespace must be there."""
    users = on_host.MapUsers(box.user_namespace, _first(box.user_namespace.origin, box.origin))
    found: list[on_host.OnHost] = [users] if box.rootless else []  # the launcher's own, which all else is made in
    found += [on_host.JoinNamespace(one, one.origin) for one in box.share if one.kind != "mount"]
    if "time" in box.namespaces:
        found.append(on_host.SetClocks(box.time_offsets, _first(box.time_origin, box.origin)))
    found.append(on_host.Isolate(box.namespaces, box.origin, box.rootless))
    if "user" in box.namespaces:
        found.append(users)
    return found


def _served(box: Container, mounts: list[Mount]) -> list[on_host.OnHost]:
    """Each once, whoever needs it."""
    layers = [*box.layers, *(layer for mount in mounts for layer in mount.layers)]
    needed = {layer.path: layer.origin for layer in reversed(layers)}
    needed |= {mount.source: _first(mount.source_origin, mount.origin) for mount in mounts if mount.type == "squashfs"}
    return [on_host.ConnectMount(Mount(_SERVER, path, path, origin=origin), origin, is_image=True) for path, origin in needed.items() if not path.startswith("image:")]


def shows_groups(box: Container) -> bool:
    """Whether the container sees its groups: not if they are masked, for their mount comes after the masks, nor in another's root."""
    masked = any(("/sys/fs/cgroup/").startswith(path.rstrip("/") + "/") for path in box.security.masked_paths)
    return "cgroup" in box.namespaces and not masked and root_of(box) is None


def own(box: Container) -> tuple[ops.Own, ...]:
    """PID 1's own steps. A mount of cgroup2 shows the group that its maker's namespace has as its root, so only PID 1 can make it."""
    flags = (ops.RO, ops.NOSUID, ops.NODEV, ops.NOEXEC)
    groups = [ops.MountKernel("cgroup2", "/sys/fs/cgroup", (), flags, box.origin)] if shows_groups(box) else []
    return (ops.JoinKeyring(box.origin), *groups, _entry(box), ops.LimitCapabilities(box.security.capabilities, box.origin))


def _entry(box: Container) -> ops.Own:
    """How PID 1 comes to its root."""
    root = root_of(box)
    return ops.Pivot(box.origin) if root is None else on_host.JoinNamespace(root, root.origin, guest_folder(box.name))


def _filters(config: Config, box: Container) -> list[ops.FilterCalls]:
    """PID 1 does these for each process that it starts: the container's, and those of services that differ from it."""
    common = box.security.seccomp
    found = []
    if common.program:
        found.append(ops.FilterCalls(box.init or "every service", common, _first(common.origin, box.origin)))
    for spec in config.services:
        own = spec.process.seccomp
        if (own.name, own.log, own.program) != (common.name, common.log, common.program):
            found.append(ops.FilterCalls(spec.name, own, _first(own.origin, spec.origin)))
    return found


def _outside(mount: Mount) -> list[on_host.Outside]:
    """What a mount needs of the host that can't be had from inside."""
    at = _first(mount.origin)
    found: list[on_host.Outside] = [
        on_host.TakeContent(mount.target, on_host.FILE, one.name, one.content, _first(one.content.origin, at))
        for one in mount.files
        if one.content.kind != "text"
    ]
    found += [on_host.TakeContent(mount.target, on_host.OPTION, name, content, content.origin) for name, content in mount.secret_options]
    if mount.idmap:
        found.append(on_host.MapIds(mount.target, mount.idmap, at))
    if mount.propagation != "private":
        found.append(on_host.OpenTree(mount, at))
    if ops.is_elsewhere(mount):
        found.append(on_host.ConnectMount(mount, at))
    return found


def link_name(name: str) -> str:
    """`ve-NAME`, as nspawn has it; a name too long for a link (15 bytes) keeps its head and a sum of all: FNV-1a, of 32 bits."""
    if len(name) <= 12:
        return f"ve-{name}"
    total = 0x811C9DC5
    for char in name:
        total = (total ^ ord(char)) * 0x01000193 % (1 << 32)
    return f"ve-{name[:4]}{total:08x}"


def _first(*origins: Origin) -> Origin:
    return next((origin for origin in origins if origin.line), origins[-1])


def _with_defaults(config: Config, box: Container) -> list[Mount]:
    """The declared mounts, after /run, /tmp and, for log files on a read-only root, the log folder as tmpfs."""
    declared = {mount.target for mount in box.mounts}
    kept = (*declared, "/run", "/tmp", *(place.path for place in box.writable_paths))
    wanted = [("/run", 0o755), ("/tmp", 0o1777)]
    covered = any(config.init.log_dir == t or config.init.log_dir.startswith(t + "/") for t in kept)
    to_file = any(service.log.to in ("file", "syslog") for service in config.services)
    if to_file and not covered and (box.writable == "none" or box.writable_paths):
        wanted.append((config.init.log_dir, 0o755))
    defaults = [Mount("tmpfs", target, mode=mode) for target, mode in wanted if target not in declared]
    if box.secrets:
        flags = (ops.NOSUID, ops.NODEV, ops.NOEXEC)
        defaults.append(Mount("tmpfs", SECRETS, read_only=True, files=box.secrets, flags=flags, secret=True, origin=box.secrets_origin))
    # A parent before its child, whatever the file's order, else the parent hides it.
    return sorted([_bounded(one, box) for one in (*defaults, *box.mounts)], key=lambda mount: mount.target.rstrip("/").count("/"))


def _bounded(mount: Mount, box: Container) -> Mount:
    """A RAM disk of a size and a number of files that fit into memory_max."""
    if mount.type != "tmpfs" or mount.secret or not box.cgroup.memory_max_bytes:
        return mount
    said = {name for name, _ in mount.options}
    size_bytes = 0 if "nr_blocks" in said else mount.size_bytes or _share(box)
    files = () if "nr_inodes" in said else (("nr_inodes", str(_files(size_bytes))),)
    return mount._replace(size_bytes=size_bytes, options=(*mount.options, *files))


def _share(box: Container) -> int:
    return box.cgroup.memory_max_bytes // _SHARE_OF_MEMORY


def _files(size_bytes: int) -> int:
    """How many go into a RAM disk: as many as it has pages."""
    return max(size_bytes // _BYTES_A_FILE, _FEWEST_FILES)


def _root(box: Container, mounts: list[Mount]) -> ops.MakeRoot:
    points = [ops.Point(path) for path in ("/proc", "/sys", "/dev", "/etc")]
    points += [ops.point(mount) for mount in mounts]
    points += [ops.Point(place.path) for place in box.writable_paths]
    hosts = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost"]
    own = [address.partition("/")[0] for address in box.network.addresses] or ["127.0.1.1"]
    hosts += [f"{address}\t{box.hostname}" for address in own]
    hosts += [f"{address}\t{name}" for name, address in box.network.hosts]
    files = [("/etc/hosts", "\n".join(hosts) + "\n"), ("/etc/hostname", box.hostname + "\n")]
    resolv = "".join(f"nameserver {server}\n" for server in box.network.dns)
    files.append(("/etc/resolv.conf", resolv))
    whole = box.writable != "none" and not box.writable_paths
    size_bytes, inodes = box.writable_size_bytes, box.writable_inodes
    if box.writable == "tmpfs" and box.cgroup.memory_max_bytes:
        size_bytes = size_bytes or _share(box)
        inodes = inodes or _files(size_bytes)
    return ops.MakeRoot(len(box.layers), tuple(points), tuple(files), box.writable, whole, size_bytes, inodes, box.origin)


def _kernel_mounts(box: Container) -> list[ops.Inside]:
    at = box.origin
    strict = (ops.NOSUID, ops.NODEV, ops.NOEXEC)
    shared = min(_share(box) or _SHARED_BYTES, _SHARED_BYTES)
    rows: list[ops.Inside] = [
        ops.MountKernel("proc", "/proc", (), strict, at),
        ops.MountKernel("sysfs", "/sys", (), (ops.RO, *strict), at),
        ops.MountKernel("tmpfs", "/dev", (("mode", "0755"), ("size", "64k"), ("nr_inodes", "1k")), (ops.NOSUID, ops.NOEXEC), at),
        ops.MakeDevices(at),
        ops.MountKernel("devpts", "/dev/pts", (("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")), (ops.NOSUID, ops.NOEXEC), at),
        ops.MountKernel("tmpfs", "/dev/shm", (("mode", "1777"), ("size", size_text(shared).lower()), ("nr_inodes", str(_files(shared)))), strict, at),
    ]
    if "ipc" in (*box.namespaces, *(one.kind for one in box.share)):
        rows.append(ops.MountKernel("mqueue", "/dev/mqueue", (), strict, at))
    return rows
