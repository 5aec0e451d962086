"""The defaults of [container.security] hold at least what Docker's and Podman's do; their lists, as facts."""

from pyinit.linux.caps import NAMES
from pyinit.model import DEFAULT_CAPABILITIES, DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS, Security

DOCKERS_CAPABILITIES = {
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
}  # fmt: skip
HIDDEN_BY_DOCKER = {
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
    "/proc/timer_list", "/proc/timer_stats", "/sys/devices/system/cpu/cpu*/thermal_throttle", "/sys/devices/virtual/powercap", "/sys/firmware",
}  # fmt: skip
HIDDEN_BY_PODMAN = {
    "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/dev/block", "/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/selinux",
}  # fmt: skip
READ_ONLY = {"/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}  # of either


def test_no_capability_more_than_docker_gives():
    assert DOCKERS_CAPABILITIES - set(DEFAULT_CAPABILITIES) == {"MKNOD", "NET_RAW"}
    assert set(DEFAULT_CAPABILITIES) - DOCKERS_CAPABILITIES == set()
    assert set(DEFAULT_CAPABILITIES) < set(NAMES)


def test_all_is_hidden_and_read_only_that_either_has():
    assert (HIDDEN_BY_DOCKER | HIDDEN_BY_PODMAN) - set(DEFAULT_MASKED_PATHS) == set()
    assert READ_ONLY - set(DEFAULT_READONLY_PATHS) - set(DEFAULT_MASKED_PATHS) == set()
    assert Security() == (DEFAULT_CAPABILITIES, DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS, *Security()[3:])
