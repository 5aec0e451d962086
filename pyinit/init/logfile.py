"""One service's log on disk: appended, stamped by the chunk, rotated at line ends.

Owns the file and its archives. Must not know pipes. Laws: a line is never split over two files, unless it alone is
longer than a file may be; a write that fails drops bytes, counts them, and is tried again with the next chunk.
"""

import contextlib
import os
import time

CURRENT = "current"
ARCHIVE = "@"  # archives sort by their name: @20261124T100000.123456
_MODE, _FOLDER_MODE = 0o640, 0o750

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


class Stamper:
    """Puts a stamp before each line of a stream of chunks."""

    def __init__(self) -> None:
        self._line_start = True

    def apply(self, data: bytes) -> bytes:
        """`data` is not empty."""
        mark = stamp()
        out = data.replace(b"\n", b"\n" + mark)
        if self._line_start:
            out = mark + out
        self._line_start = data.endswith(b"\n")
        return out[: -len(mark)] if self._line_start else out


class LogFile:
    """`folder/current` and its archives; `report` is told once per trouble."""

    def __init__(self, folder: str, max_size_bytes: int, keep: int) -> None:
        self.folder = folder
        self.max_size_bytes = max_size_bytes
        self.keep = keep
        self.dropped_bytes = 0
        self.trouble = ""
        self._fd = -1
        self._size = 0
        self._mid_line = False

    def write(self, data: bytes) -> str:
        """Append; the text of a trouble that is new, else ""."""
        try:
            if self._fd < 0:
                self._open()
            if self.dropped_bytes:
                self._append(b"%s%d bytes were lost here: %s\n" % (stamp(), self.dropped_bytes, self.trouble.encode()))
                self.dropped_bytes, self.trouble = 0, ""
            while data:
                data = data[self._append_some(data) :]
        except OSError as error:
            new = not self.trouble
            self.trouble = f"{self.folder}: {error.strerror}"
            self.dropped_bytes += len(data)
            self.close()
            return self.trouble if new else ""
        return ""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        os.makedirs(self.folder, _FOLDER_MODE, exist_ok=True)
        path = f"{self.folder}/{CURRENT}"
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        self._size = os.fstat(self._fd).st_size
        self._mid_line = self._size > 0 and os.pread(self._fd, 1, self._size - 1) != b"\n"

    def _append_some(self, data: bytes) -> int:
        """Append what this file has room for, rotate when it is full; how many bytes went."""
        room = self.max_size_bytes - self._size
        if len(data) <= room:
            self._append(data)
            return len(data)
        cut = data.rfind(b"\n", 0, max(room, 0)) + 1
        if not cut and (self._mid_line or not self._size):  # its line's end belongs here
            cut = data.find(b"\n") + 1 or len(data)
        if cut:
            self._append(data[:cut])
        if not self._mid_line:
            self._rotate()
        return cut

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = os.write(self._fd, view)
            self._size += count
            self._mid_line = view[count - 1] != 10
            view = view[count:]

    def _rotate(self) -> None:
        t = time.time_ns() // 1000
        while True:
            g = time.gmtime(t // 1_000_000)
            name = (
                f"{ARCHIVE}{g.tm_year:04}{g.tm_mon:02}{g.tm_mday:02}T{g.tm_hour:02}{g.tm_min:02}{g.tm_sec:02}"
                f".{t % 1_000_000:06}"
            )
            if not os.path.lexists(f"{self.folder}/{name}"):
                break
            t += 1
        os.rename(f"{self.folder}/{CURRENT}", f"{self.folder}/{name}")
        self.close()
        for old in archives(self.folder)[: -self.keep]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.folder}/{old}")
        self._open()


def archives(folder: str) -> list[str]:
    """Names of the archives, oldest first."""
    return sorted(name for name in os.listdir(folder) if name.startswith(ARCHIVE))


def tail(folder: str, count: int) -> list[bytes]:
    """The last `count` lines of a log, newlines included; of archives too, if it must be."""
    try:
        names = [*archives(folder), CURRENT]
    except FileNotFoundError:
        return []
    lines: list[bytes] = []
    for name in reversed(names):
        if len(lines) >= count:
            break
        with contextlib.suppress(FileNotFoundError):
            lines = _last_lines(f"{folder}/{name}", count - len(lines)) + lines
    return lines


def _last_lines(path: str, count: int) -> list[bytes]:
    with open(path, "rb", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        data = b""
        while end > 0 and data.count(b"\n") <= count:
            start = max(0, end - (1 << 16))
            file.seek(start)
            data = file.read(end - start) + data
            end = start
    return data.splitlines(keepends=True)[-count:] if count else []
