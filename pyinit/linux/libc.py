"""The C library, loaded once, and the one way to call it.

Owns the two handles. Must not know what is called through them.
Law: a failed call raises OSError with errno, the call's name and its path.
"""

import os

from pyinit.linux import foreign as ctypes

# PyDLL keeps the GIL: our calls are short, and a raw clone3 must not return into a half-taken lock.
LIBC = ctypes.PyDLL(None, use_errno=True)


def check(result: int, call: str, path: str | bytes | None = None) -> int:
    """`result`, or OSError from errno if it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        where = "" if path is None else f" {os.fsdecode(path)}"
        raise OSError(number, f"{call}{where}: {os.strerror(number)}")
    return result


def syscall(call: str, number: int, *arguments: object, path: str | None = None) -> int:
    """A raw system call; ints go as 64 bit, bytes and byref() as pointers."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return check(LIBC.syscall(ctypes.c_long(number), *words), call, path)
