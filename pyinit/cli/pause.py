"""`pyinit pause|resume [NAME...]`: services stand still, and go on."""

import sys

from pyinit.cli import options
from pyinit.control.client import Connection
from pyinit.errors import EXIT_FAILED, EXIT_OK

_USAGE = """\
usage: pyinit {verb} [-c NAME | --socket PATH] [SERVICE...]

{what}
"""
_WHAT = {
    "pause": "Have all processes of the services stand still, without a name all that run. pyinit itself goes on to answer; no\n"
    "health check, watchdog or timeout counts meanwhile; a stop has them go on first. Exit code 1 if one can't be paused.",
    "resume": "Have paused services go on, without a name all of them.",
}


def run(words: list[str]) -> int:
    """`words` begin with the verb; 0, or 1 if some of all could not be paused."""
    verb, arguments = words[0], words[1:]
    chosen = options.parse(arguments, usage=_USAGE.format(verb=verb, what=_WHAT[verb]))
    if chosen is None:
        return EXIT_OK
    with Connection(chosen.socket(), {"verb": verb, "names": chosen.names}) as connection:
        answer = connection.answer()
    for text in answer.get("left", []):
        print(f"pyinit: {text}", file=sys.stderr)
    return EXIT_FAILED if answer.get("left") else EXIT_OK
