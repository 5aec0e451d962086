"""`pyinit enter` and `pyinit exec`: who comes in from the host is as hardened as the init, and brings nothing along.

The holes are runc's: CVE-2019-5736 (what executes the command), CVE-2024-21626 (what is open, where it stands), CVE-2019-14271
(what the image has looked up). What of them are rows of an init's or a service's, too, is in test_attack_exe.py, _fds.py, _escape.py.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import payload_calls
import payload_enter as payload
import payload_escape
import payload_fds
import pytest
from conftest import REPO, wait_until
from harness import (
    CAPABILITIES,
    EVERY_CAPABILITY,
    NAME,
    Defence,
    Mutant,
    Row,
    Stage,
    answers,
    expected,
    inside_pid,
    names,
    words,
)
from test_attack_bombs import SAVED_GID
from test_attack_escape import with_inheritable, with_key, without_ptrace
from test_attack_fds import BEFORE_EXEC, NO_MAGIC, PLACES, RUNS
from test_attack_fds import image as image_of_folders
from test_attack_files import DUMPABLE
from test_attack_image import NO_WAIT, TRAPS, Watch, hostile, waits_in_open
from test_attack_landlock import FILTER

pytestmark = pytest.mark.usefixtures("nothing_left")

CLOSED = Defence("fds are closed in who enters", mutants=(Mutant("launch/enter.py", "    process.close_all_but({0, 1, 2, reports, *given})\n", "    given and None\n"),))
KEYRING = Defence("a session keyring of its own", mutants=(Mutant("launch/enter.py", "        process.join_session_keyring()\n", "        pass\n"),))
BOUNDING = Defence(
    "the container's bounding set",
    mutants=(
        Mutant("launch/enter.py", "        if name not in target.capabilities:\n", "        if not name:\n"),
        Mutant("launch/enter.py", "    caps.keep_only((*target.capabilities, *_STEPS))\n", ""),
    ),
)
OWN_FILTER = Defence("the container's seccomp", mutants=(Mutant("launch/enter.py", "            filter=spec.process.seccomp.program,\n", ""),))
OWN_GROUP = Defence("the container's groups", mutants=(Mutant("launch/enter.py", '            os.write(fd, b"0")\n', "            pass\n"),))
OWN_VARIABLES = Defence("an environment of its own", mutants=(Mutant("launch/enter.py", '"SHELL": user.shell, "container": "pyinit",\n', '"SHELL": user.shell, "container": "pyinit", **os.environ,\n'),))
UNSEEN = Defence(
    "PR_SET_DUMPABLE 0",
    mutants=(
        Mutant("launch/enter.py", "    process.prctl(process.PR_SET_DUMPABLE, 0)\n    groups = ", "    groups = "),
    ),
)
OWN_USERS = Defence(
    "users come from our own reader",
    mutants=(Mutant("launch/enter.py", "    user = users.find_user(spec.user)\n    gid", "    import pwd\n\n    user = [users.find_user(spec.user), pwd.getpwall()][0]\n    gid"),),
)

_HIGHEST = 39  # that a link of the image leads to


def entered(stage: Stage, verb: str, attack, *options: str, services: str = RUNS, image=None, **keys) -> str:
    """By a command of `pyinit enter`, or, beside the service, of `pyinit exec`. `keys` are subprocess.run's."""
    box = stage.start(stage.config(services, image=image, init=""))
    box.wait_for("app: up")
    beside = ("app",) if verb == "exec" else ()
    said = stage.verb(verb, "-c", NAME, *options, *beside, "--", *words(attack, "attack"), **keys)
    box.stop()
    return answers(said.stdout).get("attack", said.stderr)


@contextlib.contextmanager
def folder_of_host(stage: Stage):
    """That the user's shell has open."""
    (stage.folder / "host").mkdir()
    (stage.folder / "host/marker").touch()
    fd = os.open(stage.folder / "host", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def with_folder(stage: Stage) -> str:
    with folder_of_host(stage) as fd:
        return entered(stage, "enter", payload_fds.leaked, pass_fds=(fd,))


def in_folder(stage: Stage) -> str:
    """`-w` of a symlink of the image's to what of that comes along."""
    with folder_of_host(stage) as fd:
        number = min(fd, _HIGHEST)  # a pytest of many tests has more files open

        def passed() -> None:
            os.dup2(fd, number)
            os.set_inheritable(number, True)

        link = f"/app{PLACES.index(f'/proc/self/fd/{number}')}"
        said = entered(stage, "enter", payload.folder, "-w", link, image=image_of_folders(stage), close_fds=False, preexec_fn=passed)
        return said.rpartition(": working_directory failed before exec: ")[2].strip()


def with_variable(stage: Stage) -> str:
    return entered(stage, "enter", payload.variable, env={**os.environ, "PYINIT_ATTACK_WORD": "x"})


def to_key(stage: Stage) -> str:
    return entered(stage, "enter", payload_escape.host_key, preexec_fn=with_key)


def on_the_way(stage: Stage) -> str:
    """The command's process is held before it is one, by strace; a service looks at it that has all capabilities that it has."""
    box = mighty(stage)
    trace = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=setresgid", "-e", "inject=setresgid:delay_enter=20000000")
    with subprocess.Popen([*trace, sys.executable, "-m", "pyinit", "enter", "-c", NAME, "--", "/bin/true"], cwd=stage.package, stdin=subprocess.DEVNULL) as held:
        wait_until(lambda: len(at_hand(inside_pid(NAME))) == 1, "the command's process")
        said = stage.verb("exec", "-c", NAME, "app", "--", *words(payload.on_the_way, "attack"))
        for pid in (*at_hand(inside_pid(NAME)), held.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    box.stop()
    return answers(said.stdout).get("attack", said.stderr)


def before_exec(stage: Stage) -> str:
    """The same of `pyinit exec`, where it is a fork of PID 1, held by the freezer of its service's group."""
    box = mighty(stage)
    [group] = pathlib.Path("/sys/fs/cgroup/unified" if pathlib.Path("/sys/fs/cgroup/unified").exists() else "/sys/fs/cgroup").glob(f"**/pyinit-{NAME}/svc-quiet")
    (group / "cgroup.freeze").write_text("1")
    try:
        with subprocess.Popen([sys.executable, "-m", "pyinit", "exec", "-c", NAME, "quiet", "--", "/bin/true"], cwd=stage.package, stdin=subprocess.DEVNULL) as held:
            wait_until(lambda: len((group / "cgroup.procs").read_text().split()) == 2, "the child")
            said = stage.verb("exec", "-c", NAME, "app", "--", *words(payload.on_the_way, "attack"))
            (group / "cgroup.freeze").write_text("0")
            held.wait(20)
    finally:
        (group / "cgroup.freeze").write_text("0")
    box.stop()
    return answers(said.stdout).get("attack", said.stderr)


def mighty(stage: Stage):
    """A container whose services have each capability but CAP_SYS_PTRACE."""
    text = stage.config(RUNS + '[services.quiet]\ncommand = ["/bin/sleep", "1000"]\n', init="")
    text = text.replace("[container.security]\n", f"[container.security]\ncapabilities = [{EVERY_CAPABILITY}]\n")
    box = stage.start(text, preexec_fn=without_ptrace)
    box.wait_for("app: up")
    box.wait_for("quiet: ready")
    return box


def at_hand(init: int) -> list[int]:
    """Processes of the container's pid namespace that are Python still."""
    space = os.readlink(f"/proc/{init}/ns/pid")
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/pid") == space and pathlib.Path(f"/proc/{pid}/comm").read_text().startswith("python"):
                found.append(int(pid))
    return found


def by_image(stage: Stage) -> str:
    """What of a hostile image is opened on the way in: by anybody, for nobody else is there who opens anything."""
    tree = stage.once("hostile", lambda folder: hostile(folder / "tree", stage.package)) / "tree"
    box = stage.start(stage.config('[services.app]\ncommand = ["/bin/sleep", "1000"]\n', image=tree, init="").replace(USR_MOUNT, ""))
    box.wait_for("app: ready")
    watch = Watch(pathlib.Path(f"/proc/{inside_pid(NAME)}/root"), tree)
    stage.verb("enter", "-c", NAME, "--", "/bin/true")
    opened = watch.opened() & {f"/{name}" for name in TRAPS}
    box.stop()
    return f"opened: {' '.join(sorted(opened))}" if opened else "nothing but passwd and group"


def by_fifos(stage: Stage) -> str:
    """passwd and group are pipes; the container itself is one of a pyinit that does not wait for them."""
    tree = pathlib.Path(shutil.copytree(stage.image, stage.folder / "tree", symlinks=True))
    for name in ("etc/passwd", "etc/group"):
        (tree / name).unlink()
        os.mkfifo(tree / name)
    box = stage.start(stage.config('[services.app]\ncommand = ["/bin/sleep", "1000"]\n', image=tree, init=""), cwd=REPO)
    box.wait_for("app: ready")
    init = inside_pid(NAME)
    with subprocess.Popen([sys.executable, "-m", "pyinit", "enter", "-c", NAME, "--", "/bin/true"], cwd=stage.package, stdin=subprocess.DEVNULL) as entering:
        wait_until(lambda: entering.poll() is not None or any(map(waits_in_open, at_hand(init))), "the command's end, or its wait")
        found = f"exit {entering.returncode}" if entering.returncode is not None else "it waits"
        for pid in at_hand(init):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        entering.wait()
    box.stop()
    return found


USR_MOUNT = '[[container.mounts]]\ntype = "bind"\nsource = "/usr"\ntarget = "/usr"\nread_only = true\n'


def both(name: str, title: str, attack: str, refused: str, succeeds: str, code, by_enter: Defence, by_exec: Defence) -> tuple[Row, Row]:
    """The same of a command of enter, and of exec."""
    return tuple(
        Row(f"{verb}-{name}", title, f"a command of `pyinit {verb}` {attack}", (defence,), refused, succeeds, outside=lambda stage, verb=verb: entered(stage, verb, code))
        for verb, defence in (("enter", by_enter), ("exec", by_exec))
    )


ROWS = (
    Row("enter-fd", "CVE-2024-21626", "a command of `pyinit enter` looks for descriptors of its user's", (CLOSED, BEFORE_EXEC), "none", "a folder of the host's", outside=with_folder, alone=("none", "none")),
    Row(
        "enter-cwd", "CVE-2024-21626", "`pyinit enter -w` of a symlink of the image's to /proc/self/fd/N, where a folder of its user's may be", (CLOSED, NO_MAGIC),
        "No such file or directory", "a folder of the host's", outside=in_folder, alone=("No such file or directory", "Too many levels of symbolic links"),
    ),
    Row("enter-environment", "the host's environment", "a variable of its user's is looked for by a command of `pyinit enter`", (OWN_VARIABLES,), "none of the host's", "the host's variable", outside=with_variable),
    *both("mknod", "mknod", "makes a node of the host's disk", "EPERM", "opened", payload_calls.mknod_disk, BOUNDING, CAPABILITIES),
    *both("userns", "user namespaces", "makes one", "EPERM", "a user namespace", payload_calls.unshare_user, OWN_FILTER, FILTER),
    Row("enter-key", "keyrings", "a command of `pyinit enter` reads a key of its user's session", (OWN_FILTER, KEYRING), "EPERM", "read secret", outside=to_key, alone=("EPERM", "ENOKEY")),
    Row("enter-group", "cgroup escape", "the group of a command of `pyinit enter`, which has the container's limits", (OWN_GROUP,), "a group of the container's", "a group of the host's", outside=lambda stage: entered(stage, "enter", payload.group)),
    Row(
        "enter-inheritable", "CVE-2022-24769", "a command of `pyinit enter` has what its user had as inheritable", (BOUNDING,), "0" * 16, "not empty",
        outside=lambda stage: "0" * 16 if not (found := entered(stage, "enter", payload_fds.inheritable, preexec_fn=with_inheritable)).strip("0") else "not empty" if set(found) <= set("0123456789abcdef") else found,
    ),
    Row("enter-between", "CVE-2019-5736, between", "who is on the way to be a command of `pyinit enter` is looked into by a service that has its capabilities", (UNSEEN,), "nothing", "exe, fd, mem, root", outside=on_the_way),
    Row(
        "exec-between", "CVE-2019-5736, between", "who is on the way to be a command of `pyinit exec`, a fork of PID 1, is looked into by a service that has its capabilities",
        (DUMPABLE, SAVED_GID), "nothing", "exe, fd, mem, root", outside=before_exec, alone=("nothing", "nothing"),
    ),
    Row("enter-fifos", "pipes in the image", "passwd and group are FIFOs, when `pyinit enter` looks its user up", (NO_WAIT,), "exit 0", "it waits", outside=by_fifos),
    Row("enter-nss", "CVE-2019-14271", "a hostile nsswitch.conf, libnss and Python in the image, when `pyinit enter` looks its user up", (OWN_USERS,), "nothing but passwd and group", "opened: /etc/ld.so.cache /etc/nsswitch.conf /lib/x86_64-linux-gnu/libnss_evil.so.2", outside=by_image),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
