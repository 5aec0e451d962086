"""Loop devices: a file becomes a block device that goes away with its last user.

Owns LOOP_CONFIGURE's struct. Must not know what the file holds.
Laws: read-only and autoclear always; the caller keeps the fd open until the device is mounted, and an
unmounted device clears itself when that fd closes, so a killed launcher leaves nothing.
Source: loop(4), linux/loop.h.
"""

import errno
import fcntl
import os
import struct

LOOP_CTL_GET_FREE, LOOP_CONFIGURE = 0x4C82, 0x4C0A
LO_FLAGS_READ_ONLY, LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO = 1, 4, 16
_TRIES = 64
_BLOCK_MAJOR = 7


def attach(backing_fd: int, label: str) -> tuple[int, str]:
    """(fd, path) of a new loop device over `backing_fd`; OSError if none can be had."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
            path = _node(number)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _configure(fd, backing_fd, label)
            except OSError as error:
                os.close(fd)
                if error.errno != errno.EBUSY:  # another start took this number: ask for the next
                    raise
                continue
            return fd, path
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, f"loop device for {label}: another program took each of {_TRIES} free ones")


def _node(number: int) -> str:
    path = f"/dev/loop{number}"
    try:
        os.mknod(path, 0o660 | 0o060000, os.makedev(_BLOCK_MAJOR, number))
    except FileExistsError:
        pass
    return path


def _configure(fd: int, backing_fd: int, label: str) -> None:
    """struct loop_config: u32 fd, u32 block_size, struct loop_info64 (232 bytes), u64[8] reserved = 304 bytes."""
    for flags in (LO_FLAGS_DIRECT_IO, 0):  # direct I/O is refused by some file systems
        info = struct.pack(
            "=5Q4I64s64s32s2Q", 0, 0, 0, 0, 0, 0, 0, 0, LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | flags,
            os.fsencode(label)[-63:], b"", b"", 0, 0,
        )  # fmt: skip
        config = struct.pack("=2I", backing_fd, 0) + info + bytes(64)
        try:
            fcntl.ioctl(fd, LOOP_CONFIGURE, config)
        except OSError as error:
            if error.errno != errno.EINVAL or not flags:
                raise
        else:
            return
