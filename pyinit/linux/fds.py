"""Descriptors that come through a unix socket.

Owns the call. Must not know who sends them. Law: they are CLOEXEC from birth. (socket.recv_fds of Python 3.11 forgets
its flags, which is why it is not used.)
"""

import struct

from pyinit.linux import sock as socket

_SIZE = struct.calcsize("i")


def receive(sock: socket.socket, most_bytes: int, most_fds: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """recvmsg(2): (data, descriptors); BlockingIOError with MSG_DONTWAIT if there is nothing."""
    fds: list[int] = []
    data, ancillary, _, _ = sock.recvmsg(most_bytes, socket.CMSG_LEN(most_fds * _SIZE), flags | socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds += struct.unpack(f"{len(content) // _SIZE}i", content[: len(content) // _SIZE * _SIZE])
    return data, fds
