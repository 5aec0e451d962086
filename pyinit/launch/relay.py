"""What comes to a port of the host, carried to a container's by a process: from ::1, where the kernel's own ways do not lead.

Owns the loop, and the connections and datagrams that are under way. Must not know who started it (forwarder.py), nor containers.
Laws: nothing waits but the one poll; what was read from one side is written to the other before more is read, so that each
is as slow as the other; what came to another address than ::1, though the socket is at all of them, is not carried: over there
it would look like the host's own; an error of a connection is the end of that one; the half of it that is closed is closed over
there, too, and a reset is a reset; where there are no more files, nobody is accepted until there are.
"""

import errno
import resource
import select
import struct
import time
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.linux import sock as socket
from pyinit.records import NamedTuple

_CHUNK_BYTES = 1 << 16  # what a connection keeps for a side that does not read, at most; more of it is not faster
_MOST_DATAGRAM = 65535
_BATCH = 64  # of one port, before others have their turn
_PAUSE_S = 0.1  # without files
_IDLE_S = 120.0  # of a talk by datagrams, as of the kernel's conntrack for one that had answers
MOST_TALKS = 1024  # of one port; the one that is silent for longest makes room
_SHARE = 2  # one file of that many is a talk's at most, of all ports together: connections need some, too
_INCOMING = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
_RESET = struct.pack("=ii", 1, 0)  # struct linger of socket(7)
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_LOOPBACK = bytes(15) + b"\1"
_PKTINFO_BYTES = 20  # struct in6_pktinfo of ipv6(7): the address, the link
_FROM_LOOPBACK = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _LOOPBACK + bytes(4))]


class Port(NamedTuple):
    """A socket of the host, and where what comes there is carried to."""

    fd: int  # bound, by IPv6; of "tcp", it listens
    protocol: str
    address: str
    port: int


class Relay:
    """Of one container, for good."""

    def __init__(self, ports: list[Port], clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.buffer = memoryview(bytearray(_CHUNK_BYTES))
        self._epoll = select.epoll()
        self._turns: dict[int, Callable[[int], None]] = {}
        self._events: dict[int, int] = {}
        self._fresh: set[int] = set()  # numbers that are another's since the poll
        self._paused_until = 0.0
        self.talks: dict[_Talk, None] = {}  # of all ports, that of the last word is the last one
        self.most_talks = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE
        self._listeners = [_Listener(self, one) for one in ports if one.protocol == "tcp"]
        self._datagrams = [_Datagrams(self, one) for one in ports if one.protocol == "udp"]

    def run(self) -> None:
        """It returns by an error only."""
        while True:
            self.turn()

    def close(self) -> None:
        """The ports' own sockets, and all that is under way by datagrams."""
        for one in self._listeners:
            one.socket.close()
        for talks in self._datagrams:
            talks.close()
        self._epoll.close()

    def turn(self) -> None:
        """One poll, and what came of it."""
        self._fresh.clear()
        for fd, events in self._epoll.poll(self._wait_s()):
            if fd in self._turns and fd not in self._fresh:
                self._turns[fd](events)
        now = self.clock()
        while self.talks and (oldest := next(iter(self.talks))).last + _IDLE_S <= now:
            oldest.end()
        if self._paused_until and now >= self._paused_until:
            self.resume()

    def _wait_s(self) -> float | None:
        dues = [next(iter(self.talks)).last + _IDLE_S] if self.talks else []
        dues += [self._paused_until] if self._paused_until else []
        return max(0.0, min(dues) - self.clock()) if dues else None

    def watch(self, fd: int, events: int, turn: Callable[[int], None]) -> None:
        """Call `turn` with what epoll(7) says of `fd`."""
        before = self._events.get(fd)
        if before is None:
            self._epoll.register(fd, events)
            self._fresh.add(fd)
        elif before != events:
            self._epoll.modify(fd, events)
        self._turns[fd], self._events[fd] = turn, events

    def forget(self, fd: int) -> None:
        """Before it is closed."""
        if self._turns.pop(fd, None) is not None:
            del self._events[fd]
            self._epoll.unregister(fd)

    def pause(self) -> None:
        """Accept nobody for a while."""
        self._paused_until = self.clock() + _PAUSE_S
        for one in self._listeners:
            self.forget(one.socket.fileno())

    def resume(self) -> None:
        """There may be files again."""
        if self._paused_until:
            self._paused_until = 0.0
            for one in self._listeners:
                one.listen()


class _Listener:
    """Of one port of TCP."""

    def __init__(self, relay: Relay, port: Port) -> None:
        self._relay = relay
        self._port = port
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, fileno=port.fd)
        self.socket.settimeout(0)
        self.listen()

    def listen(self) -> None:
        self._relay.watch(self.socket.fileno(), select.EPOLLIN, self._turn)

    def _turn(self, _: int) -> None:
        try:
            far = _opened(self._port, socket.SOCK_STREAM)  # first: who can't be carried is not accepted
        except OSError:
            self._relay.pause()
            return
        try:
            near, _ = self.socket.accept()
        except OSError as error:  # of the connection that was to be had, else: accept(2)
            far.close()
            if error.errno in _EXHAUSTED:
                self._relay.pause()
            return
        try:
            if near.getsockname()[0] != "::1":
                raise OSError(errno.ECONNREFUSED, "came to another address")
            _connect(far, self._port)
        except OSError:
            far.close()
            _reset(near)
            return
        _Connection(self._relay, near, far)


def _opened(port: Port, kind: int) -> socket.socket:
    """For its way to the container; OSError."""
    found = socket.socket(socket.AF_INET6 if ":" in port.address else socket.AF_INET, kind | socket.SOCK_CLOEXEC)
    found.settimeout(0)
    return found


def _connect(far: socket.socket, port: Port) -> None:
    """Begin it; OSError."""
    number = far.connect_ex((port.address, port.port))
    if number not in (0, errno.EINPROGRESS):
        raise OSError(number, "connect")


def _reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.close()


class _Side:
    """One end of a connection. `unsent`: of the other's, still to be written here."""

    def __init__(self, end: socket.socket, *, is_open: bool) -> None:
        self.socket = end
        self.fd = end.fileno()
        self.is_open = is_open  # else connect(2) is under way
        self.unsent = b""
        self.has_ended = False  # it sends nothing any more
        self.is_shut = False  # nor do we
        self.has_hung_up = False  # both at once, and epoll would say so for ever
        end.settimeout(0)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # who sends has waited as long as it wants to


class _Connection:
    """Both sides of one."""

    def __init__(self, relay: Relay, near: socket.socket, far: socket.socket) -> None:
        self._relay = relay
        self._near, self._far = _Side(near, is_open=True), _Side(far, is_open=False)
        try:
            self._watch()
        except OSError:  # no memory for it: epoll_ctl(2)
            self._close(reset=True)

    def _turn(self, side: _Side, other: _Side, events: int) -> None:
        try:
            if not side.is_open:
                _raise_error(side.socket)
                side.is_open = True
            if events & _INCOMING and self._is_readable(side, other):
                self._carry(side, other)  # of one that was reset: first what came before that
            elif events & select.EPOLLERR:
                _raise_error(side.socket)
            side.has_hung_up |= bool(events & select.EPOLLHUP)
            if events & select.EPOLLOUT:
                _flush(side, other)
        except BlockingIOError:  # epoll knew better a moment ago
            pass
        except OSError:
            self._close(reset=True)
            return
        if side.is_shut and other.is_shut:
            self._close(reset=False)
        else:
            self._watch()

    def _carry(self, side: _Side, other: _Side) -> None:
        count = side.socket.recv_into(self._relay.buffer)
        if count == 0:
            side.has_ended = True
            _flush(other, side)
            return
        try:
            sent = other.socket.send(self._relay.buffer[:count])
        except BlockingIOError:
            sent = 0
        other.unsent = bytes(self._relay.buffer[sent:count])

    @staticmethod
    def _is_readable(side: _Side, other: _Side) -> bool:
        return side.is_open and other.is_open and not side.has_ended and not other.unsent

    def _watch(self) -> None:
        for side, other in ((self._near, self._far), (self._far, self._near)):
            events = select.EPOLLIN if self._is_readable(side, other) else 0
            events |= select.EPOLLOUT if side.unsent or not side.is_open else 0
            if side.has_hung_up and not events:
                self._relay.forget(side.fd)
                continue
            self._relay.watch(side.fd, events, lambda events, side=side, other=other: self._turn(side, other, events))  # type: ignore[misc]

    def _close(self, *, reset: bool) -> None:
        for side in (self._near, self._far):
            self._relay.forget(side.fd)
            if reset:
                _reset(side.socket)
            else:
                side.socket.close()
        self._relay.resume()


def _raise_error(end: socket.socket) -> None:
    """If there is one."""
    number = end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, "the connection")


def _flush(side: _Side, other: _Side) -> None:
    """Write what is unsent to `side`, then the end if `other` has come to its own; OSError."""
    if side.unsent:
        side.unsent = side.unsent[side.socket.send(side.unsent) :]
    if other.has_ended and not side.unsent and not side.is_shut:
        side.socket.shutdown(socket.SHUT_WR)
        side.is_shut = True


class _Datagrams:
    """Of one port of UDP."""

    def __init__(self, relay: Relay, port: Port) -> None:
        self.relay = relay
        self.talks: dict[tuple[str, int], _Talk] = {}  # as the relay's
        self._port = port
        self._near = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, 0, fileno=port.fd)
        self._near.settimeout(0)
        self._near.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)  # an answer is from where the question went
        relay.watch(port.fd, select.EPOLLIN, self._turn)

    def _turn(self, _: int) -> None:
        for _ in range(_BATCH):
            try:
                data, told, _, peer = self._near.recvmsg(_MOST_DATAGRAM, socket.CMSG_SPACE(_PKTINFO_BYTES))
            except BlockingIOError:
                return
            except OSError:  # what became of an earlier answer
                continue
            if [one[:16] for _, _, one in told] != [_LOOPBACK]:
                continue
            with contextlib.suppress(OSError):  # it is lost, as any datagram may be
                self._talk(peer).far.send(data)

    def _talk(self, peer: tuple[str, int]) -> "_Talk":
        """With that one, from now on; OSError."""
        found = self.talks.get(peer)
        if found is None:
            self._make_room()
            found = _Talk(self, peer, _opened(self._port, socket.SOCK_DGRAM))
            try:
                _connect(found.far, self._port)
                self.relay.watch(found.far.fileno(), select.EPOLLIN, found.turn)
            except BaseException:
                found.far.close()
                raise
        found.touch()
        return found

    def _make_room(self) -> None:
        for talks, most in ((self.talks.values(), MOST_TALKS), (self.relay.talks, self.relay.most_talks)):
            if len(talks) >= most:
                next(iter(talks)).end()

    def answer(self, data: bytes, peer: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):  # as above
            self._near.sendmsg([data], _FROM_LOOPBACK, 0, peer)

    def close(self) -> None:
        while self.talks:
            next(iter(self.talks.values())).end()
        self._near.close()


class _Talk:
    """By datagrams, with one peer: its own socket is who it is over there."""

    def __init__(self, port: _Datagrams, peer: tuple[str, int], far: socket.socket) -> None:
        self._port = port
        self._peer = peer
        self.far = far
        self.last = 0.0

    def turn(self, _: int) -> None:
        self.touch()
        for _ in range(_BATCH):
            try:
                data = self.far.recv(_MOST_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:  # nobody is at the port; there may be by the next one
                continue
            self._port.answer(data, self._peer)

    def touch(self) -> None:
        """It has the last word."""
        relay, talks = self._port.relay, self._port.talks
        talks.pop(self._peer, None)
        relay.talks.pop(self, None)
        self.last = relay.clock()
        talks[self._peer] = self
        relay.talks[self] = None

    def end(self) -> None:
        self._port.relay.forget(self.far.fileno())
        self.far.close()
        del self._port.talks[self._peer]
        del self._port.relay.talks[self]
