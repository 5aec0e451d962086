"""The process manager with real processes: hooks, tasks, health, sd_notify, sockets, attributes. Without a container."""

import contextlib
import json
import os
import random
import select
import socket
import sys

import pytest
from conftest import verb, wait_until

PYTHON = f"{sys.executable} -S -c"


@pytest.fixture
def manager(bench, tmp_path):
    """`manager(services)` starts them; `manager.status(name)` asks."""

    def start(text: str, init: str = ""):
        head = f'[init]\nstate_dir = "{tmp_path}/state"\nlog_dir = "{tmp_path}/log"\ncontrol_socket = "{tmp_path}/s"\n{init}\n'
        return bench.start(head + text)

    def status(name: str):
        answer = verb("status", "--socket", f"{tmp_path}/s", "--json")
        assert answer.returncode == 0, answer.stderr
        return {one["name"]: one for one in json.loads(answer.stdout)["services"]}[name]

    start.status = status
    start.verb = lambda *words: verb(words[0], "--socket", f"{tmp_path}/s", *words[1:])
    return start


def script(tmp_path, name: str, text: str) -> str:
    path = tmp_path / name
    path.write_text(text)
    return f'["{sys.executable}", "-S", "{path}"]'


def test_hooks_run_in_order_with_runsvs_arguments(manager, tmp_path):
    out = tmp_path / "out"
    say = lambda word: f'["sh", "-c", "echo {word} $0 $1 $PYINIT_HOOK >> {out}"]'  # noqa: E731 - one word a hook
    box = manager(f"""
[services.app]
command = ["sh", "-c", "echo run >> {out}; exit 3"]
restart = "never"
pre_start = [{say("one")}, {say("two")}]
post_start = ["true"]
finish = ["sh", "-c", "echo finish $0 $1 $PYINIT_HOOK >> {out}"]
""")
    box.wait_for("app: failed: exit code 3")
    assert out.read_text().splitlines() == ["one sh pre_start", "two sh pre_start", "run", "finish 3 0 finish"]


def test_a_task_runs_at_its_interval(manager, tmp_path):
    out = tmp_path / "out"
    box = manager(f'[services.tick]\ninterval = "50ms"\ncommand = ["sh", "-c", "echo x >> {out}"]\n')
    wait_until(lambda: out.exists() and len(out.read_text()) >= 6, "three runs")
    assert manager.status("tick")["state"] in ("waiting", "starting", "running", "cleaning")
    assert box.stop() == 0


SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        good = not os.path.exists(os.environ["SICK"])
        self.send_response(200 if good else 503); self.send_header("Content-Length", "2"); self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *words): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def free_port() -> int:
    """None of those that connections are given (ip_local_port_range), of which the tests beside us take some."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(20000, 30000)))
            return probe.getsockname()[1]


def test_http_readiness_and_health(manager, tmp_path):
    port, sick = free_port(), tmp_path / "sick"
    box = manager(f"""
[services.web]
command = {script(tmp_path, "server.py", SERVER)}
environment = {{ PORT = {port}, SICK = "{sick}" }}
ready = {{ http = "http://127.0.0.1:{port}/", body = "^ok$" }}
health = {{ http = "http://127.0.0.1:{port}/", interval = "50ms", failures = 2 }}
""")
    box.wait_for("web: ready")
    wait_until(lambda: manager.status("web")["health"] == "healthy", "a good answer")
    pid = manager.status("web")["pid"]
    sick.touch()
    box.wait_for("web: starting: restart after: health: HTTP 503, expected 200-399 (2 times)")
    sick.unlink()
    box.wait_for("web: ready", count=2)
    assert manager.status("web")["pid"] != pid
    assert box.stop() == 0


def test_readiness_by_command_and_by_a_line_of_the_log(manager, tmp_path):
    flag = tmp_path / "flag"
    box = manager(f"""
[services.slow]
command = ["sh", "-c", "touch {flag}; exec sleep 1000"]
ready = {{ exec = ["test", "-e", "{flag}"] }}
[services.loud]
requires = ["slow"]
command = ["sh", "-c", "echo begin; echo server is up; exec sleep 1000"]
ready = {{ log = "^server .* up$" }}
""")
    box.wait_for("loud: ready")
    assert box.output.index("slow: ready") < box.output.index("loud: ready")
    assert box.stop() == 0


NOTIFIER = """
import array, os, socket, sys, time
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); sock.connect(os.environ["NOTIFY_SOCKET"])
fds = os.environ.get("LISTEN_FDNAMES", "")
sock.send(f"READY=1\\nSTATUS=fds: {fds} pid: {os.environ['WATCHDOG_PID'] == str(os.getpid())}".encode())
if not fds:
    ours, theirs = socket.socketpair()
    socket.send_fds(sock, [b"FDSTORE=1\\nFDNAME=kept\\nFDPOLL=0"], [theirs.fileno()])
end = time.monotonic() + 0.3
while time.monotonic() < end:
    sock.send(b"WATCHDOG=1"); time.sleep(0.05)
time.sleep(1000)
"""


def test_sd_notify_status_watchdog_and_fd_store(manager, tmp_path):
    box = manager(f"""
[services.app]
command = {script(tmp_path, "notifier.py", NOTIFIER)}
ready = {{ notify = true }}
watchdog = "150ms"
fd_store = 2
""")
    box.wait_for("app: ready")
    wait_until(lambda: manager.status("app")["status"] == "fds:  pid: True", "its status")
    box.wait_for("app: starting: restart after: watchdog: no sign of life for 0.15 s")
    wait_until(lambda: manager.status("app")["status"] == "fds: kept pid: True", "the stored fd")
    assert box.stop() == 0


def test_a_socket_outlives_its_service(manager, tmp_path):
    port = free_port()
    server = """
import os, socket
names = os.environ["LISTEN_FDNAMES"].split(":")
assert os.environ["LISTEN_PID"] == str(os.getpid()) and os.environ["PYINIT_FD_WEB"] == "3", os.environ
listener = socket.socket(fileno=3)
conn, _ = listener.accept()
conn.send(("%s %d" % (":".join(names), os.getpid())).encode()); conn.close()
"""
    box = manager(f"""
[services.echo]
command = {script(tmp_path, "echo.py", server)}
sockets = [{{ name = "web", listen = "127.0.0.1:{port}" }}, {{ name = "local", listen = "{tmp_path}/l.sock", mode = "0600" }}]
restart_delay = {{ first = "100ms" }}
start_limit = {{ count = 1000 }}
""")
    box.wait_for("echo: ready")
    seen = set()
    for _ in range(5):  # each answer ends the server; none of the next is refused
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            words = client.recv(100).decode().split()
            assert words[0] == "web:local"
            seen.add(words[1])
    assert len(seen) == 5
    assert os.stat(tmp_path / "l.sock").st_mode & 0o777 == 0o600
    assert box.stop() == 0
    assert not (tmp_path / "l.sock").exists()


def test_what_a_process_is_given(manager, tmp_path):
    (tmp_path / "env").write_text("# a comment\nexport FROM_FILE='a b'\n")
    (tmp_path / "envdir").mkdir()
    (tmp_path / "envdir/FROM_DIR").write_text("one\ntwo\n")
    (tmp_path / "envdir/LANG").write_text("")
    (tmp_path / "input").write_text("hello\n")
    show = (
        "import os, json; status = dict(l.split(':', 1) for l in open('/proc/self/status')); "
        "print(json.dumps([os.nice(0), sorted(os.sched_getaffinity(0)), open('/proc/self/oom_score_adj').read().strip(), "
        "status['CapBnd'].strip(), status['CapAmb'].strip(), status['NoNewPrivs'].strip(), os.environ.get('FROM_FILE'), "
        "os.environ.get('FROM_DIR'), os.environ.get('LANG'), input(), os.listdir('/tmp'), os.access('/opt', os.W_OK), os.getuid()]))"
    )
    box = manager(f"""
[services.app]
command = ["{os.path.realpath(sys.executable)}", "-S", "-c", {json.dumps(show)}]  # not below /tmp
restart = "never"
nice = 5
cpu_affinity = [0]
oom_score_adj = 500
user = "nobody"
capabilities = ["NET_BIND_SERVICE", "KILL"]
ambient_capabilities = ["NET_BIND_SERVICE"]
no_new_privileges = true
environment_files = ["{tmp_path}/env", "-/not/there"]
env_dir = "{tmp_path}/envdir"
stdin = "file:{tmp_path}/input"
private_tmp = true
read_only_paths = ["/opt"]
log = {{ to = "stdout" }}
[init.environment]
LANG = "C"
""")
    box.wait_for("app: done")
    found = json.loads(next(line for line in box.output.splitlines() if line.startswith("app: ["))[5:])
    assert found == [5, [0], "500", f"{(1 << 10) | (1 << 5):016x}", f"{1 << 10:016x}", "1", "a b", "one", None, "hello", [], False, 65534]


def test_what_cannot_be_granted_is_a_warning_or_with_strict_an_error(manager):
    text = '[services.{name}]\ncommand = ["true"]\nrestart = "never"\ncpu_affinity = [4000]\n{more}'
    box = manager(text.format(name="a", more="") + text.format(name="b", more="strict = true\n"))
    box.wait_for("cpu_affinity: CPU 4000 can't be used here; it runs on all")
    box.wait_for("a: done")
    box.wait_for("b: failed: ")
    assert "cpu_affinity: CPU 4000 can't be used here\n" in box.output


def test_a_condition_skips_a_service_and_what_needs_it_runs(manager):
    box = manager("""
[services.a]
command = ["false"]
condition = { path_exists = "/not/there" }
[services.b]
requires = ["a"]
command = ["sleep", "1000"]
""")
    box.wait_for("a: done: condition: /not/there is not there")
    box.wait_for("b: ready")
    assert box.stop() == 0


def test_a_stop_is_a_sequence(manager):
    box = manager("""
[services.app]
command = ["sh", "-c", "trap 'echo quit' QUIT; trap 'echo term; exit 0' TERM; echo up; while :; do sleep 0.05; done"]
stop = [{ signal = "QUIT", wait = "200ms" }, { signal = "TERM", wait = "5s" }]
drain = "50ms"
ready = { log = "up" }
log = { to = "stdout" }
""")
    box.wait_for("app: ready")
    assert box.stop() == 0
    words = [line for line in box.output.splitlines() if line.startswith("app: ")]
    assert words == ["app: up", "app: quit", "app: term"]


def test_instances_and_templates(manager):
    box = manager("""
[services.app]
instances = 2
command = ["sh", "-c", "echo I am ${INSTANCE} $NUMBER; exec sleep 1000"]
environment = { NUMBER = "n${INSTANCE}" }
log = { to = "stdout" }
[services."worker@"]
command = ["sh", "-c", "echo worker ${INSTANCE}; exec sleep 1000"]
log = { to = "stdout" }
[services.last]
requires = ["app", "worker@eu"]
command = ["sleep", "1000"]
""")
    box.wait_for("last: ready")
    box.wait_for("app@1: I am 1 n1")
    box.wait_for("app@2: I am 2 n2")
    box.wait_for("worker@eu: worker eu")
    assert box.stop() == 0


def test_reload_applies_the_difference_and_refuses_a_bad_file_whole(manager, tmp_path, bench):
    def service(name, command="sleep 1000", more=""):
        return f'[services.{name}]\ncommand = "{command}"\n{more}\n'

    box = manager(service("a") + service("b") + service("c") + service("d"))
    box.wait_for("d: ready")
    before = {name: manager.status(name)["pid"] for name in "abcd"}
    path = tmp_path / "services.toml"
    head = path.read_text().partition("[services.a]")[0]
    path.write_text(head + service("a") + service("b", "sleep 2000") + service("c", more='restart = "never"') + service("e"))
    done = manager.verb("reload")
    assert (done.returncode, done.stdout, done.stderr) == (
        0, "e: added\nd: removed\nb: restarted, for they differ\nc: changed, without a restart\n", "",
    )  # fmt: skip
    box.wait_for("d: removed")
    box.wait_for("e: ready")
    box.wait_for("b: ready", count=2)
    after = {name: manager.status(name)["pid"] for name in "abce"}
    assert (after["a"], after["c"], after["b"] != before["b"]) == (before["a"], before["c"], True)
    path.write_text(head + service("a") + "[services.x]\ncomand = 1\n")
    done = manager.verb("reload")
    assert done.returncode == 100
    assert [line.partition("services.toml")[2] for line in done.stderr.splitlines()] == [
        ':9: services.x: command is missing: expected a list such as ["/usr/sbin/nginx", "-g", "daemon off;"], or a string',
        ":10: services.x.comand: there is no such key; did you mean command?",
    ]
    assert {name: manager.status(name)["pid"] for name in "abce"} == after
    path.write_text(head + service("a") + service("b", "sleep 2000") + service("c", more='restart = "never"') + service("e"))
    assert manager.verb("reload").stdout == "nothing differs\n"
    assert manager.verb("logs", "e").returncode == 0  # the new one has a log
    assert box.stop() == 0


def test_events_wait_hup_enable_and_ps(manager, tmp_path):
    marker = tmp_path / "reloaded"
    box = manager(f"""
[services.app]
command = ["sh", "-c", "sleep 1000 & exec sleep 2000"]
reload_command = ["sh", "-c", "echo $MAINPID > {marker}"]
[services.other]
command = ["sh", "-c", "trap 'echo got hup' HUP; echo up; while :; do sleep 0.05; done"]
log = {{ to = "stdout" }}
ready = {{ log = "^up$" }}
enabled = false
""")
    box.wait_for("app: ready")
    assert manager.verb("wait", "app", "--timeout", "10s").returncode == 0
    assert manager.verb("hup", "app").returncode == 0
    assert int(marker.read_text()) == manager.status("app")["pid"]
    gone = manager.verb("wait", "other")
    assert (gone.returncode, gone.stderr) == (1, "pyinit: other: stopped\n")
    assert manager.verb("enable", "other").returncode == 0
    assert manager.verb("hup", "other").returncode == 0
    box.wait_for("other: got hup")
    assert manager.verb("reload").stdout == "nothing differs\n"
    events = [json.loads(line) for line in manager.verb("events", "-n", "100", "--json").stdout.splitlines()]
    assert [(one["name"], one["state"]) for one in events] == [
        ("app", "waiting"), ("app", "starting"), ("app", "ready"), ("other", "waiting"), ("other", "starting"), ("other", "running"),
        ("other", "ready"),
    ]  # fmt: skip
    tree = manager.verb("ps", "app").stdout.splitlines()
    assert [line.split("  ")[-1] for line in tree[1:]] == ["ready", "sleep 2000", "sleep 1000"]
    unknown = manager.verb("restart", "ap")
    assert (unknown.returncode, unknown.stderr) == (1, "pyinit: ap: no such service; did you mean app?\n")
    assert box.stop() == 0
    assert (tmp_path / "state/enabled").read_text() == "+other\n"


def test_a_task_that_is_run_now_is_waited_for_and_its_failure_told(manager, tmp_path):
    box = manager(f"""
[services.task]
schedule = "@yearly"
command = ["sh", "-c", "test -e {tmp_path}/good"]
[services.picky]
schedule = "@yearly"
command = ["true"]
requires = ["off"]
[services.off]
kind = "oneshot"
command = ["false"]
enabled = false
[services.idle]
schedule = "@yearly"
command = ["true"]
condition = {{ path_exists = "/not/there" }}
""")
    box.wait_for("off: failed")
    assert manager.verb("wait", "task", "--ready", "--timeout", "10s").returncode == 0
    done = manager.verb("start", "task")
    assert (done.returncode, done.stderr) == (1, "pyinit: task: failed: exit code 1\n")
    (tmp_path / "good").touch()
    assert [manager.verb(word, "task").returncode for word in ("start", "restart", "enable")] == [0, 0, 0]
    assert manager.verb("start", "idle").returncode == 0
    done = manager.verb("start", "picky")
    assert (done.returncode, done.stderr) == (1, "pyinit: picky: failed: requires off, which failed: exit code 1\n")
    for words in (["events"], ["wait"], ["hup"], ["ps"], ["signal", "HUP"], ["enable"], ["disable"], ["exec"], ["logs"], ["status"]):
        unknown = manager.verb(*words, "tsk", *(["--", "true"] if words == ["exec"] else []))
        assert (unknown.returncode, unknown.stdout, unknown.stderr) == (1, "", "pyinit: tsk: no such service; did you mean task?\n")
    assert box.stop() == 0


def test_ready_stopping_and_exit_status_go_upward(manager, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager_of_ours:
        manager_of_ours.bind(str(tmp_path / "up"))
        manager_of_ours.settimeout(20)
        os.environ["NOTIFY_SOCKET"] = str(tmp_path / "up")
        try:
            box = manager('[services.app]\ncommand = ["sh", "-c", "test -z \\"$NOTIFY_SOCKET\\" && exec sleep 1000"]\n')
        finally:
            del os.environ["NOTIFY_SOCKET"]
        assert manager_of_ours.recv(1000) == b"READY=1\nSTATUS=1 services"
        assert box.stop() == 0
        assert manager_of_ours.recv(1000) == b"STOPPING=1"
        assert manager_of_ours.recv(1000) == b"EXIT_STATUS=0"


def test_exec_runs_a_command_as_the_service_would(manager, tmp_path):
    box = manager("""
[services.app]
command = ["sleep", "1000"]
user = "nobody"
environment = { COLOUR = "red" }
umask = "0077"
rlimits = { nofile = 77 }
""")
    box.wait_for("app: ready")
    done = manager.verb("exec", "app", "--", "sh", "-c", "echo $COLOUR $(id -un) $(umask) $(ulimit -n); echo no >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "red nobody 0077 77\n", "no\n")
    assert manager.verb("exec", "app", "--", "sh", "-c", "kill -9 $$").returncode == 137
    missing = manager.verb("exec", "app", "--", "/not/there")
    assert missing.returncode == 127
    assert missing.stderr.endswith("cannot execute /not/there: No such file or directory; is it in the image?\n")
    assert manager.verb("exec", "app", "--", "/etc/passwd").returncode == 126
    assert manager.verb("exec", "app").returncode == 2
    assert box.stop() == 0


def test_a_command_beside_a_service_is_blamed_by_its_own_name(manager, tmp_path):
    box = manager("""[services.plain]
command = ["sleep", "1000"]

[services.hooked]
command = ["sleep", "1000"]
pre_start = ["/not/there"]
restart = "never"
""")
    where = f"{tmp_path}/services.toml:"
    box.wait_for(f"hooked: failed: pre_start /not/there: {where}9: cannot execute /not/there: No such file or directory; is it in the image?\n")
    for command, code, why in (
        ("/not/there", 127, "No such file or directory; is it in the image?"),
        ("/etc/passwd", 126, "Permission denied"),
    ):
        done = manager.verb("exec", "plain", "--", command)
        assert (done.returncode, done.stderr) == (code, f"pyinit: {where}6: cannot execute {command}: {why}\n")
    assert box.stop() == 0


def test_exec_forwards_signals_and_its_command_ends_with_it(manager, tmp_path):
    import signal
    import subprocess

    box = manager('[services.app]\ncommand = ["sleep", "1000"]\n')
    box.wait_for("app: ready")
    words = [sys.executable, "-m", "pyinit", "exec", "--socket", f"{tmp_path}/s", "app", "--", "sh", "-c"]
    traps = "trap 'echo wide' WINCH; trap 'echo got; exit 5' TERM; echo up; while :; do sleep 0.02; done"
    with subprocess.Popen([*words, traps], stdout=subprocess.PIPE) as client:
        assert client.stdout.readline() == b"up\n"
        client.send_signal(signal.SIGWINCH)  # a terminal that is another's tells its size to nobody but us
        assert client.stdout.readline() == b"wide\n"
        client.send_signal(signal.SIGTERM)
        assert (client.stdout.read(), client.wait(20)) == (b"got\n", 5)
    with subprocess.Popen([*words, "echo $$; exec sleep 1000"], stdout=subprocess.PIPE) as client:
        pid = int(client.stdout.readline())
        client.kill()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the command is gone")
    assert box.stop() == 0


def test_a_stranger_may_not_control(manager, tmp_path):
    """Even if someone opened the socket's mode."""
    import subprocess

    box = manager('[services.app]\ncommand = ["sleep", "1000"]\n')
    box.wait_for("app: ready")
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    (tmp_path / "s").chmod(0o666)
    ask = (
        f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{tmp_path}/s')\n"
        "try: s.send(b'{\"verb\":\"shutdown\"}\\n')\n"
        "except OSError: pass  # it may have turned us away already\n"
        "print(s.recv(1000).decode())"
    )
    done = subprocess.run([os.path.realpath(sys.executable), "-S", "-c", ask], user=65534, capture_output=True, text=True, timeout=20, check=False)
    assert json.loads(done.stdout) == {"error": "uid 65534 may not control this pyinit: its user or root may", "exit_code": 1}
    assert manager.status("app")["state"] == "ready"
    assert box.stop() == 0


def test_a_verb_means_all_instances_and_the_socket_goes_with_pyinit(manager, tmp_path):
    box = manager('[services.db]\ncommand = ["sleep", "1000"]\ninstances = 2\n')
    box.wait_for("db@2: ready")
    assert manager.verb("stop", "db").returncode == 0
    assert [manager.status(f"db@{number}")["state"] for number in (1, 2)] == ["stopped", "stopped"]
    assert manager.verb("start", "db").returncode == 0
    table = manager.verb("status", "db")
    assert (table.returncode, table.stdout.count("ready")) == (0, 2)
    assert (tmp_path / "s").exists()
    assert box.stop() == 0
    assert not (tmp_path / "s").exists()


def test_a_condition_is_asked_once_before_the_hooks(manager, tmp_path):
    flag = tmp_path / "flag"
    box = manager(f"""
[services.app]
command = ["sleep", "1000"]
condition = {{ path_missing = "{flag}" }}
pre_start = ["touch", "{flag}"]
[services.bad]
command = ["sleep", "1000"]
restart = "never"
condition = {{ env = "X" }}
environment_files = ["{tmp_path}/none"]
pre_start = ["touch", "{tmp_path}/never"]
""")
    box.wait_for("app: ready")
    box.wait_for("bad: failed: pre_start touch: ")
    assert f"{tmp_path}/none is not there" in box.output
    assert not (tmp_path / "never").exists()
    assert box.stop() == 0


def test_sd_notify_in_full(manager, tmp_path):
    """Said from here, on the service's own socket."""
    box = manager("""
[services.app]
command = ["sleep", "1000"]
ready = { notify = true }
fd_store = 8
restart_delay = { first = "100ms" }
""")
    place = tmp_path / "state/notify/app"
    wait_until(lambda: (tmp_path / "s").exists() and manager.status("app")["pid"], "its process")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(str(place))

        def say(text: str, *fds: int) -> None:
            """What was said is handled once the barrier's descriptor has been closed."""
            socket.send_fds(sock, [text.encode()], list(fds))
            read_end, write_end = os.pipe()
            socket.send_fds(sock, [b"BARRIER=1"], [write_end])
            os.close(write_end)
            assert select.select([read_end], [], [], 10)[0]
            assert os.read(read_end, 1) == b""
            os.close(read_end)

        say("STATUS=loading\nREADY=1\nWATCHDOG_USEC=700000000")
        app = manager.status("app")
        assert (app["state"], app["status"]) == ("ready", "loading")
        say("RELOADING=1\nMONOTONIC_USEC=1\nSTATUS=reading")
        assert manager.status("app")["notify"]["reloading"]
        assert manager.verb("status", "app").stdout.splitlines()[1].endswith("0         reloading; reading")
        say("READY=1\nSTATUS=serving\nERRNO=5")
        app = manager.status("app")
        assert (app["state"], app["notify"]["reloading"], app["notify"]["errno"]) == ("ready", False, 5)
        assert manager.verb("status", "app").stdout.splitlines()[1].endswith("0         serving; errno 5 (Input/output error)")
        read_end, write_end = os.pipe()
        say("FDSTORE=1\nFDNAME=out", read_end, write_end)  # two files, although of one inode
        say("FDSTORE=1\nFDNAME=twice", os.dup(read_end))
        assert manager.status("app")["notify"]["stored_fds"] == 2
        say("nothing is asked for them", read_end)
        say("FDSTOREREMOVE=1\nFDNAME=other")
        assert manager.status("app")["notify"]["stored_fds"] == 2
        say("FDSTOREREMOVE=1\nFDNAME=out")
        assert manager.status("app")["notify"]["stored_fds"] == 0
        ours, theirs = socket.socketpair()
        with ours, theirs:
            say("FDSTORE=1\nFDNAME=polled", theirs.fileno())
            say("FDSTORE=1\nFDNAME=kept\nFDPOLL=0", read_end)
            assert manager.status("app")["notify"]["stored_fds"] == 2
        os.close(write_end)
        wait_until(lambda: manager.status("app")["notify"]["stored_fds"] == 1, "a hangup")
        say("STOPPING=1")
        assert manager.status("app")["notify"]["stopping"]
        say("WATCHDOG_USEC=100000")  # the service's own, not the config's
        box.wait_for("app: starting: restart after: watchdog: no sign of life for 0.1 s")
        say("WATCHDOG_USEC=50000\nREADY=1")  # before it is ready, too
        box.wait_for("app: starting: restart after: watchdog: no sign of life for 0.05 s")
        say("READY=1\nWATCHDOG=trigger")
        box.wait_for("app: starting: restart after: watchdog: triggered by the service")
    os.close(read_end)
    assert box.stop() == 0


def test_services_have_default_signals_however_pyinit_was_started(bench, tmp_path):
    """By nohup, a script's &, or a parent that does not wait: what is ignored stays so over an exec."""
    head = f'[init]\nstate_dir = "{tmp_path}/state"\nlog_dir = "{tmp_path}/log"\ncontrol_socket = "{tmp_path}/s"\nexit = "when-all-exited"\n'
    show = 'command = ["sh", "-c", "grep SigIgn /proc/self/status"]\nrestart = "never"\nlog = { to = "stdout" }\n'
    ignoring = ("sh", "-c", 'trap "" HUP INT QUIT CHLD; exec "$@"', "sh", sys.executable, "-m", "pyinit")
    box = bench.start(f'{head}[services.plain]\n{show}[services.full]\n{show}umask = "0077"\n', command=ignoring)
    assert box.wait() == 0
    for name in ("plain", "full"):
        [mask] = [line.split()[-1] for line in box.output.splitlines() if line.startswith(f"{name}: SigIgn")]
        assert int(mask, 16) & ~(3 << 31) == 0  # 32 and 33 are the C library's own
