"""Sockets, as the socket module has them, without its enums and selectors: 9 ms of each start.

Owns the stand-in. Must not know who talks. It is imported under socket's name.
"""

# ruff: noqa: PLC0414, F403, ARG001 - the original's names and signatures

from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from socket import *
    from socket import MSG_CMSG_CLOEXEC as MSG_CMSG_CLOEXEC
    from socket import recv_fds as recv_fds
    from socket import send_fds as send_fds
else:
    import _socket
    from sys import byteorder

    _INT = 4

    def __getattr__(name):
        """Its numbers, and what it does at no socket: 400 names, of which a start needs 20."""
        return getattr(_socket, name)

    class socket(_socket.socket):  # noqa: N801 - the original's name
        """_socket's, with what the standard library's adds."""

        __slots__ = ("__weakref__",)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()

        def accept(self):
            """(the connection, its peer's address)."""
            fd, peer = self._accept()
            connection = socket(self.family, self.type, self.proto, fileno=fd)
            if self.gettimeout():
                connection.settimeout(None)
            return connection, peer

    def socketpair(family=_socket.AF_UNIX, type=_socket.SOCK_STREAM, proto=0):  # noqa: A002 - the original's name
        """Two ends."""
        return tuple(socket(family, type, proto, fileno=one.detach()) for one in _socket.socketpair(family, type, proto))

    def send_fds(sock, buffers, fds, flags=0, address=None):
        """With SCM_RIGHTS (unix(7))."""
        packed = b"".join(fd.to_bytes(_INT, byteorder) for fd in fds)
        return sock.sendmsg(buffers, [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])

    def recv_fds(sock, size, most, flags=0):
        """(data, fds, flags, address) with SCM_RIGHTS (unix(7))."""
        data, rest, flags, address = sock.recvmsg(size, _socket.CMSG_LEN(most * _INT), flags)
        fds = []
        for level, kind, packed in rest:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                fds += [int.from_bytes(packed[at : at + _INT], byteorder) for at in range(0, len(packed) - len(packed) % _INT, _INT)]
        return data, fds, flags, address
