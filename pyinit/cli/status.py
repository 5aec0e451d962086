"""`pyinit status [NAME...] [--json] [--watch]`: the services and how they are."""

import json
import os
import sys

from pyinit.cli import options
from pyinit.control.client import Connection
from pyinit.errors import EXIT_NOT_RUNNING, EXIT_OK, no_such_service
from pyinit.model import meant
from pyinit.records import Any

_USAGE = """\
usage: pyinit status [-c NAME | --socket PATH] [--json] [--watch] [SERVICE...]

Show the services: state, pid, uptime, restarts, and why. Exit code 3 if a service that is named does not run.
--watch goes on with each change: in place on a terminal, else with a new table, or with --json a line, for each. It
ends with Ctrl-C, or with exit code 3 when pyinit ends.
"""
_HEAD = ("NAME", "STATE", "PID", "UPTIME", "RESTARTS", "REASON")
_COLOURS = {"ready": "32", "running": "32", "done": "32", "failed": "31", "backoff": "31"}
_UP = ("ready", "running")


def run(arguments: list[str]) -> int:
    """0, or 3."""
    chosen = options.parse(arguments, usage=_USAGE, flags=("--json", "--watch"))
    if chosen is None:
        return EXIT_OK
    if "--watch" in chosen.flags:
        from pyinit.cli import watch  # what a plain status has no use for

        return watch.run(chosen.socket(), chosen.names, as_json="--json" in chosen.flags)
    found = ask(chosen.socket(), chosen.names)
    services = found["services"]
    if "--json" in chosen.flags:
        print(json.dumps(found, indent=2))
    else:
        print(table(services, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    if chosen.names and not all(one["state"] in _UP for one in services):
        return EXIT_NOT_RUNNING
    return EXIT_OK


def ask(path: str, names: list[str]) -> dict[str, Any]:
    """{"init": ..., "services": [...]}, of `names` only if there are any; ControlError."""
    with Connection(path, {"verb": "status"}) as connection:
        answer: dict[str, Any] = connection.answer()
    services = answer["services"]
    known = [one["name"] for one in services]
    names = list(meant(names, known))
    for name in names:
        if name not in known:
            raise no_such_service(name, known)
    return {"init": answer["init"], "services": [one for one in services if not names or one["name"] in names]}


def table(services: list[dict[str, Any]], *, colour: bool = False, width: int | None = None) -> str:
    """Columns as wide as they must be; lines are cut at `width`."""
    rows = [_HEAD, *(_row(one) for one in services)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = []
    for number, row in enumerate(rows):
        line = "  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip()[:width]
        shade = _COLOURS.get(row[1]) if colour and number else None
        if shade:
            begin, end = widths[0] + 2, widths[0] + 2 + widths[1]
            line = f"{line[:begin]}\x1b[{shade}m{line[begin:end]}\x1b[0m{line[end:]}"
        lines.append(line)
    return "\n".join(lines)


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    uptime = options.duration(one["uptime_s"]) if one["uptime_s"] is not None else "-"
    state = "paused" if one.get("paused") else one["state"]
    cells = (one["name"], state, str(one["pid"] or "-"), uptime, str(one["restarts"]), _why(one))
    # A reason may hold what a container's config or image says: it shall not steer the terminal.
    return tuple("".join(sign if sign.isprintable() else "?" for sign in cell) for cell in cells)


def _why(one: dict[str, Any]) -> str:
    """The reason, and what the service says of itself by sd_notify(3)."""
    said = one.get("notify", {})
    words = [one["reason"], *(word for word in ("reloading", "stopping") if said.get(word)), one.get("status", "")]
    if said.get("errno"):
        words.append(f"errno {said['errno']} ({os.strerror(said['errno'])})")
    return "; ".join(word for word in words if word)
