"""`[container.hooks]`: commands that run on the host.

Owns their keys and forms. Must not know when they run.
"""

from pyinit.config.decode import Table, show
from pyinit.config.probes import command
from pyinit.model import HostHook, HostHooks


def hooks(table: Table | None) -> HostHooks:
    if table is None:
        return HostHooks()
    timeout_s = table.duration("timeout", HostHooks().timeout_s)
    if timeout_s <= 0:
        table.fault("timeout", "expected a time above 0")
    found = HostHooks(_commands(table, "prestart"), _commands(table, "poststop"), timeout_s)
    table.close()
    return found


def _commands(table: Table, key: str) -> tuple[HostHook, ...]:
    """A list of commands, or one command; each with its own line."""
    value = table.raw(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not value or not isinstance(value[0], list):
        words = command(table, key)
        return (HostHook(words, table.at(key)),) if words else ()
    found = []
    for number, words in enumerate(value):
        if not isinstance(words, list) or not words or not all(isinstance(w, str) and "\0" not in w for w in words) or not words[0]:
            table.fault(key, f'expected a command such as ["/usr/bin/logger", "up"], found {show(words)}', number)
        else:
            found.append(HostHook(tuple(words), table.document.origin((*table.path, key, number))))
    return tuple(found)
