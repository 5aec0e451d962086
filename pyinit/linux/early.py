"""prctl(2) for a process that has a millisecond: without the types of ctypes, which cost more than all the rest of it.

Owns that call. Must not know what for. What has more time takes linux/process.py.
"""

import _ctypes  # the core of ctypes
import errno
import posix

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 1, 36, 37
_PRCTL = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]  # None is the program itself


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]  # not to be had at run time
    _type_ = "i"


def prctl(option: int, value: int) -> None:
    """For those of the options above that set; EINVAL is all that can go wrong with them, as OSError."""
    _call(option, value)


def is_subreaper() -> bool:
    """Whether orphans below this process become its children; that outlives an exec."""
    found = _Int(0)
    _call(PR_GET_CHILD_SUBREAPER, _ctypes.byref(found))
    return bool(found.value)


def _call(option: int, value: object) -> None:
    if _ctypes.call_function(_PRCTL, (option, value, 0, 0, 0)) < 0:
        raise OSError(errno.EINVAL, posix.strerror(errno.EINVAL), "prctl")
