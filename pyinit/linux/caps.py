"""Capabilities: names, the bounding set, the sets of this process.

Owns the table of names. Must not know which set a service gets.
Source: capabilities(7).
"""

import errno
import os

from pyinit.linux import foreign as ctypes
from pyinit.linux.libc import LIBC, check
from pyinit.linux.process import prctl

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
_PR_CAPBSET_READ, PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 23, 24, 47, 2, 4
_VERSION_3 = 0x20080522
_USER_NS_INIT_INO = 0xEFFFFFFD  # linux/nsfs.h, enum init_ns_ino


def are_the_machines() -> bool:
    """Whether ours are of the user namespace that the kernel booted with: others make no devices (user_namespaces(7))."""
    try:
        return os.stat("/proc/self/ns/user").st_ino == _USER_NS_INIT_INO
    except FileNotFoundError:  # a kernel without them, or no /proc
        return True


def limit_bounding_set(keep: tuple[str, ...]) -> None:
    """Drop all but `keep` from the bounding set: what root gets at exec is what is left."""
    for number, name in enumerate(NAMES):
        if name not in keep and _is_bounded(number):
            prctl(PR_CAPBSET_DROP, number)


def _is_bounded(number: int) -> bool:
    """Whether the bounding set has it; a capability that this kernel does not know (EINVAL) it has not."""
    try:
        return prctl(_PR_CAPBSET_READ, number) == 1
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return False


def clear_inheritable() -> None:
    """Empty the inheritable and ambient sets; permitted and effective stay."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    check(LIBC.capget(ctypes.byref(header), ctypes.byref(data)), "capget")
    data[2] = data[5] = 0
    check(LIBC.capset(ctypes.byref(header), ctypes.byref(data)), "capset")
    prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)


def keep_only(names: tuple[str, ...]) -> None:
    """Of the permitted set what is in `names`, all of it effective; nothing is inherited or ambient."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    check(LIBC.capget(ctypes.byref(header), ctypes.byref(data)), "capget")
    for half in (0, 1):
        mask = sum(1 << (number % 32) for number, name in enumerate(NAMES) if name in names and number // 32 == half)
        data[3 * half + 1] &= mask
        data[3 * half] = data[3 * half + 1]
        data[3 * half + 2] = 0
    prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    check(LIBC.capset(ctypes.byref(header), ctypes.byref(data)), "capset")


def named(mask: int) -> tuple[str, ...]:
    """Of a set as proc_pid_status(5) has it."""
    return tuple(name for number, name in enumerate(NAMES) if mask >> number & 1)


def has(name: str) -> bool:
    """Whether `name` is in this process's effective set."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    check(LIBC.capget(ctypes.byref(header), ctypes.byref(data)), "capget")
    number = NAMES.index(name)
    return bool(data[3 * (number // 32)] >> (number % 32) & 1)


def bounding_set() -> frozenset[str]:
    """Of this process."""
    return frozenset(name for number, name in enumerate(NAMES) if _is_bounded(number))


def effective_set() -> frozenset[str]:
    """Of this process."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    check(LIBC.capget(ctypes.byref(header), ctypes.byref(data)), "capget")
    return frozenset(name for number, name in enumerate(NAMES) if data[3 * (number // 32)] >> (number % 32) & 1)


def raise_ambient(numbers: tuple[int, ...]) -> None:
    """Make these, and no others, permitted, inheritable and ambient: they outlive the exec of an ordinary user."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    for number in numbers:
        for field in range(3):
            data[3 * (number // 32) + field] |= 1 << (number % 32)
    check(LIBC.capset(ctypes.byref(header), ctypes.byref(data)), "capset")
    for number in numbers:
        prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, number)
