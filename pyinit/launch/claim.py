"""A name on this host: its folder, its locks, the journal of what to undo.

Owns `/run/pyinit/NAME/`. Must not know what a container is made of. Laws: `lock` is held by monitor and PID 1
together, so a free one means that both are gone; `monitor` is held by the monitor alone, not by what it forks; a line
stands in the journal before the thing that it names is made; undoing what is not there is fine.
"""

import fcntl
import os
import select
import time
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.control import places
from pyinit.errors import LaunchError
from pyinit.launch import cgroups, fuse, hooks, journals
from pyinit.launch.onhost import UPPER_FOLDERS
from pyinit.model import Origin

_ENDING_S = 1.0  # between the closing of one fd of a process that ends and of the next
CONTROL_SOCKET = "control.sock"
SHELL = "shell"
SLIRP_SOCKET = "slirp.sock"
_FILES = (CONTROL_SOCKET, SLIRP_SOCKET, "config", SHELL, "pid", "pid.new", "journal", "journal.new", "monitor", "lock")  # the locks go last
_HOOK = "poststop"


class Claim:
    """A name that is ours until `release()`; `lock_fd` goes to PID 1 too."""

    def __init__(self, directory: str, lock_fd: int, monitor_fd: int) -> None:
        self.directory = directory
        self.lock_fd = lock_fd
        self.monitor_fd = monitor_fd
        self.failed_hooks: list[str] = []  # why; to be told
        self.members: list[str] = []  # who lives in the network of its last run

    def note(self, kind: str, value: str) -> None:
        """Write to the journal what is about to be made."""
        journals.add(self.directory, kind, value, os.O_CREAT)

    def note_anew(self, kind: str, value: str) -> None:
        """As `note`, in place of what there was of that kind: of what is made again and again a journal does not grow."""
        self._rewrite([*(one for one in journals.read(self.directory) if one[0] != kind), (kind, value)])

    def write_pid(self, pid: int) -> None:
        """PID 1 as the host sees it, for `list` and messages."""
        path = f"{self.directory}/pid"
        with open(path + ".new", "w") as file:
            file.write(f"{pid}\n")
        os.rename(path + ".new", path)

    def write_config(self, path: str) -> None:
        """The config's absolute path, for `list`."""
        with open(f"{self.directory}/config", "w") as file:
            file.write(f"{path}\n")

    def write_shell(self, data: bytes) -> None:
        """What `pyinit enter` runs as (init/shell.py)."""
        with open(f"{self.directory}/{SHELL}", "wb", opener=_private) as file:
            file.write(data)

    def undo(self) -> list[str]:
        """Undo what the journal names, last first, then run the hooks that it has; what could not be undone, in words.

        A hook runs once and is no longer noted, whatever comes of it: see `failed_hooks`. Its network is left to `members`.
        """
        problems: list[str] = []
        left: list[tuple[str, str]] = []
        try:
            entries = journals.read(self.directory)
        except OSError as error:
            return [f"what is in {error.filename} is left behind: {error.strerror}"]
        try:
            self.members, is_ours = self._members(entries), True
        except (OSError, ImportError) as error:  # whether anyone lives in it is not known, or others would not know that it goes
            problems.append(f"its network is left behind: {error}")
            self.members, is_ours = [], False
        for kind, value in reversed([one for one in entries if one[0] != _HOOK]):
            if kind in _OF_NETWORK and (self.members or not is_ours):
                left.append((kind, value))
                continue
            try:
                _UNDO[kind](value)
            except (OSError, KeyError, ImportError) as error:
                problems.append(f"{kind} {value} is left behind: {error}")
                left.append((kind, value))
        pending = [one for one in entries if one[0] == _HOOK]
        old = ""
        while pending:
            why = hooks.poststop(pending.pop(0)[1])
            self.failed_hooks += [why] if why else []
            old = self._keep([*pending, *reversed(left)])
        if self.members:
            old = self._keep(list(reversed(left)))
        elif not problems:
            with contextlib.suppress(OSError):  # it is undone again, which is fine
                os.unlink(f"{self.directory}/journal")
                old = ""
        return [*problems, old] if old else problems

    def _keep(self, entries: list[tuple[str, str]]) -> str:
        """Of what could not be: why."""
        try:
            self._rewrite(entries)
        except OSError as error:
            return f"a journal that names hooks that have run, or what is undone, is left behind: {error}"
        return ""

    def _members(self, entries: list[tuple[str, str]]) -> list[str]:
        if not any(kind in _OF_NETWORK for kind, _ in entries):
            return []
        from pyinit.launch import pods  # for those who have a network

        return pods.give_back(os.path.basename(self.directory))

    def undo_for_another(self, origin: Origin) -> None:
        """`undo()` before another run; LaunchError if something is left, which that could not tell from its own, or its network is others' by now."""
        name, problems = os.path.basename(self.directory), self.undo()
        if problems:
            raise LaunchError(f"{origin}: an earlier run of {name} was not cleaned up: {'; '.join(problems)}")
        if self.members:
            raise LaunchError(
                f"{origin}: container {name} has left its network to {', '.join(self.members)} (by share), "
                "and can't have it twice; stop what shares it first, then start all again"
            )

    def _rewrite(self, entries: list[tuple[str, str]]) -> None:
        path = f"{self.directory}/journal"
        with open(f"{path}.new", "w", opener=_private) as file:
            file.write("".join(f"{kind}\t{value}\n" for kind, value in entries))
        os.rename(f"{path}.new", path)

    def release(self) -> list[str]:
        """Give the name back; its folder goes, unless a journal with unfinished work is in it. What stays, in words."""
        keep = os.path.exists(f"{self.directory}/journal")
        problems = []
        for name in _FILES:
            if not (keep and name in ("journal", "lock")):
                try:
                    os.unlink(f"{self.directory}/{name}")
                except FileNotFoundError:
                    pass
                except OSError as error:
                    problems.append(f"{error.filename} is left behind: {error.strerror}")
        with contextlib.suppress(OSError):  # of a supervisor that was killed: its notify sockets
            for name in os.listdir(f"{self.directory}/notify"):
                os.unlink(f"{self.directory}/notify/{name}")
            os.rmdir(f"{self.directory}/notify")
        with contextlib.suppress(OSError):
            os.rmdir(self.directory)
        os.close(self.lock_fd)
        os.close(self.monitor_fd)
        return problems

    def take_folder(self, path: str, origin: Origin) -> int:
        """An fd that holds `path`, made with what an upper layer needs, as ours; LaunchError if another container has it.

        Nobody else may enter it: root inside leaves programs in it with the set-user-ID bit, which the host would run as root.
        Of a file in it, not of the folder: PID 1 has it for as long as it lives.
        """
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            mode = os.stat(path).st_mode & 0o7777
            if mode & 0o011:
                raise LaunchError(
                    f"{origin}: container.writable: {path}: others can enter it (mode {mode:04o}), and run what root inside leaves there "
                    f"with a set-user-ID bit; `chmod 700 {path}`"
                )
            for name in UPPER_FOLDERS:
                os.makedirs(f"{path}/{name}", 0o755 if name == "upper" else 0o700, exist_ok=True)  # `upper`'s is the root's own
            fd = os.open(f"{path}/lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LaunchError(f"{origin}: container.writable: {path}: {error.strerror}; make it a folder of a writable file system") from error
        place = os.path.realpath(path)
        deadline = time.monotonic() + _ENDING_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holders = [one.name for one in places.running() if ("folder", place) in journals.read(one.directory)]
                if holders or time.monotonic() > deadline:
                    break
                select.select([], [], [], 0.005)  # nobody runs that has it: a PID 1 is ending, its name's lock is closed already
                continue
            self.note("folder", place)
            return fd
        os.close(fd)
        who = f"container {holders[0]}" if holders else "another program"
        raise LaunchError(f"{origin}: container.writable: {path} is in use by {who}; give this one a folder of its own")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _remove_bridge(name: str) -> None:
    from pyinit.launch import network  # this and the next ones: for those who have one

    network.remove_unused_bridge(name)


def _remove_link(name: str) -> None:
    from pyinit.launch import network

    network.remove_link(name)


def _remove_rules(line: str) -> None:
    from pyinit.launch import firewall

    with journals.locked():
        firewall.remove(line)


def _remove_names(line: str) -> None:
    from pyinit.launch import leases

    leases.forget(line)


def _leave_pod(line: str) -> None:
    from pyinit.launch import pods

    pods.leave(line)


def _take_back(leaf: str) -> None:
    from pyinit.launch import delegation  # for those who have limits, and a group that is theirs

    delegation.take_back(leaf)


def _remove_services(directory: str) -> None:
    from pyinit.launch import delegation

    delegation.remove_empty(directory)


def _leave_root(line: str) -> None:
    from pyinit.launch import guests  # for those who stood in another's

    guests.leave(line)


_UNDO: dict[str, Callable[[str], None]] = {
    journals.GONE: lambda _: None,
    "address": lambda _: None,  # noted for the others to see
    "gateway": lambda _: None,  # as the address
    "folder": lambda _: None,  # as the address; it is kept
    "program": fuse.kill_again,
    "forwarder": fuse.kill_again,
    "cgroup": cgroups.remove,
    "leaf": _take_back,
    "services": _remove_services,
    "link": _remove_link,
    "bridge": _remove_bridge,
    "rules": _remove_rules,
    "names": _remove_names,
    "guest": _leave_root,
    journals.POD: _leave_pod,
}
_OF_NETWORK = ("address", "gateway", "bridge", "link", "rules", "names", "forwarder")


def groups_of(directory: str) -> list[str]:
    """The cgroups of the container whose folder that is; some may never have been made."""
    return [value for kind, value in journals.read(directory) if kind == "cgroup"]


def claim(name: str, origin: Origin, *, patience_s: float) -> Claim:
    """Take `name`, after an orphaned PID 1 of that name has left; LaunchError if it is in use.

    What a killed monitor left is undone first. `patience_s` bounds the wait for its PID 1, which is then killed.
    """
    directory = places.container_dir(name)
    deadline = time.monotonic() + patience_s
    while True:
        os.makedirs(directory, 0o700, exist_ok=True)
        with _removed_if_it_fails(directory):
            monitor_fd = _lock(f"{directory}/monitor", fcntl.lockf)  # of one process: no child of a killed one has it
        if monitor_fd < 0:
            raise _in_use(name, directory, origin)
        with _removed_if_it_fails(directory, "monitor"):
            lock_fd = _lock(f"{directory}/lock", fcntl.flock)
        if lock_fd >= 0:
            break
        os.close(monitor_fd)
        _outwait(directory, deadline)
    found = Claim(directory, lock_fd, monitor_fd)
    try:
        found.undo_for_another(origin)
    except LaunchError:
        found.release()
        raise
    for leftover in (CONTROL_SOCKET, "pid"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{directory}/{leftover}")
    return found


def tidy(name: str) -> list[str]:
    """Undo what is left of one that does not run; what could not be undone, in words. One that is being started does it itself."""
    directory = places.container_dir(name)
    if not os.path.exists(f"{directory}/journal"):
        return []
    monitor_fd = _lock(f"{directory}/monitor", fcntl.lockf)
    lock_fd = _lock(f"{directory}/lock", fcntl.flock) if monitor_fd >= 0 else -1
    if lock_fd < 0:
        if monitor_fd >= 0:
            os.close(monitor_fd)
        return []
    found = Claim(directory, lock_fd, monitor_fd)
    return [*found.undo(), *found.release()]


class _removed_if_it_fails:  # noqa: N801 - a context
    """`held`: of the files in it those that we have locked; what we have not may be somebody's."""

    def __init__(self, directory: str, *held: str) -> None:
        self._directory = directory
        self._held = held

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, OSError):
            with contextlib.suppress(OSError):
                for name in self._held:
                    os.unlink(f"{self._directory}/{name}")
                os.rmdir(self._directory)


def _lock(path: str, take: Callable[[int, int], object]) -> int:
    """fd of `path`, locked; -1 if someone else has it. The file may be removed under us: then once more."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            take(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return -1
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(fd).st_ino:
                return fd
        os.close(fd)


def _read_pid(directory: str) -> int:
    try:
        with open(f"{directory}/pid") as file:
            return int(file.read())
    except (FileNotFoundError, ValueError):
        return 0


def _in_use(name: str, directory: str, origin: Origin) -> LaunchError:
    pid = _read_pid(directory)
    who = f"as pid {pid}" if pid else "(it is starting)"
    return LaunchError(
        f"{origin}: container {name} is running already, {who}; "
        f"stop it with `pyinit shutdown -c {name}`, or give this one another name in [container]"
    )


def _outwait(directory: str, deadline: float) -> None:
    """The monitor is gone, its PID 1 stops in order: wait for that, then kill by cgroup."""
    pid = _read_pid(directory)
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        for kind, value in journals.read(directory):
            if kind == "cgroup":
                cgroups.kill(value)
        raise LaunchError(f"PID 1 of an earlier run ({pid}) holds {directory}/lock and does not go away; kill it")
    try:
        pidfd = os.pidfd_open(pid) if pid else -1
    except (ProcessLookupError, OSError):
        pidfd = -1
    if pidfd < 0:  # between the death and the release of the lock, or before the pid was noted
        select.select([], [], [], 0.005)
        return
    try:
        if not select.select([pidfd], [], [], left_s)[0]:
            for kind, value in journals.read(directory):
                if kind == "cgroup":
                    cgroups.kill(value)
            select.select([pidfd], [], [], 2.0)
    finally:
        os.close(pidfd)
