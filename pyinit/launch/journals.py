"""The journals of the containers on this host: who has an address, a port, a name.

Owns their form and the lock that all changes of what containers share are made under. Must not know what an entry's undoing
is (claim.py). Law: an entry counts while its container runs, or another one in its network; else it says what is to be cleaned up.
"""

import errno
import fcntl
import os
import select
import time
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.control import places
from pyinit.records import NamedTuple

GONE = "gone"  # of a kind, whose entries hold no more
POD = "pod"  # in whose network a container lives, and its own name
_PATIENCE_S = 30.0  # 50 starts at once have it for 5 s, one after the other
_TURN_S = 0.003
Note = Callable[[str, str], None]


class Entries(NamedTuple):
    """Of the container `name`: (kind, value), in the order of their making."""

    name: str
    runs: bool  # or starts, or ends, or has a network in which another one lives
    rows: tuple[tuple[str, str], ...]

    def values(self, kind: str) -> list[str]:
        return [] if (GONE, kind) in self.rows else [value for one, value in self.rows if one == kind]

    def owners(self) -> list[str]:
        """Whose network it lives in, if not its own."""
        return [value.partition("\t")[0] for value in self.values(POD)]


def read(directory: str) -> list[tuple[str, str]]:
    """Of one container's folder; a line that was cut off is none."""
    try:
        fd = places.plainly(f"{directory}/journal", 0)
    except FileNotFoundError:
        return []
    with open(fd) as file:
        rows = [line.rstrip("\n").partition("\t") for line in file if line.endswith("\n")]
    return list(dict.fromkeys((kind, value) for kind, _, value in rows))


def add(directory: str, kind: str, value: str, flags: int = 0) -> None:
    """To one container's folder: the whole line, or, where the disk is full, nothing that the next one would be joined to."""
    fd = os.open(f"{directory}/journal", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
    try:
        size_bytes, data = os.fstat(fd).st_size, f"{kind}\t{value}\n".encode()
        try:
            while data:
                data = data[os.write(fd, data) :]
        except OSError:
            os.ftruncate(fd, size_bytes)
            raise
    finally:
        os.close(fd)


def others(name: str) -> list[Entries]:
    """All that have a journal but `name`'s."""
    base = places.runtime_dir()
    running = {one.name for one in places.running()}
    names = [one for one in sorted(os.listdir(base)) if one != name and one[0] != "." and os.path.exists(f"{base}/{one}/journal")]
    found = [Entries(one, one in running, tuple(read(f"{base}/{one}"))) for one in names]
    owners = {owner for one in found if one.runs for owner in one.owners()}
    return [one._replace(runs=True) if one.name in owners else one for one in found]


def mark_gone(name: str, kind: str) -> None:
    """What `name` noted of a kind is undone, while the rest is not yet: who ends at the same time counts it no more. Under the lock."""
    with contextlib.suppress(FileNotFoundError):
        add(places.container_dir(name), GONE, kind)


class locked:  # noqa: N801 - a context
    """One lock of all containers: of the runtime folder itself, so that no file is left behind. TimeoutError, with who has it."""

    def __init__(self, patience_s: float = _PATIENCE_S) -> None:
        self._patience_s = patience_s

    def __enter__(self) -> None:
        self._fd = os.open(places.runtime_dir(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    said = f"{places.runtime_dir()} has been locked for {self._patience_s:g} s by {_holder(self._fd)}, which changes what containers share; end that"
                    os.close(self._fd)
                    raise TimeoutError(errno.ETIMEDOUT, said) from None
            select.select([], [], [], _TURN_S)  # flock(2) knows no deadline

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _holder(fd: int) -> str:
    """Of the lock on what `fd` is, by proc_locks(5)."""
    number = os.fstat(fd).st_ino
    with open("/proc/locks") as file:
        rows = [line.split() for line in file]
    pid = next((int(row[4]) for row in rows if row[1:2] == ["FLOCK"] and row[5].rpartition(":")[2] == str(number)), 0)
    try:
        with open(f"/proc/{pid}/comm") as file:
            return f"process {pid} ({file.read().strip()})"
    except OSError:
        return "a process that can't be seen from here"
