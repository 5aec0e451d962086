"""`pyinit status --watch`: the services as they change.

Owns when PID 1 is asked, and the drawing in place. Must not know what a table looks like (status.py). Laws: PID 1 is
asked when an event says that something has changed, and on a terminal every two seconds, for the uptimes; nothing of
the terminal is changed that would have to be put back.
"""

import json
import os
import select
import sys
import time
from _collections_abc import Callable

from pyinit.cli.status import ask, table
from pyinit.control.client import Connection, EndedError
from pyinit.errors import EXIT_NOT_RUNNING, ControlError
from pyinit.records import Any

_TICK_S = 2.0
_PAUSE_S = 0.1  # services that come and go in a storm are asked for ten times a second, not more
Show = Callable[[dict[str, Any]], None]


def run(path: str, names: list[str], *, as_json: bool) -> int:
    """Up to the end of pyinit, ControlError with exit code 3, or KeyboardInterrupt."""
    on_terminal = sys.stdout.isatty() and not as_json
    watch = _Watch(path, names, _Terminal().show if on_terminal else _show_json if as_json else _Tables().show)
    try:
        while True:
            watch.follow(None if not on_terminal else _TICK_S)
    except ControlError as error:
        if watch.has_shown and (isinstance(error, EndedError) or error.exit_code == EXIT_NOT_RUNNING):
            raise ControlError("the pyinit that was watched has ended", exit_code=EXIT_NOT_RUNNING) from None
        raise
    except KeyboardInterrupt:
        if on_terminal:
            print("\r\x1b[K", end="", flush=True)  # over the ^C, which is no part of the table
        raise


class _LeftError(Exception):
    """A connection is at its end."""


class _Watch:
    def __init__(self, path: str, names: list[str], show: Show) -> None:
        self._path = path
        self._names = names
        self._show = show
        self._rest = b""  # a part of a line
        self.has_shown = False

    def follow(self, tick_s: float | None) -> None:
        """Up to the end of a connection: that of pyinit, or ours alone, if we were stopped and did not read."""
        self._rest = b""
        with Connection(self._path, {"verb": "events", "lines": 0, "follow": True}) as events:
            events.answer()
            poll = select.poll()
            poll.register(events, select.POLLIN)
            poll.register(1, 0)  # whether its reader is gone: there may be no event for long
            try:
                while True:
                    self._look()
                    looked_at_s = time.monotonic()
                    self._await_change(poll, events, tick_s)
                    # A storm of events is drawn, and PID 1 asked, only so often.
                    time.sleep(max(0.0, looked_at_s + _PAUSE_S - time.monotonic()))
                    while self._has_come(poll, 0.0):  # the next look will show it, too
                        self._read(events)
            except _LeftError:
                return

    def _look(self) -> None:
        self._show(ask(self._path, self._names))
        self.has_shown = True

    def _await_change(self, poll: select.poll, events: Connection, tick_s: float | None) -> None:
        ends_at_s = None if tick_s is None else time.monotonic() + tick_s
        while self._has_come(poll, None if ends_at_s is None else max(0.0, ends_at_s - time.monotonic())):
            if self._read(events):
                return

    @staticmethod
    def _has_come(poll: select.poll, timeout_s: float | None) -> bool:
        ready = dict(poll.poll(None if timeout_s is None else timeout_s * 1000))
        if 1 in ready:
            raise BrokenPipeError
        return bool(ready)

    def _read(self, events: Connection) -> bool:
        """Whether something has happened to the services that are watched."""
        data = events.received()
        if not data:
            raise _LeftError
        *lines, self._rest = (self._rest + data).split(b"\n")
        names = [json.loads(line)["event"]["name"] for line in lines]
        return any(not self._names or name in self._names or name.partition("@")[0] in self._names for name in names)


def _show_json(found: dict[str, Any]) -> None:
    print(json.dumps(found, separators=(",", ":")), flush=True)


class _Tables:
    """One after the other."""

    def __init__(self) -> None:
        self._between = ""

    def show(self, found: dict[str, Any]) -> None:
        print(f"{self._between}{table(found['services'])}", flush=True)
        self._between = "\n"


class _Terminal:
    """One in place of the other, at most as high and wide as the terminal."""

    def __init__(self) -> None:
        self._colour = "NO_COLOR" not in os.environ
        self._size: tuple[int, int] | None = None
        self._height = 0  # of what is there

    def show(self, found: dict[str, Any]) -> None:
        size = os.get_terminal_size(1)
        columns, rows = size.columns or 80, size.lines or 24
        lines = table(found["services"], colour=self._colour, width=columns).split("\n")
        if len(lines) >= rows:
            more = len(lines) - max(rows - 2, 1)
            lines = [*lines[:-more], f"... {more} more: name those that you want to see"[:columns]]
        if self._size not in (None, (columns, rows)):
            start = "\x1b[H\x1b[2J"  # what was there has been wrapped anew
        else:
            start = f"\r\x1b[{self._height}A" if self._height else ""
        self._size, self._height = (columns, rows), len(lines)
        # DECAWM off: a wide sign must not begin a line that we don't count.
        body = "".join(f"\x1b[K{line}\n" for line in lines)
        print(f"{start}\x1b[?7l{body}\x1b[?7h\x1b[J", end="", flush=True)
