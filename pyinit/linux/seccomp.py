"""seccomp(2): a filter on the system calls of this process, and of all that it starts.

Owns the call. Must not know what a program refuses. Law: what is installed is made before the fork: after it, it is one call.
"""

import os

from pyinit.linux import foreign as ctypes
from pyinit.linux.libc import syscall
from pyinit.linux.process import prctl
from pyinit.records import Any, NamedTuple

_SECCOMP = {"x86_64": 317, "aarch64": 277, "riscv64": 277}
_SET_MODE_FILTER = 1
_PR_GET_SECCOMP = 21
_INSTRUCTION = 8  # sizeof(struct sock_filter)


class Filter(NamedTuple):
    """A program as the kernel wants it; `head` points into `body`, which has to live as long."""

    head: Any  # struct sock_fprog: how many, and where; its first word is the lowest of eight bytes
    body: Any
    number: int


def prepare(program: bytes) -> Filter:
    """Of instructions one after another."""
    count = len(program) // _INSTRUCTION
    body = (ctypes.c_uint64 * count).from_buffer_copy(program)
    return Filter((ctypes.c_uint64 * 2)(count, ctypes.addressof(body)), body, _SECCOMP[os.uname().machine])


def install(ready: Filter) -> None:
    """From here on. OSError: EACCES without CAP_SYS_ADMIN and no_new_privs, EINVAL of a kernel without filters."""
    syscall("seccomp", ready.number, _SET_MODE_FILTER, 0, ctypes.byref(ready.head))


def is_there() -> bool:
    """Whether the kernel has filters."""
    try:
        prctl(_PR_GET_SECCOMP, 0)
    except OSError:
        return False
    return True
