"""Watching a service until it is ready: tcp, path, notification fd, sd_notify.

Owns the watch of each service that starts. Must not know what readiness leads to.
Laws: nothing blocks; a watch ends with its answer, its service's end or `unwatch`, and leaves no fd behind; an
answer carries the pid that it was asked for; a service that is ready costs no wakeup.
"""

import contextlib
import errno
import os
import socket
import stat
import time
from collections.abc import Callable

from pyinit.init.loop import Deadline, Loop
from pyinit.model import ServiceSpec
from pyinit.protocol import notify

FIRST_RETRY_S, LONGEST_RETRY_S = 0.002, 0.1
NO_FD = (-1, -1)


class _Watch:
    """One service's watch: what must be closed when it ends."""

    def __init__(self, spec: ServiceSpec, pid: int) -> None:
        self.spec = spec
        self.pid = pid
        self.fd = -1
        self.deadline: Deadline | None = None
        self.retry_s = FIRST_RETRY_S


class Readiness:
    """`became_ready(name, pid)` is called from the loop."""

    def __init__(self, loop: Loop, state_dir: str, became_ready: Callable[[str, int], None]) -> None:
        self._loop = loop
        self._folder = f"{state_dir}/notify"
        self._became_ready = became_ready
        self._watches: dict[str, _Watch] = {}
        self._pipes: dict[int, int] = {}  # write end -> read end, between prepare and started
        self._sockets: dict[str, tuple[socket.socket, str]] = {}

    def prepare(self, spec: ServiceSpec, uid: int) -> tuple[int, int]:
        """(fd to pass, its number in the child) before the fork; OSError."""
        if spec.ready.kind == "notify" and spec.name not in self._sockets:
            self._sockets[spec.name] = self._make_socket(spec.name, uid)
        if spec.ready.kind != "fd":
            return NO_FD
        read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write_end, True)
        self._pipes[write_end] = read_end
        return write_end, spec.ready.fd

    def environment(self, spec: ServiceSpec) -> dict[str, str]:
        """What the service must know."""
        if spec.name in self._sockets:
            return {"NOTIFY_SOCKET": self._sockets[spec.name][1]}
        return {}

    def discard(self, passed: tuple[int, int]) -> None:
        """There is no process after all."""
        if passed[0] in self._pipes:
            os.close(self._pipes.pop(passed[0]))
            os.close(passed[0])

    def started(self, spec: ServiceSpec, pid: int, passed: tuple[int, int]) -> None:
        """The process is there: watch it."""
        self.unwatch(spec.name)
        if spec.ready.kind == "exec" or spec.kind == "oneshot":
            self.discard(passed)
            return
        watch = self._watches[spec.name] = _Watch(spec, pid)
        if spec.ready.kind == "fd":
            watch.fd = self._pipes.pop(passed[0])
            os.close(passed[0])
            self._loop.add_reader(watch.fd, lambda: self._read_pipe(watch))
        elif spec.ready.kind == "notify":
            sock = self._sockets[spec.name][0]
            self._drain(sock)  # what an earlier process said is not this one's word
            self._loop.add_reader(sock.fileno(), lambda: self._read_socket(watch, sock))
        elif spec.ready.kind == "tcp":
            self._connect(watch)
        else:
            self._look(watch)

    def unwatch(self, name: str) -> None:
        """End the service's watch; none is fine."""
        watch = self._watches.pop(name, None)
        if watch is None:
            return
        if watch.deadline is not None:
            watch.deadline.cancel()
        if watch.fd >= 0:
            self._loop.remove_reader(watch.fd)
            self._loop.remove_writer(watch.fd)
            os.close(watch.fd)
        if name in self._sockets:
            self._loop.remove_reader(self._sockets[name][0].fileno())

    def close(self) -> None:
        """Leave nothing behind."""
        for name in list(self._watches):
            self.unwatch(name)
        for sock, path in self._sockets.values():
            sock.close()
            with contextlib.suppress(OSError):
                os.unlink(path)
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)

    def _ready(self, watch: _Watch) -> None:
        self.unwatch(watch.spec.name)
        self._became_ready(watch.spec.name, watch.pid)

    def _again(self, watch: _Watch, attempt: Callable[[_Watch], None]) -> None:
        if self._watches.get(watch.spec.name) is watch:
            watch.deadline = self._loop.call_at(time.monotonic() + watch.retry_s, lambda: attempt(watch))
            watch.retry_s = min(watch.retry_s * 2, LONGEST_RETRY_S)

    def _read_pipe(self, watch: _Watch) -> None:
        """A newline says ready; an end without one says never (the ready timeout then speaks)."""
        try:
            data = os.read(watch.fd, 4096)
        except BlockingIOError:
            return
        if b"\n" in data:
            self._ready(watch)
        elif not data:
            self._loop.remove_reader(watch.fd)
            os.close(watch.fd)
            watch.fd = -1

    def _read_socket(self, watch: _Watch, sock: socket.socket) -> None:
        for message in self._messages(sock):
            if message.get("READY") == "1":
                self._ready(watch)
                return

    def _drain(self, sock: socket.socket) -> None:
        for _ in self._messages(sock):
            pass

    @staticmethod
    def _messages(sock: socket.socket) -> list[dict[str, str]]:
        """What is queued, bounded; fds that come along are closed."""
        found = []
        for _ in range(64):
            try:
                data, fds, _, _ = socket.recv_fds(sock, notify.MOST_BYTES, 16)
            except BlockingIOError:
                break
            for fd in fds:
                os.close(fd)
            found.append(notify.parse(data))
        return found

    def _connect(self, watch: _Watch) -> None:
        host, port = watch.spec.ready.host, watch.spec.ready.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        code = sock.connect_ex((host, port))
        if code == errno.EINPROGRESS:
            watch.fd = sock.detach()
            self._loop.add_writer(watch.fd, lambda: self._connected(watch))
            return
        sock.close()
        self._answer(watch, self._connect, yes=code == 0)

    def _connected(self, watch: _Watch) -> None:
        self._loop.remove_writer(watch.fd)
        with socket.socket(fileno=watch.fd) as sock:
            watch.fd = -1
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._answer(watch, self._connect, yes=code == 0)

    def _look(self, watch: _Watch) -> None:
        """A socket counts when someone listens: one of an earlier process may lie there still."""
        path = watch.spec.ready.path
        try:
            found = os.stat(path)
        except OSError:
            self._answer(watch, self._look, yes=False)
            return
        if not stat.S_ISSOCK(found.st_mode):
            self._answer(watch, self._look, yes=True)
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
            try:
                code = sock.connect_ex(path)
            except OSError:  # the path is too long for an address: that it is there must do
                code = 0
        # EAGAIN: the backlog is full, so someone listens; EPROTOTYPE: a datagram socket can't be asked.
        self._answer(watch, self._look, yes=code in (0, errno.EAGAIN, errno.EPROTOTYPE))

    def _answer(self, watch: _Watch, attempt: Callable[[_Watch], None], *, yes: bool) -> None:
        """From the loop, never from the spawn itself: the supervisor is not entered from its own orders."""
        if yes:
            self._loop.call_soon(lambda: self._ready(watch) if self._is_current(watch) else None)
        else:
            self._again(watch, attempt)

    def _is_current(self, watch: _Watch) -> bool:
        return self._watches.get(watch.spec.name) is watch

    def _make_socket(self, name: str, uid: int) -> tuple[socket.socket, str]:
        """One socket a service, owned by its user, so that nobody else can speak for it."""
        os.makedirs(self._folder, 0o711, exist_ok=True)
        path = f"{self._folder}/{name}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            sock.bind(path)
            os.chmod(path, 0o600)
            if uid >= 0:
                os.chown(path, uid, -1)
        except OSError:
            sock.close()
            raise
        return sock, path
