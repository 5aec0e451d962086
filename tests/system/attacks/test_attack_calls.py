"""System calls by which a service would get more than it has: each refused, most of them twice."""

import json
import os

import payload_calls as payload
import pytest
from harness import CAPABILITIES, DEVICES, SECCOMP, Row, Stage, answers, expected, names, service, words

from pyinit.model import DEFAULT_CAPABILITIES

pytestmark = pytest.mark.usefixtures("nothing_left")

BOTH = (CAPABILITIES, SECCOMP)


def twice(name: str, title: str, attack: str, succeeds: str, code, *, service: str = "") -> Row:
    """By capabilities and by seccomp, each of which would be enough."""
    return Row(name, title, attack, BOTH, "EPERM", succeeds, code, alone=("EPERM", "EPERM"), service=service)


def perhaps_missing(name: str, title: str, attack: str, succeeds: str, code) -> Row:
    """The same; a kernel that is built without it says so before it asks for capabilities, and only after the filter."""
    return Row(name, title, attack, BOTH, "EPERM", succeeds, code, alone=(None, "EPERM"))


def by_filter(name: str, title: str, attack: str, succeeds: str, code, *, refused: str = "EPERM") -> Row:
    """Everybody may, but for the filter."""
    return Row(name, title, attack, (SECCOMP,), refused, succeeds, code)


def of_x86(row: Row) -> tuple[Row, ...]:
    """Where there are two sets of numbers."""
    return (row,) if os.uname().machine == "x86_64" else ()


def mknod_granted(stage: Stage) -> object:
    granted = json.dumps([*DEFAULT_CAPABILITIES, "MKNOD"])
    text = stage.config(service("app", words(payload.mknod_disk, "attack"))).replace("[container.security]\n", f"[container.security]\ncapabilities = {granted}\n")
    box = stage.start(text)
    box.wait()
    return answers(box.output)["attack"]


ROWS = (
    by_filter("userns-unshare", "user namespaces", "unshare makes one, in which all capabilities are had", "a user namespace", payload.unshare_user),
    by_filter("userns-clone", "user namespaces", "clone makes one", "a user namespace", payload.clone_user),
    by_filter("userns-clone3", "user namespaces", "clone3, whose flags no filter can see, makes one", "a user namespace", payload.clone3_user, refused="ENOSYS"),
    twice("mountns", "mount namespaces", "unshare makes one", "a mount namespace", payload.unshare_mounts),
    twice("setns", "setns", "a namespace is entered", "entered", payload.setns),
    twice("mount", "mount(2)", "a tmpfs is mounted", "mounted", payload.mount_tmpfs),
    twice("mount-proc", "a fresh procfs", "a procfs without masks is mounted", "mounted", payload.mount_proc),
    twice("remount", "read-only paths", "/proc/sys is mounted anew, writable", "writable", payload.remount),
    twice("umount-mask", "masks", "the mask of /sys/dev/block is unmounted", "unmasked", payload.umount_mask),
    twice("bind-mask", "masks", "/proc is bound where no mask covers it", "bound", payload.bind_over_mask),
    twice("fsopen", "CVE-2022-0185, fsconfig", "a file system context is opened", "opened", payload.fsopen),
    twice("open-tree", "new mount API", "a tree of mounts is copied without what lies on it", "opened", payload.open_tree),
    twice("mount-setattr", "new mount API", "a read-only mount is made writable", "writable", payload.mount_setattr),
    twice("open-by-handle", "shocker, open_by_handle_at", "the root of the host's file system is opened by its number", "opened", payload.open_by_handle),
    twice("pidfd-getfd", "pidfd_getfd", "a descriptor of the init's is taken", "opened", payload.pidfd_getfd),
    Row("ptrace", "ptrace of the init", "the init is seized", (CAPABILITIES,), "EPERM", "seized", payload.ptrace),
    Row("vm-read", "process_vm_readv", "the memory of the init is read", (CAPABILITIES,), "EPERM", "asked", payload.vm_read),
    by_filter("io-uring", "io_uring", "a ring is set up", "opened", payload.io_uring),
    by_filter("userfaultfd", "userfaultfd", "page faults are handled, by which races in the kernel are won", "opened", payload.userfaultfd),
    twice("bpf", "bpf", "a map is made", "opened", payload.bpf),
    by_filter("perf", "perf_event_open", "a counter is opened", "opened", payload.perf_event),
    by_filter("add-key", "keyrings", "a key is added to the session's keyring, which no namespace parts", "added", payload.add_key),
    by_filter("keyctl", "keyrings", "keyrings are asked for", "told", payload.keyctl),
    by_filter("request-key", "keyrings", "a key is searched for, for which the kernel may run a program of the host's", "searched", payload.request_key),
    twice("kernel-log", "syslog(2)", "the kernel's log is read", "read", payload.kernel_log),
    by_filter("vsock", "AF_VSOCK", "a socket towards the hypervisor is made", "a socket", payload.vsock),
    by_filter("af-alg", "AF_ALG", "a socket towards the kernel's ciphers is made", "asked", payload.af_alg),
    perhaps_missing("kexec", "kexec_load", "another kernel is loaded", "asked", payload.kexec),
    perhaps_missing("init-module", "init_module", "a module is loaded into the kernel", "asked", payload.init_module),
    twice("swapon", "swapon", "a file is swapped to", "asked", payload.swapon),
    twice("settimeofday", "settimeofday", "the host's clock is set", "asked", payload.settimeofday),
    twice("sethostname", "sethostname", "the host name is changed", "set", payload.sethostname),
    Row("mknod", "mknod", "a node of the host's disk is made and opened", (CAPABILITIES,), "EPERM", "opened", payload.mknod_disk),
    Row("mknod-granted", "mknod", "with CAP_MKNOD a node of the host's disk is made and opened", (DEVICES,), "EPERM", "opened", outside=mknod_granted),
    Row("dev-mem", "/dev/mem", "a node of the machine's memory, or of the kernel's log, is made and opened", (CAPABILITIES,), "EPERM", "opened", payload.mknod_memory),
    twice("release-agent", "CVE-2022-0492, release_agent", "a hierarchy of cgroup v1 is mounted, and its release_agent opened for writing", "opened", payload.release_agent),
    twice("unshare-others", "namespaces", "unshare makes each other one", "net, pid, uts, ipc, cgroup, time", payload.unshare_others),
    twice("clone-others", "namespaces", "clone makes each other one", "net, pid, uts, ipc, cgroup", payload.clone_others),
    twice("pivot-root", "pivot_root", "another root is taken", "asked", payload.pivot_root),
    twice("fspick", "new mount API", "a mounted file system's settings are picked up", "asked", payload.fspick),
    twice("fsmount", "new mount API", "a file system context becomes a mount", "asked", payload.fsmount),
    twice("move-mount", "new mount API", "a mount is moved", "asked", payload.move_mount),
    twice("fanotify", "fanotify", "all files of a file system are watched", "asked", payload.fanotify),
    by_filter("process-madvise", "process_madvise", "another process's memory is advised on", "asked", payload.process_madvise),
    by_filter("kcmp", "kcmp", "what processes have open is compared, by which the kernel's addresses are told", "asked", payload.kcmp),
    by_filter("personality", "personality", "what may be read may be executed from then on", "set", payload.personality),
    twice("reboot", "reboot", "the machine is restarted", "asked", payload.reboot),
    perhaps_missing("delete-module", "delete_module", "a module is taken out of the kernel", "asked", payload.delete_module),
    perhaps_missing("finit-module", "finit_module", "a module is loaded from a file", "asked", payload.finit_module),
    perhaps_missing("kexec-file", "kexec_file_load", "another kernel is loaded from a file", "asked", payload.kexec_file),
    perhaps_missing("acct", "acct", "the record of all processes is directed", "asked", payload.acct),
    twice("swapoff", "swapoff", "the host's swap space is taken away", "asked", payload.swapoff),
    twice("setdomainname", "setdomainname", "the domain name is changed", "set", payload.setdomainname),
    twice("vhangup", "vhangup", "a terminal is hung up", "asked", payload.vhangup),
    by_filter("move-pages", "move_pages", "memory is moved between nodes", "asked", payload.move_pages),
    by_filter("io-uring-enter", "io_uring", "a ring that somebody has passed is used", "asked", payload.io_uring_enter),
    Row("vm-write", "process_vm_writev", "the memory of the init is written to", (CAPABILITIES,), "EPERM", "asked", payload.vm_write),
    by_filter("af-alg-wide", "AF_ALG, CVE-2019-10063", "such a socket is made, with a bit above in its number", "asked", payload.af_alg_wide),
    by_filter("vsock-wide", "AF_VSOCK, CVE-2019-10063", "such a socket is made, with a bit above in its number", "a socket", payload.vsock_wide),
    by_filter("tiocsti-wide", "TIOCSTI, CVE-2019-10063", "a command is typed on a terminal of the service's own, with a bit above in the number", "asked", payload.tiocsti_wide),
    by_filter("tioclinux", "TIOCLINUX", "the console's selection is pasted", "asked", payload.tioclinux),
    *of_x86(by_filter("of-32-bits", "calls of another architecture", "a call of i386, whose numbers mean other calls", "answered", payload.of_32_bits, refused="killed by 31")),
    twice("cgroup-mount", "cgroup escape", "cgroup2 is mounted anew, writable", "opened", payload.cgroup_again),
)


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
