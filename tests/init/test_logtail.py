"""Reading a log across its archives."""

import gzip
import os
import re

import pytest

from pyinit.init.archives import archives
from pyinit.init.journal import Record
from pyinit.init.logfile import LogFile
from pyinit.init.logtail import Past, Wanted
from pyinit.model import LogSpec


def log_in(folder, max_size=200_000, keep=10) -> LogFile:
    return LogFile(str(folder / "app"), LogSpec(max_size_bytes=max_size, keep=keep))


def put(log, data):
    log.put(Record(), data, lambda: None)


class Reader:
    """A Past of all that is there now."""

    def __init__(self, folder, log, stream="stdout"):
        self.dir = os.open(folder, os.O_RDONLY)
        self.past = Past(self.dir, "app", stream, *log.mark())

    def read(self, *args, **keys) -> list[bytes]:
        try:
            return [line.text for line in self.past.lines(Wanted(*args, **keys))]
        finally:
            self.past.close()
            os.close(self.dir)


@pytest.fixture
def ten_thousand(tmp_path):
    """Some archives are compressed, the newest two are not."""
    lines = [b"%05d %s" % (n, b"y" * (n % 90)) for n in range(10_000)]
    log = log_in(tmp_path, 100_000)
    for at in range(0, 10_000, 100):
        put(log, b"".join(line + b"\n" for line in lines[at : at + 100]))
    names = archives(str(tmp_path / "app"))
    assert len(names) >= 4
    for name in names[:-2]:
        path = tmp_path / "app" / name
        (tmp_path / "app" / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return log, lines


@pytest.mark.parametrize("count", [0, 1, 2, 10, 999, 4000, 9_999, 10_000, 10_001, 1_000_000, -1])
def test_the_last_lines_through_the_archives(tmp_path, ten_thousand, count):
    log, lines = ten_thousand
    assert Reader(tmp_path, log).read(count) == (lines[-count:] if count > 0 else lines if count else [])


def test_lines_that_match_all_or_the_last_of_them(tmp_path, ten_thousand):
    log, lines = ten_thousand
    match = re.compile(b"7 ").search
    expected = [line for line in lines if line[4:6] == b"7 "]
    assert Reader(tmp_path, log).read(-1, 0, match) == expected
    assert Reader(tmp_path, log).read(3, 0, match) == expected[-3:]


def test_a_line_that_is_not_finished_is_left_over(tmp_path):
    log = log_in(tmp_path)
    put(log, b"one\ntwo\nhal")
    for last, lines in ((2, [b"two"]), (1, []), (0, []), (-1, [b"one", b"two"])):
        reader = Reader(tmp_path, log)
        assert (reader.read(last), reader.past.rest) == (lines, b"hal")


@pytest.mark.parametrize("again", [False, True])
def test_the_archives_of_a_log_whose_current_file_was_taken_away(tmp_path, again):
    log = log_in(tmp_path, 10)
    for number in range(3):
        put(log, b"line %d\n" % number)
    (tmp_path / "app/current").unlink()
    reader = Reader(tmp_path, log_in(tmp_path) if again else log)
    assert reader.past.is_whole
    assert reader.read() == [b"line 0", b"line 1"]


def test_no_log_has_no_lines(tmp_path):
    assert Reader(tmp_path, log_in(tmp_path)).read(5) == []


def test_a_rotation_takes_nothing_from_a_reader_and_what_is_newer_is_not_past(tmp_path):
    log = log_in(tmp_path, 100, 5)
    put(log, b"old\n")
    mark = log.mark()
    folder = os.open(tmp_path, os.O_RDONLY)
    for n in range(20):
        put(log, b"new %d\n" % n)
    past = Past(folder, "app", "stdout", *mark)
    for n in range(20):
        put(log, b"newer %d\n" % n)
    assert [line.text for line in past.lines(Wanted())] == [b"old"]
    past.close()
    os.close(folder)


def test_an_archive_that_is_compressed_or_removed_in_between(tmp_path):
    log = log_in(tmp_path, 20, 5)
    for n in range(4):
        put(log, b"a line, number %d\n" % n)
    reader = Reader(tmp_path, log)
    first, second, _ = archives(str(tmp_path / "app"))
    (tmp_path / "app" / first).unlink()
    data = (tmp_path / "app" / second).read_bytes()
    (tmp_path / "app" / second).unlink()
    (tmp_path / "app" / f"{second}.gz").write_bytes(gzip.compress(data))
    assert reader.read(-1) == [b"a line, number %d" % n for n in (1, 2, 3)]


def test_since_a_time_with_lines_that_have_no_stamp_of_their_own(tmp_path):
    log = log_in(tmp_path)
    put(log, b"2026-11-24T10:00:00.000000Z early\nmore of it\n2026-11-24T10:00:01.500000Z late\n  its trace\n")
    put(log, b"@400000006a1e28f000000000 earlier, in another stamp\n")
    at = 1_795_514_401_000_000_000  # 10:00:01
    assert Reader(tmp_path, log).read(-1, at) == [b"2026-11-24T10:00:01.500000Z late", b"  its trace"]


def test_since_a_time_without_any_stamp_goes_by_the_files(tmp_path):
    log = log_in(tmp_path, 20, 5)
    put(log, b"a line of yesterday\n")
    put(log, b"one of today\n")
    [old] = archives(str(tmp_path / "app"))
    at = 1_700_000_000
    os.utime(tmp_path / "app" / old, (at, at))
    os.rename(tmp_path / "app" / old, tmp_path / "app/@20231114T221320.000000")
    assert Reader(tmp_path, log).read(-1, (at + 1) * 10**9) == [b"one of today"]
    assert Reader(tmp_path, log).read(-1, (at - 1) * 10**9) == [b"a line of yesterday", b"one of today"]


def test_nothing_is_followed_out_of_the_folder(tmp_path):
    log = log_in(tmp_path)
    put(log, b"mine\n")
    mark = log.mark()
    (tmp_path / "secret").write_text("secret\n")
    os.unlink(tmp_path / "app/current")
    (tmp_path / "app/current").symlink_to(tmp_path / "secret")
    folder = os.open(tmp_path, os.O_RDONLY)
    assert list(Past(folder, "app", "stdout", *mark).lines(Wanted())) == []
    (tmp_path / "elsewhere").symlink_to(tmp_path / "app")
    assert list(Past(folder, "elsewhere", "stdout", *mark).lines(Wanted())) == []
    os.close(folder)


def test_a_damaged_archive_gives_what_is_whole(tmp_path):
    log = log_in(tmp_path)
    put(log, b"current\n")
    whole = gzip.compress(b"".join(b"%05d\n" % n for n in range(100_000)))
    (tmp_path / "app/@20260101T000000.000000.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "app/@20260102T000000.000000.gz").write_bytes(b"no gzip at all")
    lines = Reader(tmp_path, log).read(-1)
    assert lines[0] == b"00000"
    assert len(lines) > 10_000
    assert lines[-1].endswith(b"current")
