"""CVE-2024-21626: a descriptor or a current folder of the host's that comes along into the container."""

import json
import os
import pathlib
import shutil

import payload_fds as payload
import pytest
from conftest import wait_until
from harness import NAME, Defence, Mutant, Row, Stage, answers, expected, inside_pid, names, service, words

pytestmark = pytest.mark.usefixtures("nothing_left")

LENT = 1000  # the user of a service
RUNS = '[services.app]\nlog = { to = "stdout", timestamp = "none" }\ncommand = ["/bin/sh", "-c", "echo up; while :; do sleep 0.1; done"]\n'
AT_BIRTH = Defence("fds are closed at the birth of PID 1", mutants=(Mutant("launch/clone.py", "        process.close_from(3)\n", ""),))
AFTER_PIVOT = Defence("fds are closed after the pivot", mutants=(Mutant("launch/inside.py", "    process.close_all_but({0, 1, 2, *kept})\n", ""),))
IN_INIT = Defence("the init marks all it has close-on-exec", mutants=(Mutant("init/pid1.py", "        process.close_from(3)  # what a runtime or a shell left open goes to no service\n", ""),))
BEFORE_EXEC = Defence("fds are closed before each exec", mutants=(Mutant("init/spawn.py", "    process.close_from(3)\n", ""),))


NO_MAGIC = Defence("no folder is entered by a magic link", mutants=(Mutant("init/spawn.py", "    if path == \"/\":\n        os.chdir(path)", "    if path:\n        os.chdir(path)"),))


NO_MAGIC_STDIN = Defence(
    "no file is opened by a magic link",
    mutants=(Mutant("init/children.py", "mount.open_plainly(path, os.O_RDONLY | os.O_NONBLOCK)", "os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)"),),
)

NO_MAGIC_SOCKET = Defence(
    "no folder of a socket is found by a magic link",
    mutants=(
        Mutant(
            "init/sockets.py", "    return mount.folder_plainly(path)\n",
            "    os.makedirs(path, exist_ok=True)\n    return os.open(path, os.O_PATH)\n",
        ),
    ),
)  # fmt: skip

NO_MAGIC_LOG = Defence("no folder of logs is found by a magic link", mutants=(Mutant("init/archives.py", "                os.close(mount.folder_plainly(one, _FOLDER_MODE))\n", "                os.makedirs(one, exist_ok=True)\n"),))


KEPT_NEW = Defence(
    "no file of state_dir is followed",
    mutants=(
        Mutant("init/overrides.py", "            os.unlink(_NEW, dir_fd=folder)  # what a killed init left, or what somebody put there\n", "            os.lstat(path)\n"),
        Mutant(
            "init/overrides.py", "os.open(_NEW, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)",
            "os.open(_NEW, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644, dir_fd=folder)",
        ),
    ),
)  # fmt: skip

KEPT_SOCKET = Defence(
    "no socket of state_dir is followed",
    mutants=(
        Mutant("init/notify.py", "            if not stat.S_ISSOCK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):\n", "            if not name:\n"),
        Mutant("init/notify.py", "os.chown(name, uid, -1, dir_fd=folder, follow_symlinks=False)", "os.chown(name, uid, -1, dir_fd=folder)"),
    ),
)


def leaked(stage: Stage, services: str, *verb: str) -> str:
    """With a folder of the host's, inheritable, as what starts us may have left open."""
    (stage.folder / "host").mkdir()
    (stage.folder / "host/marker").touch()
    fd = os.open(stage.folder / "host", os.O_RDONLY | os.O_DIRECTORY)
    try:
        box = stage.start(stage.config(services, init="" if verb else 'exit = "when-all-exited"'), pass_fds=(fd,))
    finally:
        os.close(fd)
    said = ""
    if verb:
        box.wait_for("app: up")
        said = stage.verb(*verb).stdout
        box.stop()
    box.wait()
    found = {**answers(box.output), **answers(said)}
    assert "attack" in found, box.output + said
    return found["attack"]


def by_service(stage: Stage) -> str:
    """By posix_spawn, as it is started without a group and a filter."""
    return leaked(stage, service("app", words(payload.leaked, "attack"), 'kill = "process"\nseccomp = "unconfined"'))


def by_service_with_limits(stage: Stage) -> str:
    """By clone3."""
    return leaked(stage, service("app", words(payload.leaked, "attack"), "rlimits = { core = 0 }"))


def by_hook(stage: Stage) -> str:
    return leaked(stage, service("app", ["/bin/true"], f"pre_start = [{json.dumps(words(payload.leaked, 'attack'))}]"))


def by_exec(stage: Stage) -> str:
    return leaked(stage, RUNS, "exec", "-c", NAME, "app", "--", *words(payload.leaked, "attack"))


PLACES = (*(f"/proc/self/fd/{fd}" for fd in range(3, 40)), *(f"/proc/1/fd/{fd}" for fd in range(3, 40)), "/proc/1/root", "/proc/1/cwd", "/proc/self/cwd")


def image(stage: Stage) -> pathlib.Path:
    """Its folders app0, app1 ... are symlinks to what the init has open."""

    def make(folder: pathlib.Path) -> None:
        shutil.copytree(stage.image, folder / "tree", symlinks=True)
        for number, place in enumerate(PLACES):
            (folder / f"tree/app{number}").symlink_to(place)

    return stage.once("image-folders", make) / "tree"


def reached(stage: Stage, attack, key: str, why: str) -> str:
    """What the services that are led there by `key` have of the host's; else how many of them were refused."""
    services = "".join(service(f"s{number}", words(attack, f"s{number}"), key.format(f"/app{number}")) for number in range(len(PLACES)))
    box = stage.start(stage.config(services, image=image(stage)))
    box.wait()
    found = set(answers(box.output).values())
    return ", ".join(sorted(found)) or f"{box.output.count(why)} of {len(PLACES)} refused: ELOOP"


def by_working_directory(stage: Stage) -> str:
    return reached(stage, payload.folder, 'working_directory = "{}"', "working_directory failed before exec: Too many levels of symbolic links")


def by_exec_folder(stage: Stage) -> str:
    """`pyinit exec -w`, as a user may be told to."""
    box = stage.start(stage.config(RUNS, image=image(stage), init=""))
    box.wait_for("app: up")
    said, refused = {}, 0
    numbers = [number for number, place in enumerate(PLACES) if place.startswith("/proc/self")]
    for number in numbers:
        done = stage.verb("exec", "-c", NAME, "-w", f"/app{number}", "--", *words(payload.folder, str(number)))
        said |= answers(done.stdout)
        refused += done.stderr.endswith("working_directory failed before exec: Too many levels of symbolic links\n")
    box.stop()
    host = {"a cgroup of the host's", "the host's interpreter", "the package"} & set(said.values())
    return "in folders of the host's" if host else f"{refused} of {len(numbers)} refused: ELOOP"


def by_stdin(stage: Stage) -> str:
    return reached(stage, payload.standard_input, 'stdin = "file:{}"', ": Too many levels of symbolic links")


def by_chroot(stage: Stage) -> str:
    """The interpreter's tree, in which there is a shell's worth of programs."""
    code = "import os; print('{\"attack\": \"' + str(os.getpid()) + '\", \"got\": \"' + ('the interpreter' if 'share' in os.listdir('/') else '?') + '\"}')"
    services = "".join(
        service(f"s{number}", ["/bin/python3", "-S", "-c", code], f'chroot = "/app{number}"\nenvironment = {{ PYTHONHOME = "/" }}') for number, place in enumerate(PLACES) if place.startswith("/proc/1/fd")
    )
    box = stage.start(stage.config(services, image=image(stage)))
    box.wait()
    found = set(answers(box.output).values())
    return ", ".join(sorted(found)) or f"{box.output.count('chroot failed before exec: Too many levels of symbolic links')} refused: ELOOP"


def group_is_made(stage: Stage, link: str, services: str, init: str, made: str, until: str) -> str:
    """Whether the init makes a group of the host's, by the image's `link` to the container's one, which it has open."""
    box = stage.start(stage.config(RUNS, init=""))
    box.wait_for("app: up")
    fds = pathlib.Path(f"/proc/{inside_pid(NAME)}/fd")
    places = [path for path in pathlib.Path("/sys/fs/cgroup").glob(f"*/pyinit-{NAME}") if path.parent.name in ("pids", "unified")]
    number, group = next((fd.name, place / made) for fd in fds.iterdir() for place in places if fd.exists() and fd.samefile(place))
    box.stop()
    tree = pathlib.Path(shutil.copytree(stage.image, stage.folder / "tree", symlinks=True))
    (tree / link).symlink_to(f"/proc/1/fd/{number}")
    box = stage.start(stage.config(RUNS + services, image=tree, init=init))
    box.wait_for(until)
    wait_until(lambda: stage.verb("status", "-c", NAME).returncode == 0, "status")
    found = group.exists()
    if found:
        group.rmdir()
    box.stop()
    return "made on the host" if found else "refused: ELOOP" if "Too many levels of symbolic links" in box.output else "nothing made"


def by_socket(stage: Stage) -> str:
    services = '[services.by]\nkind = "oneshot"\ncommand = ["/bin/true"]\nsockets = [{ name = "x", listen = "/socket/made/x" }]\n'
    return group_is_made(stage, "socket", services, "", "made", "by: failed")


def by_log(stage: Stage) -> str:
    services = '[services.by]\nkind = "oneshot"\ncommand = ["/bin/echo", "hello"]\n'
    return group_is_made(stage, "logs", services, 'log_dir = "/logs"', "by", "by: done")


SPEAKS = RUNS.replace("services.app]", "services.speaks]").replace("echo up", "echo speaks") + f'user = "{LENT}"\nfd_store = 1\n'


def replaced(stage: Stage, services: str, up: str, name: str):
    """A container in which `name` below /run/pyinit has become a link to the output of PID 1, which is the host's."""
    box = stage.start(stage.config(services, init=""))
    box.wait_for(up)
    done = stage.verb("exec", "-c", NAME, "app", "--", "/bin/busybox", "ln", "-sf", "/proc/1/fd/1", f"/run/pyinit/{name}")
    assert done.returncode == 0, done.stderr
    return box


def by_kept(stage: Stage) -> str:
    box = replaced(stage, RUNS, "app: up", "enabled.new")
    assert stage.verb("disable", "-c", NAME, "app").returncode == 0
    kept = pathlib.Path(f"/proc/{inside_pid(NAME)}/root/run/pyinit/enabled")
    found = "a link to the host's file" if kept.is_symlink() else kept.read_text().strip()
    box.stop()
    return "written to the host's file" if "-app\n" in box.output.replace("\r", "") else f"{found} is kept inside"


def by_notify(stage: Stage) -> str:
    box = replaced(stage, RUNS + SPEAKS, "speaks: speaks", "notify/speaks")
    before = os.fstat(box.process.stdout.fileno()).st_uid
    stage.verb("restart", "--no-wait", "-c", NAME, "speaks")  # one that is refused is tried again and again

    def is_settled() -> bool:
        box.read(0.05)
        return os.fstat(box.process.stdout.fileno()).st_uid == LENT or "another file took its place" in box.output

    wait_until(is_settled, "the socket is made, or refused")
    owner = os.fstat(box.process.stdout.fileno()).st_uid
    box.stop()
    assert before != LENT
    return "the host's file is the user's" if owner == LENT else "refused: EEXIST" if "another file took its place" in box.output else box.output


REFUSED = f"{len(PLACES)} of {len(PLACES)} refused: ELOOP"
CLOSED = (AT_BIRTH, AFTER_PIVOT, IN_INIT)
LEAK, OWN = "a folder of the host's", "only the init's own"
ROWS = (
    Row(
        "fd-service", "CVE-2024-21626", "a service looks for descriptors that it was not given", CLOSED, "none", LEAK,
        outside=by_service, alone=(OWN, "none", "none"),
    ),
    Row(
        "fd-service-cloned", "CVE-2024-21626", "a service with limits does", (*CLOSED, BEFORE_EXEC), "none", LEAK,
        outside=by_service_with_limits, alone=(OWN, "none", "none", "none"),
    ),
    Row("fd-hook", "CVE-2024-21626", "a hook does", (*CLOSED, BEFORE_EXEC), "none", LEAK, outside=by_hook, alone=(OWN, "none", "none", "none")),
    Row("fd-exec", "CVE-2024-21626", "a command of `pyinit exec` does", (*CLOSED, BEFORE_EXEC), "none", LEAK, outside=by_exec, alone=(OWN, "none", "none", "none")),
    Row(
        "cwd-service", "CVE-2024-21626", "working_directory is a symlink of the image's to /proc/self/fd/N", (NO_MAGIC,), REFUSED,
        "/, a cgroup of the host's, the host's interpreter, the package", outside=by_working_directory,
    ),
    Row("cwd-exec", "CVE-2024-21626", "`pyinit exec -w` of a symlink of the image's to /proc/self/fd/N", (NO_MAGIC,), "38 of 38 refused: ELOOP", "in folders of the host's", outside=by_exec_folder),
    Row("stdin-service", "CVE-2024-21626", "the file of stdin is a symlink of the image's to /proc/1/fd/N", (NO_MAGIC_STDIN,), REFUSED, "a file of the init's, a pipe of the init's, something of the init's", outside=by_stdin),
    Row("socket-folder", "CVE-2024-21626", "the folder of a socket is a symlink of the image's to /proc/1/fd/N", (NO_MAGIC_SOCKET,), "refused: ELOOP", "made on the host",
        outside=by_socket),
    Row("log-folder", "CVE-2024-21626", "the folder of the logs is a symlink of the image's to /proc/1/fd/N", (NO_MAGIC_LOG,), "refused: ELOOP", "made on the host",
        outside=by_log, container='writable = "tmpfs"'),
    Row("kept-file", "a link below /run/pyinit", "root inside puts a link to /proc/1/fd/1 where `pyinit disable` is kept", (KEPT_NEW,), "-app is kept inside", "written to the host's file", outside=by_kept),
    Row("notify-socket", "a link below /run/pyinit", "root inside puts a link to /proc/1/fd/1 in the place of NOTIFY_SOCKET", (KEPT_SOCKET,), "refused: EEXIST", "the host's file is the user's", outside=by_notify),
    Row("chroot-service", "CVE-2024-21626", "chroot is a symlink of the image's to /proc/1/fd/N", (NO_MAGIC,), "37 refused: ELOOP", "the interpreter", outside=by_chroot),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
