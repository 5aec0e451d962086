"""Why a step of the launch failed, in one line.

Owns the words. Must not know how steps are carried out. Law: it only looks, for it is called on the way out.
"""

import errno
import os

from pyinit.config import images
from pyinit.launch import onhost
from pyinit.launch import operations as p
from pyinit.model import FUSE, IMAGES, NETWORK_TYPES, SLIRP, Mount

_OF_THE_HOST = (errno.EPERM, errno.EACCES, errno.ENODEV, errno.ENOSYS, errno.ENOSPC, errno.EUSERS, errno.ENOENT, errno.EOPNOTSUPP)


def _subjects(operation: p.Operation) -> tuple[str, ...]:
    """What of the host an operation needs, by the doctor's names."""
    match operation:
        case onhost.Isolate():
            own = ("userns",) if operation.rootless else ()  # AppArmor may let him make it, and none of the capabilities in it have effect
            return (*own, *(f"namespace {name}" for name in operation.namespaces))
        case p.AttachLayer():
            return of_image(operation.path)
        case p.MountDeclared():
            return of_mount(operation.mount)
        case onhost.ConnectMount():
            return of_mount(operation.mount)
        case onhost.LimitDevices():
            return ("cgroup devices",)
        case onhost.MapIds():
            return ("namespace user", "idmap")
        case onhost.MapUsers():
            return ("userns",) if os.geteuid() else ("namespace user",)
        case p.MakeRoot():
            return ("filesystem overlay", "filesystem tmpfs")
        case onhost.MakeNetwork() if operation.network.mode == SLIRP:
            return ("tun", "program slirp4netns")
        case p.FilterCalls():
            return ("seccomp",)
        case _:
            return ("capabilities",)


def of_mount(entry: Mount) -> tuple[str, ...]:
    """What of the host a declared mount needs."""
    found = ("idmap",) if entry.idmap else ()
    if entry.type in IMAGES:
        return (*found, *of_image(entry.source))
    if entry.type.startswith(FUSE):
        return (*found, "fuse", f"program {entry.type.removeprefix(FUSE)}")
    if entry.type in NETWORK_TYPES:
        return (*found, f"filesystem {entry.type}")
    if entry.type == "overlay":
        return ("filesystem overlay", *(one for layer in entry.layers for one in of_image(layer.path)))
    return (*found, "filesystem tmpfs") if entry.type == "tmpfs" else found


def of_image(path: str) -> tuple[str, ...]:
    """Nothing of a folder; of a nested image, which can't be seen from here, what a squashfs needs."""
    try:
        with open(path, "rb", buffering=0) as file:
            erofs = images.kind(file.read(images.HEAD_BYTES)) == images.EROFS
    except IsADirectoryError:
        return ()
    except OSError:
        erofs = False
    return ("filesystem erofs",) if erofs else ("filesystem squashfs", "loop")


def explain(operation: p.Operation, error: OSError) -> str:
    """`file:line: what: why; what to do` of a step that the kernel refused."""
    why = error.strerror or str(error)
    hint = ""
    if error.errno in _OF_THE_HOST:
        from pyinit.launch import doctor  # on the way out only

        found = doctor.diagnosis(_subjects(operation))
        hint = f"; {found}" if found else ""
    elif error.errno == errno.EROFS:
        hint = "; the place is missing in the image and cannot be made there: make it in the image, or put a tmpfs above"
    return f"{operation.origin}: {operation.describe()}: {why}{hint}"
