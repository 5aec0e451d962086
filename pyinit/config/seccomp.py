"""`seccomp` and `seccomp_log`: which profile a container or a service has.

Owns these keys. Must not know what stands in a profile (profiles.py).
"""

import os

from pyinit.config.decode import Table, show
from pyinit.config.sources import absolute
from pyinit.errors import hint
from pyinit.model import DEFAULT_PROFILE, NOWHERE, UNCONFINED, Seccomp

_WORDS = (DEFAULT_PROFILE, UNCONFINED)
_ANY = '"default", "unconfined" or the path of a profile, with a / or .toml in it'


def wanted(table: Table, default: str) -> Seccomp:
    """Without its program; the origin is of whichever key is there."""
    name = table.string("seccomp", default, what=_ANY)
    if name not in _WORDS and ("/" in name or name.endswith(".toml")):
        name = absolute(table, name)
    elif name not in _WORDS:
        table.fault("seccomp", f"expected {_ANY}, found {show(name)}{hint(name, _WORDS)}")
        name = UNCONFINED
    log = table.boolean("seccomp_log")
    at = [table.at(key) for key in ("seccomp", "seccomp_log") if key in table.data]
    return Seccomp(name, log, origin=at[0] if at else NOWHERE)


def shown(path: str, beside: str) -> str:
    """A profile's path in messages: as it is reached from where the config's file `beside` is named."""
    folder = os.path.dirname(beside)
    relative = os.path.relpath(path, os.path.abspath(folder))
    return path if relative.startswith("..") else os.path.join(folder, relative)
