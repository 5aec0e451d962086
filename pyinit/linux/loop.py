"""Loop devices: a file becomes a block device that goes away with its last user; all users of a file share one.

Owns the structs of loop(4) and the search for a device that is there already. Must not know what the file holds.
Laws: read-only and autoclear always; the caller keeps the fd open until the device is mounted, and an
unmounted device clears itself when that fd closes, so a killed launcher leaves nothing. A device is shared only if it
is over this very file as it is now: the same device, inode, size and times, which its label holds, so what a running
container mounted of a file that was written over since serves that container alone. Starts of one file look and make
one after the other, by flock on the file; what clears itself meanwhile is seen at the opened device, which can't.
Source: loop(4), linux/loop.h.
"""

import errno
import fcntl
import os
import select
import stat
import struct
import time
from _collections_abc import Iterator

LOOP_GET_STATUS64, LOOP_CTL_GET_FREE, LOOP_CONFIGURE = 0x4C05, 0x4C82, 0x4C0A
LO_FLAGS_READ_ONLY, LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO = 1, 4, 16
_INFO = struct.Struct("=5Q4I64s64s32s2Q")  # struct loop_info64
_TRIES = 64
_TAKEN = (errno.EBUSY, errno.ENXIO, errno.ENODEV, errno.ENOENT)  # by another start; clearing itself; removed
_BLOCK_MAJOR = 7
_SECTOR = 512
_LOCK_PATIENCE_S, _LOCK_AGAIN_S = 5.0, 0.002


def attach(backing_fd: int, label: str) -> tuple[int, str]:
    """(fd, path) of a loop device over the file of `backing_fd`, shared with who has it already; OSError if none can be had."""
    seen = os.fstat(backing_fd)
    if not stat.S_ISREG(seen.st_mode):
        return _new(backing_fd, label, label)
    lock_fd = _lock(backing_fd)
    try:
        name = _name(seen, label)
        for path in _of_size(seen.st_size):
            fd = _open_if(path, seen, name)
            if fd >= 0:
                return fd, path
        return _new(backing_fd, name, label)
    finally:
        os.close(lock_fd)


def _name(seen: os.stat_result, label: str) -> str:
    """The device's label, lo_file_name: what the file was like, and the end of its path for people."""
    head = f"pyinit {seen.st_mtime_ns:x} {seen.st_ctime_ns:x} "
    return head + os.fsencode(label)[len(head) - 63 :].decode("ascii", "replace").replace("\ufffd", "?")


def _lock(backing_fd: int) -> int:
    """An fd that holds the file's flock. It is one of its own: the device keeps `backing_fd`'s description for its whole life.

    Who may read a file may lock it for ever, and some file systems have no such locks: then a second device is the
    worst that can come of it.
    """
    fd = os.open(f"/proc/self/fd/{backing_fd}", os.O_RDONLY | os.O_CLOEXEC)
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                select.select([], [], [], _LOCK_AGAIN_S)
                continue
        except OSError:
            pass
        return fd


def _of_size(size_bytes: int) -> Iterator[str]:
    """Paths of attached devices that may be the file's; a device that is cleared has the size 0."""
    try:
        names = [name for name in os.listdir("/sys/block") if name.startswith("loop")]
    except OSError:  # no sysfs
        return
    for name in names:
        try:
            with open(f"/sys/block/{name}/size", "rb", buffering=0) as file:
                sectors = int(file.read())
            if sectors == size_bytes // _SECTOR and os.path.exists(f"/sys/block/{name}/loop/backing_file"):
                yield _node(int(name.removeprefix("loop")))
        except (OSError, ValueError):  # it went away
            continue


def _open_if(path: str, seen: os.stat_result, name: str) -> int:
    """fd of the device if it is ours and over that file, else -1; once it is open it can't clear itself."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # ENXIO: it is clearing itself at this moment
        return -1
    try:
        info = _INFO.unpack(fcntl.ioctl(fd, LOOP_GET_STATUS64, bytes(_INFO.size)))
    except OSError:  # it was cleared before we opened it
        os.close(fd)
        return -1
    device, inode, _, offset, limit, _, _, _, flags, label = info[:10]
    wanted = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR
    same = (device, inode, offset, limit, label.rstrip(b"\0")) == (seen.st_dev, seen.st_ino, 0, 0, name.encode())
    if same and flags & wanted == wanted:
        return fd
    os.close(fd)
    return -1


def _new(backing_fd: int, name: str, label: str) -> tuple[int, str]:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            path = _node(fcntl.ioctl(control, LOOP_CTL_GET_FREE))
            fd = -1
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                _configure(fd, backing_fd, name)
            except OSError as error:
                if fd >= 0:
                    os.close(fd)
                if error.errno not in _TAKEN:
                    raise
                continue
            return fd, path
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, f"loop device for {label}: other programs took each of {_TRIES} free ones")


def _node(number: int) -> str:
    path = f"/dev/loop{number}"
    try:
        os.mknod(path, 0o660 | 0o060000, os.makedev(_BLOCK_MAJOR, number))
    except FileExistsError:
        pass
    return path


def _configure(fd: int, backing_fd: int, name: str) -> None:
    """struct loop_config: u32 fd, u32 block_size, struct loop_info64 (232 bytes), u64[8] reserved = 304 bytes."""
    for flags in (LO_FLAGS_DIRECT_IO, 0):  # direct I/O is refused by some file systems
        wanted = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | flags
        info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, wanted, os.fsencode(name)[-63:], b"", b"", 0, 0)
        config = struct.pack("=2I", backing_fd, 0) + info + bytes(64)
        try:
            fcntl.ioctl(fd, LOOP_CONFIGURE, config)
        except OSError as error:
            if error.errno != errno.EINVAL or not flags:
                raise
        else:
            return
