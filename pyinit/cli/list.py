"""`pyinit list [--json]`: what runs on this host."""

import json

from pyinit.cli import options
from pyinit.control import places
from pyinit.errors import EXIT_OK, UsageError

_USAGE = """\
usage: pyinit list [--json]

Show the containers and supervisors that run here.
"""


def run(arguments: list[str]) -> int:
    """0, whether or not anything runs."""
    chosen = options.parse(arguments, usage=_USAGE, flags=("--json",))
    if chosen is None:
        return EXIT_OK
    if chosen.names:
        raise UsageError(f"list {chosen.names[0]}: list takes no name; `pyinit status -c NAME` shows one")
    found = places.running()
    if "--json" in chosen.flags:
        print(json.dumps([{"name": one.name, "pid": one.pid, "socket": one.socket} for one in found], indent=2))
        return EXIT_OK
    width = max([4, *(len(one.name) for one in found)])
    print(f"{'NAME':{width}}  PID")
    for one in found:
        print(f"{one.name:{width}}  {one.pid or '-'}")
    return EXIT_OK
