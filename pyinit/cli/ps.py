"""`pyinit ps [NAME...]`: the processes of each service, as a tree."""

import json

from pyinit.cli import options
from pyinit.control.client import Connection
from pyinit.errors import EXIT_OK
from pyinit.records import Any

_USAGE = """\
usage: pyinit ps [-c NAME | --socket PATH] [--json] [SERVICE...]

Show the processes of the services: a tree of each, with memory and CPU time. The pids are those inside the container.
"""
_MEBI = 1 << 20
_DEEPEST = 40  # a tree that is deeper goes straight down


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

    children: dict[int, list[int]] = {}  # by parent; of 0 those whose parent is none of the service's
    for pid, process in sorted(processes.items(), reverse=True):
        children.setdefault(process["parent"] if process["parent"] in processes else 0, []).append(pid)
    todo = [(pid, 0) for pid in children.get(0, [])]
    while todo:  # no recursion: a chain of processes may be longer than Python's stack
        pid, depth = todo.pop()
        process = processes[pid]
        mark = "  " * min(depth, _DEEPEST)
        row = f"{'':<20} {pid:>7} {process['memory_bytes'] / _MEBI:>8.1f}M {process['cpu_s']:>7.2f}s  {mark}{process['command']}"
        lines.append(row)
        todo += [(child, depth + 1) for child in children.get(pid, [])]
    return lines
