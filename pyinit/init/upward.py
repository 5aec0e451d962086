"""What this init tells whoever started it: READY, STATUS, STOPPING, EXIT_STATUS (sd_notify's protocol).

Owns the way up: our own NOTIFY_SOCKET, or the monitor's channel. Must not know services. Laws: telling never blocks
and never fails anything; what services may see of NOTIFY_SOCKET is theirs, not ours.
Source: sd_notify(3), the container interface of systemd.
"""

import os

from pyinit.linux import sock as socket

INHERITED = "fd:"  # before the number of an inherited socket, as the address of the one who waits (launch/detach.py)
_RELAYED = (b"READY=", b"STATUS=", b"STOPPING=", b"RELOADING=", b"EXIT_STATUS=", b"ERRNO=")


def send(data: bytes, address: str) -> None:
    """One datagram to `/path` or `@abstract` or `fd:N`; an address of another kind, or nobody there, is no error."""
    number = address.removeprefix(INHERITED)
    if number != address and number.isascii() and number.isdigit():
        _send_by(int(number), data)
    if not address.startswith(("/", "@")):
        return
    name = "\0" + address[1:] if address[0] == "@" else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
            sock.sendto(data, name)
    except OSError:  # nobody is listening any more, or its queue is full: we go on without
        pass


def _send_by(fd: int, data: bytes) -> None:
    try:
        with socket.socket(fileno=os.dup(fd)) as channel:
            channel.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:  # the other end is gone
        pass


def relay(data: bytes) -> None:
    """On the host: what PID 1 says goes to our own NOTIFY_SOCKET, as far as it is about the whole."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    lines = [line for line in data.split(b"\n") if line.startswith(_RELAYED)]
    if lines and address:
        send(b"\n".join([*lines, b"MAINPID=%d" % os.getpid()] if b"READY=1" in lines else lines), address)


class Upward:
    """`channel_fd`: the monitor's; without one, NOTIFY_SOCKET of our own `environment`."""

    def __init__(self, channel_fd: int, environment: dict[str, str]) -> None:
        self._channel_fd = channel_fd
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._ready = False

    def ready(self, status: str) -> None:
        """Once."""
        if not self._ready:
            self._ready = True
            self._say(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def exit_status(self, code: int) -> None:
        self._say(f"EXIT_STATUS={code}")

    def _say(self, text: str) -> None:
        if self._channel_fd >= 0:
            _send_by(self._channel_fd, text.encode())
        elif self._address:
            send(text.encode(), self._address)
