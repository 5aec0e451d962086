"""The monitor outside: what fails there ends no container, and what its pyinit was may be gone from the host by then."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import REPO, Pyinit, verb, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left")
CONFIG = """
[container]
name = "pyinit-watched"
layers = ["{image}"]
{more}
[container.hooks]
poststop = [["/bin/sh", "-c", "echo after all"]]
[container.cgroup]
memory_max = "64M"
[container.network]
mode = "veth"
bridge = "pyinit-t3"
address = "10.93.7.2/24"
publish = ["[::1]:18083:80"]
[services.app]
command = ["/bin/sh", "-c", "echo up; exec sleep 1000"]
log = {{ to = "stdout", timestamp = "none" }}
[services.logged]
command = ["/bin/sh", "-c", "echo a line; exec sleep 1000"]
"""
STARTED = ["app: up", "pyinit: app: ready", "pyinit: logged: ready"]
ENDED = ["pyinit: app: stopped: TERM received", "pyinit: logged: stopped: TERM received", "after all"]
FORWARDED = "pyinit: network: the forwarder of [::1] was killed by signal 9; it is started again in 0.1 s"
FORWARDED_AGAIN = "pyinit: network: the forwarder of [::1] is there again"

RESTARTED = STARTED[:2]
VERBS = {
    ("reload",): "nothing differs\n", ("update", "memory_max=80M"): "", ("exec", "--", "/bin/echo", "here"): "here\n", ("restart", "app"): "",
    ("signal", "WINCH", "app"): "",
}  # fmt: skip


def forwarder(box: Pyinit) -> int:
    """The child of the monitor that is nobody."""
    for pid in pathlib.Path(f"/proc/{box.process.pid}/task/{box.process.pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if "\nUid:\t65534\t" in pathlib.Path(f"/proc/{pid}/status").read_text():
                return int(pid)
    return 0


def installed(folder: pathlib.Path) -> pathlib.Path:
    """A copy of the package's, the folder that it lies in."""
    shutil.copytree(REPO / "pyinit", folder / "lib/pyinit", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "lib"


def launched(bench, text: str, lib: pathlib.Path) -> Pyinit:
    """By that copy."""
    box = Pyinit(bench.write(text), command=(sys.executable, "-P", "-m", "pyinit"), cwd="/", environment={"PYTHONPATH": str(lib)})
    bench.running.append(box)
    return box


@pytest.mark.parametrize("more", ["", "user_namespace = { map = [{ inside = 0, outside = 300000, count = 65536 }] }"], ids=["plain", "user"])
def test_the_package_is_gone_while_a_container_runs(bench, busybox, more):
    """As in the midst of an upgrade: it is served to its end by what has started it, in a user namespace from a copy in memory."""
    lib = installed(bench.folder)
    box = launched(bench, CONFIG.format(image=busybox, more=more), lib)
    for text in STARTED:
        box.wait_for(text)
    shutil.rmtree(lib)
    for words, output in VERBS.items():
        done = verb(words[0], "-c", "pyinit-watched", *words[1:])
        assert (done.returncode, done.stderr, done.stdout) == (0, "", output), words
    wait_until(lambda: verb("logs", "-c", "pyinit-watched", "logged").stdout.endswith(" a line\n"), "the line in its log")
    done = subprocess.run([sys.executable, "-m", "pyinit", "enter", "-c", "pyinit-watched", "--", "/bin/echo", "in"], cwd=REPO, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "in\n")
    wait_until(lambda: forwarder(box), "the forwarder")
    first = forwarder(box)
    os.kill(first, signal.SIGKILL)
    box.wait_for("is there again")
    wait_until(lambda: forwarder(box) not in (0, first), "another forwarder")
    box.wait_for("app: up", count=2)
    assert box.stop() == 0
    assert sorted(box.output.splitlines()) == sorted([*STARTED, *ENDED, FORWARDED, FORWARDED_AGAIN, *RESTARTED, "pyinit: (container): updated: memory_max=80M", "pyinit: reloaded: nothing differs"])


def test_another_package_lies_there_when_a_reload_brings_the_first_log(bench, busybox):
    """The logger's modules too are those of the start, which had no need of them."""
    lib = installed(bench.folder)
    text = f'[init]\nlog_dir = "/run/log"\n{CONFIG.format(image=busybox, more="")}'.replace('to = "stdout", timestamp = "none"', 'to = "inherit"').partition("[services.logged]")
    box = launched(bench, text[0], lib)
    box.wait_for("app: ready")
    box.wait_for("up\n")
    for path in lib.rglob("*.py"):
        path.write_text("raise ImportError('another version')\n")
    bench.write("".join(text))
    done = verb("reload", "-c", "pyinit-watched")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "logged: added\n")
    wait_until(lambda: verb("logs", "-c", "pyinit-watched", "logged").stdout.endswith(" a line\n"), "the line in its log")
    assert box.stop() == 0
    assert sorted(box.output.splitlines()) == sorted(["up", *STARTED[1:], *ENDED, "pyinit: reloaded: 1 added"])


def test_nobody_reads_what_the_monitor_says(bench, busybox):
    box = bench.start(CONFIG.format(image=busybox, more=""))
    for text in STARTED:
        box.wait_for(text)
    wait_until(lambda: forwarder(box), "the forwarder")
    box.process.stdout.close()
    first = forwarder(box)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: forwarder(box) not in (0, first), "another forwarder")
    assert verb("reload", "-c", "pyinit-watched").returncode == 0
    box.process.terminate()
    assert box.process.wait(10) == 0


CALLS = {
    "clone,clone3:error=EAGAIN": (1, "pyinit: reload: nobody reads the config: clone3: Resource temporarily unavailable; nothing was changed\n", []),
    "recvmsg:error=ENOMEM:when=1": (0, "", ["pyinit: container: what it says is heard at the next try: Cannot allocate memory"]),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_call_that_fails_in_the_monitor_ends_no_container(bench, busybox, what):
    box = bench.start(CONFIG.format(image=busybox, more=""))
    for text in STARTED:
        box.wait_for(text)
    pid = box.process.pid
    tracer = subprocess.Popen(["strace", "-qq", "-o", bench.folder / "log", "-p", str(pid), "-e", f"trace={what.partition(':')[0]}", "-e", f"inject={what}"])
    try:
        wait_until(lambda: "TracerPid:\t0\n" not in pathlib.Path(f"/proc/{pid}/status").read_text(), "strace")
        done = verb("reload", "-c", "pyinit-watched")
    finally:
        tracer.terminate()
        tracer.wait(10)
    code, error, lines = CALLS[what]
    assert (done.returncode, done.stderr) == (code, error)
    done = verb("reload", "-c", "pyinit-watched")
    assert (done.returncode, done.stderr) == (0, "")
    assert box.stop() == 0
    assert sorted(box.output.splitlines()) == sorted([*STARTED, *ENDED, *lines, *["pyinit: reloaded: nothing differs"] * (2 - code)])
