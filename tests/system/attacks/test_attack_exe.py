"""CVE-2019-5736: the program of PID 1, of its logger and of its children before their exec is the host's interpreter.

Attacked is a copy of an interpreter, which is made for it: what succeeds must not touch the machine's own.
"""

import hashlib
import json
import os
import pathlib
import shutil
import stat
import sys
import sysconfig

import payload_exe as payload
import pytest
from harness import CAPABILITIES, NAME, Defence, Mutant, Row, Stage, answers, expected, names, service, words

pytestmark = pytest.mark.usefixtures("nothing_left")

CLONE = Defence(
    "interpreter on a read-only clone",
    mutants=(Mutant("launch/clone.py", "_ATTRIBUTES = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID", "_ATTRIBUTES = mount.MOUNT_ATTR_NOSUID"),),
)
ENTER_CLONE = Defence(
    "who enters is executed from a read-only clone",
    mutants=(Mutant("cli/enter.py", "attributes = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID", "attributes = mount.MOUNT_ATTR_NOSUID"),),
)
LEFT_OUT = ("test", "idlelib", "lib2to3", "ensurepip", "pydoc_data", "turtledemo", "__pycache__", "config-*", "dist-packages", "tkinter")
EXE = ("/exe", "-S", "-s", "-B")


def interpreter(folder: pathlib.Path) -> None:
    """One with a prefix of its own."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (folder / "bin").mkdir()
    shutil.copy(os.path.realpath(sys.executable), folder / "bin" / version)
    shutil.copytree(sysconfig.get_paths()["stdlib"], folder / "lib" / version, ignore=shutil.ignore_patterns(*LEFT_OUT), ignore_dangling_symlinks=True)


def image(stage: Stage) -> pathlib.Path:
    """With a command that is a symlink to whoever runs it."""

    def make(folder: pathlib.Path) -> None:
        shutil.copytree(stage.image, folder / "tree", symlinks=True)
        (folder / "tree/exe").symlink_to("/proc/self/exe")

    return stage.once("image-exe", make) / "tree"


def attacked(stage: Stage, services: str, *verb: str, init: str = 'exit = "when-all-exited"', until: str = "") -> str:
    """All that is said; the interpreter's content is as it was, and its mode is again."""
    program = next((stage.once("interpreter", interpreter) / "bin").iterdir())
    before = hashlib.sha256(program.read_bytes()).digest()
    box = stage.start(stage.config(services, image=image(stage), init=init), command=(str(program), "-m", "pyinit"))
    said = ""
    if until:
        box.wait_for(until)
        said = stage.verb(*verb, program=str(program)).stdout if verb else ""
        box.stop()
    box.wait()
    is_setuid = bool(program.stat().st_mode & stat.S_ISUID)
    program.chmod(0o755)
    assert hashlib.sha256(program.read_bytes()).digest() == before
    found = {**answers(box.output), **answers(said)}
    assert "attack" in found, box.output + said
    assert is_setuid == ("chmod: done" in found["attack"])
    return found["attack"]


RUNS = '[services.app]\nlog = { to = "stdout", timestamp = "none" }\ncommand = ["/bin/sh", "-c", "echo up; while :; do sleep 0.1; done"]\n'


def by_init(stage: Stage) -> str:
    return attacked(stage, service("app", words(payload.of_init, "attack")))


def by_all(stage: Stage) -> str:
    return attacked(stage, service("app", words(payload.of_all_of_pyinit, "attack")))


def by_service(stage: Stage) -> str:
    return attacked(stage, service("app", words(payload.own, "attack", EXE)))


def by_service_of_user(stage: Stage) -> str:
    """By clone3, not by posix_spawn."""
    return attacked(stage, service("app", words(payload.own, "attack", EXE), "rlimits = { core = 0 }"))


def by_hook(stage: Stage) -> str:
    return attacked(stage, service("app", ["/bin/true"], f"pre_start = [{json.dumps(words(payload.own, 'attack', EXE))}]"))


def by_probe(stage: Stage) -> str:
    return attacked(stage, f"{RUNS}ready = {{ exec = {json.dumps(words(payload.own, 'attack', EXE))} }}\n", init="", until='"attack"')


def by_exec(stage: Stage) -> str:
    return attacked(stage, RUNS, "exec", "-c", NAME, "app", "--", *words(payload.own, "attack", EXE), init="", until="app: up")


def by_enter(stage: Stage) -> str:
    return attacked(stage, RUNS, "enter", "-c", NAME, "--", *words(payload.own, "attack", EXE), init="", until="app: up")


REFUSED, SUCCEEDS = "chmod: EROFS, write: ETXTBSY", "chmod: done, write: ETXTBSY"
CLOSED = "chmod: EACCES, write: EACCES"
OF_ALL = "pyinit: {0}; pyinit-logger: {0}".format


def row(name: str, attack: str, code, held: Defence = CLONE) -> Row:
    return Row(f"exe-{name}", "CVE-2019-5736", f"{attack} is a symlink to /proc/self/exe, so it is the host's interpreter, and changes that", (held,), REFUSED, SUCCEEDS, outside=code)


ROWS = (
    Row("exe-init", "CVE-2019-5736", "/proc/1/exe is changed", (CAPABILITIES, CLONE), CLOSED, SUCCEEDS, outside=by_init, alone=(CLOSED, REFUSED)),
    Row("exe-all", "CVE-2019-5736", "the program of each process of pyinit's is changed", (CAPABILITIES, CLONE), OF_ALL(CLOSED), OF_ALL(SUCCEEDS), outside=by_all, alone=(OF_ALL(CLOSED), OF_ALL(REFUSED))),
    row("service", "the command of a service", by_service),
    row("service-cloned", "the command of a service with limits", by_service_of_user),
    row("hook", "the command of a hook", by_hook),
    row("probe", "the command of a probe", by_probe),
    row("exec", "the command of `pyinit exec`", by_exec),
    row("enter", "the command of `pyinit enter`", by_enter, ENTER_CLONE),
)


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
