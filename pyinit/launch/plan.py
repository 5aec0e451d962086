"""The plan of a launch: a config becomes the ordered operations that make its container. Pure.

Owns what is done and in which order. Must not know how: no syscall, no clock, no file is touched here.
Seccomp goes after "limit-capabilities" when it comes.
"""

import pyinit.launch.operations as ops
from pyinit.core.limits import controllers
from pyinit.model import FUSE, SECRETS, CgroupLimits, Config, Container, Mount, Origin
from pyinit.records import NamedTuple

_SERVER = f"{FUSE}squashfuse"
_SHARE_OF_MEMORY = 4  # of memory_max, for each RAM disk that nobody declared


class Plan(NamedTuple):
    """`host`: done by the launcher; `inside`: by its builder; `own`: by PID 1 itself; `built`: by the launcher, then."""

    host: tuple[ops.OnHost, ...]
    inside: tuple[ops.Inside, ...]
    own: tuple[ops.Own, ...]
    built: tuple[ops.WhenBuilt, ...] = ()

    def operations(self) -> tuple[ops.Operation, ...]:
        return self.host + self.inside + self.own + self.built

    def network_first(self) -> bool:
        """Whether PID 1 has to wait for the network: settings of its links, or of what is the default of later ones."""
        return any(isinstance(step, ops.MakeNetwork) for step in self.host) and any(
            isinstance(step, ops.SetSysctl) and step.path.startswith("net/") for step in self.inside
        )


def make(config: Config) -> Plan:
    """The plan of a config that has a `[container]`."""
    box = config.container
    assert box is not None
    host = _birth(box)  # first: Python takes longer to start than all that follows
    host += [ops.VerifyImage(layer.path, layer.sha256, layer.origin) for layer in box.layers if layer.sha256]
    mounts = _with_defaults(config, box)
    for mount in mounts:
        host += [ops.VerifyImage(layer.path, layer.sha256, layer.origin) for layer in mount.layers if layer.sha256]
        if mount.sha256:
            host.append(ops.VerifyImage(mount.source, mount.sha256, _first(mount.source_origin, mount.origin)))
    if box.writable not in ("none", "tmpfs"):
        host.append(ops.TakeFolder(box.writable, _first(box.writable_origin, box.origin)))
    host += [ops.TakeFolder(mount.writable, mount.origin) for mount in mounts if mount.writable not in ("none", "tmpfs")]
    if box.rootless:
        host += _served(box, mounts)
    for mount in mounts:
        host += _outside(mount)
    of_services = frozenset(name for spec in config.services for name in controllers(spec.cgroup))
    joins_pid = any(one.kind == "pid" for one in box.share)  # what is left is then killed by its group alone
    if "cgroup" in box.namespaces or box.cgroup != CgroupLimits() or of_services or joins_pid:
        host.append(ops.MakeCgroup(box.name, box.cgroup, _first(box.cgroup.origin, box.origin), of_services, config.init.strict))
    if box.network.mode == "veth":
        host.append(ops.MakeNetwork(box.network, link_name(box.name), box.network.origin))
    inside: list[ops.Inside] = [ops.Stage(box.origin)]
    inside += [ops.AttachLayer(index, layer.path, layer.origin) for index, layer in enumerate(box.layers)]
    inside += [ops.CheckRelease(index, layer.path, layer.origin) for index, layer in enumerate(box.layers) if index]
    inside.append(_root(box, mounts))
    inside += [ops.MakeWritable(number, place.path, place.origin) for number, place in enumerate(box.writable_paths)]
    inside += _kernel_mounts(box)
    inside += [ops.MountDeclared(mount, _first(mount.origin, box.origin)) for mount in mounts]
    inside.append(ops.HidePaths(box.security.masked_paths, box.security.readonly_paths, box.origin))
    if "uts" in box.namespaces:
        inside.append(ops.SetHostname(box.hostname, box.origin))
    inside += [ops.SetSysctl(one.name, one.path, one.value, one.origin) for one in box.sysctl]
    hooks = box.hooks
    built: list[ops.WhenBuilt] = [ops.NoteHook(one.command, hooks.timeout_s, one.origin) for one in hooks.poststop]
    built += [ops.RunHook(one.command, hooks.timeout_s, one.origin) for one in hooks.prestart]
    return Plan(tuple(host), tuple(inside), own(box), tuple(built))


def _birth(box: Container) -> list[ops.OnHost]:
    """PID 1 is born where it will be; what its ids are it is told then, for its namespace must be there."""
    users = ops.MapUsers(box.user_namespace, _first(box.user_namespace.origin, box.origin))
    found: list[ops.OnHost] = [users] if box.rootless else []  # the launcher's own, which all else is made in
    found += [ops.JoinNamespace(one, one.origin) for one in box.share]
    if "time" in box.namespaces:
        found.append(ops.SetClocks(box.time_offsets, _first(box.time_origin, box.origin)))
    found.append(ops.Isolate(box.namespaces, box.origin))
    if "user" in box.namespaces:
        found.append(users)
    return found


def _served(box: Container, mounts: list[Mount]) -> list[ops.OnHost]:
    """Each once, whoever needs it."""
    layers = [*box.layers, *(layer for mount in mounts for layer in mount.layers)]
    needed = {layer.path: layer.origin for layer in reversed(layers)}
    needed |= {mount.source: _first(mount.source_origin, mount.origin) for mount in mounts if mount.type == "squashfs"}
    return [ops.ConnectMount(Mount(_SERVER, path, path, origin=origin), origin, is_image=True) for path, origin in needed.items() if not path.startswith("image:")]


def shows_groups(box: Container) -> bool:
    """Whether the container sees its groups: not if they are masked, for their mount comes after the masks."""
    masked = any(("/sys/fs/cgroup/").startswith(path.rstrip("/") + "/") for path in box.security.masked_paths)
    return "cgroup" in box.namespaces and not masked


def own(box: Container) -> tuple[ops.Own, ...]:
    """PID 1's own steps. A mount of cgroup2 shows the group that its maker's namespace has as its root, so only PID 1 can make it."""
    flags = (ops.RO, ops.NOSUID, ops.NODEV, ops.NOEXEC)
    groups = [ops.MountKernel("cgroup2", "/sys/fs/cgroup", (), flags, box.origin)] if shows_groups(box) else []
    return (*groups, ops.Pivot(box.origin), ops.LimitCapabilities(box.security.capabilities, box.origin))


def _outside(mount: Mount) -> list[ops.Outside]:
    """What a mount needs of the host that can't be had from inside."""
    at = _first(mount.origin)
    found: list[ops.Outside] = [
        ops.TakeContent(mount.target, ops.FILE, one.name, one.content, _first(one.content.origin, at))
        for one in mount.files
        if one.content.kind != "text"
    ]
    found += [ops.TakeContent(mount.target, ops.OPTION, name, content, content.origin) for name, content in mount.secret_options]
    if mount.idmap:
        found.append(ops.MapIds(mount.target, mount.idmap, at))
    if mount.propagation != "private":
        found.append(ops.OpenTree(mount, at))
    if ops.is_elsewhere(mount):
        found.append(ops.ConnectMount(mount, at))
    return found


def link_name(name: str) -> str:
    """`ve-NAME`, as nspawn has it; a name too long for a link (15 bytes) keeps its head and a short sum of all."""
    if len(name) <= 12:
        return f"ve-{name}"
    total = 0
    for char in name:
        total = (total * 31 + ord(char)) % 16**5
    return f"ve-{name[:7]}{total:05x}"


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
    # Their pages count against memory_max and can't be taken back: full ones would have PID 1 killed in the end.
    size_bytes = box.cgroup.memory_max_bytes // _SHARE_OF_MEMORY
    defaults = [Mount("tmpfs", target, size_bytes=size_bytes, mode=mode) for target, mode in wanted if target not in declared]
    if box.secrets:
        flags = (ops.NOSUID, ops.NODEV, ops.NOEXEC)
        defaults.append(Mount("tmpfs", SECRETS, read_only=True, files=box.secrets, flags=flags, secret=True, origin=box.secrets_origin))
    # A parent before its child, whatever the file's order, else the parent hides it.
    return sorted([*defaults, *box.mounts], key=lambda mount: mount.target.rstrip("/").count("/"))


def _root(box: Container, mounts: list[Mount]) -> ops.MakeRoot:
    points = [ops.Point(path) for path in ("/proc", "/sys", "/dev", "/etc")]
    points += [ops.point(mount) for mount in mounts]
    points += [ops.Point(place.path) for place in box.writable_paths]
    hosts = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost"]
    own = box.network.address.partition("/")[0] or "127.0.1.1"
    hosts.append(f"{own}\t{box.hostname}")
    hosts += [f"{address}\t{name}" for name, address in box.network.hosts]
    files = [("/etc/hosts", "\n".join(hosts) + "\n"), ("/etc/hostname", box.hostname + "\n")]
    resolv = "".join(f"nameserver {server}\n" for server in box.network.dns)
    files.append(("/etc/resolv.conf", resolv))
    whole = box.writable != "none" and not box.writable_paths
    return ops.MakeRoot(
        len(box.layers), tuple(points), tuple(files), box.writable, whole, box.writable_size_bytes, box.writable_inodes, box.origin
    )


def _kernel_mounts(box: Container) -> list[ops.Inside]:
    at = box.origin
    strict = (ops.NOSUID, ops.NODEV, ops.NOEXEC)
    rows: list[ops.Inside] = [
        ops.MountKernel("proc", "/proc", (), strict, at),
        ops.MountKernel("sysfs", "/sys", (), (ops.RO, *strict), at),
        ops.MountKernel("tmpfs", "/dev", (("mode", "0755"), ("size", "64k")), (ops.NOSUID, ops.NOEXEC), at),
        ops.MakeDevices(at),
        ops.MountKernel("devpts", "/dev/pts", (("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")), (ops.NOSUID, ops.NOEXEC), at),
        ops.MountKernel("tmpfs", "/dev/shm", (("mode", "1777"), ("size", "64m")), strict, at),
    ]
    if "ipc" in (*box.namespaces, *(one.kind for one in box.share)):
        rows.append(ops.MountKernel("mqueue", "/dev/mqueue", (), strict, at))
    return rows
