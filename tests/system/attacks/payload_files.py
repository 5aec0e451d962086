"""Files of the kernel's that a container must not write: through each a program of the host's would run, or the machine end."""

import os

from payload import opens


def core_pattern() -> str:
    return opens("/proc/sys/kernel/core_pattern")


def modprobe() -> str:
    return opens("/proc/sys/kernel/modprobe")


def sysrq_trigger() -> str:
    return opens("/proc/sysrq-trigger")


def uevent_helper() -> str:
    return opens("/sys/kernel/uevent_helper")


def sysctl() -> str:
    return opens("/proc/sys/vm/drop_caches")


def init_environ() -> str:
    with open("/proc/1/environ", "rb") as file:
        return "read" if b"PYTHONHOME" in file.read() else "nothing of the host's"


def init_mem() -> str:
    return opens("/proc/1/mem", os.O_RDWR)
