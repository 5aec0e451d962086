"""The operations of a launch on the host: what a container is given from there, before its root is built and when it is. Pure.

Owns what each is and how it reads, by the laws of operations.py, which has the rest. Must not know their order, or how they
are carried out.
"""

from pyinit.core.limits import words
from pyinit.model import (
    FUSE,
    SLIRP,
    CgroupLimits,
    Content,
    Device,
    IdRange,
    Mount,
    Network,
    Origin,
    Publish,
    Shared,
    UserNamespace,
)
from pyinit.records import NamedTuple

DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
UPPER_FOLDERS = ("upper", "work", "works")  # of changes, and overlayfs' own: for the root, and for each writable path
LOOPBACK6 = ("::", "::1")  # what sockets are bound to that are reached at ::1
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


class ForwardLoopback(NamedTuple):
    """A process that carries to the container what comes to its ports at the host's ::1."""

    network: Network
    link: str  # the name outside, which it ends with
    origin: Origin

    def describe(self) -> str:
        ports = (f"{_span(one.port, one.length)} as {_span(one.to, one.length)}/{one.protocol}" for one in at_loopback6(self.network))
        return f"start a forwarder of [::1]: {', '.join(ports)}"

    def undo(self) -> str:
        return "it ends with the veth"


class Isolate(NamedTuple):
    """Clone PID 1 into new namespaces."""

    namespaces: tuple[str, ...]
    origin: Origin
    rootless: bool = False  # an ordinary user's, from a user namespace of his own

    def describe(self) -> str:
        return f"clone PID 1 into new namespaces: {' '.join(self.namespaces) or 'none'}"

    def undo(self) -> str:
        if "pid" not in self.namespaces:
            return "kill PID 1; what else is in the container's group is killed with that"
        return "kill PID 1: all else in its pid namespace goes with it"


class JoinNamespace(NamedTuple):
    """A namespace of somebody else's, which PID 1 is born in; that of mounts, with its root, it joins itself, in the place of a pivot."""

    shared: Shared
    origin: Origin
    folder: str = ""  # what is the container's in that root

    def describe(self) -> str:
        whose = {"container": "container ", "pid": "pid "}.get(self.shared.by, "")
        what = f"join the {self.shared.kind} namespace of {whose}{self.shared.what}"
        return f"{what}, and stand in its root" if self.folder else what

    def undo(self) -> str:
        if self.folder:
            return f"PID 1 leaves it, and {self.folder} there is removed; who else is in it keeps it"
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


Outside = TakeContent | MapIds | OpenTree | ConnectMount
OnHost = (
    VerifyImage | TakeAddress | TakeFolder | Outside | MakeCgroup | LimitDevices | MakeRules | MakeNetwork | ForwardLoopback | JoinNamespace | SetClocks
    | Isolate | MapUsers
)  # fmt: skip
WhenBuilt = NoteHook | RunHook


def at_loopback6(net: Network) -> list[Publish]:
    """What is published at the host's ::1, too."""
    has_ipv6 = any(":" in one for one in (*net.addresses, *net.pools))
    return [one for one in net.publish if one.host in LOOPBACK6 or (not one.host and has_ipv6)]


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
