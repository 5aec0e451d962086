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
"""
REPLACED = "the pyinit that started this container is gone from the host, or another by now: start the container again"
STARTED = ["app: up", "pyinit: app: ready"]
ENDED = ["pyinit: app: stopped: TERM received", "after all"]
FORWARDED = "pyinit: network: the forwarder of [::1] was killed by signal 9; it is started again in 0.1 s"
FORWARDED_AGAIN = "pyinit: network: the forwarder of [::1] is there again"


def forwarder(box: Pyinit) -> int:
    """The child of the monitor that is nobody."""
    for pid in pathlib.Path(f"/proc/{box.process.pid}/task/{box.process.pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if "\nUid:\t65534\t" in pathlib.Path(f"/proc/{pid}/status").read_text():
                return int(pid)
    return 0


def test_the_package_is_gone_while_a_container_runs(bench, busybox):
    """As in the midst of a package manager's upgrade: what the end needs has been read by then."""
    lib = bench.folder / "lib"
    shutil.copytree(REPO / "pyinit", lib / "pyinit", ignore=shutil.ignore_patterns("__pycache__"))
    box = Pyinit(bench.write(CONFIG.format(image=busybox)), command=(sys.executable, "-P", "-m", "pyinit"), cwd="/", environment={"PYTHONPATH": str(lib)})
    bench.running.append(box)
    for text in STARTED:
        box.wait_for(text)
    assert verb("reload", "-c", "pyinit-watched").returncode == 0  # PID 1 has what it needs for that, the reader reads anew
    shutil.rmtree(lib)
    done = verb("reload", "-c", "pyinit-watched")
    assert (done.returncode, done.stderr) == (1, f"pyinit: reload: No module named 'pyinit.init.reload'; {REPLACED}; nothing was changed\n")
    done = verb("update", "-c", "pyinit-watched", "memory_max=80M")
    assert (done.returncode, done.stderr) == (1, f"pyinit: (container): No module named 'pyinit.init.updates'; {REPLACED}; nothing was changed\n")
    first = forwarder(box)
    os.kill(first, signal.SIGKILL)
    box.wait_for("is there again")
    wait_until(lambda: forwarder(box) not in (0, first), "another forwarder")
    assert box.stop() == 0
    assert sorted(box.output.splitlines()) == sorted([*STARTED, *ENDED, FORWARDED, FORWARDED_AGAIN, "pyinit: reloaded: nothing differs"])


CALLS = {
    "clone,clone3:error=EAGAIN": (1, "pyinit: reload: nobody reads the config: clone3: Resource temporarily unavailable; nothing was changed\n", []),
    "recvmsg:error=ENOMEM:when=1": (0, "", ["pyinit: container: what it says is heard at the next try: Cannot allocate memory"]),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_call_that_fails_in_the_monitor_ends_no_container(bench, busybox, what):
    box = bench.start(CONFIG.format(image=busybox))
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
