"""`pyinit doctor [FILE]`: what this host can do, what a config needs, and how to mend what lacks."""

import json
import os
import sys

from pyinit.config.load import load
from pyinit.errors import EXIT_FAILED, EXIT_OK, UsageError
from pyinit.launch import doctor

_USAGE = """\
usage: pyinit doctor [--json] [FILE]

Say what this host can do: namespaces, capabilities, file systems, cgroups; for what it lacks, why and what mends it.
With a config, what that needs and does not find: exit code 1 then.
"""
_COLOURS = {"ok": "32", "lack": "31", "unknown": "33"}


def run(arguments: list[str]) -> int:
    """0, or 1 if the config needs what is not there."""
    words = [word for word in arguments if word != "--json"]
    if words[:1] in (["--help"], ["-h"]):
        print(_USAGE, end="")
        return EXIT_OK
    if len(words) > 1 or (words[:1] and words[0].startswith("-")):
        raise UsageError("expected at most one file: `pyinit doctor services.toml`")
    found = {finding.subject: finding for finding in doctor.examine()}
    lacking: list[doctor.Need] = []
    if words:
        config = load(words[0], os.environ)
        needs = doctor.needs(config)
        missing = tuple(dict.fromkeys(need.subject for need in needs if need.subject not in found))
        found |= {finding.subject: finding for finding in doctor.examine(missing)}
        lacking = [need for need in needs if found[need.subject].state == "lack"]
    if "--json" in arguments:
        rows = [finding._asdict() for finding in found.values()]
        lacks = [{"at": str(need.origin), "needs": need.subject, "for": need.what} for need in lacking]
        print(json.dumps({"host": rows, "lacking": lacks} if words else {"host": rows}, indent=2))
    else:
        _print(list(found.values()))
        for need in lacking:
            print(f"{need.origin}: {need.what} needs {need.subject}: {found[need.subject].text()}")
        if words and not lacking:
            print(f"{words[0]}: all that it needs is here")
    return EXIT_FAILED if lacking else EXIT_OK


def _print(found: list[doctor.Finding]) -> None:
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = max(len(finding.subject) for finding in found)
    for finding in found:
        state = f"{finding.state:<7}"
        if colour:
            state = f"\x1b[{_COLOURS[finding.state]}m{state}\x1b[0m"
        print(f"{state}  {finding.subject:<{width}}  {finding.text()}".rstrip())
