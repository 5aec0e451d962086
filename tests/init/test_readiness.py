"""The watch of a starting service, over real pipes and sockets."""

import os
import socket
import time

import pytest

from pyinit.init.loop import Loop
from pyinit.init.readiness import NO_FD, LogWatch, Readiness
from pyinit.model import Probe, ServiceSpec
from pyinit.model import Readiness as Spec

DEADLINE_S = 5.0


def nothing(*_):
    """No service here waits for a line."""


def run_nothing(_name, argv, _timeout_s, _done):
    raise AssertionError(argv)


class Bench:
    """A loop, a Readiness and what it answered."""

    def __init__(self, tmp_path) -> None:
        self.errors: list[Exception] = []
        self.loop = Loop(self.errors.append)
        self.answers: list[tuple[str, int]] = []
        self.readiness = Readiness(self.loop, self._became_ready, run_nothing, LogWatch(nothing, nothing))

    def _became_ready(self, name: str, pid: int) -> None:
        self.answers.append((name, pid))
        self.loop.stop()

    def run(self, limit_s: float = DEADLINE_S) -> list[tuple[str, int]]:
        limit = self.loop.call_at(time.monotonic() + limit_s, self.loop.stop)
        self.loop.run()
        limit.cancel()
        assert self.errors == []
        return self.answers


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.readiness.close()


def service(**ready) -> ServiceSpec:
    return ServiceSpec("web", ("true",), ready=Spec(**ready))


def test_a_newline_on_the_notification_fd_is_ready(bench):
    spec = service(kind="fd", fd=3)
    passed = bench.readiness.prepare(spec)
    assert passed[1] == 3
    child_end = os.dup(passed[0])
    bench.readiness.started(spec, 7, passed)
    os.write(child_end, b"\n")
    os.close(child_end)
    assert bench.run() == [("web", 7)]


def test_an_end_without_a_newline_is_not(bench):
    spec = service(kind="fd", fd=3)
    bench.readiness.started(spec, 7, bench.readiness.prepare(spec))
    assert bench.run(0.05) == []


def test_tcp_is_ready_once_someone_listens(bench):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        spec = service(kind="probe", probe=Probe("tcp", host="127.0.0.1", port=listener.getsockname()[1]))
        bench.readiness.started(spec, 7, NO_FD)
        assert bench.run(0.05) == []
        listener.listen()
        assert bench.run() == [("web", 7)]


def test_path_of_a_dead_socket_does_not_count(bench, tmp_path):
    path = str(tmp_path / "app.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        spec = service(kind="probe", probe=Probe("path", path=path))
        bench.readiness.started(spec, 7, NO_FD)
        assert bench.run(0.05) == []
        listener.listen()
        assert bench.run() == [("web", 7)]


def test_unwatch_ends_the_watch(bench, tmp_path):
    spec = service(kind="probe", probe=Probe("path", path=str(tmp_path / "later")))
    bench.readiness.started(spec, 7, NO_FD)
    bench.readiness.unwatch("web")
    (tmp_path / "later").touch()
    assert bench.run(0.05) == []


def test_a_line_is_asked_for_before_the_process_can_say_it(bench):
    asked = {}
    log = LogWatch(lambda name, pattern, found: asked.update({name: (pattern, found)}), asked.pop)
    readiness = Readiness(bench.loop, bench._became_ready, run_nothing, log)
    spec = service(kind="log", pattern="up")
    passed = readiness.prepare(spec)
    assert asked["web"][0] == "up"
    readiness.started(spec, 7, passed)
    asked["web"][1]()
    assert (bench.answers, asked) == ([("web", 7)], {})
    readiness.discard(spec, readiness.prepare(spec))
    assert asked == {}
