"""The journals of the containers on this host: who has an address, a port, a name.

Owns their form and the lock that all changes of what containers share are made under. Must not know what an entry's undoing
is (claim.py). Law: an entry counts while its container runs; of one that does not it says what is to be cleaned up.
"""

import fcntl
import os

from pyinit import scopes as contextlib
from pyinit.control import places
from pyinit.records import NamedTuple

GONE = "gone"  # of a kind, whose entries hold no more


class Entries(NamedTuple):
    """Of the container `name`: (kind, value), in the order of their making."""

    name: str
    runs: bool  # or starts, or ends
    rows: tuple[tuple[str, str], ...]

    def values(self, kind: str) -> list[str]:
        return [] if (GONE, kind) in self.rows else [value for one, value in self.rows if one == kind]


def read(directory: str) -> list[tuple[str, str]]:
    """Of one container's folder; a line that was cut off is none."""
    try:
        with open(f"{directory}/journal", opener=places.plainly) as file:
            rows = [line.rstrip("\n").partition("\t") for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []
    return list(dict.fromkeys((kind, value) for kind, _, value in rows))


def others(name: str) -> list[Entries]:
    """All that have a journal but `name`'s."""
    base = places.runtime_dir()
    running = {one.name for one in places.running()}
    names = [one for one in sorted(os.listdir(base)) if one != name and one[0] != "." and os.path.exists(f"{base}/{one}/journal")]
    return [Entries(one, one in running, tuple(read(f"{base}/{one}"))) for one in names]


def mark_gone(name: str, kind: str) -> None:
    """What `name` noted of a kind is undone, while the rest is not yet: who ends at the same time counts it no more. Under the lock."""
    with contextlib.suppress(FileNotFoundError), open(f"{places.container_dir(name)}/journal", "r+") as file:
        file.seek(0, os.SEEK_END)
        file.write(f"{GONE}\t{kind}\n")


class locked:  # noqa: N801 - a context
    """One lock of all containers: of the runtime folder itself, so that no file is left behind."""

    def __enter__(self) -> None:
        self._fd = os.open(places.runtime_dir(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
