"""`pyinit reload`: read the config again and apply the difference."""

import json

from pyinit.cli import options
from pyinit.control.client import Connection
from pyinit.errors import EXIT_OK, UsageError

_USAGE = """\
usage: pyinit reload [-c NAME | --socket PATH] [--json]

Read the config again: add, remove and restart only the services that differ, and say which. A bad file changes nothing.
"""
_WORDS = {
    "added": "added", "removed": "removed", "restarted": "restarted, for they differ", "changed": "changed, without a restart",
}  # fmt: skip


def run(arguments: list[str]) -> int:
    """0; 100 for a bad config."""
    chosen = options.parse(arguments, usage=_USAGE, values=("--timeout",), flags=("--json",))
    if chosen is None:
        return EXIT_OK
    if chosen.names:
        raise UsageError(f"reload {chosen.names[0]}: expected no name; `pyinit hup NAME` has one service reload")
    with Connection(chosen.socket(), {"verb": "reload"}, chosen.timeout_s()) as connection:
        answer = connection.answer()
    if "--json" in chosen.flags:
        print(json.dumps({key: answer[key] for key in _WORDS}))
        return EXIT_OK
    for key, words in _WORDS.items():
        if answer[key]:
            print(f"{', '.join(answer[key])}: {words}")
    if not any(answer[key] for key in _WORDS):
        print("nothing differs")
    return EXIT_OK
