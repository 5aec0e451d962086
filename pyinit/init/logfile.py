"""One stream's log on disk: appended, rotated at line ends, continued exactly where a killed logger stopped.

Owns the file that is current. Must not know pipes, stamps or readers. Laws: what is about to be written is in the
journal before the write, so that a successor sees by the file's size how far it came; a line is never split over two
files, unless it alone is longer than a file may be; no file is ever larger than `max_size`; a full disk costs the
oldest archives first; what can't be written is dropped, and the next `put` is tried after a second; a link that takes the
folder's place at any time leads nowhere: what is made, renamed and removed is so by the folder's fd.
"""

import errno
import os
import stat
import time
from _collections_abc import Callable

from pyinit.init import render
from pyinit.init.archives import Archives, Folder, current_name
from pyinit.init.journal import Record
from pyinit.model import LogSpec

RETRY_S = 1.0  # after a trouble; a disk that is full should not be asked for every chunk
_MODE = 0o640
_MOST_MARGIN = 1 << 16
_NS = 1_000_000_000
_FIRST_LINE = 512


class LogFile:
    """`folder/current` (or `current.err`) and its archives. `trouble` is the last errno, 0 if all is well."""

    def __init__(self, folder: str, spec: LogSpec, stream: str = "stdout", rotated: Callable[[str], None] | None = None) -> None:
        self.folder = folder
        self.trouble = 0
        self.news = ""  # a trouble that nobody has been told of
        self._name = current_name(stream)
        self._path = f"{folder}/{self._name}"
        self._archives = Archives(folder, stream, spec, rotated if spec.compress else None)
        self._most_bytes = spec.max_size_bytes
        self._max_age_ns = int(spec.max_age_s * _NS)
        # Behind this size no line is begun that isn't whole, so that the rest of one begun has room.
        self._full_bytes = spec.max_size_bytes - min(_MOST_MARGIN, spec.max_size_bytes // 8)
        self._retry_at_s = 0.0
        self._fd = -1
        self._dev = self._ino = self.size = 0
        self._born_ns = 0
        self.is_mid_line = False
        self.found_bytes = 0  # of what was put last: there already, by a predecessor

    def look(self) -> None:
        """Open it, if it can be, for `is_mid_line`."""
        try:
            self._open()
        except OSError:
            self.is_mid_line = False

    def mark(self) -> tuple[int, int]:
        """(inode, size) of the file that is current; (0, 0) if there is none."""
        if self._fd >= 0:
            return self._ino, self.size
        try:
            seen = os.stat(self._path)
        except OSError:
            return 0, 0
        return seen.st_ino, seen.st_size

    def put(self, record: Record, data: bytes, save: Callable[[], None]) -> int:
        """Append `data` from byte `record.out_from` on, less what a predecessor did of it; how much of it is there then.

        That is less than all if the disk refuses, and `trouble` says why.
        """
        at = self.found_bytes = record.out_from
        if self.trouble and time.monotonic() < self._retry_at_s:
            return at
        try:
            self._open()
            at += self._done_before(record, len(data) - at)
            self.found_bytes = at
            view = memoryview(data)
            while at < len(data):
                end = self._fitting_end(data, at)
                if end == at:
                    record.out_from, record.ino = at, 0
                    save()
                    self._rotate()
                    continue
                if not record.ino:
                    record.out_from, record.dev, record.ino, record.size = at, self._dev, self._ino, self.size
                    save()
                at += self._append(view[at:end])
        except OSError as error:
            self._fail(error)
        else:
            self.trouble = 0
        return at

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _done_before(self, record: Record, most: int) -> int:
        """By a predecessor, of what the record says it was about to write."""
        if not record.ino:
            return 0
        if (record.dev, record.ino) == (self._dev, self._ino):
            return max(0, min(self.size - record.size, most))
        record.ino = 0  # somebody moved the file: what was written of this went with it
        return 0

    def _fail(self, error: OSError) -> None:
        if not self.trouble:
            self.news = f"{self.folder}: {error.strerror}"
        self.trouble = error.errno or errno.EIO
        self._retry_at_s = time.monotonic() + RETRY_S
        self.close()

    def _open(self) -> None:
        if self._fd >= 0 and self._is_in_place():
            return
        self.close()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with Folder(self.folder, make=True) as folder:
            fd = os.open(self._name, flags, _MODE, dir_fd=folder)
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):  # a FIFO would stop us, and with us every service
            os.close(fd)
            raise OSError(errno.EINVAL, f"{self._name} is no regular file")
        self._fd, self._dev, self._ino, self.size = fd, seen.st_dev, seen.st_ino, seen.st_size
        self.is_mid_line = self.size > 0 and os.pread(fd, 1, self.size - 1) != b"\n"
        if self._max_age_ns:
            now = time.time_ns()  # the wall clock, which is what people mean by a file's age
            first = render.read_stamp(os.pread(fd, _FIRST_LINE, 0)) if self.size else now
            self._born_ns = first if first is not None else seen.st_mtime_ns

    def _is_in_place(self) -> bool:
        """It may have been taken away, or rotated by the stream of a service's earlier life that somebody holds still."""
        try:
            seen = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        self.size = seen.st_size
        return (seen.st_dev, seen.st_ino) == (self._dev, self._ino)

    def _fitting_end(self, data: bytes, start: int) -> int:
        """How far into `data` this file should go: to a line's end; `start` itself if a new file must come first."""
        if self._max_age_ns and self.size and not self.is_mid_line and time.time_ns() - self._born_ns >= self._max_age_ns:
            return start
        if self.size + len(data) - start <= self._full_bytes:
            return len(data)
        room_end = start + max(0, self._most_bytes - self.size)
        cut = data.rfind(b"\n", start, room_end) + 1
        if cut:
            return cut
        if self.is_mid_line or not self.size:
            return min(room_end, len(data))
        return start

    def _append(self, view: memoryview) -> int:
        while True:
            try:
                count = os.write(self._fd, view)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT) and self._archives.drop_oldest():
                    continue
                raise
            self.size += count
            self.is_mid_line = view[count - 1] != 10
            return count

    def _rotate(self) -> None:
        self._archives.add(self.size)
        self.close()
        self._open()
