"""Processes: clone3, pidfds, signalfd, prctl, and a helper command with a deadline.

Owns the numbers and one wrapper a call. Must not know services or containers.
Law: clone3 here runs none of CPython's fork hooks, so the caller has one thread and says so.
"""

import errno
import fcntl
import gc
import os
import select
import struct
import sys
import time
from _collections_abc import Mapping

from pyinit.linux import foreign as ctypes
from pyinit.linux.libc import LIBC, check, syscall
from pyinit.linux.programs import find_program
from pyinit.records import NamedTuple, NoReturn

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
CLONE_PIDFD, CLONE_PARENT, _CLONE_INTO_CGROUP = 0x1000, 0x8000, 0x200000000
_CLONE3, _CLOSE_RANGE, _CLOSE_RANGE_CLOEXEC = 435, 436, 4
_CLONE = {"x86_64": 56}  # of others 220
_KEYCTL = {"x86_64": 250}  # of others 219
_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272}  # older than the numbers that all machines share
_KEYCTL_JOIN_SESSION_KEYRING = 1
_SIGCHLD = 17
_REBOOT_RESTART = 0x01234567
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_SIGINFO_SIZE = 128  # struct signalfd_siginfo
_SIG_BLOCK, _SIG_SETMASK = 0, 2
_KILL = 9
_AFTER_KILL_S = 2.0  # a process in an uninterruptible wait does not die at once, and may never
_MOST_STDERR = 8192


_PRCTL = LIBC["prctl"]  # a function object of its own: with types set a call costs a third
_PRCTL.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]


def prctl(option: int, value: int | bytes, third: int = 0) -> int:
    """prctl(2)."""
    if isinstance(value, bytes):
        return check(LIBC.prctl(option, value, ctypes.c_ulong(third), ctypes.c_ulong(0), ctypes.c_ulong(0)), "prctl")
    return check(_PRCTL(option, value, third, 0, 0), "prctl")


def clone(flags: int, *, inner_pid: int = 0, cgroup_fd: int = -1) -> tuple[int, int]:
    """(pid, pidfd) in the parent, (0, -1) in the child, which has this process's memory, as after fork.

    `inner_pid`: its number in its own pid namespace, which gives the next one all the same to who comes after it.
    `cgroup_fd`: a group of v2 that it is born in; to move there later waits for a grace period of RCU, 10-20 ms. Linux 6.18
    kills it at its birth if cgroup.kill was written to that group, or to ours, more often than to the other.
    """
    pidfd = ctypes.c_int(-1)
    wanted = ctypes.c_int(inner_pid)
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, size, cgroup
    told = 0 if flags & CLONE_PARENT else _SIGCHLD  # a sibling is told of as we are
    arguments = (ctypes.c_uint64 * 11)(flags | CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, told)
    if cgroup_fd >= 0:
        arguments[0] |= _CLONE_INTO_CGROUP
        arguments[10] = cgroup_fd
    if inner_pid:
        arguments[8], arguments[9] = ctypes.addressof(wanted), 1
    try:
        pid = syscall("clone3", _CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM) or flags or cgroup_fd >= 0 or inner_pid:
            raise
        # A filter can't look into clone3's arguments, so Docker's, and ours, refuse all of it: the C library takes clone(2) then.
        pid = syscall("clone", _CLONE.get(os.uname().machine, 220), CLONE_PIDFD | told, 0, ctypes.byref(pidfd), 0, 0)
    return (pid, pidfd.value) if pid else (0, -1)


def set_fs_ids(uid: int, gid: int) -> None:
    """setfsuid(2), setfsgid(2): whose what this process makes is; OSError if it may not, which they say by a second call only."""
    for call, number in ((LIBC.setfsgid, gid), (LIBC.setfsuid, uid)):
        call(ctypes.c_uint32(number))
        if call(ctypes.c_uint32(0xFFFFFFFF)) & 0xFFFFFFFF != number:
            raise OSError(errno.EPERM, f"make files as {number}: {os.strerror(errno.EPERM)}")


def close_from(lowest: int) -> None:
    """Mark every fd from `lowest` up CLOEXEC."""
    syscall("close_range", _CLOSE_RANGE, lowest, 0xFFFFFFFF, _CLOSE_RANGE_CLOEXEC)


def close_all_but(keep: set[int], *, imports: bool = True) -> None:
    """Close every fd that is not in `keep`; what imports come from (launch/clone.py, importer.py) stays, too, if there will be any.

    For a fork that goes on as Python. Objects of its parent still have the numbers: no collection may end one, for
    it would close whatever has the number by then.
    """
    gc.freeze()
    kept = set(keep)
    for path in (*sys.path, __file__):
        parts = path.split("/")
        if parts[1:4] == ["proc", "self", "fd"] and parts[4].isdigit():
            kept.add(int(parts[4]))
    if imports:
        kept.update(finder.fd for finder in sys.meta_path if hasattr(finder, "fd"))
    lowest = 0
    for fd in sorted(kept):
        if lowest < fd:  # an empty range would be taken for all of them
            os.closerange(lowest, fd)
        lowest = fd + 1
    os.closerange(lowest, max(lowest + 1, os.sysconf("SC_OPEN_MAX")))


def _signal_set(numbers: list[int]) -> ctypes.Array[ctypes.c_uint64]:
    words = (ctypes.c_uint64 * 16)()
    words[0] = sum(1 << (number - 1) for number in set(numbers))
    return words


def block_signals(numbers: list[int]) -> None:
    """Add to the signal mask (sigprocmask); real-time numbers too, which `signal` can't name on its own."""
    check(LIBC.sigprocmask(_SIG_BLOCK, ctypes.byref(_signal_set(numbers)), None), "sigprocmask")


def set_signal_mask(numbers: list[int]) -> None:
    """Replace the signal mask."""
    check(LIBC.sigprocmask(_SIG_SETMASK, ctypes.byref(_signal_set(numbers)), None), "sigprocmask")


def signalfd(numbers: list[int]) -> int:
    """A non-blocking, CLOEXEC fd that reads what is pending of `numbers`; block them first."""
    flags = os.O_NONBLOCK | os.O_CLOEXEC
    return check(LIBC.signalfd(-1, ctypes.byref(_signal_set(numbers)), flags), "signalfd")


def read_signals(fd: int) -> list[int]:
    """The numbers of pending signals; empty if none."""
    try:
        data = os.read(fd, _SIGINFO_SIZE * 32)
    except BlockingIOError:
        return []
    return [struct.unpack_from("=I", data, at)[0] for at in range(0, len(data), _SIGINFO_SIZE)]


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Signal the process behind `pidfd`; ProcessLookupError if it is gone."""
    syscall("pidfd_send_signal", 424, pidfd, number, None, 0)


def is_same_file(one: int, other: int) -> bool:
    """kcmp(2) KCMP_FILE of two fds of ours: whether one is a dup of the other; OSError where it isn't to be had."""
    return syscall("kcmp", _KCMP.get(os.uname().machine, -1), os.getpid(), os.getpid(), 0, one, other) == 0


def join_session_keyring() -> None:
    """keyctl(2) KEYCTL_JOIN_SESSION_KEYRING: a new, nameless one instead of the keys that we were started with."""
    syscall("keyctl", _KEYCTL.get(os.uname().machine, 219), _KEYCTL_JOIN_SESSION_KEYRING, None)


def reboot() -> None:
    """As PID 1 of a pid namespace: die of SIGHUP, which tells whoever waits to start it again (reboot(2))."""
    check(LIBC.reboot(_REBOOT_RESTART), "reboot")


def keep_heap(keep_bytes: int) -> None:
    """mallopt(3): freed blocks up to that size stay ours, for what is used again at once costs a page fault a page otherwise."""
    for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD) if hasattr(LIBC, "mallopt") else ():  # musl has none
        LIBC.mallopt(option, keep_bytes)


def hide_variable(name: str) -> None:
    """Blot the value of an environment variable out where /proc/PID/environ shows it; os.environ still has it.

    getenv(3) gives the place: the variables that a program was started with stay where the kernel put them.
    """
    getenv = LIBC["getenv"]
    getenv.restype = ctypes.c_void_p
    at = getenv(os.fsencode(name))
    if at:
        LIBC.memset(ctypes.c_void_p(at), 0, ctypes.c_size_t(len(os.environb[os.fsencode(name)])))


def set_name(name: str) -> None:
    """The process's name as `ps` shows it (15 bytes)."""
    prctl(PR_SET_NAME, os.fsencode(name)[:15] + b"\0")


def reset_signal(number: int) -> None:
    """signal(number, SIG_DFL) without CPython's bookkeeping, for a child about to exec."""
    LIBC.signal(number, ctypes.c_void_p(0))


def exits(limit: int) -> list[tuple[int, int, int]]:
    """(pid, code, signal) of up to `limit` ended children, reaped; code is -1 for one killed by a signal."""
    found: list[tuple[int, int, int]] = []
    while len(found) < limit:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            break
        killed = os.WIFSIGNALED(status)
        found.append((pid, -1, os.WTERMSIG(status)) if killed else (pid, os.WEXITSTATUS(status), 0))
    return found


class Finished(NamedTuple):
    """How a helper command ended: `code` is -1 for one that `signal` has killed.

    `why_killed`: "" if we did not, else "timeout" or "cancelled". `stderr`: its last bytes, if they were kept.
    """

    code: int
    signal: int = 0
    why_killed: str = ""
    stderr: bytes = b""

    def last_line(self) -> str:
        """Of what it said as an error; "" for nothing."""
        lines = [line.strip() for line in self.stderr.decode("utf-8", "replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")


def run(
    argv: tuple[str, ...], *, env: Mapping[str, str], timeout_s: float, stdin_fd: int = -1, stdout_fd: int = -1, stderr_fd: int = -1,
    cwd: str = "", cancel_fd: int = -1,
) -> Finished:  # fmt: skip
    """Run a helper to its end: a session of its own, default signals, no fd of ours above 2; blocks, so not in PID 1.

    -1: /dev/null, but of `stderr_fd`, where it means that the last bytes are kept. A name without / is looked for in the
    PATH of `env`. After `timeout_s`, or as soon as `cancel_fd` can be read (it is not), it is killed with its group; it dies with us,
    too. What it left in the background otherwise lives on. OSError if there is no such program, folder or permission.
    """
    path = find_program(argv[0], env) or argv[0]  # exec says what is wrong with that
    status, reports = os.pipe()
    errors, errors_in = os.pipe() if stderr_fd < 0 else (-1, -1)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    given = (stdin_fd if stdin_fd >= 0 else null, stdout_fd if stdout_fd >= 0 else null, stderr_fd if stderr_fd >= 0 else errors_in)
    # Above 2, so that none is in another's way there.
    stdio = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in given]
    parent = os.getpid()
    try:
        pid, pidfd = clone(0)
        if pid == 0:
            _exec(path, argv, env, cwd, stdio, reports, parent)
    finally:
        for fd in (reports, null, *stdio, *([errors_in] if errors_in >= 0 else [])):
            os.close(fd)
    try:
        try:
            why, kept = _await(pid, pidfd, errors, time.monotonic() + timeout_s, cancel_fd)
        finally:
            ended = _reap(pidfd)
        os.set_blocking(status, False)
        failure = _read_some(status)  # complete: its writer has ended
    finally:
        for fd in (status, pidfd, *([errors] if errors >= 0 else [])):
            os.close(fd)
    if failure:
        number, _, what = failure.decode().partition(" ")
        raise OSError(int(number), f"{what}: {os.strerror(int(number))}")
    return ended._replace(why_killed=why, stderr=kept)


def _exec(
    path: str, argv: tuple[str, ...], env: Mapping[str, str], cwd: str, stdio: list[int], reports: int, parent: int,
) -> NoReturn:  # fmt: skip
    """The child: nothing but system calls from here to exec."""
    what = "setsid"
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, _KILL)
        if os.getppid() != parent:  # it was gone before we asked
            os._exit(127)
        for number, fd in enumerate(stdio):
            os.dup2(fd, number)
        what = f"chdir {cwd}"
        if cwd:
            os.chdir(cwd)
        close_from(3)
        for number in range(1, 65):
            reset_signal(number)
        set_signal_mask([])
        what = path
        os.execve(path, argv, env)
    except OSError as error:
        os.write(reports, f"{error.errno} {what}".encode("utf-8", "replace")[:4096])
    finally:
        os._exit(127)


def _await(pid: int, pidfd: int, errors: int, deadline: float, cancel_fd: int) -> tuple[str, bytes]:
    """(why we killed it, the end of its errors) once it has ended, or does not although it was killed."""
    poll, why, kept = select.poll(), "", b""
    for fd in (pidfd, errors, cancel_fd):
        if fd >= 0:
            poll.register(fd, select.POLLIN)
    try:
        while True:
            left_s = deadline - time.monotonic()
            ready = [fd for fd, _ in poll.poll(max(0.0, left_s) * 1000)]
            if errors in ready:
                more = os.read(errors, 1 << 16)
                kept = (kept + more)[-_MOST_STDERR:]
                if not more:
                    poll.unregister(errors)
            if pidfd in ready:
                break
            if cancel_fd in ready or left_s <= 0:
                if why:
                    return why, kept
                why = "cancelled" if cancel_fd in ready else "timeout"
                if cancel_fd >= 0:
                    poll.unregister(cancel_fd)
                _kill_group(pid, pidfd)
                deadline = time.monotonic() + _AFTER_KILL_S
    except BaseException:
        _kill_group(pid, pidfd)
        raise
    if errors >= 0:  # what is in the pipe, and no waiting for those who still hold it
        os.set_blocking(errors, False)
        while more := _read_some(errors):
            kept = (kept + more)[-_MOST_STDERR:]
    return why, kept


def _kill_group(pid: int, pidfd: int) -> None:
    """It is not reaped, so the number is its own."""
    try:
        os.killpg(pid, _KILL)
    except ProcessLookupError:  # it has not come to have one yet
        pass
    try:
        pidfd_send_signal(pidfd, _KILL)
    except ProcessLookupError:
        pass


def _read_some(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return b""


def _reap(pidfd: int) -> Finished:
    found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    if found is None:  # killed, and stuck in the kernel: whoever is init gets it
        return Finished(-1, _KILL)
    return Finished(found.si_status) if found.si_code == os.CLD_EXITED else Finished(-1, found.si_status)
