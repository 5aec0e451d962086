"""The control socket's server, inside the init's loop.

Owns connections and who waits for what. Must not know the init: it asks a Host. Laws: nothing blocks; input, output
and the number of clients are bounded; what a client sends can at worst cost that client its connection.
"""

import resource
import time
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.control.host import Deadline, Host, Job, Loop
from pyinit.control.listener import bind, stranger
from pyinit.core.service import State
from pyinit.core.supervisor import ServiceView
from pyinit.errors import EXIT_FAILED, EXIT_SYSTEM, EXIT_USAGE, ControlError, PyinitError, fault, no_such_service
from pyinit.linux import fds as received
from pyinit.linux import sock as socket
from pyinit.model import meant
from pyinit.records import TYPE_CHECKING, deque

if TYPE_CHECKING:
    from pyinit.control.wire import Request

__all__ = ["Server", "bind"]

_MOST_CLIENTS = 64
_MOST_OUTPUT_BYTES = 1 << 20
_PATIENCE_S = 30.0  # for a request to be whole, and for its last answer to be taken
_PAUSE_S = 1.0  # when no fd is free
_BACKLOG = 128
_MOST_EVENTS = 1000
_ANY = 1 << 20
_SPARE_FDS = 16  # an exec on a terminal needs half of them
_MOST_FDS = 3
_MOST_SIGNALS_BYTES = 256  # a turn, of the client of a job: 19 lines at most
_FDS_OF_A_TERMINAL = (1, 2)
_OF_ONE = ("exec", "update")
_MAKES = ("start", "restart", "enable")  # an instance of a template, if it is not there yet
_ENDS = {"start": (State.READY, State.DONE, State.SCHEDULED), "stop": (State.STOPPED, State.DONE, State.FAILED)}


class _Client:
    def __init__(self, sock: socket.socket, listener: socket.socket) -> None:
        self.sock = sock
        self.listener = listener  # that it came by
        self.fd = sock.fileno()
        self.input = b""
        self.output = b""
        self.closing = False  # once the output is out
        self.deadline: Deadline | None = None
        self.verb = ""
        self.waits: dict[str, bool] = {}  # name -> whether it has left the state that it was asked to reach
        self.told: dict[str, dict[str, str]] = {}  # the last progress of each
        self.asked = False
        self.fds: list[int] = []  # that came with its request
        self.job: Job | None = None
        self.follows = False  # events are for it
        self.only: frozenset[str] = frozenset()  # of these services; of all without any
        self.pending: set[str] = set()  # services whose reload it waits for


class Server:
    """`listen` gives it sockets; `changed` tells it of every state that a service enters."""

    def __init__(self, loop: Loop, host: Host, report: Callable[[str], None]) -> None:
        self._loop = loop
        self._host = host
        self._report = report
        self._listeners: list[socket.socket] = []
        self._clients: dict[int, _Client] = {}
        self._room = _ANY  # clients, of whom each takes a descriptor
        self._events: deque[dict[str, object]] = deque(maxlen=_MOST_EVENTS)

    def listen(self, fd: int) -> None:
        """Serve a bound unix socket."""
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)  # noqa: FBT003 - no keywords there
        sock.listen(_BACKLOG)
        self._listeners.append(sock)
        self._watch(sock)

    def changed(self, name: str) -> None:
        """A service has entered a state: those who wait are told."""
        for client in list(self._clients.values()):
            if name in client.waits:
                self._tell(client, name)

    def happened(self, event: dict[str, object]) -> None:
        """For those who watch, and the last ones for those who come later."""
        self._events.append(event)
        for client in list(self._clients.values()):
            if client.follows and (not client.only or event["name"] in client.only):
                self._send(client, {"event": event})

    def close(self) -> None:
        """The end: what is queued is tried once."""
        for client in list(self._clients.values()):
            if client.output:
                with contextlib.suppress(OSError):
                    client.sock.send(client.output)
            self._drop(client)
        for sock in self._listeners:
            self._loop.remove_reader(sock.fileno())
            with contextlib.suppress(OSError):  # EINVAL: that was the last one that waited
                sock.shutdown(socket.SHUT_RD)
                while True:
                    received.close(sock.accept()[0])
            sock.close()

    def _watch(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:  # not closed during a pause
            self._loop.add_reader(listener.fileno(), lambda: self._accept(listener))

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it is gone already
            return
        except OSError:  # no fd or no memory is left; it stays readable, and epoll would wake us without end
            self._make_room()
            self._loop.remove_reader(listener.fileno())
            self._loop.call_at(time.monotonic() + _PAUSE_S, lambda: self._watch(listener))
            return
        sock.setblocking(False)  # noqa: FBT003 - no keywords there
        client = _Client(sock, listener)
        # Of each listener: the root of a container can't take the places of its host.
        if sum(other.listener is listener for other in self._clients.values()) >= _MOST_CLIENTS:
            self._turn_away(client, f"{_MOST_CLIENTS} clients are being served already: try again")
            return
        uid = stranger(sock)
        if uid >= 0:
            self._turn_away(client, f"uid {uid} may not control this pyinit: its user or root may")
            return
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and client.fd >= soft - _SPARE_FDS:  # it is the lowest that was free
            self._room = min(self._room, len(self._clients))
        if len(self._clients) >= self._room:
            self._make_room()
        self._clients[client.fd] = client
        client.deadline = self._loop.call_at(time.monotonic() + _PATIENCE_S, lambda: self._drop(client))
        self._loop.add_reader(client.fd, lambda: self._read(client))

    def _make_room(self) -> None:
        """Our last descriptors are for those who ask: who has been silent longest leaves."""
        for client in self._clients.values():
            if not client.asked:
                self._drop(client)
                return

    @staticmethod
    def _turn_away(client: _Client, why: str) -> None:
        from pyinit.control import wire  # see _read

        refusal = {"error": why, "exit_code": EXIT_FAILED}
        with contextlib.suppress(OSError):
            client.sock.send(wire.encode(refusal))
        received.close(client.sock)

    def _read(self, client: _Client) -> None:
        from pyinit.control import wire  # json, 9 ms: at the first request, not at the start

        try:
            most_bytes = wire.MOST_REQUEST_BYTES if client.job is None else _MOST_SIGNALS_BYTES
            data, fds = received.receive(client.sock, most_bytes, received.MOST)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        room = 0 if client.asked else _MOST_FDS - len(client.fds)
        client.fds += fds[:room]
        for fd in fds[room:]:  # a request has three at most, in however many pieces it comes
            received.discard(fd)
        if not data:
            self._drop(client)
            return
        if client.job is not None:
            self._hear(client, client.job, data)
            return
        if client.asked:
            return  # one request a connection: the rest is noise
        client.input += data
        line, mark, _ = client.input.partition(b"\n")
        if not mark and len(client.input) < wire.MOST_REQUEST_BYTES:
            return
        client.asked, client.input = True, b""
        if client.deadline is not None:
            client.deadline.cancel()
        try:
            if not mark:
                raise wire.BadRequestError(f"expected a request of at most {wire.MOST_REQUEST_BYTES} bytes")
            request = wire.decode(line)
        except wire.BadRequestError as error:
            self._refuse(client, f"no request that is understood here: {error}", EXIT_USAGE)
            return
        if request.verb != "exec":
            self._close_fds(client)
        self._attempt(client, lambda: self._obey(client, request))

    def _hear(self, client: _Client, job: Job, data: bytes) -> None:
        """Signals for its job; who says anything else is left, or it could keep us reading."""
        from pyinit.control import wire  # see _read

        *lines, client.input = (client.input + data).split(b"\n")
        for line in lines:
            number = wire.decode_signal(line) if line.startswith(b"{") else 0
            if not number:
                self._drop(client)
                return
            job.signal(number)
        if len(client.input) > _MOST_SIGNALS_BYTES:
            self._drop(client)

    def _attempt(self, client: _Client, act: Callable[[], None]) -> None:
        try:
            act()
        except PyinitError as error:
            self._refuse(client, str(error), error.exit_code)
        except Exception as error:  # noqa: BLE001 - the server's edge: its client must not wait for ever
            text = fault(error)
            self._report(f"a fault at a request of the control socket: {text}")
            self._refuse(client, f"a fault of pyinit: {text}", EXIT_SYSTEM)

    def _refuse(self, client: _Client, text: str, exit_code: int) -> None:
        client.waits.clear()
        self._send(client, {"error": text, "exit_code": exit_code}, last=True)

    def _obey(self, client: _Client, request: "Request") -> None:
        known = set(self._host.names())  # a request may hold thousands
        if request.verb not in _OF_ONE and any(name not in known for name in request.names):
            request = request._replace(names=meant(request.names, self._host.names()))
        unknown = tuple(name for name in request.names if name not in known)
        if unknown and request.verb in _MAKES:
            self._host.make(unknown, lambda answer: self._made(client, request, answer))
        elif unknown:
            raise no_such_service(unknown[0], self._host.names())
        elif request.verb == "status":
            answer = {"ok": True, **self._host.status()}
            self._send(client, answer, last=True)
        elif request.verb == "logs":
            from pyinit.control import wire  # see _read

            self._forget(client)
            received.pass_none(client.sock)  # to the logger, which reads no more of it
            self._host.logs(wire.encode({"verb": "logs", "names": list(request.names), "follow": request.follow}), client.sock.detach())
        elif request.verb == "shutdown":
            self._send(client, {"ok": True})
            self._host.shutdown(request.exit_code)
        elif request.verb == "events":
            self._show_events(client, request)
        elif request.verb == "ps":
            names = request.names or self._host.names()
            self._send(client, {"ok": True, "services": [self._host.processes(name) for name in names]}, last=True)
        elif request.verb == "stats":
            self._send(client, {"ok": True, **self._host.stats(request.names)}, last=True)
        elif request.verb == "pause":
            self._send(client, {"ok": True, "left": list(self._host.pause(request.names))}, last=True)
        elif request.verb == "resume":
            self._host.resume(request.names)
            self._send(client, {"ok": True}, last=True)
        elif request.verb == "update":
            self._host.update("".join(request.names), request.limits, lambda answer: self._send(client, answer, last=True))
        elif request.verb == "exec":
            self._exec(client, request)
        elif request.verb == "hup":
            self._hup(client, request.names)
        elif request.verb == "reload":
            self._host.reload(lambda answer: self._send(client, answer, last=True))
        elif request.verb == "signal":
            for name in request.names:
                self._host.signal(name, request.signal)
            self._send(client, {"ok": True}, last=True)
        else:
            self._change(client, request)

    def _show_events(self, client: _Client, request: "Request") -> None:
        client.only = frozenset(request.names)
        found = [event for event in self._events if not client.only or event["name"] in client.only]
        self._send(client, {"ok": True})
        for event in found[len(found) - min(request.lines, len(found)) :]:
            self._send(client, {"event": event})
        client.follows = request.follow
        if not request.follow:
            self._end(client)

    def _made(self, client: _Client, request: "Request", answer: dict[str, object]) -> None:
        if "error" in answer:
            self._send(client, answer, last=True)
        else:
            self._attempt(client, lambda: self._change(client, request))

    def _change(self, client: _Client, request: "Request") -> None:
        act = {
            "start": self._host.start, "stop": self._host.stop, "restart": self._host.restart, "wait": self._host.view,
            "enable": self._host.enable, "disable": self._host.disable,
        }[request.verb]  # fmt: skip
        client.verb = "stop" if request.verb == "disable" else request.verb
        client.waits = dict.fromkeys(request.names, False) if request.wait else {}
        for name in request.names:
            act(name)
        for name in list(client.waits):
            self._tell(client, name)
        if not client.waits and not client.closing:
            self._send(client, {"ok": True}, last=True)

    def _hup(self, client: _Client, names: tuple[str, ...]) -> None:
        client.pending = set(names)
        for name in names:
            self._host.hup(name, lambda text, name=name: self._reloaded(client, name, text))  # type: ignore[misc]
        if not names:
            self._send(client, {"ok": True}, last=True)

    def _exec(self, client: _Client, request: "Request") -> None:
        if len(client.fds) not in (_FDS_OF_A_TERMINAL if request.tty else (_MOST_FDS,)):
            wanted = "a socket, or that and a terminal," if request.tty else "three descriptors"
            raise ControlError(f"exec: expected {wanted} with the request", exit_code=EXIT_USAGE)

        def done(code: int, text: str) -> None:
            client.job = None
            if text:
                self._refuse(client, text, code)
            else:
                self._send(client, {"ok": True, "code": code}, last=True)

        client.job = self._host.exec(request, tuple(client.fds), done)
        self._close_fds(client)  # the command has its own by now

    @staticmethod
    def _close_fds(client: _Client) -> None:
        for fd in client.fds:
            received.discard(fd)
        client.fds = []

    def _reloaded(self, client: _Client, name: str, text: str) -> None:
        client.pending.discard(name)
        if text:
            self._refuse(client, f"{name}: reload: {text}", EXIT_FAILED)
        elif not client.pending:
            self._send(client, {"ok": True}, last=True)

    def _end(self, client: _Client) -> None:
        """Nothing more comes."""
        client.closing = True
        if self._is_here(client):
            self._flush(client)
        if self._is_here(client):  # it has not taken all of it yet
            client.deadline = self._loop.call_at(time.monotonic() + _PATIENCE_S, lambda: self._drop(client))

    def _tell(self, client: _Client, name: str) -> None:
        view = self._host.view(name)
        progress = {"name": name, "state": view.state.word, "reason": view.reason}
        if client.told.get(name) != progress:  # a service may say something of itself many times a second
            client.told[name] = progress
            self._send(client, {"progress": progress})
        if not self._is_done(client, view):
            return
        has_run = client.waits.pop(name) or client.verb != "wait"
        failed_run = view.state is State.SCHEDULED and view.failed and has_run  # and none of an earlier time
        if client.verb == "stop" and view.state not in _ENDS["stop"]:
            self._refuse(client, f"{name}: {view.state.word}: it was started again before it was down", EXIT_FAILED)
        elif client.verb != "stop" and (failed_run or view.state in (State.FAILED, State.STOPPED)):
            word = State.FAILED.word if failed_run else view.state.word
            self._refuse(client, f"{name}: {word}{': ' + view.reason if view.reason else ''}", EXIT_FAILED)
        elif not client.waits:
            self._send(client, {"ok": True}, last=True)

    @staticmethod
    def _is_done(client: _Client, view: ServiceView) -> bool:
        if client.verb == "stop":
            return view.state in _ENDS["stop"] or view.target == "up"
        if view.state in (State.FAILED, State.STOPPED):
            return view.state is State.FAILED or view.target == "down"
        if view.state not in _ENDS["start"]:
            client.waits[view.name] = True
            return False
        return client.waits[view.name] or client.verb != "restart" or view.state is State.SCHEDULED

    def _send(self, client: _Client, message: dict[str, object], *, last: bool = False) -> None:
        from pyinit.control import wire  # see _read

        if client.closing or not self._is_here(client):
            return
        if len(client.output) > _MOST_OUTPUT_BYTES:  # of what it did not take before: one answer may be longer
            self._drop(client)
            return
        client.output += wire.encode(message)
        if last:
            self._end(client)
        else:
            self._flush(client)

    def _flush(self, client: _Client) -> None:
        try:
            client.output = client.output[client.sock.send(client.output) :]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        if client.output:
            self._loop.add_writer(client.fd, lambda: self._flush(client))
            return
        self._loop.remove_writer(client.fd)
        if client.closing:
            self._drop(client)

    def _is_here(self, client: _Client) -> bool:
        """It has not left; the number of its descriptor may be another's by then."""
        return self._clients.get(client.fd) is client

    def _forget(self, client: _Client) -> None:
        if not self._is_here(client):
            return
        del self._clients[client.fd]
        if not self._clients:
            self._room = _ANY  # others may have let some go
        if client.deadline is not None:
            client.deadline.cancel()
        self._loop.remove_reader(client.fd)
        self._loop.remove_writer(client.fd)

    def _drop(self, client: _Client) -> None:
        self._forget(client)
        self._close_fds(client)
        if client.job is not None:  # nobody is there any more for whom it runs
            client.job.cancel()
            client.job = None
        received.close(client.sock)
