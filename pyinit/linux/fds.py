"""Descriptors that come through a unix socket.

Owns the call, and the end of what came and is not kept. Must not know who sends them. Laws: they are CLOEXEC from birth
(socket.recv_fds of Python 3.11 forgets its flags, which is why it is not used); whoever must not wait has room for
`MOST`, for the kernel closes what finds none, and so it does with what is still queued when a socket is closed; it ends
what came by `discard`, and the socket by `close`.

The last close of a TCP socket waits for up to its SO_LINGER (socket(7)), also of one that doesn't block, and the sender
has chosen it. A sender with a copy of its own can set it again behind `discard`'s look, and close that copy before we do:
so a signal ends such a wait, soon. What is left: a sender that holds the socket's lock (a sendmsg whose memory waits, by
userfaultfd or FUSE); files whose every close asks somebody (FUSE); and what the kernel closes since we have no descriptor
free. Where nobody passes descriptors, `pass_none` leaves none of it.
"""

import _signal  # type: ignore[import-not-found]  # built in: no enum is made
import errno
import os
import struct
from stat import S_ISSOCK

from pyinit.linux import sock as socket

MOST = 253  # SCM_MAX_FD: of one message
_SIZE = struct.calcsize("i")
_SO_PASSRIGHTS = 83  # Linux 6.16
_LINGER = struct.Struct("ii")  # struct linger
_MOST_BYTES = 1 << 16
_SO_DOMAIN = 39
_LONGEST_WAIT_S = 0.01


def receive(sock: socket.socket, most_bytes: int, most_fds: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """recvmsg(2): (data, descriptors); BlockingIOError with MSG_DONTWAIT if there is nothing."""
    data, ancillary, _, _ = sock.recvmsg(most_bytes, socket.CMSG_LEN(most_fds * _SIZE), flags | socket.MSG_CMSG_CLOEXEC)
    return data, among(ancillary)


def among(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in what recvmsg(2) has brought."""
    fds: list[int] = []
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds += struct.unpack(f"{len(content) // _SIZE}i", content[: len(content) // _SIZE * _SIZE])
    return fds


def pass_none(sock: socket.socket) -> None:
    """Who sends a descriptor has EPERM: unix(7), SO_PASSRIGHTS. An older kernel passes them."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise


def discard(fd: int) -> None:
    """close(2) of what a stranger sent, without the wait that it may have asked for; see above."""
    sock = _as_socket(fd)
    if sock is None:
        os.close(fd)
        return
    try:
        # Only where it is set: somebody may go on with the same socket.
        if all(_LINGER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size))):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(0, 0))
    except (OSError, struct.error):  # a family that knows no such option
        pass
    if sock.getsockopt(socket.SOL_SOCKET, _SO_DOMAIN) == socket.AF_UNIX:
        sock.close()
    else:
        _close_soon(sock)


def _close_soon(sock: socket.socket) -> None:
    """A close(2) that ends with SIGALRM if it waits (sk_stream_wait_close() in net/core/stream.c heeds signals).

    One that was pending is so again; one that comes from elsewhere in these microseconds is lost.
    """
    was_pending = _signal.SIGALRM in _signal.sigpending()
    handler = _signal.signal(_signal.SIGALRM, lambda *_: None)
    mask = _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGALRM,))
    timer = _signal.setitimer(_signal.ITIMER_REAL, _LONGEST_WAIT_S, _LONGEST_WAIT_S)
    try:
        sock.close()
    finally:
        _signal.setitimer(_signal.ITIMER_REAL, *timer)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        _signal.signal(_signal.SIGALRM, _signal.SIG_DFL if handler is None else handler)
        if was_pending:
            os.kill(os.getpid(), _signal.SIGALRM)


def _as_socket(fd: int) -> socket.socket | None:
    if not S_ISSOCK(os.fstat(fd).st_mode):
        return None
    try:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)  # whatever it is: then it is not asked
    except OSError:  # EBADF: an O_PATH descriptor of a socket's file
        return None


def close(sock: socket.socket) -> None:
    """A unix socket's end, also for others who have it, with what is queued at it: no more can come then, so that this ends."""
    try:
        sock.shutdown(socket.SHUT_RD)
        while True:
            data, fds = receive(sock, _MOST_BYTES, MOST, socket.MSG_DONTWAIT)
            for fd in fds:
                discard(fd)
            if not data and sock.type != socket.SOCK_DGRAM:  # a datagram may be empty
                break
    except OSError:  # BlockingIOError: that was all
        pass
    sock.close()
