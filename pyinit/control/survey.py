"""One question to many that run here, with one deadline for all.

Owns the connections. Must not know what is asked. Law: who does not answer holds up nothing, be it stopped, hung or gone.
"""

import json
import os
import select
import socket
import time
from typing import Any

from pyinit.control.places import short
from pyinit.control.wire import VERSION


def ask_all(paths: list[str], request: dict[str, object], timeout_s: float) -> dict[str, dict[str, Any]]:
    """The answers with `ok`, by socket; those that gave none are not in it."""
    deadline = time.monotonic() + timeout_s
    line = json.dumps({**request, "version": VERSION}).encode() + b"\n"
    pending = {sock.fileno(): (path, sock) for path in paths if (sock := _ask(path, line)) is not None}
    heard = dict.fromkeys(pending, b"")
    found = {}
    poll = select.poll()
    for fd in pending:
        poll.register(fd, select.POLLIN)
    try:
        while pending and (left_s := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(left_s * 1000):
                path, sock = pending[fd]
                data = _receive(sock)
                heard[fd] += data
                answer = _answer(heard[fd]) if b"\n" in data else None
                if answer:
                    found[path] = answer
                if answer is not None or not data:
                    poll.unregister(fd)
                    pending.pop(fd)[1].close()
    finally:
        for _, sock in pending.values():
            sock.close()
    return found


def _ask(path: str, line: bytes) -> socket.socket | None:
    """It does not block: a full queue of connections is no answer either."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    folder = -1
    try:
        folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sock.connect(short(path, folder))
        sock.sendall(line)
    except OSError:
        sock.close()
        return None
    finally:
        if folder >= 0:
            os.close(folder)
    return sock


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 16)
    except OSError:
        return b""


def _answer(data: bytes) -> dict[str, Any] | None:
    """{} for one that is none; None while it is on its way."""
    for line in data.split(b"\n")[:-1]:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return {}
        if not isinstance(found, dict) or "error" in found:
            return {}
        if found.get("ok"):
            return found
    return None
