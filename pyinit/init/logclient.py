r"""Those who asked for logs: `pyinit logs`, from inside the logger.

Owns requests, answers and what waits to be sent. Must not know pipes, nor read a log: who asks gets the folder's
descriptor and reads at a pace of its own. Laws: a client costs bounded memory, however slow; a client's mistake is
answered, and costs nobody else anything; a client outlives a logger that makes way for another.

The answer is a line of JSON: {"ok": true, "logs": [{"service", "stream", "ino", "size"}, ...]} with the descriptor of
LOG_DIR: what was said up to now is in the first `size` bytes of the file `ino`, and in its archives. With "follow" what
is said from then on comes in frames, `SERVICE STREAM LENGTH INODE SIZE\n` and so many bytes, as they go to the file, which
then is `INODE` and has `SIZE` bytes (0 0 without a file); `- end 0 0 0` is the end, `- slow 0 0 0` that of a client that
did not read.
"""

import os
import select
from _collections_abc import Callable

from pyinit.init.logstream import Source, Stream
from pyinit.linux import fds as received
from pyinit.linux import sock as socket
from pyinit.linux.fds import receive

_MOST_QUEUED = 1 << 20
_MOST_REQUEST = 1 << 16
_MOST_CLIENTS = 64
HANDED_OVER = b"client"
RENEW = b"renew"
_READABLE = ("file", "syslog")


class _Client:
    """What one gets: an answer, then (`names`) frames."""

    def __init__(self, sock: socket.socket, names: list[str]) -> None:
        self.sock = sock
        self.names = frozenset(names)  # whose frames it gets; none, and it ends with its answer
        self.sending = memoryview(b"")
        self._queue: list[bytes] = []
        self._queued_bytes = 0

    def queue(self, data: bytes) -> None:
        self._queue.append(data)
        self._queued_bytes += len(data)

    def take(self, head: bytes, data: bytes) -> None:
        if self._queued_bytes > _MOST_QUEUED:
            self.names = frozenset()
            self._queue.append(b"- slow 0 0 0\n")
        else:
            self.queue(head)
            self.queue(data)

    def next_piece(self) -> memoryview:
        """What is to be sent now; empty if there is nothing."""
        if not self.sending and self._queue:
            self.sending = memoryview(b"".join(self._queue))
            self._queue, self._queued_bytes = [], 0
        return self.sending

    def send(self) -> None:
        self.sending = self.sending[self.sock.send(self.sending) :]

    def says_something(self) -> bool:
        """It is not listened to, but what it sends must not be closed by the kernel (see fds.py)."""
        data, fds = receive(self.sock, 4096, received.MOST)
        for fd in fds:
            received.discard(fd)
        return bool(data)


class Clients:
    """All of them; their sockets are in the logger's epoll."""

    def __init__(self, streams: list[Stream], log_dir: str, epoll: select.epoll, order: Callable[[list[str]], None]) -> None:
        """`order` gets PID 1's own words."""
        self._order = order
        self._streams = streams
        self._log_dir = log_dir
        self._epoll = epoll
        self._clients: dict[int, _Client] = {}
        self.must_make_way = False  # for another logger

    def accept(self, control: socket.socket) -> bool:
        """What PID 1 says, or a client that it hands over with its request; False if there is nothing more.

        EOFError: PID 1 wants no more of us, or is gone.
        """
        try:
            data, fds = receive(control, _MOST_REQUEST, 4, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionResetError:  # PID 1 is gone, and had not heard all that we said
            data, fds = b"", []
        if not data:
            raise EOFError
        if data == RENEW:
            self.must_make_way = True
        elif data == HANDED_OVER and len(fds) == 2:
            self._take_over(*fds)
        elif fds:
            for fd in fds[1:]:
                os.close(fd)
            self._answer(socket.socket(fileno=fds[0]), data)
        else:
            self._order(data.decode().split("\0"))
        return True

    def publish(self, source: Source, data: bytes, mark: tuple[int, int]) -> None:
        """What a service said, as it stands in its log, which ends at `mark` then."""
        for client in list(self._clients.values()):
            if source.name in client.names:
                client.take(f"{source.name} {source.stream} {len(data)} {mark[0]} {mark[1]}\n".encode(), data)
                self._epoll.modify(client.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def serve(self, fd: int, mask: int) -> None:
        """A client can take something, has hung up, or says something, which is not listened to."""
        client = self._clients.get(fd)
        if client is None:
            return
        try:
            if mask & (select.EPOLLHUP | select.EPOLLERR) or (mask & select.EPOLLIN and not client.says_something()):
                self._drop(client)
                return
            if client.next_piece():
                client.send()
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        if not client.next_piece():
            if client.names:
                self._epoll.modify(fd, select.EPOLLIN)
            else:
                self._drop(client)

    def finish(self) -> None:
        """The end: each gets what it can take now."""
        for client in list(self._clients.values()):
            if client.names:
                client.queue(b"- end 0 0 0\n")
            try:
                while client.next_piece():
                    client.send()
            except OSError:
                pass  # it is too slow, or gone
            self._drop(client)

    def hand_over(self, control: socket.socket) -> None:
        """To PID 1, for the next logger: each with what it has not been sent yet."""
        import json  # see _answer

        for client in list(self._clients.values()):
            rest = os.memfd_create("pyinit-log-client", os.MFD_CLOEXEC)
            with open(rest, "wb") as file:
                file.write(json.dumps(sorted(client.names)).encode() + b"\n")  # they may be 10,000: too many for a message
                while piece := client.next_piece():
                    file.write(piece)
                    client.sending = memoryview(b"")
                file.flush()
                socket.send_fds(control, [HANDED_OVER], [client.sock.fileno(), rest])
            self._forget(client)
            client.sock.close()  # another has it: it goes on

    def _take_over(self, fd: int, rest: int) -> None:
        import json  # see _answer

        sock = socket.socket(fileno=fd)
        with open(rest, "rb") as file:
            names, _, data = os.pread(rest, os.fstat(file.fileno()).st_size, 0).partition(b"\n")
        self._add(_Client(sock, json.loads(names)), data)

    def _add(self, client: _Client, data: bytes) -> None:
        client.sock.setblocking(False)  # noqa: FBT003 - no keywords there
        client.queue(data)
        fd = client.sock.fileno()
        self._clients[fd] = client
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLOUT)

    def _answer(self, sock: socket.socket, data: bytes) -> None:
        import json  # at the first request: most loggers never get one

        from pyinit.linux import mount  # as json

        try:
            request = json.loads(data)
            names, follow = [str(name) for name in request.get("names") or []], bool(request.get("follow"))
        except (ValueError, AttributeError, TypeError, RecursionError):
            names, follow = [""], False
        names = list(dict.fromkeys(names)) or [s.source.name for s in self._streams if s.source.name and (follow or _is_kept(s))]
        refusal = self._refusal(names, follow=follow)
        if refusal:
            self._add(_Client(sock, []), json.dumps({"error": refusal, "exit_code": 1}).encode() + b"\n")
            return
        rows = [self._row(stream) for stream in self._streams if stream.source.name in names and _is_kept(stream)]
        answer = json.dumps({"ok": True, "logs": rows}).encode() + b"\n"
        sent = 0
        try:
            folder = mount.open_plainly(self._log_dir, os.O_RDONLY | os.O_DIRECTORY)  # never one of the host's that we have open
        except OSError:  # nothing was ever written
            folder = -1
        if folder >= 0:
            try:
                sent = socket.send_fds(sock, [answer], [folder])
            except OSError:
                sock.close()
                return
            finally:
                os.close(folder)
        self._add(_Client(sock, names if follow else []), answer[sent:])

    @staticmethod
    def _row(stream: Stream) -> dict[str, object]:
        ino, size = stream.mark()
        return {"service": stream.source.name, "stream": stream.source.stream, "ino": ino, "size": size}

    def _refusal(self, names: list[str], *, follow: bool) -> str:
        if len(self._clients) >= _MOST_CLIENTS:
            return f"{_MOST_CLIENTS} clients are reading logs already: end one of them"
        for name in names:
            streams = [stream for stream in self._streams if stream.source.name == name]
            if not streams or not name:
                return f"{name}: its output does not pass through pyinit (log.to), or there is no such service"
            if not follow and not _is_kept(streams[0]):
                return f"{name}: logs to {streams[0].source.spec.to} only, so there is nothing to look back at; add -f to follow"
        return "" if names else "no service logs to a file, so there is nothing to look back at; add -f to follow"

    def _drop(self, client: _Client) -> None:
        self._forget(client)
        received.close(client.sock)

    def _forget(self, client: _Client) -> None:
        fd = client.sock.fileno()
        self._epoll.unregister(fd)
        del self._clients[fd]


def _is_kept(stream: Stream) -> bool:
    return stream.source.spec.to in _READABLE
