"""The logger's process, over real pipes, files and sockets."""

import json
import os
import re
import select
import signal
import socket
import time

import pytest

from pyinit.init import journal, logger, outlet, spool, syslog
from pyinit.init.archives import archives
from pyinit.init.logstream import Source
from pyinit.init.logtail import Past, Wanted
from pyinit.linux.fds import receive
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
        self.spools: dict[str, int] = {}
        self.asked: list[socket.socket] = []
        self.keep = logger.Keep(journal.create(), outlet.create(), outlet.create())
        self.pid = 0
        self.control: socket.socket | None = None

    def start(self, **specs: LogSpec) -> None:
        """`app_err` is the separate stderr of `app`."""
        for name, spec in specs.items():
            journal.clear(self.keep.journal_fd, len(self.specs))
            self.specs[name] = spec
            self.pipes[name] = os.pipe2(os.O_CLOEXEC)
            self.spools[name] = spool.create()
        self.begin()

    def sources(self) -> list[Source]:
        found = []
        for slot, (name, ends) in enumerate(self.pipes.items()):
            service, _, stream = name.partition("_")
            service = "" if service == "own" else service
            found.append(Source(service, "stderr" if stream else "stdout", ends[0], self.spools[name], slot, self.specs[name], "program"))
        return found

    def begin(self, word: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        """Also again, over the same pipes; `word` is what PID 1 says first."""
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if word:
            socket.send_fds(self.control, [word], fds)
        sources = self.sources()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for fd, name in ((1, "stdout"), (2, "stderr")):
                    os.dup2(os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), fd)
                fds = {fd for source in sources for fd in (source.fd, source.spool_fd)}
                logger.process.close_all_but({0, 1, 2, theirs.fileno(), *fds, *(fd for fd in self.keep if fd >= 0)})
                logger.run(sources, str(self.folder / "log"), theirs, self.keep)
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
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        ended = poll.poll(DEADLINE_S * 1000)
        os.close(pidfd)
        assert ended, "the logger does not end"
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return code

    def hear(self) -> tuple[bytes, list[int]]:
        """What the logger tells PID 1."""
        self.control.settimeout(DEADLINE_S)
        return receive(self.control, 1 << 16, 2)

    def ask(self, **request) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(DEADLINE_S)
        socket.send_fds(self.control, [json.dumps({"verb": "logs", **request}).encode()], [theirs.fileno()])
        theirs.close()
        self.asked.append(ours)
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
        for fd in (*(fd for ends in self.pipes.values() for fd in ends), *self.spools.values(), *self.keep[:3]):
            if fd >= 0:
                os.close(fd)
        for sock in (*self.asked, *([self.control] if self.control is not None else [])):
            sock.close()


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.clear()


class Answer:
    """What a client gets: the answer, the past by the folder that comes with it, then frames."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        data, fds = receive(sock, 1 << 16, 1)
        line, _, self.buffer = data.partition(b"\n")
        self.answer = json.loads(line)
        self.folder = fds[0] if fds else -1
        self.said: dict[str, bytes] = {}
        self.ended = ""

    def past(self, last: int = -1) -> dict[str, list[bytes]]:
        found = {}
        for row in self.answer["logs"]:
            past = Past(self.folder, *row.values())
            found[f"{row['service']} {row['stream']}"] = [*(line.text for line in past.lines(Wanted(last))), *([past.rest] if past.rest else [])]
            past.close()
        os.close(self.folder)
        return found

    def until(self, key: str, end: bytes) -> bytes:
        """What one said since the answer, once it ends so."""
        while not self.said.get(key, b"").endswith(end):
            assert self.more(), f"the end came after {self.said}"
        return self.said[key]

    def to_the_end(self) -> dict[str, bytes]:
        while self.more():
            pass
        self.sock.close()
        return self.said

    def more(self) -> bool:
        """One more frame; False at the end."""
        while True:
            head, mark, rest = self.buffer.partition(b"\n")
            service, stream, length, *self.mark = head.decode().split() if mark else ("", "", "0")
            if mark and len(rest) >= int(length):
                self.buffer = rest[int(length) :]
                if service == "-":
                    self.ended = stream
                    return False
                key = f"{service} {stream}"
                self.said[key] = self.said.get(key, b"") + rest[: int(length)]
                return True
            data = self.sock.recv(1 << 16)
            if not data:
                return False
            self.buffer += data


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
        bench.control.close()
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


def test_at_the_end_nobody_waits_for_one_that_speaks_on(bench):
    bench.start(loud=FILE, app=FILE)
    writer = os.fork()
    if writer == 0:
        bench.control.close()
        while True:
            os.write(bench.pipes["loud"][1], b"y\n" * 2000)
    bench.until("loud", b"y\n")
    bench.write("app", b"the last\n")
    bench.control.close()
    try:
        assert bench.wait() == 0
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert bench.log("app") == b"the last\n"


def test_at_the_end_a_terminal_that_stands_still_costs_no_file_a_line(bench):
    os.mkfifo(bench.folder / "stdout")
    read_end = os.open(bench.folder / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    bench.start(loud=FILE._replace(echo=True), app=FILE)
    for number in range(20):
        bench.write("loud", b"%d" % number * 5_000 + b"\n")  # more than the terminal takes
    os.kill(bench.pid, signal.SIGSTOP)
    bench.write("loud", b"the last\n")
    bench.write("app", b"the last\n")
    bench.control.close()
    os.kill(bench.pid, signal.SIGCONT)
    bench.until("app", b"the last\n")
    bench.until("loud", b"the last\n")
    os.close(read_end)
    assert bench.wait() == 0


def test_a_folder_that_cannot_be_written_is_told_once_and_the_bytes_flow(bench):
    (bench.folder / "log").write_text("in the way")
    bench.start(app=FILE._replace(echo=True))
    for _ in range(100):
        bench.write("app", b"x" * 4000 + b"\n")  # far more than the pipe holds
    assert bench.end() == 0
    told = f"pyinit: log of app: {bench.folder}/log/app: Not a directory: lines are dropped until that is mended\n"
    lost = f"pyinit: log of app: {100 * 4001} bytes were lost at its end\n"
    assert bench.said("stderr") == (told + lost).encode()
    assert len(bench.said("stdout")) == 100 * (4001 + len("app: "))


def test_the_terminal_has_the_last_lines_of_a_service_that_ends_within_one(bench):
    bench.start(app=FILE._replace(echo=True))
    bench.write("app", b"no newline")
    assert bench.end() == 0
    assert (bench.said("stdout"), bench.log("app")) == (b"app: no newline\n", b"no newline\n")


def test_separate_errors_are_a_log_of_their_own_and_json_tells_the_stream(bench):
    spec = LogSpec(format="json", stderr="separate")
    bench.start(app=spec, app_err=spec)
    bench.write("app", b"out\n")
    bench.write("app_err", b"err\n")
    assert bench.end() == 0
    rows = [json.loads((bench.folder / "log/app" / name).read_bytes()) for name in ("current", "current.err")]
    assert [(row["service"], row["stream"], row["msg"]) for row in rows] == [("app", "stdout", "out"), ("app", "stderr", "err")]


def test_archives_are_compressed_in_the_background_and_what_was_left_too(bench):
    folder = bench.folder / "log/app"
    folder.mkdir(parents=True)
    (folder / "@20200101T000000.000000").write_bytes(b"very old\n")
    (folder / "@20200101T000000.000000.gz.part").write_bytes(b"half a co")
    bench.start(app=FILE._replace(compress=True, max_size_bytes=1 << 16, keep=100))
    lines = b"".join(b"%07d\n" % n for n in range(50_000))
    for at in range(0, len(lines), 50_000):
        bench.write("app", lines[at : at + 50_000])
    limit = time.monotonic() + DEADLINE_S
    while not all(name.endswith(".gz") for name in archives(str(folder))) or len(archives(str(folder))) < 5:
        assert time.monotonic() < limit, sorted(os.listdir(folder))
        select.select([], [], [], 0.005)
    assert Answer(bench.ask(names=["app"])).past() == {"app stdout": [b"very old", *lines.split()]}
    assert bench.end() == 0
    assert [name for name in os.listdir(folder) if name.endswith(".part")] == []


def test_suppressed_lines_are_said_when_it_has_become_quiet(bench, monkeypatch):
    monkeypatch.setattr(logger, "QUIET_S", 0.02)
    bench.start(app=FILE._replace(rate=1, rate_burst=2))
    bench.write("app", b"1\n2\n3\n4\n")
    assert bench.until("app", b"a second\n") == b"1\n2\npyinit: 2 lines were suppressed: more than 1 a second\n"


def test_what_services_say_by_syslog_is_a_line_of_their_log(bench, monkeypatch):
    path = str(bench.folder / "dev-log")
    collector = syslog.bind(path)
    bench.keep = bench.keep._replace(syslog_fd=collector.fileno())
    spec = FILE._replace(to="syslog")
    bench.start(app=spec, other=spec._replace())
    bench.write("app", b"said itself, not ended")
    bench.until("app", b"ended")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        for message in (
            b"<38>Nov 24 10:00:00 other[12]: Accepted publickey\0", b"<13>Nov  4 10:00:00 unknown: to the first\n", b"no form\nat all",
        ):
            sock.sendto(message, path)
    bench.until("other", b"\n")
    bench.until("app", b"all\n")
    assert bench.end() == 0
    assert bench.log("other") == b"other[12]: Accepted publickey\n"
    assert bench.log("app") == b"said itself, not ended\nunknown: to the first\nno form#012at all\n"
    collector.close()


def test_a_stream_that_has_ended_is_reported_once_all_of_it_is_written(bench):
    bench.start(app=FILE, web=FILE)
    bench.write("app", b"the last")
    os.close(bench.pipes["app"][1])
    bench.pipes["app"] = (bench.pipes["app"][0], -1)
    assert bench.hear() == (b"ended\0000", [])
    assert bench.log("app") == b"the last\n"


def test_a_line_that_is_waited_for_is_told_however_soon_it_came(bench):
    bench.start(app=FILE)
    bench.control.send(b"watch\0app\0^ready$")
    bench.write("app", b"almost ready\nready\n")
    assert bench.hear() == (b"seen\0app", [])


def test_a_slow_terminal_delays_nobody_else_s_file(bench):
    os.mkfifo(bench.folder / "stdout")
    read_end = os.open(bench.folder / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    bench.start(loud=LogSpec(to="stdout"), app=FILE)
    for _ in range(20):
        bench.write("loud", b"z" * 9_999 + b"\n")  # more than the terminal takes
    bench.write("app", b"one\n")
    bench.until("app", b"one\n")
    os.set_blocking(read_end, True)
    for ends in bench.pipes.values():
        os.close(ends[1])
    bench.pipes = {name: (ends[0], -1) for name, ends in bench.pipes.items()}
    shown = b""
    while len(shown) < 20 * (10_000 + len("loud: ")):
        shown += os.read(read_end, 1 << 16)
    assert shown == (b"loud: " + b"z" * 9_999 + b"\n") * 20
    assert bench.wait() == 0
    os.close(read_end)


def test_at_the_end_a_terminal_that_stands_still_keeps_no_line_from_a_file(bench):
    os.mkfifo(bench.folder / "stdout")
    read_end = os.open(bench.folder / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    bench.start(loud=FILE._replace(echo=True), shown=LogSpec(to="stdout"), quiet=FILE)
    lines = b"".join(b"%05d and what makes it long enough\n" % n for n in range(10_000))
    for at in range(0, len(lines), 50_000):
        bench.write("loud", lines[at : at + 50_000])
        bench.write("shown", b"shown\n")
    bench.write("quiet", b"the last\n")
    for name, ends in bench.pipes.items():
        os.close(ends[1])
        bench.pipes[name] = (ends[0], -1)
    bench.control.shutdown(socket.SHUT_WR)
    assert bench.until("quiet", b"the last\n") == b"the last\n"
    assert bench.until("loud", lines[-34:]) == lines
    bench.kill()  # PID 1 waits no longer
    os.close(read_end)


def test_names_are_coloured_and_of_one_width_on_a_terminal_only(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain = logger.painter(["", "app", "database", "app"])
    assert (plain(""), plain("app"), plain("database")) == (b"", b"app: ", b"database: ")
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 1)
    coloured = logger.painter(["", "app", "database"])
    assert (coloured("app"), coloured("database")) == (b"\x1b[36mapp      |\x1b[0m ", b"\x1b[33mdatabase |\x1b[0m ")
    monkeypatch.setenv("NO_COLOR", "1")
    assert logger.painter(["app"])("app") == b"app: "


# pyinit logs


def test_the_past_of_a_log_by_the_folder_that_comes_with_the_answer(bench):
    bench.start(app=FILE)
    bench.write("app", b"".join(b"%d\n" % n for n in range(20)))
    bench.until("app", b"19\n")
    client = Answer(bench.ask(names=["app"]))
    assert {key: client.answer[key] for key in ("ok",)} == {"ok": True}
    assert client.past(10) == {"app stdout": [b"%d" % n for n in range(10, 20)]}
    assert client.to_the_end() == {}


def test_all_services_that_have_files_without_names(bench):
    bench.start(one=FILE, two=FILE, web=LogSpec(to="stdout"))
    for name in ("one", "two"):
        bench.write(name, name.encode() + b"\n")
        bench.until(name, name.encode() + b"\n")
    assert Answer(bench.ask()).past() == {"one stdout": [b"one"], "two stdout": [b"two"]}


def test_following_begins_where_the_past_ends_in_the_midst_of_a_line_too(bench):
    bench.start(app=FILE)
    bench.write("app", b"past\nbeg")
    bench.until("app", b"beg")
    client = Answer(bench.ask(names=["app"], follow=True))
    assert client.past() == {"app stdout": [b"past", b"beg"]}
    bench.write("app", b"un\nnew\nnot yet")
    assert client.until("app stdout", b"not yet") == b"un\nnew\nnot yet"
    assert bench.end() == 0
    assert client.to_the_end() == {"app stdout": b"un\nnew\nnot yet\n"}
    assert client.ended == "end"


def test_two_followers_of_two_services_see_stamped_lines(bench):
    bench.start(app=LogSpec(), web=LogSpec(to="stdout"))
    clients = [Answer(bench.ask(names=["app", "web"], follow=True)) for _ in range(2)]
    bench.write("app", b"from app\n")
    for client in clients:
        assert STAMP.sub(b"@", client.until("app stdout", b"\n")) == b"@from app\n"
    bench.write("web", b"from web\n")
    for client in clients:
        assert STAMP.sub(b"@", client.until("web stdout", b"\n")) == b"@from web\n"
    clients[0].sock.close()  # one hangs up: the other goes on
    bench.write("web", b"again\n")
    assert STAMP.sub(b"@", clients[1].until("web stdout", b"again\n")) == b"@from web\n@again\n"
    clients[1].sock.close()


def test_a_follower_goes_from_one_logger_to_the_next_without_a_loss(bench):
    bench.start(app=FILE)
    client = Answer(bench.ask(names=["app"], follow=True))
    said = b""
    for number in range(20):
        text = b"%d and half a" % number
        bench.write("app", text)
        bench.control.send(b"renew")
        word, fds = bench.hear()
        assert word == b"client"
        assert bench.wait() == 0
        bench.control.close()
        bench.write("app", b" line\n" + b"more\n" * 100)
        bench.begin(word, fds)
        for fd in fds:
            os.close(fd)
        said += text + b" line\n" + b"more\n" * 100
    bench.write("app", b"end\n")
    assert client.until("app stdout", b"end\n") == said + b"end\n"
    client.sock.close()


def test_a_follower_of_more_services_than_a_message_can_name(bench):
    names = [f"{number:0200}" for number in range(330)]
    bench.start(app=FILE)
    client = Answer(bench.ask(follow=True))
    bench.control.send(b"renew")
    word, fds = bench.hear()
    os.pwrite(fds[1], json.dumps(["app", *names]).encode() + b"\n", 0)
    assert bench.wait() == 0
    bench.control.close()
    bench.begin(word, fds)
    for fd in fds:
        os.close(fd)
    bench.write("app", b"end\n")
    assert client.until("app stdout", b"end\n") == b"end\n"
    client.sock.close()


def test_a_follower_that_does_not_read_is_cut_off_and_told(bench):
    bench.start(app=FILE)
    client = Answer(bench.ask(names=["app"], follow=True))
    for _ in range(100):
        bench.write("app", (b"w" * 999 + b"\n") * 60)  # 6 MB in all
    bench.write("app", b"end\n")
    bench.until("app", b"end\n")
    said = client.to_the_end()["app stdout"]
    assert client.ended == "slow"
    assert (1 << 20) < len(said) < (4 << 20)
    assert bench.end() == 0


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"names": ["web"]}, "web: logs to stdout only, so there is nothing to look back at; add -f to follow"),
        ({"names": ["no"]}, "no: its output does not pass through pyinit (log.to), or there is no such service"),
        ({"names": "x"}, "x: its output does not pass through pyinit (log.to), or there is no such service"),
    ],
)
def test_what_cannot_be_answered_says_why_and_stops_nothing(bench, request_, error):
    bench.start(app=FILE, web=LogSpec(to="stdout"))
    assert Answer(bench.ask(**request_)).answer == {"error": error, "exit_code": 1}
    bench.write("app", b"alive\n")
    assert bench.until("app", b"alive\n") == b"alive\n"


def test_too_many_clients_are_refused(bench):
    bench.start(app=FILE)
    clients = [Answer(bench.ask(names=["app"], follow=True)) for _ in range(64)]
    refused = Answer(bench.ask(names=["app"])).answer
    assert refused == {"error": "64 clients are reading logs already: end one of them", "exit_code": 1}
    for client in clients:
        client.sock.close()
