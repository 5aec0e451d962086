"""From a service's bytes to the lines of its log: a pure function of bytes, spec and time.

Owns stamps, JSON, the splitting of long lines and what a rate leaves over. Must not know files, pipes or clocks.
Law: the same arguments give the same bytes, for a logger that follows a killed one renders again what that one wrote.
"""

import time

from pyinit.model import LogSpec
from pyinit.records import NamedTuple

LONGEST_LINE = 1 << 20  # where lines have to be whole: JSON, and a rate
_TAI_OFFSET_S = (1 << 62) + 10  # TAI64's epoch; 10 s is the difference that all TAI64N tools take, whatever the leap seconds
_CONTINUES = 0x80  # a byte of a UTF-8 sequence that is not its first: 10xxxxxx

_ISO_SHAPE = b"0000-00-00T00:00:00.000000Z"
_ISO_PARTS = ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19))
_SHAPE = bytes(48 if 48 <= one <= 57 else one for one in range(256))
_JSON_HEAD = b'{"t":"'

_second, _text = -1, b""
_read, _read_ns = b"", 0


class Rendered(NamedTuple):
    """`raw`: the lines that are left, for the terminal; `data`: as they go to the file."""

    raw: bytes
    data: bytes
    suppressed: int


def needs_whole_lines(spec: LogSpec) -> bool:
    """Whether a line that has only begun must wait."""
    return spec.format == "json" or bool(spec.rate) or bool(spec.max_line_bytes)


def longest_line(spec: LogSpec) -> int:
    return spec.max_line_bytes or LONGEST_LINE


def stamp(kind: str, ns: int) -> bytes:
    """A line's mark for `timestamp = kind` at `ns` since 1970, with the space behind it; b"" for "none"."""
    if kind == "iso":
        return iso(ns) + b" "
    return b"%s " % tai64n(ns) if kind == "tai64n" else b""


def iso(ns: int) -> bytes:
    """`2026-11-24T10:00:00.123456Z`, UTC; the part down to the second is made once a second."""
    global _second, _text  # noqa: PLW0603 - a cache of one value
    second, rest = divmod(ns, 1_000_000_000)
    if second != _second:
        t = time.gmtime(second)
        _text = b"%04d-%02d-%02dT%02d:%02d:%02d." % (t.tm_year, t.tm_mon, t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec)
        _second = second
    return b"%s%06dZ" % (_text, rest // 1000)


def now_iso() -> str:
    """Of now, for people."""
    return iso(time.time_ns()).decode()


def read_stamp(line: bytes) -> int | None:
    """The time of a line of any of our formats, in ns since 1970; None if it has none."""
    if line.startswith(_JSON_HEAD):
        line = line[len(_JSON_HEAD) :]
    text = line[:27]
    if text.translate(_SHAPE) == _ISO_SHAPE:
        return read_iso(text)
    if text[:1] == b"@" and len(text) > 24 and not text[1:25].translate(None, b"0123456789abcdef"):
        return (int(text[1:17], 16) - _TAI_OFFSET_S) * 1_000_000_000 + int(text[17:25], 16)
    return None


def read_iso(text: bytes) -> int | None:
    """`2026-11-24T10:00:00.123456Z` as ns since 1970; None for a day that is none. Lines of one second cost little."""
    global _read, _read_ns
    if text[:19] != _read:
        import calendar  # readers only

        year, month, day, hour, minute, second = (int(text[a:b]) for a, b in _ISO_PARTS)
        if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60):
            return None
        _read, _read_ns = text[:19], calendar.timegm((year, month, day, hour, minute, second)) * 1_000_000_000
    return _read_ns + int(text[20:26]) * 1000


def tai64n(ns: int) -> bytes:
    """`@400000006a2b3c4d0a0b0c0d`, as tai64n and s6-log write it and tai64nlocal reads it."""
    second, rest = divmod(ns, 1_000_000_000)
    return b"@%016x%08x" % (second + _TAI_OFFSET_S, rest)


def mark_lines(data: bytes, mark: bytes, *, line_start: bool) -> bytes:
    """`mark` before each line that begins in `data`, which is not empty."""
    if not mark:
        return data
    last = data.endswith(b"\n")
    # One pass and one copy: the mark behind a last newline would be the next chunk's.
    out = (data[:-1] if last else data).replace(b"\n", b"\n" + mark)
    return b"".join((mark if line_start else b"", out, b"\n" if last else b""))


def whole_lines(data: bytes, longest: int, *, at_end: bool) -> int:
    """How much of `data` can be rendered now: to its last newline, or more if what follows is too long or the end."""
    if at_end:
        return len(data)
    end = data.rfind(b"\n") + 1
    # One that is just as long as it may be waits for its newline, which would be an empty line else.
    return end + max(0, len(data) - end - 1) // longest * longest


def lines(name: str, stream: str, spec: LogSpec, raw: bytes, *, ns: int, allow: int, suppressed: int) -> Rendered:
    """For specs that need whole lines: `allow` of those in `raw` after word of `suppressed` ones, each with its end."""
    kept = _limited(raw, allow)
    left = kept[0]
    if suppressed and left:
        left = _suppressed_line(suppressed, spec) + left
        suppressed = 0
    left = split_long(left, longest_line(spec))
    if left and not left.endswith(b"\n"):
        left += b"\n"
    if spec.format == "json":
        data = as_json(name, stream, left, ns)
    else:
        data = mark_lines(left, stamp(spec.timestamp, ns), line_start=True) if left else b""
    return Rendered(left, data, suppressed + kept[1])


def suppressed_now(name: str, stream: str, spec: LogSpec, *, ns: int, suppressed: int) -> Rendered:
    """The word of `suppressed` lines alone, once it has become quiet."""
    line = _suppressed_line(suppressed, spec)
    return Rendered(line, own_line(name, stream, spec, line, ns), 0)


def own_line(name: str, stream: str, spec: LogSpec, line: bytes, ns: int) -> bytes:
    """A line of ours in a service's log."""
    return as_json(name, stream, line, ns) if spec.format == "json" else stamp(spec.timestamp, ns) + line


def split_long(data: bytes, longest: int) -> bytes:
    """Lines of at most `longest` bytes, cut between characters where there are some."""
    if len(data) <= longest:
        return data
    parts = data.split(b"\n")
    if max(map(len, parts)) <= longest:
        return data
    return b"\n".join(b"\n".join(_pieces(part, longest)) if len(part) > longest else part for part in parts)


def as_json(name: str, stream: str, data: bytes, ns: int) -> bytes:
    """An object for each line; a byte that is no UTF-8 becomes a lone surrogate, as Python's surrogateescape has it."""
    import json  # PID 1 has it: this opens no file

    if not data:
        return b""
    dump = json.dumps
    head = f'{{"t":"{iso(ns).decode()}","service":{dump(name)},"stream":"{stream}","msg":'
    texts = data[:-1].decode("utf-8", "surrogateescape").split("\n")
    return "".join([f"{head}{dump(text)}}}\n" for text in texts]).encode()


def _limited(raw: bytes, allow: int) -> tuple[bytes, int]:
    """(the first `allow` lines, how many others there are)."""
    count = raw.count(b"\n") + (not raw.endswith(b"\n")) if raw else 0
    if count <= allow:
        return raw, 0
    at = 0
    for _ in range(allow):
        at = raw.index(b"\n", at) + 1
    return raw[:at], count - allow


def _suppressed_line(count: int, spec: LogSpec) -> bytes:
    return b"pyinit: %d line%s suppressed: more than %d a second\n" % (count, b"s were" if count > 1 else b" was", spec.rate)


def _pieces(line: bytes, longest: int) -> list[bytes]:
    pieces, start = [], 0
    while len(line) - start > longest:
        end = start + longest
        for back in range(min(4, longest)):
            if line[end - back] & 0xC0 != _CONTINUES:
                end -= back
                break
        pieces.append(line[start:end])
        start = end
    pieces.append(line[start:])
    return pieces
