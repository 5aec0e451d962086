"""The container's own control groups: made, limited, emptied, removed.

Owns what a limit is called in v1 and v2. Must not know processes of ours (delegation.py does). Laws: only groups named
`pyinit-NAME` below our own are made; tracking and killing is v2's (`cgroup.kill`), or one v1 hierarchy's where there
is no v2, limits are v1's where the host is hybrid; every directory is in the journal before it is made.
"""

import errno
import os
import select
import time
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.core.limits import PROTECTING, V1_NAMES, V2_NAMES, Setting, controllers, tracker, v1_settings, v2_settings
from pyinit.errors import LaunchError
from pyinit.init.limiting import Lack, hold, seed_cpuset
from pyinit.launch.onhost import MakeCgroup
from pyinit.linux import cgroup, process

_KILL = 9
_ACCOUNTED = {"memory", "cpu", "cpuacct", "blkio", "pids"}
_KILL_DEADLINE_S, _FREEZE_S = 5.0, 0.1


def make(
    operation: MakeCgroup, journal: Callable[[str, str], None], report: Callable[[str], None], delegated: list[cgroup.Hierarchy] | None = None,
) -> tuple[list[str], str, dict[str, str]]:  # fmt: skip
    """Make the groups; (all directories, the v2 one or "", those of v1 by controller). `journal(kind, path)` is told before each.

    `report` gets a line for each limit that can't be held here; with `operation.strict` that is a LaunchError.
    `delegated`: to an ordinary user, who has no other groups; None: we are none.
    """
    found = cgroup.hierarchies() if delegated is None else delegated
    limits = operation.limits
    made: list[str] = []
    lacks: list[Lack] = []
    unified = ""
    left = set(controllers(limits))
    handed_down = left | operation.of_services
    of_v1 = handed_down | ({"devices"} if operation.devices else set())
    for hierarchy in found:
        directory = f"{hierarchy.directory}/pyinit-{operation.name}"
        if hierarchy.version == 2:
            parent, usable = _v2_parent(hierarchy, handed_down, operation, journal)
            directory = f"{parent}/pyinit-{operation.name}"
            journal("cgroup", directory)
            if _make(directory):
                unified = directory
                made.append(directory)
                lacks += _hold(directory, [one for one in v2_settings(limits) if one.controller in usable], operation)
                left -= usable
            continue
        if not of_v1 & {V2_NAMES.get(name, name) for name in hierarchy.controllers}:
            _make_accounting(hierarchy, directory, made, journal)
            continue
        here = {name for name in handed_down if V1_NAMES.get(name, name) in hierarchy.controllers}
        journal("cgroup", directory)
        _make(directory, must=operation)
        made.append(directory)
        lacks += _hold(directory, [one for one in v1_settings(limits) if one.controller in here], operation)
        left -= here
    if not unified:
        _make_tracker(found, operation, made, journal)
    lacks += _without_controller(left, operation) if delegated is None else _undelegated(left, operation)
    texts = [f"{operation.origin}: cgroup: {lack}" for lack in sorted(lacks)]
    if texts and operation.strict:
        raise LaunchError("\n".join(texts))
    for text in texts:
        report(f"{text}; it runs without")
    return made, unified, _v1_places(found, made)


def _without_controller(left: set[str], operation: MakeCgroup) -> list[Lack]:
    """Limits whose controller is in no hierarchy here; LaunchError if they protect."""
    lost = [one for one in v2_settings(operation.limits) if one.controller in left]
    if any(one.key in PROTECTING for one in lost):
        raise LaunchError(
            f"{operation.origin}: {operation.describe()}: no mounted hierarchy has the controller "
            f"{', '.join(sorted(left))}; mount it, or take the limit out"
        )
    keys = dict.fromkeys((one.key, one.controller) for one in lost)
    return [Lack(key, f"no mounted hierarchy has the controller {controller}") for key, controller in keys]


def _undelegated(left: set[str], operation: MakeCgroup) -> list[Lack]:
    lost = [one for one in v2_settings(operation.limits) if one.controller in left]
    keys = dict.fromkeys((one.key, one.controller) for one in lost)
    return [Lack(key, f"no group with the controller {controller} is delegated to this user") for key, controller in keys]


def _make_accounting(hierarchy: cgroup.Hierarchy, directory: str, made: list[str], journal: Callable[[str, str], None]) -> None:
    """v1 counts what a group uses that has no limit, too: for `pyinit stats`, and for a limit that comes later."""
    if _ACCOUNTED & set(hierarchy.controllers):
        journal("cgroup", directory)
        if _make(directory):
            made.append(directory)


def _make_tracker(found: list[cgroup.Hierarchy], operation: MakeCgroup, made: list[str], journal: Callable[[str, str], None]) -> None:
    """Where v2 can't, a group of v1 holds what belongs to a service. The last, so the first that is undone: it thaws."""
    by_name = {name: hierarchy for hierarchy in found if hierarchy.version == 1 for name in hierarchy.controllers}
    best = tracker(by_name)
    if best:
        directory = f"{by_name[best].directory}/pyinit-{operation.name}"
        journal("cgroup", directory)
        if directory not in made and _make(directory):
            made.append(directory)


def _v2_parent(found: cgroup.Hierarchy, wanted: set[str], operation: MakeCgroup, journal: Callable[[str, str], None]) -> tuple[str, set[str]]:
    """Where the group is made, with the wanted controllers that it will have.

    Our own group if it can hand them down: the machine's root can; another can't while it holds processes (cgroups(7), "no
    internal processes"), which therefore go into a leaf, if they are all ours; nor what it was not given itself. Else the
    nearest ancestor that hands them down already.
    """
    own = found.directory
    places = _up_to_the_mount(own)
    possible = wanted & _words(f"{places[-1]}/cgroup.controllers")
    if not possible:
        return own, set()
    refusal = f"{own} was not given {', '.join(sorted(possible))}"
    if possible <= _words(f"{own}/cgroup.controllers"):
        refusal = _hand_down(found, possible, journal)
        if not refusal:
            return own, possible
    for place in places[1:]:
        if possible <= _words(f"{place}/cgroup.subtree_control") and os.access(place, os.W_OK):
            return place, possible
    if len(possible) < len(wanted):  # hybrid: the rest is found, or not, in the v1 hierarchies
        return own, set()
    hint = "; start pyinit in a group of its own, as `systemd-run --scope -p Delegate=yes` does"
    raise LaunchError(f"{operation.origin}: {operation.describe()}: {refusal}{hint}")


def _hand_down(found: cgroup.Hierarchy, names: set[str], journal: Callable[[str, str], None]) -> str:
    """Have our own group do it; "", or why it can't."""
    if not cgroup.is_machines_root(found):
        from pyinit.launch import delegation  # for those who have limits, and a group

        return delegation.hand_down(found.directory, names, journal)
    try:
        cgroup.write(found.directory, "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(names)))
    except OSError as error:
        return error.strerror or ""
    return ""


def _up_to_the_mount(directory: str) -> list[str]:
    """The group and those above it, nearest first."""
    found = [directory]
    while os.path.exists(f"{os.path.dirname(found[-1])}/cgroup.controllers"):
        found.append(os.path.dirname(found[-1]))
    return found


def _words(path: str) -> set[str]:
    with open(path) as file:
        return set(file.read().split())


def _make(directory: str, must: MakeCgroup | None = None) -> bool:
    try:
        os.mkdir(directory)
    except FileExistsError:
        pass
    except OSError as error:
        if must is None:  # tracking is a convenience: without it services are killed by session
            return False
        raise LaunchError(f"{must.origin}: {must.describe()}: {error.filename}: {error.strerror}") from error
    return True


def _hold(directory: str, settings: list[Setting], operation: MakeCgroup) -> list[Lack]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.path.exists(f"{directory}/cpuset.mems") and cgroup.is_v1_at(fd):
            seed_cpuset(fd)
        return hold(fd, settings)
    except OSError as error:
        raise LaunchError(f"{operation.origin}: {operation.describe()}: {directory}: {error.strerror}") from error
    finally:
        os.close(fd)


def v1_places(directories: list[str]) -> dict[str, str]:
    """controller -> group, of those among `directories` that are of v1."""
    return _v1_places(cgroup.hierarchies(), directories)


def _v1_places(hierarchies: list[cgroup.Hierarchy], directories: list[str]) -> dict[str, str]:
    found = {}
    for hierarchy in hierarchies:
        for directory in directories:
            if hierarchy.version == 1 and os.path.dirname(directory) == hierarchy.directory:
                found.update(dict.fromkeys(hierarchy.controllers, directory))
    return found


def kill(directory: str) -> None:
    """Kill all in a group and wait until it is empty: `cgroup.kill` and cgroup.events where v2, else by pid."""
    deadline = time.monotonic() + _KILL_DEADLINE_S
    try:
        if os.path.exists(f"{directory}/cgroup.kill"):
            with open(f"{directory}/cgroup.events", "rb") as file:
                is_populated = cgroup.is_populated(file.read())
            if is_populated:  # a kill waits for a grace period of RCU, also of nobody
                cgroup.write(directory, "cgroup.kill", "1")
                _wait_empty(directory, deadline)
            return
        while cgroup.processes(directory) and time.monotonic() < deadline:
            _freeze(directory)
            pidfds = [pidfd for pid in cgroup.processes(directory) if (pidfd := _kill_one(pid)) >= 0]
            _thaw(directory)
            for pidfd in pidfds:
                select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))
                os.close(pidfd)
    except FileNotFoundError:
        return


def _kill_one(pid: int) -> int:
    """pidfd of what dies now; -1: it is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    with contextlib.suppress(ProcessLookupError):
        process.pidfd_send_signal(pidfd, _KILL)
    return pidfd


def _freeze(directory: str) -> None:
    """v1's freezer: nobody forks from here on. Not for ever: a task in the midst of a disk's work is not frozen."""
    deadline = time.monotonic() + _FREEZE_S
    if not os.path.exists(f"{directory}/freezer.state"):
        return
    cgroup.write(directory, "freezer.state", "FROZEN")
    while _words(f"{directory}/freezer.state") != {"FROZEN"} and time.monotonic() < deadline:
        select.select([], [], [], 0.001)


def _thaw(directory: str) -> None:
    """All below, too: a frozen task dies of nothing."""
    for place, _, names in os.walk(directory):
        if "freezer.state" in names:
            cgroup.write(place, "freezer.state", "THAWED")


def _wait_empty(directory: str, deadline: float) -> None:
    fd = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        while cgroup.is_populated(os.pread(fd, 4096, 0)) and time.monotonic() < deadline:
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    finally:
        os.close(fd)


def remove(directory: str) -> None:
    """Kill what is in the group, remove it and its children; a missing one is fine."""
    kill(directory)
    deadline = time.monotonic() + _KILL_DEADLINE_S
    while True:
        try:
            cgroup.remove_tree(directory)
        except OSError as error:
            # A dying task counts a moment longer than its exit is seen.
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            select.select([], [], [], 0.002)
        else:
            return
