"""The operations of a launch, each of which can describe itself. Pure.

Owns what each is and how it reads; those on the host are in onhost.py. Must not know their order (plan.py), or how they
are carried out. Laws: an operation describes itself in one line, which `pyinit plan`, --verbose and the error message
share, and carries the config line that asked for it; what it leaves on the host is told by `undo()`; of what is secret
only the name is told.
"""

from pyinit.core.limits import size_text
from pyinit.launch.onhost import DEVICES, JoinNamespace, OnHost, WhenBuilt
from pyinit.model import FUSE, NETWORK_TYPES, UNCONFINED, Device, Mount, Origin, Seccomp
from pyinit.records import NamedTuple

DEVICE_LINKS = (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
                ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx"))  # fmt: skip
RO, NOSUID, NODEV, NOEXEC = "ro", "nosuid", "nodev", "noexec"
_LIFTED = {NOSUID: "suid", NODEV: "dev"}  # what every mount has that does not say otherwise


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
Own = JoinKeyring | MountKernel | Pivot | JoinNamespace | LimitCapabilities | FilterCalls
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
