"""Files of the kernel's that a container must not write or read: through each a program of the host's would run, or a secret be known."""

import os

from payload import name_of, opens


def core_pattern() -> str:
    return opens("/proc/sys/kernel/core_pattern")


def modprobe() -> str:
    """A kernel without modules has poweroff_cmd, which is run by the same means."""
    path = "/proc/sys/kernel/modprobe"
    return opens(path if os.path.exists(path) else "/proc/sys/kernel/poweroff_cmd")


def binfmt_misc() -> str:
    """Where nobody has mounted it, the folder it would be on is what is tried."""
    path = "/proc/sys/fs/binfmt_misc/register"
    return opens(path if os.path.exists(path) else "/proc/sys/fs/mount-max")


def sysrq_trigger() -> str:
    """A kernel without it has another file that is read-only by the same list."""
    path = "/proc/sysrq-trigger"
    return opens(path if os.path.exists(path) else "/proc/sys/kernel/panic")


def drop_caches() -> str:
    return opens("/proc/sys/vm/drop_caches")


def irq_affinity() -> str:
    return opens("/proc/irq/default_smp_affinity")


def uevent_helper() -> str:
    """A kernel without it has another file there."""
    path = "/sys/kernel/uevent_helper"
    return opens(path if os.path.exists(path) else "/sys/kernel/mm/ksm/run")


def _first_bytes(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return "read" if file.read(64) else "empty"


def kcore() -> str:
    """The kernel's memory; a kernel without it has another file that is masked."""
    path = "/proc/kcore"
    return _first_bytes(path if os.path.exists(path) else "/proc/interrupts")


def keys() -> str:
    return _first_bytes("/proc/keys")


def timer_list() -> str:
    return _first_bytes("/proc/timer_list")


def firmware() -> str:
    return "seen" if os.listdir("/sys/firmware") else "empty"


def masked() -> str:
    """Which there are depends on the kernel, and on the machine's processor; each has /proc/interrupts and /sys/dev/block."""
    names = ("acpi", "asound", "interrupts", "latency_stats", "sched_debug", "scsi", "timer_stats")
    cores = (f"/sys/devices/system/cpu/{name}/thermal_throttle" for name in os.listdir("/sys/devices/system/cpu") if name.startswith("cpu"))
    places = (*(f"/proc/{name}" for name in names), "/sys/devices/virtual/powercap", "/sys/fs/selinux", "/sys/dev/block", *cores)
    found = [path for path in places if os.path.exists(path) and (os.listdir(path) if os.path.isdir(path) else _first_bytes(path) == "read")]
    return "empty" if not found else "seen" if {"/proc/interrupts", "/sys/dev/block"} <= set(found) else " ".join(found)


def proc_bus() -> str:
    return _opens_one_of("/proc/bus")


def proc_fs() -> str:
    return _opens_one_of("/proc/fs")


def _opens_one_of(folder: str) -> str:
    """Some can't be opened for writing by anybody. Without any, another file that is read-only by the same list is tried."""
    said = "opened"
    for path in [f"{place}/{name}" for place, _, names in os.walk(folder) for name in names] or ["/proc/sys/kernel/panic"]:
        try:
            return opens(path)
        except OSError as error:
            said = name_of(error)
    return said


def init_environ() -> str:
    return _first_bytes("/proc/1/environ")


def init_mem() -> str:
    return opens("/proc/1/mem", os.O_RDWR)


def init_fd() -> str:
    """Any of its descriptors, opened anew."""
    return opens(f"/proc/1/fd/{min(os.listdir('/proc/1/fd'), key=int)}", os.O_RDONLY)


def init_root() -> str:
    return "listed" if os.listdir("/proc/1/root/") else "empty"


def init_cwd() -> str:
    return "listed" if os.listdir("/proc/1/cwd/") else "empty"


def init_maps() -> str:
    return _first_bytes("/proc/1/maps")
