"""`pyinit ps [NAME...]`: the processes of each service, as a tree."""

import json
from typing import Any

from pyinit.cli import options
from pyinit.control.client import Connection
from pyinit.errors import EXIT_OK

_USAGE = """\
usage: pyinit ps [-c NAME | --socket PATH] [--json] [SERVICE...]

Show the processes of the services: a tree of each, with memory and CPU time. The pids are those inside the container.
"""
_MEBI = 1 << 20


def run(arguments: list[str]) -> int:
    """0."""
    chosen = options.parse(arguments, usage=_USAGE, flags=("--json",))
    if chosen is None:
        return EXIT_OK
    with Connection(chosen.socket(), {"verb": "ps", "names": chosen.names}) as connection:
        services: list[dict[str, Any]] = connection.answer()["services"]
    if "--json" in chosen.flags:
        print(json.dumps(services, indent=2))
        return EXIT_OK
    print(f"{'SERVICE':<20} {'PID':>7} {'MEMORY':>9} {'CPU':>8}  COMMAND")
    for one in services:
        for line in _lines(one):
            print("".join(sign if sign.isprintable() else "?" for sign in line))
    return EXIT_OK


def _lines(one: dict[str, Any]) -> list[str]:
    processes = {process["pid"]: process for process in one["processes"]}
    memory = sum(process["memory_bytes"] for process in processes.values()) / _MEBI
    cpu = sum(process["cpu_s"] for process in processes.values())
    lines = [f"{one['name']:<20} {'-' if not processes else '':>7} {memory:>8.1f}M {cpu:>7.2f}s  {one['state']}"]

    def add(pid: int, depth: int) -> None:
        process = processes[pid]
        mark = "  " * depth
        row = f"{'':<20} {pid:>7} {process['memory_bytes'] / _MEBI:>8.1f}M {process['cpu_s']:>7.2f}s  {mark}{process['command']}"
        lines.append(row)
        for child in sorted(other for other, its in processes.items() if its["parent"] == pid):
            add(child, depth + 1)

    for pid in sorted(pid for pid, process in processes.items() if process["parent"] not in processes):
        add(pid, 0)
    return lines
