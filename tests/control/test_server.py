"""The control socket: the real loop, real sockets, an init that is a table, and clients of every kind."""

import fcntl
import gc
import json
import os
import resource
import socket
import sys
import termios
import time

import pytest

from pyinit.control.server import Server, bind
from pyinit.core.service import State
from pyinit.core.supervisor import ServiceView
from pyinit.errors import ControlError
from pyinit.init.loop import Loop

DEADLINE_S = 5.0


class Host:
    """Services as a table; requests are noted, states are changed by the test."""

    def __init__(self) -> None:
        self.views = {name: ServiceView(name, State.STOPPED, "down", 0, False, 0.0, 0, None, None, "") for name in ("app", "db")}
        self.asked: list[tuple] = []
        self.on_ask = lambda *_: None

    def names(self):
        return tuple(self.views)

    def make(self, names, done):
        if not all(name.startswith("worker@") for name in names):
            raise ControlError(f"{names[0]}: no such service; there are: app, db")
        self.asked.append(("make", names))
        self.done = done

    def view(self, name):
        return self.views[name]

    def status(self):
        return {"init": {"pid": 1}, "services": []}

    def stats(self, names):
        return {"t_s": 1.0, "container": None, "services": [{"name": name} for name in names]}

    def pause(self, names):
        self.asked.append(("pause", names))
        return () if names else ("db: has no cgroup",)

    def resume(self, names):
        self.asked.append(("resume", names))

    def update(self, name, said, done):
        self.asked.append(("update", name, said))
        done({"ok": True})

    def start(self, name):
        self.asked.append(("start", name))
        self.on_ask(name)

    def stop(self, name):
        self.asked.append(("stop", name))
        self.views[name] = self.views[name]._replace(target="down")
        self.on_ask(name)

    def restart(self, name):
        self.asked.append(("restart", name))
        self.on_ask(name)

    def signal(self, name, number):
        if not self.views[name].pid:
            raise ControlError(f"{name}: no process")
        self.asked.append(("signal", name, number))

    def hup(self, name, done):
        self.asked.append(("hup", name))
        self.done = done

    def enable(self, name):
        self.asked.append(("enable", name))
        self.on_ask(name)

    def disable(self, name):
        self.asked.append(("disable", name))
        self.views[name] = self.views[name]._replace(target="down")
        self.on_ask(name)

    def exec(self, request, fds, done):
        self.asked.append(("exec", "".join(request.names), request.argv, len(fds)))
        self.done = done
        return self

    def cancel(self):
        self.asked.append(("cancel",))

    def processes(self, name):
        return {"name": name, "state": "stopped", "processes": []}

    def reload(self, done):
        done({"ok": True, "added": ["new"], "removed": [], "restarted": [], "changed": []})

    def shutdown(self, exit_code):
        self.asked.append(("shutdown", exit_code))

    def logs(self, request, client_fd):
        sock = socket.socket(fileno=client_fd)
        sock.send(b"logs:" + request)
        sock.close()


class Bench:
    def __init__(self, tmp_path) -> None:
        self.errors: list[Exception] = []
        self.reports: list[str] = []
        self.loop = Loop(self.errors.append)
        self.host = Host()
        self.server = Server(self.loop, self.host, self.reports.append)
        self.path = str(tmp_path / "control.sock")
        self.listener = bind(self.path)
        self.server.listen(self.listener)
        self.clients: list[socket.socket] = []

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        sock.setblocking(False)
        self.clients.append(sock)
        return sock

    def ask(self, request) -> socket.socket:
        sock = self.connect()
        sock.send(request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n")
        return sock

    def turn(self, until) -> None:
        """Run the loop until `until()` holds."""
        deadline = time.monotonic() + DEADLINE_S

        def look() -> None:
            if until() or time.monotonic() > deadline:
                self.loop.stop()
            else:
                self.loop.call_at(time.monotonic() + 0.001, look)

        look_now = self.loop.call_at(time.monotonic(), look)
        self.loop.run()
        look_now.cancel()
        assert self.errors == []
        assert until()

    def answers(self, sock, count: int | None = None) -> list[dict]:
        """Up to the end of the connection, or `count` of them."""
        data = [b""]

        def enough() -> bool:
            try:
                while more := sock.recv(65536):
                    data[0] += more
                return count is None or data[0].count(b"\n") >= count
            except BlockingIOError:
                return count is not None and data[0].count(b"\n") >= count
            except ConnectionResetError:
                return True

        self.turn(enough)
        return [json.loads(line) for line in data[0].splitlines()]

    def become(self, name: str, state: State, pid: int = 0, reason: str = "", target: str = "up") -> None:
        self.host.views[name] = self.host.views[name]._replace(state=state, pid=pid, reason=reason, target=target)
        self.server.changed(name)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.server.close()
    for client in bench.clients:
        client.close()


def test_status(bench):
    assert bench.answers(bench.ask({"verb": "status"})) == [{"ok": True, "init": {"pid": 1}, "services": []}]


def test_stats(bench):
    found = bench.answers(bench.ask({"verb": "stats", "names": ["db"]}))
    assert found == [{"ok": True, "t_s": 1.0, "container": None, "services": [{"name": "db"}]}]


def test_pause_and_resume(bench):
    assert bench.answers(bench.ask({"verb": "pause", "names": ["db"]})) == [{"ok": True, "left": []}]
    assert bench.answers(bench.ask({"verb": "pause"})) == [{"ok": True, "left": ["db: has no cgroup"]}]
    assert bench.answers(bench.ask({"verb": "resume"})) == [{"ok": True}]
    assert bench.host.asked == [("pause", ("db",)), ("pause", ()), ("resume", ())]


def test_update(bench):
    assert bench.answers(bench.ask({"verb": "update", "names": ["db"], "limits": {"pids_max": 4}})) == [{"ok": True}]
    assert bench.answers(bench.ask({"verb": "update", "limits": {"cpu_max": 0.5}})) == [{"ok": True}]
    assert bench.host.asked == [("update", "db", {"pids_max": 4}), ("update", "", {"cpu_max": 0.5})]


def test_a_start_is_answered_when_it_is_ready(bench):
    bench.host.on_ask = lambda name: bench.become(name, State.STARTING)
    client = bench.ask({"verb": "start", "names": ["app", "db"]})
    bench.turn(lambda: len(bench.host.asked) == 2)
    bench.become("app", State.READY, 7)
    bench.become("db", State.DONE)
    found = bench.answers(client)
    assert found[-1] == {"ok": True}
    states = [(one["progress"]["name"], one["progress"]["state"]) for one in found[:-1]]
    assert states == [("app", "starting"), ("db", "starting"), ("app", "ready"), ("db", "done")]


def test_a_start_that_fails_says_why(bench):
    bench.host.on_ask = lambda name: bench.become(name, State.STARTING)
    client = bench.ask({"verb": "start", "names": ["app"]})
    bench.turn(lambda: bool(bench.host.asked))
    bench.become("app", State.FAILED, reason="exit code 3")
    assert bench.answers(client)[-1] == {"error": "app: failed: exit code 3", "exit_code": 1}


def test_what_is_no_progress_is_not_told(bench):
    """Each word of sd_notify is a change to the server; a watchdog's may come twenty times a second."""
    bench.become("app", State.WAITING)
    client = bench.ask({"verb": "wait", "names": ["app"]})
    progress = {"progress": {"name": "app", "state": "waiting", "reason": ""}}
    assert bench.answers(client, 1) == [progress]
    for _ in range(20):
        bench.server.changed("app")
    bench.become("app", State.READY, 5)
    assert bench.answers(client) == [{"progress": {"name": "app", "state": "ready", "reason": ""}}, {"ok": True}]


def test_a_start_of_what_is_ready_is_answered_at_once(bench):
    bench.become("app", State.READY, 7)
    assert bench.answers(bench.ask({"verb": "start", "names": ["app"]}))[-1] == {"ok": True}


def test_a_restart_wants_to_have_seen_it_down(bench):
    bench.become("app", State.READY, 7)
    client = bench.ask({"verb": "restart", "names": ["app"]})
    bench.turn(lambda: bool(bench.host.asked))
    assert [one["progress"]["state"] for one in bench.answers(client, 1)] == ["ready"]
    bench.become("app", State.STOPPING, 7)
    bench.become("app", State.READY, 8)
    assert bench.answers(client)[-1] == {"ok": True}


def test_a_restart_of_a_oneshot_ends_although_no_process_is_left(bench):
    bench.become("app", State.DONE)
    client = bench.ask({"verb": "restart", "names": ["app"]})
    bench.turn(lambda: bool(bench.host.asked))
    bench.become("app", State.RUNNING, 9)
    bench.become("app", State.DONE)
    assert bench.answers(client)[-1] == {"ok": True}


def test_a_stop_is_answered_when_it_is_down(bench):
    bench.become("app", State.READY, 7)
    client = bench.ask({"verb": "stop", "names": ["app"]})
    bench.turn(lambda: bool(bench.host.asked))
    bench.become("app", State.STOPPED, target="down")
    assert bench.answers(client)[-1] == {"ok": True}


def test_a_stop_that_another_start_overtakes_is_not_waited_for_in_vain(bench):
    bench.become("app", State.READY, 5)
    client = bench.ask({"verb": "stop", "names": ["app"]})
    assert bench.answers(client, 1) == [{"progress": {"name": "app", "state": "ready", "reason": ""}}]
    bench.become("app", State.WAITING)
    assert bench.answers(client) == [
        {"progress": {"name": "app", "state": "waiting", "reason": ""}},
        {"error": "app: waiting: it was started again before it was down", "exit_code": 1},
    ]


def test_no_wait_is_answered_at_once(bench):
    assert bench.answers(bench.ask({"verb": "stop", "names": ["app"], "wait": False})) == [{"ok": True}]
    assert bench.host.asked == [("stop", "app")]


def test_refusals(bench):
    assert bench.answers(bench.ask({"verb": "start", "names": ["web"]})) == [
        {"error": "web: no such service; there are: app, db", "exit_code": 1}
    ]
    assert bench.answers(bench.ask({"verb": "signal", "names": ["app"], "signal": 1})) == [{"error": "app: no process", "exit_code": 1}]


@pytest.mark.parametrize("verb", ["start", "restart", "enable"])
def test_an_instance_is_made_first_and_then_started(bench, verb):
    client = bench.ask({"verb": verb, "names": ["app", "worker@x"], "wait": False})
    bench.turn(lambda: bench.host.asked == [("make", ("worker@x",))])
    bench.host.views["worker@x"] = bench.host.views["app"]._replace(name="worker@x")
    bench.host.done({"ok": True})
    assert bench.answers(client) == [{"ok": True}]
    assert bench.host.asked[1:] == [(verb, "app"), (verb, "worker@x")]


def test_an_instance_that_can_not_be_made_starts_nothing(bench):
    client = bench.ask({"verb": "start", "names": ["app", "worker@x"]})
    bench.turn(lambda: bool(bench.host.asked))
    bench.host.done({"error": "services.toml:3: no valid TOML", "exit_code": 100})
    assert bench.answers(client) == [{"error": "services.toml:3: no valid TOML", "exit_code": 100}]
    assert bench.host.asked == [("make", ("worker@x",))]


def test_what_fails_behind_the_making_is_answered_too(bench):
    bench.host.on_ask = lambda name: (_ for _ in ()).throw(ControlError(f"{name}: the init is stopping"))
    client = bench.ask({"verb": "start", "names": ["worker@x"]})
    bench.turn(lambda: bool(bench.host.asked))
    bench.host.done({"ok": True})
    assert bench.answers(client) == [{"error": "worker@x: the init is stopping", "exit_code": 1}]


@pytest.mark.parametrize("verb", ["stop", "disable", "wait", "signal", "hup", "exec", "ps", "logs", "status"])
def test_what_starts_nothing_makes_no_instance(bench, verb):
    client = bench.ask({"verb": verb, "names": ["worker@x"], "signal": 1, "argv": ["x"]})
    assert bench.answers(client) == [{"error": "worker@x: no such service; there are: app, db", "exit_code": 1}]
    assert bench.host.asked == []


def test_a_name_stands_for_all_its_instances(bench):
    for name in ("db@1", "db@2"):
        bench.host.views[name] = bench.host.views["db"]._replace(name=name)
    del bench.host.views["db"]
    answers = bench.answers(bench.ask({"verb": "stop", "names": ["db", "app"], "wait": False}))
    assert answers == [{"ok": True}]
    assert bench.host.asked == [("stop", "db@1"), ("stop", "db@2"), ("stop", "app")]


def test_signal_shutdown_and_logs_reach_the_init(bench):
    bench.become("app", State.READY, 7)
    bench.answers(bench.ask({"verb": "signal", "names": ["app"], "signal": 10}))
    client = bench.ask({"verb": "shutdown", "exit_code": 5})
    assert bench.answers(client, 1) == [{"ok": True}]
    assert bench.host.asked == [("signal", "app", 10), ("shutdown", 5)]
    client = bench.ask({"verb": "logs", "names": ["app"]})
    got = [b""]

    def ended() -> bool:
        try:
            while data := client.recv(4096):
                got[0] += data
        except BlockingIOError:
            return False
        else:
            return True

    bench.turn(ended)
    assert got[0] == b'logs:{"verb":"logs","names":["app"],"follow":false}\n'


@pytest.mark.parametrize(
    "junk",
    [
        b"hello\n", b"{}\n", b"[]\n", b"null\n", b'{"verb": 1}\n', b'{"verb": "explode"}\n', b'{"verb": "start", "names": "app"}\n',
        b'{"verb": "start", "names": [1]}\n', b'{"verb": "signal", "names": ["app"], "signal": 99}\n', b"\xff\xfe\n", b"[" * 60000 + b"\n",
        b'{"verb": "shutdown", "exit_code": true}\n', b'{"verb": "shutdown", "exit_code": 256}\n',
    ],
)  # fmt: skip
def test_junk_is_answered_and_costs_only_its_sender(bench, junk):
    found = bench.answers(bench.ask(junk))
    assert found[0]["exit_code"] == 2
    assert found[0]["error"].startswith("no request that is understood here: expected ")
    assert bench.host.asked == []


def test_a_request_without_end_is_cut_off(bench):
    client = bench.connect()
    bench.turn(lambda: True)
    sent = 0
    while sent < 70_000:
        try:
            sent += client.send(b"x" * 4096)
        except BlockingIOError:
            bench.turn(lambda: True)
        except BrokenPipeError:
            break
    assert "at most 65536 bytes" in bench.answers(client)[0]["error"]


def test_slow_bytes_and_those_who_leave(bench):
    slow = bench.connect()
    for byte in b'{"verb": "status"':
        slow.send(bytes([byte]))
        bench.turn(lambda: True)
    for _ in range(20):
        bench.ask({"verb": "start", "names": ["app"]}).close()
    slow.send(b"}\n")
    assert bench.answers(slow)[0]["ok"] is True


def test_those_inside_do_not_take_the_places_of_those_outside(bench, tmp_path):
    """A root service may connect as often as it likes to the socket in its container; the host has another."""
    outside = str(tmp_path / "outside.sock")
    bench.server.listen(bind(outside))
    inside = [bench.connect() for _ in range(65)]
    assert "error" in bench.answers(inside[-1])[0]
    bench.path = outside
    assert bench.answers(bench.ask({"verb": "status"})) == [{"ok": True, "init": {"pid": 1}, "services": []}]


def test_one_client_too_many_is_told_so_and_the_next_is_served(bench):
    clients = [bench.connect() for _ in range(64)]
    bench.turn(lambda: True)
    assert bench.answers(bench.connect()) == [{"error": "64 clients are being served already: try again", "exit_code": 1}]
    for client in clients:
        client.close()
    bench.turn(lambda: True)
    assert bench.answers(bench.ask({"verb": "status"}))[0]["ok"] is True


def test_without_a_free_fd_it_pauses_and_does_not_spin(bench, monkeypatch):
    monkeypatch.setattr("pyinit.control.server._PAUSE_S", 0.02)
    client = bench.ask({"verb": "status"})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(client.fileno())
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        bench.turn(lambda: bench.listener not in bench.loop._readers)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert bench.answers(client)[0]["ok"] is True


def test_a_request_that_never_ends_has_its_time(bench, monkeypatch):
    monkeypatch.setattr("pyinit.control.server._PATIENCE_S", 0.02)
    assert bench.answers(bench.ask(b'{"verb": "stat')) == []


def test_an_answer_that_is_never_read_has_its_time(bench, monkeypatch):
    monkeypatch.setattr("pyinit.control.server._PATIENCE_S", 0.02)
    bench.host.status = lambda: {"services": ["x" * 900_000]}
    bench.ask({"verb": "status"})
    bench.turn(lambda: bool(bench.server._clients))
    bench.turn(lambda: not bench.server._clients)


def test_events_that_are_never_read_have_their_time(bench, monkeypatch):
    monkeypatch.setattr("pyinit.control.server._PATIENCE_S", 0.02)
    for _ in range(100):
        bench.server.happened({"name": "x" * 8192})
    bench.ask({"verb": "events", "lines": 100})
    bench.turn(lambda: bool(bench.server._clients))
    bench.turn(lambda: not bench.server._clients)


def test_an_answer_may_be_longer_than_what_a_client_may_leave_unread(bench):
    """Of thousands of services, or of their processes: who reads it gets it whole."""
    bench.host.status = lambda: {"init": {}, "services": ["x" * 3_000_000]}
    [answer] = bench.answers(bench.ask({"verb": "status"}))
    assert len(answer["services"][0]) == 3_000_000


def test_events_of_some_services_are_the_last_of_those(bench):
    for name in ("app", "db", "db", "app", "db"):
        bench.server.happened({"name": name})
    assert bench.answers(bench.ask({"verb": "events", "lines": 2, "names": ["app"]})) == [{"ok": True}, *[{"event": {"name": "app"}}] * 2]
    client = bench.ask({"verb": "events", "follow": True, "names": ["app"]})
    assert bench.answers(client, 1) == [{"ok": True}]
    bench.server.happened({"name": "db"})
    bench.server.happened({"name": "app"})
    assert bench.answers(client, 1) == [{"event": {"name": "app"}}]


def test_thousands_of_names_that_no_service_bears_cost_little(bench):
    bench.host.views = {f"service-{number}": bench.host.views["app"] for number in range(10_000)}
    client = bench.ask({"verb": "stop", "names": [f"{number:x}" for number in range(7000)]})
    began_s = time.process_time()
    [answer] = bench.answers(client)
    assert answer["exit_code"] == 1
    assert time.process_time() - began_s < 0.5  # a look through all services for each would take twice that


def test_a_name_said_twice_is_asked_for_once(bench):
    bench.answers(bench.ask({"verb": "restart", "names": ["app", "db", "app"], "wait": False}))
    assert bench.host.asked == [("restart", "app"), ("restart", "db")]


def test_what_nobody_foresaw_is_answered_and_reported_with_its_place(bench):
    bench.host.status = lambda: 1 / 0
    line = bench.host.status.__code__.co_firstlineno
    fault = f"ZeroDivisionError: division by zero at test_server.py:{line}"
    assert bench.answers(bench.ask({"verb": "status"})) == [{"error": f"a fault of pyinit: {fault}", "exit_code": 111}]
    assert bench.reports == [f"a fault at a request of the control socket: {fault}"]


def test_two_can_not_listen_on_one_path_but_a_dead_socket_is_no_one(bench, tmp_path):
    with pytest.raises(ControlError, match=r"a pyinit is listening on .*/control\.sock already"):
        bind(bench.path)
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead.sock"))
    dead.close()
    fd = bind(str(tmp_path / "dead.sock"))
    assert (tmp_path / "dead.sock").stat().st_mode & 0o777 == 0o600
    os.close(fd)
    (tmp_path / "file").touch()
    with pytest.raises(ControlError, match="is in the way and is no socket"):
        bind(str(tmp_path / "file"))


def test_a_path_longer_than_an_address(tmp_path):
    from pyinit.control.client import Connection

    folder = tmp_path / ("x" * 120)
    path = str(folder / "control.sock")
    sock = socket.socket(fileno=bind(path))
    sock.listen()
    with Connection(path, {"verb": "status"}):
        client, _ = sock.accept()
        assert client.recv(100) == b'{"verb": "status", "version": 1}\n'
        client.close()
    sock.close()


# What came with the process manager


def test_enable_is_answered_as_a_start_and_disable_as_a_stop(bench):
    def begin(name):
        bench.host.views[name] = bench.host.views[name]._replace(state=State.STARTING, target="up")

    bench.host.on_ask = begin
    client = bench.ask({"verb": "enable", "names": ["app"]})
    bench.turn(lambda: bench.host.asked == [("enable", "app")])
    bench.host.views["app"] = bench.host.views["app"]._replace(state=State.READY, target="up")
    bench.server.changed("app")
    assert bench.answers(client)[-1] == {"ok": True}
    bench.host.on_ask = lambda *_: None
    client = bench.ask({"verb": "disable", "names": ["db"]})
    assert bench.answers(client)[-1] == {"ok": True}
    assert bench.host.asked[-1] == ("disable", "db")


def test_wait_starts_nothing(bench):
    client = bench.ask({"verb": "wait", "names": ["app"]})
    assert bench.answers(client) == [
        {"progress": {"name": "app", "state": "stopped", "reason": ""}}, {"error": "app: stopped", "exit_code": 1},
    ]  # fmt: skip
    assert bench.host.asked == []


def task(bench, state: State, reason: str = "", *, failed: bool = False) -> None:
    bench.host.views["app"] = bench.host.views["app"]._replace(state=state, reason=reason, target="up", failed=failed)
    bench.server.changed("app")


@pytest.mark.parametrize("verb", ["start", "restart", "enable"])
def test_a_task_that_is_run_now_is_answered_when_its_run_is_over(bench, verb):
    task(bench, State.SCHEDULED, "exit code 4", failed=True)  # of an earlier run
    bench.host.on_ask = lambda _: task(bench, State.STARTING)
    client = bench.ask({"verb": verb, "names": ["app"]})
    bench.turn(lambda: bool(bench.host.asked))
    task(bench, State.SCHEDULED, "exit code 0")
    assert bench.answers(client)[-1] == {"ok": True}


def test_a_run_of_a_task_that_fails_says_why(bench):
    bench.host.on_ask = lambda _: task(bench, State.STARTING)
    client = bench.ask({"verb": "start", "names": ["app"]})
    bench.turn(lambda: bool(bench.host.asked))
    task(bench, State.SCHEDULED, "exit code 4", failed=True)
    assert bench.answers(client)[-1] == {"error": "app: failed: exit code 4", "exit_code": 1}


def test_a_run_of_a_task_that_is_refused_at_once_says_why(bench):
    bench.host.on_ask = lambda _: task(bench, State.SCHEDULED, "requires db, which failed", failed=True)
    assert bench.answers(bench.ask({"verb": "restart", "names": ["app"]}))[-1] == {"error": "app: failed: requires db, which failed", "exit_code": 1}


def test_a_task_between_its_runs_is_not_waited_for(bench):
    task(bench, State.SCHEDULED, "exit code 4", failed=True)
    assert bench.answers(bench.ask({"verb": "wait", "names": ["app"]}))[-1] == {"ok": True}


@pytest.mark.parametrize(("text", "answer"), [("", {"ok": True}), ("exit code 1", {"error": "app: reload: exit code 1", "exit_code": 1})])
def test_hup_is_answered_when_the_reload_is_over(bench, text, answer):
    client = bench.ask({"verb": "hup", "names": ["app"]})
    bench.turn(lambda: bench.host.asked == [("hup", "app")])
    bench.host.done(text)
    assert bench.answers(client) == [answer]


def test_the_last_events_and_those_to_come(bench):
    for number in range(3):
        bench.server.happened({"name": f"e{number}"})
    assert bench.answers(bench.ask({"verb": "events", "lines": 2})) == [{"ok": True}, {"event": {"name": "e1"}}, {"event": {"name": "e2"}}]
    client = bench.ask({"verb": "events", "follow": True})
    assert bench.answers(client, 1) == [{"ok": True}]
    bench.server.happened({"name": "new"})
    assert bench.answers(client, 1) == [{"event": {"name": "new"}}]


def test_events_of_what_is_no_service_are_refused(bench):
    assert bench.answers(bench.ask({"verb": "events", "names": ["ap"]})) == [{"error": "ap: no such service; did you mean app?", "exit_code": 1}]


def test_a_follower_that_does_not_read_is_left(bench):
    client = bench.ask({"verb": "events", "follow": True})
    bench.turn(lambda: any(one.follows for one in bench.server._clients.values()))
    for _ in range(300):
        bench.server.happened({"name": "x" * 8192})
    assert bench.server._clients == {}
    client.close()


def test_reload_says_what_it_did(bench):
    assert bench.answers(bench.ask({"verb": "reload"})) == [{"ok": True, "added": ["new"], "removed": [], "restarted": [], "changed": []}]


def test_an_answer_that_comes_after_its_client_has_left_goes_to_no_other(bench):
    """The next client may have got the number of its descriptor."""
    gc.collect()  # what earlier tests left frees no lower one in the midst of this one
    late = []
    bench.host.reload = late.append
    gone = bench.ask({"verb": "reload"})
    bench.turn(lambda: len(late) == 1)
    [old] = bench.server._clients
    gone.close()
    bench.turn(lambda: not bench.server._clients)
    client = bench.ask({"verb": "events", "follow": True})
    assert bench.answers(client, 1) == [{"ok": True}]
    assert list(bench.server._clients) == [old]
    late[0]({"ok": True})
    bench.server.happened({"name": "new"})
    assert bench.answers(client, 1) == [{"event": {"name": "new"}}]


def test_exec_needs_three_descriptors(bench):
    answer = bench.answers(bench.ask({"verb": "exec", "names": ["app"], "argv": ["x"]}))
    assert answer == [{"error": "exec: expected three descriptors with the request", "exit_code": 2}]


@pytest.mark.parametrize("fds", [[], [0, 1, 2]])
def test_exec_on_a_terminal_needs_a_socket(bench, fds):
    client = bench.connect()
    before = own_fds()
    socket.send_fds(client, [b'{"verb":"exec","argv":["x"],"tty":true}\n'], fds)
    assert bench.answers(client) == [{"error": "exec: expected a socket, or that and a terminal, with the request", "exit_code": 2}]
    assert own_fds() - before == set()


def test_exec_hands_descriptors_and_signals_over_and_ends_with_its_client(bench):
    client = bench.connect()
    socket.send_fds(client, [b'{"verb":"exec","names":["app"],"argv":["x","y"]}\n'], [0, 1, 2])
    bench.turn(lambda: bench.host.asked == [("exec", "app", ("x", "y"), 3)])
    bench.host.views["app"] = bench.host.views["app"]._replace(pid=5)
    client.close()
    bench.turn(lambda: bench.host.asked[-1] == ("cancel",))


def begin_job(bench) -> socket.socket:
    bench.host.signal = lambda number: bench.host.asked.append(("signal", number))
    client = bench.connect()
    socket.send_fds(client, [b'{"verb":"exec","argv":["x"]}\n'], [0, 1, 2])
    bench.turn(lambda: bench.host.asked == [("exec", "", ("x",), 3)])
    return client


def test_signals_for_a_job_arrive_in_whatever_pieces(bench):
    client = begin_job(bench)
    client.send(b'{"signal":1')
    bench.turn(lambda: not unread(client))
    client.send(b'0}\n' + b'{"signal":28}\n' * 50)
    bench.turn(lambda: len(bench.host.asked) == 52)
    assert bench.host.asked[1:] == [("signal", 10)] + [("signal", 28)] * 50


@pytest.mark.parametrize("noise", [b"\n" * 65535, b"x" * 600, b"[]\n", b"{}\n" * 20000, b'{"signal":99}\n'])
def test_who_floods_a_job_with_what_is_no_signal_is_left(bench, noise):
    client = begin_job(bench)
    client.send(noise)
    bench.turn(lambda: not bench.server._clients)
    assert bench.host.asked[1:] == [("cancel",)]


def test_a_flood_of_signals_is_read_a_few_a_turn(bench):
    client = begin_job(bench)
    client.send(b'{"signal":9}\n' * 1000)
    [served] = bench.server._clients.values()
    bench.server._read(served)
    assert bench.host.asked[1:] == [("signal", 9)] * (256 // len(b'{"signal":9}\n'))


def test_another_version_of_the_protocol_is_refused(bench):
    assert bench.answers(bench.ask({"verb": "status", "version": 2})) == [
        {"error": 'no request that is understood here: expected "version": 1; this is another pyinit than its client', "exit_code": 2}
    ]


def own_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def unread(sock: socket.socket) -> int:
    """Bytes that the other side has not taken yet."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("request_", [b'{"verb":"wait","names":["app"]}\n', b'{"verb":"events","follow":true}\n', b'{"verb":"logs"}\n'])
def test_descriptors_that_no_verb_asked_for_are_closed_at_once(bench, request_):
    bench.become("app", State.WAITING)
    client = bench.connect()
    bench.turn(lambda: len(bench.server._clients) == 1)
    before = own_fds()
    socket.send_fds(client, [request_], [0, 1, 2])
    bench.turn(lambda: not unread(client))
    assert own_fds() - before == set()


def test_a_flood_of_descriptors_keeps_no_more_than_a_request_may_have(bench):
    """Each piece of one request, and what follows it, may bring three."""
    client = bench.connect()
    bench.turn(lambda: len(bench.server._clients) == 1)
    before = own_fds()
    for _ in range(50):
        socket.send_fds(client, [b" "], [0, 1, 2])
    socket.send_fds(client, [b'{"verb":"exec","names":["app"],"argv":["x"]}\n'], [0, 1, 2])
    bench.turn(lambda: bench.host.asked == [("exec", "app", ("x",), 3)])
    for _ in range(50):
        socket.send_fds(client, [b" "], [0, 1, 2])
    bench.turn(lambda: not unread(client))
    assert own_fds() - before == set()
