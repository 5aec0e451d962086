"""`pyinit logs [-f] [-n N] [--since T] [--grep REGEX] [--json] [NAME...]`: what services said."""

import heapq
import json
import os
import re
import select
import sys
import time
from _collections_abc import Callable, Iterable, Iterator

from pyinit.cli import options
from pyinit.control.client import Connection
from pyinit.errors import EXIT_FAILED, EXIT_OK, ControlError, UsageError
from pyinit.init import render
from pyinit.init.logtail import Line, Past, Wanted
from pyinit.records import Any, NamedTuple

_USAGE = """\
usage: pyinit logs [-c NAME | --socket PATH] [-f] [-n LINES] [--since TIME] [--grep REGEX] [--json] [SERVICE...]

Print the last 10 (or LINES) lines of the services' logs, of all by default; -f goes on with each new line.
--since: not before "10m" ago, or "2026-11-24T10:00:00Z"; --grep: only lines that match a regular expression. With
either all such lines are printed, unless -n says how many. --json: an object a line. Lines of several services are
in the order of their stamps, each behind its service's name.
"""
_MOST_LINES = 1_000_000
_RETRY_S, _PATIENCE_S = 0.1, 5.0  # a logger that was killed comes back
_NS = 1_000_000_000
_SHAPES = ("0000-00-00", "0000-00-00T00:00", "0000-00-00T00:00:00", "0000-00-00T00:00:00.000000")


class _Key(NamedTuple):
    service: str
    stream: str


class _Seen(NamedTuple):
    """How far a stream has been printed: `mark` is the file and its size, `begun` a line of it that is not finished."""

    mark: tuple[int, int] = (0, 0)
    begun: bytes = b""


class _Show:
    """How a line goes out: prefix or JSON, and only if it matches."""

    def __init__(self, match: Callable[[bytes], object] | None, *, as_json: bool, names: bool) -> None:
        self._match = match
        self._as_json = as_json
        self._names = names

    def __call__(self, key: _Key, line: Line) -> bytes:
        if self._as_json:
            return _as_json(key, line.text)
        prefix = f"{key.service}: ".encode() if self._names else b""
        return b"%s%s\n" % (prefix, line.text)

    def new(self, key: _Key, text: bytes) -> bytes:
        """Of one that has just come; b"" if it is not wanted."""
        return self(key, Line(0, text)) if self._match is None or self._match(text) else b""


def run(arguments: list[str]) -> int:
    """0; 1 if it could not go on following."""
    chosen = options.parse(arguments, usage=_USAGE, values=("-n", "--since", "--grep"), flags=("-f", "--json"))
    if chosen is None:
        return EXIT_OK
    match = _pattern(chosen.values.get("--grep"))
    since_ns = _since(chosen.values.get("--since"))
    wanted = Wanted(chosen.integer("-n", -1 if match or since_ns else 10, _MOST_LINES), since_ns, match)
    follow, path = "-f" in chosen.flags, chosen.socket()
    request: dict[str, object] = {"verb": "logs", "names": chosen.names, "follow": follow}
    seen: dict[_Key, _Seen] = {}
    connection: Connection | None = Connection(path, request)
    while connection is not None:
        with connection:
            answer, folder = connection.answer_with_fd()
            rows = answer["logs"]
            names = len(chosen.names or {row["service"] for row in rows}) != 1
            show = _Show(match, as_json="--json" in chosen.flags, names=names)
            seen |= _print_past(rows, folder, wanted, show, seen)
            if not follow:
                _write(b"".join(show.new(key, one.begun) for key, one in seen.items() if one.begun and wanted.last))
                return EXIT_OK
            if _follow(connection, seen, show):
                return EXIT_OK
        wanted = wanted._replace(last=-1)  # of what has come since
        connection = _again(path, request)
    return EXIT_OK


def _print_past(rows: list[dict[str, Any]], folder: int, wanted: Wanted, show: _Show, seen: dict[_Key, _Seen]) -> dict[_Key, _Seen]:
    """What was there when we asked, less what was `seen`; how far that is, by stream."""
    keys = [_Key(row["service"], row["stream"]) for row in rows]
    pasts = []
    for key, row in zip(keys, rows, strict=True):
        before = seen.get(key, _Seen())
        pasts.append(Past(folder, *key, row["ino"], row["size"], before.mark, before.begun))
    try:
        merged = heapq.merge(*(_labelled(key, past.lines(wanted)) for key, past in zip(keys, pasts, strict=True)), key=lambda one: one[1].ns)
        _write_all(show(key, line) for key, line in merged)
        if not all(past.is_whole for past in pasts) or any(key not in keys for key in seen):
            print("pyinit: the logger was killed: lines may be missing here", file=sys.stderr)
        return {key: _Seen((row["ino"], row["size"]), past.rest) for key, row, past in zip(keys, rows, pasts, strict=True)}
    finally:
        for past in pasts:
            past.close()
        if folder >= 0:
            os.close(folder)


def _labelled(key: _Key, lines: Iterator[Line]) -> Iterator[tuple[_Key, Line]]:
    for line in lines:
        yield key, line


def _follow(connection: Connection, seen: dict[_Key, _Seen], show: _Show) -> bool:
    """Whether pyinit says that this is the end; False if the logger has gone without a word."""
    buffer = b""
    for data in connection.rest():
        buffer += data
        while True:
            head, mark, rest = buffer.partition(b"\n")
            service, stream, *numbers = head.decode().split(" ") if mark else ("", "", "0", "0", "0")
            length, ino, size = map(int, numbers)
            if not mark or len(rest) < length:
                break
            if service == "-":
                _write(b"".join(show.new(key, one.begun) for key, one in seen.items() if one.begun))
                if stream == "slow":
                    raise ControlError("this reader is too slow: lines are missing from here on")
                return True
            key = _Key(service, stream)
            *lines, begun = (seen.get(key, _Seen()).begun + rest[:length]).split(b"\n")
            seen[key] = _Seen((ino, size), begun)
            _write(b"".join(show.new(key, line) for line in lines))
            buffer = rest[length:]
    return False


def _again(path: str, request: dict[str, object]) -> Connection | None:
    """The logger was killed: another one is there soon, which goes on where that one stopped. None if pyinit has gone, too."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            connection = Connection(path, request)
            connection.peek()
            return connection
        except ControlError as error:
            if error.exit_code != EXIT_FAILED:
                return None
            select.select([], [], [], _RETRY_S)
    return None


def _pattern(text: str | None) -> Callable[[bytes], object] | None:
    if text is None:
        return None
    try:
        return re.compile(os.fsencode(text)).search
    except re.error as error:
        raise UsageError(f"--grep {text}: expected a regular expression ({error})") from error


def _since(text: str | None) -> int:
    """In ns since 1970; 0 without one."""
    if text is None:
        return 0
    age_s = options.seconds(text)
    if age_s is not None:
        return time.time_ns() - int(age_s * _NS)
    bare = text.removesuffix("Z")
    for shape in _SHAPES:
        if len(bare) == len(shape) and "".join("0" if char in "0123456789" else char for char in bare) == shape:
            found = render.read_iso((bare + "0000-01-01T00:00:00.000000"[len(bare) :]).encode())
            if found is not None:
                return found
    raise UsageError(f'--since {text}: expected a time such as "10m" or "2026-11-24T10:00:00Z" (UTC)')


def _as_json(key: _Key, text: bytes) -> bytes:
    """As `format = "json"` writes it; a line that is so already stays as it is."""
    if text.startswith(b'{"t":"') and text.endswith(b"}"):
        return text + b"\n"
    ns = render.read_stamp(text)
    stamp = text.partition(b" ")[0] if ns else b""
    message = text[len(stamp) + 1 :] if ns else text
    row = {
        "t": render.iso(ns).decode() if ns else None, "service": key.service, "stream": key.stream,
        "msg": message.decode("utf-8", "surrogateescape"),
    }  # fmt: skip
    return json.dumps(row).encode() + b"\n"


def _write_all(lines: Iterable[bytes]) -> None:
    """In few writes."""
    pieces, size = [], 0
    for line in lines:
        pieces.append(line)
        size += len(line)
        if size > 1 << 16:
            _write(b"".join(pieces))
            pieces, size = [], 0
    _write(b"".join(pieces))


def _write(data: bytes) -> None:
    """All of it: a full disk takes a part first, and refuses the rest."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(1, view) :]
    except BrokenPipeError:  # `pyinit logs | head`: the program's edge knows it
        raise
    except OSError as error:
        raise ControlError(f"standard output: {error.strerror}") from error
