"""Pinned images: the file that is there is the file that is meant.

Owns the hashing and the memory of what was hashed. Must not know what an image is used for. Laws: only pinned images
are read, in a child, so that neither monitor nor PID 1 carries the hash's library; a digest is remembered for the
very device, inode, size and times, and only if these are old enough for any later write to show in them; what is
mounted is compared with what was verified by the same marks.
"""

import os
import time

from pyinit.errors import LaunchError
from pyinit.launch.onhost import VerifyImage
from pyinit.linux import process
from pyinit.records import NamedTuple

_HEX_DIGITS = 64
_SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system is FAT's, 2 s
_MOST_CACHE_BYTES = 1 << 18
_KILL = 9


class Identity(NamedTuple):
    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


def identity(fd: int) -> Identity:
    """Of an open file."""
    seen = os.fstat(fd)
    return Identity(seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


def verify(step: VerifyImage, cache: str) -> Identity:
    """What the file with the expected digest is known by; LaunchError. `cache`: a file in a folder of ours alone."""
    try:
        fd = os.open(step.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found, marks = _digest(fd, cache)
        finally:
            os.close(fd)
    except OSError as error:
        raise LaunchError(f"{step.origin}: {step.describe()}: {error.strerror}") from error
    if found != step.sha256:
        raise LaunchError(
            f"{step.origin}: {step.path} is not the image that is pinned: expected sha256:{step.sha256}, found sha256:{found}; "
            "copy the right one, or pin the one that is there"
        )
    return marks


def _digest(fd: int, cache: str) -> tuple[str, Identity]:
    while True:
        marks = identity(fd)
        known = _remembered(cache, marks)
        if known:
            return known, marks
        started_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)  # files' times are the wall clock's
        found = _hash_in_child(fd)
        if identity(fd) == marks:
            break
    if started_ns - max(marks.mtime_ns, marks.ctime_ns) > _SETTLED_NS:
        _remember(cache, marks, found)
    return found, marks


def _remembered(cache: str, marks: Identity) -> str:
    """The last line that fits; lines are appended by one write each, and one that is torn fits nothing."""
    head = " ".join(map(str, marks)) + " "
    try:
        with open(cache) as file:
            lines = [line for line in file if line.startswith(head) and line.endswith("\n")]
    except FileNotFoundError:
        return ""
    found = lines[-1][len(head) : -1] if lines else ""
    return found if len(found) == _HEX_DIGITS else ""


def _remember(cache: str, marks: Identity, digest: str) -> None:
    fd = os.open(cache, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size > _MOST_CACHE_BYTES:
            os.ftruncate(fd, 0)
        os.write(fd, f"{' '.join(map(str, marks))} {digest}\n".encode())
    finally:
        os.close(fd)


def _hash_in_child(fd: int) -> str:
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = process.clone(0)
    if pid == 0:
        os._exit(_child(fd, write_fd))
    os.close(write_fd)
    os.close(pidfd)
    with open(read_fd, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(pid, 0)
    if len(answer) != _HEX_DIGITS:
        number = int(answer or 5)  # EIO
        raise OSError(number, os.strerror(number))
    return answer


def _child(fd: int, write_fd: int) -> int:
    """The digest, or an errno, goes into the pipe."""
    import hashlib  # here only: it brings OpenSSL with it

    process.prctl(process.PR_SET_PDEATHSIG, _KILL)  # it holds the name's locks
    try:
        with open(f"/proc/self/fd/{fd}", "rb", buffering=0) as file:  # a position of its own
            answer = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        answer = str(error.errno)
    os.write(write_fd, answer.encode())
    return 0
