"""timerfd: a deadline of the wall clock, and word of the clock's being set.

Owns the two calls. Must not know what is due. Source: timerfd_create(2).
"""

import os

from pyinit.linux import foreign as ctypes
from pyinit.linux.libc import LIBC, check

_CLOCK_REALTIME = 0
_TFD_TIMER_ABSTIME, _TFD_TIMER_CANCEL_ON_SET = 1, 2


def timerfd() -> int:
    """Of CLOCK_REALTIME, non-blocking and CLOEXEC."""
    return check(LIBC.timerfd_create(_CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC), "timerfd_create")


def set_wall_time(fd: int, unix_s: int) -> None:
    """Readable once the clock says `unix_s`; 0 disarms. A read fails with ECANCELED if the clock was set."""
    value = (ctypes.c_long * 4)(0, 0, unix_s, 0)  # struct itimerspec: interval, value
    flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
    check(LIBC.timerfd_settime(fd, flags, ctypes.byref(value), None), "timerfd_settime")
