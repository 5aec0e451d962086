"""The files of a log: their names, what is kept of them, and gzip in the background.

Owns LOG_DIR/NAME/: `current` and its archives, `current.err` and its archives. Must not know lines. Laws: names sort
by the time of their rotation; an archive is there under its name or, once its compressed copy is whole, under that
with `.gz`; one file at a time is compressed, by a process of lowest priority; all of it is done by the folder's fd, so that
no link in its place leads elsewhere.
"""

import os
import select
import time
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.init import render
from pyinit.linux import process
from pyinit.model import LogSpec

CURRENT = "current"
GZIP = ".gz"
_ERR = ".err"
_MARK = "@"  # archives are @20261124T100000.123456
_PART = ".part"
_BLOCK = 1 << 16
_GZIP_WBITS = 31
_LOWEST = 19
_FOLDER_MODE = 0o750


def current_name(stream: str) -> str:
    """`current`, or that of separate errors."""
    return CURRENT + _ERR if stream == "stderr" else CURRENT


def archive_name(us: int, stream: str) -> str:
    """Of a rotation at `us` microseconds since 1970."""
    t = time.gmtime(us // 1_000_000)
    text = f"{_MARK}{t.tm_year:04}{t.tm_mon:02}{t.tm_mday:02}T{t.tm_hour:02}{t.tm_min:02}{t.tm_sec:02}.{us % 1_000_000:06}"
    return text + _ERR if stream == "stderr" else text


def archive_time(name: str) -> int:
    """Its rotation in microseconds since 1970; 0 if it has no such name."""
    t = name[1:]
    text = f"{t[:4]}-{t[4:6]}-{t[6:11]}:{t[11:13]}:{t[13:22]}Z".encode()
    return (render.read_stamp(text) or 0) // 1000


def archives(folder: str | int, stream: str = "stdout") -> list[str]:
    """Names, oldest first, each once: the compressed one counts only where the other has gone. OSError."""
    found = {}
    for name in sorted(os.listdir(folder), reverse=True):  # "X.gz" before "X"
        bare = name.removesuffix(GZIP)
        if name.startswith(_MARK) and not name.endswith(_PART) and bare.endswith(_ERR) == (stream == "stderr"):
            found[bare] = name
    return [found[bare] for bare in sorted(found)]


class Folder:
    """A log's own, by an fd that its names are read with, but ELOOP by a link to /proc/PID/fd: there what is made is the host's."""

    def __init__(self, path: str, *, make: bool = False) -> None:
        """`make`: it, and the one that it is in, if they are missing."""
        from pyinit.linux import mount  # for those who write files

        if make:
            for one in (os.path.dirname(path), path):
                os.close(mount.folder_plainly(one, _FOLDER_MODE))
        self._fd = mount.open_plainly(path, os.O_RDONLY | os.O_DIRECTORY)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class Archives:
    """Those of one stream. `rotated(path)` hears of each new one that is to be compressed."""

    def __init__(self, folder: str, stream: str, spec: LogSpec, rotated: Callable[[str], None] | None) -> None:
        self.folder = folder
        self._stream = stream
        self._spec = spec
        self._rotated = rotated
        self._last_us = 0

    def add(self, current_bytes: int) -> None:
        """`current` becomes an archive; before it the oldest go, so that there are never too many. OSError."""
        with Folder(self.folder) as folder:
            self._add(folder, current_bytes)

    def _add(self, folder: int, current_bytes: int) -> None:
        old = archives(folder, self._stream)
        if old and not self._last_us:
            self._last_us = archive_time(old[-1])
        many = max(0, len(old) - self._spec.keep + 1)
        if self._spec.total_size_bytes:
            room = self._spec.total_size_bytes - current_bytes - self._spec.max_size_bytes  # the new archive, the new file
            sizes = [_size(folder, name) for name in old]
            while many < len(old) and sum(sizes[many:]) > room:
                many += 1
        for name in old[:many]:
            _remove(folder, name)
        name = self._new_name(folder)
        with contextlib.suppress(FileNotFoundError):  # someone took it away: begin a new one
            os.rename(current_name(self._stream), name, src_dir_fd=folder, dst_dir_fd=folder)
            if self._rotated is not None:
                self._rotated(f"{self.folder}/{name}")

    def drop_oldest(self) -> bool:
        """On a disk that is smaller than what is to be kept the newest lines are worth more than the oldest."""
        with Folder(self.folder) as folder:
            for name in archives(folder, self._stream)[:1]:
                _remove(folder, name)
                return True
        return False

    def _new_name(self, folder: int) -> str:
        """Of now, and behind the last one's, should the clock have been set back."""
        while True:
            self._last_us = max(time.time_ns() // 1000, self._last_us + 1)
            name = archive_name(self._last_us, self._stream)
            try:
                os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return name


def _remove(folder: int, name: str) -> None:
    for one in {name, name.removesuffix(GZIP), name.removesuffix(GZIP) + GZIP}:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(one, dir_fd=folder)


def _size(folder: int, name: str) -> int:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
    except FileNotFoundError:  # it has just been compressed
        return 0


class Compressor:
    """gzip, one archive after the other; its child's pidfd is in the logger's epoll."""

    def __init__(self, epoll: select.epoll, report: Callable[[str], None]) -> None:
        self._epoll = epoll
        self._report = report
        self._queue: list[str] = []
        self._path = ""
        self.pidfd = -1

    def add(self, path: str) -> None:
        self._queue.append(path)
        self._next()

    def take_over(self, folder: str, stream: str) -> None:
        """What an earlier logger left: half a copy is removed, and what has none gets it."""
        with contextlib.suppress(OSError), Folder(folder) as place:
            for name in os.listdir(place):
                if name.startswith(_MARK) and name.endswith(_PART) and (_ERR + GZIP in name) == (stream == "stderr"):
                    os.unlink(name, dir_fd=place)
            for name in archives(place, stream):
                if not name.endswith(GZIP):
                    self.add(f"{folder}/{name}")

    def ended(self) -> None:
        """The child has; its copy is whole or not there."""
        if any(code for _, code, _ in process.exits(1)):
            self._report(f"{self._path}: could not be compressed, and stays as it is")
        self._forget()
        self._next()

    def close(self) -> None:
        """A copy that is not whole is no loss: its archive is there."""
        self._queue = []
        if self.pidfd >= 0:
            process.pidfd_send_signal(self.pidfd, 9)
            select.select([self.pidfd], [], [])
            process.exits(1)
            self._forget()

    def _forget(self) -> None:
        self._epoll.unregister(self.pidfd)
        os.close(self.pidfd)
        self.pidfd = -1

    def _next(self) -> None:
        if self.pidfd >= 0 or not self._queue:
            return
        from pyinit.linux import mount  # noqa: F401 - now, and not in the child

        self._path = self._queue.pop(0)
        try:
            pid, self.pidfd = process.clone(0)
        except OSError as error:
            self._report(f"{self._path}: could not be compressed: {error.strerror}; it stays as it is")
            return
        if pid == 0:
            _child(self._path)
        self._epoll.register(self.pidfd, select.EPOLLIN)


def _child(path: str) -> None:
    code = 1
    try:
        process.set_name("pyinit-gzip")
        process.prctl(process.PR_SET_PDEATHSIG, 9)  # the next logger begins with the same archive
        process.close_all_but({0, 1, 2})
        os.nice(_LOWEST)
        compress(path)
        code = 0
    except FileNotFoundError:  # it was the oldest, and had to go
        code = 0
    finally:
        os._exit(code)


def compress(path: str) -> None:
    """`path` becomes `path.gz`, with its mode and time, whole or not at all. OSError."""
    folder, name = os.path.split(path)
    with Folder(folder) as place:
        _compress(place, name)


def _compress(folder: int, name: str) -> None:
    import zlib  # in a process of its own; loaded before the pivot where a config asks for it (launcher)

    part = f"{name}{GZIP}.{os.getpid()}{_PART}"  # one that a killed logger left is never taken for ours
    source = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)  # no waiting for a FIFO in its place
    seen = os.fstat(source)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    target = os.open(part, flags, seen.st_mode & 0o777, dir_fd=folder)
    try:
        packer = zlib.compressobj(wbits=_GZIP_WBITS)
        with open(target, "wb", closefd=False) as out:
            while data := os.read(source, _BLOCK):
                out.write(packer.compress(data))
            out.write(packer.flush())
        os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        os.fsync(target)
        os.stat(name, dir_fd=folder, follow_symlinks=False)  # removed meanwhile: its copy is not wanted either
        os.rename(part, name + GZIP, src_dir_fd=folder, dst_dir_fd=folder)
        os.unlink(name, dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise
    finally:
        os.close(target)
        os.close(source)
