"""A group of cgroup v2 that holds nobody but us: how it comes to hand its controllers down.

Owns the leaf in which we stand meanwhile. Must not know what is made beside that (cgroups.py, init/groups.py). Laws:
nobody else's process is moved; the leaf is in the journal before it is made; undone, the group is as it was found.
Source: cgroups(7), "Cgroups v2 'no internal processes' rule" and "Cgroups delegation".
"""

import os
from _collections_abc import Callable, Iterable

from pyinit import scopes as contextlib
from pyinit.init.upward import INHERITED
from pyinit.linux import cgroup

LEAF = "monitor"
_MOST_ROUNDS = 16


def hand_down(own: str, controllers: Iterable[str], journal: Callable[[str, str], None]) -> str:
    """Have our own group hand `controllers` down, with us in a leaf below it; "", or why that can't be."""
    leaf = f"{own}/{LEAF}"
    if others := _others(own):
        return others
    journal("leaf", leaf)
    try:
        with contextlib.suppress(FileExistsError):  # of a monitor that was killed
            os.mkdir(leaf)
        others = _move(own, leaf, _others)
        if not others:
            cgroup.write(own, "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(controllers)))
    except OSError as error:
        others = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or ""
    if others:
        with contextlib.suppress(OSError):  # once more at the end, by the journal
            take_back(leaf)
    return others


def _others(own: str) -> str:
    found = strangers(_parents(cgroup.processes_of(own)), _ours())
    return f"{own} holds other processes, such as {found[0]} ({_name(found[0])})" if found else ""


def take_back(leaf: str) -> None:
    """Who is in the leaf into the group above it, which hands nothing down any more; a missing one is fine."""
    if not os.path.isdir(leaf):
        return
    own = os.path.dirname(leaf)
    stop_handing_down(own)
    _move(leaf, own)
    os.rmdir(leaf)


def stop_handing_down(directory: str) -> None:
    """OSError EBUSY: a group below hands them down itself."""
    with open(f"{directory}/cgroup.subtree_control") as file:
        names = file.read().split()
    if names:
        cgroup.write(directory, "cgroup.subtree_control", " ".join(f"-{name}" for name in names))


def remove_empty(directory: str) -> None:
    """A group and those below it, but for what holds a process that is meant to stay (kill = "process")."""
    if not os.path.isdir(directory):
        return
    stop_handing_down(directory)
    below = [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    for path in (*below, directory):
        with contextlib.suppress(OSError):
            cgroup.remove_tree(path)


def _move(source: str, target: str, obstacle: Callable[[str], str] = lambda _: "") -> str:
    """Again for those that were forked meanwhile: a child is where its parent was. "", or what came between."""
    for _ in range(_MOST_ROUNDS):
        pids = cgroup.processes_of(source)
        if not pids:
            break
        if why := obstacle(source):
            return why
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                cgroup.write(target, "cgroup.procs", str(pid))
    return ""


def _ours() -> frozenset[int]:
    """Who we are, and the one that waits until it is detached."""
    waits = os.environ.get("NOTIFY_SOCKET", "").startswith(INHERITED)
    return frozenset((os.getpid(), os.getppid()) if waits else (os.getpid(),))


def strangers(parents: dict[int, int], ours: frozenset[int]) -> list[int]:
    """Who of a group's processes, each with its parent, is neither one of `ours` nor descends from one."""
    found = []
    for pid in parents:
        seen = pid
        while seen in parents and seen not in ours:
            seen = parents[seen]
        if seen not in ours:
            found.append(pid)
    return found


def _parents(pids: list[int]) -> dict[int, int]:
    """proc_pid_stat(5), behind the name's bracket; who ends meanwhile is left out. 0 is outside of our pid namespace."""
    found = {}
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
                found[pid] = int(file.read(1024).rpartition(b")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            if pid == 0:
                found[pid] = -1
    return found


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().rstrip("\n")
    except OSError:
        return "it is outside of this pid namespace" if pid == 0 else "it has ended"
