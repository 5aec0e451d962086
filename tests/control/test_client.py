"""The client against peers of every kind: those that answer, leave, keep silent, or are no pyinit."""

import contextlib
import json
import socket
import threading

import pytest

from pyinit.control.client import Connection, call
from pyinit.errors import ControlError

PATIENCE_S = 5.0


class Peer:
    """Listens on `path` and gives each client `answer`, then the end (or, with `hold`, nothing more)."""

    def __init__(self, path: str, answer: bytes, *, hold: bool = False, listens: bool = True) -> None:
        self.requests: list[bytes] = []
        self.path, self._answer, self._hold, self._listens = path, answer, hold, listens
        self._held: list[socket.socket] = []
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(path)
        self._sock.listen()
        self._sock.settimeout(PATIENCE_S)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._sock.accept()
        self._held.append(client)
        if self._listens:
            self.requests.append(client.recv(1 << 16))
        with contextlib.suppress(BrokenPipeError):  # a client without time has left
            client.sendall(self._answer)
        if not self._hold:
            client.close()

    def close(self) -> None:
        self._thread.join(PATIENCE_S)
        for sock in (*self._held, self._sock):
            sock.close()


@pytest.fixture
def peer(tmp_path):
    made = []

    def make(answer, **keys):
        made.append(Peer(str(tmp_path / "c"), answer, **keys))
        return made[0]

    yield make
    made[0].close()


def test_progress_then_the_end(peer):
    one = peer(b'{"progress":{"name":"app"}}\n{"ok":true,"n":1}\n')
    assert list(call(one.path, {"verb": "start"})) == [{"progress": {"name": "app"}}, {"ok": True, "n": 1}]
    assert [json.loads(line) for line in one.requests] == [{"verb": "start", "version": 1}]


def test_an_error_that_is_answered_keeps_its_exit_code(peer):
    with pytest.raises(ControlError) as caught:
        list(call(peer(b'{"error":"app: failed: exit code 3","exit_code":7}\n').path, {"verb": "start"}))
    assert (str(caught.value), caught.value.exit_code) == ("app: failed: exit code 3", 7)


@pytest.mark.parametrize("answer", [b"", b'{"progress":{"name":"app"}}\n', b'{"ok":tr'])
def test_an_end_before_the_answer_is_no_success(peer, answer):
    with pytest.raises(ControlError, match=r"^pyinit ended before it answered$"):
        list(call(peer(answer).path, {"verb": "start"}))


@pytest.mark.parametrize("answer", [b"220 mail.example ESMTP\n", b"7\n", b"\xff\xfe\n"])
def test_what_is_no_pyinit_is_said_to_be_none(peer, answer):
    one = peer(answer)
    with pytest.raises(ControlError) as caught:
        list(call(one.path, {"verb": "start"}))
    assert str(caught.value) == f"{one.path}: what answers is no pyinit"


def test_a_refusal_is_read_although_the_request_was_not_taken(peer):
    more_than_the_socket_holds = ["x" * 1_000_000]
    with pytest.raises(ControlError, match=r"^busy$"):
        list(call(peer(b'{"error":"busy","exit_code":1}\n', listens=False).path, {"names": more_than_the_socket_holds}))


def test_the_time_given_is_for_the_whole_and_not_for_each_line(peer):
    with pytest.raises(ControlError, match=r"^the time that was given is over; it goes on without us$"):
        list(call(peer(b'{"progress":{}}\n', hold=True).path, {"verb": "start"}, timeout_s=0.05))


def test_no_time_at_all_is_over_at_once(peer):
    with pytest.raises(ControlError, match=r"^the time that was given is over; it goes on without us$"):
        list(call(peer(b"", hold=True).path, {"verb": "start"}, timeout_s=0.0))


def test_bytes_behind_the_answer(peer):
    with Connection(peer(b'{"ok":true}\nline 1\nlin').path, {"verb": "logs"}) as connection:
        assert connection.answer() == {"ok": True}
        assert b"".join(connection.rest()) == b"line 1\nlin"


def test_nobody_there(tmp_path):
    for name in ("none", "dead"):
        path = str(tmp_path / name)
        if name == "dead":
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(path)
            sock.close()
        with pytest.raises(ControlError) as caught:
            list(call(path, {"verb": "status"}))
        assert (str(caught.value), caught.value.exit_code) == (f"no pyinit listens on {path}: it does not run", 3)
    (tmp_path / "file").touch()
    with pytest.raises(ControlError, match=r"file/c: Not a directory$"):
        list(call(str(tmp_path / "file" / "c"), {"verb": "status"}))
