"""One service's log on disk: appended, stamped by the chunk, rotated at line ends.

Owns the file and its archives. Must not know pipes or readers. Laws: a line is never split over two files, unless it
alone is longer than a file may be; no file is ever larger than `max_size_bytes`, nor are there more than `keep`
archives; a full disk costs the oldest archives first; a write that fails drops bytes, counts them, and is tried again with a later chunk.
"""

import contextlib
import errno
import os
import stat
import time

CURRENT = "current"
ARCHIVE = "@"  # archives sort by their name: @20261124T100000.123456
RETRY_S = 1.0  # after a trouble; a disk that is full should not be asked for every chunk
_MODE, _FOLDER_MODE = 0o640, 0o750
_MOST_MARGIN = 1 << 16

_second, _text = -1, b""


def stamp() -> bytes:
    """`2026-11-24T10:00:00.123456Z `, UTC; the part down to the second is made once a second."""
    global _second, _text  # noqa: PLW0603 - a cache of one value, in a process of its own
    now = time.time_ns()  # the wall clock, for people
    second, rest = divmod(now, 1_000_000_000)
    if second != _second:
        t = time.gmtime(second)
        _text = b"%04d-%02d-%02dT%02d:%02d:%02d." % (t.tm_year, t.tm_mon, t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec)
        _second = second
    return b"%s%06dZ " % (_text, rest // 1000)


class Marker:
    """Puts a mark before each line of a stream of chunks; a line that comes in two chunks is marked once."""

    def __init__(self, *, line_start: bool = True) -> None:
        self.line_start = line_start

    def apply(self, data: bytes, mark: bytes) -> bytes:
        """`data` is not empty."""
        last = data.endswith(b"\n")
        if not mark:
            self.line_start = last
            return data
        # One pass and one copy: the mark behind a last newline would be the next chunk's.
        out = (data[:-1] if last else data).replace(b"\n", b"\n" + mark)
        out = b"".join((mark if self.line_start else b"", out, b"\n" if last else b""))
        self.line_start = last
        return out


class LogFile:
    """`folder/current` and its archives."""

    def __init__(self, folder: str, max_size_bytes: int, keep: int) -> None:
        self.folder = folder
        self.max_size_bytes = max_size_bytes
        self.keep = keep
        self.lost_bytes = 0
        self.trouble = ""
        # Behind this size no line is begun that isn't whole, so that the rest of one begun has room.
        self._full_bytes = max_size_bytes - min(_MOST_MARGIN, max_size_bytes // 8)
        self._retry_at_s = 0.0
        self._archive_us = 0
        self._fd = -1
        self._size = 0
        self._mid_line = False
        self._done = 0  # bytes of the present chunk that are written

    def is_mid_line(self) -> bool:
        """Whether the file, as an earlier logger left it, ends within a line."""
        with contextlib.suppress(OSError):
            self._open()
        return self._mid_line

    def write(self, data: bytes) -> str:
        """Append; the text of a trouble that is new, else ""."""
        if self.trouble and time.monotonic() < self._retry_at_s:
            self.lost_bytes += len(data)
            return ""
        self._done = 0
        try:
            self._open()
            self._mend()
            view = memoryview(data)
            while self._done < len(data):
                end = self._fitting_end(data)
                if end > self._done:
                    self._append(view[self._done : end])
                else:
                    self._rotate()
        except OSError as error:
            return self._fail(error, len(data) - self._done)
        return ""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _fail(self, error: OSError, lost_bytes: int) -> str:
        is_new = not self.trouble
        self.trouble = f"{self.folder}: {error.strerror}"
        self.lost_bytes += lost_bytes
        self._retry_at_s = time.monotonic() + RETRY_S
        self.close()
        return self.trouble if is_new else ""

    def _mend(self) -> None:
        """After a trouble: say in the log itself what is missing there."""
        if not self.trouble:
            return
        if self.lost_bytes:
            start = b"\n" if self._mid_line else b""
            self._append(b"%s%s%d bytes were lost here: %s\n" % (start, stamp(), self.lost_bytes, self.trouble.encode()))
        self.lost_bytes, self.trouble, self._done = 0, "", 0

    def _open(self) -> None:
        if self._fd >= 0:
            return
        os.makedirs(self.folder, _FOLDER_MODE, exist_ok=True)
        path = f"{self.folder}/{CURRENT}"
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(path, flags, _MODE)
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):  # a FIFO would stop us, and with us every service
            os.close(fd)
            raise OSError(errno.EINVAL, f"{CURRENT} is no regular file")
        self._fd, self._size = fd, seen.st_size
        self._mid_line = self._size > 0 and os.pread(fd, 1, self._size - 1) != b"\n"

    def _fitting_end(self, data: bytes) -> int:
        """How far into `data` this file should go: to a line's end; `_done` itself if a new file must come first."""
        start = self._done
        if self._size + len(data) - start <= self._full_bytes:
            return len(data)
        room_end = start + max(0, self.max_size_bytes - self._size)
        cut = data.rfind(b"\n", start, room_end) + 1
        if cut:
            return cut
        if self._mid_line or not self._size:
            return min(room_end, len(data))
        return start

    def _append(self, view: bytes | memoryview) -> None:
        while view:
            try:
                count = os.write(self._fd, view)
            except OSError as error:
                if error.errno == errno.ENOSPC and self._drop_oldest():
                    continue
                raise
            self._size += count
            self._done += count
            self._mid_line = view[count - 1] != 10
            view = view[count:]

    def _drop_oldest(self) -> bool:
        """On a disk that is smaller than `keep` archives the newest lines are worth more than the oldest."""
        for old in archives(self.folder)[:1]:
            os.unlink(f"{self.folder}/{old}")
            return True
        return False

    def _rotate(self) -> None:
        archived = archives(self.folder)
        for old in archived[: max(0, len(archived) - self.keep + 1)]:  # before the new one, so that there is never one more
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.folder}/{old}")
        with contextlib.suppress(FileNotFoundError):  # someone took it away: begin a new one
            os.rename(f"{self.folder}/{CURRENT}", f"{self.folder}/{self._archive_name()}")
        self.close()
        self._open()

    def _archive_name(self) -> str:
        """Of now, and behind the last one's, should the clock have been set back."""
        while True:
            self._archive_us = t = max(time.time_ns() // 1000, self._archive_us + 1)
            g = time.gmtime(t // 1_000_000)
            name = (
                f"{ARCHIVE}{g.tm_year:04}{g.tm_mon:02}{g.tm_mday:02}T{g.tm_hour:02}{g.tm_min:02}{g.tm_sec:02}"
                f".{t % 1_000_000:06}"
            )
            if not os.path.lexists(f"{self.folder}/{name}"):
                return name


def archives(folder: str) -> list[str]:
    """Names of the archives, oldest first."""
    return sorted(name for name in os.listdir(folder) if name.startswith(ARCHIVE))
