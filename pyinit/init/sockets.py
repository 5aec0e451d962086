"""Sockets that are bound here and inherited by services, so that a restart refuses no connection.

Owns the listening sockets of all services. Must not know when a service runs. Laws: each is bound once, and kept
until its service is gone or its config differs; a unix socket has its mode and owner before anyone can reach it;
what an earlier process left in the way is replaced only if nobody listens there. Source: sd_listen_fds(3).

A socket is bound by its path, which services compare with what getsockname(2) says (sd_is_socket(3), nginx), and there is
no bindat(2): a link that takes its folder's place in that very moment leads it astray. It is found out, and the service is
refused; what is left is a socket's file of mode 0 elsewhere, whose other end is closed.
"""

import errno
import os
import stat
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.init.privileges import RefusedError
from pyinit.linux import sock as socket
from pyinit.model import ServiceSpec, SocketSpec

FIRST_FD = 3
_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "unix": socket.SOCK_STREAM, "unix-datagram": socket.SOCK_DGRAM}
_HINTS = {
    errno.EADDRINUSE: "another process listens there; stop it, or choose another address",
    errno.EADDRNOTAVAIL: "no interface has that address",
    errno.EACCES: "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE",
}
Ids = Callable[[SocketSpec], tuple[int, int]]


def inherited(environment: dict[str, str], pid: int) -> dict[str, int]:
    """What the init itself was given by whoever started it: fds by name ("unknown" without names)."""
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(pid) or not (count.isascii() and count.isdigit() and len(count) < 5):
        return {}
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, int] = {}
    for number in range(int(count)):
        name = names[number] if number < len(names) and names[number] else "unknown"
        found.setdefault(name, FIRST_FD + number)
    return found


def variables(names: list[str]) -> dict[str, str]:
    """LISTEN_FDS and what else a service must know; LISTEN_PID is set by the child itself."""
    if not names:
        return {}
    found = {"LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}
    for number, name in enumerate(names):
        word = "".join(char if char.isalnum() else "_" for char in name.upper())
        found.setdefault(f"PYINIT_FD_{word}", str(FIRST_FD + number))
    return found


class Sockets:
    """`given`: fds that the init inherited, by name."""

    def __init__(self, given: dict[str, int]) -> None:
        self._given = given
        self._bound: dict[str, list[tuple[SocketSpec, int]]] = {}

    def bind(self, spec: ServiceSpec, ids: Ids) -> list[tuple[str, int]]:
        """(name, fd) in the config's order; RefusedError names the line and the address."""
        there = {_key(one): fd for one, fd in self._bound.get(spec.name, [])}
        kept = []
        try:
            for one in spec.sockets:
                fd = there.pop(_key(one), -1)
                kept.append((one, fd if fd >= 0 else self._open(one, ids)))
        finally:
            old = {_key(one): one for one, _ in self._bound.get(spec.name, [])}
            for key, fd in there.items():  # those that are no longer wanted
                if key not in {_key(one) for one in spec.sockets}:
                    _close(old[key], fd)
                else:
                    kept.append((old[key], fd))
            self._bound[spec.name] = kept
        return [(one.name, fd) for one, fd in kept]

    def forget(self, name: str) -> None:
        for one, fd in self._bound.pop(name, []):
            _close(one, fd)

    def close(self) -> None:
        for name in list(self._bound):
            self.forget(name)

    def _open(self, one: SocketSpec, ids: Ids) -> int:
        if one.type == "inherited":
            if one.path not in self._given:
                names = ", ".join(self._given) or "none"
                raise RefusedError("sockets", errno.EBADF, f"{one.origin}: no socket {one.path} was handed to pyinit; there are: {names}")
            return os.dup(self._given[one.path])
        local = one.type.startswith("unix")
        family = socket.AF_UNIX if local else socket.AF_INET6 if ":" in one.host else socket.AF_INET
        where = one.path if local else f"{one.host}:{one.port}"
        sock = socket.socket(family, _TYPES[one.type] | socket.SOCK_CLOEXEC)  # blocking, as systemd hands them over
        try:
            if local:
                _bind_local(sock, one, *ids(one))
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if one.reuseport:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.bind((one.host, one.port))
            if sock.type == socket.SOCK_STREAM:
                sock.listen(one.backlog)
        except OSError as error:
            sock.close()
            hint = _HINTS.get(error.errno or 0, "")
            text = f"{one.origin}: socket {one.name}: {where}: {error.strerror or error}{'; ' + hint if hint else ''}"
            raise RefusedError("sockets", error.errno or 0, text) from error
        return sock.detach()


def _key(one: SocketSpec) -> SocketSpec:
    return one._replace(origin=SocketSpec("").origin, name="")


def _bind_local(sock: socket.socket, one: SocketSpec, uid: int, gid: int) -> None:
    """Who may write to the folder may put a link in its place, or in the socket's: none of them is followed out of the root."""
    name = os.path.basename(one.path)
    folder = _folder(os.path.dirname(one.path))
    try:
        with contextlib.suppress(FileNotFoundError):
            _make_way(name, folder)
        mask = os.umask(0o777)  # nobody reaches it before its owner and mode are set
        try:
            sock.bind(one.path)
        finally:
            os.umask(mask)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(errno.EEXIST, "another file took its place")
        if uid >= 0 or gid >= 0:
            os.chown(f"/proc/self/fd/{fd}", uid, gid)
        os.chmod(f"/proc/self/fd/{fd}", one.mode)
    finally:
        os.close(fd)


def _folder(path: str) -> int:
    """An O_PATH fd of it, made if it is missing."""
    from pyinit.linux import mount  # for those who have such a socket

    return mount.folder_plainly(path)


def _make_way(name: str, folder: int) -> None:
    from pyinit.linux import mount  # as above

    if not stat.S_ISSOCK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise OSError(errno.EEXIST, "it is in the way and is no socket: remove it")
    mount.in_folder(folder, lambda: _ask(name))
    os.unlink(name, dir_fd=folder)


def _ask(name: str) -> None:
    """EADDRINUSE if somebody listens there."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind | _FLAGS) as probe:
            if probe.connect_ex(name) in (0, errno.EAGAIN):
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _close(one: SocketSpec, fd: int) -> None:
    os.close(fd)
    if one.type.startswith("unix"):
        with contextlib.suppress(OSError):
            remove(one.path)


def remove(path: str) -> None:
    """Its file, whatever a link says that has taken its folder's place; OSError."""
    from pyinit.linux import mount  # loaded when it was bound

    folder = mount.open_plainly(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        os.unlink(os.path.basename(path), dir_fd=folder)
    finally:
        os.close(folder)
