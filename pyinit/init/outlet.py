"""Standard output or error of PID 1, for the lines of services.

Owns the box: a memfd of PID 1's that holds one piece of text until the terminal, pipe or file has taken it. Must not
know whose lines they are. Laws: sendfile(2) hands bytes over and moves the box's shared offset in one system call, so
that a successor goes on behind what was taken; nobody waits for a reader; what is refused (no reader any more, a full
disk, a limit) is dropped, counted, and the count said with the next piece that is taken.
"""

import errno
import os
import select
import stat

_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_SURE = 4096  # PIPE_BUF: a pipe that is writable takes as much without waiting


def create() -> int:
    """The box, in PID 1."""
    return os.memfd_create("pyinit-log-box", os.MFD_CLOEXEC)


class Outlet:
    """`fd` is 1 or 2. `wait_fd` is to be watched for EPOLLOUT while `is_free` is false; -1: it never makes us wait."""

    def __init__(self, fd: int, box: int) -> None:
        self._box = box
        self._fd, self.wait_fd = _without_waiting(fd)
        self._most = 1 << 20 if self._fd != fd or self.wait_fd < 0 else _SURE
        self._blocks = self._fd == fd and self.wait_fd >= 0
        self._sendfile = True
        self._text_bytes = self._lost_bytes = self._lost_errno = 0
        self._is_within_line = False
        self._is_held = False
        self._left = max(0, os.fstat(box).st_size - os.lseek(box, 0, os.SEEK_CUR))
        if not self._left:
            self._empty()

    @property
    def is_free(self) -> bool:
        return not self._left and not self._is_held

    def hold(self) -> None:
        """A predecessor died while it filled the box: nothing is sent before that has been done again."""
        self._is_held = True

    def fill(self, text: bytes) -> None:
        """`text` is what comes next; only if it is free, or to say once more what a predecessor was about to say."""
        os.ftruncate(self._box, 0)
        at, self._text_bytes = 0, len(text)
        if self._lost_bytes:
            why = os.strerror(self._lost_errno).encode()
            text = b"%spyinit: %d bytes were dropped here: %s\n%s" % (b"\n" * self._is_within_line, self._lost_bytes, why, text)
        while at < len(text):
            at += os.pwrite(self._box, text[at:] if at else text, at)
        self._left = at
        self._is_held = False

    def send(self) -> None:
        """As much as it takes now."""
        if self._is_held:
            return
        try:
            while self._left:
                count = self._send()
                if not count:
                    break
                self._left -= count
            else:
                self._lost_bytes = 0  # that has been said
        except BlockingIOError:
            return
        except OSError as error:
            self._drop(error.errno or errno.EIO)
        if not self._left:
            self._empty()

    def _drop(self, why: int) -> None:
        if self._left <= self._text_bytes:
            self._lost_bytes = 0  # that has been said
            self._is_within_line = self._left < self._text_bytes
        self._lost_bytes += min(self._left, self._text_bytes)
        self._lost_errno = why
        self._left = 0

    def _send(self) -> int:
        if self._blocks and not self._has_room():
            raise BlockingIOError
        if self._sendfile:
            try:
                return os.sendfile(self._fd, self._box, None, min(self._left, self._most))
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self._sendfile = False  # a file that is open for appending: then the bytes and the offset are two steps
        at = os.lseek(self._box, 0, os.SEEK_CUR)
        count = os.write(self._fd, os.pread(self._box, min(self._left, self._most), at))
        os.lseek(self._box, count, os.SEEK_CUR)
        return count

    def _has_room(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0))

    def _empty(self) -> None:
        """By truncation: a pipe may hold pages of it still, which must not be written over."""
        os.ftruncate(self._box, 0)
        os.lseek(self._box, 0, os.SEEK_SET)


def _without_waiting(fd: int) -> tuple[int, int]:
    """(what to write to, what to wait for): opened anew where that can be, for O_NONBLOCK on `fd` would be everybody's."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:  # closed
        return fd, -1
    if stat.S_ISREG(mode):
        return fd, -1
    if stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and os.isatty(fd)):
        try:
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return fd, fd
        return own, own
    return (fd, fd) if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode) else (fd, -1)
