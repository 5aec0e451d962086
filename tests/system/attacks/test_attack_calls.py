"""System calls by which a service would get more than it has: each refused, most of them twice."""

import json

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
    twice("cgroup-mount", "cgroup escape", "cgroup2 is mounted anew, writable", "opened", payload.cgroup_again),
)


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
