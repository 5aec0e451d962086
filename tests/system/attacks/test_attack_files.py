"""Files of the kernel's: those that run a program of the host's, those that tell of it, and PID 1's own."""

import payload_files as payload
import pytest
from harness import CAPABILITIES, MASKED, READ_ONLY, Defence, Mutant, Row, expected, names

pytestmark = pytest.mark.usefixtures("nothing_left")

SYSFS = Defence(
    "/sys is read-only",
    mutants=(Mutant("launch/plan.py", 'ops.MountKernel("sysfs", "/sys", (), (ops.RO, *strict), at)', 'ops.MountKernel("sysfs", "/sys", (), strict, at)'),),
)
DUMPABLE = Defence("PR_SET_DUMPABLE 0", mutants=(Mutant("launch/inside.py", "    process.prctl(process.PR_SET_DUMPABLE, 0)\n", ""),))


def written(name: str, title: str, attack: str, code, held=READ_ONLY) -> Row:
    return Row(name, title, f"{attack} is opened for writing", (held,), "EROFS", "opened", code)


def of_init(name: str, what: str, code, succeeds: str) -> Row:
    """PID 1 has more capabilities than any service; where a service may have as many, CAP_SYS_PTRACE is among them."""
    return Row(f"init-{name}", f"/proc/1/{name}", what, (CAPABILITIES, DUMPABLE), "EACCES", succeeds, code, alone=("EACCES", None))


ROWS = (
    written("core-pattern", "core_pattern", "/proc/sys/kernel/core_pattern, a program of the host's for each crash,", payload.core_pattern),
    written("modprobe", "modprobe", "/proc/sys/kernel/modprobe, a program of the host's for each missing module,", payload.modprobe),
    written("binfmt-misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc, programs of the host's for kinds of files,", payload.binfmt_misc),
    written("sysrq", "sysrq-trigger", "/proc/sysrq-trigger, which ends the machine,", payload.sysrq_trigger),
    written("sysctl", "/proc/sys", "a setting of the host's memory, /proc/sys/vm/drop_caches,", payload.drop_caches),
    written("irq", "/proc/irq", "/proc/irq/default_smp_affinity", payload.irq_affinity),
    written("proc-bus", "/proc/bus", "a file of /proc/bus, where the machine's devices are,", payload.proc_bus),
    written("proc-fs", "/proc/fs", "a file of /proc/fs, where file systems of the host's are,", payload.proc_fs),
    written("uevent-helper", "uevent_helper", "/sys/kernel/uevent_helper, a program of the host's for each device,", payload.uevent_helper, SYSFS),
    Row("kcore", "/proc/kcore", "the kernel's memory is read", (MASKED, CAPABILITIES), "empty", "read", payload.kcore, alone=("empty", None)),
    Row("proc-keys", "/proc/keys", "the host's keys are listed", (MASKED,), "empty", "read", payload.keys),
    Row("timer-list", "/proc/timer_list", "addresses and processes of the host's are read", (MASKED, CAPABILITIES), "empty", "read", payload.timer_list, alone=("empty", None)),
    Row("firmware", "/sys/firmware", "the host's firmware is looked at", (MASKED,), "empty", "seen", payload.firmware),
    Row("masked", "masked paths", "all others that are masked are looked at", (MASKED,), "empty", "seen", payload.masked),
    of_init("environ", "the environment of the init is read", payload.init_environ, "read"),
    of_init("mem", "the memory of the init is opened for writing", payload.init_mem, "opened"),
    of_init("fd", "a descriptor of the init's is opened anew", payload.init_fd, "opened"),
    of_init("root", "the root of the init is listed", payload.init_root, "listed"),
    of_init("cwd", "the current folder of the init is listed", payload.init_cwd, "listed"),
    of_init("maps", "the addresses of the init's memory are read", payload.init_maps, "read"),
)


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
