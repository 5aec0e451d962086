"""A client of the control socket: one request, then its answers.

Owns the connection. Must not know verbs. Blocking, and lean: sockets and json.
"""

import json
import os
import time
from _collections_abc import Iterator

from pyinit.control.places import short
from pyinit.control.wire import VERSION
from pyinit.errors import EXIT_FAILED, EXIT_NOT_RUNNING, ControlError
from pyinit.linux import sock as socket
from pyinit.linux.fds import receive
from pyinit.records import Any


class EndedError(ControlError):
    """It was there, and has left without an answer."""


class LateError(ControlError):
    """The time that the user gave is over."""


class Connection:
    """`answers()` yields each line; `rest()` the raw bytes that follow (logs, events). `timeout_s` is for all of it together."""

    def __init__(self, path: str, request: dict[str, object], timeout_s: float | None = None, fds: tuple[int, ...] = ()) -> None:
        self._path = path
        self._ends_at_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._buffer = b""
        self._fds: list[int] = []
        self._sock = _connect(path)
        try:
            line = json.dumps({**request, "version": VERSION}).encode() + b"\n"
            sent = socket.send_fds(self._sock, [line], list(fds)) if fds else 0
            self._sock.sendall(line[sent:])
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has left us: what it said before that is still to be read

    def __enter__(self) -> "Connection":  # noqa: PYI034 - typing costs 9 ms, and nobody inherits
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        self._close_fds()

    def _close_fds(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def send(self, data: bytes) -> None:
        """What an answer that is being waited for needs; nothing if nobody is there any more."""
        try:
            self._sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def answers(self) -> Iterator[dict[str, Any]]:
        """Up to the one with `ok`; ControlError for an error that is answered, an end before it, or if the time is over."""
        while True:
            answer = self._decode(self._line())
            if "error" in answer:
                raise ControlError(str(answer["error"]), exit_code=_exit_code(answer))
            yield answer
            if answer.get("ok"):
                return

    def answer(self) -> dict[str, Any]:
        """The one with `ok`; errors as in `answers`."""
        *_, last = self.answers()
        return last

    def answer_with_fd(self) -> tuple[dict[str, Any], int]:
        """The one with `ok`, and the descriptor that came with it, the caller's to close; -1 without one."""
        answer = self.answer()
        fd = self._fds.pop(0) if self._fds else -1
        self._close_fds()
        return answer, fd

    def peek(self) -> None:
        """Wait for an answer, which is yet to be taken; errors as in `answers`."""
        line = self._line()
        answer = self._decode(line)
        if "error" in answer:
            raise ControlError(str(answer["error"]), exit_code=_exit_code(answer))
        self._buffer = line + b"\n" + self._buffer

    def rest(self) -> Iterator[bytes]:
        """What comes behind the answers, up to the end."""
        while data := self.received():
            yield data

    def received(self) -> bytes:
        """What has come behind the answers; b"" at the end. It waits if there is nothing yet."""
        data, self._buffer = self._buffer, b""
        return data or self._receive()

    def fileno(self) -> int:
        """For poll."""
        return self._sock.fileno()

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            data = self._receive()
            if not data:
                raise EndedError("pyinit ended before it answered")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _decode(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise ControlError(f"{self._path}: what answers is no pyinit")
        return answer

    def _receive(self) -> bytes:
        try:
            if self._ends_at_s is not None:
                left_s = self._ends_at_s - time.monotonic()
                if left_s <= 0:  # the socket would take 0 for "don't block"
                    raise TimeoutError
                self._sock.settimeout(left_s)
            data, fds = receive(self._sock, 1 << 16, 1)
            self._fds += fds
            return data
        except TimeoutError:
            raise LateError("the time that was given is over; it goes on without us") from None
        except ConnectionResetError:
            return b""


def call(path: str, request: dict[str, object], timeout_s: float | None = None) -> Iterator[dict[str, Any]]:
    """The answers to one request, the one with `ok` last; errors as in `Connection.answers`."""
    with Connection(path, request, timeout_s) as connection:
        yield from connection.answers()


def _exit_code(answer: dict[str, Any]) -> int:
    code = answer.get("exit_code")
    return code if type(code) is int else EXIT_FAILED


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
