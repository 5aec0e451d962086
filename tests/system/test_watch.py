"""`pyinit status --watch` at a real terminal, and away from one."""

import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

import pytest
from conftest import DEADLINE_S, REPO, verb, wait_until

SERVICES = """
[services.app]
command = "sleep 1000"
[services.other]
command = "sleep 1000"
"""
END = "pyinit: the pyinit that was watched has ended"


class Screen:
    """As much of a terminal as the program uses; what it does not know is an error."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.lines = [""]
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        for part in re.findall(r"\x1b\[\??[0-9;]*[A-Za-z]|[^\x1b]", text):
            self._take(part)

    def _take(self, part: str) -> None:
        if part == "\n":
            self.row, self.column = self.row + 1, 0  # the line discipline sends \r\n
            self.lines += [""] * (self.row + 1 - len(self.lines))
        elif part == "\r":
            self.column = 0
        elif len(part) == 1:
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + part + line[self.column + 1 :]
            self.column += 1
            assert self.column <= self.columns, "a line is wider than the terminal"
        elif part == "\x1b[K":
            self.lines[self.row] = self.lines[self.row][: self.column]
        elif part == "\x1b[J":
            self.lines[self.row :] = [self.lines[self.row][: self.column]]
        elif part == "\x1b[H":
            self.row = self.column = 0
        elif part == "\x1b[2J":
            self.lines = [""] * len(self.lines)
        elif part.endswith("A"):
            self.row -= int(part[2:-1])
            assert self.row >= 0, "above the screen"
        else:
            assert part.endswith("m") or part in ("\x1b[?7l", "\x1b[?7h"), repr(part)


class Terminal:
    """The verb at a pty of its own."""

    def __init__(self, socket: str, *words: str, columns: int = 80, rows: int = 24) -> None:
        self.pid, self.main = pty.fork()
        if self.pid == 0:
            os.chdir(REPO)
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
            os.execv(sys.executable, [sys.executable, "-m", "pyinit", "status", "--watch", "--socket", socket, *words])
        self.screen = Screen(columns, rows)
        self.text = ""

    def resize(self, columns: int, rows: int) -> None:
        self.screen.columns, self.screen.rows = columns, rows
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def read(self, timeout_s: float) -> bool:
        if not select.select([self.main], [], [], max(0.0, timeout_s))[0]:
            return False
        try:
            data = os.read(self.main, 1 << 16).decode()
        except OSError:  # EIO: nobody has the other side any more
            return False
        self.text += data
        self.screen.feed(data)
        return True

    def until(self, pattern: str) -> list[str]:
        """The lines of the screen once they look like that as a whole."""
        deadline = time.monotonic() + DEADLINE_S
        while not re.fullmatch(pattern, "\n".join(self.screen.lines)):
            assert self.read(deadline - time.monotonic()), f"not {pattern!r} but {self.screen.lines}"
        return self.screen.lines

    def wait(self) -> int:
        deadline = time.monotonic() + DEADLINE_S
        while self.read(deadline - time.monotonic()):
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        """Its terminal goes away, and it with that."""
        os.close(self.main)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


@pytest.fixture
def box(bench, tmp_path):
    head = f'[init]\nstate_dir = "{tmp_path}/state"\nlog_dir = "{tmp_path}/log"\ncontrol_socket = "{tmp_path}/s"\n'
    box = bench.start(head + SERVICES)
    box.wait_for("other: ready")
    box.socket = f"{tmp_path}/s"
    box.verb = lambda *words: verb(words[0], "--socket", box.socket, *words[1:])
    return box


@pytest.fixture
def terminal(box):
    found = []

    def start(*words: str, **keys) -> Terminal:
        found.append(Terminal(box.socket, *words, **keys))
        return found[-1]

    yield start
    for one in found:
        one.close()


HEAD = "NAME   STATE( *)PID( *)UPTIME  RESTARTS  REASON\n"
READY = r"{} *ready +[0-9]+ +[0-9.]+s +{}\n"
STOPPED = r"{} *stopped +- +- +0 +stop requested\n"


def test_it_draws_in_place_and_leaves_at_ctrl_c(box, terminal):
    watch = terminal()
    watch.until(HEAD + READY.format("app", 0) + READY.format("other", 0))
    assert box.verb("stop", "app").returncode == 0
    watch.until(HEAD + STOPPED.format("app") + READY.format("other", 0))
    assert box.verb("start", "app").returncode == 0
    watch.until(HEAD + READY.format("app", 0) + READY.format("other", 0))
    assert "\x1b[32mready  \x1b[0m" in watch.text
    uptime = watch.screen.lines[2]
    while watch.screen.lines[2] == uptime:  # a clock of its own: nothing happens
        assert watch.read(DEADLINE_S)
    os.write(watch.main, b"\x03")
    assert watch.wait() == 130
    # No ^C in the table, which stays, and no mode of the terminal is left changed.
    assert re.fullmatch(HEAD + READY.format("app", 0) + READY.format("other", 0), "\n".join(watch.screen.lines))
    assert watch.text.count("\x1b[?7l") == watch.text.count("\x1b[?7h")
    assert "\x1b[?1049h" not in watch.text
    assert "\x1b[?25l" not in watch.text
    assert box.stop() == 0


def test_it_fits_a_small_terminal_and_one_that_changes_its_size(box, terminal):
    watch = terminal(columns=20, rows=3)
    watch.until("NAME   STATE  PID .*\n\\.\\.\\. 2 more: name tho\n")
    watch.resize(80, 24)
    watch.until(HEAD + READY.format("app", 0) + READY.format("other", 0))
    assert box.stop() == 0


def test_it_ends_with_pyinit(box, terminal):
    watch = terminal("app")
    watch.until("NAME  STATE( *)PID( *)UPTIME  RESTARTS  REASON\n" + READY.format("app", 0))
    assert box.verb("shutdown").returncode == 0
    assert watch.wait() == 3
    assert watch.screen.lines[-2:] == [END, ""]
    assert box.wait() == 0


@contextlib.contextmanager
def client(box, *words: str):
    """It does not outlive a test that fails."""
    command = [sys.executable, "-m", "pyinit", "status", "--watch", "--socket", box.socket, *words]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_away_from_a_terminal_a_table_for_each_change(box):
    with client(box) as watch:
        first = [watch.stdout.readline() for _ in range(3)]
        assert re.fullmatch(HEAD + READY.format("app", 0) + READY.format("other", 0), "".join(first))
        assert box.verb("stop", "app").returncode == 0
        seen = ""
        while not re.search("\n" + HEAD + STOPPED.format("app") + READY.format("other", 0) + "$", seen):
            seen += watch.stdout.readline()
        assert seen.count("NAME") <= 3  # at "stopping", "cleaning" and "stopped" if they are far apart, and at no other time
        assert box.stop() == 0
        assert watch.wait(DEADLINE_S) == 3
        assert watch.stderr.read() == END + "\n"


def test_with_json_a_line_for_each_change_of_what_is_named(box):
    with client(box, "--json", "other") as watch:
        assert [(one["name"], one["state"]) for one in json.loads(watch.stdout.readline())["services"]] == [("other", "ready")]
        assert box.verb("restart", "app").returncode == 0  # nothing to tell
        assert box.verb("stop", "other").returncode == 0
        states = [""]
        while states[-1] != "stopped":
            found = json.loads(watch.stdout.readline())
            assert sorted(found) == ["init", "services"]
            states += [one["state"] for one in found["services"]]
        assert set(states) <= {"", "stopping", "cleaning", "stopped"}
        assert box.stop() == 0
        assert watch.wait(DEADLINE_S) == 3


def test_it_leaves_with_its_reader_and_what_is_unknown_is_told(box):
    with client(box) as watch:
        watch.stdout.readline()
        watch.stdout.close()
        assert (watch.wait(DEADLINE_S), watch.stderr.read()) == (0, "")
    done = box.verb("status", "--watch", "ap")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "pyinit: ap: no such service; did you mean app?\n")
    assert box.stop() == 0
    done = box.verb("status", "--watch")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", f"pyinit: no pyinit listens on {box.socket}: it does not run\n")


def test_pyinit_sleeps_while_nothing_happens(box):
    """Away from a terminal there is no clock: PID 1 is asked when there is something to ask for."""
    place = pathlib.Path(f"/proc/{box.process.pid}")

    def sleeps(connections: int) -> bool:
        return "State:\tS" in (place / "status").read_text() and len(os.listdir(place / "fd")) == before + connections

    def turns() -> str:
        return next(line for line in (place / "status").read_text().splitlines() if line.startswith("voluntary_ctxt_switches"))

    before = len(os.listdir(place / "fd"))
    with client(box) as watch:
        for _ in range(3):
            watch.stdout.readline()
        wait_until(lambda: sleeps(1), "only the connection of the events is left")
        slept = turns()
        assert not select.select([watch.stdout], [], [], 2.5)[0]
        assert turns() == slept
    assert box.stop() == 0
