"""`pyinit start|stop|restart|enable|disable|wait|hup|signal`: change services, and wait until it is so."""

import sys
from typing import Any

from pyinit.cli import options
from pyinit.control.client import call
from pyinit.errors import EXIT_OK, UsageError
from pyinit.model import signal_number

_USAGE = """\
usage: pyinit {verb} [-c NAME | --socket PATH] [--no-wait] [--timeout DURATION] SERVICE...

{what} and wait until it is done. Exit code 1 if a service fails.
"""
_WHAT = {
    "start": "Start services and what they require,",
    "stop": "Stop services, and before them those that require them,",
    "restart": "Stop and start services",
    "enable": "Start services now and whenever pyinit starts, whatever the config says,",
    "disable": "Stop services, and do not start them with pyinit, whatever the config says,",
    "wait": "Start nothing: wait until services are ready, or done,",
    "hup": "Have services reload their own configs, by their reload_signal or reload_command,",
}
_SIGNAL_USAGE = """\
usage: pyinit signal [-c NAME | --socket PATH] SIGNAL SERVICE...

Send a signal, such as HUP or RTMIN+1, to the services' main processes.
"""


def run(words: list[str]) -> int:
    """`words` begin with the verb."""
    verb, arguments = words[0], words[1:]
    usage = _SIGNAL_USAGE if verb == "signal" else _USAGE.format(verb=verb, what=_WHAT[verb])
    chosen = options.parse(arguments, usage=usage, values=("--timeout",), flags=("--no-wait", "--ready"))
    if chosen is None:
        return EXIT_OK
    request: dict[str, Any] = {"verb": verb, "wait": "--no-wait" not in chosen.flags}
    if verb == "signal":
        word = chosen.names.pop(0) if chosen.names else ""
        number = signal_number(word)
        if number is None:
            raise UsageError(f"signal {word}: expected a signal such as HUP or RTMIN+1, then services")
        request["signal"] = number
    if not chosen.names:
        raise UsageError(f"{verb}: expected at least one service: `pyinit {verb} NAME...`")
    request["names"] = chosen.names
    if verb == "wait" and "--no-wait" in chosen.flags:
        raise UsageError("wait --no-wait: expected one of them")
    for answer in call(chosen.socket(), request, chosen.timeout_s()):
        progress = answer.get("progress")
        if progress and sys.stderr.isatty():
            why = f": {progress['reason']}" if progress["reason"] else ""
            print(f"{progress['name']}: {progress['state']}{why}", file=sys.stderr)
    return EXIT_OK
