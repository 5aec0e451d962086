"""The logger: one process for the logs of all services.

Owns what happens to a line between a service's pipe and file or terminal. Must not know services' lives or what
`pyinit logs` asks (logclient.py). Laws: it leaves when every pipe has ended, or when PID 1 has (the end of the control
socket), after reading what is there; nothing that a disk, a terminal or a client does stops the reading of the others
for ever. Its death costs what it has read and not written; that the next one continues exactly is for a later
version: the place is between `_Stream.read` and `LogFile.write`.
"""

import errno
import os
import select
import socket
from typing import NamedTuple

from pyinit.init.logclient import Clients
from pyinit.init.logfile import LogFile, Marker, stamp
from pyinit.linux import process
from pyinit.model import LogSpec

_CHUNK = 1 << 16  # more is slower by half: malloc then maps and unmaps, page by page, for each chunk
_LONGEST_PARTIAL = 1 << 16
_STDOUT, _STDERR = 1, 2


class Source(NamedTuple):
    """One pipe: `name` is the service's, "" is PID 1 itself."""

    name: str
    fd: int
    spec: LogSpec


class Watch:
    """Whether a line of a stream matches; a line counts when it is whole, or very long."""

    def __init__(self, pattern: str) -> None:
        import re  # for those only who wait for a line

        self._pattern = re.compile(pattern.encode())
        self._begun = b""

    def sees(self, data: bytes) -> bool:
        *lines, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > _LONGEST_PARTIAL:
            lines.append(self._begun)
            self._begun = b""
        return any(self._pattern.search(line) for line in lines)


class _Stream:
    """One pipe's way: stamps, file, echo."""

    def __init__(self, source: Source, log_dir: str) -> None:
        self.name = source.name
        self.fd = source.fd
        self.spec = source.spec
        self.marker: Marker | None = None  # made when it first speaks
        self.watch: Watch | None = None
        self.partial = b""  # of the echo: only whole lines go out
        self.partial_stamped = b""  # of those who follow
        self.echo_fd = _STDERR if not source.name else _STDOUT if source.spec.echo or source.spec.to == "stdout" else -1
        self.file = None
        if source.name and source.spec.to == "file":
            self.file = LogFile(f"{log_dir}/{source.name}", source.spec.max_size_bytes, source.spec.keep)

    def read(self) -> bytes | None:
        """What is there; b"" at the end, None if nothing is."""
        try:
            return os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return None

    def stamped(self, data: bytes) -> bytes:
        """A line that an earlier logger began gets no second stamp."""
        if self.marker is None:
            self.marker = Marker(line_start=self.file is None or not self.file.is_mid_line())
        return self.marker.apply(data, stamp() if self.spec.timestamp == "iso" else b"")


class Logger:
    def __init__(self, sources: list[Source], log_dir: str, control: socket.socket) -> None:
        self._streams = {source.fd: _Stream(source, log_dir) for source in sources}
        self._control = control
        self._epoll = select.epoll()
        specs = {source.name: source.spec for source in sources if source.name}
        self._clients = Clients(specs, log_dir, self._epoll, self._obey)
        self._ending = False

    def run(self) -> None:
        """Until every pipe has ended."""
        for fd in self._streams:
            os.set_blocking(fd, False)
            self._epoll.register(fd, select.EPOLLIN)
        self._control.setblocking(False)  # noqa: FBT003 - no keywords there
        self._epoll.register(self._control.fileno(), select.EPOLLIN)
        while self._streams and not self._ending:
            ready = self._epoll.poll()
            ready.sort(key=lambda pair: pair[0] != self._control.fileno())  # PID 1 asks for a line before it can come
            for fd, mask in ready:
                self._call(fd, mask)
        for stream in list(self._streams.values()):  # what is in the pipes now, then an end, whoever holds them still
            while stream.fd in self._streams and self._pump(stream):
                pass
        self._clients.finish()

    def _call(self, fd: int, mask: int) -> None:
        try:
            self._serve(fd, mask)
        except Exception as error:  # noqa: BLE001 - the process's edge: what fails for one is no reason to stop for all
            _say(f"logger: {type(error).__name__}: {error}")

    def _serve(self, fd: int, mask: int) -> None:
        if fd in self._streams:
            self._pump(self._streams[fd])
        elif fd == self._control.fileno():
            self._ending = not self._clients.accept(self._control)
        else:
            self._clients.serve(fd, mask)

    def _obey(self, words: list[str]) -> None:
        """watch NAME PATTERN, or unwatch NAME."""
        for stream in self._streams.values():
            if stream.name == words[1]:
                stream.watch = Watch(words[2]) if words[0] == "watch" else None

    def _watch(self, stream: _Stream, watch: "Watch", data: bytes) -> None:
        if watch.sees(data):
            stream.watch = None
            self._control.send(stream.name.encode())

    def _pump(self, stream: _Stream) -> bool:
        """One chunk of one pipe, so that a loud service does not starve the others; False if there was none."""
        data = stream.read()
        if data is None:
            return False
        if not data:
            self._end(stream)
            return False
        self._pass_on(stream, data)
        return True

    def _end(self, stream: _Stream) -> None:
        """What was begun is ended with a newline."""
        self._epoll.unregister(stream.fd)
        os.close(stream.fd)
        del self._streams[stream.fd]
        if stream.partial or (stream.marker is not None and not stream.marker.line_start):
            self._pass_on(stream, b"\n")
        if stream.file is not None:
            stream.file.close()

    def _pass_on(self, stream: _Stream, data: bytes) -> None:
        if stream.name:
            stamped = stream.stamped(data)
            self._keep(stream, stamped)
            if stream.watch is not None:
                self._watch(stream, stream.watch, data)
            self._follow(stream, stamped)
        if stream.echo_fd >= 0:
            self._echo(stream, data)

    @staticmethod
    def _keep(stream: _Stream, stamped: bytes) -> None:
        trouble = stream.file.write(stamped) if stream.file is not None else ""
        if trouble:
            _say(f"log of {stream.name}: {trouble}: lines are dropped until that is mended")

    def _follow(self, stream: _Stream, stamped: bytes) -> None:
        """Whole lines, or a long piece of an endless one. What is begun is kept even while nobody follows."""
        end = stamped.rfind(b"\n") + 1
        if not end and len(stream.partial_stamped) + len(stamped) > _LONGEST_PARTIAL:
            end = len(stamped)
        if not end:
            stream.partial_stamped += stamped
            return
        self._clients.publish(stream.name, stream.partial_stamped, stamped[:end] if self._clients.count else b"")
        stream.partial_stamped = stamped[end:]

    @staticmethod
    def _echo(stream: _Stream, data: bytes) -> None:
        whole, mark, rest = data.rpartition(b"\n")
        if not mark and len(stream.partial) + len(rest) < _LONGEST_PARTIAL:
            stream.partial += rest
            return
        if not mark:
            whole, rest = rest, b""
        prefix = f"{stream.name}: ".encode() if stream.name else b""
        body = whole.replace(b"\n", b"\n" + prefix) if prefix else whole
        _write_all(stream.echo_fd, b"".join((prefix, stream.partial, body, b"\n")))
        stream.partial = rest


def _say(text: str) -> None:
    _write_all(_STDERR, f"pyinit: {text}\n".encode("utf-8", "replace"))


def _write_all(fd: int, data: bytes) -> None:
    """Standard output may be slow, which we wait for; or gone, which we don't mind."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])
        except OSError as error:
            if error.errno != errno.EINTR:
                return


def run(sources: list[Source], log_dir: str, control: socket.socket) -> None:
    """The whole life of the logger's process, which is a fork of PID 1 with all signals blocked."""
    process.set_name("pyinit-logger")
    Logger(sources, log_dir, control).run()
