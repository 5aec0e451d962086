"""sd_notify: one socket a service, read as long as the service is known.

Owns the sockets. Must not know what a message leads to. Laws: nobody else can speak for a service, since the socket
is its user's; messages are read before their senders are reaped; an fd that nobody asked to keep is closed, and no close
waits; whoever may write to the folder may put a link in its place, or in a socket's, at any time: none of them is followed,
for all is done by the folder's fd. (That no fds come at all, SO_PASSRIGHTS, is no way out: sd_notify_barrier(3) sends one, and systemd-notify calls it.)
"""

import errno
import os
import stat
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.init.loop import Loop
from pyinit.linux import fds as received
from pyinit.linux import sock as socket
from pyinit.model import ServiceSpec
from pyinit.protocol.notify import MOST_BYTES, Message, parse

_A_TURN = 64
Told = Callable[[str, Message, list[int]], None]


def wants(spec: ServiceSpec) -> bool:
    """Whether a service has the socket at all."""
    return spec.ready.kind == "notify" or spec.watchdog_s > 0 or spec.fd_store > 0


class Notify:
    """`told(name, message, fds)` is called from the loop; the fds are its own to close."""

    def __init__(self, loop: Loop, state_dir: str, told: Told) -> None:
        self._loop = loop
        self._folder = f"{state_dir}/notify"
        self._has_folder = False
        self._told = told
        self._sockets: dict[str, tuple[socket.socket, str]] = {}

    def prepare(self, spec: ServiceSpec, uid: int) -> None:
        """Before the fork; OSError. What an earlier process said is not the next one's word."""
        if not wants(spec):
            return
        if spec.name not in self._sockets:
            self._sockets[spec.name] = self._make(spec.name)
            self._loop.add_reader(self._sockets[spec.name][0].fileno(), lambda: self._read(spec.name))
        sock, _ = self._sockets[spec.name]
        self._give(spec.name, uid if uid >= 0 else -1)
        while self._receive(sock) is not None:
            pass

    def environment(self, spec: ServiceSpec) -> dict[str, str]:
        """What the service must know; WATCHDOG_PID is set by the child itself."""
        if spec.name not in self._sockets:
            return {}
        found = {"NOTIFY_SOCKET": self._sockets[spec.name][1]}
        if spec.watchdog_s:
            found["WATCHDOG_USEC"] = str(int(spec.watchdog_s * 1_000_000))
        return found

    def drain(self) -> None:
        """Read what is there: a sender may be gone in a moment."""
        for name in list(self._sockets):
            self._read(name)

    def forget(self, name: str) -> None:
        found = self._sockets.pop(name, None)
        if found is not None:
            sock, _ = found
            self._loop.remove_reader(sock.fileno())
            received.close(sock)
            with contextlib.suppress(OSError), _Opened(self._folder) as folder:
                os.unlink(name, dir_fd=folder)

    def close(self) -> None:
        """Leave nothing behind."""
        for name in list(self._sockets):
            self.forget(name)
        if self._has_folder:
            with contextlib.suppress(OSError), _Opened(os.path.dirname(self._folder)) as folder:
                os.rmdir(os.path.basename(self._folder), dir_fd=folder)

    def _read(self, name: str) -> None:
        """A bounded number a turn: epoll comes back for the rest."""
        for _ in range(_A_TURN):
            if name not in self._sockets:
                return
            found = self._receive(self._sockets[name][0], keep=True)
            if found is None:
                return
            data, fds = found
            self._told(name, parse(data), fds)

    @staticmethod
    def _receive(sock: socket.socket, *, keep: bool = False) -> "tuple[bytes, list[int]] | None":
        try:
            data, fds = received.receive(sock, MOST_BYTES, received.MOST)
        except BlockingIOError:
            return None
        except OSError:  # EMFILE for the fds of a message: it is lost
            return (b"", [])
        if keep:
            return data, fds
        for fd in fds:
            received.discard(fd)
        return data, []

    def _give(self, name: str, uid: int) -> None:
        """The socket to its user."""
        with _Opened(self._folder) as folder:
            if not stat.S_ISSOCK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise OSError(errno.EEXIST, "another file took its place", f"{self._folder}/{name}")
            os.chown(name, uid, -1, dir_fd=folder, follow_symlinks=False)  # by no /proc/self/fd: there may be no procfs

    def _make(self, name: str) -> tuple[socket.socket, str]:
        from pyinit.linux import mount  # as below

        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with _Opened(self._folder, make=True) as folder:
                self._has_folder = True
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
                mask = os.umask(0o177)  # its mode from the beginning: a chmod would follow a link
                try:
                    mount.in_folder(folder, lambda: sock.bind(name))
                finally:
                    os.umask(mask)
        except OSError:
            sock.close()
            raise
        return sock, f"{self._folder}/{name}"


class _Opened:
    """A folder's fd, but ELOOP by a magic link of procfs."""

    def __init__(self, path: str, *, make: bool = False) -> None:
        from pyinit.linux import mount  # for those who have such a socket

        self._fd = mount.folder_plainly(path, 0o711) if make else mount.open_plainly(path, os.O_PATH | os.O_DIRECTORY)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
