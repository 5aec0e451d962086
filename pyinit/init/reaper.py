"""The one place that waits for children.

Owns waitpid. Must not know what a pid was. Law: nobody else in the init may wait, or an exit is lost.
"""

from pyinit.linux import process


def reap(limit: int) -> list[tuple[int, int, int]]:
    """(pid, code, signal) of up to `limit` ended children, orphans included; fewer means none is left."""
    return process.exits(limit)
