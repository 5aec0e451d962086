"""`pyinit shutdown [--exit-code N]`: stop everything in order, and wait for the end."""

from pyinit.cli import options
from pyinit.control.client import Connection
from pyinit.errors import EXIT_OK, UsageError
from pyinit.records import Any

_USAGE = """\
usage: pyinit shutdown [-c NAME | --socket PATH] [--exit-code N] [--no-wait] [--timeout DURATION]

Stop all services in order, then PID 1, which leaves with 0 or N; wait for the end.
"""


def run(arguments: list[str]) -> int:
    """0 once all is down (or asked to be, with --no-wait)."""
    chosen = options.parse(arguments, usage=_USAGE, values=("--exit-code", "--timeout"), flags=("--no-wait",))
    if chosen is None:
        return EXIT_OK
    if chosen.names:
        raise UsageError(f"shutdown {chosen.names[0]}: expected no name; `pyinit stop NAME` stops one service")
    request: dict[str, Any] = {"verb": "shutdown"}
    if "--exit-code" in chosen.values:
        request["exit_code"] = chosen.integer("--exit-code", 0, 255)
    with Connection(chosen.socket(), request, chosen.timeout_s()) as connection:
        connection.answer()
        if "--no-wait" not in chosen.flags:
            for _ in connection.rest():  # none: the end of the connection says that all is down
                pass
    return EXIT_OK
