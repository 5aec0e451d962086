"""What a stream has said and a log has not got yet.

Owns the spool: a memfd of PID 1's into which a logger splices a pipe. Must not know lines. Law: splice(2) moves the
bytes and the shared offset of the file in one system call, so that after a SIGKILL at any instruction the offset
tells exactly what has left the pipe; nothing but `fill`, `put` and `rewind` moves it.
"""

import os

CHUNK = 1 << 18
MOST = (1 << 20) + CHUNK  # behind this nothing more is taken in before something has gone out; the longest line is less
_CALM = 1 << 14  # a stream that says less at a time keeps no more memory than this


def create() -> int:
    """The memfd, in PID 1."""
    return os.memfd_create("pyinit-log-spool", os.MFD_CLOEXEC)


class Spool:
    """`end`: how many bytes are in it, from the last rewind on."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.end = os.lseek(fd, 0, os.SEEK_CUR)
        self._is_calm = True

    def fill(self, pipe: int) -> int:
        """What the pipe has, up to a chunk; 0 at its end. BlockingIOError if it has nothing."""
        count = os.splice(pipe, self.fd, CHUNK, flags=os.SPLICE_F_NONBLOCK)
        self.end += count
        self._is_calm = count < _CALM
        return count

    def put(self, data: bytes) -> None:
        """Behind what is there, in one write."""
        self.end += os.write(self.fd, data)

    def read(self, start: int, most: int) -> bytes:
        return os.pread(self.fd, min(most, self.end - start), start)

    def last_byte(self) -> bytes:
        """b"" if nothing was ever said."""
        return os.pread(self.fd, 1, self.end - 1) if self.end else b""

    def may_rewind(self, start: int) -> bool:
        """Whether what follows `start` should go to the front, and can without being written over itself."""
        return self.end >= (_CALM if self._is_calm else CHUNK) and self.end - start <= start

    def rewind(self, start: int, end: int) -> None:
        """Copy that to the front. May be done again, after a death in the midst of it, with the same arguments."""
        at = 0
        while start + at < end:
            at += os.pwrite(self.fd, os.pread(self.fd, min(CHUNK, end - start - at), start + at), at)
        if not at and self._is_calm:
            os.ftruncate(self.fd, 0)
        self.end = os.lseek(self.fd, at, os.SEEK_SET)
