"""Without a launcher of ours: a plain supervisor, with and without root, and PID 1 of a foreign pid namespace."""

import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import DEADLINE_S, REPO, Pyinit, verb, wait_until

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
    wait_until(pidfile.exists, "the daemon's pid")
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

    as_nobody = {"cwd": folder, "env": environment, "user": 65534, "group": 65534, "extra_groups": []}

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([SYSTEM_PYTHON, "-m", "pyinit", *words], capture_output=True, check=False, timeout=DEADLINE_S, **as_nobody)

    box = Pyinit(pathlib.Path("services.toml"), command=(SYSTEM_PYTHON, "-m", "pyinit"), **as_nobody)
    try:
        box.wait_for(f"app: {folder}")
        assert "app: 65534\n" in box.output
        name = json.loads(run("list", "--json").stdout)[0]["name"]
        assert name.startswith("home-")
        assert b"ready" in run("status", "app").stdout
        assert run("logs", "-n", "1", "app").stdout.decode() == f"{folder}\n"
        assert (run("shutdown").returncode, box.wait()) == (0, 0)
    finally:
        box.close()
    assert list((folder / "runtime/pyinit").iterdir()) == []
    assert (folder / f".local/state/pyinit/{name}/app/current").exists()


AS_PID_1 = ("unshare", "--pid", "--fork", "--mount-proc", "--mount", sys.executable, "-m", "pyinit")


def inner(process: subprocess.Popen) -> int:
    """unshare's only child: PID 1 of the new namespace."""
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(children.read_text, "unshare's child")
    return int(children.read_text())


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
    box = Pyinit(path, command=AS_PID_1, environment={"INHERITED": "yes"})
    try:
        box.wait_for("app: up yes")
        assert verb("status", "--socket", str(tmp_path / "control.sock")).returncode == 0
        os.kill(inner(box.process), number)
        assert box.wait() == 0
        assert "app: bye" in box.output
    finally:
        box.close()


@pytest.mark.parametrize(
    ("words", "code"),
    [(["true"], 0), (["sh", "-c", "exit 9"], 9), (["sh", "-c", "kill -9 $$"], 137), (["/bin/not-there"], 127), (["/etc"], 126)],
)
def test_one_command_as_pid_1(words, code):
    done = subprocess.run([*AS_PID_1, "--", *words], cwd=REPO, capture_output=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == code


def test_one_command_gets_signals_and_orphans_are_reaped():
    script = "(true &); (true &); trap 'echo got; exit 4' USR1; echo up; while :; do sleep 0.05; done"
    process = subprocess.Popen([*AS_PID_1, "--", "sh", "-c", script], cwd=REPO, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    pid = inner(process)
    os.kill(pid, signal.SIGUSR1)
    assert process.stdout.readline() == b"got\n"
    assert process.wait(DEADLINE_S) == 4
    process.stdout.close()


SAYS_ON_FD = 'import os, time; time.sleep(0.2); os.write(5, bytes([10])); time.sleep(1000)'
NOTIFIES = """
import os, socket, time
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.connect(os.environ["NOTIFY_SOCKET"])
sock.send(b"STATUS=warm")
time.sleep(0.2)
sock.send(b"READY=1")
time.sleep(1000)
"""


@pytest.mark.parametrize(("ready", "code"), [("fd = 5", SAYS_ON_FD), ("notify = true", NOTIFIES)])
def test_a_service_says_itself_that_it_is_ready(bench, tmp_path, ready, code):
    (tmp_path / "service.py").write_text(code)
    box = bench.start(f"""
[services.first]
command = ["{SYSTEM_PYTHON}", "{tmp_path}/service.py"]
ready = {{ {ready} }}
log = {{ to = "null" }}
[services.next]
command = ["sleep", "1000"]
requires = ["first"]
log = {{ to = "null" }}
""")
    box.wait_for("pyinit: next: ready")
    assert box.output == "pyinit: first: ready\npyinit: next: ready\n"
    assert box.stop() == 0


def test_two_supervisors_with_the_same_names_leave_each_others_processes_alone(bench, tmp_path):
    """What left its session is found by its mark: of this pyinit, and of no other."""
    text = f"""
[init]
control_socket = "{tmp_path}/SOCKET.s"
log_dir = "{tmp_path}/log-SOCKET"
[services.app]
command = ["sh", "-c", "setsid sh -c 'echo $$ > {tmp_path}/SOCKET.pid; exec sleep 1000' & sleep 1000"]
"""
    boxes = [bench.start(text.replace("SOCKET", name), name=f"{name}/services.toml") for name in ("one", "two")]
    for name in ("one", "two"):
        wait_until(lambda name=name: (tmp_path / f"{name}.pid").exists() and (tmp_path / f"{name}.pid").read_text(), "its pid")
    assert boxes[0].stop() == 0
    [app] = json.loads(verb("status", "--socket", f"{tmp_path}/two.s", "--json").stdout)["services"]
    assert (app["state"], app["restarts"]) == ("ready", 0)
    assert not pathlib.Path(f"/proc/{(tmp_path / 'one.pid').read_text().strip()}").exists()
    assert boxes[1].stop() == 0
