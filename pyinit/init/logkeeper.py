"""PID 1's hold on the logger's process: it is started, told, listened to, replaced, and waited for at the end.

Owns the logger's life and the socket to it. Must not know pipes or formats. Laws: PID 1 never waits for a logger but
at the end; what it is told is told in order, however slowly it listens; one that dies is replaced, after a pause if
they keep dying; one that makes way for another has not read to the end.
"""

import os
import select
import time
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.init import reaper
from pyinit.init.loop import Loop
from pyinit.linux import process
from pyinit.linux import sock as socket
from pyinit.linux.fds import receive
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.init import logger
    from pyinit.init.logstream import Source

_MOST_DEATHS, _DEATHS_WITHIN_S, _PAUSE_S = 5, 10.0, 1.0
_MOST_MESSAGE = 1 << 16
_SO_SNDBUFFORCE, _ROOM_BYTES = 32, 1 << 23  # 10,000 services that are waited for at once
_KILL = 9
_REAP = 256


class LogKeeper:
    """`pid` is the logger's, 0 without one."""

    def __init__(self, loop: Loop, log_dir: str, sources: Callable[[bool], "tuple[list[Source], bool]"], ended: Callable[[int], None], say: Callable[[str], None]) -> None:
        """`sources(made_way)`: what the next logger reads, and whether it is of the latest config, as it is once a logger
        has made way; `ended(slot)`: a pipe has had its end, and all of it is written.
        """
        self.pid = 0
        self.keep: logger.Keep | None = None
        self._loop = loop
        self._log_dir = log_dir
        self._sources = sources
        self._ended = ended
        self._say = say
        self._control: socket.socket | None = None
        self._orders: list[bytes] = []  # that it has not taken yet
        self._watches: dict[str, tuple[str, Callable[[], None]]] = {}
        self._handed: list[tuple[bytes, list[int]]] = []  # clients on their way from one logger to the next
        self._deaths: list[float] = []
        self._closing = False
        self._renewing = False
        self._made_way = False  # the last one left nothing half done

    def start(self) -> None:
        """As long as the kernel refuses a process, again."""
        if self._closing or self.pid:
            return
        try:
            is_latest = self._fork()
        except OSError as error:
            self._say(f"the logger cannot be started: {error.strerror}; again in {_PAUSE_S:g} s")
            self._loop.call_at(time.monotonic() + _PAUSE_S, self.start)
            return
        if not is_latest:
            self.renew()

    def renew(self) -> None:
        """The present logger finishes what it is at, hands over its clients and ends; the next one begins."""
        if self.pid:
            self._renewing = True
            from pyinit.init.logclient import RENEW  # the logger has it

            self._order(RENEW)

    def exited(self, pid: int, code: int) -> bool:
        """Whether that was the logger; another one is there by then, or soon if they keep dying."""
        if pid != self.pid or not pid:
            return False
        self._hear()
        self.pid = 0
        self._made_way, self._renewing = self._renewing and code == 0, False
        if self._closing:
            return True
        if self._made_way:
            self.start()
            return True
        now = time.monotonic()
        self._deaths = [at for at in self._deaths if at > now - _DEATHS_WITHIN_S] + [now]
        self._say("the logger died and is started again")
        if len(self._deaths) > _MOST_DEATHS:
            self._loop.call_at(now + _PAUSE_S, self.start)
        else:
            self.start()
        return True

    def watch(self, name: str, pattern: str, found: Callable[[], None]) -> None:
        """`found` is called from the loop, once, when a line of the service matches."""
        self._watches[name] = (pattern, found)
        self._order(b"watch\0" + name.encode() + b"\0" + pattern.encode())

    def unwatch(self, name: str) -> None:
        """None is fine."""
        if self._watches.pop(name, None) is not None:
            self._order(b"unwatch\0" + name.encode())

    def logs(self, request: bytes, client_fd: int) -> None:
        """Hand a client over to the logger; its end of the socket is closed here."""
        try:
            if self._control is None:
                os.write(client_fd, b'{"error": "no service logs through pyinit: see log.to in the config", "exit_code": 1}\n')
            elif not self.pid:
                os.write(client_fd, b'{"error": "the logger died and is to be started again: try in a second", "exit_code": 1}\n')
            else:
                socket.send_fds(self._control, [request], [client_fd])
        except OSError:
            pass  # the client sees the end of the connection
        finally:
            os.close(client_fd)

    def close(self, deadline_s: float) -> None:
        """Nobody writes any more: loggers read to the end, one after the other if need be, but not for ever."""
        self._closing = True
        while not self._drained(deadline_s) and time.monotonic() < deadline_s:
            pass

    def forget(self) -> None:
        """After `close`."""
        if self._control is not None:
            self._drop_control(self._control)
        for _, fds in self._handed:
            for fd in fds:
                os.close(fd)
        for fd in self.keep[:3] if self.keep is not None else ():  # /dev/log is closed by whom bound it
            os.close(fd)
        self._handed = []
        self.keep, self._control, self.pid = None, None, 0

    def _drained(self, deadline_s: float) -> bool:
        """Whether a logger has read all; one that makes way or dies of something else leaves the rest to another."""
        try:
            if not self.pid:
                self._fork()
            pidfd = os.pidfd_open(self.pid)
        except OSError:  # no more processes, or a logger that was reaped: what is in the pipes is lost
            return True
        assert self._control is not None
        self._control.shutdown(socket.SHUT_WR)
        try:
            ended = self._wait(pidfd, self._control, deadline_s)
            if not ended:
                process.pidfd_send_signal(pidfd, _KILL)
        finally:
            os.close(pidfd)
        if not ended:
            return True
        pid, self.pid = self.pid, 0
        is_good = any(one == pid and code == 0 for one, code, _ in reaper.reap(_REAP))
        self._made_way, self._renewing = self._renewing and is_good, False
        return is_good and not self._made_way

    def _wait(self, pidfd: int, control: socket.socket, deadline_s: float) -> bool:
        """False at the deadline. It is listened to meanwhile, or it would wait for us."""
        poll = select.poll()  # select() has no room for the descriptors of many services
        poll.register(pidfd, select.POLLIN)
        poll.register(control.fileno(), select.POLLIN)
        while ready := [fd for fd, _ in poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000)]:
            if control.fileno() in ready and not self._hear():
                poll.unregister(control.fileno())
            if pidfd in ready:
                return True
        return False

    # Words

    def _order(self, word: bytes) -> None:
        """A logger that begins knows what is watched; one that dies needs no order."""
        if self.pid:
            self._orders.append(word)
            self._send_orders()

    def _send_orders(self) -> None:
        control = self._control
        assert control is not None
        try:
            while self._orders:
                control.send(self._orders[0])
                del self._orders[0]
        except BlockingIOError:
            self._loop.add_writer(control.fileno(), self._send_orders)
            return
        except OSError:  # it is dying: the next one is told
            self._orders = []
        self._loop.remove_writer(control.fileno())

    def _listen(self) -> None:
        self._hear()

    def _hear(self) -> bool:
        """All that the logger has said: whose line has come, what has ended, who is to be handed on. False at its end."""
        while self._control is not None:
            try:
                data, fds = receive(self._control, _MOST_MESSAGE, 2)
            except BlockingIOError:
                return True
            except OSError:
                break
            if not data:  # it is gone; the reaper tells
                break
            word, _, rest = data.partition(b"\0")
            from pyinit.init.logclient import HANDED_OVER  # the logger has it

            if data == HANDED_OVER:
                self._handed.append((data, fds))
            elif self._closing:
                continue
            elif word == b"ended":
                self._ended(int(rest))
            elif rest.decode() in self._watches:
                self._watches.pop(rest.decode())[1]()
        if self._control is not None:
            self._loop.remove_reader(self._control.fileno())
        return False

    # The process

    def _fork(self) -> bool:
        """Whether it is of the latest config."""
        assert self.keep is not None
        if self._control is not None:
            self._drop_control(self._control)
        self._orders = []
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        with contextlib.suppress(OSError):  # it takes CAP_NET_ADMIN; else there is room for 278 orders, and the rest come late
            ours.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ROOM_BYTES)
        ours.setblocking(False)  # noqa: FBT003 - no keywords there
        self._control = ours
        for data, fds in self._handed:
            with contextlib.suppress(OSError):
                socket.send_fds(ours, [data], fds)
        sources, is_latest = self._sources(self._made_way)
        try:
            pid, pidfd = process.clone(0)
        except OSError:
            theirs.close()
            raise
        if pid == 0:
            _run(sources, self._log_dir, theirs, self.keep, {name: pattern for name, (pattern, _) in self._watches.items()})
        os.close(pidfd)
        theirs.close()
        self.pid = pid
        self._loop.add_reader(ours.fileno(), self._listen)
        for _, fds in self._handed:
            for fd in fds:
                os.close(fd)
        self._handed, self._made_way = [], False
        return is_latest

    def _drop_control(self, control: socket.socket) -> None:
        self._loop.remove_reader(control.fileno())
        self._loop.remove_writer(control.fileno())
        control.close()


def _run(sources: "list[Source]", log_dir: str, control: socket.socket, keep: "logger.Keep", watches: dict[str, str]) -> None:
    """In the logger's process."""
    from pyinit.init import logger  # loaded already, by who has made `keep`

    code = 1
    try:
        fds = {fd for source in sources for fd in (source.fd, source.spool_fd)}
        process.close_all_but({0, 1, 2, control.fileno(), *fds, *(fd for fd in keep if fd >= 0)})
        logger.run(sources, log_dir, control, keep, watches)
        code = 0
    except BaseException as error:  # noqa: BLE001 - the process's edge: nothing may unwind into PID 1's frames
        os.write(2, f"pyinit: logger: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)
