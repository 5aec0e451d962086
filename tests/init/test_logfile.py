"""The file of a log: rotation, what a full disk does, what a predecessor left, the archives."""

import gzip
import os
import select
import signal

import pytest
from just_before import just_before

from pyinit.init import archives as archives_module
from pyinit.init import logfile
from pyinit.init.archives import archives, compress
from pyinit.init.journal import Record
from pyinit.init.logfile import LogFile
from pyinit.model import LogSpec

DEADLINE_S = 5.0


def log_in(folder, max_size=1000, keep=100, **keys) -> LogFile:
    return LogFile(str(folder), LogSpec(max_size_bytes=max_size, keep=keep, **keys))


def put(log, data, record=None) -> int:
    return log.put(record or Record(), data, lambda: None)


def files(folder, stream="stdout"):
    names = [*archives(str(folder), stream), archives_module.current_name(stream)]
    return [(folder / name).read_bytes() for name in names]


def test_rotation_is_at_line_ends_and_loses_nothing(tmp_path):
    log = log_in(tmp_path)
    lines = b"".join(b"%06d %s\n" % (n, b"x" * (n % 60)) for n in range(2000))
    for at in range(0, len(lines), 137):  # chunks that end anywhere
        chunk = lines[at : at + 137]
        assert put(log, chunk) == len(chunk)
    found = files(tmp_path)
    assert b"".join(found) == lines
    assert [one for one in found if len(one) > 1000 or not one.endswith(b"\n")] == []
    assert min(len(one) for one in found[:-1]) > 800


def test_no_more_archives_than_asked_for_at_any_time(tmp_path):
    log = log_in(tmp_path, 100, 3)
    most = 0
    for n in range(200):
        put(log, b"line %03d, which is not short\n" % n)
        most = max(most, len(archives(str(tmp_path))))
    assert most == 3
    assert files(tmp_path)[-1].endswith(b"line 199, which is not short\n")


def test_fewer_archives_than_allowed_are_all_kept(tmp_path):
    log = log_in(tmp_path, 100, 10)
    for n in range(18):  # three lines a file
        put(log, b"line %03d, which is not short\n" % n)
    assert len(archives(str(tmp_path))) == 5


def test_all_of_a_log_stays_within_its_total_size(tmp_path):
    log = log_in(tmp_path, 1000, 100, total_size_bytes=4000)
    most = 0
    for n in range(1000):
        put(log, b"%03d %s\n" % (n, b"x" * 45))
        most = max(most, sum(map(len, files(tmp_path))))
    assert 3000 < most <= 4000
    assert len(archives(str(tmp_path))) == 3


def test_a_file_that_is_too_old_is_rotated_with_the_next_line(tmp_path, monkeypatch):
    now = [1_700_000_000 * 10**9]
    monkeypatch.setattr(logfile.time, "time_ns", lambda: now[0])
    log = log_in(tmp_path, max_age_s=60.0)
    put(log, b"one\n")
    now[0] += 59 * 10**9
    put(log, b"two\nhal")
    now[0] += 2 * 10**9
    put(log, b"f\n")  # not in the midst of a line
    put(log, b"three\n")
    assert files(tmp_path) == [b"one\ntwo\nhalf\n", b"three\n"]


def test_the_age_of_a_file_of_before_is_that_of_its_first_line(tmp_path, monkeypatch):
    monkeypatch.setattr(logfile.time, "time_ns", lambda: 1_700_000_100 * 10**9)
    (tmp_path / "current").write_bytes(b"2023-11-14T22:13:20.000000Z old\n")  # 100 s ago
    put(log_in(tmp_path, max_age_s=99.0), b"new\n")
    assert files(tmp_path) == [b"2023-11-14T22:13:20.000000Z old\n", b"new\n"]
    put(log_in(tmp_path, max_age_s=3600.0), b"newer\n")
    assert files(tmp_path)[1] == b"new\nnewer\n"


def test_a_line_without_an_end_does_not_outgrow_the_file(tmp_path):
    log = log_in(tmp_path)
    for _ in range(50):
        put(log, b"x" * 333)
    assert max(len(one) for one in files(tmp_path)) == 1000
    assert b"".join(files(tmp_path)) == b"x" * 333 * 50


def test_it_knows_that_an_earlier_one_ended_in_the_midst_of_a_line(tmp_path):
    put(log_in(tmp_path), b"half a ")
    log = log_in(tmp_path)
    log.look()
    assert log.is_mid_line
    put(log, b"line\n")
    log = log_in(tmp_path)
    log.look()
    assert not log.is_mid_line


def test_a_clock_that_is_set_back_does_not_mix_the_archives_up(tmp_path, monkeypatch):
    clock = iter(range(2_000_000_000_000_000_000, 0, -3_600_000_000_000))
    monkeypatch.setattr(archives_module.time, "time_ns", lambda: next(clock))
    log = log_in(tmp_path, 10)
    for n in range(8):
        put(log, b"line %d\n" % n)
    assert files(tmp_path) == [b"line %d\n" % n for n in range(8)]


def test_the_archives_of_before_are_older_whatever_the_clock_says(tmp_path):
    put(log_in(tmp_path, 10), b"line 0\n")
    (tmp_path / "@21000101T000000.000000.gz").write_bytes(gzip.compress(b"of a clock that was wrong\n"))
    log = log_in(tmp_path, 10)
    for n in range(1, 4):
        put(log, b"line %d\n" % n)
    names = archives(str(tmp_path))
    assert names == ["@21000101T000000.000000.gz", *(f"@21000101T000000.00000{n}" for n in range(1, 4))]
    assert [archives_module.archive_time(name) for name in (names[0], "@x")] == [4_102_444_800_000_000, 0]


def test_one_stream_s_takeover_leaves_the_other_s_copy_alone(tmp_path):
    for name in ("@20200101T000000.000000.gz.7.part", "@20200101T000000.000000.err.gz.8.part"):
        (tmp_path / name).write_bytes(b"half a co")
    with select.epoll() as epoll:
        archives_module.Compressor(epoll, print).take_over(str(tmp_path), "stderr")
    assert os.listdir(tmp_path) == ["@20200101T000000.000000.gz.7.part"]


def test_a_copy_that_a_killed_logger_s_gzip_ends_is_its_own(tmp_path, monkeypatch):
    path, other = tmp_path / "@20200101T000000.000000", tmp_path / "@20200101T000000.000000.gz.1.part"
    path.write_bytes(b"all of it\n")
    other.write_bytes(b"half a co")
    archives_module.compress(str(path))
    assert gzip.decompress((tmp_path / f"{path.name}.gz").read_bytes()) == b"all of it\n"
    assert other.read_bytes() == b"half a co"


def test_a_file_that_was_taken_away_is_begun_anew(tmp_path):
    log = log_in(tmp_path)
    put(log, b"one\n")
    (tmp_path / "current").rename(tmp_path / "mine")
    put(log, b"two\n")
    assert [(tmp_path / name).read_bytes() for name in ("mine", "current")] == [b"one\n", b"two\n"]


def test_two_lives_of_one_service_rotate_one_log(tmp_path):
    logs = log_in(tmp_path, 20), log_in(tmp_path, 20)
    lines = [b"line %d\n" % n for n in range(20)]
    for n, line in enumerate(lines):
        put(logs[n % 3 == 0], line)
    assert b"".join(files(tmp_path)) == b"".join(lines)
    assert max(map(len, files(tmp_path))) <= 20


def test_separate_errors_have_files_of_their_own(tmp_path):
    out, err = log_in(tmp_path, 10), LogFile(str(tmp_path), LogSpec(max_size_bytes=10), "stderr")
    for n in range(3):
        put(out, b"out %d\n" % n)
        put(err, b"err %d\n" % n)
    assert files(tmp_path) == [b"out 0\n", b"out 1\n", b"out 2\n"]
    assert files(tmp_path, "stderr") == [b"err 0\n", b"err 1\n", b"err 2\n"]


def test_what_a_predecessor_had_begun_to_write_is_continued(tmp_path):
    record = Record()
    data = b"a line that is written in two parts\n"
    log = log_in(tmp_path)
    put(log, b"before\n")
    put(log, data, record)
    whole = (tmp_path / "current").read_bytes()
    for cut in range(len(data) + 1):  # it was killed after so many bytes
        os.truncate(tmp_path / "current", len(b"before\n") + cut)
        assert put(log_in(tmp_path), data, record) == len(data)
        assert (tmp_path / "current").read_bytes() == whole


def test_a_predecessor_that_died_in_a_rotation_has_written_nothing_twice(tmp_path, monkeypatch):
    """At each call that touches the folder, once; then another goes on with the record."""
    data = b"".join(b"line number %d\n" % n for n in range(30))  # more than two files
    for number in range(1, 30):
        folder = tmp_path / str(number)
        folder.mkdir()
        record, saved = Record(), []
        left = [number]

        def dying(real, left=left):
            def call(*args, **keys):
                left[0] -= 1
                if not left[0]:
                    raise KeyboardInterrupt
                return real(*args, **keys)

            return call

        with monkeypatch.context() as patch:
            for module, name in ((os, "write"), (os, "rename"), (os, "open"), (os, "unlink")):
                patch.setattr(module, name, dying(getattr(os, name)))
            try:
                log_in(folder, 150).put(record, data, lambda r=record, s=saved: s.append({n: getattr(r, n) for n in r.__slots__}))
            except KeyboardInterrupt:
                pass
        for name, value in (saved[-1] if saved else {}).items():
            setattr(record, name, value)
        assert log_in(folder, 150).put(record, data, lambda: None) == len(data)
        assert b"".join(files(folder)) == data


def test_a_trouble_is_told_once_and_tried_again_after_a_second(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(logfile.time, "monotonic", lambda: now[0])
    log = log_in(tmp_path)
    put(log, b"good\n")
    real, room = os.write, [3]

    def write(fd, data):
        if not room[0]:
            raise OSError(28, "No space left on device")
        count = real(fd, data[: room[0]])
        room[0] -= count
        return count

    with monkeypatch.context() as patch:
        patch.setattr(logfile.os, "write", write)
        assert (put(log, b"lost\n"), log.trouble, log.news) == (3, 28, f"{tmp_path}: No space left on device")
        log.news = ""
        now[0] += 2
        assert (put(log, b"lost\n"), log.news) == (0, "")
    now[0] += 0.5  # too soon to try again
    assert put(log, b"lost\n") == 0
    now[0] += 1
    assert (put(log, b"good again\n"), log.trouble) == (11, 0)
    assert files(tmp_path) == [b"good\nlosgood again\n"]


def test_a_full_disk_costs_the_oldest_archives_first(tmp_path, monkeypatch):
    log = log_in(tmp_path, 10)
    for n in range(4):
        put(log, b"line %d\n" % n)
    real, full = os.write, [2]

    def write(fd, data):
        if full[0]:
            full[0] -= 1
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(logfile.os, "write", write)
    assert put(log, b"x\n") == 2
    assert files(tmp_path) == [b"line 2\n", b"line 3\nx\n"]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (os.mkfifo, "current is no regular file"),
        (lambda path: path.symlink_to(path.parent / "victim"), "Too many levels of symbolic links"),
    ],
)
def test_what_is_in_the_file_s_place_stops_nobody_and_is_not_followed(tmp_path, make, text):
    make(tmp_path / "current")
    log = log_in(tmp_path)
    assert (put(log, b"x\n"), log.news) == (0, f"{tmp_path}: {text}")
    assert not (tmp_path / "victim").exists()


def test_a_compressed_archive_is_whole_and_keeps_mode_and_time(tmp_path):
    path = tmp_path / "@20261124T100000.000000"
    path.write_bytes(b"line\n" * 100_000)
    path.chmod(0o640)
    os.utime(path, ns=(1, 2_000_000_000))
    compress(str(path))
    packed = tmp_path / "@20261124T100000.000000.gz"
    assert os.listdir(tmp_path) == [packed.name]
    assert gzip.decompress(packed.read_bytes()) == b"line\n" * 100_000
    assert (packed.stat().st_mode & 0o777, packed.stat().st_mtime_ns) == (0o640, 2_000_000_000)


def test_a_fifo_in_an_archive_s_place_is_not_waited_for(tmp_path):
    path = tmp_path / "@20261124T100000.000000"
    os.mkfifo(path)
    held = os.fork()
    if held == 0:  # it would wait for ever
        compress(str(path))
        os._exit(0)
    pidfd = os.pidfd_open(held)
    ended = select.select([pidfd], [], [], DEADLINE_S)[0]
    os.close(pidfd)
    os.kill(held, signal.SIGKILL)
    os.waitpid(held, 0)
    assert ended


def test_an_archive_counts_once_whether_it_is_compressed_or_not_yet(tmp_path):
    for name in ("@1", "@1.gz", "@2.gz", "@3", "@3.gz.part", "@2.err", "@4.err.gz", "current", "current.err", "other"):
        (tmp_path / name).touch()
    assert archives(str(tmp_path)) == ["@1", "@2.gz", "@3"]
    assert archives(str(tmp_path), "stderr") == ["@2.err", "@4.err.gz"]


@pytest.fixture
def swapped(tmp_path):
    """A log's folder, one that we have open beside it, and what puts a link to that in its place."""
    log, elsewhere = tmp_path / "log", tmp_path / "elsewhere"
    log.mkdir()
    elsewhere.mkdir()
    fd = os.open(elsewhere, os.O_PATH | os.O_DIRECTORY)

    def swap() -> None:
        os.rename(log, tmp_path / "moved")
        log.symlink_to(f"/proc/self/fd/{fd}")

    yield log, elsewhere, swap
    os.close(fd)


def test_no_file_is_made_where_a_link_leads_that_has_just_taken_the_folders_place(swapped):
    folder, elsewhere, swap = swapped
    with just_before("open", swap, lambda path: str(path).endswith("current")):
        put(log_in(folder), b"x\n")
    assert (os.listdir(elsewhere), os.listdir(folder.parent / "moved")) == ([], ["current"])


@pytest.mark.parametrize("event", ["os.rename", "os.remove"])
def test_no_rotation_takes_place_where_such_a_link_leads(swapped, event):
    folder, elsewhere, swap = swapped
    old = "@20261124T100000.000000"
    for place in (folder, elsewhere):
        (place / old).write_text("old\n")
        (place / "current").write_text("mine\n")
    log = log_in(folder, max_size=10, keep=1)
    with just_before(event, swap):
        put(log, b"a line\n")
    assert {path.name: path.read_text() for path in elsewhere.iterdir()} == {old: "old\n", "current": "mine\n"}


def test_no_archive_is_compressed_where_such_a_link_leads(swapped):
    folder, elsewhere, swap = swapped
    name = "@20261124T100000.000000"
    for place in (folder, elsewhere):
        (place / name).write_text(f"{place.name}\n")
    with just_before("open", swap, lambda path: str(path).endswith(name)):
        compress(f"{folder}/{name}")
    assert (os.listdir(elsewhere), os.listdir(folder.parent / "moved")) == ([name], [f"{name}.gz"])
