"""One stream of one service: from its spool to its file, the terminal and those who wait for a line.

Owns the order of the steps, and the record that a successor goes on by. Must not know epoll or clients. Laws: the
next piece is cut and noted, written to the file, shown, and only then counted as done; each step can be done again
by another logger and leaves the same bytes; a stream that can't be shown now waits, and no other with it.
"""

import os
import time
from _collections_abc import Callable

from pyinit.init import render
from pyinit.init.journal import ECHO, EVERY_LINE, NONE, REWIND, SHOW, WRITE, Journal
from pyinit.init.logfile import LogFile
from pyinit.init.outlet import Outlet
from pyinit.init.spool import CHUNK, MOST, Spool
from pyinit.model import LogSpec
from pyinit.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import re

_LONGEST_SHOWN = 1 << 16  # a line that is longer is shown in pieces
QUIET_S = 1.0  # after that long without a line it is said how many were suppressed


class Source(NamedTuple):
    """One pipe and what PID 1 keeps for it: `name` is the service's, "" is PID 1 itself; `stream` is "stdout" or "stderr"."""

    name: str
    stream: str
    fd: int
    spool_fd: int
    slot: int  # of the journal
    spec: LogSpec
    program: str = ""  # what it may call itself in syslog


class Sinks:
    """Where lines go beside the file; the logger's, for all streams."""

    def __init__(self, outlets: dict[int, Outlet], seen: Callable[[str], None], publish: Callable[["Source", bytes, tuple[int, int]], None], paint: Callable[[str], bytes]) -> None:
        """`seen(name)`: the awaited line has come; `publish(source, data, mark)` to those who follow; `paint`: a name's prefix."""
        self.outlets = outlets
        self.seen = seen
        self.publish = publish
        self.paint = paint


class Stream:
    """`step()` until it is False; `waits_for` is then an outlet that is not free, or None."""

    def __init__(self, source: Source, log_dir: str, journal: Journal, sinks: Sinks, rotated: Callable[[str], None]) -> None:
        self.source = source
        self.spool = Spool(source.spool_fd)
        self.file = LogFile(f"{log_dir}/{source.name}", source.spec, source.stream, rotated) if source.name and source.spec.to in ("file", "syslog") else None
        self.pattern: re.Pattern[bytes] | None = None  # of the line that PID 1 waits for
        self.waits_for: Outlet | None = None
        self.has_ended = False  # nothing more will come
        self.hurries = False  # what has a file does not wait for a terminal any more
        self.unshown_lines = 0
        self._journal = journal
        self._sinks = sinks
        self._record = journal.load(source.slot)
        self._outlet = self._choose_outlet()
        self._whole = render.needs_whole_lines(source.spec)
        self._data: render.Rendered | None = None  # of the piece that is under way
        self._is_written = False
        self._head = 0  # how much of its data is about earlier losses
        self._tokens = float(source.spec.rate_burst or source.spec.rate)
        self._filled_at_s = time.monotonic()
        if self._record.intent == REWIND:
            self._rewind()
        elif self._record.intent == ECHO and self._outlet is not None:
            self._outlet.hold()
        elif self._record.intent == SHOW and self.file is not None and not self._record.ino and not self._record.lost_bytes:
            self._record.intent = WRITE  # another config: it has a file now

    def _choose_outlet(self) -> Outlet | None:
        spec = self.source.spec
        if not self.source.name:
            return self._sinks.outlets[2]
        if spec.to == "stdout":
            return self._sinks.outlets[2 if self.source.stream == "stderr" else 1]
        return self._sinks.outlets[1] if spec.echo else None

    @property
    def is_full(self) -> bool:
        """Whether the pipe must wait until something has gone out."""
        return self.spool.end - min(self._record.file_pos, self._record.line_pos) >= MOST

    @property
    def ends_mid_line(self) -> bool:
        """What was said last."""
        last = self.spool.last_byte()
        return last != b"\n" if last else self._record.mid_line == 1

    @property
    def suppressed(self) -> int:
        return self._record.suppressed

    @property
    def lost_bytes(self) -> int:
        """What the disk refused, and the log does not say yet."""
        return self._record.lost_bytes

    def expect(self, pattern: str) -> None:
        """A line that matches is told to PID 1, once; "": no more."""
        self.pattern = None
        if pattern:
            import re  # for those only who wait for a line

            self.pattern = re.compile(pattern.encode())

    def mark(self) -> tuple[int, int]:
        """(inode, size) of the file, as far as it was published; (0, 0) if there is none."""
        return self.file.mark() if self.file is not None else (0, 0)

    def step(self) -> bool:
        """One piece, as far as it goes; False if there is none, or it has to wait."""
        record = self._record
        if record.intent == NONE and not self._begin():
            return False
        if self._data is None:
            self._data = self._render()
        if record.intent == WRITE and not self._is_written:
            self._write(self._data)
        if not self._show(self._data):
            return False
        self._finish()
        return True

    def say_suppressed(self) -> None:
        """It has become quiet: the count is written now, and not before its next line only."""
        if self._record.intent == NONE and self._record.suppressed:
            self._note(self._record.file_pos, 0)
            self.step()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    # The steps

    def _begin(self) -> bool:
        record = self._record
        length, allow = self._cut()
        if not length and not (self.has_ended and self._has_loose_end()):
            return False
        if not record.known:
            self._look_at_what_is_there()
        self._note(record.file_pos + length, allow)
        return True

    def _look_at_what_is_there(self) -> None:
        """An earlier pyinit may have left half a line, which is none of ours."""
        self._record.known = 1
        if self.file is not None:
            self.file.look()
            self._record.mid_line = 2 if self.file.is_mid_line else 0

    def _has_loose_end(self) -> bool:
        """Something was begun, and its newline will never come; or lines were suppressed, and no other will come."""
        record = self._record
        return bool(record.mid_line == 1 or record.line_pos < record.file_pos or record.suppressed)

    def _cut(self) -> tuple[int, int]:
        """(length of the next piece, how many of its lines are let through)."""
        start = self._record.file_pos
        most = self.spool.end - start
        if not self._whole or not most:
            return min(most, CHUNK), EVERY_LINE
        longest = render.longest_line(self.source.spec)
        data = self.spool.read(start, CHUNK + longest)
        length = render.whole_lines(data, longest, at_end=self.has_ended and len(data) == most)
        if not length or not self.source.spec.rate:
            return length, EVERY_LINE
        return length, self._allowance(data[:length].count(b"\n") + (data[length - 1] != 10))

    def _allowance(self, count: int) -> int:
        """A bucket that `rate` lines a second drip into, and that holds `rate_burst`."""
        spec = self.source.spec
        now = time.monotonic()
        full = float(spec.rate_burst or spec.rate)
        self._tokens = min(full, self._tokens + (now - self._filled_at_s) * spec.rate)
        self._filled_at_s = now
        allow = min(count, int(self._tokens))
        self._tokens -= allow
        return allow

    def _note(self, end: int, allow: int) -> None:
        record = self._record
        record.intent, record.raw_end, record.allow = WRITE, end, allow
        record.out_from = record.dev = record.ino = record.size = 0
        record.stamp_ns = time.time_ns()  # the wall clock: it is for people
        self._is_written = False
        if self.file is None:
            self._save()

    def _render(self) -> render.Rendered:
        record, spec = self._record, self.source.spec
        raw = self.spool.read(record.file_pos, record.raw_end - record.file_pos)
        ns = record.stamp_ns
        if self._whole and raw:
            text = render.lines(
                self.source.name, self.source.stream, spec, raw, ns=ns, allow=record.allow, suppressed=record.suppressed
            )
        elif record.suppressed and not raw:
            text = render.suppressed_now(self.source.name, self.source.stream, spec, ns=ns, suppressed=record.suppressed)
        else:
            line_start = record.mid_line != 1 or bool(record.lost_bytes)
            data = render.mark_lines(raw, render.stamp(spec.timestamp, ns), line_start=line_start) if raw else b"\n" * (record.mid_line == 1)
            text = render.Rendered(raw, data, 0)
        self._head = 0
        if not record.lost_bytes and record.mid_line != 2:
            return text
        head = b"\n" * (record.mid_line != 0)
        if record.lost_bytes:
            lost = b"pyinit: %d bytes were lost here: %s\n" % (record.lost_bytes, os.strerror(record.lost_errno).encode())
            head += render.own_line(self.source.name, self.source.stream, spec, lost, ns)
        self._head = len(head)
        return text._replace(data=head + text.data)

    def _write(self, text: render.Rendered) -> None:
        """What the disk refuses is counted, and said in the log itself once it takes something again."""
        record = self._record
        self._is_written = True
        if self.file is None:
            record.mid_line = 0 if text.data.endswith(b"\n") or not text.data else 1
        elif text.data:
            self._count(text.data, self.file.put(record, text.data, self._save), self.file.trouble)
        fresh = text.data[self.file.found_bytes :] if self.file is not None else text.data
        if self.source.name and fresh:  # who follows by now has read the file as it was found
            self._sinks.publish(self.source, fresh, self.mark())

    def _count(self, data: bytes, there: int, trouble: int) -> None:
        """What the file ends with by now, and what of the service's bytes is missing in it."""
        record = self._record
        if there == len(data):
            record.lost_bytes = 0
            record.mid_line = 0 if data.endswith(b"\n") else 1
            return
        if there:
            record.mid_line = 0 if data[there - 1] == 10 else 2
        elif record.mid_line == 1:
            record.mid_line = 2
        if there >= self._head:
            record.lost_bytes = 0  # that has been said
        record.lost_bytes += len(data) - max(there, self._head)
        record.lost_errno = trouble

    def _show(self, text: render.Rendered) -> bool:
        """To the terminal and to who waits for a line; False if the terminal has not taken the last piece yet."""
        record = self._record
        if self._outlet is None and self.pattern is None:
            record.line_pos = record.raw_end
            return True
        begun = b"" if self._whole else self.spool.read(record.line_pos, record.file_pos - record.line_pos)
        said = begun + text.raw
        end = len(said) if self._whole or self._is_last() else said.rfind(b"\n") + 1
        if not end and len(said) > _LONGEST_SHOWN:
            end = len(said)
        if end and not self._show_lines(said[:end], text):
            return False
        if not end and record.intent == ECHO and self._outlet is not None:
            self._outlet.fill(b"")  # what a predecessor was about to say: it knew that no more would come
        record.line_pos = record.raw_end - (len(said) - end)
        return True

    def _is_last(self) -> bool:
        return self.has_ended and self._record.raw_end == self.spool.end

    def _show_lines(self, lines: bytes, text: render.Rendered) -> bool:
        if self._outlet is not None and not self._may_show(self._outlet, lines, text):
            return False
        if self.pattern is not None and any(map(self.pattern.search, lines.split(b"\n"))):
            self.pattern = None
            self._sinks.seen(self.source.name)
        return True

    def _may_show(self, outlet: Outlet, lines: bytes, text: render.Rendered) -> bool:
        is_again = self._record.intent == ECHO
        if not is_again and not outlet.is_free:
            if self.file is None or not (self.is_full or self.hurries):
                self.waits_for = outlet
                if self._record.intent == WRITE:
                    self._record.intent = SHOW
                    self._save()
                return False
            self.waits_for = None
            self.unshown_lines += lines.count(b"\n")  # it is in its file: a terminal that stands still stops no service
            return True
        self.waits_for = None
        self._record.intent = ECHO
        self._save()
        outlet.fill(self._shown(lines, text))
        return True

    def _shown(self, lines: bytes, text: render.Rendered) -> bytes:
        spec = self.source.spec
        if spec.to == "stdout" and spec.format == "json":
            return text.data
        prefix = self._sinks.paint(self.source.name)
        if self.unshown_lines:
            lines = b"pyinit: %d lines are in its log only\n" % self.unshown_lines + lines
            self.unshown_lines = 0
        return render.mark_lines(lines if lines.endswith(b"\n") else lines + b"\n", prefix, line_start=True)

    def _finish(self) -> None:
        record = self._record
        if self._data is not None:
            record.suppressed = self._data.suppressed
        record.file_pos, record.intent = record.raw_end, NONE
        self._data = None
        self._save()
        start = min(record.file_pos, record.line_pos)
        if self.spool.may_rewind(start):
            record.intent, record.raw_end = REWIND, self.spool.end
            self._save()
            self._rewind()

    def _rewind(self) -> None:
        record = self._record
        start = min(record.file_pos, record.line_pos)
        self.spool.rewind(start, record.raw_end)
        record.file_pos -= start
        record.line_pos -= start
        record.intent = NONE
        self._save()

    def _save(self) -> None:
        self._journal.save(self.source.slot, self._record)
