"""Images as mounts: squashfs by a loop device, EROFS by its file, and the base that an application's image names.

Owns how a file, or a layer, becomes a detached mount, and what changes to it are written to. Must not know where it goes. Laws: read-only, no devices, no set-uid; what the
kernel refuses is said in the image's own terms.
"""

import errno
import os
import stat

from pyinit.config import images
from pyinit.errors import LaunchError
from pyinit.launch import release
from pyinit.launch.digests import Identity, identity
from pyinit.launch.onhost import UPPER_FOLDERS
from pyinit.launch.resolve import canonical_target
from pyinit.launch.root import Ids, attach
from pyinit.linux import loop, mount
from pyinit.model import Origin
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.launch.outside import Outside

_EXTENSIONS, _EXTENSION = "/usr/lib/extension-release.d", "extension-release."
_OS_RELEASES = ("/etc/os-release", "/usr/lib/os-release")
_MOST_TEXT = 1 << 16
_ATTRIBUTES = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
# What would tie a kept upper layer to the very images that it was made over (overlayfs.rst, "Changes to underlying filesystems").
FREE = ",index=off,metacopy=off,redirect_dir=nofollow,xino=off"


class Images:
    """Those of one build, whose root's layers are mounted at 0, 1, ... in the folder `staging`."""

    def __init__(self, staging: str, verified: dict[str, Identity], ids: Ids, outside: "Outside | None" = None) -> None:
        """`verified`: what the pinned images, by their path, were when their digest was right. `outside`: what may serve some."""
        self._staging = staging
        self._verified = verified
        self.ids = ids
        self._outside = outside
        self.layers = 0  # how many are mounted

    def layer(self, path: str) -> int:
        """A detached read-only mount of a folder or an image of the host."""
        if not os.path.isdir(path):
            return self.mount(path, -1)
        tree = mount.open_tree(path)
        try:
            mount.mount_setattr(tree, attributes=_ATTRIBUTES)
            self.ids.show(tree, path)
        except OSError:
            os.close(tree)
            raise
        return tree

    def mount(self, source: str, root_fd: int) -> int:
        """A detached mount of an image of the host, or of `image:/path` of the root."""
        if source.startswith("image:"):
            fd = self._nested(source.removeprefix("image:"), root_fd)
        else:
            fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if source in self._verified and identity(fd) != self._verified[source]:
                raise OSError(errno.ESTALE, f"{source} has changed since its digest was checked; start again")
            served = self._outside.image(source) if self._outside is not None else -1
            if served >= 0:
                mount.mount_setattr(served, attributes=_ATTRIBUTES)
                return served
            tree = image(fd, source)
        finally:
            os.close(fd)
        try:
            self.ids.show(tree, source)
        except OSError:
            os.close(tree)
            raise
        return tree

    def _nested(self, path: str, root_fd: int) -> int:
        """fd of a file of the root, by the layer that has it: that inode is the same for all containers of the image."""
        fd = mount.open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK)
        seen = os.fstat(fd)
        real = canonical_target(root_fd, path)
        for position in reversed(range(self.layers)):
            place = os.open(f"{self._staging}/{position}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                below = mount.open_in_root(place, real, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                continue
            finally:
                os.close(place)
            if _looks_like(os.fstat(below), seen):  # else another layer hides it, or it was written to
                os.close(fd)
                return below
            os.close(below)
        return fd


def make_upper(place: str, writable: str, size_bytes: int, inodes: int, ids: Ids) -> None:
    """What an overlay writes to, at `place`, a name without `:` and `,`: a RAM disk, or a folder that the launcher has made."""
    os.mkdir(place)
    if writable != "tmpfs":
        tree = mount.open_tree(writable, recursive=False)
        try:
            ids.show(tree, writable)  # kept as the container sees it, whatever its ids are next time
        except OSError:
            os.close(tree)
            raise
        attach(tree, place)
        return
    size = f",size={size_bytes}" if size_bytes else ""
    size += f",nr_inodes={inodes}" if inodes else ""
    mount.mount("tmpfs", place, "tmpfs", mount.MS_NODEV, f"mode=0755{size}")
    for name in UPPER_FOLDERS:
        os.mkdir(f"{place}/{name}", 0o755)


def _looks_like(one: os.stat_result, other: os.stat_result) -> bool:
    """The device is overlay's in one of them, and says nothing."""
    return all(getattr(one, key) == getattr(other, key) for key in ("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns"))


def check_release(tree: int, below: list[int], path: str, origin: Origin) -> None:
    """LaunchError if the image `tree` names a base that the uppermost os-release of `below` is not."""
    try:
        place = mount.open_in_root(tree, _EXTENSIONS, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        texts = [_text(place, name) for name in sorted(os.listdir(place)) if name.startswith(_EXTENSION)]
    finally:
        os.close(place)
    found = next((text for fd in below for name in _OS_RELEASES if (text := _text(fd, name)) is not None), None)
    base = None if found is None else release.parse(found)
    for text in texts:
        why = release.mismatch(release.parse(text or ""), base, os.uname().machine)
        if why:
            raise LaunchError(f"{origin}: {path} {why}; build it for this base, or put it on the base that it is for")


def _text(tree: int, path: str) -> str | None:
    """A small regular file of an image, links followed inside it; None if there is none."""
    try:
        fd = mount.open_in_root(tree, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return os.read(fd, _MOST_TEXT).decode("utf-8", "replace") if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def image(fd: int, label: str) -> int:
    """A detached read-only mount of the image behind `fd`; OSError that says what is wrong with it."""
    head = os.pread(fd, images.HEAD_BYTES, 0)
    try:
        if images.kind(head) == images.EROFS:
            return _erofs(fd, label)
        return _by_loop("squashfs", fd, label)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EOPNOTSUPP):
            raise
        name = images.compressor(head)
        or_else = f", or this kernel can't read {name}" if name else ""
        raise OSError(error.errno, f"{error.strerror}; the image is damaged{or_else}: build or copy it again") from error


def _by_loop(fstype: str, fd: int, label: str) -> int:
    """Through a loop device, which goes with its last mount.

    All mounts of one device are views of one superblock, so a file's pages are in memory once for all containers.
    """
    device, path = loop.attach(fd, label)
    try:
        options = {"source": path, "ro": None}
        return mount.new_filesystem(fstype, options, attributes=_ATTRIBUTES, label=label)
    finally:
        os.close(device)


def _erofs(fd: int, label: str) -> int:
    """Of the file itself; by a loop device if the kernel (before 6.12) or where the file lies (overlayfs) asks for one."""
    options = {"source": f"/proc/self/fd/{fd}", "ro": None}
    try:
        return mount.new_filesystem("erofs", options, attributes=_ATTRIBUTES, label=label)
    except OSError as error:
        if error.errno != errno.ENOTBLK:
            raise
    return _by_loop("erofs", fd, label)
