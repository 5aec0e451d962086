"""What this host can do, what a config needs of it, and for each lack the reason and what mends it.

Owns the probes. Must not know how a container is made (plan.py, apply.py), which asks for `diagnosis`. Laws: a probe
tries the thing itself where that leaves no trace, in a child and in namespaces of its own; it changes nothing on the
host; what can't be found out is said to be unknown, and is no lack.
"""

import errno
import os
from _collections_abc import Callable

from pyinit.core.limits import controllers
from pyinit.errors import LaunchError
from pyinit.launch import firewall, network, rules, users
from pyinit.launch.explain import of_image, of_mount
from pyinit.launch.start import NEEDED_CAPABILITIES, is_rootless
from pyinit.linux import addresses, bpf, caps, cgroup, landlock, mount, namespaces, process
from pyinit.linux.programs import find_program
from pyinit.model import LINKED, SLIRP, Config, Container, Network, Origin, root_of
from pyinit.records import NamedTuple

OLDEST_KERNEL = (5, 14)
_SYSCTLS = (  # what keeps ordinary users from user namespaces: (file, the value that does, what it is, one that does not)
    ("/proc/sys/user/max_user_namespaces", "0", "no user namespaces are allowed at all", "10000"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "only root may make user namespaces", "1"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor takes the capabilities in user namespaces away", "0"),
)
_FILESYSTEMS = ("squashfs", "erofs", "overlay", "tmpfs", "fuse")
_LOOP_CTL_GET_FREE = 0x4C82
_PR_GET_SECCOMP = 21
_SINCE = {"openat2": (5, 6), "mount_setattr": (5, 12)}  # the other calls of the new mount API: 5.2
_V1_NAMES = {"io": "blkio"}
_RTM_NEWLINK, _IFINFOMSG, _IFLA_LINKINFO, _IFLA_INFO_KIND = 16, 16, 18, 1
_NEW = 0x1 | 0x4 | 0x200 | 0x400  # NLM_F_REQUEST, ACK, EXCL, CREATE
_KILL = 9
_FAMILIES = {32: "IPv4", 128: "IPv6"}  # by the bits of an address
_LATE = 99  # an exit code for what did not end as errno can tell


class Finding(NamedTuple):
    """`state` is "ok", "lack" or "unknown"; `found` is what there is, `reason` and `fix` belong to a lack."""

    subject: str
    state: str
    found: str = ""
    reason: str = ""
    fix: str = ""

    def text(self) -> str:
        """Without the subject."""
        return "; ".join(word for word in (self.found, self.reason, self.fix) if word)


class Need(NamedTuple):
    """What a line of a config needs of the host."""

    subject: str
    origin: Origin
    what: str


def examine(subjects: tuple[str, ...] | None = None) -> list[Finding]:
    """All there is to find out, or what is known of `subjects`."""
    wanted = SUBJECTS if subjects is None else subjects
    return [_PROBES[subject.partition(" ")[0]](subject) for subject in wanted if subject.partition(" ")[0] in _PROBES]


def needs(config: Config) -> list[Need]:
    """Of a checked config; each subject is one of SUBJECTS, or a file system or program of its own."""
    found: list[Need] = []
    box = config.container
    if box is not None:
        found.append(Need("kernel", box.origin, "a container"))
        found += _of_a_user(box) if is_rootless(box) else _of_root(box)
        for entry in box.mounts:
            found += [Need(subject, entry.origin, f"the mount on {entry.target}") for subject in of_mount(entry)]
        found += [Need(f"cgroup {name}", box.cgroup.origin, "[container.cgroup]") for name in sorted(controllers(box.cgroup))]
        if box.security.devices or "MKNOD" in box.security.capabilities:
            at = box.security.devices_origin
            found.append(Need("cgroup devices", at if at.line else box.origin, "[container.security] devices"))
        if box.network.mode in LINKED:
            what = f"a {box.network.mode}"
            links = "network macvlan" if box.network.mode == "macvlan" else "network"
            found += [Need(subject, box.network.origin, what) for subject in (links, "capability NET_ADMIN")]
            found += _of_rules(box.network)
        if box.network.mode == SLIRP:
            found += [Need(subject, box.network.origin, "its network") for subject in ("tun", "program slirp4netns")]
        if box.security.seccomp.program:
            found.append(Need("seccomp", box.security.seccomp.origin, "the filter of system calls"))
    for spec in config.services:
        if spec.process.seccomp.program and (box is None or spec.process.seccomp.origin != box.security.seccomp.origin):
            found.append(Need("seccomp", spec.process.seccomp.origin, f"the filter of {spec.name}"))
        found += [Need(f"cgroup {name}", spec.cgroup.origin, f"the limits of {spec.name}") for name in sorted(controllers(spec.cgroup))]
        if spec.process.oom_score_adj is not None and spec.process.oom_score_adj < 0:
            at = dict(spec.process.origins).get("oom_score_adj", spec.origin)
            found.append(Need("capability SYS_RESOURCE", at, f"oom_score_adj of {spec.name}"))
        if spec.process.landlock is not None:
            found.append(Need("landlock", dict(spec.process.origins).get("landlock", spec.origin), f"landlock of {spec.name}"))
    return list(dict.fromkeys(found))


def _of_rules(net: Network) -> list[Need]:
    found = []
    if rules.are_wanted(net):
        found.append(Need("nft", net.origin, "NAT, a published port or a policy"))
    if rules.wants_forwarding(net) and not net.forwarding:
        families = sorted({addresses.bits_of(one.partition("/")[0]) for one in net.addresses or net.pools})
        found += [Need(f"forwarding {_FAMILIES[bits]}", net.origin, "NAT or a published port") for bits in families]
    if net.outbound is not None:
        found.append(Need("br_netfilter", net.origin, "outbound"))
    return found


def _of_root(box: Container) -> list[Need]:
    found = [Need("capabilities", box.origin, "a container")]
    found += [Need(f"namespace {name}", box.origin, f"the namespace {name}") for name in box.namespaces]
    if root_of(box) is None:
        found.append(Need("filesystem overlay", box.origin, "the root"))
    for layer in box.layers:
        found += [Need(subject, layer.origin, layer.path) for subject in of_image(layer.path)]
    if "user" in box.namespaces:
        at = box.user_namespace.origin if box.user_namespace.origin.line else box.origin
        found.append(Need("idmap", at, "an image of the container's own"))
        found += [Need("subids", at, 'map = "auto"')] if box.user_namespace.map == "auto" else []
    return found


def _of_a_user(box: Container) -> list[Need]:
    """What is made in a user namespace needs no privilege; without ranges root is alone there."""
    found = [Need("userns", box.origin, "a container of an ordinary user")]
    for layer in box.layers:
        if of_image(layer.path):
            found += [Need(subject, layer.origin, layer.path) for subject in ("fuse", "program squashfuse")]
    users = box.user_namespace
    if users.origin.line and users.map != "single":
        found.append(Need("program newuidmap", users.origin, "a map of ranges"))
        found += [Need("subids", users.origin, 'map = "auto"')] if users.map == "auto" else []
    return found


def diagnosis(subjects: tuple[str, ...]) -> str:
    """Why an operation that needs these has failed, as `doctor` says it; "" if nothing of them lacks."""
    lacks = [finding for finding in examine(subjects) if finding.state == "lack"]
    reasons = [finding for finding in lacks if finding.subject == "userns"] or lacks  # without it nothing else can be had
    return "; ".join(f"{finding.subject}: {finding.text()}" for finding in reasons)


# Probes: each takes its subject, which may have a second word


def _version() -> tuple[int, ...]:
    numbers = tuple(int(word) for word in os.uname().release.split("-")[0].split(".")[:2] if word.isdigit())
    return numbers if len(numbers) == 2 else (99,)  # of a shape that we don't know: no lack


def _kernel(subject: str) -> Finding:
    release = os.uname().release
    if _version() < OLDEST_KERNEL:
        wanted = ".".join(map(str, OLDEST_KERNEL))
        return Finding(subject, "lack", release, f"cgroup.kill of {wanted} is used", f"run a kernel of {wanted} or newer")
    return Finding(subject, "ok", release)


def _mount_api(subject: str) -> Finding:
    """What refuses the new API is no lack: mount(2) makes the same container, but for mapped ids."""
    mounts, walks = mount.refused_mounts(), mount.refused_walks()
    if mounts is not None and mounts.errno == errno.EPERM and not caps.has("SYS_ADMIN"):
        return Finding(subject, "unknown", "only root can try")
    if mounts is not None:
        return Finding(subject, "ok", f"the old one, mount(2): {_why_refused(mounts)}")
    return Finding(subject, "ok", "the new one" + (f", but for one call: {_why_refused(walks)}" if walks else ""))


def _why_refused(found: mount.Refusal) -> str:
    since = _SINCE.get(found.call, (5, 2))
    if found.errno == errno.ENOSYS and _version() < since:
        return f"{found.call} came with kernel {since[0]}.{since[1]}, this one is older"
    return f"{found.call} is refused by a seccomp filter ({os.strerror(found.errno)})"


def _capabilities(subject: str) -> Finding:
    missing = [name for name in NEEDED_CAPABILITIES if not caps.has(name)]
    if missing:
        return Finding(subject, "lack", "", f"CAP_{' CAP_'.join(missing)} missing", "run pyinit as root")
    return Finding(subject, "ok", "those that a container takes")


def _capability(subject: str) -> Finding:
    name = subject.partition(" ")[2]
    if caps.has(name):
        return Finding(subject, "ok")
    if os.geteuid() != 0:
        return Finding(subject, "lack", "", "this process lacks it", "run pyinit as root")
    return Finding(subject, "lack", "", "root lacks it here: it was taken away by what started us", f"give it CAP_{name} (docker: --cap-add {name})")


def _namespace(subject: str) -> Finding:
    name = subject.partition(" ")[2]
    number = _try(lambda: namespaces.unshare(namespaces.CLONE_FLAGS[name]))
    if not number:
        return Finding(subject, "ok")
    if number == errno.EINVAL:
        return Finding(subject, "lack", "", "this kernel was built without it", "run one that has it, or take it out of namespaces")
    if number in (errno.ENOSPC, errno.EUSERS):
        return Finding(subject, "lack", "", f"user.max_{'mnt' if name == 'mount' else name}_namespaces is reached", "raise it by sysctl")
    fix = "run pyinit as root" if os.geteuid() else "a seccomp filter or a security module forbids it: loosen what started us"
    return Finding(subject, "lack", "", os.strerror(number), fix)


def _filesystem(subject: str) -> Finding:
    """fsopen(2) also loads the module."""
    name = subject.partition(" ")[2]
    number = _try(lambda: mount.probe_filesystem(name))
    if not number:
        return Finding(subject, "ok")
    if number == errno.ENODEV:
        return Finding(subject, "lack", "", "this kernel has it neither built in nor as a module", f"load or install the module {name}")
    if number == errno.EPERM and f"\t{name}\n" in _read("/proc/filesystems"):
        return Finding(subject, "unknown", "the kernel has it; only root can try")
    fix = "run pyinit as root" if os.geteuid() else "a seccomp filter or a security module forbids it: loosen what started us"
    return Finding(subject, "lack", "", os.strerror(number), fix)


def _loop(subject: str) -> Finding:
    def get_free() -> None:
        import fcntl  # in the child

        fd = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, _LOOP_CTL_GET_FREE)

    number = _try(get_free)
    if not number:
        return Finding(subject, "ok")
    if number == errno.ENOENT:
        return Finding(subject, "lack", "", "/dev/loop-control is not there", "load the module loop, or pass the device into this container")
    return Finding(subject, "lack", "", f"/dev/loop-control: {os.strerror(number)}", "allow the devices c 10:237 and b 7:* here, as root")


def _fuse(subject: str) -> Finding:
    if not os.path.exists("/dev/fuse"):
        return Finding(subject, "lack", "", "/dev/fuse is not there", "load the module fuse, or pass the device into this container")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return Finding(subject, "lack", "", "/dev/fuse can't be opened", "set its mode to 0666")
    return Finding(subject, "ok")


def _tun(subject: str) -> Finding:
    """For slirp4netns."""
    number = _try(lambda: os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)))
    if number in (errno.ENOENT, errno.ENOTDIR):
        return Finding(subject, "lack", "", "/dev/net/tun is not there", "load the module tun, or pass the device into this container")
    if number in (errno.EACCES, errno.EPERM):
        return Finding(subject, "lack", "", "/dev/net/tun can't be opened", "set its mode to 0666")
    if number:
        return Finding(subject, "lack", "", f"/dev/net/tun: {os.strerror(number)}", "load the module tun")
    return Finding(subject, "ok")


def _program(subject: str) -> Finding:
    name = subject.partition(" ")[2]
    path = find_program(name, os.environ)
    if path:
        return Finding(subject, "ok", path)
    return Finding(subject, "lack", "", "it is in no folder of the PATH", f"install it (on Debian most likely the package {name})")


def _idmap(subject: str) -> Finding:
    refused = mount.refused_mounts()
    if refused is not None and caps.has("SYS_ADMIN"):
        return Finding(subject, "lack", "", f"only the new mount API can; {_why_refused(refused)}", "loosen what started us, or run a newer kernel")
    number = _try(_map_ids)
    if not number:
        return Finding(subject, "ok", "on tmpfs; other file systems each decide")
    if number == errno.EPERM and (os.geteuid() or not caps.are_the_machines()):
        return Finding(subject, "unknown", "only root can try")
    return Finding(subject, "lack", "", os.strerror(number), "run a kernel of 6.3 or newer")


def _map_ids() -> None:
    """Map the ids of a tmpfs, in a mount namespace of our own."""
    namespaces.unshare(namespaces.CLONE_FLAGS["mount"])
    never, _ = os.pipe2(os.O_CLOEXEC)
    pid, _ = process.clone(namespaces.CLONE_FLAGS["user"])
    if pid == 0:
        os.read(never, 1)
    try:
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write("0 100000 65536")
        user = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        tree = mount.new_filesystem("tmpfs", {"size": "4k"})
        mount.mount_setattr(tree, attributes=mount.MOUNT_ATTR_IDMAP, recursive=False, userns_fd=user)
    finally:
        os.kill(pid, _KILL)
        os.waitpid(pid, 0)


def _seccomp(subject: str) -> Finding:
    number = _try(lambda: process.prctl(_PR_GET_SECCOMP, 0))
    if number:
        return Finding(subject, "lack", "", "this kernel was built without it", "run one with CONFIG_SECCOMP_FILTER")
    return Finding(subject, "ok", _read("/proc/sys/kernel/seccomp/actions_avail").strip())


def _landlock(subject: str) -> Finding:
    """For services that have it."""
    abi = landlock.abi()
    if not abi:
        fix = "run one with CONFIG_SECURITY_LANDLOCK, and landlock among its lsm="
        return Finding(subject, "lack", "", "this kernel has none, was started without it, or a seccomp filter forbids it", fix)
    lacks = [word for since, word in ((landlock.ABI_NET, "TCP ports"), (landlock.ABI_SCOPE, "scope")) if abi < since]
    return Finding(subject, "ok", f"ABI {abi}" + (f", without {' and '.join(lacks)}" if lacks else ""))


def _userns(subject: str) -> Finding:
    """For ordinary users; root's is "namespace user"."""
    for path, value, reason, fix in _SYSCTLS:
        if _read(path).strip() == value:
            name = path.removeprefix("/proc/sys/").replace("/", ".")
            return Finding(subject, "lack", f"{name} = {value}", reason, f"sysctl -w {name}={fix}")
    return Finding(subject, "ok")


def _subids(subject: str) -> Finding:
    """Of root, or of whom we are."""
    try:
        whose = users.resolve(Container(subject, subject, ()))
    except LaunchError as error:
        reason, _, fix = str(error).partition("container.user_namespace: ")[2].partition("; ")
        return Finding(subject, "lack", "", reason, fix)
    return Finding(subject, "ok", f"{sum(one.length for one in whose.ranges if one.kind == 'uid')} ids for {whose.user or 'who is root here'}")


def _cgroup(subject: str) -> Finding:
    name = subject.partition(" ")[2]
    for found in cgroup.hierarchies():
        if name == "devices" and found.version == 2 and not _try(lambda: bpf.load_device_program(bpf.device_program(()))):
            return Finding(subject, "ok", f"by a program, v2 in {found.directory}")
        v1 = _V1_NAMES.get(name, name) in found.controllers
        if not v1 and (found.version != 2 or name not in _read(f"{found.directory}/cgroup.controllers").split()):
            continue
        where = f"v{found.version} in {found.directory}"
        if os.statvfs(found.directory).f_flag & os.ST_RDONLY:
            return Finding(subject, "lack", where, "it is mounted read-only here", "mount it writable (docker: --cgroupns=host with a bind, or --privileged)")
        if not os.access(found.directory, os.W_OK):
            return Finding(subject, "lack", where, "it belongs to someone else", "run pyinit as root, or have the group delegated")
        return Finding(subject, "ok", where)
    return Finding(subject, "lack", "", "no mounted hierarchy hands it to us", f"enable the controller {name} for this group (cgroup.subtree_control), or mount it")


def _nft(subject: str) -> Finding:
    return _lacking(subject, firewall.lack_of_nft())


def _forwarding(subject: str) -> Finding:
    return _lacking(subject, firewall.lack_of_forwarding(next(bits for bits, family in _FAMILIES.items() if subject.endswith(family))))


def _br_netfilter(subject: str) -> Finding:
    return _lacking(subject, network.lack_of_br_netfilter())


def _lacking(subject: str, said: str) -> Finding:
    reason, _, fix = said.partition("; ")
    return Finding(subject, "lack" if said else "ok", "", reason, fix)


def _network(subject: str) -> Finding:
    kinds = ("macvlan",) if subject.endswith("macvlan") else ("veth", "bridge")
    for kind in kinds:
        number = _try(lambda kind=kind: _make_link(kind))  # type: ignore[misc]
        if number == errno.EINVAL and kind == "macvlan":
            continue  # the kernel knows it, and misses the link that it is to be on
        if number == errno.EOPNOTSUPP:
            return Finding(subject, "lack", "", f"this kernel has no {kind}, neither built in nor as a module", f"load or install the module {kind}")
        if number:
            return Finding(subject, "unknown" if os.geteuid() else "lack", f"{kind}: {os.strerror(number)}", "", "" if os.geteuid() else "run pyinit with CAP_NET_ADMIN")
    return Finding(subject, "ok", " and ".join(kinds))


def _make_link(kind: str) -> None:
    """rtnetlink(7): RTM_NEWLINK with IFLA_LINKINFO { IFLA_INFO_KIND }, in a network namespace that goes with us."""
    import socket  # in the child
    import struct

    namespaces.unshare(namespaces.CLONE_FLAGS["net"])
    name = kind.encode() + b"\0"
    name += bytes(-(4 + len(name)) % 4)
    info = struct.pack("=HH", 4 + len(kind) + 1, _IFLA_INFO_KIND) + name
    body = bytes(_IFINFOMSG) + struct.pack("=HH", 4 + len(info), _IFLA_LINKINFO) + info
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        sock.send(struct.pack("=IHHII", 16 + len(body), _RTM_NEWLINK, _NEW, 1, 0) + body)
        number = -struct.unpack_from("=i", sock.recv(4096), 16)[0]
    if number:
        raise OSError(number, os.strerror(number))


def _try(action: Callable[[], object]) -> int:
    """0, or the errno of `action`, which is done in a child."""
    pid, pidfd = process.clone(0)
    if pid == 0:
        code = _LATE
        try:
            action()
            code = 0
        except OSError as error:
            code = min(error.errno or _LATE, 255)
        finally:
            os._exit(code)
    os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


_PROBES: dict[str, Callable[[str], Finding]] = {
    "kernel": _kernel, "mount": _mount_api, "capabilities": _capabilities, "capability": _capability, "namespace": _namespace,
    "filesystem": _filesystem, "loop": _loop, "fuse": _fuse, "idmap": _idmap, "seccomp": _seccomp, "landlock": _landlock, "userns": _userns, "subids": _subids,
    "cgroup": _cgroup, "network": _network, "nft": _nft, "forwarding": _forwarding, "br_netfilter": _br_netfilter, "tun": _tun, "program": _program,
}  # fmt: skip
SUBJECTS = (
    "kernel", "mount API", "capabilities", "capability NET_ADMIN", "capability SYS_RESOURCE",
    *(f"namespace {name}" for name in namespaces.CLONE_FLAGS), "userns", "subids", *(f"filesystem {name}" for name in _FILESYSTEMS),
    "loop", "fuse", "idmap", "seccomp", "landlock", *(f"cgroup {name}" for name in ("memory", "cpu", "cpuset", "io", "pids", "devices")), "network", "network macvlan",
    "nft", *(f"forwarding {family}" for family in _FAMILIES.values()), "br_netfilter", "tun",
)  # fmt: skip
