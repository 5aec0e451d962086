"""Those who asked for logs: `pyinit logs`, from inside the logger.

Owns requests, answers and what waits to be sent. Must not know pipes. Laws: a client costs bounded memory, however
slow; a client's mistake is answered, and costs nobody else anything.
"""

import os
import select
import socket
from collections.abc import Callable

from pyinit.init.logfile import Marker
from pyinit.init.logtail import Tail
from pyinit.model import LogSpec

_MOST_QUEUED = 1 << 20
_MOST_REQUEST = 1 << 16
_MOST_CLIENTS = 64
_DEFAULT_LINES = 10
_TOO_SLOW = b"pyinit: this reader is too slow: lines are missing from here on\n"


class _Client:
    """What one gets: an answer, tails, then (`follow`) new lines."""

    def __init__(self, sock: socket.socket, answer: bytes) -> None:
        self.sock = sock
        self.follow = False
        self.tails: list[Tail] = []
        self.markers: dict[str, Marker] = {}  # of the services that it wants
        self._sending = memoryview(answer)
        self._queue: list[bytes] = []
        self._queued_bytes = 0

    def take(self, name: str, data: bytes) -> None:
        if self._queued_bytes > _MOST_QUEUED:
            self.follow = False
            self._queue.append(_TOO_SLOW)
            return
        prefix = f"{name}: ".encode() if len(self.markers) > 1 else b""
        marked = self.markers[name].apply(data, prefix)
        self._queue.append(marked)
        self._queued_bytes += len(marked)

    def next_piece(self) -> memoryview:
        """What is to be sent now; empty if there is nothing."""
        while not self._sending:
            if self.tails:
                self._sending = memoryview(self.tails[0].read())
                if not self._sending:
                    del self.tails[0]
            elif self._queue:
                self._sending = memoryview(b"".join(self._queue))
                self._queue, self._queued_bytes = [], 0
            else:
                break
        return self._sending

    def sent(self, count: int) -> None:
        self._sending = self._sending[count:]

    def close(self) -> None:
        for tail in self.tails:
            tail.close()
        self.sock.close()


class Clients:
    """All of them; their sockets are in the logger's epoll."""

    def __init__(
        self, specs: dict[str, LogSpec], log_dir: str, epoll: select.epoll, order: Callable[[list[str]], None]
    ) -> None:
        """`order` gets PID 1's own words."""
        self._order = order
        self._specs = specs
        self._log_dir = log_dir
        self._epoll = epoll
        self._clients: dict[int, _Client] = {}

    @property
    def count(self) -> int:
        """Of those that are there now."""
        return len(self._clients)

    def accept(self, control: socket.socket) -> bool:
        """A request line and its client's socket, handed over by PID 1; False at the end: PID 1 is gone."""
        try:
            data, fds, _, _ = socket.recv_fds(control, _MOST_REQUEST, 4)
        except BlockingIOError:
            return True
        for fd in fds[1:]:
            os.close(fd)
        if data and not fds:
            self._order(data.decode().split("\0"))
        if fds:
            sock = socket.socket(fileno=fds[0])
            sock.setblocking(False)  # noqa: FBT003 - no keywords there
            self._add(self._client(sock, data))
        return bool(data)

    def publish(self, name: str, begun: bytes, data: bytes) -> None:
        """New lines of a service, as they stand in its log: the end of what was begun, then the others."""
        for client in list(self._clients.values()):
            if client.follow and name in client.markers:
                client.take(name, begun + data)
                self._epoll.modify(client.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def serve(self, fd: int, mask: int) -> None:
        """A client can take something, has hung up, or says something, which is not listened to."""
        client = self._clients.get(fd)
        if client is None:
            return
        try:
            if mask & (select.EPOLLHUP | select.EPOLLERR) or (mask & select.EPOLLIN and not client.sock.recv(4096)):
                self._drop(client)
                return
            piece = client.next_piece()
            if piece:  # one a turn, so that a long tail does not keep the services waiting
                client.sent(client.sock.send(piece))
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        if not client.next_piece():
            if client.follow:
                self._epoll.modify(fd, select.EPOLLIN)
            else:
                self._drop(client)

    def finish(self) -> None:
        """The end: each gets what it can take now."""
        for client in list(self._clients.values()):
            try:
                while piece := client.next_piece():
                    client.sent(client.sock.send(piece))
            except OSError:
                pass  # it is too slow, or gone
            self._drop(client)

    def _add(self, client: _Client) -> None:
        fd = client.sock.fileno()
        self._clients[fd] = client
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLOUT)

    def _client(self, sock: socket.socket, data: bytes) -> _Client:
        import json  # at the first request: most loggers never get one

        try:
            request = json.loads(data)
            names, lines, follow = request.get("names") or [], request.get("lines", _DEFAULT_LINES), bool(request.get("follow"))
        except (ValueError, AttributeError, RecursionError):
            names, lines, follow = [], None, False
        if len(self._clients) >= _MOST_CLIENTS:
            refusal = f"{_MOST_CLIENTS} clients are reading logs already: end one of them"
        elif type(lines) is not int or lines < 0:
            refusal = 'expected "lines" to be a number from 0 up'
        else:
            names = list(dict.fromkeys(names)) or [n for n, spec in self._specs.items() if follow or spec.to == "file"]
            refusal = self._refusal(names, follow=follow)
        if refusal:
            return _Client(sock, json.dumps({"error": refusal, "exit_code": 1}).encode() + b"\n")
        client = _Client(sock, b'{"ok": true}\n')
        client.follow = follow
        client.markers = {name: Marker() for name in names}
        for name in names:
            if self._specs[name].to == "file":
                prefix = f"{name}: ".encode() if len(names) > 1 else b""
                client.tails.append(Tail(f"{self._log_dir}/{name}", lines, prefix, whole=follow))
        return client

    def _refusal(self, names: list[str], *, follow: bool) -> str:
        for name in names:
            if name not in self._specs:
                return f"{name}: its output does not pass through pyinit (log.to), or there is no such service"
            if self._specs[name].to != "file" and not follow:
                return f"{name}: logs to {self._specs[name].to} only, so there is nothing to look back at; add -f to follow"
        return "" if names else "no service logs to a file, so there is nothing to look back at; add -f to follow"

    def _drop(self, client: _Client) -> None:
        fd = client.sock.fileno()
        self._epoll.unregister(fd)
        del self._clients[fd]
        client.close()
