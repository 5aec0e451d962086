"""Beside the container: the host's processes, sockets, groups, keys, terminal and root."""

import contextlib
import ctypes
import fcntl
import os
import pathlib
import pty
import shutil
import socket
import stat
import subprocess
import termios

import payload_escape as payload
import payload_fds
import payload_mounts
import pytest
from harness import (
    CAPABILITIES,
    EVERY_CAPABILITY,
    SECCOMP,
    Defence,
    Mutant,
    Row,
    Stage,
    answers,
    expected,
    names,
    service,
    words,
)
from test_attack_bombs import SAVED_GID
from test_attack_files import DUMPABLE
from test_attack_mounts import NODEV

pytestmark = pytest.mark.usefixtures("nothing_left")

NETWORK = Defence("network namespace", container='[container.network]\nmode = "host"')
PIDS = Defence("pid namespace", mutants=(Mutant("launch/clone.py", 'if name != "cgroup"}', 'if name not in ("cgroup", "pid")}'), Mutant("launch/builder.py", "inner_pid=2", "inner_pid=0")))
PIVOT = Defence("pivot_root", mutants=(Mutant("launch/inside.py", "    mount.pivot_to_cwd()\n", '    os.chroot(".")\n    os.chdir("/")\n'),))
GROUPS = Defence(
    "/sys/fs/cgroup is read-only",
    mutants=(Mutant("launch/inside.py", "attributes = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID", "attributes = mount.MOUNT_ATTR_NOSUID"),),
)
INHERITABLE = Defence("the inheritable set is cleared", mutants=(Mutant("launch/inside.py", "    caps.clear_inheritable()\n", ""),))
KEYRING = Defence("a session keyring of its own", mutants=(Mutant("launch/inside.py", "[_join_keyring]", "[lambda: None]"),))
OWN_DEV = Defence(
    "/dev is not the image's", keys=(("readonly_paths", "[]"),),
    mutants=(
        Mutant(
            "launch/apply.py", "                os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)\n",
            '                if name == "null":\n                    os.symlink("/proc/sys/kernel/domainname", name, dir_fd=dev)\n                    continue\n'
            "                os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)\n",
        ),
    ),
)  # fmt: skip
IS_NULL = Defence(
    "/dev/null is looked at before it masks",
    mutants=(Mutant("launch/apply.py", "if not stat.S_ISCHR(seen.st_mode) or seen.st_rdev != os.makedev(1, 3):", "if False:"),),
)
RAM_DEV = Defence(
    "/dev is a RAM disk",
    mutants=(
        *NODEV.mutants,
        Mutant("launch/plan.py", '        ops.MountKernel("tmpfs", "/dev", (("mode", "0755"), ("size", "64k"), ("nr_inodes", "1k")), (ops.NOSUID, ops.NOEXEC), at),\n', ""),
    ),
)
OWN_TTY = Defence("no terminal is opened by a magic link", mutants=(Mutant("init/spawn.py", 'sys.modules["pyinit.linux.mount"].open_plainly(child.tty, os.O_RDWR)', "os.open(child.tty, os.O_RDWR)"),))
LIBC = ctypes.CDLL(None, use_errno=True)


def run(stage: Stage, attack, more: str = "", *, image: pathlib.Path | None = None, before: str = "", **keys) -> str:
    """Its outcome; else why there is no container, or no service."""
    box = stage.start(stage.config(before + service("app", words(attack, "attack"), more), image=image), **keys)
    box.wait()
    return told(box.output)


def told(output: str) -> str:
    lines = [line for line in output.splitlines() if " failed before exec: " in line or line.startswith("pyinit: /")]
    found = answers(output)
    return found["attack"] if "attack" in found else f"refused: {lines[0].rpartition(': ')[2]}" if lines else output[:1000]


def to_process(stage: Stage) -> str:
    with subprocess.Popen(["sleep", "60"]) as victim:
        try:
            return run(stage, payload.kill_outside, f'environment = {{ VICTIM = "{victim.pid}" }}')
        finally:
            victim.kill()


def to_socket(stage: Stage) -> str:
    address = f"pyinit-attack-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("\0" + address)
        sock.listen()
        return run(stage, payload.abstract_socket, f'environment = {{ ADDRESS = "{address}" }}')


def to_root(stage: Stage) -> str:
    (stage.folder / "mark").touch()
    return run(stage, payload.chroot_escape, f'environment = {{ MARK = "{stage.folder}/mark" }}')


def with_inheritable() -> None:
    """All that we are permitted: capget, capset of version 3."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    LIBC.capget(ctypes.byref(header), ctypes.byref(data))
    data[2], data[5] = data[1], data[4]
    LIBC.capset(ctypes.byref(header), ctypes.byref(data))


def by_inheritable(stage: Stage) -> str:
    found = run(stage, payload_fds.inheritable, preexec_fn=with_inheritable)
    return found if not found.strip("0") else "not empty"


def with_key() -> None:
    number = ctypes.c_long({"x86_64": 250}.get(os.uname().machine, 219))
    LIBC.syscall(number, ctypes.c_long(1), None)  # KEYCTL_JOIN_SESSION_KEYRING
    LIBC.syscall(ctypes.c_long({"x86_64": 248}.get(os.uname().machine, 217)), b"user", b"pyinit-attack", b"secret", ctypes.c_long(6), ctypes.c_long(-3))


def to_key(stage: Stage) -> str:
    return run(stage, payload.host_key, preexec_fn=with_key)


def by_null(stage: Stage) -> str:
    """The image's /dev/null is a link to a setting of the kernel's."""
    tree = pathlib.Path(shutil.copytree(stage.image, stage.folder / "tree", symlinks=True))
    (tree / "dev/null").symlink_to("/proc/sys/kernel/domainname")
    return run(stage, payload_mounts.null, image=tree)


def by_console(stage: Stage) -> str:
    """The image's /dev/console is a link to what is masked, where other runtimes mount a terminal."""
    tree = pathlib.Path(shutil.copytree(stage.image, stage.folder / "tree", symlinks=True))
    (tree / "dev/console").symlink_to("/proc/timer_list")
    return run(stage, payload_mounts.console, image=tree)


def by_node(stage: Stage) -> str:
    tree = pathlib.Path(shutil.copytree(stage.image, stage.folder / "tree", symlinks=True))
    os.mknod(tree / "node", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    try:
        return run(stage, payload.node_of_image, image=tree)
    finally:
        (tree / "node").unlink()


def on_terminal(stage: Stage, more: str, before: str = "") -> str:
    """Started from a terminal, as by a shell, whose session has it as its own."""
    master, slave = pty.openpty()

    def own_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    try:
        found = run(stage, payload.tiocsti, more, before=before, stdin=slave, start_new_session=True, preexec_fn=own_terminal)
        os.set_blocking(master, False)
        with contextlib.suppress(BlockingIOError):
            output = os.read(master, 4096).decode()
            found = told(output) if "attack" in answers(output) else found  # of a service whose output it is, too
        return found
    finally:
        os.close(slave)
        os.close(master)


def to_terminal(stage: Stage) -> str:
    return on_terminal(stage, 'stdin = "tty"')


def to_terminal_by_link(stage: Stage) -> str:
    """A service places a link to the init's input where another is to have its terminal."""
    place = service("place", words(payload.place_links, "place"))
    return on_terminal(stage, 'tty = "/dev/attack-tty"\nrequires = ["place"]', place)


def without_ptrace() -> None:
    LIBC.prctl(24, ctypes.c_ulong(19), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))  # PR_CAPBSET_DROP


def as_init(stage: Stage) -> str:
    """Where what started us has no CAP_SYS_PTRACE, and the config takes nothing away."""
    text = stage.config(service("app", words(payload.as_capable_as_init, "attack")))
    text = text.replace("[container.security]\n", f"[container.security]\ncapabilities = [{EVERY_CAPABILITY}]\n")
    box = stage.start(text, preexec_fn=without_ptrace)
    box.wait()
    return answers(box.output)["attack"]


ROWS = (
    Row("kill", "kill", "a process of the host's is signalled by its number", (PIDS,), "ESRCH", "signalled", outside=to_process),
    Row("abstract-socket", "abstract sockets", "an abstract unix socket of the host's is connected to (CVE-2020-15257)", (NETWORK,), "ECONNREFUSED", "connected", outside=to_socket),
    Row("chroot", "chroot escape", "a folder kept open across chroot is followed up to the host's root", (PIVOT,), "the container's root", "the host's root", outside=to_root),
    Row("cgroup-write", "cgroup escape", "a file of the container's own group is opened for writing", (GROUPS,), "EROFS", "opened", payload.cgroup_write),
    Row("cgroup-mkdir", "cgroup escape", "a group is made", (GROUPS,), "EROFS", "made", payload.cgroup_mkdir),
    Row("inheritable", "CVE-2022-24769", "capabilities that what started us had as inheritable are had", (INHERITABLE,), "0" * 16, "not empty", outside=by_inheritable),
    Row("host-key", "keyrings", "a key of the session that started the container is read", (SECCOMP, KEYRING), "EPERM", "read secret", outside=to_key, alone=("EPERM", "ENOKEY")),
    Row(
        "forged-null", "CVE-2025-31133", "/dev/null of the image is a link to a setting, which would be bound where a mask should be", (OWN_DEV, IS_NULL), "the null device", "the setting",
        outside=by_null, alone=("the null device", "refused: /dev/null of the container is not the null device"),
    ),
    Row("console", "CVE-2025-52565", "/dev/console of the image is a link to what is masked", (RAM_DEV,), "not there", "there", outside=by_console, container='writable = "tmpfs"'),
    Row("image-node", "mknod", "a device node of the image is opened", (NODEV,), "EACCES", "opened", outside=by_node),
    Row("tiocsti", "TIOCSTI", "a command is typed on the terminal that started us, which is a service's input", (CAPABILITIES, SECCOMP), "EPERM", "typed", outside=to_terminal, alone=("EPERM", None)),
    Row("tiocsti-link", "TIOCSTI", "a link to that terminal is what another service gets as its own", (OWN_TTY, SECCOMP), "refused: Too many levels of symbolic links", "typed", outside=to_terminal_by_link),
    Row("init-equal", "/proc/1", "a service that has the init's own capabilities looks into it", (DUMPABLE, SAVED_GID), "nothing", "mem, fd, root, exe, ptrace", outside=as_init, alone=("nothing", "nothing")),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
