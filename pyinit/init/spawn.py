"""From a service to a process: fork .. exec.

Owns the child's steps and their order. Must not know why it is started. Laws: between fork and exec no lock, no
log, no import; a failure is (stage, errno) on a CLOEXEC pipe; the way out is os._exit. A service that asks for
nothing special goes through posix_spawn (vfork: 10 times as fast, whatever the heap); the rest through clone3.
"""

import errno
import os
import resource
from typing import NamedTuple

from pyinit.linux import process

_RESET = (2, 13, 25)  # INT, PIPE, XFSZ: the dispositions that Python sets
STAGES = ("fork", "session", "cgroup", "files", "rlimits", "working_directory", "user", "no_new_privileges", "exec")
DEFAULT_UMASK = 0o022


class Child(NamedTuple):
    """All that a child needs, resolved: numbers, not names. `groups` None: ids are left as they are."""

    argv: tuple[str, ...]
    path: str
    environment: dict[str, str]
    stdin_fd: int
    output_fd: int  # -1: stdout and stderr of the init
    cgroup_fd: int = -1
    notify_fd: tuple[int, int] = (-1, -1)  # (our end to pass, number in the child)
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] | None = None
    umask: int = DEFAULT_UMASK
    working_directory: str = "/"
    rlimits: tuple[tuple[int, int, int], ...] = ()
    no_new_privileges: bool = False


class Spawned(NamedTuple):
    """`status_fd` reads (stage, errno) of a failure or EOF at exec; -1: exec has succeeded already."""

    pid: int
    status_fd: int


def find_program(name: str, search_path: str) -> str:
    """`name` itself if it has a slash, else the first executable of that name on `search_path`, else `name`."""
    if "/" in name:
        return name
    for folder in search_path.split(":"):
        path = f"{folder or '.'}/{name}"
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return name


def spawn(child: Child) -> Spawned:
    """Start `child`; OSError if there is no process (posix_spawn: or no exec)."""
    if _is_plain(child):
        return Spawned(_posix_spawn(child), -1)
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        pid, pidfd = process.clone(0)
    except OSError:
        os.close(read_end)
        os.close(write_end)
        raise
    if pid == 0:
        _run_child(child, write_end)
    os.close(pidfd)
    os.close(write_end)
    return Spawned(pid, read_end)


def _is_plain(child: Child) -> bool:
    return (
        child.cgroup_fd < 0 and child.groups is None and not child.rlimits and child.umask == DEFAULT_UMASK
        and child.working_directory == "/" and not child.no_new_privileges and child.notify_fd[0] < 0
    )  # fmt: skip


def _posix_spawn(child: Child) -> int:
    actions: list[tuple[int, int, int]] = [(os.POSIX_SPAWN_DUP2, child.stdin_fd, 0)]
    if child.output_fd >= 0:
        actions += [(os.POSIX_SPAWN_DUP2, child.output_fd, 1), (os.POSIX_SPAWN_DUP2, child.output_fd, 2)]
    return os.posix_spawn(
        child.path, child.argv, child.environment,
        file_actions=actions, setsid=True, setsigmask=(), setsigdef=_RESET,
    )  # fmt: skip


def _run_child(child: Child, status_fd: int) -> None:
    stage = 1
    try:
        os.setsid()
        stage = 2
        _enter_cgroup(child.cgroup_fd)
        stage = 3
        _set_files(child, status_fd)
        stage = 4
        for number, soft, hard in child.rlimits:
            resource.setrlimit(number, (soft, hard))
        os.umask(child.umask)
        stage = 5
        os.chdir(child.working_directory)
        stage = 6
        if child.groups is not None:
            os.setgroups(child.groups)
            os.setresgid(child.gid, child.gid, child.gid)
            os.setresuid(child.uid, child.uid, child.uid)
        stage = 7
        if child.no_new_privileges:
            process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
        stage = 8
        _reset_signals()
        os.execve(child.path, child.argv, child.environment)
    except OSError as error:
        _report(status_fd, stage, error.errno or 0)
    except ValueError:  # setrlimit says so of a soft limit above the hard one
        _report(status_fd, stage, errno.EINVAL)
    finally:
        os._exit(127)


def _enter_cgroup(fd: int) -> None:
    """By ourselves: kernels 6.14 and later kill what CLONE_INTO_CGROUP puts into a group that saw cgroup.kill once."""
    if fd >= 0:
        procs = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=fd)
        os.write(procs, b"0")
        os.close(procs)


def _set_files(child: Child, status_fd: int) -> None:
    passed, number = child.notify_fd
    if passed >= 0:
        if number == status_fd:  # the report's pipe must not be in the way
            raise OSError(errno.EBUSY, "fd")
        os.dup2(passed, number)
    os.dup2(child.stdin_fd, 0)
    if child.output_fd >= 0:
        os.dup2(child.output_fd, 1)
        os.dup2(child.output_fd, 2)
    process.close_from(3)
    if passed >= 0:
        os.set_inheritable(number, True)  # noqa: FBT003 - no keywords there


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
