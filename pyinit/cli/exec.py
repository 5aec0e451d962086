"""`pyinit exec SERVICE -- COMMAND`: a command beside a service."""

import json
import signal
from types import FrameType

from pyinit.cli import options
from pyinit.control.client import Connection
from pyinit.errors import EXIT_OK, UsageError

_USAGE = """\
usage: pyinit exec [-c NAME | --socket PATH] SERVICE -- COMMAND [ARGUMENT...]

Run a command with the user, environment, cgroup and limits of a service, where the service runs; its exit code is ours,
128 plus the number of a signal. It ends with us.
"""
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)


def run(arguments: list[str]) -> int:
    """The command's exit code."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    chosen = options.parse(arguments[:at], usage=_USAGE)
    if chosen is None:
        return EXIT_OK
    argv = arguments[at + 1 :]
    if len(chosen.names) != 1 or not argv:
        raise UsageError("exec: expected one service and a command: `pyinit exec SERVICE -- COMMAND`")
    request: dict[str, object] = {"verb": "exec", "names": chosen.names, "argv": argv}
    with Connection(chosen.socket(), request, fds=(0, 1, 2)) as connection:

        def forward(number: int, _frame: FrameType | None) -> None:
            connection.send(json.dumps({"signal": number}).encode() + b"\n")

        for number in _FORWARDED:
            signal.signal(number, forward)
        code = connection.answer()["code"]
    return int(code)
