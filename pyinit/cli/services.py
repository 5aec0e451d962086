"""`pyinit start|stop|restart|enable|disable|wait|hup|signal`: change services, and wait until it is so."""

import sys

from pyinit.cli import options
from pyinit.control.client import LateError, call
from pyinit.errors import EXIT_OK, ControlError, UsageError
from pyinit.model import signal_number
from pyinit.records import Any

_USAGE = """\
usage: pyinit {verb} [-c NAME | --socket PATH] [{flag}] [--timeout DURATION] SERVICE...

{what} and wait until it is done. Exit code 1 if a service fails.
"""
_WHAT = {
    "start": "Start services and what they require,",
    "stop": "Stop services, and before them those that require them,",
    "restart": "Stop and start services",
    "enable": "Start services now and whenever pyinit starts, whatever the config says,",
    "disable": "Stop services, and do not start them with pyinit, whatever the config says,",
    "wait": "Start nothing: wait until services are ready, or done, or tasks between their runs,",
    "hup": "Have services reload their own configs, by their reload_signal or reload_command,",
}
_GOALS = {"stop": "stopped", "disable": "stopped", "hup": "reloaded", "signal": "signalled"}  # of the others: ready
_REACHED = {"ready": ("ready", "done"), "stopped": ("stopped", "done", "failed")}
_SIGNAL_USAGE = """\
usage: pyinit signal [-c NAME | --socket PATH] SIGNAL SERVICE...

Send a signal, such as HUP or RTMIN+1, to the services' main processes.
"""


def run(words: list[str]) -> int:
    """`words` begin with the verb."""
    verb, arguments = words[0], words[1:]
    usage = _SIGNAL_USAGE if verb == "signal" else _USAGE.format(verb=verb, what=_WHAT[verb], flag=_flag(verb))
    chosen = options.parse(arguments, usage=usage, values=("--timeout",), flags=(_flag(verb),))
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
    seen: dict[str, dict[str, str]] = {}
    try:
        for answer in call(chosen.socket(), request, chosen.timeout_s()):
            progress = answer.get("progress")
            if progress and seen.get(progress["name"]) != progress:
                seen[progress["name"]] = progress
                if sys.stderr.isatty():
                    print(f"{progress['name']}: {_how(progress)}", file=sys.stderr)
    except LateError:
        raise _late(verb, chosen.names, seen, chosen.values["--timeout"]) from None
    return EXIT_OK


def _flag(verb: str) -> str:
    return "--ready" if verb == "wait" else "--no-wait"  # the first says what `wait` does anyway


def _how(progress: dict[str, str]) -> str:
    return f"{progress['state']}: {progress['reason']}" if progress["reason"] else progress["state"]


def _late(verb: str, names: list[str], seen: dict[str, dict[str, str]], timeout: str) -> ControlError:
    """How far each is that is not where it should be."""
    goal = _GOALS.get(verb, "ready")
    late = [name for name in dict.fromkeys(names) if name not in seen or seen[name]["state"] not in _REACHED.get(goal, ())] or names
    how = {name: f": {_how(seen[name])}" if name in seen else "" for name in late}
    return ControlError("\n".join(f"{name}: not {goal} within {timeout}{how[name]}" for name in late))
