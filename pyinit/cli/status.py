"""`pyinit status [NAME...] [--json]`: the services and how they are."""

import json
import os
import sys
from typing import Any

from pyinit.cli import options
from pyinit.control.client import Connection
from pyinit.errors import EXIT_NOT_RUNNING, EXIT_OK, ControlError

_USAGE = """\
usage: pyinit status [-c NAME | --socket PATH] [--json] [SERVICE...]

Show the services: state, pid, uptime, restarts, and why. Exit code 3 if a service that is named does not run.
"""
_HEAD = ("NAME", "STATE", "PID", "UPTIME", "RESTARTS", "REASON")
_COLOURS = {"ready": "32", "running": "32", "done": "32", "failed": "31", "backoff": "31"}
_UP = ("ready", "running")


def run(arguments: list[str]) -> int:
    """0, or 3."""
    chosen = options.parse(arguments, usage=_USAGE, flags=("--json",))
    if chosen is None:
        return EXIT_OK
    with Connection(chosen.socket(), {"verb": "status"}) as connection:
        answer: dict[str, Any] = connection.answer()
    services = answer["services"]
    if chosen.names:
        known = [one["name"] for one in services]
        for name in chosen.names:
            if name not in known:
                raise ControlError(f"{name}: no such service; there are: {', '.join(known)}")
        services = [one for one in services if one["name"] in chosen.names]
    if "--json" in chosen.flags:
        print(json.dumps({"init": answer["init"], "services": services}, indent=2))
    else:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        print(table(services, colour=colour))
    if chosen.names and not all(one["state"] in _UP for one in services):
        return EXIT_NOT_RUNNING
    return EXIT_OK


def table(services: list[dict[str, Any]], *, colour: bool = False) -> str:
    """Columns as wide as they must be."""
    rows = [_HEAD, *(_row(one) for one in services)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = []
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        shade = _COLOURS.get(row[1]) if colour and number else None
        if shade:
            cells[1] = f"\x1b[{shade}m{cells[1]}\x1b[0m"
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    uptime = options.duration(one["uptime_s"]) if one["uptime_s"] is not None else "-"
    cells = (one["name"], one["state"], str(one["pid"] or "-"), uptime, str(one["restarts"]), one["reason"])
    # A reason may hold what a container's config or image says: it shall not steer the terminal.
    return tuple("".join(sign if sign.isprintable() else "?" for sign in cell) for cell in cells)
