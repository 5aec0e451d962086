"""The operations of a launch, each of which can describe itself. Pure.

Owns what each is and how it reads. Must not know their order (plan.py), or how they are carried out. Laws: an operation
describes itself in one line, which `pyinit plan`, --verbose and the error message share, and carries the config line that
asked for it; what it leaves on the host is told by `undo()`; of what is secret only the name is told.
"""

from pyinit.core.limits import size_text, words
from pyinit.model import (
    FUSE,
    NETWORK_TYPES,
    SLIRP,
    UNCONFINED,
    CgroupLimits,
    Content,
    Device,
    IdRange,
    Mount,
    Network,
    Origin,
    Publish,
    Seccomp,
    Shared,
    UserNamespace,
)
from pyinit.records import NamedTuple

DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
DEVICE_LINKS = (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
                ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx"))  # fmt: skip
UPPER_FOLDERS = ("upper", "work", "works")  # of changes, and overlayfs' own: for the root, and for each writable path
RO, NOSUID, NODEV, NOEXEC = "ro", "nosuid", "nodev", "noexec"
_LIFTED = {NOSUID: "suid", NODEV: "dev"}  # what every mount has that does not say otherwise
FILE, OPTION = "file", "option"  # what a content is for


class VerifyImage(NamedTuple):
    """A pinned image is the one that is meant."""

    path: str
    sha256: str
    origin: Origin

    def describe(self) -> str:
        return f"check that {self.path} has the digest sha256:{self.sha256}"

    def undo(self) -> str:
        return ""


class TakeFolder(NamedTuple):
    """The folder of the host that the changes go to: made, and locked for this container."""

    path: str
    origin: Origin

    def describe(self) -> str:
        return f"make {self.path} with its upper and work folders, lock it for this container"

    def undo(self) -> str:
        return "the lock goes with the monitor and PID 1; the folder is kept"


class TakeContent(NamedTuple):
    """What a file of a RAM disk, or an option of a mount, shall hold is read, into memory that only PID 1 will have."""

    target: str  # of the mount
    use: str  # FILE or OPTION
    name: str
    content: Content
    origin: Origin

    def describe(self) -> str:
        what = f"{self.target}/{self.name}" if self.use == FILE else f"the option {self.name} of {self.target}"
        sources = {"file": f"the file {self.content.text}", "env": f"the variable {self.content.text}"}
        return f"read {what} from {sources.get(self.content.kind) or f'the output of {self.content.command[0]}'}"

    def undo(self) -> str:
        return ""


class MapIds(NamedTuple):
    """A user namespace whose map a mount has from then on."""

    target: str
    ranges: tuple[IdRange, ...]
    origin: Origin

    def describe(self) -> str:
        return f"map the ids of {self.target}: {', '.join(_range(one) for one in self.ranges)}"

    def undo(self) -> str:
        return ""


class OpenTree(NamedTuple):
    """A folder of the host that goes on seeing what is mounted there; PID 1's own view of the host does not."""

    mount: Mount
    origin: Origin

    def describe(self) -> str:
        return f"open {self.mount.source}, {self.mount.propagation} with the host"

    def undo(self) -> str:
        return ""


class ConnectMount(NamedTuple):
    """A file system that is elsewhere, or in a program: there, by the host's network, before PID 1 is."""

    mount: Mount
    origin: Origin
    is_image: bool = False  # that the kernel mounts for root alone, to be had by its path; of a folder there is nothing to serve

    def describe(self) -> str:
        if self.is_image:
            return f"serve {self.mount.source} by {self.mount.type.removeprefix(FUSE)}, if it is an image"
        return f"connect {self.mount.type} {self.mount.source} for {self.mount.target}"

    def undo(self) -> str:
        program = self.mount.type.removeprefix(FUSE)
        return "the mount goes with PID 1" + (f", {program} with its mount" if program != self.mount.type else "")


class MakeCgroup(NamedTuple):
    """A group of the container's own in each hierarchy that a limit or the tracking needs."""

    name: str
    limits: CgroupLimits
    origin: Origin
    of_services: frozenset[str] = frozenset()  # controllers that services' own limits need
    strict: bool = False  # a limit that can't be held is an error
    devices: bool = False  # v1's controller of them is needed

    def describe(self) -> str:
        said = words(self.limits)
        return f"make cgroup pyinit-{self.name}" + (f" with {' '.join(said)}" if said else "")

    def undo(self) -> str:
        return "kill what is in the group, remove it"


class LimitDevices(NamedTuple):
    """What is in the container's group may open no other devices, nor make them."""

    devices: tuple[Device, ...]
    origin: Origin
    strict: bool = False

    def describe(self) -> str:
        more = "".join(f", {one.path} ({one.access})" for one in self.devices)
        return f"allow no devices but /dev/{' '.join(name for name, _, _ in DEVICES)}, terminals{more}"

    def undo(self) -> str:
        return "the rules go with the group"


class TakeAddress(NamedTuple):
    """Addresses, ports of the host and a name that no other container has; the neighbours are told."""

    network: Network
    name: str
    link: str  # the name outside of its end of the veth
    origin: Origin

    def describe(self) -> str:
        net = self.network
        ports = f", {_ports(net.publish)} of this host" if net.publish else ""
        return f"take {_addresses(net)}{ports} for {self.name}, name it to the others on {net.bridge or net.parent}"

    def undo(self) -> str:
        return "they are free again; its name leaves the others' /etc/hosts"


class MakeRules(NamedTuple):
    """What of the host's packet filter is the container's: NAT, published ports, the policy of what it may connect to."""

    network: Network
    name: str
    link: str
    origin: Origin

    def describe(self) -> str:
        net = self.network
        said = ["NAT"] if net.nat else []
        said += [f"publish {', '.join(_published(one) for one in net.publish)}"] if net.publish else []
        said += [f"refuse what is not in the {len(net.outbound)} entries of outbound"] if net.outbound is not None else []
        return f"add to nft's table pyinit: {'; '.join(said)}"

    def undo(self) -> str:
        return "take them out; the table goes with its last container"


class MakeNetwork(NamedTuple):
    """A veth pair to a bridge of the host, a macvlan on one of its links, or what slirp4netns has: `host0` inside, with addresses and routes."""

    network: Network
    name: str
    link: str  # the name outside
    origin: Origin

    def describe(self) -> str:
        net = self.network
        if net.mode == SLIRP:
            ports = f", publish {', '.join(_published(one) for one in net.publish)}" if net.publish else ""
            return f"start slirp4netns, host0 with {_addresses(net)}{' and IPv6' if net.ipv6 else ''} inside, default route by {net.gateways[0]}{ports}"
        what = f"veth {self.link} on bridge {net.bridge}" if net.mode == "veth" else f"macvlan ({net.submode}) on {net.parent}"
        text = f"make {what}, host0 with {_addresses(net)} inside"
        text += f", default route by {' and '.join(net.gateways)}" if net.gateways else ""
        return text + "".join(f", to {one.to} by {one.via}" for one in net.routes)

    def undo(self) -> str:
        if self.network.mode == SLIRP:
            return "slirp4netns ends with the monitor, and gives the ports back"
        if self.network.mode == "macvlan":
            return "it goes with its namespace"
        return "the veth goes with its namespace; the bridge is removed if pyinit made it and nothing is left on it"


class Isolate(NamedTuple):
    """Clone PID 1 into new namespaces."""

    namespaces: tuple[str, ...]
    origin: Origin

    def describe(self) -> str:
        return f"clone PID 1 into new namespaces: {' '.join(self.namespaces)}"

    def undo(self) -> str:
        if "pid" not in self.namespaces:
            return "kill PID 1; what else is in the container's group is killed with that"
        return "kill PID 1: all else in its pid namespace goes with it"


class JoinNamespace(NamedTuple):
    """A namespace of somebody else's, which PID 1 is born in."""

    shared: Shared
    origin: Origin

    def describe(self) -> str:
        whose = {"container": "container ", "pid": "pid "}.get(self.shared.by, "")
        return f"join the {self.shared.kind} namespace of {whose}{self.shared.what}"

    def undo(self) -> str:
        return "PID 1 leaves it; who else is in it keeps it"


class SetClocks(NamedTuple):
    """A time namespace, whose clocks can be set before anybody is in it only."""

    offsets: tuple[tuple[str, int], ...]
    origin: Origin

    def describe(self) -> str:
        said = ", ".join(f"{clock} {offset / 1e9:+.10g} s" for clock, offset in self.offsets)
        return f"make a time namespace: {said or 'the clocks as they are'}"

    def undo(self) -> str:
        return ""


class MapUsers(NamedTuple):
    """The ids of the user namespace that PID 1 is born in, which waits for them."""

    users: UserNamespace
    origin: Origin

    def describe(self) -> str:
        users = self.users
        if users.ranges:
            return f"map the host's ids: {', '.join(_range(one) for one in users.ranges)} inside"
        if users.map == "single":
            return f"map the host's ids: {users.user or 'pyinit'} is root inside"
        return f"map the host's ids: the ranges of {users.user or 'pyinit, or of root,'} in /etc/subuid and /etc/subgid are 0 and up inside"

    def undo(self) -> str:
        return ""


class NoteHook(NamedTuple):
    """A poststop hook: in the journal before a prestart hook runs, carried out by the undoing."""

    command: tuple[str, ...]
    timeout_s: float
    origin: Origin

    def describe(self) -> str:
        return f"note what is run on the host in the end: {' '.join(self.command)}"

    def undo(self) -> str:
        return f"run it, after all else is undone ({self.timeout_s:g} s at most)"


class RunHook(NamedTuple):
    """A prestart hook."""

    command: tuple[str, ...]
    timeout_s: float
    origin: Origin

    def describe(self) -> str:
        return f"run on the host, before the services start: {' '.join(self.command)} ({self.timeout_s:g} s at most)"

    def undo(self) -> str:
        return ""


class Stage(NamedTuple):
    """A private tmpfs to build the root on; no mount of ours is seen by the host from here on."""

    origin: Origin

    def describe(self) -> str:
        return "make all mounts private, mount a staging tmpfs"

    def undo(self) -> str:
        return ""


class AttachLayer(NamedTuple):
    """One lower layer: a squashfs through a read-only, autoclear loop device that all its containers share, an EROFS, or a directory."""

    position: int
    path: str
    origin: Origin

    def describe(self) -> str:
        return f"mount layer {self.position}, {self.path}, read-only"

    def undo(self) -> str:
        return "the mount goes with PID 1, an image's loop device with its last mount"


class CheckRelease(NamedTuple):
    """What a layer's extension-release says of its base, if it has one, holds of the layers below it."""

    position: int
    path: str
    origin: Origin

    def describe(self) -> str:
        return f"check that layer {self.position}, {self.path}, is for the base below it, if it names one"

    def undo(self) -> str:
        return ""


class Point(NamedTuple):
    """Where something is mounted, and what it is like where it has to be made."""

    path: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


class MakeRoot(NamedTuple):
    """Overlay of generated layer (uppermost), then the images; changes go to RAM or to a folder, if `whole`."""

    layers: int
    points: tuple[Point, ...]
    files: tuple[tuple[str, str], ...]
    writable: str
    whole: bool  # else it is read-only, and what is writable of it is made by MakeWritable
    size_bytes: int
    inodes: int
    origin: Origin

    def describe(self) -> str:
        sizes = [size_text(self.size_bytes)] if self.size_bytes else []
        sizes += [f"{self.inodes} inodes"] if self.inodes else []
        ram = "a RAM upper layer" + (f" of {', '.join(sizes)}" if sizes else "")
        upper = {"none": "", "tmpfs": ram}.get(self.writable, f"the upper layer {self.writable}/upper")
        kind = f"with {upper}" if self.whole else f"read-only, {upper} for its writable paths" if upper else "read-only"
        return f"mount the root: {self.layers} image layer(s) under a generated one, {kind}"

    def undo(self) -> str:
        return ""


class MakeWritable(NamedTuple):
    """One of the `writable_paths`: the images' folder under a part of the upper layer."""

    position: int
    path: str
    origin: Origin

    def describe(self) -> str:
        return f"make {self.path} writable"

    def undo(self) -> str:
        return ""


class MountKernel(NamedTuple):
    """A kernel or RAM file system at a place of the container."""

    fstype: str
    target: str
    options: tuple[tuple[str, str], ...]
    flags: tuple[str, ...]
    origin: Origin

    def describe(self) -> str:
        said = [*self.flags, *(f"{key}={value}" for key, value in self.options)]
        return f"mount {self.fstype} on {self.target}" + (f" ({','.join(said)})" if said else "")

    def undo(self) -> str:
        return ""


class MakeDevices(NamedTuple):
    """The minimal nodes and links of /dev."""

    origin: Origin

    def describe(self) -> str:
        return "make /dev/" + " ".join(name for name, _, _ in DEVICES) + " and the links fd stdin stdout stderr ptmx"

    def undo(self) -> str:
        return ""


class MakeDevice(NamedTuple):
    """A node for a device of the host."""

    device: Device
    origin: Origin

    def describe(self) -> str:
        one = self.device
        said = [f"mode {one.mode:04o}"] if one.mode >= 0 else []
        said += [f"{key} {value}" for key, value in (("uid", one.uid), ("gid", one.gid)) if value >= 0]
        return f"make {one.path}, {', '.join(said) or 'as on the host'}"

    def undo(self) -> str:
        return ""


class MountDeclared(NamedTuple):
    """One `[[container.mounts]]`, its files written; or the secrets."""

    mount: Mount
    origin: Origin

    def describe(self) -> str:
        mount = self.mount
        source = f" {mount.source}" if mount.source else ""
        source += f" of {len(mount.layers)} layer(s)" if mount.layers else ""
        files = ", with " + " ".join(one.name for one in mount.files) if mount.files else ""
        size = f" of {size_text(mount.size_bytes)}" if mount.size_bytes else ""
        said = _said(mount)
        options = f" ({','.join(said)})" if said else ""
        return f"mount {mount.type}{source}{size} on {mount.target}{' read-only' if mount.read_only else ''}{options}{files}"

    def undo(self) -> str:
        return ""


class HidePaths(NamedTuple):
    """Masked paths read empty; read-only paths refuse writing."""

    masked: tuple[str, ...]
    readonly: tuple[str, ...]
    origin: Origin

    def describe(self) -> str:
        return f"mask {len(self.masked)} paths, make {len(self.readonly)} read-only"

    def undo(self) -> str:
        return ""


class BindNames(NamedTuple):
    """The container's hosts file, which the launchers of its neighbours write on in, and its resolver's."""

    name: str
    origin: Origin

    def describe(self) -> str:
        return "bind /etc/hosts with the neighbours' names and /etc/resolv.conf, read-only"

    def undo(self) -> str:
        return ""


class SetHostname(NamedTuple):
    hostname: str
    origin: Origin

    def describe(self) -> str:
        return f"set the host name {self.hostname}"

    def undo(self) -> str:
        return ""


class SetSysctl(NamedTuple):
    """A setting of the kernel's, of one of the container's own namespaces; `path` is below /proc/sys."""

    name: str
    path: str
    value: str
    origin: Origin

    def describe(self) -> str:
        return f"set the sysctl {self.name} to {self.value}"

    def undo(self) -> str:
        return ""


class JoinKeyring(NamedTuple):
    """A session keyring of the container's own, that goes with its last process."""

    origin: Origin

    def describe(self) -> str:
        return "join a new session keyring, leave the host's keys"

    def undo(self) -> str:
        return ""


class Pivot(NamedTuple):
    """The new root becomes /, the host's is detached."""

    origin: Origin

    def describe(self) -> str:
        return "pivot_root, detach the host's root"

    def undo(self) -> str:
        return ""


class LimitCapabilities(NamedTuple):
    """The bounding set: what a root service gets; PID 1 itself keeps more."""

    keep: tuple[str, ...]
    origin: Origin

    def describe(self) -> str:
        return f"limit the bounding set to {' '.join(self.keep)}"

    def undo(self) -> str:
        return ""


class FilterCalls(NamedTuple):
    """The system calls of whatever a service starts, or all of them, or an init of the image; PID 1 itself has no filter."""

    whose: str
    seccomp: Seccomp
    origin: Origin

    def describe(self) -> str:
        named = "all are let through" if self.seccomp.name == UNCONFINED else self.seccomp.name
        log = ", what it refuses is let through and logged" if self.seccomp.log and self.seccomp.program else ""
        return f"filter the system calls of {self.whose}: {named}{log}"

    def undo(self) -> str:
        return ""


Inside = (
    Stage | AttachLayer | CheckRelease | MakeRoot | MakeWritable | MountKernel | MakeDevices | MakeDevice | MountDeclared | HidePaths | BindNames
    | SetHostname | SetSysctl
)  # fmt: skip
Outside = TakeContent | MapIds | OpenTree | ConnectMount
OnHost = (
    VerifyImage | TakeAddress | TakeFolder | Outside | MakeCgroup | LimitDevices | MakeRules | MakeNetwork | JoinNamespace | SetClocks | Isolate
    | MapUsers
)  # fmt: skip
Own = JoinKeyring | MountKernel | Pivot | LimitCapabilities | FilterCalls
WhenBuilt = NoteHook | RunHook
Operation = OnHost | Inside | Own | WhenBuilt


def is_elsewhere(mount: Mount) -> bool:
    """Whether a server or a program has the file system."""
    return mount.type in NETWORK_TYPES or mount.type.startswith(FUSE)


def point(mount: Mount) -> Point:
    """A RAM disk and a made source have their mode and owner themselves."""
    own = mount.type == "tmpfs" or mount.create
    return Point(mount.target) if own else Point(mount.target, mount.mode, mount.uid, mount.gid)


def _said(mount: Mount) -> list[str]:
    """What sets a mount apart, in the words of mount(8)."""
    said = [word for flag, word in _LIFTED.items() if flag not in mount.flags]
    said += [flag for flag in mount.flags if flag not in _LIFTED]
    said += [name if value is None else f"{name}={value}" for name, value in mount.options]
    said += [name for name, _ in mount.secret_options]
    said += [mount.propagation] if mount.propagation != "private" else []
    said += [f"writable={mount.writable}"] if mount.writable != "none" else []
    return [*said, "never swapped"] if mount.secret else said


def _addresses(net: Network) -> str:
    return " and ".join(net.addresses) or "an address of " + " and one of ".join(net.pools)


def _ports(publish: tuple[Publish, ...]) -> str:
    return "port " + ", ".join(f"{_span(one.port, one.length)}/{one.protocol}" for one in publish)


def _published(one: Publish) -> str:
    host = f"[{one.host}]:" if ":" in one.host else f"{one.host}:" if one.host else ""
    return f"{host}{_span(one.port, one.length)} as {_span(one.to, one.length)}/{one.protocol}"


def _span(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


def _range(one: IdRange) -> str:
    if one.length == 1:
        return f"{one.kind} {one.source} is {one.inside}"
    return f"{one.kind} {one.source}-{one.source + one.length - 1} is {one.inside}-{one.inside + one.length - 1}"
