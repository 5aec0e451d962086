"""Images as mounts: squashfs by a loop device, EROFS by its file, and the base that an application's image names.

Owns how a file becomes a detached mount. Must not know where it goes. Laws: read-only, no devices, no set-uid; what the
kernel refuses is said in the image's own terms.
"""

import errno
import os
import stat

from pyinit.config import images
from pyinit.errors import LaunchError
from pyinit.launch import release
from pyinit.linux import loop, mount
from pyinit.model import Origin

_EXTENSIONS, _EXTENSION = "/usr/lib/extension-release.d", "extension-release."
_OS_RELEASES = ("/etc/os-release", "/usr/lib/os-release")
_MOST_TEXT = 1 << 16
_ATTRIBUTES = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV


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
        if error.errno not in (errno.EINVAL, errno.EIO, errno.EUCLEAN, errno.EOPNOTSUPP):
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
