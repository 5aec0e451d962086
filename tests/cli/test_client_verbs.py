"""What the client verbs ask, print and leave with: an init that is a script, at the other end of a real socket."""

import contextlib
import json
import os
import signal
import socket
import threading

import pytest

from pyinit import __main__
from pyinit.cli import events, logs, pause, ps, services, shutdown, stats, status, update
from pyinit.cli import list as list_verb
from pyinit.control import places
from pyinit.errors import ControlError, UsageError

PATIENCE_S = 5.0
INIT = {"pid": 1, "version": "0.1.0", "uptime_s": 9.0, "state": "running"}
APP = {"name": "app", "state": "ready", "pid": 12, "uptime_s": 61.2, "restarts": 0, "reason": ""}
WEB = {"name": "web", "state": "backoff", "pid": None, "uptime_s": None, "restarts": 3, "reason": "exit code 1"}


@pytest.fixture
def init(tmp_path, monkeypatch):
    """A function: give it the bytes of the answer; it returns the list that the request will stand in."""
    path = str(tmp_path / "c")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.settimeout(PATIENCE_S)
    threads = []
    monkeypatch.setenv("PYINIT_SOCKET", path)

    def serve(answer, folder, requests, open_for_s):
        client, _ = sock.accept()
        with client, contextlib.suppress(BrokenPipeError):
            request = json.loads(client.recv(1 << 16))
            requests.append(request if request.pop("version", None) == 1 else ("expected version 1", request))
            if folder is not None:
                fd = os.open(folder, os.O_RDONLY)
                answer = answer[socket.send_fds(client, [answer], [fd]) :]
                os.close(fd)
            client.sendall(answer)
            if open_for_s:
                client.settimeout(open_for_s)
                assert client.recv(1) == b""  # the client has left

    def script(*answers, raw=b"", folder=None, open_for_s=0.0):
        sock.listen()
        requests = []
        text = b"".join(json.dumps(one).encode() + b"\n" for one in answers) + raw
        threads.append(threading.Thread(target=serve, args=(text, folder, requests, open_for_s), daemon=True))
        threads[-1].start()
        return requests

    yield script
    for thread in threads:
        thread.join(PATIENCE_S)
    sock.close()


def test_status_prints_a_table(init, capsys):
    asked = init({"ok": True, "init": INIT, "services": [APP, WEB]})
    assert status.run([]) == 0
    assert asked == [{"verb": "status"}]
    assert capsys.readouterr().out == (
        "NAME  STATE    PID  UPTIME  RESTARTS  REASON\n"
        "app   ready    12   1m01s   0\n"
        "web   backoff  -    -       3         exit code 1\n"
    )  # fmt: skip


@pytest.mark.parametrize(("names", "code"), [(["app"], 0), (["web"], 3), (["app", "web"], 3)])
def test_status_of_a_name_says_by_its_exit_code_whether_it_runs(init, capsys, names, code):
    init({"ok": True, "init": INIT, "services": [APP, WEB]})
    assert status.run([*names, "--json"]) == code
    assert json.loads(capsys.readouterr().out) == {"init": INIT, "services": [one for one in (APP, WEB) if one["name"] in names]}


def test_status_of_a_name_that_is_none(init):
    init({"ok": True, "init": INIT, "services": [APP, WEB]})
    with pytest.raises(ControlError, match=r"^ap: no such service; did you mean app\?$"):
        status.run(["ap"])


def test_a_reason_does_not_steer_the_terminal(init, capsys):
    init({"ok": True, "init": INIT, "services": [{**WEB, "reason": "no \x1b]0;title\x07\nfile"}]})
    assert status.run([]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "web   backoff  -    -       3         no ?]0;title??file"


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        (["start", "app", "web"], {"verb": "start", "wait": True, "names": ["app", "web"]}),
        (["stop", "--no-wait", "app"], {"verb": "stop", "wait": False, "names": ["app"]}),
        (["restart", "--timeout", "2s", "app"], {"verb": "restart", "wait": True, "names": ["app"]}),
        (["signal", "RTMIN+1", "app"], {"verb": "signal", "wait": True, "signal": 35, "names": ["app"]}),
    ],
)
def test_a_change_is_asked_for_and_says_nothing_but_on_a_terminal(init, capsys, words, request_):
    asked = init({"progress": {"name": "app", "state": "starting", "reason": ""}}, {"ok": True})
    assert services.run(words) == 0
    assert asked == [request_]
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal(init, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    progress = [{"progress": {"name": "app", "state": state, "reason": why}} for state, why in (("waiting", "waits for db"), ("ready", ""))]
    init(*progress, progress[-1], {"ok": True})  # which is no news
    assert services.run(["start", "app"]) == 0
    assert capsys.readouterr() == ("", "app: waiting: waits for db\napp: ready\n")


def test_a_service_that_fails_and_an_init_that_leaves(init):
    init({"error": "app: failed: exit code 3", "exit_code": 1})
    with pytest.raises(ControlError, match=r"^app: failed: exit code 3$") as caught:
        services.run(["start", "app"])
    assert caught.value.exit_code == 1
    init({"progress": {"name": "app", "state": "starting", "reason": ""}})
    with pytest.raises(ControlError, match=r"^pyinit ended before it answered$") as caught:
        services.run(["start", "app"])
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("words", "last", "message"),
    [
        (["wait", "--ready", "app"], {"name": "app", "state": "running", "reason": ""}, "app: not ready within 20ms: running"),
        (["start", "app"], {"name": "app", "state": "waiting", "reason": "waits for db"}, "app: not ready within 20ms: waiting: waits for db"),
        (["stop", "app"], {"name": "app", "state": "stopping", "reason": ""}, "app: not stopped within 20ms: stopping"),
        (["hup", "app"], None, "app: not reloaded within 20ms"),
        (["wait", "app", "web"], {"name": "web", "state": "ready", "reason": ""}, "app: not ready within 20ms"),
    ],
)
def test_a_timeout_says_how_far_it_is(init, words, last, message):
    init(*([{"progress": last}] if last else []), open_for_s=PATIENCE_S)
    with pytest.raises(ControlError) as caught:
        services.run([*words, "--timeout", "20ms"])
    assert (str(caught.value), caught.value.exit_code) == (message, 1)


def test_ready_is_wait_s_own_word():
    with pytest.raises(UsageError, match=r"^--ready: there is no such option"):
        services.run(["stop", "--ready", "app"])


def test_events_ask_for_the_names_that_are_meant(init, capsys):
    asked = init({"ok": True}, *({"event": {"t": "T", "name": name, "state": "ready", "reason": "", "pid": 1}} for name in ("app", "web")))
    assert events.run(["app"]) == 0
    assert asked == [{"verb": "events", "lines": 10, "follow": False, "names": ["app"]}]
    assert capsys.readouterr().out == "T app ready\n"


def test_ps_shows_a_tree_of_any_depth(init, capsys):
    def process(pid, parent):
        return {"pid": pid, "parent": parent, "memory_bytes": 1 << 20, "cpu_s": 0.5, "command": f"c{pid}"}

    init({"ok": True, "services": [{"name": "app", "state": "ready", "processes": [process(9, 1), process(7, 1), process(8, 7), process(10, 7)]}]})
    assert ps.run([]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "app                               4.0M    2.00s  ready",
        "                           7      1.0M    0.50s  c7",
        "                           8      1.0M    0.50s    c8",
        "                          10      1.0M    0.50s    c10",
        "                           9      1.0M    0.50s  c9",
    ]


def test_ps_of_a_chain_that_is_longer_than_our_stack(init, capsys):
    chain = [{"pid": pid, "parent": pid - 1, "memory_bytes": 0, "cpu_s": 0.0, "command": "x"} for pid in range(2, 1100)]
    init({"ok": True, "services": [{"name": "app", "state": "ready", "processes": chain}]})
    assert ps.run([]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(chain)


LOG = {
    "app": b"2026-11-24T10:00:00.000000Z a\xff\n2026-11-24T10:00:02.000000Z c\n",
    "web": b"2026-11-24T10:00:01.000000Z b\n2026-11-24T10:00:03.000000Z hal",
}


@pytest.fixture
def log_dir(tmp_path, init):
    """A log folder that comes with the answer, then frames."""

    def answered(frames=b"", **logs):
        rows = []
        for name, data in logs.items():
            (tmp_path / "log" / name).mkdir(parents=True)
            path = tmp_path / "log" / name / "current"
            path.write_bytes(data)
            rows.append({"service": name, "stream": "stdout", "ino": path.stat().st_ino, "size": len(data)})
        return init({"ok": True, "logs": rows}, raw=frames, folder=tmp_path / "log")

    return answered


def test_logs_merge_services_by_their_stamps_and_pass_on_every_byte(log_dir, capfdbinary):
    asked = log_dir(**LOG)
    assert logs.run(["-n", "3", "app", "web"]) == 0
    assert asked == [{"verb": "logs", "names": ["app", "web"], "follow": False}]
    assert capfdbinary.readouterr().out == (
        b"app: 2026-11-24T10:00:00.000000Z a\xff\nweb: 2026-11-24T10:00:01.000000Z b\n"
        b"app: 2026-11-24T10:00:02.000000Z c\nweb: 2026-11-24T10:00:03.000000Z hal\n"
    )


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["--since", "2026-11-24T10:00:02Z"], b"app: 2026-11-24T10:00:02.000000Z c\nweb: 2026-11-24T10:00:03.000000Z hal\n"),
        (["--grep", "[bc]$"], b"app: 2026-11-24T10:00:02.000000Z c\nweb: 2026-11-24T10:00:01.000000Z b\n"),
        (["--grep", "hal"], b"web: 2026-11-24T10:00:03.000000Z hal\n"),
        (["--grep", "nothing"], b""),
        (["-n1"], b"app: 2026-11-24T10:00:02.000000Z c\nweb: 2026-11-24T10:00:03.000000Z hal\n"),
        (["-n", "0"], b""),
    ],
)
def test_which_lines(log_dir, capfdbinary, words, out):
    log_dir(**LOG)
    assert logs.run(words) == 0
    assert sorted(capfdbinary.readouterr().out.splitlines()) == sorted(out.splitlines())


def test_logs_as_json(log_dir, capfdbinary):
    log_dir(app=b'2026-11-24T10:00:00.000000Z a\xff\nno stamp\n{"t":"2026-11-24T10:00:01.000000Z","service":"app","stream":"stdout","msg":"x"}\n')
    assert logs.run(["--json", "app"]) == 0
    rows = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [(row["t"], row["msg"]) for row in rows] == [
        ("2026-11-24T10:00:00.000000Z", "a\udcff"), (None, "no stamp"), ("2026-11-24T10:00:01.000000Z", "x"),
    ]  # fmt: skip


def test_following_ends_with_pyinit(log_dir, capfdbinary):
    asked = log_dir(app=b"one\nbeg", web=b"", frames=b"app stdout 5 1 9\nun\nfoweb stdout 4 2 9\nx\nfoapp stdout 2 1 11\no\n- end 0 0 0\n")
    assert logs.run(["-f", "--grep", "[ox]"]) == 0
    assert asked == [{"verb": "logs", "names": [], "follow": True}]
    assert capfdbinary.readouterr().out == b"app: one\nweb: x\napp: foo\nweb: fo\n"


def test_a_follower_that_is_too_slow_is_told(log_dir, capfdbinary):
    log_dir(app=b"", frames=b"app stdout 2 1 2\na\n- slow 0 0 0\n")
    with pytest.raises(ControlError, match=r"^this reader is too slow: lines are missing from here on$"):
        logs.run(["-f", "app"])
    assert capfdbinary.readouterr().out == b"a\n"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--grep", "("], r"--grep \(: expected a regular expression \(missing \), unterminated subpattern at position 0\)"),
        (["--since", "soon"], r'--since soon: expected a time such as "10m" or "2026-11-24T10:00:00Z" \(UTC\)'),
        (["--since", "2026-13-24"], r'--since 2026-13-24: expected a time such as "10m" or "2026-11-24T10:00:00Z" \(UTC\)'),
        (["-n", "x"], "-n x: expected a number up to 1000000"),
    ],
)
def test_logs_words_that_are_wrong(words, error):
    with pytest.raises(UsageError, match=f"^{error}$"):
        logs.run(words)


def test_logs_to_a_full_disk_say_so(log_dir, capfd):
    log_dir(app=b"line\n")
    kept, full = os.dup(1), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    try:
        with pytest.raises(ControlError, match=r"^standard output: No space left on device$"):
            logs.run([])
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(full)


def test_shutdown_waits_for_the_end(init):
    asked = init({"ok": True})
    assert shutdown.run(["--exit-code", "7"]) == 0
    assert asked == [{"verb": "shutdown", "exit_code": 7}]
    with pytest.raises(UsageError, match=r"^shutdown app: expected no name; `pyinit stop NAME` stops one service$"):
        shutdown.run(["app"])
    with pytest.raises(UsageError, match=r"^--exit-code 256: expected a number up to 255$"):
        shutdown.run(["--exit-code", "256"])


def test_list_shows_what_each_answers_and_goes_on_without_an_answer(tmp_path, monkeypatch, capsys):
    """One that answers, one that is hung, one whose socket is gone, one that starts, one whose queue is full."""
    pid = os.getpid()
    names = ("web", "hung", "gone", "db-1", "full")
    found = [places.Running(name, 0 if name == "db-1" else pid, f"{tmp_path}/{name}/control.sock", f"{tmp_path}/{name}") for name in names]
    for one in found:
        (tmp_path / one.name).mkdir()
    (tmp_path / "web/config").write_text("/etc/web.toml\n")
    monkeypatch.setattr(places, "running", lambda: found)
    with socket.socket(socket.AF_UNIX) as web, socket.socket(socket.AF_UNIX) as hung, socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as client:
        for sock, name in ((web, "web"), (hung, "hung"), (full, "full")):
            sock.bind(f"{tmp_path}/{name}/control.sock")
            sock.listen(0 if name == "full" else 9)
        client.connect(f"{tmp_path}/full/control.sock")

        def answer() -> None:
            for _ in range(2):
                connection, _ = web.accept()
                with connection:
                    assert json.loads(connection.recv(4096)) == {"verb": "status", "names": [], "version": 1}
                    connection.sendall(b'{"ok": true, "init": {"state": "sto')
                    connection.sendall(b'pping"}}\n')

        thread = threading.Thread(target=answer)
        thread.start()
        assert list_verb.run([]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert list_verb.run(["--json"]) == 0
        thread.join()
    assert [[*line[:3], *line[4:]] for line in lines] == [
        ["NAME", "PID", "STATE", "CONFIG"], ["web", str(pid), "stopping", "/etc/web.toml"], ["hung", str(pid), "-", "-"],
        ["gone", str(pid), "-", "-"], ["db-1", "-", "starting", "-"], ["full", str(pid), "-", "-"],
    ]  # fmt: skip
    assert (lines[4][3], lines[1][3][-1]) == ("-", "s")
    rows = json.loads(capsys.readouterr().out)
    assert rows[0].pop("uptime_s") > 0
    assert rows[0] == {
        "name": "web", "pid": pid, "socket": f"{tmp_path}/web/control.sock", "state": "stopping", "config": "/etc/web.toml",
    }  # fmt: skip
    assert rows[3] == {
        "name": "db-1", "pid": 0, "socket": f"{tmp_path}/db-1/control.sock", "state": "starting", "uptime_s": None, "config": None,
    }  # fmt: skip


UNKNOWN = {
    "cpu": {"used_s": None, "throttled_s": None, "max": None}, "pids": {"count": 2, "max": None},
    "memory": dict.fromkeys(("used_bytes", "peak_bytes", "max_bytes", "high_bytes", "swap_bytes", "oom_kills")),
    "io": dict.fromkeys(("read_bytes", "written_bytes", "reads", "writes")), "pressure": dict.fromkeys(("cpu", "memory", "io")),
}  # fmt: skip
BUSY = {
    "cpu": {"used_s": 12.5, "throttled_s": 0.0, "max": 0.5}, "pids": {"count": 7, "max": 40},
    "memory": {"used_bytes": 50 << 20, "peak_bytes": None, "max_bytes": 3 << 29, "high_bytes": None, "swap_bytes": 0, "oom_kills": 0},
    "io": {"read_bytes": 1536, "written_bytes": 12, "reads": 1, "writes": 1},
    "pressure": {"cpu": {"some": {"avg10": 12.3, "avg60": 1.0, "avg300": 0.0, "total_us": 9}}, "memory": None, "io": None},
}  # fmt: skip


def test_stats_print_a_table_in_which_nothing_is_guessed(init, capsys):
    asked = init({"ok": True, "t_s": 9.0, "container": BUSY, "services": [{"name": "app", **UNKNOWN}]})
    assert stats.run([]) == 0
    assert asked == [{"verb": "stats", "names": []}]
    assert capsys.readouterr().out == (
        "NAME           CPU  CPU%  MEMORY  LIMIT  SWAP  PIDS  READ  WRITTEN  WAITS CPU/MEM/IO\n"
        "(container)  12.5s     -   50.0M   1.5G     0     7  1.5K       12           12%/-/-\n"
        "app              -     -       -      -     -     2     -        -             -/-/-\n"
    )


def test_stats_as_json(init, capsys):
    init({"ok": True, "t_s": 9.0, "container": None, "services": [{"name": "app", **UNKNOWN}]})
    assert stats.run(["app", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"t_s": 9.0, "container": None, "services": [{"name": "app", **UNKNOWN}]}


def test_the_share_of_a_cpu_is_that_since_the_last_look():
    later = {**BUSY, "cpu": {**BUSY["cpu"], "used_s": 13.0}}
    answers = [{"t_s": t_s, "container": None, "services": [{"name": "app", **one}]} for t_s, one in ((9.0, BUSY), (11.0, later))]
    assert stats.table(answers[1], answers[0])[1].split()[:3] == ["app", "13.0s", "25.0"]


def test_stats_refuses_an_interval_that_would_be_a_flood(init):
    with pytest.raises(UsageError, match=r'^--interval 1ms: expected a duration from 100ms up, such as "5s"$'):
        stats.run(["--watch", "--interval", "1ms"])


def test_pause_says_what_is_left_as_it_is(init, capsys):
    asked = init({"ok": True, "left": ["ssh: has no cgroup of its own that can be frozen, so it can't be paused"]})
    assert pause.run(["pause"]) == 1
    assert asked == [{"verb": "pause", "names": []}]
    assert capsys.readouterr() == ("", "pyinit: ssh: has no cgroup of its own that can be frozen, so it can't be paused\n")
    init({"ok": True})
    assert pause.run(["resume", "app"]) == 0
    assert capsys.readouterr() == ("", "")


def test_status_shows_what_is_paused(init, capsys):
    init({"ok": True, "init": INIT, "services": [{**APP, "paused": True}]})
    assert status.run(["app"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["app", "paused", "12"]


def test_update_sends_the_limits_of_the_config(init):
    asked = init({"ok": True})
    words = ["app", "memory_max=256M", "cpu_max=0.5", "cpuset=0-1", "pids_max=none", 'io_max=[{ device = "8:0", read = "1M" }]', "memory_swap_max=0"]
    assert update.run(words) == 0
    assert asked == [{"verb": "update", "names": ["app"], "limits": {
        "memory_max_bytes": 256 << 20, "cpu_max": 0.5, "cpuset": [0, 1], "pids_max": 0, "io_max": [["8:0", "8:0", 1 << 20, 0, 0, 0]],
        "memory_swap_max_bytes": 0,
    }}]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["app"], "update app: expected `pyinit update memory_max=256M`, or with a service before it"),
        ([], "update: expected `pyinit update memory_max=256M`, or with a service before it"),
        (["a", "b", "pids_max=1"], "update a b pids_max=1: expected `pyinit update memory_max=256M`, or with a service before it"),
        (["memory_mx=1M"], "memory_mx: there is no such key; did you mean memory_max?"),
        (["memory_mx=none"], "memory_mx: there is no such key; did you mean memory_max?"),
        (["memory_max=256"], 'memory_max: expected a size such as "64K", "512M" or "2G", found 256'),
        (["cpu_max=lots"], 'cpu_max: expected a number from 0.01 to 4096, found "lots"'),
        (['io_max=[{ device = "/dev/gone", read = "1M" }]'], "io_max: there is no block device /dev/gone here"),
    ],
)
def test_update_refuses(init, words, text):
    with pytest.raises(UsageError) as caught:
        update.run(words)
    assert str(caught.value) == text


def test_levels_of_init_are_asked_of_the_pid_1_that_runs(init, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/sbin/init", "0"])
    asked = init({"ok": True})
    assert (__main__.main(), asked) == (0, [{"verb": "shutdown"}])

    monkeypatch.setattr("sys.argv", ["/sbin/init", "q"])
    asked = init({"ok": True, "added": [], "removed": [], "restarted": [], "changed": []})
    assert (__main__.main(), asked) == (0, [{"verb": "reload"}])


def test_a_reboot_is_a_signal_to_who_answers(init, monkeypatch):
    with _heard(signal.SIGRTMIN + 5) as heard:
        monkeypatch.setattr("sys.argv", ["init", "6"])
        asked = init({"ok": True, "init": {**INIT, "pid": os.getpid()}, "services": []})
        assert (__main__.main(), asked) == (0, [{"verb": "status"}])
        assert heard() == signal.SIGRTMIN + 5


@contextlib.contextmanager
def _heard(number):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield lambda: signal.sigtimedwait({number}, 5).si_signo
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
