"""Killing all of a group of cgroup v1, which has no `cgroup.kill`: hold it, SIGKILL each process, let go, look again.

Owns the groups that are being killed. Must not know services or why. Laws: nothing waits, each look is a turn of the
loop and the looks have an end; a group is never left held, for a task that is frozen dies of nothing, SIGKILL
included, until it is thawed; whoever wants to join a group ends its killing first.
Source: Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst, pids.rst.
"""

import os
import time
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.init.loop import Deadline, Loop
from pyinit.linux import cgroup

_KILL = 9
_FIRST_LOOK_S, _MOST_LOOK_S = 0.001, 0.05
_FREEZE_S = 0.1  # what the freezer may take: a task in the midst of a disk's work keeps it from being done
LIMIT_S = 5.0
_SWEEPS = 16  # a look: who was forked while we read the list is in the next one


class _Run:
    """One group that is being killed."""

    def __init__(self, directory_fd: int, now: float, limit_s: float) -> None:
        self.directory_fd = directory_fd
        self.ends_at_s = now + limit_s
        self.held_since_s = 0.0  # 0: not held
        self.pause_s = _FIRST_LOOK_S
        self.forks = b"max"  # pids.max as it was
        self.deadline: Deadline | None = None


class GroupKiller:
    """`tracker`: the controller in whose hierarchy the groups are. `emptied()` is called when a look finds nobody."""

    def __init__(self, loop: Loop, tracker: str, emptied: Callable[[], None], limit_s: float = LIMIT_S) -> None:
        self._loop = loop
        self._tracker = tracker
        self._emptied = emptied
        self._limit_s = limit_s
        self._runs: dict[str, _Run] = {}

    def kill(self, name: str, directory_fd: int) -> None:
        """Begin, or begin anew."""
        self.end(name)
        self._runs[name] = _Run(directory_fd, time.monotonic(), self._limit_s)
        self._look(name)

    def end(self, name: str) -> None:
        """Its killing is over: nobody is left, or somebody new is to join."""
        run = self._runs.pop(name, None)
        if run is not None:
            if run.deadline is not None:
                run.deadline.cancel()
            self._let_go(run)

    def thaw(self, directory_fd: int) -> None:
        """Whoever froze it: what is in it can die again."""
        if self._tracker == "freezer":
            for path in cgroup.subgroups_at(directory_fd):
                with contextlib.suppress(OSError):  # removed meanwhile
                    cgroup.write_at(directory_fd, path + "freezer.state", "THAWED")

    def _look(self, name: str) -> None:
        run, now = self._runs[name], time.monotonic()
        done = self._hold(run, now)
        self._sweep(run.directory_fd)
        if done or now - run.held_since_s > _FREEZE_S:
            self._let_go(run)
        if not cgroup.pids_at(run.directory_fd):
            self.end(name)
            self._emptied()
        elif now >= run.ends_at_s:
            self.end(name)
        else:
            run.pause_s = min(run.pause_s * 2, _MOST_LOOK_S)
            run.deadline = self._loop.call_at(now + run.pause_s, lambda: self._look(name))

    def _sweep(self, directory_fd: int) -> None:
        killed: set[int] = set()
        for _ in range(_SWEEPS):
            found = set(cgroup.pids_at(directory_fd))
            if found <= killed:
                return
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # gone; of another user, where we are not root
                    os.kill(pid, _KILL)
            killed |= found

    def _hold(self, run: _Run, now: float) -> bool:
        """From now on nobody forks; False while that is not so yet. Without freezer and pids it can't be had."""
        run.held_since_s = run.held_since_s or now
        if self._tracker == "freezer":
            cgroup.write_at(run.directory_fd, "freezer.state", "FROZEN")
            return cgroup.read_at(run.directory_fd, "freezer.state") == b"FROZEN\n"
        if self._tracker == "pids":
            run.forks = cgroup.read_at(run.directory_fd, "pids.max").strip()
            cgroup.write_at(run.directory_fd, "pids.max", "0")
        return True

    def _let_go(self, run: _Run) -> None:
        if not run.held_since_s:
            return
        run.held_since_s = 0.0
        self.thaw(run.directory_fd)
        if self._tracker == "pids":
            with contextlib.suppress(OSError):  # removed meanwhile
                cgroup.write_at(run.directory_fd, "pids.max", run.forks.decode())
