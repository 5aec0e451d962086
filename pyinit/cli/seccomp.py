"""`pyinit seccomp show`: what a profile lets through, refuses and asks of arguments, and the kernel's program of it.

Owns how that reads. Must not know what a profile means (core/seccomp.py).
"""

import json
import os
import textwrap

from pyinit.cli.options import parse
from pyinit.config.load import load, profile_of
from pyinit.config.profiles import profile
from pyinit.core import bpf, seccomp
from pyinit.core.seccomp import Decision
from pyinit.core.syscalls import ARCHITECTURES
from pyinit.errors import EXIT_OK, UsageError, no_such_service
from pyinit.model import DEFAULT_CAPABILITIES, DEFAULT_PROFILE, UNCONFINED, Seccomp

_USAGE = """\
usage: pyinit seccomp show [--arch ARCHITECTURE] [--json] [--bpf] [PROFILE]
       pyinit seccomp show [--arch ARCHITECTURE] [--json] [--bpf] --config CONFIG [SERVICE]

Show what a profile of system calls ("default", or a file) does with each call, or that of a config's container, or of
one of its services. --bpf adds the program that the kernel is given. ARCHITECTURE is x86_64 or aarch64, this one's by default.
"""
_WIDTH = 100


def run(arguments: list[str]) -> int:
    """0; ConfigError for a profile or a config that `check` would refuse."""
    if arguments[:1] in ([], ["--help"], ["-h"]):
        print(_USAGE, end="")
        return EXIT_OK
    if arguments[0] != "show":
        raise UsageError(f"{arguments[0]}: expected `pyinit seccomp show`")
    options = parse(arguments[1:], usage=_USAGE, values=("--arch", "--config"), flags=("--json", "--bpf"))
    if options is None:
        return EXIT_OK
    if len(options.names) > 1:
        raise UsageError("expected one profile, or one service: `pyinit seccomp show --config services.toml app`")
    machine = options.values.get("--arch", os.uname().machine)
    if machine not in ARCHITECTURES:
        raise UsageError(f"--arch: there is no table of {machine}; there are: {', '.join(ARCHITECTURES)}")
    name = (options.names or [""])[0]
    if "--config" in options.values:
        meant = _of_config(options.values["--config"], name)
    else:
        meant = Seccomp(name or DEFAULT_PROFILE, capabilities=DEFAULT_CAPABILITIES)
    facts = _facts(meant, machine)
    if "--bpf" not in options.flags:
        del facts["bpf"]
    print(json.dumps(facts, indent=2) if "--json" in options.flags else "\n".join(_lines(facts)))
    return EXIT_OK


def _of_config(path: str, name: str) -> Seccomp:
    config = load(path, os.environ)
    if name:
        specs = {spec.name: spec for spec in config.services}
        if name not in specs:
            raise no_such_service(name, specs)
        return specs[name].process.seccomp
    if config.container is None:
        raise UsageError(f"{path} has no [container]: name the service that is meant")
    return config.container.security.seccomp


def _facts(meant: Seccomp, machine: str) -> dict[str, object]:
    """All that is shown, as --json has it."""
    if meant.name == UNCONFINED:
        return {"profile": UNCONFINED, "architecture": machine, "calls": {}, "bpf": []}
    written = None if meant.name == DEFAULT_PROFILE else profile_of(meant.name, os.environ)
    found = profile(written, meant.capabilities)
    data = seccomp.program(found, machine, log=meant.log)
    calls = {
        name: {"number": number, **_decided(seccomp.decision(found, name))}
        for name, number in sorted(ARCHITECTURES[machine].numbers.items())
    }
    return {
        "profile": meant.name, "architecture": machine, "log": meant.log, "capabilities": list(meant.capabilities), "calls": calls,
        "unknown": seccomp.action_name(seccomp.ENOSYS), "foreign": seccomp.action_name(seccomp.KILL),
        "instructions": len(data) // bpf.SIZE, "bpf": seccomp.listing(data, machine),
    }  # fmt: skip


def _decided(one: Decision) -> dict[str, object]:
    rules = [{"when": [check.text() for check in rule.when], "action": seccomp.action_name(rule.action)} for rule in one.rules]
    return {"action": seccomp.action_name(one.action), "rules": rules}


def _lines(facts: dict[str, object]) -> list[str]:
    calls = facts["calls"]
    assert isinstance(calls, dict)
    if facts["profile"] == UNCONFINED:
        return [f"{UNCONFINED}: every system call is let through"]
    said = ", all that it refuses is let through and logged" if facts["log"] else ""
    held = facts["capabilities"]
    assert isinstance(held, list)
    lines = [f"profile {facts['profile']} for {facts['architecture']}, {facts['instructions']} instructions{said}"]
    lines += _wrapped(f"with the capabilities {' '.join(held) or '(none)'}", "", "    ")
    plain: dict[str, list[str]] = {}
    for name, one in calls.items():
        if not one["rules"]:
            plain.setdefault(one["action"], []).append(name)
    for action, names in sorted(plain.items(), key=lambda row: (row[0] != "allow", row[0])):
        lines += [f"{action} ({len(names)}):", *_wrapped(" ".join(names), "    ", "    ")]
    lines.append("by their arguments:")
    for name, one in calls.items():
        rules = [f"{' and '.join(rule['when'])}: {rule['action']}" for rule in one["rules"]]
        lines += _wrapped(f"{name}: {', '.join(rules)}, else {one['action']}", "    ", "        ") if rules else []
    lines.append(f"numbers without a name, and the x32 ABI's: {facts['unknown']}")
    lines.append(f"calls of another architecture: {facts['foreign']}")
    listing = facts.get("bpf", [])
    assert isinstance(listing, list)
    return [*lines, *(["program:", *listing] if listing else [])]


def _wrapped(text: str, indent: str, after: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=after, break_long_words=False, break_on_hyphens=False)
