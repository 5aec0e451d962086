"""/dev/log: what services say by syslog(3).

Owns the socket's place and the form of its messages. Must not know logs. Laws: whoever says something is heard: what
can't be told to be of one service goes to the first that collects; a message is one line, whatever is in it; descriptors
are not taken.
Source: syslog(3), RFC 3164, and what glibc and musl send: `<PRIORITY>TIMESTAMP TAG[PID]: TEXT` in a datagram.
"""

import os
import struct

from pyinit import scopes as contextlib
from pyinit.linux import fds
from pyinit.linux import sock as socket

PATH = "/dev/log"
_LONGEST = 1 << 16
_STAMP = len("Nov 24 10:00:00 ")
_BUFFER = 1 << 20
_LOWEST_SHOWN = 32
_ROOM = socket.CMSG_SPACE(12) + socket.CMSG_SPACE(4 * fds.MOST)  # of an older kernel


def bind(path: str = PATH) -> socket.socket:
    """In PID 1. OSError, also if someone listens there already."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with contextlib.suppress(FileNotFoundError):
            _make_way(path)
        mask = os.umask(0)  # everyone may log
        try:
            sock.bind(path)
        finally:
            os.umask(mask)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        fds.pass_none(sock)
    except OSError:
        sock.close()
        raise
    return sock


def _make_way(path: str) -> None:
    """What an earlier pyinit left."""
    os.lstat(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        if probe.connect_ex(path) == 0:
            raise FileExistsError(17, "another collector listens there")
    os.unlink(path)


def receive(sock: socket.socket) -> tuple[bytes, int]:
    """(message, the sender's pid, 0 if it can't be told). BlockingIOError if there is none."""
    data, ancillary, _, _ = sock.recvmsg(_LONGEST, _ROOM, socket.MSG_CMSG_CLOEXEC)
    for fd in fds.among(ancillary):
        fds.discard(fd)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return data, struct.unpack("3i", content[:12])[0]
    return data, 0


def line(message: bytes) -> tuple[str, bytes]:
    """(tag, the line: `TAG[PID]: TEXT`, without priority and time, which the log has itself)."""
    text = message.rstrip(b"\0\n")
    if text[:1] == b"<" and 0 < text.find(b">") <= 4:
        text = text[text.index(b">") + 1 :]
    if len(text) >= _STAMP and text[3:4] == b" " and text[9:10] == b":" and text[12:13] == b":":
        text = text[_STAMP:]
    if text and min(text) < _LOWEST_SHOWN:  # as rsyslog does, so that it stays one line
        text = b"".join(b"#%03o" % one if one < _LOWEST_SHOWN and one != 9 else bytes((one,)) for one in text)
    tag = text.partition(b":")[0].partition(b"[")[0]
    return tag.decode("utf-8", "replace") if b" " not in tag else "", text + b"\n"


def service_of(pid: int, names: list[str]) -> str:
    """By the sender's cgroup; "" if it has gone, or has none of ours."""
    try:
        with open(f"/proc/{pid}/cgroup", "rb", buffering=0) as file:
            text = file.read(4096).decode("utf-8", "replace")
    except OSError:
        return ""
    for row in text.split("\n"):
        name = row.rpartition("/svc-")[2]
        if name != row and name in names:
            return name
    return ""
