"""A pod: containers that live in the network of another one, and may outlive it.

Owns who is in whose, and when what that one had of the host, its link, addresses, ports and names, is given back. Must not
know what these are. Laws: a member notes its owner under the lock of all journals, and starts only while that network is
whole; whoever of them ends last has the owner's journal undone.
"""

import errno
import os

from pyinit.control import places
from pyinit.launch import journals
from pyinit.launch.journals import GONE, POD, Note, locked, mark_gone, others

_WHOLE = "network"  # as a kind that is gone: the owner has begun to give it back


def join(what: str, name: str, pid: int, note: Note) -> None:
    """`name`, whose PID 1 is `pid`, lives in the network of the container `what`; OSError if that is ending."""
    with locked():
        found = next((one for one in places.running() if one.name == what), None)
        owner = _owner(what)
        if found is None or (GONE, _WHOLE) in journals.read(places.container_dir(owner)) or not _is_same(found.pid, pid):
            raise OSError(errno.ESRCH, f"container {what} has just ended; start it first")
        note(POD, f"{owner}\t{name}")


def _owner(name: str) -> str:
    """Itself, or in whose network it lives itself."""
    rows = journals.read(places.container_dir(name))
    return next((value.partition("\t")[0] for kind, value in rows if kind == POD), name)


def _is_same(one: int, other: int) -> bool:
    try:
        return os.stat(f"/proc/{one}/ns/net").st_ino == os.stat(f"/proc/{other}/ns/net").st_ino
    except FileNotFoundError:
        return False


def members(owner: str) -> list[str]:
    """Who lives in its network, beside itself."""
    return [one.name for one in others(owner) if one.runs and owner in one.owners()]


def give_back(owner: str) -> list[str]:
    """Who keeps its network from being given back; if nobody does, none joins it any more."""
    with locked():
        found = members(owner)
        if not found:
            mark_gone(owner, _WHOLE)
    return found


def leave(line: str) -> None:
    """Of the journal: the owner, and who was in its network; OSError for what could not be undone."""
    owner, _, name = line.partition("\t")
    with locked():
        mark_gone(name, POD)
        if members(owner) or owner in {one.name for one in places.running()}:
            return
    from pyinit.launch import claim  # which knows us

    problems = claim.tidy(owner)
    if problems:
        raise OSError(errno.EIO, "; ".join(problems))
