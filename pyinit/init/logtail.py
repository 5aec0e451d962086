"""The last lines of a log, read as fast as a client takes them.

Owns the way back through `current` and its archives. Must not know sockets. Laws: the files are opened at once, so a
rotation in between takes nothing away; memory does not grow with the number of lines.
"""

import os

from pyinit.init.logfile import CURRENT, Marker, archives

_BLOCK = 1 << 16


class Tail:
    """The last `count` lines of the log in `folder`; `read()` until b"", or `close()`.

    `whole`: without a line that is not finished yet; else that one gets its newline.
    """

    def __init__(self, folder: str, count: int, prefix: bytes, *, whole: bool) -> None:
        self._prefix = prefix
        self._marker = Marker()
        self._pieces: list[tuple[int, int, int]] = []  # fd, from, to; the oldest last
        try:
            names = [*archives(folder), CURRENT]
        except OSError:  # nothing has been written
            names = []
        for name in reversed(names):
            if count > 0:
                count -= self._add(f"{folder}/{name}", count, whole=whole and name == CURRENT)

    def read(self) -> bytes:
        """The next piece; b"" at the end."""
        while self._pieces:
            fd, start, end = self._pieces[-1]
            data = os.pread(fd, min(_BLOCK, end - start), start)
            if data:
                self._pieces[-1] = (fd, start + len(data), end)
                return self._marker.apply(data, self._prefix)
            self._pieces.pop()
            os.close(fd)
        last = b"" if self._marker.line_start else b"\n"
        self._marker.line_start = True
        return last

    def close(self) -> None:
        for fd, _, _ in self._pieces:
            os.close(fd)
        self._pieces = []

    def _add(self, path: str, count: int, *, whole: bool) -> int:
        """How many lines it gives."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return 0
        end = os.fstat(fd).st_size
        if whole:
            end = _last_line_end(fd, end)
        start, lines = _start_of_last(fd, end, count)
        self._pieces.append((fd, start, end))
        return lines


def _last_line_end(fd: int, end: int) -> int:
    while end > 0:
        low = max(0, end - _BLOCK)
        newline = os.pread(fd, end - low, low).rfind(b"\n")
        if newline >= 0:
            return low + newline + 1
        end = low
    return 0


def _start_of_last(fd: int, end: int, count: int) -> tuple[int, int]:
    """(where the last `count` lines before `end` begin, how many there are)."""
    if end <= 0:
        return 0, 0
    found, high = 0, end - 1  # the last line's own newline begins no other
    while high > 0:
        low = max(0, high - _BLOCK)
        block = os.pread(fd, high - low, low)
        here = block.count(b"\n")
        if found + here >= count:
            at = len(block)
            for _ in range(count - found):
                at = block.rfind(b"\n", 0, at)
            return low + at + 1, count
        found += here
        high = low
    return 0, found + 1
