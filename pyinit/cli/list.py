"""`pyinit list [--json]`: what runs on this host.

Owns how it is shown. Must not know how it is found. Law: one that does not answer is shown with what is known without it.
"""

import json
import os
import time
from typing import Any

from pyinit.cli import options
from pyinit.control import places
from pyinit.control.survey import ask_all
from pyinit.errors import EXIT_OK, UsageError

_USAGE = """\
usage: pyinit list [--json]

Show the containers and supervisors that run here: pid, state, uptime, config.
"""
_PATIENCE_S = 0.5
_TICKS = os.sysconf("SC_CLK_TCK")


def run(arguments: list[str]) -> int:
    """0, whether or not anything runs."""
    chosen = options.parse(arguments, usage=_USAGE, flags=("--json",))
    if chosen is None:
        return EXIT_OK
    if chosen.names:
        raise UsageError(f"list {chosen.names[0]}: list takes no name; `pyinit status -c NAME` shows one")
    found = places.running()
    answers = ask_all([one.socket for one in found if one.pid], {"verb": "status", "names": []}, _PATIENCE_S)
    rows = [_row(one, answers.get(one.socket, {})) for one in found]
    if "--json" in chosen.flags:
        print(json.dumps(rows, indent=2))
        return EXIT_OK
    lines = [("NAME", "PID", "STATE", "UPTIME", "CONFIG")]
    lines += [(row["name"], _text(row["pid"]), _text(row["state"]), _uptime_text(row["uptime_s"]), _text(row["config"])) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    for line in lines:
        print("  ".join([*(word.ljust(width) for word, width in zip(line, widths, strict=False)), line[4]]))
    return EXIT_OK


def _row(one: places.Running, answer: dict[str, Any]) -> dict[str, Any]:
    own = answer.get("init")
    state = own.get("state") if isinstance(own, dict) else None if one.pid else "starting"
    return {
        "name": one.name, "pid": one.pid, "socket": one.socket, "state": state if isinstance(state, str) else None,
        "uptime_s": _uptime_s(one.pid), "config": _config(one.directory),
    }  # fmt: skip


def _uptime_s(pid: int) -> float | None:
    """By proc_pid_stat(5), which nobody has to answer for."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            began = int(file.read(1024).rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return None
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) - began / _TICKS, 2) if pid else None


def _config(directory: str) -> str | None:
    try:
        with open(f"{directory}/config") as file:
            return file.read().rstrip("\n") or None
    except OSError:
        return None


def _text(value: object) -> str:
    """What a file or an answer says must not steer the terminal."""
    return "".join(char if char.isprintable() else "?" for char in str(value)) if value else "-"


def _uptime_text(value: float | None) -> str:
    return "-" if value is None else options.duration(max(0.0, value))
