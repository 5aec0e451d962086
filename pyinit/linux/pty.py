"""Pseudo-terminals: one pair of a devpts, its size, its place as a controlling terminal.

Owns the calls. Must not know who sits before one. Laws: the slave is never opened by a path, which may lead elsewhere by
then (TIOCGPTPEER); both ends are of the devpts that was asked for, whatever is mounted over its names; nothing here waits
for another process.
Sources: pts(4), ioctl_tty(2), Documentation/filesystems/devpts.rst.
"""

import errno
import fcntl
import os
import stat
import struct

from pyinit.linux.mount import filesystem_magic

FOLDER = "/dev/pts"
MADE, SPARE = b"made", b"spare"  # what is said to who shall sit before it: with a master, or that it has that already
_DEVPTS_SUPER_MAGIC = 0x1CD1
_PTMX = os.makedev(5, 2)
_TIOCSPTLCK, _TIOCGPTN, _TIOCGPTPEER = 0x40045431, 0x80045430, 0x5441
_TIOCSCTTY, _TIOCGWINSZ, _TIOCSWINSZ = 0x540E, 0x5413, 0x5414
_TO_OPEN = os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_pair(folder: str = FOLDER) -> tuple[int, int]:
    """(master, which does not block; slave) of the devpts at `folder`; OSError ENODEV if there is none."""
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if filesystem_magic(place) != _DEVPTS_SUPER_MAGIC:
            raise OSError(errno.ENODEV, "no devpts", folder)
        master = _open_master(place, folder)
        try:
            return master, _open_slave(master, place, folder)
        except BaseException:
            os.close(master)
            raise
    finally:
        os.close(place)


def _open_master(place: int, folder: str) -> int:
    try:
        master = os.open("ptmx", _TO_OPEN, dir_fd=place)
    except PermissionError:  # mounted with ptmxmode=000, as hosts do: theirs is a node beside the folder
        master = os.open(f"{os.path.dirname(folder)}/ptmx", _TO_OPEN)
    if not is_master(master):
        os.close(master)
        raise OSError(errno.ENODEV, "no ptmx", folder)
    return master


def _open_slave(master: int, place: int, folder: str) -> int:
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    slave: int = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if os.fstat(slave).st_dev != os.fstat(place).st_dev:
        os.close(slave)
        raise OSError(errno.ENODEV, "another devpts", folder)
    return slave


def is_master(fd: int) -> bool:
    """Whether that is the master's end of a pair: a descriptor may come from anybody."""
    seen = os.fstat(fd)
    if not stat.S_ISCHR(seen.st_mode) or seen.st_rdev != _PTMX:
        return False
    try:
        fcntl.ioctl(fd, _TIOCGPTN, bytes(4))
    except OSError:
        return False
    return True


def take(slave: int) -> None:
    """Make it the controlling terminal of this process, which leads a session that has none (setsid(2))."""
    fcntl.ioctl(slave, _TIOCSCTTY, 0)


def size(fd: int) -> tuple[int, int] | None:
    """(rows, columns) of a terminal; None of what is none, and of one that has no size."""
    try:
        rows, columns, _, _ = struct.unpack("4H", fcntl.ioctl(fd, _TIOCGWINSZ, bytes(8)))
    except OSError:
        return None
    return (rows, columns) if rows and columns else None


def set_size(fd: int, rows: int, columns: int) -> None:
    """The foreground group is told by SIGWINCH, if it differs."""
    fcntl.ioctl(fd, _TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
