"""From bytes to the lines of a log: stamps, JSON, long lines, rates."""

import json

import pytest

from pyinit.init import render
from pyinit.model import LogSpec

NS = 1_700_000_000_000_042_999
ISO = b"2023-11-14T22:13:20.000042Z"
TAI = b"@400000006553f10a0000a7f7"


@pytest.mark.parametrize(
    ("chunks", "out"),
    [
        ([b"a\n"], b">a\n"),
        ([b"a\nb\n"], b">a\n>b\n"),
        ([b"a", b"b\nc", b"\n", b"d\n"], b">ab\n>c\n>d\n"),
        ([b"\n\n", b"\n"], b">\n>\n>\n"),
        ([b"a\r\nb"], b">a\r\n>b"),
        ([b"\0\xff\n", b"\n"], b">\0\xff\n>\n"),
    ],
)
def test_each_line_is_marked_once_however_it_is_cut(chunks, out):
    found, line_start = b"", True
    for chunk in chunks:
        found += render.mark_lines(chunk, b">", line_start=line_start)
        line_start = chunk.endswith(b"\n")
    assert found == out


def test_stamps_and_their_way_back():
    assert [render.stamp(kind, NS) for kind in ("iso", "tai64n", "none")] == [ISO + b" ", TAI + b" ", b""]
    assert render.read_stamp(ISO + b" text") == NS // 1000 * 1000
    assert render.read_stamp(TAI + b" text") == NS
    assert render.read_stamp(render.as_json("app", "stdout", b"x\n", NS)) == NS // 1000 * 1000
    for text in (b"", b"2023", b"2023-13-14T22:13:20.000042Z x", b"@40000000", b"@400000006553f10a0000zzzz", b"plain text that is long enough"):
        assert render.read_stamp(text) is None


def test_a_json_line_holds_any_bytes_and_gives_them_back():
    raw = b"quote \" back \\ nul \0 tab \t bad \xff\xfe caf\xc3\xa9\n\nnext\n"
    rows = [json.loads(line) for line in render.as_json("a b", "stderr", raw, NS).splitlines()]
    assert {(row["t"], row["service"], row["stream"]) for row in rows} == {(ISO.decode(), "a b", "stderr")}
    assert [list(row) for row in rows] == [["t", "service", "stream", "msg"]] * 3
    assert b"".join(row["msg"].encode("utf-8", "surrogateescape") + b"\n" for row in rows) == raw


@pytest.mark.parametrize(
    ("data", "at_end", "taken"),
    [
        (b"one\ntwo", False, 4),
        (b"one\ntwo", True, 7),
        (b"two", False, 0),
        (b"x" * 10, False, 0),
        (b"x" * 20, False, 10),
        (b"x" * 25, False, 20),
        (b"a\n" + b"x" * 25, False, 22),
        (b"", True, 0),
    ],
)
def test_what_has_only_begun_waits_unless_it_is_too_long(data, at_end, taken):
    assert render.whole_lines(data, 10, at_end=at_end) == taken


@pytest.mark.parametrize(
    ("line", "out"),
    [
        (b"short\n", b"short\n"),
        (b"0123456789\n", b"0123456789\n"),
        (b"0123456789a\n", b"0123456789\na\n"),
        (b"x\n" + b"y" * 25 + b"\nz\n", b"x\nyyyyyyyyyy\nyyyyyyyyyy\nyyyyy\nz\n"),
        ("012345678éé\n".encode(), "012345678\néé\n".encode()),  # not within a character
        (b"\x80" * 12 + b"\n", b"\x80" * 10 + b"\n" + b"\x80" * 2 + b"\n"),  # no characters: bytes
    ],
)
def test_long_lines_are_split_and_none_of_them_is_lost(line, out):
    assert render.split_long(line, 10) == out
    assert render.split_long(line, 10).replace(b"\n", b"") == line.replace(b"\n", b"")


def lines(raw, allow, suppressed=0, **keys):
    return render.lines("app", "stdout", LogSpec(timestamp="none", rate=3, **keys), raw, ns=NS, allow=allow, suppressed=suppressed)


def test_what_a_rate_leaves_over_is_counted_and_said_before_the_next_line():
    assert lines(b"a\nb\nc\n", 2) == (b"a\nb\n", b"a\nb\n", 1)
    assert lines(b"a\nb\n", 0, 5) == (b"", b"", 7)
    word = b"pyinit: 7 lines were suppressed: more than 3 a second\n"
    assert lines(b"a\n", 1, 7) == (word + b"a\n", word + b"a\n", 0)
    one = b"pyinit: 1 line was suppressed: more than 3 a second\n"
    assert render.suppressed_now("app", "stdout", LogSpec(timestamp="iso", rate=3), ns=NS, suppressed=1) == (one, ISO + b" " + one, 0)
    row = json.loads(lines(b"a\n", 1, 7, format="json").data.splitlines()[0])
    assert row["msg"] == word.decode().rstrip()


def test_an_unfinished_line_gets_its_end_where_lines_are_whole():
    assert lines(b"a\nb", 9) == (b"a\nb\n", b"a\nb\n", 0)
