"""What would overwhelm a container, or the init that is in it: each bounded by itself, for it is also let off without its limit.

They run beside a service that must live on, and tell how far they came.
"""

import errno
import mmap
import os
import signal

from payload import name_of

MOST_CHILDREN = 200
MOST_BYTES = 96 << 20
MOST_FILES = 60_000
MOST_FDS = 1500
ZOMBIES, A_BATCH = 100_000, 500
_CHUNK = bytes(1 << 20)


def forks() -> str:
    """Children that stay, until there is no more room for one."""
    pids = []
    try:
        while len(pids) < MOST_CHILDREN:
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            pids.append(pid)
    except OSError as error:
        return name_of(error)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return f"{len(pids)} children"


def memory() -> str:
    """In a child: whom the kernel kills is the one that has most."""
    pid = os.fork()
    if pid == 0:
        kept = mmap.mmap(-1, MOST_BYTES)
        for at in range(0, MOST_BYTES, mmap.PAGESIZE):
            kept[at] = 1
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return f"killed by {-code}" if code < 0 else f"{MOST_BYTES >> 20} MiB"


def space() -> str:
    return _full("/tmp", "/dev/shm", "/run")


def inodes() -> str:
    """Empty files: no byte of a RAM disk's `size`, yet each is kernel memory."""
    count = 0
    try:
        for folder in ("/tmp", "/dev/shm", "/run"):
            for number in range(MOST_FILES):
                try:
                    os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_WRONLY, 0o600))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break
                count += 1
    except OSError as error:
        return name_of(error)
    return f"{count} files"


def _full(*folders: str) -> str:
    """All of them, one after the other."""
    found = []
    for folder in folders:
        fd = os.open(f"{folder}/bomb", os.O_CREAT | os.O_WRONLY, 0o600)
        size = 0
        try:
            while size < MOST_BYTES:
                size += os.write(fd, _CHUNK)
            found.append("all of it")
        except OSError as error:
            found.append(name_of(error))
        os.close(fd)
    return " ".join(found)


def descriptors() -> str:
    fds = []
    try:
        while len(fds) < MOST_FDS:
            fds.append(os.dup(0))
    except OSError as error:
        return name_of(error)
    finally:
        for fd in fds:
            os.close(fd)
    return f"{len(fds)} descriptors"
