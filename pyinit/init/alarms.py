"""What the kernel tells of memory that ran out, and of pressure: as events, without a look of ours in between.

Owns the descriptors by which it tells. Must not know what follows. Laws: nothing is read before it has told; what can't
be watched here costs a line at most; each descriptor goes before its group does.
Source: cgroup-v2.rst (memory.events), cgroup-v1/memory.rst (oom_control, event_control), accounting/psi.rst.
"""

import errno
import os
import time
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.init.loop import Deadline, Loop
from pyinit.linux import cgroup
from pyinit.model import Pressure

_LOOKS_S = (0.02, 0.2, 1.0)  # v1 tells that memory has run out before anything has been killed
Happened = Callable[[str, str, str], None]


class Group:
    """`unified_fd` -1 and `memory_fd` (v1) -1 without one."""

    def __init__(self, unified_fd: int, memory_fd: int) -> None:
        self.unified_fd = unified_fd
        self.memory_fd = memory_fd


class Alarms:
    """`happened(name, "oom" or "pressure", text)` is called from the loop; `whole` is the name of all together."""

    def __init__(self, loop: Loop, whole: str, happened: Happened, report: Callable[[str], None]) -> None:
        self._loop = loop
        self._whole = whole
        self._happened = happened
        self._report = report
        self._fds: dict[str, list[int]] = {}  # that are ours to close
        self._groups: dict[str, Group] = {}
        self._kills: dict[str, int] = {}
        self._deadline: Deadline | None = None

    def watch(self, name: str, group: Group, pressures: tuple[Pressure, ...]) -> None:
        """From now on; the second time is fine."""
        if name in self._groups:
            return
        self._groups[name], self._fds[name] = group, []
        self._kills[name] = self._count(group)
        if name == self._whole and cgroup.has_at(group.unified_fd, "memory.events"):
            self._watch_v2(name, group.unified_fd)
        elif group.memory_fd >= 0:
            with contextlib.suppress(OSError):  # not ours to write; PREEMPT_RT has none
                self._watch_v1(name, group.memory_fd)
        for one in pressures:
            self._watch_pressure(name, group.unified_fd, one)

    def forget(self, name: str) -> None:
        """Its group goes."""
        for fd in self._fds.pop(name, []):
            self._loop.remove_reader(fd)
            os.close(fd)
        self._groups.pop(name, None)
        self._kills.pop(name, None)

    def close(self) -> None:
        for name in list(self._groups):
            self.forget(name)

    def _watch_v2(self, name: str, directory_fd: int) -> None:
        fd = os.open("memory.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory_fd)
        os.pread(fd, 4096, 0)

        def told() -> None:
            os.pread(fd, 4096, 0)  # arms it anew
            self._look(())

        self._loop.add_reader(fd, told, priority=True)
        self._fds[name].append(fd)

    def _watch_v1(self, name: str, directory_fd: int) -> None:
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = os.open("memory.oom_control", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory_fd)
        try:
            cgroup.write_at(directory_fd, "cgroup.event_control", f"{fd} {control}")
        except OSError:
            os.close(fd)
            raise
        finally:
            os.close(control)

        def told() -> None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(fd)
            self._look(_LOOKS_S)

        self._loop.add_reader(fd, told)
        self._fds[name].append(fd)

    def _look(self, again_s: tuple[float, ...]) -> None:
        """Whose processes were killed? If nobody's yet, look once more in a while."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        counts = {name: self._count(group) for name, group in self._groups.items()}
        grown = {name: count - self._kills[name] for name, count in counts.items() if count > self._kills[name]}
        services = [name for name in grown if name != self._whole]
        killed, named = grown.get(self._whole, 0), sum(grown[name] for name in services)
        if not cgroup.has_at(self._groups[self._whole].unified_fd, "memory.events"):
            killed += named  # v1 counts a death in the group of the dead alone
        elif killed < named:  # it is counted upward, and here in the midst of that: the whole will tell once it is there
            return
        self._kills = counts
        if killed:
            of = f" of {', '.join(services)}" if services else ""
            self._happened(self._whole, "oom", f"out of memory: {killed} process{'es' if killed > 1 else ''}{of} killed")
        elif again_s:
            self._deadline = self._loop.call_at(time.monotonic() + again_s[0], lambda: self._look(again_s[1:]))

    @staticmethod
    def _count(group: Group) -> int:
        for fd, name in ((group.unified_fd, "memory.events"), (group.memory_fd, "memory.oom_control")):
            if cgroup.has_at(fd, name):
                with contextlib.suppress(OSError):
                    return cgroup.oom_kills(cgroup.read_at(fd, name))
        return 0

    def _watch_pressure(self, name: str, directory_fd: int, wanted: Pressure) -> None:
        if directory_fd < 0:
            self._report(f"{wanted.origin}: cgroup.pressure.{wanted.kind}: {name} has no group of cgroup v2 here; nobody tells of it")
            return
        try:
            fd = os.open(f"{wanted.kind}.pressure", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory_fd)
        except OSError as error:
            self._report(f"{wanted.origin}: cgroup.pressure.{wanted.kind}: {error.strerror}; nobody tells of it")
            return
        try:
            os.write(fd, f"some {wanted.stall_us} {wanted.window_us}\0".encode())
        except OSError as error:
            os.close(fd)
            odd = error.errno == errno.EINVAL and wanted.window_us % 2_000_000
            why = "without CAP_SYS_RESOURCE the window must be a multiple of 2s" if odd else error.strerror
            self._report(f"{wanted.origin}: cgroup.pressure.{wanted.kind}: {why}; nobody tells of it")
            return
        text = f"{wanted.kind}: some waited {wanted.stall_us / 1e6:g} s or more within {wanted.window_us / 1e6:g} s"
        self._loop.add_reader(fd, lambda: self._happened(name, "pressure", text), priority=True)
        self._fds[name].append(fd)

