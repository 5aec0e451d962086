"""The file of a log: stamps, rotation, what a full disk does, the way back."""

import os

import pytest

from pyinit.init import logfile
from pyinit.init.logfile import LogFile, Marker, archives
from pyinit.init.logtail import Tail

NO_SPACE = OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("chunks", "out"),
    [
        ([b"a\n"], b">a\n"),
        ([b"a\nb\n"], b">a\n>b\n"),
        ([b"a", b"b\nc", b"\n", b"d\n"], b">ab\n>c\n>d\n"),
        ([b"\n\n", b"\n"], b">\n>\n>\n"),
        ([b"a\r\nb"], b">a\r\n>b"),
    ],
)
def test_each_line_is_marked_once_however_it_is_cut(chunks, out):
    marker = Marker()
    assert b"".join(marker.apply(chunk, b">") for chunk in chunks) == out


def test_a_stamp_is_utc_with_microseconds(monkeypatch):
    monkeypatch.setattr(logfile.time, "time_ns", lambda: 1_700_000_000_000_042_999)
    assert logfile.stamp() == b"2023-11-14T22:13:20.000042Z "


def files(folder):
    return [(folder / name).read_bytes() for name in [*archives(str(folder)), "current"]]


def test_rotation_is_at_line_ends_and_loses_nothing(tmp_path):
    log = LogFile(str(tmp_path), 1000, 100)
    lines = b"".join(b"%06d %s\n" % (n, b"x" * (n % 60)) for n in range(2000))
    for at in range(0, len(lines), 137):  # chunks that end anywhere
        assert log.write(lines[at : at + 137]) == ""
    found = files(tmp_path)
    assert b"".join(found) == lines
    assert [one for one in found if len(one) > 1000 or not one.endswith(b"\n")] == []
    assert min(len(one) for one in found[:-1]) > 800


def test_no_more_archives_than_asked_for_at_any_time(tmp_path):
    log = LogFile(str(tmp_path), 100, 3)
    most = 0
    for n in range(200):
        log.write(b"line %03d, which is not short\n" % n)
        most = max(most, len(archives(str(tmp_path))))
    assert most == 3
    assert files(tmp_path)[-1].endswith(b"line 199, which is not short\n")


def test_fewer_archives_than_allowed_are_all_kept(tmp_path):
    log = LogFile(str(tmp_path), 100, 10)
    for n in range(18):  # three lines a file
        log.write(b"line %03d, which is not short\n" % n)
    assert len(archives(str(tmp_path))) == 5


def test_a_line_without_an_end_does_not_outgrow_the_file(tmp_path):
    log = LogFile(str(tmp_path), 1000, 100)
    for _ in range(50):
        log.write(b"x" * 333)
    assert max(len(one) for one in files(tmp_path)) == 1000
    assert b"".join(files(tmp_path)) == b"x" * 333 * 50


def test_it_goes_on_where_an_earlier_one_ended(tmp_path):
    LogFile(str(tmp_path), 1000, 3).write(b"half a ")
    log = LogFile(str(tmp_path), 1000, 3)
    assert log.is_mid_line()
    log.write(b"line\n")
    assert files(tmp_path) == [b"half a line\n"]
    assert not LogFile(str(tmp_path), 1000, 3).is_mid_line()


def test_a_clock_that_is_set_back_does_not_mix_the_archives_up(tmp_path, monkeypatch):
    clock = iter(range(2_000_000_000_000_000_000, 0, -3_600_000_000_000))
    monkeypatch.setattr(logfile.time, "time_ns", lambda: next(clock))
    log = LogFile(str(tmp_path), 10, 100)
    for n in range(8):
        log.write(b"line %d\n" % n)
    assert files(tmp_path) == [b"line %d\n" % n for n in range(8)]


def test_a_trouble_is_told_once_and_counted_in_the_log(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(logfile.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(logfile, "stamp", lambda: b"T ")
    log = LogFile(str(tmp_path), 1000, 3)
    log.write(b"good\nhalf")
    real = os.write
    room = [3]

    def write(fd, data):
        if not room[0]:
            raise NO_SPACE
        count = real(fd, data[: room[0]])
        room[0] -= count
        return count

    with monkeypatch.context() as patch:
        patch.setattr(logfile.os, "write", write)
        assert log.write(b" line\n") == f"{tmp_path}: No space left on device"
        now[0] += 2
        assert log.write(b"lost\n") == ""
        now[0] += 0.5  # too soon to try again
        assert log.write(b"this, too\n") == ""
    now[0] += 1
    assert log.write(b"good again\n") == ""
    lost = len(b"ne\n") + len(b"lost\n") + len(b"this, too\n")
    notice = f"T {lost} bytes were lost here: {tmp_path}: No space left on device\n".encode()
    assert files(tmp_path) == [b"good\nhalf li\n" + notice + b"good again\n"]


def test_a_fifo_in_the_file_s_place_stops_nobody(tmp_path):
    os.mkfifo(tmp_path / "current")
    assert LogFile(str(tmp_path), 1000, 3).write(b"x\n") == f"{tmp_path}: current is no regular file"


def test_a_link_in_the_file_s_place_is_not_followed(tmp_path):
    (tmp_path / "current").symlink_to(tmp_path / "victim")
    assert LogFile(str(tmp_path), 1000, 3).write(b"x\n") == f"{tmp_path}: Too many levels of symbolic links"
    assert not (tmp_path / "victim").exists()


def read(tail):
    out = b""
    while piece := tail.read():
        out += piece
    return out


@pytest.fixture
def ten_thousand(tmp_path):
    lines = [b"%05d %s\n" % (n, b"y" * (n % 90)) for n in range(10_000)]
    log = LogFile(str(tmp_path), 200_000, 10)
    for at in range(0, 10_000, 100):
        log.write(b"".join(lines[at : at + 100]))
    assert len(archives(str(tmp_path))) >= 2
    return lines


@pytest.mark.parametrize("count", [0, 1, 2, 10, 999, 4000, 9_999, 10_000, 10_001, 1_000_000])
def test_the_last_lines_through_the_archives(tmp_path, ten_thousand, count):
    expected = b"".join(ten_thousand[-count:]) if count else b""
    assert read(Tail(str(tmp_path), count, b"", whole=False)) == expected


def test_a_prefix_stands_before_each_line(tmp_path, ten_thousand):
    expected = b"".join(b"app: " + line for line in ten_thousand[-5000:])
    assert read(Tail(str(tmp_path), 5000, b"app: ", whole=False)) == expected


def test_a_line_that_is_not_finished_is_shown_or_left_to_the_follower(tmp_path):
    LogFile(str(tmp_path), 1000, 3).write(b"one\ntwo\nhal")
    assert read(Tail(str(tmp_path), 2, b"", whole=False)) == b"two\nhal\n"
    assert read(Tail(str(tmp_path), 2, b"", whole=True)) == b"one\ntwo\n"


def test_no_log_has_no_lines(tmp_path):
    assert read(Tail(str(tmp_path / "none"), 5, b"", whole=False)) == b""


def test_a_rotation_takes_nothing_from_a_reader(tmp_path):
    log = LogFile(str(tmp_path), 100, 1)
    log.write(b"old\n")
    tail = Tail(str(tmp_path), 5, b"", whole=False)
    for _ in range(50):
        log.write(b"new\n")
    assert read(tail) == b"old\n"
