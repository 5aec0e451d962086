"""Processes: clone3, pidfds, signalfd, prctl.

Owns the numbers and one wrapper a call. Must not know services or containers.
Law: clone3 here runs none of CPython's fork hooks, so the caller has one thread and says so.
"""

import os
import struct
import sys

from pyinit.linux import foreign as ctypes
from pyinit.linux.libc import LIBC, check, syscall

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
CLONE_PIDFD = 0x1000
_CLONE3, _CLOSE_RANGE, _CLOSE_RANGE_CLOEXEC = 435, 436, 4
_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272}  # older than the numbers that all machines share
_SIGCHLD = 17
_REBOOT_RESTART = 0x01234567
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_SIGINFO_SIZE = 128  # struct signalfd_siginfo
_SIG_BLOCK, _SIG_SETMASK = 0, 2


_PRCTL = LIBC["prctl"]  # a function object of its own: with types set a call costs a third
_PRCTL.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]


def prctl(option: int, value: int | bytes, third: int = 0) -> int:
    """prctl(2)."""
    if isinstance(value, bytes):
        return check(LIBC.prctl(option, value, ctypes.c_ulong(third), ctypes.c_ulong(0), ctypes.c_ulong(0)), "prctl")
    return check(_PRCTL(option, value, third, 0, 0), "prctl")


def clone(flags: int, *, inner_pid: int = 0) -> tuple[int, int]:
    """(pid, pidfd) in the parent, (0, -1) in the child, which has this process's memory, as after fork.

    `inner_pid`: its number in its own pid namespace, which gives the next one all the same to who comes after it.
    """
    pidfd = ctypes.c_int(-1)
    wanted = ctypes.c_int(inner_pid)
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, size, cgroup
    arguments = (ctypes.c_uint64 * 11)(flags | CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, _SIGCHLD)
    if inner_pid:
        arguments[8], arguments[9] = ctypes.addressof(wanted), 1
    pid = syscall("clone3", _CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
    return (pid, pidfd.value) if pid else (0, -1)


def close_from(lowest: int) -> None:
    """Mark every fd from `lowest` up CLOEXEC."""
    syscall("close_range", _CLOSE_RANGE, lowest, 0xFFFFFFFF, _CLOSE_RANGE_CLOEXEC)


def close_all_but(keep: set[int]) -> None:
    """Close every fd that is not in `keep`; the import path's own fds (launch/clone.py) stay, too."""
    kept = set(keep)
    for path in (*sys.path, __file__):
        parts = path.split("/")
        if parts[1:4] == ["proc", "self", "fd"] and parts[4].isdigit():
            kept.add(int(parts[4]))
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


def reboot() -> None:
    """As PID 1 of a pid namespace: die of SIGHUP, which tells whoever waits to start it again (reboot(2))."""
    check(LIBC.reboot(_REBOOT_RESTART), "reboot")


def keep_heap(keep_bytes: int) -> None:
    """mallopt(3): freed blocks up to that size stay ours, for what is used again at once costs a page fault a page otherwise."""
    for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD) if hasattr(LIBC, "mallopt") else ():  # musl has none
        LIBC.mallopt(option, keep_bytes)


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
