"""`pyinit enter` and `exec` into an ordinary user's container: by himself, by root, below a group that is delegated, and not by what he forges."""

import fcntl
import os
import pathlib
import subprocess
import sys

import pytest
from conftest import REPO
from entered import check, namespaces
from seat import Seat
from test_rootless import Ordinary, made, subids  # noqa: F401 - a fixture

from pyinit.linux import cgroup

SHOW = (
    "for kind in /proc/$$/ns/*; do readlink $kind; done; id -u; id -G; echo $MARK; ulimit -n; "
    "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; tail -n 1 /proc/self/cgroup"
)
MORE = "[init]\nenvironment = { MARK = 'of-init' }\n[services.app]\ncommand = ['/bin/sleep', '1000']\n"
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
USERS = "pyinit-test-user"
REFUSED = "its cgroup can't be had: Permission denied; an ordinary user comes there only from a group below the one that is delegated to him, as `systemd-run --user --scope` gives him"


class Owner(Ordinary):
    """With terminals, a group, and root beside him."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(folder)
        self.socket = f"{folder}/run/pyinit/mine/control.sock"
        self.seat = {"command": self.command(), "environment": self.environment(), "cwd": folder / "home"}
        above = next(one.directory for one in cgroup.hierarchies() if one.version == 2)
        self.groups = [pathlib.Path(f"{above}/{USERS}{name}") for name in ("", "/box", "/shell")]
        for group in self.groups:
            group.mkdir()
            for name in (".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
                os.chown(group / name, self.uid, self.uid)

    def enter_from(self, group: pathlib.Path, *words: str) -> subprocess.CompletedProcess[str]:
        command = ("sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', group, *self.command(), "enter", *words)
        return subprocess.run(command, cwd=self.folder / "home", env=self.environment(), capture_output=True, text=True, check=False, timeout=60)

    def close(self) -> None:
        super().close()
        for group in reversed(self.groups):
            group.rmdir()


@pytest.fixture
def user(subids, nothing_left, tmp_path):  # noqa: F811 - the fixture above
    yield from made(Owner, subids, tmp_path)


def by_root(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pyinit", *words], cwd=REPO, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("keys", ['time_offsets = { boottime = "1h" }\n', 'user_namespace = { map = "single" }\nnetwork = { mode = "host" }\n'], ids=["ranges", "single"])
def test_its_user_and_root_come_in_on_a_terminal(user, keys):
    box = user.start(f"rlimits = {{ nofile = 100 }}\n{keys}", MORE)
    box.wait_for("app: ready")
    pid = user.pid()
    for words in (("exec", "-c", "mine", "app"), ("exec",), ("enter", "-c", "mine"), ("enter", "--socket", user.socket)):
        check(pid, *words, **user.seat)
    for verb in ("exec", "enter"):
        check(pid, verb, "--socket", user.socket)
    said = user.verb("exec", "--", "/bin/sh", "-c", SHOW)
    lines = said.stdout.splitlines()
    assert lines[: len(namespaces(pid)) + 4] == [*namespaces(pid), "0", "0", "of-init", "100"]
    for done in (user.verb("enter", "--", "/bin/sh", "-c", SHOW), by_root("enter", "--socket", user.socket, "--", "/bin/sh", "-c", SHOW)):
        assert (done.returncode, done.stdout, done.stderr) == (0, said.stdout, "")
    assert box.stop() == 0


def test_who_enters_is_executed_from_what_cant_be_written(user):
    box = user.start("", MORE)
    box.wait_for("app: ready")
    with Seat("enter", "--", "sh", "-c", "echo up; exec sleep 1000", **user.seat) as seat:
        seat.wait_for("up")
        path = f"/proc/{seat.process.pid}/exe"
        assert os.readlink(path) == "/memfd:pyinit-enter (deleted)"
        fd = os.open(path, os.O_RDONLY)
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == SEALS
        os.close(fd)
        seat.type("\x03")
        assert seat.wait() == 130
        assert seat.is_as_before()
    assert box.stop() == 0


def test_below_a_delegated_group_it_stands_in_the_containers(user):
    """Root first: what he makes there the user can use."""
    group, shell = user.groups[1:]
    box = user.start("", MORE, preexec_fn=lambda: (group / "cgroup.procs").write_text("0"))
    box.wait_for("app: ready")
    leaf = group / "pyinit-mine/enter"
    words = ("--", "/bin/sh", "-c", "tail -n 1 /proc/self/cgroup")
    done = by_root("enter", "--socket", user.socket, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0::/enter\n", "")
    assert {leaf.stat().st_uid, (leaf / "cgroup.procs").stat().st_uid} == {user.uid}
    done = user.enter_from(shell, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0::/enter\n", "")
    done = user.verb("enter", *words)
    assert (done.returncode, done.stdout, done.stderr) == (111, "", f"pyinit: enter: {REFUSED}\n")
    assert box.stop() == 0


def test_root_is_led_nowhere_else_by_what_its_user_writes(user):
    box = user.start("", MORE)
    box.wait_for("app: ready")
    folder, pid = pathlib.Path(user.socket).parent, user.pid()
    strange = user.folder / "home/strange"
    strange.mkdir()
    (strange / "cgroup.procs").symlink_to(user.folder / "precious")
    (user.folder / "precious").write_text("root's")
    above = user.groups[0].parent

    def told(*words: str) -> tuple[int, str, str]:
        done = by_root("enter", "--socket", user.socket, "--", *(words or ("id",)))
        return done.returncode, done.stdout, done.stderr

    for name, texts in (
        ("journal", {f"cgroup\t{one}\n": (111, f"enter: the journal of mine names {one}, which is no group of the user {user.uid}: it is not entered by that") for one in (strange, above)}),
        ("pid", {None: (1, "container mine is starting: try again")}),
        ("shell", dict.fromkeys((None, "__import__('os').system('touch /run/forged')"), (1, "mine was started by another pyinit, so what confines its processes is not known: enter it by that one"))),
    ):  # fmt: skip
        path = folder / name
        kept = path.read_bytes() if path.exists() else b""
        for text, (code, said) in texts.items():
            path.unlink(missing_ok=True)
            if text is None:
                os.mkfifo(path)
            else:
                path.write_text(text)
            assert told() == (code, "", f"pyinit: {said}\n")
        path.unlink()
        path.write_bytes(kept)
    assert (user.folder / "precious").read_text() == "root's"
    with open(folder / "lock", "rb") as lock, subprocess.Popen(["unshare", "-pf", "--kill-child", "sleep", "1000"], pass_fds=(lock.fileno(),)) as other:
        (folder / "pid").write_text(f"{other.pid}\n")  # of root's, that has been given the lock
        mine = f"in no user namespace of the user {user.uid}, whose {folder} is: it is not entered by that"
        assert told() == (1, "", f"pyinit: PID 1 of mine ({other.pid}) is {mine}\n")
        other.kill()
    (folder / "pid").write_text(f"{pid}\n")
    assert told("true") == (0, "", "")
    assert box.stop() == 0


def test_another_users_and_what_is_none_is_told(user):
    (user.folder / "lock").touch()
    for words, code, said in (
        (("--socket", f"{user.folder}/control.sock"), 1, f"{user.folder}/control.sock is in a folder of someone else's: try as root"),
        (("--socket", f"{user.folder}/home/control.sock"), 3, f"{user.folder}/home/control.sock: no container runs there; expected the control.sock of one"),
        (("--socket", "/none/control.sock"), 3, "/none/control.sock: No such file or directory"),
        (("-c", "none"), 3, "no container none runs here; nothing runs"),
    ):
        done = user.verb("enter", *words, "--", "id")
        assert (done.returncode, done.stdout, done.stderr) == (code, "", f"pyinit: {said}\n")
