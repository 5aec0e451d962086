"""The new root while it is built: places below it are found, made and mounted on.

Owns how a path of the container becomes an fd, and whose what is made there is. Must not know what is mounted. Law: every
place is opened below the root by openat2(RESOLVE_IN_ROOT) and mounted on by that fd, so no symlink of an image reaches the
host, and none of what a config declares comes to lie on /proc, /sys and /dev by one.
"""

import errno
import os

from pyinit.launch.operations import Point
from pyinit.linux import mount
from pyinit.model import RESERVED

_KERNELS = ("/proc/", "/sys/", "/dev/")


class Ids:
    """Whose what is made is on the host: without a user namespace, of whom it is inside."""

    fd = -1
    overlay = ""  # an option more of each overlay
    overlay_xattrs = "trusted"  # where an overlay keeps what it has to know of a file
    makes_devices = True

    def why_no_proc(self) -> str:
        """What keeps procfs from being mounted, and what to do, if that is known."""
        return ""

    def outside(self, kind: str, inside: int, length: int = 1) -> int:
        """The host's id of "uid" or "gid" `inside`; of a range that stays together its first. OSError if there is none."""
        return inside

    def has(self, kind: str, inside: int) -> bool:
        """Whether there is one."""
        return True

    def heir(self, kind: str, seen: int) -> int:
        """Whose the copy of what is `seen` as somebody's shall be, for chown(2); -1: ours."""
        return seen

    def show(self, tree: int, label: str) -> None:
        """A detached mount of `label` shows its files as the container's from now on; OSError if it can't."""

    def become(self) -> None:
        """Make files as the container's root from now on."""


class Root:
    """Behind `fd` (O_PATH)."""

    def __init__(self, fd: int, ids: Ids) -> None:
        self.fd = fd
        self.ids = ids

    def open(self, path: str, flags: int = os.O_PATH) -> int:
        """fd of what is at `path`."""
        return mount.open_in_root(self.fd, path, flags)

    def place(self, point: Point, *, directory: bool = True) -> int:
        """An O_PATH fd of the point; what is missing is made where the place is writable."""
        try:
            return self.open(point.path)
        except FileNotFoundError:
            parent = self.place(Point(os.path.dirname(point.path)))
        try:
            name = os.path.basename(point.path)
            if directory:
                os.mkdir(name, 0o700, dir_fd=parent)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent))
            own(name, point, self.ids, parent, directory=directory)
        finally:
            os.close(parent)
        return self.open(point.path)

    def mount(self, tree: int, point: Point, *, directory: bool = True, declared: bool = False) -> None:
        """Attach the detached mount `tree` there; its fd is closed, whatever happens. `declared`: by the config, not by us."""
        try:
            place = self.place(point, directory=directory)
            try:
                if declared:
                    self._keep_ours(place, point.path)
                mount.move_mount(tree, place)
            finally:
                os.close(place)
        finally:
            os.close(tree)

    def _keep_ours(self, place: int, path: str) -> None:
        """EXDEV if a link has led there: who covers /proc is PID 1, for its imports come from /proc/self/fd."""
        top, found = (os.readlink(f"/proc/self/fd/{fd}") for fd in (self.fd, place))
        found = found.removeprefix(top) or "/"
        if found in RESERVED or any(found.startswith(one) and not path.startswith(one) for one in _KERNELS):
            raise OSError(errno.EXDEV, f"{path} leads to {found} by a symlink, of the image or of a mount; name another folder, or mend the link")


def own(name: str, point: Point, ids: Ids, folder: int | None = None, *, directory: bool = True) -> None:
    """Give what was just made its owner and mode; of a file only what a file can have of it."""
    os.chown(name, ids.outside("uid", point.uid), ids.outside("gid", point.gid), dir_fd=folder, follow_symlinks=False)
    os.chmod(name, point.mode if directory else point.mode & 0o666, dir_fd=folder)


def attach(tree: int, place: str) -> None:
    """Mount on a path of our own; the tree's fd is closed, whatever happens."""
    try:
        target = os.open(place, os.O_PATH | os.O_CLOEXEC)
        try:
            mount.move_mount(tree, target)
        finally:
            os.close(target)
    finally:
        os.close(tree)


def write_all(fd: int, data: bytes) -> None:
    """write(2) until all is written."""
    while data:
        data = data[os.write(fd, data) :]
