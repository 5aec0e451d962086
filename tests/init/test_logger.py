"""The logger's process, over real pipes, files and sockets."""

import json
import os
import re
import select
import signal
import socket
import time

import pytest

from pyinit.init import logger
from pyinit.model import LogSpec

DEADLINE_S = 10.0
STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z ")
FILE = LogSpec(timestamp="none")


class Bench:
    """A logger as a process of its own; its stdout and stderr are files."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.pipes: dict[str, tuple[int, int]] = {}
        self.specs: dict[str, LogSpec] = {}
        self.pid = 0
        self.control: socket.socket | None = None

    def start(self, **specs: LogSpec) -> None:
        for name, spec in specs.items():
            self.specs[name] = spec
            self.pipes[name] = os.pipe2(os.O_CLOEXEC)
        self.begin()

    def begin(self) -> None:
        """Also again, over the same pipes."""
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sources = [logger.Source("" if name == "own" else name, ends[0], self.specs[name]) for name, ends in self.pipes.items()]
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for fd, name in ((1, "stdout"), (2, "stderr")):
                    os.dup2(os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), fd)
                logger.process.close_all_but({0, 1, 2, theirs.fileno(), *(source.fd for source in sources)})
                logger.run(sources, str(self.folder / "log"), theirs)
                os._exit(0)
            finally:
                os._exit(1)
        theirs.close()

    def write(self, name: str, data: bytes) -> None:
        os.write(self.pipes[name][1], data)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = 0
        self.control.close()

    def end(self) -> int:
        """All writers leave; the logger's exit code."""
        for name, ends in self.pipes.items():
            os.close(ends[1])
            self.pipes[name] = (ends[0], -1)
        return self.wait()

    def wait(self) -> int:
        pidfd = os.pidfd_open(self.pid)
        ended = select.select([pidfd], [], [], DEADLINE_S)[0]
        os.close(pidfd)
        assert ended, "the logger does not end"
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return code

    def ask(self, **request) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(DEADLINE_S)
        socket.send_fds(self.control, [json.dumps({"verb": "logs", **request}).encode()], [theirs.fileno()])
        theirs.close()
        return ours

    def log(self, name: str) -> bytes:
        return (self.folder / "log" / name / "current").read_bytes()

    def until(self, name: str, end: bytes) -> bytes:
        """The log, once it ends so."""
        limit = time.monotonic() + DEADLINE_S
        while time.monotonic() < limit:
            path = self.folder / "log" / name / "current"
            if path.exists() and path.read_bytes().endswith(end):
                return path.read_bytes()
            select.select([], [], [], 0.001)
        raise AssertionError(f"{name} never ends with {end!r}")

    def said(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def clear(self) -> None:
        if self.pid:
            self.kill()
        for ends in self.pipes.values():
            for fd in ends:
                if fd >= 0:
                    os.close(fd)
        if self.control is not None:
            self.control.close()


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.clear()


def everything(sock: socket.socket) -> bytes:
    out = b""
    while data := sock.recv(1 << 16):
        out += data
    sock.close()
    return out


def answer(sock: socket.socket) -> bytes:
    return read_until(sock, b"\n")


def read_until(sock: socket.socket, end: bytes) -> bytes:
    out = b""
    while not out.endswith(end):
        data = sock.recv(1 << 16)
        assert data, f"the end came after {out!r}"
        out += data
    return out


def test_lines_are_stamped_and_what_is_not_finished_gets_its_newline_at_the_end(bench):
    bench.start(app=LogSpec())
    bench.write("app", b"one\ntw")
    bench.until("app", b"tw")
    bench.write("app", b"o\nthree")
    assert bench.end() == 0
    lines = bench.log("app").splitlines(keepends=True)
    assert [STAMP.sub(b"@", line) for line in lines] == [b"@one\n", b"@two\n", b"@three\n"]
    assert (bench.folder / "log/app/current").stat().st_mode & 0o777 == 0o640


def test_echo_has_whole_lines_behind_the_service_s_name_and_own_words_go_to_stderr(bench):
    own = LogSpec(to="null", timestamp="none", echo=True)
    bench.start(own=own, app=FILE._replace(echo=True), web=LogSpec(to="stdout"), quiet=FILE)
    bench.write("app", b"one\ntw")
    bench.until("app", b"tw")
    bench.write("app", b"o\n")
    bench.write("quiet", b"not for stdout\n")
    bench.write("web", b"hello")
    bench.write("own", b"pyinit: app: ready\n")
    assert bench.end() == 0
    assert sorted(bench.said("stdout").splitlines()) == [b"app: one", b"app: two", b"web: hello"]
    assert bench.said("stderr") == b"pyinit: app: ready\n"
    assert sorted(os.listdir(bench.folder / "log")) == ["app", "quiet"]


def test_nothing_is_lost_from_a_writer_that_is_killed(bench):
    bench.start(app=FILE._replace(max_size_bytes=1 << 20, keep=100))
    count_read, count_write = os.pipe()
    writer = os.fork()
    if writer == 0:
        out = bench.pipes["app"][1]
        for number in range(10_000_000):
            os.write(out, b"%09d of a line that is kept\n" % number)
            if number == 100_000:
                os.write(count_write, b"x")
    os.read(count_read, 1)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    os.close(count_read)
    os.close(count_write)
    assert bench.end() == 0
    folder = bench.folder / "log/app"
    data = b"".join(path.read_bytes() for path in [*sorted(folder.glob("@*")), folder / "current"])
    lines = data.splitlines()
    assert [int(line[:9]) for line in lines] == list(range(len(lines)))
    assert len(lines) > 100_000


def test_what_is_in_the_pipe_survives_the_logger(bench):
    bench.start(app=LogSpec())
    bench.write("app", b"written, not ended")
    bench.until("app", b"not ended")
    bench.kill()
    bench.write("app", b" until now\nand more\n")
    bench.begin()
    assert bench.end() == 0
    assert STAMP.sub(b"@", bench.log("app")) == b"@written, not ended until now\n@and more\n"


def test_a_loud_service_does_not_starve_a_quiet_one(bench):
    bench.start(loud=FILE._replace(keep=1, max_size_bytes=1 << 20), quiet=FILE)
    loud = os.fork()
    if loud == 0:
        while True:
            os.write(bench.pipes["loud"][1], b"x" * 99 + b"\n")
    try:
        for number in range(20):
            bench.write("quiet", b"%d\n" % number)
            bench.until("quiet", b"%d\n" % number)
    finally:
        os.kill(loud, signal.SIGKILL)
        os.waitpid(loud, 0)
    assert bench.end() == 0


def test_a_stdout_that_is_gone_stops_no_file(bench):
    os.mkfifo(bench.folder / "stdout")
    read_end = os.open(bench.folder / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    bench.start(app=FILE._replace(echo=True))
    bench.write("app", b"one\n")
    bench.until("app", b"one\n")
    os.close(read_end)
    bench.write("app", b"two\n")
    bench.until("app", b"two\n")
    assert bench.end() == 0


def test_the_end_of_pid_1_is_the_logger_s_after_it_has_read_all(bench):
    bench.start(app=FILE)
    bench.write("app", b"the last\n")
    bench.control.close()
    assert bench.wait() == 0  # although the pipe is open still
    assert bench.log("app") == b"the last\n"


def test_a_folder_that_cannot_be_written_is_told_once_and_the_bytes_flow(bench):
    (bench.folder / "log").write_text("in the way")
    bench.start(app=FILE._replace(echo=True))
    for _ in range(100):
        bench.write("app", b"x" * 4000 + b"\n")  # far more than the pipe holds
    assert bench.end() == 0
    told = f"pyinit: log of app: {bench.folder}/log/app: Not a directory: lines are dropped until that is mended\n"
    assert bench.said("stderr") == told.encode()
    assert len(bench.said("stdout")) == 100 * (4001 + len("app: "))


# pyinit logs


def test_the_last_ten_lines_by_default(bench):
    bench.start(app=FILE)
    bench.write("app", b"".join(b"%d\n" % n for n in range(20)))
    bench.until("app", b"19\n")
    assert everything(bench.ask(names=["app"])) == b'{"ok": true}\n' + b"".join(b"%d\n" % n for n in range(10, 20))


def test_several_services_have_their_names_before_their_lines_and_none_is_cut(bench):
    bench.start(one=FILE, two=FILE, web=LogSpec(to="stdout"))
    lines = b"".join(b"%06d %s\n" % (n, b"z" * 100) for n in range(15_000))  # 1.6 MB: more than a client's queue
    for name in ("one", "two"):
        for at in range(0, len(lines), 60_000):
            bench.write(name, lines[at : at + 60_000])
        bench.until(name, lines[-108:])
    out = everything(bench.ask(lines=15_000)).splitlines()
    assert out[0] == b'{"ok": true}'
    assert out[1:] == [name + line for name in (b"one: ", b"two: ") for line in lines.splitlines()]


def test_following_begins_where_the_past_ends_in_the_midst_of_a_line_too(bench):
    bench.start(app=FILE)
    bench.write("app", b"past\nbeg")
    bench.until("app", b"beg")
    client = bench.ask(names=["app"], follow=True)
    assert read_until(client, b"past\n") == b'{"ok": true}\npast\n'
    bench.write("app", b"un\nnew\nnot yet")
    assert read_until(client, b"new\n") == b"begun\nnew\n"
    assert bench.end() == 0
    assert everything(client) == b"not yet\n"


def test_two_followers_of_two_services_see_stamped_lines_with_names(bench):
    bench.start(app=LogSpec(), web=LogSpec(to="stdout"))
    clients = [bench.ask(names=["app", "web"], follow=True) for _ in range(2)]
    for client in clients:
        assert answer(client) == b'{"ok": true}\n'
    bench.write("app", b"from app\n")
    for client in clients:
        assert STAMP.sub(b"@", read_until(client, b"\n")) == b"app: @from app\n"
    bench.write("web", b"from web\n")
    for client in clients:
        assert STAMP.sub(b"@", read_until(client, b"\n")) == b"web: @from web\n"
    clients[0].close()  # one hangs up: the other goes on
    bench.write("web", b"again\n")
    assert STAMP.sub(b"@", read_until(clients[1], b"\n")) == b"web: @again\n"
    clients[1].close()


def test_a_follower_that_does_not_read_is_cut_off_and_told(bench):
    bench.start(app=FILE)
    client = bench.ask(names=["app"], lines=0, follow=True)
    assert answer(client) == b'{"ok": true}\n'
    for _ in range(100):
        bench.write("app", (b"w" * 999 + b"\n") * 60)  # 6 MB in all
    bench.write("app", b"end\n")
    bench.until("app", b"end\n")
    out = everything(client)
    assert out.endswith(b"w\npyinit: this reader is too slow: lines are missing from here on\n")
    assert (1 << 20) < len(out) < (4 << 20)
    assert bench.end() == 0


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"names": ["web"]}, "web: logs to stdout only, so there is nothing to look back at; add -f to follow"),
        ({"names": ["no"]}, "no: its output does not pass through pyinit (log.to), or there is no such service"),
        ({"names": ["app"], "lines": "x"}, 'expected "lines" to be a number from 0 up'),
        ({"names": ["app"], "lines": -1}, 'expected "lines" to be a number from 0 up'),
    ],
)
def test_what_cannot_be_answered_says_why_and_stops_nothing(bench, request_, error):
    bench.start(app=FILE, web=LogSpec(to="stdout"))
    assert json.loads(everything(bench.ask(**request_))) == {"error": error, "exit_code": 1}
    bench.write("app", b"alive\n")
    assert bench.until("app", b"alive\n") == b"alive\n"


def test_too_many_clients_are_refused(bench):
    bench.start(app=FILE)
    clients = [bench.ask(names=["app"], follow=True) for _ in range(64)]
    for client in clients:
        assert answer(client) == b'{"ok": true}\n'
    refused = json.loads(everything(bench.ask(names=["app"])))
    assert refused == {"error": "64 clients are reading logs already: end one of them", "exit_code": 1}
    for client in clients:
        client.close()
