"""Beside the container: the host's processes, sockets, groups, keys, terminal and root."""

import contextlib
import ctypes
import fcntl
import json
import os
import pathlib
import pty
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import termios

import payload_escape as payload
import payload_fds
import payload_mounts
import pytest
from conftest import wait_until
from harness import (
    CAPABILITIES,
    EVERY_CAPABILITY,
    NAME,
    PIDS,
    SECCOMP,
    Defence,
    Mutant,
    Row,
    Stage,
    answers,
    expected,
    inside_pid,
    names,
    service,
    words,
)
from test_attack_bombs import SAVED_GID
from test_attack_files import DUMPABLE
from test_attack_image import Watch, kill_logger
from test_attack_mounts import NODEV

from pyinit.model import DEFAULT_CAPABILITIES

pytestmark = pytest.mark.usefixtures("nothing_left")

NETWORK = Defence("network namespace", container='[container.network]\nmode = "host"')
IPC = Defence("ipc namespace", mutants=(Mutant("launch/clone.py", 'if name not in ("cgroup", "time")}', 'if name not in ("cgroup", "time", "ipc")}'),))
CLOSED = Defence("a kept folder is root's alone", mutants=(Mutant("launch/claim.py", "            if mode & 0o011:\n", "            if False:\n"),))
PIVOT = Defence("pivot_root", mutants=(Mutant("launch/inside.py", "    mount.pivot_to_cwd()\n", '    os.chroot(".")\n    os.chdir("/")\n'),))
GROUPS = Defence(
    "/sys/fs/cgroup is read-only",
    mutants=(Mutant("launch/inside.py", "attributes = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID", "attributes = mount.MOUNT_ATTR_NOSUID"),),
)
INHERITABLE = Defence("the inheritable set is cleared", mutants=(Mutant("launch/inside.py", "    caps.clear_inheritable()\n", ""),))
KEYRING = Defence("a session keyring of its own", mutants=(Mutant("launch/inside.py", "[_join_keyring]", "[lambda: None]"),))
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
OWN_DEV = Defence(
    "/dev is not the image's", keys=(("readonly_paths", "[]"),),
    mutants=(
        *RAM_DEV.mutants,
        Mutant("launch/apply.py", "for name, major, minor in onhost.DEVICES if", "for name, major, minor in [one for one in onhost.DEVICES if one[0] not in os.listdir(dev)] if"),
    ),
)  # fmt: skip
OWN_PTS = Defence(
    "/dev/pts is not the image's",
    mutants=(
        *RAM_DEV.mutants,
        Mutant("launch/plan.py", '        ops.MountKernel("devpts", "/dev/pts", (("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")), (ops.NOSUID, ops.NOEXEC), at),\n', ""),
        Mutant("launch/apply.py", "for name, target in p.DEVICE_LINKS:", 'for name, target in [one for one in p.DEVICE_LINKS if one[0] != "ptmx"]:'),
        Mutant("launch/apply.py", 'for name in ("pts", "shm", "mqueue"):', 'for name in ("shm", "mqueue"):'),
    ),
)
IS_DEVPTS = Defence("the folder of a terminal is a devpts, by its magic", mutants=(Mutant("linux/pty.py", "if filesystem_magic(place) != _DEVPTS_SUPER_MAGIC:", "if False:"),))
SAME_DEVPTS = Defence("the terminal is of that devpts", mutants=(Mutant("linux/pty.py", "if os.fstat(slave).st_dev != os.fstat(place).st_dev:", "if False:"),))
IS_PROCFS = Defence("a file of /proc is one of a procfs, by its magic", mutants=(Mutant("init/spawn.py", "if mount.filesystem_magic(fd) != mount.PROC_SUPER_MAGIC:", "if False:"),))
NO_IMPORT = Defence(
    "a logger imports nothing at its start",
    mutants=(Mutant("init/logstream.py", "        self.pattern = None\n        if pattern:\n", "        import re\n\n        self.pattern = None\n        if pattern:\n"),),
)
HELD = Defence("it imports from what it holds open", mutants=(Mutant("launch/inside.py", "    held.install()\n", ""),))
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


def to_neighbour(stage: Stage) -> str:
    """Another container, of the same setting."""
    key = f'environment = {{ ADDRESS = "pyinit-attack-{os.getpid()}" }}'
    other = stage.start(stage.config(service("by", words(payload.offer, "by"), key), init="").replace(f'name = "{NAME}"', 'name = "by"'), name="by.toml")
    other.wait_for("by: offered")
    init = inside_pid("by")
    pid = next(int(pid) for pid in pathlib.Path(f"/proc/{init}/task/{init}/children").read_text().split() if "payload.py" in pathlib.Path(f"/proc/{pid}/cmdline").read_text())
    found = run(stage, payload.neighbour, key.replace(" }", f', VICTIM = "{pid}" }}'))
    other.stop()
    return found


def by_kept_program(stage: Stage) -> str:
    """Root inside leaves a set-uid program in the folder of `writable`, which nobody of the host's executes."""
    folder = pathlib.Path(tempfile.mkdtemp(dir="/var/tmp", prefix="pyinit-attack-"))  # the test's own folder is closed to him
    try:
        folder.chmod(0o755)
        leaves = service("app", ["/bin/sh", "-c", "cp /usr/bin/id /left; chmod 4755 /left"])
        box = stage.start(stage.config(leaves).replace("[container]\n", f'[container]\nwritable = "{folder}"\n', 1))
        if box.wait():
            return "refused" if f"{folder}: others can enter it" in box.output else box.output
        [left] = folder.rglob("left")
        return f"uid {subprocess.run(['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', left, '-u'], capture_output=True, text=True, check=False).stdout.strip()}"
    finally:
        shutil.rmtree(folder)


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


def may_mount(text: str) -> str:
    granted = json.dumps([*DEFAULT_CAPABILITIES, "SYS_ADMIN"])
    return text.replace("[container.security]\n", f"[container.security]\ncapabilities = {granted}\n")


def to_devpts(stage: Stage, verb: str) -> str:
    """Root of a container that may mount has put another devpts where `pyinit exec -t` or `enter -t` makes a terminal; refused, the user's own goes on."""
    box = stage.start(may_mount(stage.config('[services.app]\ncommand = ["/bin/sleep", "1000"]\n', init="")))
    box.wait_for("app: ready")
    placed = stage.verb("exec", "-c", NAME, "--", *words(payload.place_devpts, "attack"))
    found = stage.verb(verb, "-c", NAME, "-t", "--", *words(payload.whose_terminal, "attack"))
    box.stop()
    assert answers(placed.stdout)["attack"] == "placed", placed
    return answers(found.stdout).get("attack", found.stderr)


def to_ptmx(stage: Stage, verb: str) -> str:
    """Whose terminal it is, and what of the image was opened for it."""
    tree = pathlib.Path(shutil.copytree(stage.image, stage.folder / "tree", symlinks=True))
    (tree / "dev/pts").mkdir()
    for name in ("dev/ptmx", "dev/pts/ptmx"):
        (tree / name).touch(0o666)
    box = stage.start(stage.config('[services.app]\ncommand = ["/bin/sleep", "1000"]\n', image=tree, init=""))
    box.wait_for("app: ready")
    watch = Watch(pathlib.Path(f"/proc/{inside_pid(NAME)}/root"), tree)
    said = stage.verb(verb, "-c", NAME, "-t", "--", *words(payload.is_of_devpts, "attack"))
    opened = watch.opened() & {"/dev/ptmx", "/dev/pts/ptmx"}
    box.stop()
    found = f"opened: {' '.join(sorted(opened))}" if opened else "nothing of the image's opened"
    return f"{answers(said.stdout).get('attack', said.stderr)}, and {found}"


def to_oom_score(stage: Stage) -> str:
    """A service that may mount has put a folder of its own over /proc, in which the init writes for the next."""
    cover = service("cover", words(payload.cover_proc, "cover"))
    text = stage.config(cover + service("app", words(payload.what_was_written, "attack"), 'oom_score_adj = 500\nrequires = ["cover"]'))
    box = stage.start(may_mount(text))
    box.wait()
    return told(box.output)


def to_logger(stage: Stage) -> str:
    """The same, and then it kills the logger: the next one is forked of a PID 1 whose copies no path leads to."""
    cover = service("cover", words(payload.cover_proc, "cover"))
    app = service("app", ["/bin/sh", "-c", "while :; do echo line; sleep 0.1; done"], 'requires = ["cover"]')
    box = stage.start(may_mount(stage.config(cover + app, init="")))
    box.wait_for("app: line")
    kill_logger(inside_pid(NAME))
    died = "the logger died"
    box.wait_for(died)
    enough = box.output.count("app: line") + 5

    def is_decided() -> bool:
        box.read(0.1)
        return box.output.count("app: line") >= enough or box.output.count(died) > 2

    wait_until(is_decided, "lines, or more deaths")
    box.stop()
    return "its lines go on" if box.output.count(died) == 1 else "no logger any more"


GUEST = f"""[container]
name = "guest"
share = ["mount:{NAME}", "pid:{NAME}"]
[services.app]
command = ["/bin/sleep", "1000"]
"""


def to_guest(stage: Stage) -> str:
    """What a container that stands in the attacker's root loads for its first verbs, for a job and for a reload."""
    box = stage.start(may_mount(stage.config('[services.app]\ncommand = ["/bin/sleep", "1000"]\n', init="")))
    box.wait_for("app: ready")
    guest = stage.start(GUEST, name="guest.toml")
    guest.wait_for("app: ready")
    placed = stage.verb("exec", "-c", NAME, "--", *words(payload.plant_code, "attack"))
    assert answers(placed.stdout)["attack"] == "planted", placed
    (stage.folder / "guest.toml").write_text(GUEST.replace("1000", "999"))
    planted, answered = pathlib.Path(f"/proc/{inside_pid(NAME)}/root/tmp/planted"), 0
    for verb, *rest in (("status",), ("exec", "--", "/bin/true"), ("logs", "app"), ("reload",)):
        with subprocess.Popen([sys.executable, "-m", "pyinit", verb, "-c", "guest", *rest], cwd=stage.package, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as asks:
            wait_until(lambda: asks.poll() is not None or planted.exists(), verb)
            asks.kill()
        answered += asks.returncode == 0
    found = "planted code" if planted.exists() else f"its own, {answered} of 4 verbs answered"
    for name, one in (("guest", guest), (NAME, box)):  # by force: what has run such code may not stop
        os.kill(inside_pid(name), signal.SIGKILL)
        one.wait()
    return found


def without_ptrace() -> None:
    LIBC.prctl(24, ctypes.c_ulong(19), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))  # PR_CAPBSET_DROP


def as_init(stage: Stage) -> str:
    """Where what started us has no CAP_SYS_PTRACE, and the config takes nothing away."""
    text = stage.config(service("app", words(payload.as_capable_as_init, "attack")))
    text = text.replace("[container.security]\n", f"[container.security]\ncapabilities = [{EVERY_CAPABILITY}]\n")
    box = stage.start(text, preexec_fn=without_ptrace)
    box.wait()
    found = answers(box.output)
    assert "attack" in found, box.output
    return found["attack"]


ROWS = (
    Row("kill", "kill", "a process of the host's is signalled by its number", (PIDS,), "ESRCH", "signalled", outside=to_process),
    Row("abstract-socket", "abstract sockets", "an abstract unix socket of the host's is connected to (CVE-2020-15257)", (NETWORK,), "ECONNREFUSED", "connected", outside=to_socket),
    Row(
        "neighbour", "another container", "a process, a System V segment and an abstract unix socket of another container's are signalled, found and connected to", (PIDS, IPC, NETWORK), "nothing",
        "process, memory, socket", outside=to_neighbour,
    ),
    Row("kept-program", "set-uid programs", "root inside leaves one in a kept `writable` folder, for a user of the host's who can enter that", (CLOSED,), "refused", "uid 0", outside=by_kept_program),
    Row("chroot", "chroot escape", "a folder kept open across chroot is followed up to the host's root", (PIVOT,), "the container's root", "the host's root", outside=to_root),
    Row("cgroup-write", "cgroup escape", "a file of the container's own group is opened for writing", (GROUPS,), "EROFS", "opened", payload.cgroup_write),
    Row("cgroup-mkdir", "cgroup escape", "a group is made", (GROUPS,), "EROFS", "made", payload.cgroup_mkdir),
    Row("inheritable", "CVE-2022-24769", "capabilities that what started us had as inheritable are had", (INHERITABLE,), "0" * 16, "not empty", outside=by_inheritable),
    Row("host-key", "keyrings", "a key of the session that started the container is read", (SECCOMP, KEYRING), "EPERM", "read secret", outside=to_key, alone=("EPERM", "ENOKEY")),
    Row(
        "forged-null", "CVE-2025-31133", "/dev/null of the image is a link to a setting, which would be bound where a mask should be", (OWN_DEV, IS_NULL), "the null device", "the setting",
        outside=by_null, container='writable = "tmpfs"', alone=("the null device", "refused: /dev/null of the container is not the null device"),
    ),
    Row("console", "CVE-2025-52565", "/dev/console of the image is a link to what is masked", (RAM_DEV,), "not there", "there", outside=by_console, container='writable = "tmpfs"'),
    *(
        Row(
            f"{verb}-devpts", "CVE-2025-52565", f"another devpts is mounted where `pyinit {verb} -t` makes a terminal", (IS_DEVPTS, SAME_DEVPTS), "the user's", "the attacker's",
            outside=lambda stage, verb=verb: to_devpts(stage, verb), alone=("the user's", "the user's"),
        )
        for verb in ("exec", "enter")
    ),
    *(
        Row(
            f"{verb}-ptmx", "CVE-2025-52565", f"the image has a /dev/ptmx and a /dev/pts/ptmx of its own when `pyinit {verb} -t` makes a terminal", (OWN_PTS, IS_DEVPTS),
            "the container's, and nothing of the image's opened", "the user's, and opened: /dev/pts/ptmx", outside=lambda stage, verb=verb: to_ptmx(stage, verb), container='writable = "tmpfs"',
            alone=("the container's, and nothing of the image's opened", "the user's, and nothing of the image's opened"),
        )
        for verb in ("exec", "enter")
    ),
    Row("procfs-write", "CVE-2019-16884, CVE-2025-52881", "a service that may mount covers /proc, where the init writes another one's oom_score_adj", (IS_PROCFS,), "refused: Invalid cross-device link", "written: 500", outside=to_oom_score),
    Row(
        "procfs-logger", "CVE-2019-16884, CVE-2025-52881", "a service that may mount covers /proc, by which PID 1 imports, and kills the logger", (NO_IMPORT,), "its lines go on", "no logger any more",
        outside=to_logger,
    ),
    Row(
        "procfs-guest", "CVE-2019-16884, CVE-2025-52881", "root of a container that another stands in, and which may mount, covers /proc with code that the other's PID 1 would import", (HELD,),
        "its own, 4 of 4 verbs answered", "planted code", outside=to_guest,
    ),
    Row("image-node", "mknod", "a device node of the image is opened", (NODEV,), "EACCES", "opened", outside=by_node),
    Row("tiocsti", "TIOCSTI", "a command is typed on the terminal that started us, which is a service's input", (CAPABILITIES, SECCOMP), "EPERM", "typed", outside=to_terminal, alone=("EPERM", "EPERM")),
    Row("tiocsti-link", "TIOCSTI", "a link to that terminal is what another service gets as its own", (OWN_TTY, SECCOMP), "refused: Too many levels of symbolic links", "typed", outside=to_terminal_by_link, alone=("refused: Too many levels of symbolic links", "EPERM")),
    Row("init-equal", "/proc/1", "a service that has the init's own capabilities looks into it", (DUMPABLE, SAVED_GID), "nothing", "mem, fd, root, exe, ptrace", outside=as_init, alone=("nothing", "nothing")),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
