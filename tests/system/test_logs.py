"""Logs with real services: a logger that is killed again and again, other loggers, syslog, long lines, many files."""

import gzip
import json
import os
import pathlib
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import DEADLINE_S, REPO, read, verb, wait_until

from pyinit.init import journal, logger, outlet, spool
from pyinit.init.archives import archives, current_name
from pyinit.init.logstream import Source
from pyinit.model import LogSpec

pytestmark = pytest.mark.usefixtures("nothing_left")
KILLS = 300

# Numbered lines of any length, in writes that end anywhere, until it is told to stop; the last line is whole.
WRITER = """
import os, random, signal, sys
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
number, text, sizes = 0, b"", random.Random(int(sys.argv[1]))
while not stop:
    while len(text) < 70_000:
        text += b"%08d %s\\n" % (number, b"x" * (number * 7919 % 200))
        number += 1
    count = sizes.choice((1, 10, 100, 1000, 60_000))
    text = text[os.write(int(sys.argv[2]), text[:count]) :]
left = text[: text.find(b"\\n") + 1]
while left:
    left = left[os.write(int(sys.argv[2]), left) :]
"""


@pytest.fixture
def supervisor(bench, tmp_path):
    """`supervisor(services)`: without a container, its own folders."""

    def start(text: str, **keys):
        head = f'[init]\nstate_dir = "{tmp_path}/state"\nlog_dir = "{tmp_path}/log"\ncontrol_socket = "{tmp_path}/s"\n'
        return bench.start(head + text, **keys)

    start.verb = lambda *words: verb(words[0], "--socket", f"{tmp_path}/s", *words[1:])
    start.folder = tmp_path / "log"
    return start


def files_of(folder: pathlib.Path, stream: str = "stdout") -> list[bytes]:
    found = []
    for name in [*archives(str(folder), stream), current_name(stream)]:
        data = (folder / name).read_bytes()
        found.append(gzip.decompress(data) if name.endswith(".gz") else data)
    return found


def check_lines(lines: list[bytes]) -> None:
    """Each number once, in order, and nothing between."""
    for number, line in enumerate(lines):
        assert line == b"%08d %s" % (number, b"x" * (number * 7919 % 200)), number
    assert len(lines) > 1000


def logger_of(pid: int) -> int:
    """Its pid; 0 while there is none."""
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            if pathlib.Path(f"/proc/{child}/comm").read_text() == "pyinit-logger\n":
                return int(child)
        except OSError:
            continue
    return 0


class Keeper:
    """What PID 1 keeps for its loggers, without PID 1's pause when they keep dying; standard output is a pipe to a file."""

    def __init__(self, folder: pathlib.Path, logs: dict[str, LogSpec]) -> None:
        self.folder = folder
        self.keep = logger.Keep(journal.create(), outlet.create(), outlet.create())
        self.sources: list[Source] = []
        self.writers: list[subprocess.Popen[bytes]] = []
        (folder / "writer.py").write_text(WRITER)
        for slot, (name, spec) in enumerate(logs.items()):
            journal.clear(self.keep.journal_fd, slot)
            read, write = os.pipe2(os.O_CLOEXEC)
            stream = "stderr" if spec.stderr == "separate" else "stdout"
            self.sources.append(Source(name, stream, read, spool.create(), slot, spec))
            command = [sys.executable, "-S", str(folder / "writer.py"), str(slot), "1"]
            self.writers.append(subprocess.Popen(command, stdout=write))
            os.close(write)
        read, self.out = os.pipe2(os.O_CLOEXEC)
        with open(folder / "out", "wb") as file:
            self.reader = subprocess.Popen(["cat"], stdin=read, stdout=file)
        os.close(read)
        self.err = os.open(folder / "err", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def fork(self) -> tuple[int, socket.socket]:
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.dup2(self.out, 1)
                os.dup2(self.err, 2)
                fds = {fd for source in self.sources for fd in (source.fd, source.spool_fd)}
                logger.process.close_all_but({0, 1, 2, theirs.fileno(), *fds, *self.keep[:3]})
                logger.run(self.sources, str(self.folder / "log"), theirs, self.keep)
                code = 0
            finally:
                os._exit(code)
        theirs.close()
        return pid, control

    def close(self) -> None:
        for process in (*self.writers, self.reader):
            if process.poll() is None:
                process.kill()
                process.wait()
        for fd in (self.out, self.err, *self.keep[:3], *(fd for source in self.sources for fd in (source.fd, source.spool_fd))):
            if fd >= 0:
                os.close(fd)


def test_no_line_is_lost_or_doubled_by_a_logger_that_is_killed_300_times(tmp_path):
    """At random moments, while no pipe is empty; through rotations, JSON, compression, separate errors, standard output."""
    many = LogSpec(max_size_bytes=256 << 10, keep=100_000)
    logs = {
        "iso": many,
        "tai": many._replace(timestamp="tai64n", max_size_bytes=64 << 10),
        "json": many._replace(format="json"),
        "echoed": many._replace(timestamp="none", echo=True),
        "shown": LogSpec(to="stdout"),
        "apart": many._replace(timestamp="none", stderr="separate", compress=True),
    }
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    keeper = Keeper(tmp_path, logs)
    try:
        for _ in range(KILLS):
            pid, control = keeper.fork()
            select.select([], [], [], 0.025 * chance.random() ** 2)  # it starts, then it is in the midst of its work
            os.kill(pid, signal.SIGKILL)
            assert os.waitpid(pid, 0)[1] == signal.SIGKILL
            control.close()
        assert [writer.poll() for writer in keeper.writers] == [None] * len(logs)
        pid, control = keeper.fork()
        for writer in keeper.writers:
            writer.terminate()
            assert writer.wait(DEADLINE_S) == 0
        assert os.waitpid(pid, 0)[1] == 0
        control.close()
        os.close(keeper.out)
        keeper.out = -1
        keeper.reader.wait(DEADLINE_S)
    finally:
        keeper.close()
    found = {name: files_of(tmp_path / "log" / name, "stderr" if name == "apart" else "stdout") for name in logs if name != "shown"}
    assert [one for files in found.values() for one in files if len(one) > 256 << 10 or not one.endswith(b"\n")] == []
    texts = {name: b"".join(files).splitlines() for name, files in found.items()}
    texts["json"] = [json.loads(line)["msg"].encode() for line in texts["json"]]
    for name in ("iso", "tai"):
        texts[name] = [line.partition(b" ")[2] for line in texts[name]]
    shown = (tmp_path / "out").read_bytes().splitlines()
    texts["echoed on stdout"] = [line.removeprefix(b"echoed: ") for line in shown if line.startswith(b"echoed: ")]
    texts["shown"] = [line.removeprefix(b"shown: ") for line in shown if line.startswith(b"shown: ")]
    for lines in texts.values():
        check_lines(lines)
    assert len(texts["echoed on stdout"]) + len(texts["shown"]) == len(shown)
    assert (tmp_path / "err").read_bytes() == b""


def test_pid_1_s_own_logger_killed_again_and_again_loses_nothing(supervisor, tmp_path):
    (tmp_path / "writer.py").write_text(WRITER)
    box = supervisor(f"""
[services.writer]
command = ["{sys.executable}", "-S", "{tmp_path}/writer.py", "1", "1"]
log = {{ max_size = "1M", keep = 10000 }}
""")
    box.wait_for("writer: ready")
    current = supervisor.folder / "writer/current"
    for kills in range(1, 8):  # the last ones after the pause that PID 1 makes
        wait_until(lambda: logger_of(box.process.pid), "a logger")
        before = read(current)
        wait_until(lambda before=before: read(current) not in (before, b""), "more lines")
        os.kill(logger_of(box.process.pid), signal.SIGKILL)
        box.wait_for("the logger died and is started again", count=kills)
    assert box.stop() == 0
    check_lines([line.partition(b" ")[2] for line in b"".join(files_of(supervisor.folder / "writer")).splitlines()])


def test_who_follows_a_log_goes_on_after_a_reload_and_after_a_kill(supervisor, tmp_path, bench):
    def text(more: str = "") -> str:
        return f'''
[services.talk]
command = ["/bin/sh", "-c", "while read line; do echo got $line; done"]
stdin = "file:{tmp_path}/fifo"
log = {{ timestamp = "none" {more} }}
'''

    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    box = supervisor(text())
    box.wait_for("talk: ready")
    os.write(fifo, b"one\n")
    follower = subprocess.Popen(
        [sys.executable, "-m", "pyinit", "logs", "--socket", f"{tmp_path}/s", "-f", "talk"], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert follower.stdout.readline() == "got one\n"
    head = box.config.read_text().split("[services")[0]
    box.config.write_text(head + text(', max_size = "1M"') + '[services.new]\ncommand = ["sleep", "1000"]\n')
    assert supervisor.verb("reload").returncode == 0
    os.write(fifo, b"two\n")
    assert follower.stdout.readline() == "got two\n"
    os.kill(logger_of(box.process.pid), signal.SIGKILL)
    os.write(fifo, b"three\n")
    assert follower.stdout.readline() == "got three\n"
    assert box.stop() == 0
    assert follower.wait(DEADLINE_S) == 0
    assert follower.stderr.read() == ""
    follower.stdout.close()
    follower.stderr.close()
    os.close(fifo)
    assert (supervisor.folder / "talk/current").read_bytes() == b"got one\ngot two\ngot three\n"


def test_svlogd_as_the_logger_of_two_services_gets_their_last_lines_too(supervisor, tmp_path):
    """runit's own: it is there first, survives a restart of its writers and of itself, and ends after them, by its input."""
    (tmp_path / "sv").mkdir()
    box = supervisor(f"""
[services.shop]
command = ["/bin/sh", "-c", "trap 'echo shop: the last; exit' TERM; echo shop: the first; while :; do sleep 0.01; done"]
log = {{ to = "service:sink" }}
[services.bar]
command = ["/bin/sh", "-c", "trap 'echo bar: the last; exit' TERM; echo bar: the first; while :; do sleep 0.01; done"]
log = {{ to = "service:sink" }}
[services.sink]
command = ["svlogd", "{tmp_path}/sv"]
""")
    for name in ("sink", "shop", "bar"):
        box.wait_for(f"{name}: ready")
    assert box.output.index("sink: ready") < min(box.output.index("shop: ready"), box.output.index("bar: ready"))
    current = tmp_path / "sv/current"
    wait_until(lambda: read(current).count(b"the first") == 2, "the first lines")
    before = time.monotonic()
    assert supervisor.verb("restart", "sink").returncode == 0
    assert time.monotonic() - before < 2.0  # whose writers live: it is not made to wait for the end of its input
    assert supervisor.verb("restart", "shop").returncode == 0
    assert box.stop() == 0
    assert sorted(current.read_text().splitlines()) == ["bar: the first", "bar: the last", *["shop: the first"] * 2, *["shop: the last"] * 2]
    stopped = [line for line in box.output.splitlines() if ": stopped" in line]
    assert stopped[-1] == "pyinit: sink: stopped: TERM received"


OF_THE_HOST = """
[container]
name = "pyinit-test"
layers = ["/"]
"""


def test_what_is_said_by_syslog_is_told_apart_by_cgroup(bench):
    """Services of the host's Python, in a container of the host's root; the tags tell nothing."""
    text = OF_THE_HOST
    for name, to in (("one", "syslog"), ("two", "syslog"), ("other", "null")):
        code = f"import syslog, time; syslog.openlog('tag', syslog.LOG_PID); syslog.syslog('from {name}'); print('{name} itself', flush=True); time.sleep(1000)"
        text += f'[services.{name}]\ncommand = ["{os.path.realpath(sys.executable)}", "-S", "-c", """{code}"""]\nlog = {{ to = "{to}" }}\n'
    box = bench.start(text)
    box.wait_for("other: ready")
    wait_until(lambda: verb("logs", "one", "two").stdout.count("\n") == 5, "five lines")
    assert [re.sub(r"^\S+ |\d", "", line) for line in sorted_lines("two")] == ["tag[]: from two", "two itself"]
    assert [re.sub(r"^\S+ |\d", "", line) for line in sorted_lines("one")] == ["one itself", "tag[]: from one", "tag[]: from other"]
    assert box.stop() == 0


def sorted_lines(name: str) -> list[str]:
    return sorted(verb("logs", name).stdout.splitlines(), key=lambda line: line.partition(" ")[2])


def test_sshd_by_syslog(bench):
    """The host's own, without -e: it says all by syslog(3), and is ready by a line of that."""
    box = bench.start(f"""{OF_THE_HOST}
[services.ssh]
pre_start = [["/bin/mkdir", "-p", "/run/sshd"], ["/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/run/sshd/key"]]
command = ["/usr/sbin/sshd", "-D", "-p", "2222", "-f", "/dev/null", "-h", "/run/sshd/key", "-o", "UsePAM=no"]
log = {{ to = "syslog", timestamp = "none" }}
ready = {{ log = "^sshd.*Server listening on 0.0.0.0 port 2222" }}
""")
    box.wait_for("ssh: ready")
    assert re.fullmatch(r"sshd\[\d+\]: Server listening on 0\.0\.0\.0 port 2222\.", verb("logs", "ssh").stdout.splitlines()[0])
    assert box.stop() == 0


def test_lines_of_ten_megabytes_nul_bytes_and_invalid_utf_8_come_through(supervisor, tmp_path):
    code = "import os; w = lambda b: [os.write(1, b[i : i + 65536]) for i in range(0, len(b), 65536)]; w(b'a\\0b\\xff\\xfe' * 2_000_000 + b'\\n'); w(b'end\\n')"
    line = b"a\0b\xff\xfe" * 2_000_000
    text = "".join(
        f'[services.{name}]\nkind = "oneshot"\ncommand = ["{sys.executable}", "-S", "-c", \'\'\'{code}\'\'\']\nlog = {{ {log} }}\n'
        for name, log in {
            "plain": 'timestamp = "none", max_size = "4M"', "json": 'format = "json", max_size = "64M"', "split": 'timestamp = "none", max_line = "64K"',
        }.items()
    )  # fmt: skip
    box = supervisor(text)
    for name in ("plain", "json", "split"):
        box.wait_for(f"{name}: done")
    assert box.stop() == 0
    plain = files_of(supervisor.folder / "plain")
    assert b"".join(plain) == line + b"\nend\n"
    assert max(map(len, plain)) <= 4 << 20
    messages = [json.loads(row)["msg"].encode("utf-8", "surrogateescape") for row in b"".join(files_of(supervisor.folder / "json")).splitlines()]
    assert (b"".join(messages), messages[-1], max(map(len, messages)) <= 1 << 20) == (line + b"end", b"end", True)
    pieces = b"".join(files_of(supervisor.folder / "split")).splitlines()
    assert (b"".join(pieces), max(map(len, pieces)) <= 64 << 10) == (line + b"end", True)


def test_ten_thousand_log_files(supervisor, tmp_path):
    folder = tmp_path / "log/app"
    folder.mkdir(parents=True)
    for number in range(10_000):
        (folder / f"@20260101T{number // 3600:02}{number // 60 % 60:02}{number % 60:02}.000000").write_bytes(b"%05d\n" % number)
    box = supervisor('''
[services.app]
command = ["/bin/sh", "-c", "seq 20000; exec sleep 1000"]
log = { timestamp = "none", max_size = "1K", keep = 10000 }
''')
    box.wait_for("app: ready")
    wait_until(lambda: supervisor.verb("logs", "-n", "1", "app").stdout == "20000\n", "the last line")
    found = supervisor.verb("logs", "-n", "1000000", "app").stdout.split()
    assert len(archives(str(folder))) == 10_000
    new = [str(number) for number in range(1, 20_001)]
    old = len(found) - len(new)
    assert found == [f"{number:05}" for number in range(10_000 - old, 10_000)] + new
    assert 9_800 < old < 9_950
    assert supervisor.verb("logs", "-n", "3", "--grep", "^0.*7$", "app").stdout.split() == ["09977", "09987", "09997"]
    assert box.stop() == 0


def test_five_times_the_rate_of_s6_log():
    """Both stamp lines of 100 bytes, in turns; the best of three, for the machine may have something else to do."""
    sys.path.insert(0, str(REPO / "tests/bench"))
    import logs

    ratios = []
    while len(ratios) < 3 and (not ratios or max(ratios) < 5):
        ratios.append(logs.measure(logs.ours, 256)[0] / logs.measure(logs.theirs, 128)[0])
    assert max(ratios) >= 5, ratios
