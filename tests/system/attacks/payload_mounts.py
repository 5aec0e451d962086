"""Whose a folder of the kernel's is, as a service sees it."""

import os


def _whose(path: str) -> str:
    return "the attacker's" if os.path.exists(f"{path}/marker") else "the kernel's"


def whose_proc() -> str:
    return _whose("/proc")


def whose_sys() -> str:
    return _whose("/sys")


def whose_dev() -> str:
    return _whose("/dev")


def whose_root() -> str:
    return _whose("/")


def null() -> str:
    """What the mask of /proc/timer_list is made of."""
    seen = os.stat("/proc/timer_list")
    return "the null device" if seen.st_rdev == os.makedev(1, 3) else "the setting" if seen.st_ino == os.stat("/proc/sys/kernel/domainname").st_ino else "?"


def console() -> str:
    return "there" if os.path.lexists("/dev/console") else "not there"
