"""What other inits paid for: a test for each, with its number, of real processes.

The number is that of the list in the project's contracts; a name says what must hold.
"""

import ast
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from conftest import DEADLINE_S, REPO, open_files, verb, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left")
UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc")
SOON_S = 5.0  # far less than any time that would be sat out


class Plain:
    """A plain supervisor in a folder of its own."""

    def __init__(self, bench, folder: pathlib.Path) -> None:
        self.bench, self.folder = bench, folder

    def start(self, services: str, init: str = "", **keys):
        head = f'[init]\nstate_dir = "{self.folder}/state"\nlog_dir = "{self.folder}/log"\ncontrol_socket = "{self.folder}/s"\n{init}\n'
        return self.bench.start(head + services, **keys)

    def verb(self, *words: str) -> subprocess.CompletedProcess[str]:
        return verb(words[0], "--socket", f"{self.folder}/s", *words[1:])

    def status(self) -> dict[str, dict]:
        answer = self.verb("status", "--json")
        assert answer.returncode == 0, answer.stderr
        return {one["name"]: one for one in json.loads(answer.stdout)["services"]}


@pytest.fixture
def plain(bench, tmp_path):
    return Plain(bench, tmp_path)


def children(pid: int) -> list[int]:
    return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state_of(pid: int) -> str:
    """proc_pid_stat(5): R, S, Z, ...; "" for none."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _command(pid: int) -> bytes:
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def effort(pid: int) -> tuple[int, int]:
    """(CPU ticks, how often it was put to sleep and woken)."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    switches = re.search(r"^voluntary_ctxt_switches:\t(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(fields[11]) + int(fields[12]), int(switches[1])


def hushed(pid: int, seconds: float) -> tuple[int, int]:
    """What it does while nothing happens."""
    ticks, wakes = effort(pid)
    select.select([], [], [], seconds)
    after = effort(pid)
    return after[0] - ticks, after[1] - wakes


def test_pitfall_01_sigchld_coalesces_and_no_exit_is_lost(plain):
    """While the supervisor is stopped 30 services and 30 orphans end: one SIGCHLD for all."""
    names = [f"s{n}" for n in range(30)]
    text = '[services.{}]\ncommand = ["sh", "-c", "(sleep 1000 &) ; exec sleep 1001"]\nlog = {{ to = "null" }}\n'
    box = plain.start("".join(text.format(name) for name in names))
    pid = box.process.pid
    for name in names:
        box.wait_for(f"pyinit: {name}: ready")
    wait_until(lambda: len(children(pid)) == 60, "the orphans have come to us")
    before = plain.status()
    box.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T", "it is stopped")
    ended = children(pid)
    for one in ended:
        os.kill(one, signal.SIGKILL)
    wait_until(lambda: all(state_of(one) == "Z" for one in ended), "all have ended")
    box.process.send_signal(signal.SIGCONT)
    for name in names:
        box.wait_for(f"pyinit: {name}: ready", count=2)
    after = plain.status()
    assert [(one["restarts"], one["exit"]["signal"], one["pid"] != before[name]["pid"]) for name, one in after.items()] == [(1, 9, True)] * 30
    wait_until(lambda: len(children(pid)) == 60, "their orphans")
    assert not set(children(pid)) & set(ended)
    assert box.stop() == 0


def test_pitfall_02_one_reaper_and_nobody_loses_an_exit_code(plain):
    """Services, probes, hooks, a reload command and `exec` all end at once, over and over; each code is its own."""
    text = """
[services.s{n}]
command = ["sh", "-c", "sleep 0.0{n}; exit {n}"]
finish = ["sh", "-c", "exit 1{n}"]
nice = {n}  # so all of it is forked, and reports on a pipe before its end
restart_delay = {{ first = "1ms", initial = "1ms", max = "1ms" }}
start_limit = {{ count = 10000 }}
log = {{ to = "null" }}
"""
    probed = '[services.up]\ncommand = ["sleep", "1000"]\nhealth = { exec = ["true"], interval = "10ms", failures = 1 }\nlog = { to = "null" }\n'
    box = plain.start("".join(text.format(n=n) for n in range(1, 7)) + probed)
    box.wait_for("pyinit: up: ready")
    for code in (0, 3, 77):
        assert plain.verb("exec", "up", "--", "sh", "-c", f"exit {code}").returncode == code
    for n in range(1, 7):
        box.wait_for(f"pyinit: s{n}: finish: exit code 1{n}\n", count=5)
    assert set(re.findall(r"pyinit: (s\d): .*?restart after: ([^\n;]*)", box.output)) <= {(f"s{n}", f"exit code {n}") for n in range(1, 7)}
    assert plain.status()["up"]["restarts"] == 0
    assert box.stop() == 0
    assert set(re.findall(r"pyinit: (s\d): finish: exit code (\d+)", box.output)) == {(f"s{n}", f"1{n}") for n in range(1, 7)}


WAITERS = {"wait", "wait3", "wait4", "waitpid", "waitid"}


def test_pitfall_02_nothing_in_the_init_waits_but_the_reaper():
    named = [
        (path.name, f"{node.value.id}.{node.attr}")
        for room in ("init", "control", "core", "protocol", "linux")
        for path in sorted((REPO / "pyinit" / room).glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    ]
    # Each but the reaper's waitpid is for the launcher: a helper command, a map of ids, a copy by the old mount API. Nobody here calls them.
    found = {(file, name) for file, name in named if name in {*(f"os.{one}" for one in WAITERS)}}
    theirs = {("process.py", "os.waitid"), ("namespaces.py", "os.waitid"), ("mount_old.py", "os.waitpid")}
    assert found == {("process.py", "os.waitpid"), *theirs}
    of_the_launcher = {"process.run", "namespaces.user_namespace", "mount.detached_copy"}
    assert [(file, name) for file, name in named if name in of_the_launcher] == []
    imports = re.compile(r"from pyinit\.linux\.process import .*\brun\b|linux import process as ")
    assert not [path for path in (REPO / "pyinit").rglob("*.py") if imports.search(path.read_text())]


def test_pitfall_03_a_pid_that_is_another_s_by_now_is_not_signalled(runtime):
    """The number of a service that is gone is made a bystander's: neither signal, stop, restart nor the end of all reaches it."""
    box = runtime.start(UNSHARE, """
[services.app]
command = ["sleep", "1000"]
restart = "never"
[services.other]
command = ["sleep", "1001"]
kill = "process"
""")
    box.wait_for("pyinit: app: ready")
    root = f"/proc/{runtime.pid(box)}/root"
    inside = next(one for one in json.loads(runtime.verb("status", "--json").stdout)["services"] if one["name"] == "app")["pid"]
    assert runtime.verb("signal", "KILL", "app").returncode == 0
    box.wait_for("pyinit: app: failed: killed by KILL")
    # The next pid is chosen: ns_last_pid(5). The bystander leads a session of its own, as the service did.
    born = f"echo {inside - 1} > /proc/sys/kernel/ns_last_pid; setsid sh -c 'echo $$; exec sleep 1002' </dev/null 2>&1 & wait $!"
    enter = ["nsenter", "-t", str(runtime.pid(box)), "-p", "-m", f"--root={root}", "sh", "-c", born]
    with subprocess.Popen(enter, stdout=subprocess.PIPE) as bystander:
        try:
            assert int(bystander.stdout.readline()) == inside
            assert runtime.verb("signal", "KILL", "app").stderr == "pyinit: app: is failed: there is no process to signal\n"
            assert runtime.verb("stop", "app").returncode == 0
            assert runtime.verb("start", "app").returncode == 0
            assert runtime.verb("stop", "app").returncode == 0
            assert bystander.poll() is None
            [pid] = [one for one in map(int, filter(str.isdigit, os.listdir("/proc"))) if f"\nNSpid:\t{one}\t{inside}\n" in _status(one)]
            assert state_of(pid) == "S"
        finally:
            bystander.kill()
            assert runtime.verb("shutdown").returncode == 0
            assert box.wait() == 0


def _status(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.parametrize("more", ["", "nice = 1\n"])  # both ways to spawn
def test_pitfall_04_a_child_that_dies_before_it_is_registered_is_known(plain, more):
    text = '[services.s{}]\nkind = "oneshot"\ncommand = ["true"]\nlog = {{ to = "null" }}\n' + more
    box = plain.start("".join(text.format(n) for n in range(50)), 'exit = "when-all-exited"')
    assert box.wait() == 0
    assert sorted(re.findall(r"pyinit: (s\d+): done: exit code 0\n", box.output)) == sorted(f"s{n}" for n in range(50))


def test_pitfall_05_a_stop_cancels_what_has_not_started_yet(plain, tmp_path):
    """One that prepares, one that waits for it, one in its back-off, one whose time has not come."""
    box = plain.start(f"""
[services.slow]
command = ["sleep", "1000"]
pre_start = ["sleep", "1001"]
[services.top]
requires = ["slow"]
command = ["touch", "{tmp_path}/top"]
[services.crash]
command = ["false"]
restart_delay = {{ first = "60s", initial = "60s", max = "60s" }}
[services.task]
schedule = "0 0 29 2 *"
command = ["touch", "{tmp_path}/task"]
""", 'stop_timeout = "60s"')
    box.wait_for("pyinit: crash: backoff: exit code 1; restart in ")
    begun = time.monotonic()
    assert box.stop() == 0
    assert time.monotonic() - begun < SOON_S
    assert [name for name in ("top", "task") if (tmp_path / name).exists()] == [], box.output


def test_pitfall_06_it_leaves_when_the_last_child_has_gone_not_before_and_not_later(plain, tmp_path):
    """Grace of a minute: who needs a moment has it, who is done is not sat out, who does not heed is killed."""
    box = plain.start(f"""
[services.slow]
command = ["sh", "-c", "trap 'sleep 0.3; echo parted > {tmp_path}/parted; exit' TERM; echo up; while :; do sleep 0.02; done"]
ready = {{ log = "up" }}
[services.deaf]
command = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.02; done"]
ready = {{ log = "up" }}
stop_timeout = "200ms"
""", 'stop_timeout = "60s"')
    box.wait_for("pyinit: slow: ready")
    box.wait_for("pyinit: deaf: ready")
    pids = [one["pid"] for one in plain.status().values()]
    begun = time.monotonic()
    box.process.send_signal(signal.SIGTERM)
    assert box.wait() == 0
    assert time.monotonic() - begun < SOON_S
    assert (tmp_path / "parted").read_text() == "parted\n"
    assert [state_of(pid) for pid in pids] == ["", ""]


@pytest.mark.parametrize("kill", ["group", "cgroup"])
def test_pitfall_07_a_leader_s_exit_is_not_the_group_s(plain, tmp_path, kill):
    """A worker outlives its master: the next master starts when the worker has gone, else the port is taken."""
    worker = tmp_path / "worker"
    box = plain.start(f"""
[services.app]
command = ["sh", "-c", '''
if [ -e {worker} ] && kill -0 $(cat {worker}); then echo taken; fi
sleep 1000 & echo $! > {worker}.new
mv {worker}.new {worker}
exit 1
''']
kill = "{kill}"
restart_delay = {{ first = "1ms", initial = "1ms", max = "1ms" }}
start_limit = {{ count = 10000 }}
log = {{ to = "stdout" }}
""")
    box.wait_for("pyinit: app: ready", count=10)
    assert box.stop() == 0
    assert "taken" not in box.output
    assert state_of(int(worker.read_text())) == ""


# PID 1 of the namespace is this shell: what would be killed by mistake is in the namespace, and nothing else.
BYSTANDER = """
sleep 1000 & bystander=$!
"$@" & ours=$!
while [ ! -e "$FOLDER/up" ]; do sleep 0.02; done
kill -INT $ours
while [ ! -e "$FOLDER/told" ]; do sleep 0.02; done
kill -INT $ours
wait $ours; echo code $?
kill -0 $bystander && echo the bystander lives
kill -0 $(cat "$FOLDER/up") 2>/dev/null || echo the service is gone
"""


def test_pitfall_08_a_shared_pid_namespace_is_not_killed(plain, tmp_path):
    """A second INT kills all that is ours at once, and nothing else."""
    box = plain.start(f"""
[services.app]
command = ["sh", "-c", "trap 'touch {tmp_path}/told' TERM; echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/up; while :; do sleep 0.02; done"]
stop_timeout = "50s"
""", 'stop_timeout = "60s"', command=(*UNSHARE, "sh", "-c", BYSTANDER, "sh", sys.executable, "-m", "pyinit"), environment={"FOLDER": str(tmp_path)})  # fmt: skip
    assert box.wait() == 0
    assert box.output.splitlines()[-3:] == ["code 0", "the bystander lives", "the service is gone"]


def test_pitfall_09_not_pid_1_it_is_a_subreaper(plain, tmp_path):
    """What loses its parent becomes ours, and no zombie."""
    file = tmp_path / "orphan"
    box = plain.start(f"""
[services.app]
command = ["sh", "-c", "(setsid sh -c 'echo $$ > {file}.new; mv {file}.new {file}; exec sleep 1000' &); exec sleep 1001"]
""")
    wait_until(file.exists, "the orphan's pid")
    orphan = int(file.read_text())
    wait_until(lambda: orphan in children(box.process.pid), "it is ours")
    os.kill(orphan, signal.SIGKILL)
    wait_until(lambda: state_of(orphan) == "", "it is reaped")
    assert plain.status()["app"]["restarts"] == 0
    assert box.stop() == 0


def blocks_hup(pid: int) -> bool:
    """The mask of ours, not the one of INT and TERM that unshare's child has for a moment."""
    found = re.search(r"^SigBlk:\t([0-9a-f]+)", _status(pid), re.MULTILINE)
    return bool(found and int(found[1], 16) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGPWR, 37])
def test_pitfall_10_a_stop_while_modules_load_is_not_lost(runtime, number):
    """From the first moment that the mask is there, and at later ones of the start: none is without its end."""
    for wait_s in (0, 0.01, 0.02, 0.04, 0.06, 0.09):
        box = runtime.start(UNSHARE, '[services.app]\ncommand = ["sleep", "1000"]\n')
        pid = runtime.pid(box)
        wait_until(lambda pid=pid: blocks_hup(pid), "the mask")
        select.select([], [], [], wait_s)
        os.kill(pid, number)
        assert box.wait() == 0, box.output


def test_pitfall_10_signals_are_blocked_before_anything_of_ours_is_imported(runtime, tmp_path):
    calls = tmp_path / "calls"
    box = runtime.start(("strace", "-f", "-o", str(calls), "-e", "trace=rt_sigprocmask,openat", *UNSHARE), '[services.app]\ncommand = ["sleep", "1000"]\n')
    box.wait_for("pyinit: app: ready")
    assert runtime.verb("shutdown").returncode == 0
    assert box.wait() == 0
    before, mask, after = calls.read_text().partition("rt_sigprocmask(SIG_BLOCK, ~[")
    ours = re.escape(f"{REPO}/pyinit/")
    assert mask
    assert set(re.findall(rf"{ours}(\w+)", before)) <= {"__init__", "__main__", "__pycache__"}
    assert "core" in re.findall(rf"{ours}(\w+)", after)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_pitfall_11_a_death_by_signal_is_128_plus_its_number(plain, number):
    box = plain.start(f'[services.app]\ncommand = ["sh", "-c", "kill -{int(number)} $$"]\nrestart = "never"\n', 'exit = "when-main-exits"\nmain = "app"')
    assert box.wait() == 128 + number


def test_pitfall_12_loggers_stop_last_and_a_grandchild_that_holds_the_pipe_bounds_the_wait(plain, tmp_path):
    file = tmp_path / "grandchild"
    box = plain.start(f"""
[services.app]
command = ["sh", "-c", '''
env -i setsid sh -c "echo \\$\\$ > {file}.new; mv {file}.new {file}; exec sleep 1000" &
trap "echo the last word; exit" TERM
while [ ! -e {file} ]; do sleep 0.02; done
echo up; while :; do sleep 0.02; done
''']
kill = "process"
ready = {{ log = "up" }}
log = {{ timestamp = "none" }}
""", 'stop_timeout = "60s"')
    box.wait_for("pyinit: app: ready")
    grandchild = int(file.read_text())
    begun = time.monotonic()
    assert box.stop() == 0
    assert time.monotonic() - begun < SOON_S
    assert (tmp_path / "log/app/current").read_text() == "up\nthe last word\n"
    assert state_of(grandchild) == "S"  # "process" leaves it alone: it had the pipe all the time
    os.kill(grandchild, signal.SIGKILL)


def test_pitfall_13_an_fd_is_unregistered_before_it_is_closed(plain, tmp_path):
    """While another process has a copy of it, epoll would go on telling of what is closed here, and no one could stop it.

    That process is the reader of a reload, which waits for its config: a FIFO.
    """
    box = plain.start(f"""
[services.app]
command = ["sh", "-c", "[ -e {tmp_path}/calm ] && exec sleep 1001; exit 1"]
ready = {{ fd = 5 }}
nice = 1
restart_delay = {{ first = "1ms", initial = "1ms", max = "1ms" }}
start_limit = {{ count = 10000 }}
pre_start = ["true"]
log = {{ to = "null" }}
""")
    box.wait_for("pyinit: app: starting: restart after: exit code 1", count=30)
    pid, path = box.process.pid, tmp_path / "services.toml"
    (tmp_path / "calm").touch()
    wait_until(lambda: b"sleep\x001001\x00" in [_command(one) for one in children(pid)], "it is calm")
    config = path.read_text()
    path.unlink()
    os.mkfifo(path)
    clients = [_client(tmp_path, "events", "-f") for _ in range(4)]
    assert all(client.stdout.readline() for client in clients)
    reload = _client(tmp_path, "reload")
    wait_until(lambda: _command(pid) in [_command(one) for one in children(pid)], "the reader")
    for client in clients:
        client.kill()
        client.communicate()
    wait_until(lambda: hushed(pid, 0.1) == (0, 0), "an end of the work")
    assert hushed(pid, 0.5) == (0, 0)
    path.write_text(config)
    assert reload.communicate(timeout=DEADLINE_S)[0] == b"nothing differs\n"
    wait_until(lambda: hushed(pid, 0.1) == (0, 0), "what the reload had is closed")
    opened = len(open_files(pid))
    assert plain.verb("signal", "KILL", "app").returncode == 0
    wait_until(lambda: len(open_files(pid)) == opened, "as many fds as before")
    assert box.stop() == 0


def _client(folder: pathlib.Path, verb_: str, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "pyinit", verb_, "--socket", f"{folder}/s", *words], cwd=REPO, stdout=subprocess.PIPE)


def test_pitfall_14_a_missing_command_neither_spins_nor_blocks_control(plain):
    """Twenty of them, for ever: what they cost is that of their delays, and a verb is answered meanwhile."""
    text = '[services.s{}]\ncommand = ["/not/there"]\nrestart = "always"\nlog = {{ to = "null" }}\n{}'
    box = plain.start("".join(text.format(n, "nice = 1\n" if n % 2 else "") for n in range(20)))
    box.wait_for("/not/there: No such file or directory", count=20)
    begun = time.monotonic()
    states = {one["state"] for one in plain.status().values()}
    assert time.monotonic() - begun < 2.0
    assert states <= {"backoff", "starting", "cleaning"}
    for n in range(20):
        box.wait_for(f"pyinit: s{n}: backoff: ", count=4)  # 0.8 s from here on
    ticks, wakes = hushed(box.process.pid, 0.5)
    assert ticks <= 10
    assert wakes <= 120  # a start or two each
    assert box.stop() == 0


def test_pitfall_15_an_intended_restart_is_no_failure(plain):
    """More of them than the start limit has: no back-off, no count, no end of all."""
    box = plain.start("""
[services.app]
command = ["sleep", "1000"]
start_limit = { count = 2, within = "1h", then = "exit" }
restart_delay = { first = "1h", initial = "1h", max = "1h" }
critical = true
""", 'exit = "when-main-exits"\nmain = "app"')
    box.wait_for("pyinit: app: ready")
    for _ in range(5):
        assert plain.verb("restart", "app").returncode == 0
    app = plain.status()["app"]
    assert (app["state"], app["restarts"]) == ("ready", 0)
    assert "backoff" not in box.output
    assert box.stop() == 0


def test_pitfall_16_a_dependency_that_fails_makes_its_dependants_fail(plain):
    """With its name as the reason, through the whole chain, and whoever waits for them is told."""
    box = plain.start("""
[services.base]
kind = "oneshot"
command = ["sh", "-c", "exit 3"]
[services.middle]
requires = ["base"]
command = ["sleep", "1000"]
[services.top]
requires = ["middle"]
command = ["sleep", "1000"]
""")
    box.wait_for("pyinit: top: failed: requires middle, which failed: requires base, which failed: exit code 3\n")
    begun = time.monotonic()
    for words in (("wait", "top"), ("start", "top")):
        done = plain.verb(*words)
        assert done.returncode == 1
        assert "requires middle, which failed: requires base, which failed: exit code 3" in done.stderr
    assert time.monotonic() - begun < SOON_S
    assert [one["state"] for one in plain.status().values()] == ["failed"] * 3
    assert box.stop() == 0


NOTIFIES = """
import os, socket, time
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); sock.connect(os.environ["NOTIFY_SOCKET"])
sock.send(b"READY=1"); time.sleep(1000)
"""


@pytest.mark.parametrize(("options", "owner"), [("ro", 0), ("noexec", 0), ("mode=0755", 65534)])
def test_pitfall_17_run_may_be_read_only_noexec_or_another_s(runtime, tmp_path, options, owner):
    """The state is where the config says; nothing is executed from it."""
    (tmp_path / "service.py").write_text(NOTIFIES)
    mount = f'mount -t tmpfs -o {options} none /run && {{ chown {owner} /run 2>/dev/null || :; }} && exec "$@"'
    place = f'{tmp_path}/state' if options == "ro" else "/run/pyinit"
    box = runtime.start((*UNSHARE, "sh", "-c", mount, "sh"), f"""
[services.app]
command = ["{os.path.realpath(sys.executable)}", "-S", "{tmp_path}/service.py"]
ready = {{ notify = true }}
pre_start = ["true"]
""", state_dir=place)
    box.wait_for("pyinit: app: ready")
    assert runtime.verb("disable", "app").returncode == 0
    assert pathlib.Path(f"/proc/{runtime.pid(box)}/root{place}/enabled").read_text() == "-app\n"
    assert runtime.verb("shutdown").returncode == 0
    assert box.wait() == 0


def test_pitfall_17_without_a_writable_state_the_services_run(runtime):
    mount = 'mount -t tmpfs -o ro none /run && exec "$@"'
    box = runtime.start((*UNSHARE, "sh", "-c", mount, "sh"), '[services.app]\ncommand = ["sleep", "1000"]\n', state_dir="/run/pyinit")
    box.wait_for("pyinit: app: ready")
    assert runtime.verb("disable", "app").returncode == 0
    box.wait_for("pyinit: app: is not kept disabled over a restart: /run/pyinit/enabled: Read-only file system")
    assert runtime.verb("shutdown").returncode == 0
    assert box.wait() == 0


def test_pitfall_18_neither_cwd_nor_fds_of_whoever_started_us_are_held(runtime, tmp_path):
    """They would keep a mount busy; LISTEN_FDS is what is meant to stay, for those services that ask for it."""
    (tmp_path / "held").mkdir()
    (tmp_path / "held/secret").touch()
    fds = [os.open(tmp_path / "held/secret", os.O_RDONLY) for _ in range(3)]
    show = "readlink /proc/self/cwd; for n in 0 1 2 3 4 5 6 7 8 9 {}; do test -e /proc/$$/fd/$n && echo $n; done; echo end; exec sleep 1000"
    box = runtime.start((*UNSHARE, "sh", "-c", 'cd "$FOLDER"; exec "$@"', "sh"), f"""
[services.app]
command = ["sh", "-c", '''{show.format(fds[0])}''']
[services.nice]
nice = 1
command = ["sh", "-c", '''{show.format(fds[0])}''']
""", environment={"FOLDER": str(tmp_path / "held"), "PYTHONPATH": str(REPO)}, pass_fds=fds)  # fmt: skip
    for fd in fds:
        os.close(fd)
    for name in ("app", "nice"):
        box.wait_for(f"{name}: end")
        assert [line.partition(": ")[2] for line in box.output.splitlines() if line.startswith(f"{name}: ")] == ["/", "0", "1", "2", "end"]
    pid = runtime.pid(box)
    wait_until(lambda: len(children(pid)) == 3, "the services and the logger")
    for one in (pid, *children(pid)):
        assert not [path for path in open_files(one) if path.startswith(str(tmp_path / "held"))]
        assert os.readlink(f"/proc/{one}/cwd") == "/"
    assert runtime.verb("shutdown").returncode == 0
    assert box.wait() == 0


def test_pitfall_18_a_plain_supervisor_s_folder_is_not_its_services(plain, tmp_path):
    """Nor does it keep it busy itself."""
    text = '[services.{}]\ncommand = ["readlink", "/proc/self/cwd"]\nrestart = "never"\nlog = {{ to = "stdout" }}\n{}'
    keeps = '[services.keeps]\ncommand = ["sleep", "1000"]\n'
    box = plain.start(text.format("a", "") + text.format("b", "nice = 1\n") + keeps, cwd=tmp_path, environment={"PYTHONPATH": str(REPO)})
    box.wait_for("a: /\n")
    box.wait_for("b: /\n")
    assert set(plain.status()) == {"a", "b", "keeps"}  # so its socket is bound: bind(2) knows no folder but the current one
    assert os.readlink(f"/proc/{box.process.pid}/cwd") == "/"
    assert box.stop() == 0
