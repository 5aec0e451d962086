"""`pyinit stats [NAME...] [--watch] [--json]`: what the container and its services use.

Owns the asking and the drawing. Must not know how it is read (init/stats.py). Laws: PID 1 is asked when this process
says so, and does nothing otherwise; a number that can't be known is "-", in JSON null.
"""

import json
import os
import sys
import time

from pyinit.cli import options
from pyinit.control.client import Connection
from pyinit.errors import EXIT_OK, UsageError
from pyinit.records import Any

_USAGE = """\
usage: pyinit stats [-c NAME | --socket PATH] [--json] [--watch] [--interval DURATION] [SERVICE...]

Show what the container and its services use: CPU, memory and its limit, processes, what was read from disks and
written, and the share of the last 10 s in which some of them waited for CPU, memory or disks. --watch goes on, every
two seconds unless --interval says otherwise. A number that can't be known here is "-", with --json null.
"""
_HEAD = ("NAME", "CPU", "CPU%", "MEMORY", "LIMIT", "SWAP", "PIDS", "READ", "WRITTEN", "WAITS CPU/MEM/IO")
_INTERVAL_S, _SHORTEST_S = 2.0, 0.1
_CONTAINER = "(container)"
Answer = dict[str, Any]


def run(arguments: list[str]) -> int:
    """0."""
    chosen = options.parse(arguments, usage=_USAGE, values=("--interval",), flags=("--json", "--watch"))
    if chosen is None:
        return EXIT_OK
    interval_s = options.seconds(chosen.values.get("--interval", f"{_INTERVAL_S}s"))
    if interval_s is None or interval_s < _SHORTEST_S:
        raise UsageError(f'--interval {chosen.values["--interval"]}: expected a duration from 100ms up, such as "5s"')
    path, as_json, watches = chosen.socket(), "--json" in chosen.flags, "--watch" in chosen.flags
    screen = _Screen(in_place=watches and sys.stdout.isatty())
    before: Answer | None = None
    while True:
        with Connection(path, {"verb": "stats", "names": chosen.names}) as connection:
            found = connection.answer()
        del found["ok"]
        if as_json:
            print(json.dumps(found, separators=(",", ":")) if watches else json.dumps(found, indent=2), flush=True)
        else:
            screen.show(table(found, before))
        if not watches:
            return EXIT_OK
        before = found
        time.sleep(interval_s)  # the interval that was asked for: rates are of a time, and no event tells of them


class _Screen:
    def __init__(self, *, in_place: bool) -> None:
        self._in_place = in_place
        self._height = 0

    def show(self, lines: list[str]) -> None:
        if self._in_place:
            size = os.get_terminal_size(1)
            lines = [line[: size.columns or 80] for line in lines[: max((size.lines or 24) - 1, 2)]]
            up = f"\r\x1b[{self._height}A" if self._height else ""
            print(up + "".join(f"\x1b[K{line}\n" for line in lines) + "\x1b[J", end="", flush=True)
        else:
            print("\n".join(["", *lines] if self._height else lines), flush=True)
        self._height = len(lines)


def table(found: Answer, before: Answer | None = None) -> list[str]:
    """Lines; the share of a CPU is that since `before`."""
    earlier = dict(_rows(before)) if before else {}
    seconds = found["t_s"] - before["t_s"] if before else 0.0
    rows = [_HEAD, *(_row(name, one, earlier.get(name), seconds) for name, one in _rows(found))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return [
        "  ".join(cell.rjust(wide) if column else cell.ljust(wide) for column, (cell, wide) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]


def _rows(found: Answer) -> list[tuple[str, Answer]]:
    own = [(_CONTAINER, found["container"])] if found["container"] else []
    return [*own, *((one["name"], one) for one in found["services"])]


def _row(name: str, one: Answer, before: Answer | None, seconds: float) -> tuple[str, ...]:
    cpu, memory, io = one["cpu"], one["memory"], one["io"]
    used_s = cpu["used_s"]
    was_s = before["cpu"]["used_s"] if before else None
    share = f"{100 * max(0.0, used_s - was_s) / seconds:.1f}" if None not in (used_s, was_s) and seconds > 0 else "-"
    waits = [one["pressure"][kind] for kind in ("cpu", "memory", "io")]
    return (
        name, "-" if used_s is None else options.duration(used_s), share, size(memory["used_bytes"]), size(memory["max_bytes"]),
        size(memory["swap_bytes"]), "-" if one["pids"]["count"] is None else str(one["pids"]["count"]),
        size(io["read_bytes"]), size(io["written_bytes"]),
        "/".join("-" if wait is None else f"{wait['some']['avg10']:.0f}%" for wait in waits),
    )  # fmt: skip


def size(count: int | None) -> str:
    """`12.3M`; "-" for None."""
    if count is None:
        return "-"
    for unit, factor in (("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.1f}{unit}"
    return str(count)
