"""In a user namespace: root inside is nobody on the host, also where each other defence has failed.

The rows have all others switched off at once, and what is left is the ids.
"""

import contextlib
import subprocess

import payload_calls
import payload_files
import payload_user as payload
import pytest
from harness import CAPABILITIES, DEVICES, MASKED, OTHER_IDS, READ_ONLY, SECCOMP, USERS, Row, Stage, expected, names
from payload import syscall
from test_attack_escape import GROUPS, run
from test_attack_files import SYSFS

pytestmark = pytest.mark.usefixtures("nothing_left")

# The last one is left alone: with the others it is what test_attack_calls.py and test_attack_files.py have of a container without.
ALL = (CAPABILITIES, SECCOMP, READ_ONLY, MASKED, SYSFS, GROUPS, DEVICES, USERS)


def row(name: str, title: str, attack: str, refused: str, alone: str, succeeds: str, code) -> Row:
    """`refused`: with all; `alone`: by the ids."""
    return Row(
        f"user-{name}", title, f"{attack}, as root of a user namespace", ALL, refused, succeeds, code,
        alone=(None,) * (len(ALL) - 1) + (alone,), container=OTHER_IDS,
    )  # fmt: skip


def kernel_file(name: str, attack: str, code) -> Row:
    return row(name, name, f"{attack} is opened for writing", "EACCES", "EACCES", "opened", code)


def to_files(stage: Stage) -> str:
    """Bound without a map: on the disk they are whose they are."""
    folder = stage.folder / "bound"
    folder.mkdir()
    for name, mode in (("secret", 0o600), ("program", 0o755)):
        (folder / name).touch()
        (folder / name).chmod(mode)
    return run(stage, payload.files_of_root, before=f'[[container.mounts]]\ntype = "bind"\nsource = "{folder}"\ntarget = "/bound"\n')


def to_process(stage: Stage) -> str:
    with subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL) as victim:
        try:
            return run(stage, payload.process_of_root, f'environment = {{ VICTIM = "{victim.pid}" }}')
        finally:
            victim.kill()


def to_names(stage: Stage) -> str:
    return run(stage, payload.shared_names)


def to_user_key(stage: Stage) -> str:
    """In the keyring of uid 0, which is the namespace's own in there."""
    number = syscall(248, 217, b"user", b"pyinit-attack-user", b"secret", 6, -4)  # add_key to KEY_SPEC_USER_KEYRING
    syscall(250, 219, 5, number, 0x3F3F0000)  # KEYCTL_SETPERM: its user, too, and not only who possesses it
    try:
        return run(stage, payload.user_key)
    finally:
        with contextlib.suppress(OSError):
            syscall(250, 219, 9, number, -4)  # KEYCTL_UNLINK


OF_HOST = f'share = ["pid:/proc/self/ns/pid"]\n{OTHER_IDS}'
NAMES = f'share = ["net:/proc/self/ns/net", "uts:/proc/self/ns/uts"]\n{OTHER_IDS}'
ROWS = (
    kernel_file("core_pattern", "/proc/sys/kernel/core_pattern", payload_files.core_pattern),
    kernel_file("modprobe", "/proc/sys/kernel/modprobe", payload_files.modprobe),
    kernel_file("binfmt_misc", "/proc/sys/fs/binfmt_misc", payload_files.binfmt_misc),
    kernel_file("sysrq-trigger", "/proc/sysrq-trigger", payload_files.sysrq_trigger),
    kernel_file("sysctl", "a setting of the host's memory, /proc/sys/vm/drop_caches,", payload_files.drop_caches),
    kernel_file("irq", "/proc/irq/default_smp_affinity", payload_files.irq_affinity),
    kernel_file("uevent_helper", "/sys/kernel/uevent_helper", payload_files.uevent_helper),
    row("timer-list", "/proc/timer_list", "addresses and processes of the host's are read", "empty", "EACCES", "read", payload_files.timer_list),
    row("mknod", "mknod", "a node of the host's disk is made and opened", "EPERM", "EPERM", "opened", payload_calls.mknod_disk),
    row("dev-mem", "/dev/mem", "a node of the machine's memory, or of the kernel's log, is made and opened", "EPERM", "EPERM", "opened", payload_calls.mknod_memory),
    row("kernel-log", "syslog(2)", "the kernel's log is read", "EPERM", "EPERM", "read", payload_calls.kernel_log),
    row("settimeofday", "settimeofday", "the host's clock is set", "EPERM", "EPERM", "asked", payload_calls.settimeofday),
    row("swapon", "swapon", "a file is swapped to", "EPERM", "EPERM", "asked", payload_calls.swapon),
    row("bpf", "bpf", "a map is made", "EPERM", "EPERM", "opened", payload_calls.bpf),
    row("open-by-handle", "shocker, open_by_handle_at", "the root of the host's file system is opened by its number", "EPERM", "EPERM", "opened", payload_calls.open_by_handle),
    row("release-agent", "CVE-2022-0492, release_agent", "a hierarchy of cgroup v1 is mounted, and its release_agent opened for writing", "EPERM", "EACCES", "opened", payload.release_agent),
    row("cgroup", "cgroup escape", "a limit of the container's own group is opened for writing", "EACCES", "EACCES", "opened", payload.group_limit),
    row("nice", "the machine's time", "a process takes more than others have", "EACCES", "EACCES", "taken", payload.priority),
    row("audit", "the audit log", "the record of the whole machine is read", "EPERM", "EPERM", "read", payload.audit_socket),
    Row(
        "user-files", "files of root's", "in a folder of the host's that is bound as it is, they are read, written, made, removed and set-uid", (USERS,),
        "EACCES", "read, written, made, set-uid, removed", outside=to_files, container=OTHER_IDS,
    ),
    Row(
        "user-process", "processes of root's", "where the pid namespace is the host's one is looked into, entered, traced and signalled", (CAPABILITIES, SECCOMP, USERS),
        "EPERM", "environ, mem, root, fd, setns, ptrace, prlimit, kill", outside=to_process, container=OF_HOST, alone=(None, None, "EPERM"),
    ),
    Row(
        "user-names", "the host's network and names", "where they are shared an interface and the host's name are set, packets are read", (CAPABILITIES, SECCOMP, USERS),
        "EPERM", "interface, packets, hostname", outside=to_names, container=NAMES, alone=("EPERM", None, "EPERM"),
    ),
    Row(
        "user-key", "keyrings", "a key of root's own keyring on the host is read", (SECCOMP, USERS),
        "EPERM", "read secret", outside=to_user_key, container=OTHER_IDS, alone=("EPERM", "ENOKEY"),
    ),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
