"""A service's own view of the file system: /tmp for itself, paths that it can't write.

Owns the mounts of a child before its exec. Must not know services. Law: they lie in a mount namespace of the child's
own, so that they end with it and nobody else sees them.
"""

import os

from pyinit.linux import mount, namespaces

_CLONE_NEWNS = 0x00020000
mount.settle()  # before the fork


def set_up(*, private_tmp: bool, read_only_paths: tuple[str, ...]) -> None:
    """OSError with the path that failed."""
    namespaces.unshare(_CLONE_NEWNS)
    mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
    for place in ("/tmp", "/var/tmp") if private_tmp else ():
        if os.path.isdir(place):
            mount.mount("tmpfs", place, "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, "mode=1777")
    for path in read_only_paths:
        mount.mount(path, path, "", mount.MS_BIND | mount.MS_REC)
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            mount.mount_setattr(fd, attributes=mount.MOUNT_ATTR_RDONLY)
        finally:
            os.close(fd)
