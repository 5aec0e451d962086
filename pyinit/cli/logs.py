"""`pyinit logs [-f] [-n N] [NAME...]`: the last lines of services' logs."""

import os

from pyinit.cli import options
from pyinit.control.client import Connection
from pyinit.errors import EXIT_OK, ControlError

_USAGE = """\
usage: pyinit logs [-c NAME | --socket PATH] [-f] [-n LINES] [SERVICE...]

Print the last 10 (or LINES) lines of the services' logs, of all by default; -f goes on with each new line.
"""
_MOST_LINES = 1_000_000


def run(arguments: list[str]) -> int:
    """0."""
    chosen = options.parse(arguments, usage=_USAGE, values=("-n",), flags=("-f",))
    if chosen is None:
        return EXIT_OK
    request = {
        "verb": "logs", "names": chosen.names, "follow": "-f" in chosen.flags,
        "lines": chosen.integer("-n", 10, _MOST_LINES),
    }  # fmt: skip
    with Connection(chosen.socket(), request) as connection:
        connection.answer()
        for data in connection.rest():
            _write(data)
    return EXIT_OK


def _write(data: bytes) -> None:
    """All of it: a full disk takes a part first, and refuses the rest."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(1, view) :]
    except BrokenPipeError:  # `pyinit logs | head`: the program's edge knows it
        raise
    except OSError as error:
        raise ControlError(f"standard output: {error.strerror}") from error
