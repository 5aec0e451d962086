"""What services say of themselves by sd_notify: readiness, status, main process, watchdog, descriptors to keep.

Owns what was said and the watchdogs. Must not know sockets (notify.py). Laws: a service can speak for itself only;
what is kept for it is bounded; a process is taken for the main one only if it is one of the service's.
"""

import errno
import fcntl
import os
import stat
import time

from pyinit import scopes as contextlib
from pyinit.core import events as e
from pyinit.init.beside import NO_ROOM
from pyinit.init.loop import Deadline
from pyinit.init.notify import Notify
from pyinit.init.privileges import RefusedError
from pyinit.linux import process
from pyinit.linux.fds import discard
from pyinit.model import ServiceSpec
from pyinit.protocol.notify import Message
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.init.pid1 import Init


class _Said:
    """Of the present process; but for `fds`, which outlive it."""

    def __init__(self) -> None:
        self.status = ""
        self.errno = 0
        self.reloading = False
        self.stopping = False
        self.watchdog_s: float | None = None  # None: as the config has it
        self.deadline: Deadline | None = None


class Words:
    def __init__(self, init: "Init", state_dir: str) -> None:
        self._init = init
        self._notify = Notify(init.loop, state_dir, self._told)
        self._said: dict[str, _Said] = {}
        self._fds: dict[str, list[tuple[str, int]]] = {}  # name, fd

    def prepare(self, spec: ServiceSpec, uid: int) -> None:
        """Before a fork; OSError, RefusedError."""
        try:
            self._notify.prepare(spec, uid)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            where = f"{error.filename}: " if error.filename else ""
            hint = "; it is pyinit's: remove what is there" if error.errno == errno.EEXIST else ""
            raise RefusedError("files", error.errno or 0, f"{spec.origin}: NOTIFY_SOCKET: {where}{error.strerror}{hint}") from error
        self._silence(spec.name)

    def environment(self, spec: ServiceSpec) -> dict[str, str]:
        """NOTIFY_SOCKET and WATCHDOG_USEC, where they are wanted."""
        return self._notify.environment(spec)

    @staticmethod
    def pid_variables(spec: ServiceSpec) -> tuple[str, ...]:
        return ("WATCHDOG_PID",) if spec.watchdog_s else ()

    def stored(self, name: str) -> list[tuple[str, int]]:
        """(name, fd) of what the service left here."""
        return list(self._fds.get(name, []))

    def status(self, name: str) -> dict[str, object]:
        """What `status` shows of it."""
        said = self._said.get(name)
        if said is None:
            return {"text": "", "errno": 0, "reloading": False, "stopping": False, "stored_fds": len(self._fds.get(name, []))}
        return {
            "text": said.status, "errno": said.errno, "reloading": said.reloading, "stopping": said.stopping,
            "stored_fds": len(self._fds.get(name, [])),
        }  # fmt: skip

    def drain(self) -> None:
        """Before a reap."""
        self._notify.drain()

    def changed(self, name: str, state: str) -> None:
        """The service entered a state: a watchdog runs while it is ready, and what it said goes with its process."""
        if state == "ready":
            self._said.setdefault(name, _Said())
            self._feed(name)
        elif state in ("stopped", "failed", "done", "waiting", "backoff"):
            self._silence(name)
        elif name in self._said:
            self._stop_watchdog(name)

    def pause(self, name: str) -> None:
        """It stands still: no sign of life is waited for."""
        if name in self._said:
            self._stop_watchdog(name)

    def resume(self, name: str) -> None:
        """The watchdog's time begins anew."""
        if name in self._said:
            self._feed(name)

    def forget(self, name: str) -> None:
        """The service is gone for good."""
        self._silence(name)
        self._notify.forget(name)
        for _, fd in self._fds.pop(name, []):
            self._close(fd)

    def close(self) -> None:
        self._notify.close()

    # Messages

    def _told(self, name: str, message: Message, fds: list[int]) -> None:
        said = self._said.setdefault(name, _Said())
        pid = self._init.current.get(name, 0)
        self._keep(name, message, fds)
        if message.mainpid:
            self._take_mainpid(name, message.mainpid)
            pid = self._init.current.get(name, 0)
        if message.status is not None:
            said.status = message.status
        if message.errno is not None:
            said.errno = message.errno
        if message.extend_usec is not None:
            self._init.tell(e.TimeoutExtended(name, message.extend_usec / 1_000_000))
        if message.watchdog_usec is not None:
            said.watchdog_s = message.watchdog_usec / 1_000_000
        if message.ready and self._init.supervisor.spec(name).ready.kind == "notify":
            self._init.tell(e.BecameReady(name, pid))
        if message.watchdog == "trigger":  # behind READY: a process whose exec is not reported yet can't be unwell
            self._init.tell(e.BecameUnhealthy(name, pid, "watchdog: triggered by the service", watchdog=True))
        elif message.watchdog == "alive" or message.watchdog_usec is not None:
            self._feed(name)
        said.reloading = message.reloading or (said.reloading and not message.ready)
        said.stopping = said.stopping or message.stopping
        self._init.server.changed(name)

    def _take_mainpid(self, name: str, pid: int) -> None:
        """A parent that has handed its work over and leaves: the other is the service now."""
        old = self._init.current.get(name, 0)
        if pid == old or pid not in self._init.groups.members(name):
            return
        self._init.pids.pop(old, None)
        self._init.pids[pid] = name
        self._init.current[name] = pid
        self._init.tell(e.MainPidChanged(name, pid))
        if _parent(pid) != os.getpid():  # its parent may reap it before it is ours: then nobody tells how it ended
            self._watch_end(name, pid)

    def _watch_end(self, name: str, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return

        def ended() -> None:
            self._init.loop.remove_reader(pidfd)
            os.close(pidfd)
            if _parent(pid) != os.getpid() and self._init.pids.pop(pid, None) is not None:
                self._init.tell(e.ProcessExited(name, pid, 0, 0))

        self._init.loop.add_reader(pidfd, ended)

    # Watchdog

    def _feed(self, name: str) -> None:
        said = self._said[name]
        self._stop_watchdog(name)
        limit_s = self._init.supervisor.spec(name).watchdog_s if said.watchdog_s is None else said.watchdog_s
        if limit_s and self._init.supervisor.view(name).ready and not self._init.pauses.is_paused(name):
            said.deadline = self._init.loop.call_at(time.monotonic() + limit_s, lambda: self._bite(name, limit_s))

    def _bite(self, name: str, limit_s: float) -> None:
        pid = self._init.current.get(name, 0)
        text = f"watchdog: no sign of life for {limit_s:g} s"
        self._init.tell(e.BecameUnhealthy(name, pid, text, watchdog=True))

    def _stop_watchdog(self, name: str) -> None:
        deadline = self._said[name].deadline
        if deadline is not None:
            deadline.cancel()

    def _silence(self, name: str) -> None:
        if name in self._said:
            self._stop_watchdog(name)
            del self._said[name]

    # Descriptors

    def _keep(self, name: str, message: Message, fds: list[int]) -> None:
        if message.fdstoreremove:
            for label, fd in list(self._fds.get(name, [])):
                if label == message.fdname:
                    self._drop(name, fd)
        most = self._init.supervisor.spec(name).fd_store
        for fd in fds:
            there = self._fds.setdefault(name, [])
            if not message.fdstore or any(_same(fd, other) for _, other in there):
                discard(fd)
            elif len(there) >= most:
                self._init.log(f"{name}: its fd store is full ({most}): {message.fdname} is not kept; see fd_store")
                discard(fd)
            else:
                there.append((message.fdname, fd))
                if message.fdpoll:
                    self._watch_hangup(name, fd)

    def _watch_hangup(self, name: str, fd: int) -> None:
        """A descriptor whose other end is gone is worth nothing."""
        with contextlib.suppress(PermissionError):  # a regular file can't be polled
            self._init.loop.add_hangup(fd, lambda: self._drop(name, fd))

    def _drop(self, name: str, fd: int) -> None:
        self._fds[name] = [one for one in self._fds.get(name, []) if one[1] != fd]
        self._close(fd)

    def _close(self, fd: int) -> None:
        self._init.loop.remove_reader(fd)
        discard(fd)


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return int(file.read(512).rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _same(one: int, other: int) -> bool:
    """Whether two descriptors are of one open file; the two ends of a pipe, say, are two, although of one inode.

    Where kcmp(2) is not to be had: those without a type (eventfd, epoll) share one inode, and say nothing.
    """
    try:
        return process.is_same_file(one, other)
    except OSError:
        first, second = os.fstat(one), os.fstat(other)
        modes = [fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE for fd in (one, other)]
        return bool(stat.S_IFMT(first.st_mode)) and os.path.samestat(first, second) and modes[0] == modes[1]
