"""PID 1's side of the logs, with a real logger below."""

import errno
import json
import os
import select
import signal
import socket
import stat
import time

import pytest
from test_logger import Answer

from pyinit.init import logkeeper, reaper
from pyinit.init import output as module
from pyinit.init.loop import Loop
from pyinit.init.output import Output
from pyinit.linux.fds import receive
from pyinit.model import Config, InitSpec, LogSpec, ServiceSpec

DEADLINE_S = 5.0
RAW = LogSpec(timestamp="none")


class Bench:
    def __init__(self, folder) -> None:
        self.folder = folder
        self.errors: list[Exception] = []
        self.loop = Loop(self.errors.append)
        self.output: Output

    def start(self, **logs: LogSpec) -> Output:
        self.specs = {name: ServiceSpec(name, ("true",), log=log) for name, log in logs.items()}
        config = Config("/x.toml", InitSpec(log_dir=str(self.folder)), tuple(self.specs.values()))
        self.output = Output(config, self.loop)
        self.output.start()
        return self.output

    def write(self, name: str, data: bytes) -> None:
        os.write(self.output.pipe_for(self.specs[name], -1), data)

    def kill_logger(self) -> int:
        """It is dead, not reaped."""
        pid = self.output.pid
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(DEADLINE_S * 1000)
        os.close(pidfd)
        return pid

    def reap(self) -> list[bool]:
        return [self.output.exited(pid, code) for pid, code, _ in reaper.reap(8)]

    def log(self, name: str) -> bytes:
        path = self.folder / name / "current"
        return path.read_bytes() if path.exists() else b""


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.output.close(DEADLINE_S)
    assert bench.errors == []


def test_what_was_written_is_on_disk_when_it_is_closed(bench):
    output = bench.start(app=RAW, web=RAW)
    bench.write("app", b"one\n")
    bench.write("web", b"two\n")
    output.close(DEADLINE_S)
    assert (bench.log("app"), bench.log("web"), output.pid) == (b"one\n", b"two\n", 0)


def test_where_each_log_to_leads(bench):
    output = bench.start(file=RAW, out=LogSpec(to="stdout"), none=LogSpec(to="null"), same=LogSpec(to="inherit"))
    fds = {name: output.pipe_for(spec, -1) for name, spec in bench.specs.items()}
    assert stat.S_ISFIFO(os.fstat(fds["file"]).st_mode)
    assert stat.S_ISFIFO(os.fstat(fds["out"]).st_mode)
    assert os.fstat(fds["none"]).st_rdev == os.stat("/dev/null").st_rdev
    assert fds["same"] == -1
    assert [os.get_inheritable(fd) for fd in fds.values() if fd >= 0] == [False, False, False]


def test_without_such_a_service_there_is_no_logger(bench, capfd):
    output = bench.start(none=LogSpec(to="null"))
    assert output.pid == 0
    output.say("hello")
    assert capfd.readouterr().err == "pyinit: hello\n"


def test_the_logger_is_named_and_has_no_end_that_would_keep_a_pipe_open(bench):
    output = bench.start(app=RAW)
    output.say("wait for its first breath")
    bench.write("app", b"x\n")
    until(bench, "app", b"x\n")
    with open(f"/proc/{output.pid}/comm") as file:
        assert file.read() == "pyinit-logger\n"
    fds = os.listdir(f"/proc/{output.pid}/fd")
    # standard ones, two pipes and their spools, the journal and its mapping, two boxes, control, epoll, the file, and what
    # stdout and stderr are opened anew as
    assert len(fds) == 3 + 4 + 2 + 2 + 3 + reopened()


def until(bench, name: str, log: bytes) -> None:
    limit = time.monotonic() + DEADLINE_S
    while bench.log(name) != log:
        assert time.monotonic() < limit, bench.log(name)
        select.select([], [], [], 0.001)


def reopened() -> int:
    return sum(stat.S_ISFIFO(os.fstat(fd).st_mode) or os.isatty(fd) for fd in (1, 2))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives the pipe to another user")
def test_the_pipe_is_its_user_s_and_blocks_whatever_an_earlier_one_did(bench):
    output = bench.start(app=RAW)
    fd = output.pipe_for(bench.specs["app"], 65534)
    assert os.fstat(fd).st_uid == 65534
    os.set_blocking(fd, False)
    assert os.get_blocking(output.pipe_for(bench.specs["app"], -1))
    assert os.fstat(fd).st_uid == 0


def test_a_killed_logger_is_replaced_and_the_pipe_keeps_what_is_in_it(bench, capfd):
    output = bench.start(app=RAW)
    old = bench.kill_logger()
    bench.write("app", b"while nobody reads\n")
    assert bench.reap() == [True]
    assert output.pid not in (0, old)
    bench.write("app", b"and then\n")
    output.close(DEADLINE_S)
    assert bench.log("app") == b"while nobody reads\nand then\n"
    assert capfd.readouterr().err == "pyinit: the logger died and is started again\n"


def test_another_s_exit_is_not_the_logger_s(bench):
    output = bench.start(app=RAW)
    assert not output.exited(output.pid + 1, 0)
    assert not output.exited(0, 0)


def test_a_logger_that_keeps_dying_gets_a_pause(bench, monkeypatch):
    monkeypatch.setattr(logkeeper, "_PAUSE_S", 0.05)
    output = bench.start(app=RAW)
    for _ in range(6):
        assert output.pid
        bench.kill_logger()
        bench.reap()
    assert output.pid == 0
    bench.loop.call_at(time.monotonic() + 0.1, bench.loop.stop)
    bench.loop.run()
    assert output.pid


def test_a_service_that_comes_in_the_pause_gets_its_log(bench, monkeypatch):
    monkeypatch.setattr(logkeeper, "_PAUSE_S", 0.02)
    output = bench.start(app=RAW)
    for _ in range(6):
        bench.kill_logger()
        bench.reap()
    bench.specs["new"] = ServiceSpec("new", ("true",), log=RAW)
    output.configure(tuple(bench.specs.values()))
    bench.write("new", b"here\n")
    turn(bench)
    output.close(DEADLINE_S)
    assert bench.log("new") == b"here\n"


@pytest.mark.parametrize("to", ["one that does not listen yet", "one that begins"])
def test_more_lines_are_waited_for_than_a_socket_has_room_for(bench, to):
    names = [f"s{number}" for number in range(300)]
    output = bench.start(**dict.fromkeys(names, RAW))
    found = []

    def see(name: str) -> None:
        found.append(name)
        if len(found) == len(names):
            bench.loop.stop()

    os.kill(output.pid, signal.SIGSTOP)
    for name in names:
        output.watch(name, "^up$", lambda name=name: see(name))
    if to == "one that begins":
        bench.kill_logger()
        bench.reap()
    else:
        os.kill(output.pid, signal.SIGCONT)

    def speak() -> None:
        if output._keeper._orders:
            bench.loop.call_at(time.monotonic() + 0.001, speak)
            return
        for name in names:
            bench.write(name, b"up\n")

    speak()
    bench.loop.call_at(time.monotonic() + DEADLINE_S, bench.loop.stop)
    bench.loop.run()
    assert sorted(found) == sorted(names)


def test_the_close_while_a_logger_makes_way_leaves_nothing_unread(bench):
    output = bench.start(app=RAW)
    os.kill(output.pid, signal.SIGSTOP)
    os.waitpid(output.pid, os.WUNTRACED)
    bench.write("app", b"one\n")
    bench.specs["new"] = ServiceSpec("new", ("true",), log=RAW)
    output.configure(tuple(bench.specs.values()))
    bench.write("new", b"two\n")
    os.kill(output.pid, signal.SIGCONT)
    output.close(DEADLINE_S)
    assert (bench.log("app"), bench.log("new")) == (b"one\n", b"two\n")


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(") ")[2][0]


def test_a_logger_with_much_to_tell_is_listened_to_at_the_close(bench):
    output = bench.start(**{f"s{number}": RAW for number in range(300)})
    os.kill(output.pid, signal.SIGSTOP)
    for pipe in output._pipes.values():
        pipe.close_write()
    pid = output.pid
    os.kill(pid, signal.SIGCONT)
    limit = time.monotonic() + DEADLINE_S
    while len(os.listdir(f"/proc/{pid}/fd")) > 450 or state(pid) != "S":  # it waits for room, in the midst of its turn
        assert time.monotonic() < limit
    before = time.monotonic()
    output.close(DEADLINE_S)
    assert time.monotonic() - before < DEADLINE_S / 2


def test_a_logger_that_died_before_the_close_is_made_up_for(bench):
    output = bench.start(app=RAW)
    bench.kill_logger()
    bench.write("app", b"the last words\n")
    output.close(DEADLINE_S)
    assert bench.log("app") == b"the last words\n"


def test_the_close_does_not_wait_for_a_pipe_that_someone_holds(bench):
    output = bench.start(app=RAW)
    bench.write("app", b"said\n")
    held = os.dup(output.pipe_for(bench.specs["app"], -1))
    output.close(DEADLINE_S)
    os.close(held)
    assert bench.log("app") == b"said\n"


def test_the_close_has_an_end(bench):
    output = bench.start(app=RAW)
    os.kill(output.pid, signal.SIGSTOP)
    before = time.monotonic()
    output.close(0.02)
    assert time.monotonic() - before < DEADLINE_S
    assert output.pid == 0


def test_messages_that_nobody_reads_are_dropped_counted_and_told(bench, capfd):
    output = bench.start(app=RAW)
    pid = output.pid
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    said = 0
    while not output._dropped:
        output.say("x" * 1000)
        said += 1
    output.say("this, too")
    os.kill(pid, signal.SIGCONT)
    own_write = output._pipes["", "stderr"].write
    poll = select.poll()
    poll.register(own_write, select.POLLOUT)
    assert poll.poll(DEADLINE_S * 1000)
    output.say("here again")
    output.close(DEADLINE_S)
    told = capfd.readouterr().err.splitlines()
    assert len(told) == said - 1 + 2
    assert told[-2:] == ["pyinit: 2 messages were dropped", "pyinit: here again"]


def test_one_message_is_one_line_of_one_write(bench, capfd):
    output = bench.start(none=LogSpec(to="null"))
    output.say("two\nlines")
    output.say("x" * 10_000)
    first, second = capfd.readouterr().err.splitlines(keepends=True)
    assert first == "pyinit: two; lines\n"
    assert second.endswith("x\n")
    assert len(second) <= 4096


def test_a_client_is_handed_over(bench):
    output = bench.start(app=RAW)
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_S)
    output.logs(b'{"verb": "logs", "names": ["app"]}', theirs.detach())
    data, fds = receive(ours, 4096, 1)
    assert json.loads(data) == {"ok": True, "logs": [{"service": "app", "stream": "stdout", "ino": 0, "size": 0}]}
    assert [os.path.realpath(f"/proc/self/fd/{fd}") for fd in fds] == [str(bench.folder)]
    assert ours.recv(4096) == b""
    os.close(fds[0])
    ours.close()


def test_a_folder_of_logs_that_is_a_link_to_what_we_have_open_is_given_to_no_client(bench, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    held = os.open(tmp_path / "elsewhere", os.O_RDONLY | os.O_DIRECTORY)
    bench.folder = tmp_path / "log"
    bench.folder.symlink_to(f"/proc/{os.getpid()}/fd/{held}")
    output = bench.start(app=RAW)
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_S)
    output.logs(b'{"verb": "logs", "names": ["app"]}', theirs.detach())
    data, fds = receive(ours, 4096, 1)
    assert (json.loads(data)["ok"], fds) == (True, [])
    ours.close()
    os.close(held)


def client(bench, **request) -> Answer:
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_S)
    bench.output.logs(json.dumps({"verb": "logs", **request}).encode(), theirs.detach())
    return Answer(ours)


def turn(bench) -> None:
    """The loop until the logger has been replaced."""
    old = bench.output.pid

    def look() -> None:
        for pid, code, _ in reaper.reap(8):
            bench.output.exited(pid, code)
        if bench.output.pid != old:
            bench.loop.stop()
        else:
            bench.loop.call_at(time.monotonic() + 0.001, look)

    bench.loop.call_soon(look)
    bench.loop.run()


def test_another_config_s_logs_take_over_and_nobody_who_follows_is_cut_off(bench, capfd):
    bench.start(app=RAW, gone=RAW)
    ours = client(bench, names=["app"], follow=True)
    bench.write("app", b"before\nhalf")
    bench.write("gone", b"not finished")
    specs = {"app": LogSpec(timestamp="none", stderr="separate", max_size_bytes=1000), "new": RAW}
    bench.specs = {name: ServiceSpec(name, ("true",), log=log) for name, log in specs.items()}
    bench.output.configure(tuple(bench.specs.values()))
    bench.output.forget("gone")
    turn(bench)
    bench.write("app", b" and half\n")
    bench.write("new", b"here\n")
    os.write(bench.output.error_pipe_for(bench.specs["app"], -1), b"error\n")
    assert ours.until("app stdout", b"and half\n") == b"before\nhalf and half\n"
    assert ours.until("app stderr", b"error\n") == b"error\n"
    ours.sock.close()
    os.close(ours.folder)
    bench.output.close(DEADLINE_S)
    assert [bench.log(name) for name in ("app", "new", "gone")] == [b"before\nhalf and half\n", b"here\n", b"not finished\n"]
    assert (bench.folder / "app/current.err").read_bytes() == b"error\n"
    assert capfd.readouterr().err == ""


def test_a_logger_that_is_killed_while_another_config_waits_is_replaced_twice(bench, capfd):
    bench.start(app=RAW)
    bench.write("app", b"one\n")
    until(bench, "app", b"one\n")
    bench.specs = {"app": ServiceSpec("app", ("true",), log=LogSpec(timestamp="none", format="json"))}
    os.kill(bench.output.pid, signal.SIGSTOP)
    bench.output.configure(tuple(bench.specs.values()))
    bench.kill_logger()
    assert bench.reap() == [True]
    turn(bench)
    bench.write("app", b"two\n")
    bench.output.close(DEADLINE_S)
    first, second = bench.log("app").splitlines()
    assert first == b"one"
    assert json.loads(second)["msg"] == "two"
    assert capfd.readouterr().err == "pyinit: the logger died and is started again\n"


def test_a_service_that_others_log_to_reads_their_pipe_and_sees_its_end(bench):
    output = bench.start(app=LogSpec(to="service:sink"), web=LogSpec(to="service:sink"), sink=RAW)
    read_end = output.feed_for("sink")
    bench.write("app", b"one\n")
    bench.write("web", b"two\n")
    assert os.read(read_end, 100) == b"one\ntwo\n"
    assert output.feed_for("sink") == read_end  # over its restarts
    output.end_feed("sink")
    assert os.read(read_end, 100) == b""
    bench.write("app", b"again\n")  # another pipe
    assert os.read(output.feed_for("sink"), 100) == b"again\n"


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (LogSpec(to="null"), "no service logs through pyinit: see log.to in the config"),
        (RAW, "the logger died and is to be started again: try in a second"),
    ],
)
def test_a_client_without_a_logger_is_told(bench, log, error):
    output = bench.start(app=log)
    pid, output._keeper.pid = output.pid, 0
    ours, theirs = socket.socketpair()
    output.logs(b"{}", theirs.detach())
    assert json.loads(ours.recv(4096)) == {"error": error, "exit_code": 1}
    ours.close()
    output._keeper.pid = pid


def test_a_process_that_cannot_be_had_is_tried_for_again(bench, monkeypatch, capfd):
    monkeypatch.setattr(logkeeper, "_PAUSE_S", 0.02)

    def refuse(flags):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with monkeypatch.context() as patch:
        patch.setattr(logkeeper.process, "clone", refuse)
        output = bench.start(app=RAW)
        assert output.pid == 0
    bench.loop.call_at(time.monotonic() + 0.05, bench.loop.stop)
    bench.loop.run()
    assert output.pid
    told = "pyinit: the logger cannot be started: Resource temporarily unavailable; again in 0.02 s\n"
    assert capfd.readouterr().err == told


def test_a_pipe_that_cannot_be_had_leaves_the_others(bench, monkeypatch, capfd):
    real, left = os.pipe2, [2]

    def pipe2(flags):
        if not left[0]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        left[0] -= 1
        return real(flags)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "pipe2", pipe2)
        output = bench.start(app=RAW, web=RAW)
    assert capfd.readouterr().err == "pyinit: not every service gets a log: Too many open files\n"
    assert output.pipe_for(bench.specs["web"], -1) == -1
    bench.write("app", b"here\n")
    output.close(DEADLINE_S)
    assert bench.log("app") == b"here\n"
