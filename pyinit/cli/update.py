"""`pyinit update [SERVICE] KEY=VALUE...`: other limits for what runs.

Owns the words. Must not know groups. Law: keys and values are the config's, and so are the errors.
"""

import tomllib

from pyinit.cli import options
from pyinit.config import devices
from pyinit.config.decode import Document, Table
from pyinit.config.processes import cgroup
from pyinit.control.client import Connection
from pyinit.errors import EXIT_OK, UsageError
from pyinit.model import CgroupLimits, Origin

_USAGE = """\
usage: pyinit update [-c NAME | --socket PATH] [SERVICE] KEY=VALUE...

Give the container, or a service, other limits now: those of `cgroup` in the config, such as memory_max=256M or
cpu_max=0.5; "none" lifts one. They hold up to the next reload. What can't be held whole changes nothing.
"""
_EXAMPLE = "`pyinit update memory_max=256M`, or with a service before it"


def run(arguments: list[str]) -> int:
    """0."""
    chosen = options.parse(arguments, usage=_USAGE, values=("--timeout",))
    if chosen is None:
        return EXIT_OK
    names = [word for word in chosen.names if "=" not in word]
    said = {key: value for key, _, value in (word.partition("=") for word in chosen.names if "=" in word)}
    if len(names) > 1 or not said:
        raise UsageError(f"update {' '.join(chosen.names)}: expected {_EXAMPLE}".replace("update :", "update:"))
    request: dict[str, object] = {"verb": "update", "names": names, "limits": limits(said)}
    with Connection(chosen.socket(), request, chosen.timeout_s()) as connection:
        connection.answer()
    return EXIT_OK


def limits(said: dict[str, str]) -> dict[str, object]:
    """Fields of CgroupLimits; UsageError with every error."""
    problems: list[tuple[Origin, str]] = []
    lifted = [key for key, text in said.items() if text == "none"]
    data = {key: _value(key, text) for key, text in said.items() if key not in lifted}
    known = Table(Document("", {}, [], {}), (), {})
    cgroup(known)
    fields = {key: next((name for name in (f"{key}_bytes", key) if name in CgroupLimits._fields), "") for key in known._asked}
    data.update({key: "none" for key in lifted if key not in fields})  # no such key: told with its neighbours
    found = devices.limits(cgroup(Table(Document("", {}, problems, {}), (), data)))
    problems += [(found.origin, f"io_max: there is no block device {one.device} here") for one in found.io_max if not one.number]
    if "pressure" in said:
        problems.append((found.origin, "pressure: is no limit, and can't change while it runs; write it in the config"))
    if problems:
        raise UsageError("\n".join(text for _, text in problems))
    none = CgroupLimits()
    return {fields[key]: getattr(none if key in lifted else found, fields[key]) for key in said}


def _value(key: str, text: str) -> object:
    """As TOML has it, and a word without quotes as a string; a lone number is a CPU of a set, 0 a size (of no swap)."""
    if text == "0" or (key == "cpuset" and text.isdigit()):
        return text
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except ValueError:
        return text
