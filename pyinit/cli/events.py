"""`pyinit events [-f] [-n N] [--json]`: what happened to the services."""

import json

from pyinit.cli import options
from pyinit.control.client import Connection
from pyinit.errors import EXIT_OK

_USAGE = """\
usage: pyinit events [-c NAME | --socket PATH] [-f] [-n EVENTS] [--json] [SERVICE...]

Print the last 10 (or EVENTS) states that these services, or all, entered; -f goes on with each new one.
"""
_MOST = 1000


def run(arguments: list[str]) -> int:
    """0."""
    chosen = options.parse(arguments, usage=_USAGE, values=("-n",), flags=("-f", "--json"))
    if chosen is None:
        return EXIT_OK
    request = {"verb": "events", "lines": chosen.integer("-n", 10, _MOST), "follow": "-f" in chosen.flags, "names": chosen.names}
    with Connection(chosen.socket(), request) as connection:
        connection.answer()
        rest = b""
        for data in connection.rest():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                event = json.loads(line)["event"]
                if not chosen.names or event["name"] in chosen.names or event["name"].partition("@")[0] in chosen.names:
                    print(_text(event, as_json="--json" in chosen.flags), flush=True)
    return EXIT_OK


def _text(event: dict[str, object], *, as_json: bool) -> str:
    if as_json:
        return json.dumps(event)
    why = f": {event['reason']}" if event["reason"] else ""
    line = f"{event['t']} {event['name']} {event['state']}{why}"
    return "".join(sign if sign.isprintable() else "?" for sign in line)  # a reason may hold what an image says
