"""One attempt of each kind, against real sockets; nothing is left open."""

import gc
import os
import socket

import pytest
from turns import Turns

from pyinit.init.probe import Attempt
from pyinit.model import Probe


class Never:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def turns():
    gc.collect()  # what earlier tests left is not closed in the midst of this one
    before = sorted(os.listdir("/proc/self/fd"))
    turns = Turns()
    yield turns
    turns.loop._epoll.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def ask(turns, probe, timeout_s=5.0, run=None):
    return Attempt(turns.loop, probe, timeout_s, turns.answer, run or (lambda *_: Never()))


@pytest.fixture
def listener():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener


def test_tcp(turns, listener):
    port = listener.getsockname()[1]
    ask(turns, Probe("tcp", "127.0.0.1", port))
    assert turns.answers == []  # never from the constructor
    assert turns.run() == [f"127.0.0.1:{port}: Connection refused"]
    listener.listen()
    ask(turns, Probe("tcp", "127.0.0.1", port))
    assert turns.run() == [""]


def test_unix(turns, tmp_path):
    path = str(tmp_path / "s")
    ask(turns, Probe("unix", path=path))
    assert turns.run() == [f"{path}: No such file or directory"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        for kind in ("unix", "path"):
            ask(turns, Probe(kind, path=path))
            assert turns.run() == [f"{path}: Connection refused"]
        listener.listen()
        for kind in ("unix", "path"):
            ask(turns, Probe(kind, path=path))
            assert turns.run() == [""]
    ask(turns, Probe("unix", path="/" + "x" * 200))
    assert turns.run() == ["AF_UNIX path too long"]


def test_path(turns, tmp_path):
    ask(turns, Probe("path", path=f"{tmp_path}/none"))
    assert turns.run() == [f"{tmp_path}/none is not there"]
    ask(turns, Probe("path", path=str(tmp_path)))
    assert turns.run() == [""]


def test_exec(turns):
    asked = []

    def run(argv, timeout_s, done):
        asked.append((argv, timeout_s))
        turns.loop.call_soon(lambda: done("exit code 1"))
        return Never()

    ask(turns, Probe("exec", command=("check", "it")), 3.0, run)
    assert (turns.run(), asked) == (["exit code 1"], [(("check", "it"), 3.0)])


def serve(turns, listener, *pieces):
    """Accept once, send the pieces one a turn, close."""
    listener.listen()
    listener.setblocking(False)
    left = list(pieces)

    def accept():
        connection, _ = listener.accept()
        turns.loop.remove_reader(listener.fileno())

        def send():
            if left:
                connection.send(left.pop(0))
                turns.loop.call_soon(send)
            else:
                connection.close()

        turns.loop.add_reader(connection.fileno(), lambda: (connection.recv(4096), turns.loop.remove_reader(connection.fileno()), send()))

    turns.loop.add_reader(listener.fileno(), accept)


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"fine"], ""),
        ([b"HT", b"TP/1.1 500 No\r\n", b"\r\n"], "HTTP 500, expected 200-399"),
        ([b"HTTP/1.1 200 OK\r\n\r\nbad"], "HTTP 200, but the body does not match fine"),
        ([b"SSH-2.0\r\n"], "no HTTP answer"),
        ([], "closed without an answer"),
    ],
)
def test_http(turns, listener, pieces, text):
    serve(turns, listener, *pieces)
    ask(turns, Probe("http", "127.0.0.1", listener.getsockname()[1], "/", "x", body="fine"))
    assert turns.run() == [text]


def test_no_answer_in_time(turns, listener):
    listener.listen()
    ask(turns, Probe("http", "127.0.0.1", listener.getsockname()[1], "/", "x"), 0.05)
    assert turns.run() == ["no answer within 0.05 s"]


def test_a_cancelled_attempt_answers_nothing(turns, listener):
    listener.listen()
    never = Never()
    for probe in (Probe("tcp", "127.0.0.1", listener.getsockname()[1]), Probe("path", path="/"), Probe("exec", command=("x",))):
        ask(turns, probe, 0.02, lambda *_: never).cancel()
    assert (turns.run(0.05), never.cancelled) == ([], True)
