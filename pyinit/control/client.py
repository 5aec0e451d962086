"""A client of the control socket: one request, then its answers.

Owns the connection. Must not know verbs. Blocking, and lean: sockets and json.
"""

import json
import os
import socket
from collections.abc import Iterator

from pyinit.control.places import short
from pyinit.errors import EXIT_NOT_RUNNING, ControlError


class Connection:
    """`answers()` yields each line; `rest()` the raw bytes that follow (logs)."""

    def __init__(self, path: str, request: dict[str, object], timeout_s: float | None = None) -> None:
        self._sock = _connect(path)
        self._sock.settimeout(timeout_s)
        self._sock.sendall(json.dumps(request).encode() + b"\n")
        self._buffer = b""

    def __enter__(self) -> "Connection":  # noqa: PYI034 - typing costs 9 ms, and nobody inherits
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def answers(self) -> Iterator[dict[str, object]]:
        """Until the end; ControlError for an error that is answered, or if the time is over."""
        while True:
            line = self._line()
            if not line:
                return
            answer = json.loads(line)
            if "error" in answer:
                raise ControlError(answer["error"], exit_code=answer.get("exit_code", 1))
            yield answer

    def answer(self) -> dict[str, object]:
        """The last one of those that come before `ok`; ControlError if the connection ends without it."""
        for answer in self.answers():
            if answer.get("ok"):
                return answer
        raise ControlError("pyinit ended before it answered")

    def rest(self) -> Iterator[bytes]:
        """What comes behind the answer, up to the end."""
        if self._buffer:
            yield self._buffer
        while data := self._receive():
            yield data

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            data = self._receive()
            if not data:
                return b""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(1 << 16)
        except TimeoutError:
            raise ControlError("the time that was given is over; it goes on without us") from None
        except ConnectionResetError:
            return b""


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    folder = -1
    try:
        folder = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sock.connect(short(path, folder))
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        raise ControlError(f"no pyinit listens on {path}: it does not run", exit_code=EXIT_NOT_RUNNING) from None
    except PermissionError:
        sock.close()
        raise ControlError(f"{path} belongs to someone else: try as root") from None
    except OSError as error:
        sock.close()
        raise ControlError(f"{path}: {error.strerror or error}") from error
    finally:
        if folder >= 0:
            os.close(folder)
    return sock
