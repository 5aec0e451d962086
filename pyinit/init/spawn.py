"""From a service to a process: fork .. exec.

Owns the child's steps and their order. Must not know why it is started. Laws: between fork and exec no lock, no
log, no import; a failure is (stage, errno) on a CLOEXEC pipe; the way out is os._exit. A service that asks for
nothing special goes through posix_spawn (vfork: 10 times as fast, whatever the heap); the rest through clone3.
"""

import errno
import fcntl
import os
import resource
import sys

from pyinit.linux import caps, process, seccomp
from pyinit.linux import sock as socket
from pyinit.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pyinit.init.confinement import Rules

_RESET = (2, 13, 25)  # INT, PIPE, XFSZ: the dispositions that Python sets
STAGES = (
    "fork", "session", "cgroup", "files", "rlimits", "scheduling", "mounts", "chroot", "working_directory", "user",
    "capabilities", "no_new_privileges", "seccomp", "exec", "landlock", "tty",
)  # fmt: skip
_TTY = STAGES.index("tty")
DEFAULT_UMASK = 0o022
_TIOCSCTTY = 0x540E
_PR_SET_KEEPCAPS = 8


class Terminal(NamedTuple):
    """A new one for the child, whose master goes to who sits before it, through the unix socket `socket_fd` (SCM_RIGHTS).

    With it comes pty.MADE. Where the child has no devpts it takes `spare_fd`, the slave of a pair that the other side has
    (-1: none), and says pty.SPARE.
    """

    socket_fd: int
    spare_fd: int = -1
    rows: int = 0
    columns: int = 0


class Child(NamedTuple):
    """All that a child needs, resolved: numbers, not names. `groups` None: ids are left as they are."""

    argv: tuple[str, ...]
    path: str
    environment: dict[str, str]
    stdin_fd: int
    output_fd: int  # -1: stdout and stderr of the init
    error_fd: int = -1  # -1: stderr goes where stdout goes
    cgroup_fds: tuple[int, ...] = ()  # each a cgroup.procs, open for writing: of v2, or of v1's hierarchies
    born_in_fd: int = -1  # the group of the first of these, if it is v2's and one may be born there (groups.py)
    passed_fds: tuple[tuple[int, int], ...] = ()  # (our end, number in the child)
    pid_variables: tuple[str, ...] = ()  # set to the child's own pid: LISTEN_PID, WATCHDOG_PID
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] | None = None
    umask: int = DEFAULT_UMASK
    working_directory: str = "/"
    rlimits: tuple[tuple[int, int, int], ...] = ()
    nice: int | None = None
    cpus: tuple[int, ...] = ()
    oom_score_adj: int | None = None
    dropped: tuple[int, ...] = ()  # of the bounding set
    ambient: tuple[int, ...] = ()
    no_new_privileges: bool = False
    chroot: str = ""
    private_tmp: bool = False
    read_only_paths: tuple[str, ...] = ()
    tty: str = ""  # becomes the controlling terminal
    new_session: bool = True  # else a process group of its own
    terminal: Terminal | None = None  # becomes the controlling one, and stdin, stdout and stderr
    death_signal: int = 0  # when its parent dies
    filter: bytes = b""  # the program of its system calls; b"": all are let through
    landlock: "Rules | None" = None


class Spawned(NamedTuple):
    """`status_fd` reads (stage, errno) of a failure or EOF at exec; -1: exec has succeeded already."""

    pid: int
    status_fd: int


def find_program(name: str, search_path: str, root: str = "") -> str:
    """`name` itself if it has a slash, else the first executable of that name on `search_path`, else `name`."""
    if "/" in name:
        return name
    for folder in search_path.split(":"):
        path = f"{folder or '.'}/{name}"
        if os.access(root + path, os.X_OK) and not os.path.isdir(root + path):
            return path
    return name


def spawn(child: Child) -> Spawned:
    """Start `child`; OSError if there is no process (posix_spawn: or no exec)."""
    if _is_plain(child):
        return Spawned(_posix_spawn(child), -1)
    _load(child)
    ready = seccomp.prepare(child.filter) if child.filter else None
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        pid, pidfd, joined = _clone(child)
    except OSError:
        os.close(read_end)
        os.close(write_end)
        raise
    if pid == 0:
        _run_child(child, write_end, joined, ready)
    os.close(pidfd)
    os.close(write_end)
    return Spawned(pid, read_end)


def _load(child: Child) -> None:
    """What only some ask for: now, and never between fork and exec. Who has `landlock` has its module."""
    if child.private_tmp or child.read_only_paths:
        import pyinit.init.private
    if child.terminal is not None:
        import pyinit.linux.pty
    if child.chroot or child.working_directory != "/" or child.oom_score_adj is not None or child.tty:
        import pyinit.linux.mount

        pyinit.linux.mount.settle()


def _clone(child: Child) -> tuple[int, int, int]:
    """(pid, pidfd, how many of its groups it stands in)."""
    if child.born_in_fd >= 0:
        try:
            return *process.clone(0, cgroup_fd=child.born_in_fd), 1
        except OSError:  # an older kernel; a group at its limit, into which a process may still move
            pass
    return *process.clone(0), 0


_PLAIN = Child((), "", {}, 0, 0)
_OF_ANY = frozenset({"argv", "path", "environment", "stdin_fd", "output_fd", "error_fd", "new_session"})
_MORE = tuple(field for field in Child._fields if field not in _OF_ANY)


def _is_plain(child: Child) -> bool:
    return child.new_session and all(getattr(child, field) == getattr(_PLAIN, field) for field in _MORE)


def _posix_spawn(child: Child) -> int:
    actions: list[tuple[int, int, int]] = [(os.POSIX_SPAWN_DUP2, child.stdin_fd, 0)]
    if child.output_fd >= 0:
        error_fd = child.error_fd if child.error_fd >= 0 else child.output_fd
        actions += [(os.POSIX_SPAWN_DUP2, child.output_fd, 1), (os.POSIX_SPAWN_DUP2, error_fd, 2)]
    return os.posix_spawn(
        child.path, child.argv, child.environment,
        file_actions=actions, setsid=True, setsigmask=(), setsigdef=_RESET,
    )  # fmt: skip


def _run_child(child: Child, status_fd: int, joined: int, ready: seccomp.Filter | None) -> None:
    """Numbers are indices of STAGES. What needs privileges comes before the ids change.

    So does the filter (seccomp(2): EACCES after it), but with no_new_privs, where it comes last.
    """
    stage = 1
    try:
        if child.new_session:
            os.setsid()
        else:
            os.setpgid(0, 0)
        stage = 2
        for fd in child.cgroup_fds[joined:]:
            os.write(fd, b"0")
        stage = 3
        if child.terminal is not None:
            stage = _TTY
            child = child._replace(stdin_fd=_open_terminal(child), output_fd=-1)
            stage = 3
        _set_files(child, status_fd)
        stage = 4
        for number, soft, hard in child.rlimits:
            resource.setrlimit(number, (soft, hard))
        stage = 5
        _set_scheduling(child)
        os.umask(child.umask)
        stage = 6
        if child.private_tmp or child.read_only_paths:
            sys.modules["pyinit.init.private"].set_up(private_tmp=child.private_tmp, read_only_paths=child.read_only_paths)
        stage = 7
        if child.chroot:
            _enter(child.chroot)
            os.chroot(".")
        stage = 8
        _enter(child.working_directory)
        if child.landlock is not None:  # here is CAP_SYS_ADMIN, if we have it; what is to come opens no file but the program
            stage = 14
            if child.no_new_privileges:
                process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
            sys.modules["pyinit.init.confinement"].set_up(child.landlock)
        stage = 12
        if ready is not None and not child.no_new_privileges:
            seccomp.install(ready)
        stage = 10
        for number in child.dropped:
            process.prctl(caps.PR_CAPBSET_DROP, number)
        if child.ambient:
            process.prctl(_PR_SET_KEEPCAPS, 1)
        stage = 9
        if child.groups is not None:
            os.setgroups(child.groups)
            os.setresgid(child.gid, child.gid, child.gid)
            os.setresuid(child.uid, child.uid, child.uid)
            process.prctl(process.PR_SET_DUMPABLE, 0)  # up to exec it is a copy of us, and fs.suid_dumpable = 1 opens it to its user
        if child.death_signal:  # a change of ids takes it away
            process.prctl(process.PR_SET_PDEATHSIG, child.death_signal)
        stage = 10
        if child.ambient:
            caps.raise_ambient(child.ambient)
        stage = 11
        if child.no_new_privileges:
            process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
            stage = 12
            if ready is not None:
                seccomp.install(ready)
        stage = 13
        _reset_signals()
        os.execve(child.path, child.argv, child.environment)
    except OSError as error:
        _report(status_fd, stage, error.errno or 0)
    except ValueError:  # setrlimit says so of a soft limit above the hard one
        _report(status_fd, stage, errno.EINVAL)
    finally:
        os._exit(127)


def _enter(path: str) -> None:
    """chdir(2), but never by a symlink of the image's into /proc/PID/fd: there is the host's, which close_from() does not end before exec."""
    if path == "/":
        os.chdir(path)
        return
    fd = sys.modules["pyinit.linux.mount"].open_plainly(path, os.O_PATH | os.O_DIRECTORY)
    os.chdir(fd)
    os.close(fd)


def run_here(child: Child, status_fd: int) -> None:
    """For who forks by itself, and stands in its groups: become `child`; failures are told as those of spawn()."""
    _load(child)
    _run_child(child, status_fd, len(child.cgroup_fds), seccomp.prepare(child.filter) if child.filter else None)


def _open_terminal(child: Child) -> int:
    """Its slave, ours to control. Whatever lies in its place, only this child waits for it."""
    wanted, pty = child.terminal, sys.modules["pyinit.linux.pty"]
    assert wanted is not None
    try:
        master, slave = pty.open_pair()
    except OSError:
        if wanted.spare_fd < 0:
            raise
        master, slave = -1, wanted.spare_fd
    if child.groups is not None:
        os.fchown(slave, child.uid, -1)
    if wanted.rows:
        pty.set_size(slave, wanted.rows, wanted.columns)
    with socket.socket(fileno=os.dup(wanted.socket_fd)) as other:
        other.setblocking(False)  # noqa: FBT003 - no keywords there
        socket.send_fds(other, [pty.MADE if master >= 0 else pty.SPARE], [master] if master >= 0 else [])
    pty.take(slave)
    return int(slave)


def _set_scheduling(child: Child) -> None:
    if child.nice is not None:
        os.setpriority(os.PRIO_PROCESS, 0, child.nice)
    if child.cpus:
        os.sched_setaffinity(0, child.cpus)
    if child.oom_score_adj is not None:
        mount = sys.modules["pyinit.linux.mount"]
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        if mount.filesystem_magic(fd) != mount.PROC_SUPER_MAGIC:
            raise OSError(errno.EXDEV, "/proc")  # a service that may mount has covered it (as CVE-2019-16884)
        os.write(fd, str(child.oom_score_adj).encode())
        os.close(fd)


def _set_files(child: Child, status_fd: int) -> None:
    """First all above the highest number that is asked for, so that none is in another's way."""
    top = max([status_fd, 2, *(number for _, number in child.passed_fds)]) + 1
    moved = [(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, top), number) for fd, number in child.passed_fds]
    if any(number == status_fd for _, number in moved):  # the report's pipe must not be in the way
        raise OSError(errno.EBUSY, "fd")
    os.dup2(child.stdin_fd, 0)
    if child.terminal is not None:
        os.dup2(0, 1)
        os.dup2(0, 2)
    if child.output_fd >= 0:
        os.dup2(child.output_fd, 1)
        os.dup2(child.error_fd if child.error_fd >= 0 else child.output_fd, 2)
    if child.tty:
        fd = sys.modules["pyinit.linux.mount"].open_plainly(child.tty, os.O_RDWR)
        fcntl.ioctl(fd, _TIOCSCTTY, 1)
        for number in (0, 1, 2) if child.output_fd < 0 else (0,):
            os.dup2(fd, number)
    process.close_from(3)
    for fd, number in moved:
        os.dup2(fd, number)
    for name in child.pid_variables:
        child.environment[name] = str(os.getpid())


def _reset_signals() -> None:
    for number in _RESET:
        process.reset_signal(number)
    process.set_signal_mask([])


def _report(fd: int, stage: int, number: int) -> None:
    try:
        os.write(fd, b"%d %d" % (stage, number))
    except OSError:
        pass  # the exit code 127 says the rest


def read_failure(data: bytes) -> tuple[str, int]:
    """(stage, errno) of what the child wrote."""
    stage, number = data.split()
    return STAGES[int(stage)], int(number)
