"""One stream through a logger that may die before any of its steps: the journal, the spool, the box."""

import json
import os
import re

import pytest

from pyinit.init import journal, logstream, outlet, spool
from pyinit.init.archives import archives
from pyinit.init.journal import Journal, Record
from pyinit.init.logstream import Sinks, Source, Stream
from pyinit.init.outlet import Outlet
from pyinit.init.render import split_long
from pyinit.model import LogSpec

STAMP = re.compile(rb"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z ", re.MULTILINE)
CALLS = ("splice", "pread", "pwrite", "write", "open", "rename", "unlink", "sendfile", "ftruncate", "lseek")


class Killed(BaseException):
    """As SIGKILL: nothing of the logger runs after it."""


class World:
    """What PID 1 keeps; `logger()` is one more process's view of it."""

    def __init__(self, folder, spec: LogSpec) -> None:
        self.folder = folder
        self.spec = spec
        self.journal_fd = journal.create()
        journal.clear(self.journal_fd, 0)
        self.pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.spool_fd = spool.create()
        self.boxes = outlet.create(), outlet.create()
        self.shown = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.seen: list[str] = []
        self.published = b""
        self.last: Logger | None = None

    def logger(self) -> "Logger":
        """The one before is dead."""
        if self.last is not None:
            self.last.close()
            self.last = None
        self.last = Logger(self)
        return self.last

    def log(self, stream: str = "stdout") -> bytes:
        folder = self.folder / "app"
        names = [*archives(str(folder)), "current"] if folder.exists() else []
        return b"".join((folder / name).read_bytes() for name in names)

    def terminal(self) -> bytes:
        try:
            return os.read(self.shown[0], 1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """May be done twice."""
        if self.last is not None:
            self.last.close()
            self.last = None
        for fd in (self.journal_fd, *self.pipe, self.spool_fd, *self.boxes, *self.shown):
            if fd >= 0:
                os.close(fd)
        self.journal_fd = self.spool_fd = -1
        self.pipe = self.boxes = self.shown = (-1, -1)


class Logger:
    def __init__(self, world: World) -> None:
        self.world = world
        self.outlet = Outlet(world.shown[1], world.boxes[0])
        sinks = Sinks({1: self.outlet, 2: self.outlet}, world.seen.append, self.publish, lambda name: f"{name}: ".encode())
        source = Source("app", "stdout", world.pipe[0], world.spool_fd, 0, world.spec)
        self.journal = Journal(world.journal_fd)
        self.stream = Stream(source, str(world.folder), self.journal, sinks, lambda _: None)

    def publish(self, source: Source, data: bytes, mark: tuple[int, int]) -> None:
        self.world.published += data

    def close(self) -> None:
        self.stream.close()
        self.journal._map.close()
        if self.outlet._fd != self.world.shown[1]:
            os.close(self.outlet._fd)

    def work(self) -> None:
        """All that can be done now."""
        self.advance()
        while True:
            try:
                count = self.stream.spool.fill(self.world.pipe[0])
            except BlockingIOError:
                return
            self.stream.has_ended = not count
            self.advance()
            if not count:
                return

    def advance(self) -> None:
        self.outlet.send()
        while self.stream.step():
            self.outlet.send()
        self.outlet.send()


@pytest.fixture
def make(tmp_path):
    worlds = []

    def world(**keys) -> World:
        worlds.append(World(tmp_path / str(len(worlds)), LogSpec(**keys)))
        return worlds[-1]

    yield world
    for one in worlds:
        one.close()


TEXT = b"".join(b"%03d %s\n" % (n, b"y" * (n % 40)) for n in range(24))
SPECS = {
    "plain": {"timestamp": "none", "max_size_bytes": 150, "keep": 100},
    "stamped": {"max_size_bytes": 300, "keep": 100},
    "json": {"format": "json", "max_size_bytes": 700, "keep": 100},
    "echoed": {"timestamp": "none", "max_size_bytes": 150, "keep": 100, "echo": True},
    "stdout": {"to": "stdout", "timestamp": "none"},
    "rated": {"timestamp": "none", "rate": 1, "rate_burst": 7, "max_size_bytes": 150, "keep": 100},
    "split": {"timestamp": "none", "max_line_bytes": 16, "echo": True},
    "json on stdout": {"to": "stdout", "format": "json"},
}


def fill(terminal: int) -> None:
    with pytest.raises(BlockingIOError):
        while True:
            os.write(terminal, b"z" * 4096)


def stand_still(world: World) -> None:
    """The terminal is full, and so is the box."""
    fill(world.shown[1])
    os.write(world.pipe[1], b"zero\n")
    world.logger().work()


def mortal(monkeypatch, step: int):
    """The call number `step` of those that matter does not come back; half of a write may have been done."""
    left = [step]

    def dying(real, name):
        def call(*args, **keys):
            left[0] -= 1
            if left[0] == 0:
                if name in ("write", "pwrite") and step % 2:
                    real(args[0], args[1][: len(args[1]) // 2], *args[2:])
                raise Killed
            return real(*args, **keys)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, dying(getattr(os, name), name))
    real_save = Journal.save

    def save(self, slot: int, record: Record) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        real_save(self, slot, record)

    monkeypatch.setattr(Journal, "save", save)


@pytest.fixture
def small(monkeypatch):
    """Many chunks, many rewinds."""
    monkeypatch.setattr(spool, "CHUNK", 97)
    monkeypatch.setattr(logstream, "CHUNK", 97)
    monkeypatch.setattr(spool, "_CALM", 200)


@pytest.mark.parametrize("kind", SPECS)
def test_a_death_before_any_step_loses_nothing_and_doubles_nothing(make, monkeypatch, small, kind):
    """A logger dies at its call 1, 2, 3, ... of all; its successor a few calls later; a last one goes on to the end."""
    deaths = 0
    for step in range(1, 2000):
        world = make(**SPECS[kind])
        os.write(world.pipe[1], TEXT)
        os.close(world.pipe[1])
        world.pipe = (world.pipe[0], -1)
        died = dies(monkeypatch, world, step)
        dies(monkeypatch, world, step % 23 + 1)
        world.logger().work()
        check(world, kind)
        world.close()
        deaths += died
        if not died:
            break
    assert deaths > 60


def dies(monkeypatch, world: World, step: int) -> bool:
    with monkeypatch.context() as patch:
        mortal(patch, step)
        try:
            world.logger().work()
        except Killed:
            return True
    return False


def check(world: World, kind: str) -> None:
    if kind == "rated":
        check_rated(world.log().splitlines(keepends=True))
        return
    if kind == "split":
        pieces = split_long(TEXT, 16)
        assert (world.log(), world.terminal()) == (pieces, b"".join(b"app: " + line for line in pieces.splitlines(keepends=True)))
        return
    if kind == "json on stdout":
        assert b"".join(json.loads(line)["msg"].encode() + b"\n" for line in world.terminal().splitlines()) == TEXT
        return
    if kind == "json":
        assert b"".join(json.loads(line)["msg"].encode() + b"\n" for line in world.log().splitlines()) == TEXT
    elif kind != "stdout":
        assert STAMP.sub(b"", world.log()) == TEXT
        assert [line for line in world.log().splitlines() if bool(STAMP.match(line)) != (kind == "stamped")] == []
    if kind in ("echoed", "stdout"):
        assert world.terminal() == b"".join(b"app: " + line for line in TEXT.splitlines(keepends=True))


def check_rated(lines: list[bytes]) -> None:
    """Each line was written or counted, in order."""
    texts = TEXT.splitlines(keepends=True)
    at = 0
    for line in lines:
        if line.startswith(b"pyinit: "):
            at += int(line.split()[1])
        else:
            assert line == texts[at]
            at += 1
    assert at == len(texts)


def test_a_partial_line_is_in_the_file_at_once_and_shown_when_it_is_whole(make):
    world = make(timestamp="none", echo=True)
    logger = world.logger()
    os.write(world.pipe[1], b"one\ntw")
    logger.work()
    assert (world.log(), world.terminal()) == (b"one\ntw", b"app: one\n")
    logger = world.logger()  # another, by the way
    os.write(world.pipe[1], b"o\n")
    logger.work()
    assert (world.log(), world.terminal()) == (b"one\ntwo\n", b"app: two\n")


def test_half_a_line_of_an_earlier_life_gets_its_end_before_ours(make):
    world = make(timestamp="none")
    (world.folder / "app").mkdir(parents=True)
    (world.folder / "app/current").write_bytes(b"it crash")
    os.write(world.pipe[1], b"up again\n")
    world.logger().work()
    assert world.log() == b"it crash\nup again\n"


def test_what_a_full_disk_refuses_is_counted_and_said_once_it_takes_something(make, monkeypatch):
    world = make(timestamp="none")
    logger = world.logger()
    now = [100.0]
    monkeypatch.setattr("pyinit.init.logfile.time.monotonic", lambda: now[0])

    def say(data: bytes) -> None:
        os.write(world.pipe[1], data)
        logger.work()

    say(b"good\nhalf")
    real, room, file_fd = os.write, [3], logger.stream.file._fd

    def write(fd, data):
        if fd != file_fd:
            return real(fd, data)
        if not room[0]:
            raise OSError(28, "No space left on device")
        count = real(fd, data[: room[0]])
        room[0] -= count
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        say(b" line\n")
    assert logger.stream.file.news == f"{world.folder}/app: No space left on device"
    say(b"lost\n")
    now[0] += 2
    say(b"good again\n")
    lost = len(b"ne\n") + len(b"lost\n")
    assert world.log() == b"good\nhalf li\npyinit: %d bytes were lost here: No space left on device\ngood again\n" % lost


def test_a_terminal_that_stands_still_keeps_its_service_s_lines_and_then_its_file_goes_on_alone(make):
    world = make(timestamp="none", echo=True)
    logger = world.logger()
    fill(world.shown[1])
    line = b"a line of some length that nobody reads\n"
    for _ in range(40):
        os.write(world.pipe[1], line * 1000)
        logger.work()
    assert logger.stream.waits_for is not None
    assert len(world.log()) > len(line) * 1000
    shown = b""
    while piece := world.terminal():
        shown += piece
        logger.work()
    assert world.log() == line * 40_000
    lines = shown.lstrip(b"z").splitlines(keepends=True)
    told = next(line for line in lines if line.startswith(b"app: pyinit: "))
    unshown = int(told.split()[2])
    assert told == b"app: pyinit: %d lines are in its log only\n" % unshown
    assert [one for one in lines if one != told] == [b"app: " + line] * (40_000 - unshown)


@pytest.mark.parametrize("to", ["file", "stdout"])
def test_what_waits_for_a_terminal_is_said_once_to_those_who_follow_over_another_logger(make, to):
    world = make(to=to, timestamp="none", echo=to == "file")
    stand_still(world)
    os.write(world.pipe[1], b"one\ntwo\n")
    for _ in range(3):
        logger = world.logger()
        logger.work()
        assert logger.stream.waits_for is not None
        assert world.published == b"zero\none\ntwo\n"
    shown = world.terminal()
    logger.work()
    os.write(world.pipe[1], b"three\n")
    logger.work()
    assert world.published == b"zero\none\ntwo\nthree\n"
    assert world.log() == (world.published if to == "file" else b"")
    assert (shown + world.terminal()).strip(b"z") == b"app: zero\napp: one\napp: two\napp: three\n"


def test_who_hurries_waits_for_no_terminal_any_more(make):
    world = make(timestamp="none", echo=True)
    stand_still(world)
    os.write(world.pipe[1], b"one\n")
    logger = world.logger()
    logger.work()
    assert logger.stream.waits_for is not None
    logger.stream.hurries = True
    logger.work()
    assert logger.stream.waits_for is None
    assert world.log() == b"zero\none\n"


def test_what_waits_for_a_terminal_goes_to_the_file_that_the_next_config_wants(make):
    world = make(to="stdout", timestamp="none")
    stand_still(world)
    os.write(world.pipe[1], b"one\n")
    world.logger().work()
    world.spec = LogSpec(timestamp="none")
    world.logger().work()
    assert world.log() == b"one\n"


def test_those_who_follow_a_killed_logger_s_successor_hear_what_is_not_in_the_file_yet(make, monkeypatch):
    world = make(timestamp="none", max_size_bytes=20)
    os.write(world.pipe[1], b"in the file\nin the next one\n")
    rename = os.rename

    def die(*names: str, **folders: int) -> None:
        rename(*names, **folders)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", die)
        with pytest.raises(Killed):
            world.logger().work()
    world.logger().work()
    assert world.published == b"in the next one\n"
    assert world.log() == b"in the file\nin the next one\n"


def test_a_waited_for_line_is_seen_once_and_by_a_successor_if_need_be(make):
    world = make(timestamp="none")
    logger = world.logger()
    logger.stream.expect("^listening on [0-9]+$")
    os.write(world.pipe[1], b"not listening on 80\nlisten")
    logger.work()
    assert world.seen == []
    logger = world.logger()
    logger.stream.expect("^listening on [0-9]+$")
    os.write(world.pipe[1], b"ing on 80\nlistening on 81\n")
    logger.work()
    assert world.seen == ["app"]


def test_more_lines_than_the_rate_are_suppressed_counted_and_said(make, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("pyinit.init.logstream.time.monotonic", lambda: now[0])
    world = make(timestamp="none", rate=2, rate_burst=4)
    logger = world.logger()

    def say(count: int) -> None:
        os.write(world.pipe[1], b"line\n" * count)
        logger.work()

    say(10)
    assert (world.log(), logger.stream.suppressed) == (b"line\n" * 4, 6)
    now[0] += 1.0
    say(3)
    word = b"pyinit: 6 lines were suppressed: more than 2 a second\n"
    assert (world.log(), logger.stream.suppressed) == (b"line\n" * 4 + word + b"line\n" * 2, 1)
    logger.stream.say_suppressed()
    assert world.log().endswith(b"line\npyinit: 1 line was suppressed: more than 2 a second\n")
    assert world.published == world.log()


def test_an_endless_line_is_cut_where_lines_are_whole_and_not_where_they_are_not(make):
    for keys, expected in (({}, b"x" * 300_000), ({"max_line_bytes": 100_000}, (b"x" * 100_000 + b"\n") * 3)):
        world = make(timestamp="none", **keys)
        logger = world.logger()
        for _ in range(5):
            os.write(world.pipe[1], b"x" * 60_000)
            logger.work()
        os.close(world.pipe[1])
        world.pipe = (world.pipe[0], -1)
        logger.work()
        assert world.log() == expected + (b"\n" if not keys else b"")


def test_a_quiet_stream_keeps_little_memory(make):
    world = make(timestamp="none")
    logger = world.logger()
    for _ in range(1000):
        os.write(world.pipe[1], b"z" * 999 + b"\n")
        logger.work()
        assert os.fstat(world.spool_fd).st_size <= 1 << 15
