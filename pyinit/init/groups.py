"""What a service left behind: found and killed by its cgroup, or by its session.

Owns the service's cgroup directories. Must not know why. Laws: a group's directory fd is opened before the mount
goes read-only; without a writable cgroup v2 a hierarchy of v1 holds the service's group, the freezer if there is one;
without any the session is the group (its number lives as long as any member does, so it is never another's), and what
left the session is known by a marker in its environment.
"""

import errno
import os
import time
from _collections_abc import Callable, Container

from pyinit import scopes as contextlib
from pyinit.core.limits import V1_NAMES, change, controllers, tracker, v1_settings, v2_settings
from pyinit.init.kill_v1 import GroupKiller
from pyinit.init.limiting import Lack, exchange, hold, places, seed_cpuset
from pyinit.init.loop import Loop
from pyinit.init.stats import Group
from pyinit.linux import cgroup
from pyinit.model import CgroupLimits, ServiceSpec

_KILL = 9
_MOST_ROUNDS = 16
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_AGAIN_S = 0.5
_ACCOUNTED = frozenset({"memory", "cpu", "io", "pids"})
MARKER = "PYINIT_SERVICE"
EXEC_LEAF = "exec"  # of commands that belong to no service
_MARK = b"\0PYINIT_SERVICE="


class Groups:
    """`finished(name)` is called, from the loop, when nothing of a killed service is alive."""

    def __init__(self, root_fd: int, v1_fds: dict[str, int], loop: Loop, finished: Callable[[str], None], known: Callable[[], Container[int]], *, fresh: bool = False) -> None:
        """`root_fd`: the init's own group of cgroup v2, writable; -1 without one. `v1_fds`: those of v1, by controller.

        `fresh`: that group was made for us, so nobody has ever written to its cgroup.kill.
        """
        self._token = os.urandom(6).hex()  # another pyinit's services may have the same names
        self._known = known  # pids of the children that we started, and nobody left behind
        self._v1_fds = v1_fds
        self._limits: dict[str, dict[str, int]] = {}  # service -> controller -> its group of v1 that holds a limit
        self._is_v2 = root_fd >= 0
        self._is_fresh = fresh and self._is_v2
        self._unkilled: set[str] = set()  # whose group is as fresh: one may be born there (process.clone)
        kind = "" if self._is_v2 else tracker(v1_fds)
        self._root_fd = v1_fds[kind] if kind else root_fd
        self._whole = Group(root_fd, v1_fds) if root_fd >= 0 or v1_fds else None
        self._freezes_v1 = kind == "freezer"
        self._killer = GroupKiller(loop, kind, self.check)
        self._loop = loop
        self._finished = finished
        self._directories: dict[str, int] = {}
        self._handed_down: frozenset[str] = frozenset()
        self._oom_kills: dict[str, int] = {}
        self._procs: dict[str, tuple[int, ...]] = {}
        self._held: dict[str, CgroupLimits] = {}  # what was written into its groups
        self._lacks: dict[str, tuple[str, ...]] = {}
        self._sessions: dict[str, int] = {}
        self._pending: set[str] = set()

    def directory_for(self, name: str) -> int:
        """fd of the service's own group, made at first use; -1 where groups can't be had."""
        if self._root_fd < 0:
            return -1
        if name not in self._directories:
            folder = f"svc-{name}" if name else EXEC_LEAF
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, dir_fd=self._root_fd)
                    if self._is_fresh:
                        self._unkilled.add(name)
                self._directories[name] = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root_fd)
            except OSError:
                return -1
        return self._directories[name]

    def birthplace(self, name: str) -> int:
        """fd of the service's own group, if its processes may be born there; else -1."""
        return self._directories[name] if name in self._unkilled else -1

    def was_killed(self, name: str) -> None:
        """A process of the service was, and perhaps its group, by whomever."""
        self._unkilled.discard(name)

    def procs_for(self, spec: ServiceSpec) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """(`cgroup.procs` of the service's groups, open for writing; what can't be held of its limits, in words). OSError."""
        name = spec.name
        directory = self.directory_for(name)
        self._killer.end(name)  # who joins now is not meant
        if name not in self._procs:
            wanted = controllers(spec.cgroup)
            here = self._hand_down(wanted) if directory >= 0 and self._is_v2 else frozenset()
            lacks = hold(directory, [one for one in v2_settings(spec.cgroup) if one.controller in here]) if here else []
            joined = [*([directory] if directory >= 0 else []), *self._limit_v1(spec, wanted - here, lacks)]
            missing = ", ".join(sorted(wanted - here - set(self._limits.get(name, {}))))
            without = f"there is no group here whose controller {missing} could hold the limit"
            self._lacks[name] = (*((without,) if missing else ()), *(str(lack) for lack in lacks))
            self._procs[name] = tuple(os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=fd) for fd in joined)
            self._held[name] = spec.cgroup
        return self._procs[name], self._lacks[name]

    def _hand_down(self, wanted: frozenset[str]) -> frozenset[str]:
        """Which of the controllers of v2 a service's group has; PID 1 itself stands in a leaf beside it.

        Those that count what is used are handed down to all, for `pyinit stats`.
        """
        had = frozenset(cgroup.read_at(self._root_fd, "cgroup.controllers").decode().split()) & (wanted | _ACCOUNTED)
        if had - self._handed_down:
            try:
                cgroup.write_at(self._root_fd, "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(had)))
            except OSError:  # not ours to hand down
                return frozenset()
            self._handed_down |= had
        return had & wanted

    def can_freeze(self, name: str) -> bool:
        """Whether its processes are in a group of v2, or of v1's freezer."""
        return name in self._directories and (self._is_v2 or self._freezes_v1)

    def freeze(self, name: str, *, frozen: bool) -> None:
        """All processes of the service stand still, or go on; OSError."""
        if self._is_v2:
            cgroup.write_at(self._directories[name], "cgroup.freeze", str(int(frozen)))
        elif frozen:
            cgroup.write_at(self._directories[name], "freezer.state", "FROZEN")
        else:
            self._killer.thaw(self._directories[name])

    def unified_fd(self, name: str) -> int:
        """Its group of v2, "" being all together; -1 without one."""
        return (self._directories.get(name, -1) if name else self._root_fd) if self._is_v2 else -1

    def memory_fd(self, name: str) -> int:
        """The same of v1's memory controller."""
        return (self._limits.get(name, {}) if name else self._v1_fds).get("memory", -1)

    def numbers(self, name: str) -> dict[str, object]:
        """What the service uses, as far as its own groups count it."""
        v1 = {V1_NAMES.get(key, key): fd for key, fd in self._limits.get(name, {}).items()}
        return Group(self._directories.get(name, -1) if self._is_v2 else -1, v1).numbers()

    def whole_numbers(self) -> dict[str, object] | None:
        """What all use together, PID 1 with them; None without a group of our own."""
        return self._whole.numbers() if self._whole is not None else None

    def _limit_v1(self, spec: ServiceSpec, wanted: frozenset[str], lacks: list[Lack]) -> list[int]:
        """A group below the container's in each v1 hierarchy that has one of these controllers."""
        found: dict[str, int] = {}
        self._limits[spec.name] = found
        for name in sorted(wanted):
            if self._make_v1(spec.name, name):
                lacks += hold(found[name], [one for one in v1_settings(spec.cgroup) if one.controller == name])
        return list(found.values())

    def _make_v1(self, service: str, controller: str) -> bool:
        """Its group below the container's in the hierarchy of v1 that has the controller, if there is one."""
        fd = self._v1_fds.get(V1_NAMES.get(controller, controller), -1)
        if fd < 0:
            return False
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"svc-{service}", dir_fd=fd)
        made = self._limits[service][controller] = os.open(f"svc-{service}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        if controller == "cpuset":
            seed_cpuset(made)
        return True

    def _join_v1(self, name: str, limits: CgroupLimits) -> None:
        """Groups of v1 that the limits need and the service has not, with all its processes in them; OSError.

        What was counted before stays with the container's group: v1 moves no memory (memory.rst, 3.3).
        """
        had = self._limits.get(name, {})
        here = frozenset(cgroup.read_at(self._directories[name], "cgroup.controllers").decode().split()) if self._is_v2 else frozenset()
        for controller in sorted(controllers(limits) - here - had.keys()):
            if name in self._directories and self._make_v1(name, controller):
                self._procs[name] = (*self._procs[name], os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=had[controller]))
                self._move(name, had[controller])

    def _move(self, name: str, into: int) -> None:
        """Again for those that were forked meanwhile: a child is where its parent was."""
        moved: set[int] = set()
        for _ in range(_MOST_ROUNDS):
            left = set(self.members(name)) - moved
            if not left:
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    cgroup.write_at(into, "cgroup.procs", str(pid))
            moved |= left

    def limit_again(self, spec: ServiceSpec) -> list[str]:
        """Other limits for a service that runs: what can't be held of them; OSError."""
        name = spec.name
        if name not in self._procs:
            return []
        self._killer.end(name)  # it would write back a limit that it found
        self._join_v1(name, spec.cgroup)
        old, self._held[name] = self._held[name], spec.cgroup
        lacks: list[Lack] = []
        for controller, fd in self._limits.get(name, {}).items():
            lacks += hold(fd, [one for one in change(old, spec.cgroup, 1) if one.controller == controller])
        if name in self._directories and self._is_v2:
            here = cgroup.read_at(self._directories[name], "cgroup.controllers").decode().split()
            lacks += hold(self._directories[name], [one for one in change(old, spec.cgroup, 2) if one.controller in here])
        return [str(lack) for lack in lacks]

    def exchange(self, name: str, old: CgroupLimits, new: CgroupLimits) -> str:
        """Other limits for a service, all of them, or none and the text says why; "" also where it has yet to start."""
        if name not in self._procs:
            return ""
        self._killer.end(name)
        try:
            self._join_v1(name, new)
        except OSError as error:
            return f"its processes can't be put into a group for it: {error.strerror}"
        unified = self._directories.get(name, -1) if self._is_v2 else -1
        why = exchange(places(unified, self._limits.get(name, {})), old, new)
        if not why:
            self._held[name] = new
        return why

    def exchange_whole(self, old: CgroupLimits, new: CgroupLimits) -> str:
        """The same for all together."""
        return exchange(places(self._root_fd if self._is_v2 else -1, self._v1_fds), old, new)

    def close_procs(self, name: str) -> None:
        """Of a service whose controllers may be others at its next start."""
        for fd in (*self._procs.pop(name, ()), *self._limits.pop(name, {}).values()):
            os.close(fd)

    def ran_out_of_memory(self, name: str) -> bool:
        """Whether the kernel killed any of the service's processes for want of memory since the last answer."""
        v1 = self._limits.get(name, {}).get("memory", -1)
        place, file = (v1, "memory.oom_control") if v1 >= 0 else (self._directories.get(name, -1), "memory.events")
        if place < 0:
            return False
        try:
            count = cgroup.oom_kills(cgroup.read_at(place, file))
        except FileNotFoundError:  # the memory controller is not on here
            return False
        except OSError as error:  # no descriptor is left: that must not cost the exit that this is asked of
            if error.errno not in _SHORT:
                raise
            return False
        before, self._oom_kills[name] = self._oom_kills.get(name, 0), count
        return count > before

    def forget(self, name: str) -> None:
        """The service is gone for good, and empty."""
        self._sessions.pop(name, None)
        self._unkilled.discard(name)
        self._killer.end(name)
        for controller in self._limits.get(name, {}):
            with contextlib.suppress(OSError):
                os.rmdir(f"svc-{name}", dir_fd=self._v1_fds[V1_NAMES.get(controller, controller)])
        self.close_procs(name)
        if name in self._directories:
            os.close(self._directories.pop(name))
            with contextlib.suppress(OSError):
                os.rmdir(f"svc-{name}", dir_fd=self._root_fd)

    def started(self, name: str, pid: int) -> None:
        self._sessions[name] = pid

    def signal(self, name: str, number: int) -> None:
        """To every process of the service."""
        if number == _KILL and name in self._directories:
            self._unkilled.discard(name)
            if self._is_v2:
                _kill_v2(self._directories[name])
            else:
                self._killer.kill(name, self._directories[name])
            return
        for pid in self.members(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self, name: str, policy: str) -> None:
        """SIGKILL what is left; with policy "process" nothing is."""
        self._pending.add(name)
        try:
            if policy != "process" and not self._is_empty(name):
                self.signal(name, _KILL)
                return
        except OSError as error:
            self._later(error, lambda: self.kill(name, policy))
            return
        self._pending.discard(name)
        self._loop.call_soon(lambda: self._finished(name))

    def _later(self, error: OSError, callback: Callable[[], None]) -> None:
        """Again in a moment, if what is short now is a descriptor or memory."""
        if error.errno not in _SHORT:
            raise error
        self._loop.call_at(time.monotonic() + _AGAIN_S, callback)

    def check(self) -> None:
        """After exits: whose clean-up is over? Orphans come to us, so each death passes through the reaper."""
        try:
            self._check()
        except OSError as error:
            self._later(error, self.check)

    def _check(self) -> None:
        for name in sorted(self._pending):
            if self._is_empty(name):
                self._pending.discard(name)
                self._killer.end(name)
                self._finished(name)

    def close(self) -> None:
        """Nothing stays held: the end of a pid namespace waits for all that is in it."""
        for name, directory in self._directories.items():
            self._killer.end(name)
            self._killer.thaw(directory)

    def _is_empty(self, name: str) -> bool:
        if name in self._directories:
            directory = self._directories[name]
            return not (cgroup.is_populated(cgroup.read_at(directory, "cgroup.events")) if self._is_v2 else cgroup.pids_at(directory))
        return not self._has_strangers() or not self.members(name)

    def _has_strangers(self) -> bool:
        """Whether any child of ours is none that we know: what lost its parent comes to us, by prctl(2)'s subreaper.

        One file, where a look at each process of the machine would cost 20 ms beside 500 services.
        """
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", "rb", buffering=0) as file:
                children = file.read().split()
        except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
            return True
        known = self._known()
        return any(int(pid) not in known for pid in children)

    def environment(self, name: str) -> dict[str, str]:
        """What a service must carry to be found again; nothing where it has a cgroup."""
        return {} if self._root_fd >= 0 else {MARKER: f"{self._token}:{name}"}

    def census(self, names: tuple[str, ...]) -> dict[str, list[int]]:
        """Live pids of each service; without cgroups by one look at each process, not one for each service."""
        found: dict[str, list[int]] = {name: self.members(name) for name in names if name in self._directories}
        others = {self._sessions[name]: name for name in names if name not in found and self._sessions.get(name)}
        found.update({name: [] for name in others.values()})
        for pid in _pids() if others else ():
            session, mark = _session_and_mark(pid, set(others))
            token, _, marked = mark.partition(":")
            name = marked if token == self._token else others.get(session, "")
            if name in found:
                found[name].append(pid)
        return found

    def members(self, name: str) -> list[int]:
        """Live pids of the service."""
        if name in self._directories:
            return cgroup.pids_at(self._directories[name])
        session = self._sessions.get(name, 0)
        return [pid for pid in _pids() if _belongs(pid, session, f"{self._token}:{name}")] if session else []


def _kill_v2(directory_fd: int) -> None:
    """All of the group and of those below it. A group stays frozen after it: the next to join would hang."""
    cgroup.write_at(directory_fd, "cgroup.kill", "1")
    for path in cgroup.subgroups_at(directory_fd):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            cgroup.write_at(directory_fd, path + "cgroup.freeze", "0")


def _pids() -> list[int]:
    """None where a runtime has given us no /proc: cli/roles.py has said so."""
    try:
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    except FileNotFoundError:
        return []


def _belongs(pid: int, session: int, wanted: str) -> bool:
    """Whether a live process is of that session or carries the service's mark."""
    found, mark = _session_and_mark(pid, {session})
    return found == session or mark == wanted


def _session_and_mark(pid: int, sessions: set[int]) -> tuple[int, str]:
    """(0, "") for what is dead or not to be read; the mark only of what is in none of `sessions`.

    proc_pid_stat(5), behind the name's bracket.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(512).rpartition(b")")[2].split()
        if fields[0] in (b"Z", b"X") or pid == os.getpid():
            return 0, ""
        if int(fields[3]) in sessions:
            return int(fields[3]), ""
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            environment = file.read(1 << 16)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0, ""
    start = (b"\0" + environment).find(_MARK)
    return 0, environment[start + len(_MARK) - 1 :].partition(b"\0")[0].decode() if start >= 0 else ""
