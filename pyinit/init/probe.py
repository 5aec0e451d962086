"""One question whether a service works: tcp, unix, http, exec, path.

Owns an attempt, from its first system call to its answer. Must not know what the answer leads to. Laws: nothing
blocks; an attempt ends with one answer or with `cancel`, and leaves no fd behind; the answer comes from the loop,
never from the constructor.
"""

import errno
import os
import stat
import time
from _collections_abc import Callable

from pyinit.init.loop import Loop
from pyinit.linux import sock as socket
from pyinit.model import Probe
from pyinit.protocol import http
from pyinit.records import Protocol

Answered = Callable[[str], None]


class Running(Protocol):
    def cancel(self) -> None: ...


RunCommand = Callable[[tuple[str, ...], float, Answered], Running]


class Attempt:
    """`answered("")` for good, else a short text for people."""

    def __init__(self, loop: Loop, probe: Probe, timeout_s: float, answered: Answered, run: RunCommand) -> None:
        self._loop = loop
        self._probe = probe
        self._answered = answered
        self._over = False
        self._sock: socket.socket | None = None
        self._received = b""
        self._running: Running | None = None
        self._timeout_s = timeout_s
        self._deadline = loop.call_at(time.monotonic() + timeout_s, self._late)
        if probe.kind == "exec":
            self._running = run(probe.command, timeout_s, self._answer)
        elif probe.kind == "path" and not _is_socket(probe.path):
            self._soon("" if os.path.lexists(probe.path) else f"{probe.path} is not there")
        else:
            self._connect()

    def cancel(self) -> None:
        """No answer is wanted any more."""
        self._over = True
        self._deadline.cancel()
        self._close()
        if self._running is not None:
            self._running.cancel()

    def _answer(self, text: str) -> None:
        if not self._over:
            self._running = None
            self.cancel()
            self._answered(text)

    def _soon(self, text: str) -> None:
        self._loop.call_soon(lambda: self._answer(text))

    def _late(self) -> None:
        self._answer(f"no answer within {self._timeout_s:g} s")

    def _close(self) -> None:
        if self._sock is not None:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _connect(self) -> None:
        probe = self._probe
        local = probe.kind in ("unix", "path")
        family = socket.AF_UNIX if local else socket.AF_INET6 if ":" in probe.host else socket.AF_INET
        flags = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            self._sock = sock = socket.socket(family, flags)
            code = sock.connect_ex(probe.path if local else (probe.host, probe.port))
        except OSError as error:  # no fd is left, or the path is too long for an address
            self._soon(error.strerror or str(error))
            return
        if code == errno.EINPROGRESS:
            self._loop.add_writer(sock.fileno(), self._connected)
        elif local and code in (errno.EAGAIN, errno.EPROTOTYPE):
            self._soon("")  # the backlog is full, so someone listens; a datagram socket can't be asked
        elif code:
            self._soon(_connect_error(probe, code))
        else:
            self._loop.call_soon(self._connected)

    def _connected(self) -> None:
        if self._over or self._sock is None:
            return
        self._loop.remove_writer(self._sock.fileno())
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._answer(_connect_error(self._probe, code))
        elif self._probe.kind != "http":
            self._answer("")
        else:
            self._ask(self._sock)

    def _ask(self, sock: socket.socket) -> None:
        try:
            sock.send(http.request(self._probe.name, self._probe.path))  # it is shorter than any socket's buffer
        except OSError as error:
            self._answer(error.strerror or str(error))
            return
        self._loop.add_reader(sock.fileno(), lambda: self._read(sock))

    def _read(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            if not self._received:
                self._answer(error.strerror or str(error))
                return
            data = b""  # a server that closed without reading all: what it said before counts
        self._received += data
        if not data or http.is_whole(self._received):
            self._answer(http.judge(self._received, self._probe.status, self._probe.body))


def _is_socket(path: str) -> bool:
    """A socket counts when someone listens: one of an earlier process may lie there still."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _connect_error(probe: Probe, code: int) -> str:
    where = probe.path if probe.kind in ("unix", "path") else f"{probe.host}:{probe.port}"
    return f"{where}: {os.strerror(code)}"
