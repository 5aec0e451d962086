"""Without a launcher of ours: a plain supervisor, with and without root, and PID 1 of a foreign pid namespace."""

import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import DEADLINE_S, REPO, Pyinit, verb

pytestmark = pytest.mark.usefixtures("nothing_left")
SYSTEM_PYTHON = "/usr/bin/python3"  # nobody may not read a checkout's own

PLAIN = """
[init]
log_dir = "{folder}/log"
[services.base]
command = ["sh", "-c", "trap 'echo base ends; exit' TERM; echo base up; while :; do sleep 0.1; done"]
ready = {{ path = "{folder}/ready" }}
log = {{ echo = true }}
[services.top]
command = "sh -c 'trap \\"echo top ends; exit\\" TERM; echo top up; while :; do sleep 0.1; done'"
requires = ["base"]
log = {{ echo = true }}
"""


def test_a_plain_supervisor_starts_and_stops_in_order(bench, tmp_path):
    box = bench.start(PLAIN.format(folder=tmp_path))
    box.wait_for("base: base up")
    assert "top up" not in box.output
    (tmp_path / "ready").touch()
    box.wait_for("top: top up")
    found = json.loads(verb("status", "--json").stdout)
    assert found["init"]["pid"] == box.process.pid
    assert [(one["name"], one["state"]) for one in found["services"]] == [("base", "ready"), ("top", "ready")]
    assert box.stop() == 0
    ends = [line for line in box.output.splitlines() if line.endswith("ends")]
    assert ends == ["top: top ends", "base: base ends"]
    assert "base up" in (tmp_path / "log/base/current").read_text()


def test_what_a_service_left_behind_is_killed(bench, tmp_path):
    """A daemon that left the session is found by its marker; it came to us, who are the subreaper."""
    pidfile = tmp_path / "daemon.pid"
    box = bench.start(f"""
[services.daemon]
command = ["sh", "-c", "setsid sh -c 'echo $$ > {pidfile}.new; mv {pidfile}.new {pidfile}; exec sleep 1000' & sleep 1000"]
log = {{ to = "null" }}
""")
    deadline = time.monotonic() + DEADLINE_S
    while not pidfile.exists() and time.monotonic() < deadline:
        select.select([], [], [], 0.01)
    pidfd = os.pidfd_open(int(pidfile.read_text()))
    assert box.stop() == 0
    assert select.select([pidfd], [], [], DEADLINE_S)[0]
    os.close(pidfd)


def test_without_root(tmp_path):
    """An unprivileged user: own folders for socket and logs, verbs find it, nothing left."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copytree(REPO / "pyinit", folder / "pyinit", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "services.toml").write_text("""
[services.app]
command = ["sh", "-c", "id -u; echo $HOME; sleep 1000"]
log = { echo = true, timestamp = "none" }
""")
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 65534, 65534)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "runtime")}
    (folder / "runtime").mkdir()
    os.chown(folder / "runtime", 65534, 65534)

    def run(*words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [SYSTEM_PYTHON, "-m", "pyinit", *words], cwd=folder, env=environment, user=65534, group=65534, extra_groups=[],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    box = Pyinit.__new__(Pyinit)
    box.config, box.output, box.process = folder / "services.toml", "", run("--config", "services.toml")
    os.set_blocking(box.process.stdout.fileno(), False)
    try:
        box.wait_for(f"app: {folder}")
        assert "app: 65534\n" in box.output
        listed, _ = run("list", "--json").communicate(timeout=DEADLINE_S)
        name = json.loads(listed)[0]["name"]
        assert name.startswith("home-")
        shown, _ = run("status", "app").communicate(timeout=DEADLINE_S)
        assert b"ready" in shown
        logged, _ = run("logs", "-n", "1", "app").communicate(timeout=DEADLINE_S)
        assert logged.decode() == f"{folder}\n"
        ended = run("shutdown")
        ended.communicate(timeout=DEADLINE_S)
        assert (ended.returncode, box.wait()) == (0, 0)
    finally:
        box.close()
    assert list((folder / "runtime/pyinit").iterdir()) == []
    assert (folder / f".local/state/pyinit/{name}/app/current").exists()


def as_pid_1(*words: str) -> list[str]:
    return ["unshare", "--pid", "--fork", "--mount-proc", "--mount", sys.executable, "-m", "pyinit", *words]


def inner(process: subprocess.Popen) -> int:
    """unshare's only child: PID 1 of the new namespace."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        text = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        if text:
            return int(text)
        select.select([], [], [], 0.005)
    raise AssertionError("unshare has no child")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGPWR, 37])
def test_as_init_of_another_runtime(tmp_path, number):
    """Environment inherited, logs to stdout, the signals that runtimes send."""
    path = tmp_path / "services.toml"
    path.write_text(f"""
[init]
control_socket = "{tmp_path}/control.sock"
state_dir = "{tmp_path}/state"
[services.app]
command = ["sh", "-c", "trap 'echo bye; exit' TERM; echo up $INHERITED; while :; do sleep 0.05; done"]
""")
    process = subprocess.Popen(
        as_pid_1("--config", str(path)), cwd=REPO, env={**os.environ, "INHERITED": "yes"}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    box = Pyinit.__new__(Pyinit)
    box.config, box.output, box.process = path, "", process
    os.set_blocking(process.stdout.fileno(), False)
    try:
        box.wait_for("app: up yes")
        assert verb("status", "--socket", str(tmp_path / "control.sock")).returncode == 0
        os.kill(inner(process), number)
        assert box.wait() == 0
        assert "app: bye" in box.output
    finally:
        box.close()


def test_a_stop_during_the_start_is_not_lost(tmp_path):
    """Python's start-up takes a while; a TERM that comes meanwhile is kept, for signals are blocked first."""
    path = tmp_path / "services.toml"
    path.write_text(f"""
[init]
control_socket = "{tmp_path}/control.sock"
state_dir = "{tmp_path}/state"
[services.app]
command = ["sleep", "1000"]
""")
    process = subprocess.Popen(as_pid_1("--config", str(path)), cwd=REPO, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pid = inner(process)
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:  # from the first moment that the mask is there
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        if "SigBlk:\t0000000000000000" not in status:
            break
    os.kill(pid, signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [(["true"], 0), (["sh", "-c", "exit 9"], 9), (["sh", "-c", "kill -9 $$"], 137), (["/bin/not-there"], 127), (["/etc"], 126)],
)
def test_one_command_as_pid_1(words, code):
    done = subprocess.run(as_pid_1("--", *words), cwd=REPO, capture_output=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == code


def test_one_command_gets_signals_and_orphans_are_reaped():
    script = "(true &); (true &); trap 'echo got; exit 4' USR1; echo up; while :; do sleep 0.05; done"
    process = subprocess.Popen(as_pid_1("--", "sh", "-c", script), cwd=REPO, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    pid = inner(process)
    os.kill(pid, signal.SIGUSR1)
    assert process.stdout.readline() == b"got\n"
    assert process.wait(DEADLINE_S) == 4
    process.stdout.close()
