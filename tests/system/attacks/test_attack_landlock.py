"""Landlock and the filter of one service: what it was not given it has not, as root, by whatever way."""

import json
import pathlib
import shutil

import payload_calls
import payload_landlock as payload
import pytest
from harness import NAME, SECCOMP, Defence, Mutant, Row, Stage, answers, expected, names, service, words

pytestmark = pytest.mark.usefixtures("nothing_left")

LANDLOCK = Defence("landlock of the service", mutants=(Mutant("init/children.py", "            landlock=self._rules(process),\n", ""),))
FILTER = Defence("seccomp of the service", mutants=(Mutant("init/children.py", "            filter=process.seccomp.program,\n", ""),))
NO_NEW = Defence(
    "no_new_privileges of the service",
    mutants=(Mutant("init/children.py", "            no_new_privileges=process.no_new_privileges,\n", ""),),
)
# A RAM disk with a folder for each kind, and the service that may write to one of them.
FILES = """[[container.mounts]]
type = "tmpfs"
target = "/ll"
files = { secret = "x", "ro/file" = "x", "ro/gone" = "x", "ro/moved" = "x", "rw/file" = "x" }"""
OWN = 'ro = ["/usr", "/attacks", "/proc", "/ll/ro"], rw = ["/ll/rw"], tcp_bind = [7000], tcp_connect = [7000], scope = ["signals", "abstract_sockets"]'
OWN_KEYS = f"landlock = {{ {OWN} }}"


def row(name: str, attack: str, succeeds: str, code, *, refused: str = "EACCES") -> Row:
    return Row(f"landlock-{name}", "landlock", attack, (LANDLOCK,), refused, succeeds, code, service=OWN_KEYS, container=FILES)


def to_abstract(stage: Stage) -> str:
    """Of a service that is none of its own."""
    lends = f'[services.lends]\ncommand = {json.dumps(words(payload.lend_abstract, "lends"))}\nready = {{ notify = true }}\n'
    box = stage.start(stage.config(lends + service("app", words(payload.abstract_outside, "attack"), f'{OWN_KEYS}\nrequires = ["lends"]'), init=""))
    box.wait_for("app: done")
    box.stop()
    return answers(box.output)["attack"]


def by_exec(stage: Stage) -> str:
    """`pyinit exec` beside the service has what the service has."""
    stays = f'[services.app]\ncommand = ["/usr/bin/sleep", "1000"]\n{OWN_KEYS}\n'
    box = stage.start(stage.config(stays, init=""))
    box.wait_for("app: ready")
    said = stage.verb("exec", "-c", NAME, "app", "--", *words(payload.read_outside, "attack"))
    box.stop()
    return answers(said.stdout).get("attack", said.stderr)


def by_hook(stage: Stage) -> str:
    box = stage.start(stage.config(service("app", ["/usr/bin/true"], f"{OWN_KEYS}\npre_start = [{json.dumps(words(payload.read_outside, 'attack'))}]")))
    box.wait()
    return answers(box.output)["attack"]


def by_set_uid(stage: Stage) -> str:
    """A program of the image's that would make its user root."""
    tree = pathlib.Path(shutil.copytree(stage.image, stage.folder / "tree", symlinks=True))
    shutil.copy("/usr/bin/id", tree / "bin/id-of-root")
    (tree / "bin/id-of-root").chmod(0o4755)
    box = stage.start(stage.config(service("app", ["/bin/id-of-root", "-u"], 'user = "app"\nno_new_privileges = true'), image=tree))
    box.wait()
    return next((line for line in box.output.splitlines() if line.startswith("app: ")), box.output).replace("app: ", "uid ")


ROWS = (
    row("read", "a file of no folder that it was given is read", "opened", payload.read_outside),
    row("list", "a folder that it was not given is listed", "listed", payload.list_outside),
    row("make", "a file is made in a folder that it was not given", "made", payload.make_outside),
    row("execute", "a program of a folder that it was not given is executed", "executed", payload.execute_outside),
    row("write", "a file of a folder that it may read is written to", "opened", payload.write_read_only),
    row("make-ro", "a file is made in a folder that it may read", "made", payload.make_in_read_only),
    row("remove", "a file of a folder that it may read is removed", "removed", payload.remove_in_read_only),
    row("truncate", "a file of a folder that it may read is cut", "cut", payload.cut_read_only),
    row("move", "a file that it may read is moved to where it may write", "moved", payload.move_out_of_read_only),
    row("link", "a file that it may read gets a second name where it may write", "linked", payload.link_into_own, refused="EXDEV"),
    row("symlink", "a link of its own leads to a file that it was not given", "opened", payload.by_symlink),
    row("proc-root", "its root is reached by /proc/self/root", "opened", payload.by_proc),
    row("parent", "a folder of its own leads up to what it was not given", "opened", payload.by_parent),
    row("bind", "a port that is none of its own is taken", "bound", payload.bind_elsewhere),
    row("connect", "a port that is none of its own is connected to", "ECONNREFUSED", payload.connect_elsewhere),
    row("signal", "PID 1 is signalled", "signalled", payload.signal_outside, refused="EPERM"),
    Row("landlock-abstract", "landlock", "an abstract socket of another service's is connected to", (LANDLOCK,), "EPERM", "connected", outside=to_abstract, container=FILES),
    Row("landlock-exec", "landlock", "`pyinit exec` beside it reads a file that it was not given", (LANDLOCK,), "EACCES", "opened", outside=by_exec, container=FILES),
    Row("landlock-hook", "landlock", "a hook of its own reads a file that it was not given", (LANDLOCK,), "EACCES", "opened", outside=by_hook, container=FILES),
    Row(
        "service-seccomp", "seccomp of one service", "a service with a filter of its own, in a container without one, makes a user namespace", (FILTER, SECCOMP),
        "EPERM", "a user namespace", payload_calls.unshare_user, service='seccomp = "default"', alone=("EPERM", None),
    ),
    Row("set-uid", "set-uid programs", "an ordinary user's service executes one of the image's", (NO_NEW,), "uid 1000", "uid 0", outside=by_set_uid),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
