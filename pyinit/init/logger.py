"""The logger: one process for the logs of all services.

Owns what happens to a line between a service's pipe and file, terminal or `pyinit logs`. Must not know services'
lives. Laws: it leaves when every pipe has ended, or when PID 1 has (the end of the control socket), after reading
what is there; nothing that a disk, a terminal or a client does stops the reading of the others for ever.
Its death costs what it has read and not written; that the next one continues exactly is for a later version:
the place is between `_Stream.read` and `LogFile.write`.
"""

import errno
import os
import select
import socket
from typing import NamedTuple

from pyinit.init.logfile import LogFile, Stamper, tail
from pyinit.linux import process
from pyinit.model import LogSpec

_CHUNK = 1 << 18
_LONGEST_PARTIAL = 1 << 16
_MOST_QUEUED = 1 << 20
_MOST_REQUEST = 1 << 16
_DEFAULT_LINES = 10


class Source(NamedTuple):
    """One pipe: `name` is the service's, "" is PID 1 itself."""

    name: str
    fd: int
    spec: LogSpec


class _Client:
    """Someone who asked for logs: what is to be sent, and which services are followed."""

    def __init__(self, sock: socket.socket, names: list[str], *, follow: bool) -> None:
        self.sock = sock
        self.names = names
        self.follow = follow
        self.queue = b""

    def take(self, name: str, lines: list[bytes]) -> None:
        prefix = f"{name}: ".encode() if len(self.names) > 1 else b""
        if len(self.queue) < _MOST_QUEUED:
            self.queue += b"".join(prefix + line for line in lines)
        elif self.follow:
            self.follow = False
            self.queue += b"pyinit: this reader is too slow: lines are missing from here on\n"


class _Stream:
    """One pipe's way: stamps, file, echo."""

    def __init__(self, source: Source, log_dir: str) -> None:
        self.name = source.name
        self.fd = source.fd
        self.spec = source.spec
        self.stamper = Stamper()
        self.partial = b""  # of the echo: only whole lines go out
        self.partial_stamped = b""  # of those who follow
        self.file = None
        if source.name and source.spec.to == "file":
            self.file = LogFile(f"{log_dir}/{source.name}", source.spec.max_size_bytes, source.spec.keep)

    def read(self) -> bytes | None:
        """What is there; b"" at the end, None if nothing is."""
        try:
            return os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return None


class Logger:
    def __init__(self, sources: list[Source], log_dir: str, control: socket.socket) -> None:
        self._log_dir = log_dir
        self._streams = {source.fd: _Stream(source, log_dir) for source in sources}
        self._control = control
        self._clients: dict[int, _Client] = {}
        self._epoll = select.epoll()
        self._ending = False

    def run(self) -> None:
        """Until every pipe has ended."""
        for fd in self._streams:
            os.set_blocking(fd, False)
            self._epoll.register(fd, select.EPOLLIN)
        self._control.setblocking(False)  # noqa: FBT003 - no keywords there
        self._epoll.register(self._control.fileno(), select.EPOLLIN)
        while self._streams and not self._ending:
            for fd, mask in self._epoll.poll():
                self._serve(fd, mask)
        self._finish()

    def _serve(self, fd: int, mask: int) -> None:
        if fd in self._streams:
            self._pump(self._streams[fd])
        elif fd == self._control.fileno():
            self._accept()
        elif fd in self._clients:
            self._send(self._clients[fd], mask)

    def _finish(self) -> None:
        """PID 1 is gone or drains us: what is in the pipes now, then an end, whoever holds them still."""
        for stream in list(self._streams.values()):
            while stream.fd in self._streams and self._pump(stream):
                pass
        for client in list(self._clients.values()):
            self._send(client, 0)

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
        self._epoll.unregister(stream.fd)
        os.close(stream.fd)
        del self._streams[stream.fd]
        if stream.partial or stream.partial_stamped:
            self._pass_on(stream, b"\n")
        if stream.file is not None:
            stream.file.close()

    def _pass_on(self, stream: _Stream, data: bytes) -> None:
        stamped = stream.stamper.apply(data) if stream.spec.timestamp == "iso" else data
        if stream.file is not None:
            trouble = stream.file.write(stamped)
            if trouble:
                _write_all(2, f"pyinit: log of {stream.name}: {trouble}: lines are dropped until that is mended\n".encode())
        self._follow(stream, stamped)
        if stream.spec.echo or stream.spec.to == "stdout":
            self._echo(stream, data)

    def _follow(self, stream: _Stream, stamped: bytes) -> None:
        lines = (stream.partial_stamped + stamped).splitlines(keepends=True)
        stream.partial_stamped = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        if len(stream.partial_stamped) > _LONGEST_PARTIAL:
            lines.append(stream.partial_stamped)
            stream.partial_stamped = b""
        for client in list(self._clients.values()):
            if client.follow and stream.name in client.names:
                client.take(stream.name, lines)
                self._epoll.modify(client.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _echo(self, stream: _Stream, data: bytes) -> None:
        whole, mark, rest = (stream.partial + data).rpartition(b"\n")
        if not mark and len(rest) < _LONGEST_PARTIAL:
            stream.partial = rest
            return
        if not mark:
            whole, rest = rest, b""
        stream.partial = rest
        prefix = f"{stream.name}: ".encode() if stream.name else b""
        out = prefix + whole.replace(b"\n", b"\n" + prefix) + b"\n"
        _write_all(1 if stream.name else 2, out)

    # pyinit logs

    def _accept(self) -> None:
        """A request line and its client's socket, handed over by PID 1; the end says that PID 1 is gone."""
        try:
            data, fds, _, _ = socket.recv_fds(self._control, _MOST_REQUEST, 4)
        except BlockingIOError:
            return
        if not data:
            self._ending = True
            return
        for fd in fds[1:]:
            os.close(fd)
        if fds:
            sock = socket.socket(fileno=fds[0])
            sock.setblocking(False)  # noqa: FBT003 - no keywords there
            self._answer(sock, data)

    def _answer(self, sock: socket.socket, data: bytes) -> None:
        import json  # at the first request: most loggers never get one

        request = json.loads(data)
        specs = {stream.name: stream.spec for stream in self._streams.values() if stream.name}
        follow, count = bool(request.get("follow")), int(request.get("lines", _DEFAULT_LINES))
        names = request.get("names") or [name for name, spec in specs.items() if follow or spec.to == "file"]
        client = _Client(sock, names, follow=follow)
        refusal = _refusal(names, specs, follow=follow)
        if refusal:
            client.follow = False
            client.queue = json.dumps({"error": refusal}).encode() + b"\n"
        else:
            client.queue = b'{"ok": true}\n'
            for name in names:
                if specs[name].to == "file":
                    client.take(name, tail(f"{self._log_dir}/{name}", count))
        self._clients[sock.fileno()] = client
        self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _send(self, client: _Client, mask: int) -> None:
        fd = client.sock.fileno()
        try:
            if mask & (select.EPOLLHUP | select.EPOLLERR) or (mask & select.EPOLLIN and not client.sock.recv(4096)):
                raise ConnectionResetError
            if client.queue:
                client.queue = client.queue[client.sock.send(client.queue) :]
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        if not client.queue:
            if not client.follow:
                self._drop(client)
            else:
                self._epoll.modify(fd, select.EPOLLIN)

    def _drop(self, client: _Client) -> None:
        fd = client.sock.fileno()
        self._epoll.unregister(fd)
        del self._clients[fd]
        client.sock.close()


def _refusal(names: list[str], specs: dict[str, LogSpec], *, follow: bool) -> str:
    for name in names:
        if name not in specs:
            return f"{name}: its output does not pass through pyinit (log.to), or there is no such service"
        if specs[name].to != "file" and not follow:
            return f"{name}: logs to {specs[name].to} only, so there is nothing to look back at; add -f to follow"
    return ""


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
