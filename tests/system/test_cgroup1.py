"""Tracking and killing where there is cgroup v1 only: this host's own hierarchies, in a mount namespace without the unified one.

All groups made here have `pyinit` in their names and are gone afterwards.
"""

import os
import pathlib
import sys

import pytest
from conftest import verb, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left")
CGROUPS = pathlib.Path("/sys/fs/cgroup")
HOLD = "pyinit-held"  # a group around all of a test, so that a storm stays small whatever goes wrong
PYINIT = (sys.executable, "-m", "pyinit")


@pytest.fixture
def held():
    """`held(hidden)`: how to start a program with at most 200 tasks and without these hierarchies."""
    for name in ("pids", "freezer"):
        (CGROUPS / name / HOLD).mkdir()
    (CGROUPS / "pids" / HOLD / "pids.max").write_text("200")

    def command(*hidden: str, last: str = 'exec "$@"') -> tuple[str, ...]:
        lines = [f"echo 0 > {CGROUPS}/{name}/{HOLD}/cgroup.procs" for name in ("pids", "freezer")]
        lines += [f"umount {CGROUPS}/{name}" for name in ("unified", *hidden)]
        return ("unshare", "--mount", "sh", "-c", "\n".join([*lines, last]), "sh")

    yield command
    for name in ("pids", "freezer"):
        below = [path for path in (CGROUPS / name / HOLD).rglob("*") if path.is_dir()]
        for path in [*reversed(below), CGROUPS / name / HOLD]:
            wait_until(lambda path=path: not (path / "cgroup.procs").read_text(), f"{path} is empty")
            path.rmdir()


# What a kill finds hard: loops of forks, chains in which each forks the next and ends, daemons that have left the
# session, the process group and their environment. Only the first run is so; the second is one sleep.
STORM = """
if [ -e /run/second ]; then echo calm; exec sleep 1000; fi
exec 2> /dev/null
touch /run/second
echo '(while [ -e /run ]; do (true); (true) & done) & (while [ -e /run ]; do (true); (true) & done) & wait' > /run/loop
echo 'exec env -i sh -c "sh /run/chain & exit"' > /run/chain
for n in 1 2 3; do sh /run/loop & sh /run/chain & done
for n in 1 2 3; do (env -i setsid sh -c "sleep 1000 & exec sleep 1001" &) ; done
echo storm
sleep 1000
"""
CONFIG = """
[container]
name = "v1"
layers = ["{image}"]
[services.app]
command = ["/bin/sh", "-c", '''{script}''']
log = {{ to = "stdout" }}
stop_timeout = "200ms"
"""


@pytest.mark.parametrize(("hidden", "tracker"), [((), "freezer"), (("freezer",), "pids"), (("freezer", "pids"), "memory")])
def test_nothing_survives_a_restart(held, bench, busybox, hidden, tracker):
    box = bench.start(CONFIG.format(image=busybox, script=STORM), command=(*held(*hidden), *PYINIT))
    box.wait_for("app: storm")
    [group] = [path for path in CGROUPS.glob(f"{tracker}/**/pyinit-v1") if path.is_dir()]
    procs = group / "svc-app/cgroup.procs"
    wait_until(lambda: len(procs.read_text().split()) > 8, "the storm")
    assert verb("restart", "app").returncode == 0
    box.wait_for("app: calm")
    [alone] = procs.read_text().split()
    assert pathlib.Path(f"/proc/{alone}/cmdline").read_bytes() == b"sleep\x001000\x00"
    assert len(group.joinpath("cgroup.procs").read_text().split()) == 2  # PID 1 and its logger
    assert "outlived" not in box.output
    assert box.stop() == 0


def test_a_frozen_service_is_restarted(held, bench, busybox):
    """Frozen by hand: TERM is not heard, KILL lands after the thaw, and the next process does not hang at its start."""
    box = bench.start(CONFIG.format(image=busybox, script="echo up; exec sleep 1000"), command=(*held(), *PYINIT))
    box.wait_for("app: up")
    state = CGROUPS / f"freezer/{HOLD}/pyinit-v1/svc-app/freezer.state"
    state.write_text("FROZEN")
    assert verb("restart", "app").returncode == 0
    box.wait_for("app: up", count=2)
    assert state.read_text() == "THAWED\n"
    state.write_text("FROZEN")
    assert box.stop() == 0  # a pid namespace's end waits for all that is in it


def test_pause_and_resume_by_the_freezer(held, bench, busybox):
    box = bench.start(CONFIG.format(image=busybox, script="echo up; exec sleep 1000"), command=(*held(), *PYINIT))
    box.wait_for("app: up")
    state = CGROUPS / f"freezer/{HOLD}/pyinit-v1/svc-app/freezer.state"
    assert verb("pause").returncode == 0
    wait_until(lambda: state.read_text() == "FROZEN\n", "it stands still")
    assert verb("status").stdout.splitlines()[1].split()[:2] == ["app", "paused"]
    assert verb("resume").returncode == 0
    assert state.read_text() == "THAWED\n"
    assert verb("pause", "app").returncode == 0
    assert verb("restart", "app").returncode == 0
    box.wait_for("app: up", count=2)
    assert verb("pause", "app").returncode == 0
    assert box.stop() == 0


def test_without_a_freezer_nothing_is_paused(held, bench, busybox):
    box = bench.start(CONFIG.format(image=busybox, script="echo up; exec sleep 1000"), command=(*held("freezer"), *PYINIT))
    box.wait_for("app: up")
    found = verb("pause")
    assert (found.returncode, found.stderr) == (1, "pyinit: app: has no cgroup of its own that can be frozen, so it can't be paused\n")
    assert box.stop() == 0


def test_what_a_killed_pid_1_left_frozen_is_cleaned_up(held, bench, busybox):
    text = CONFIG.format(image=busybox, script="echo up; exec sleep 1000")
    first = bench.start(text, command=(*held(), *PYINIT))
    first.wait_for("app: up")
    (CGROUPS / f"freezer/{HOLD}/pyinit-v1/svc-app/freezer.state").write_text("FROZEN")
    pid = int(pathlib.Path("/run/pyinit/v1/pid").read_text())
    first.process.kill()
    os.kill(pid, 9)
    second = bench.start(text, command=(*held(), *PYINIT))
    second.wait_for("app: up")
    assert second.stop() == 0


# What a runtime gives that has v1 only: a cgroup namespace, its hierarchies mounted in it, writable or not.
RUNTIME = f"""
exec unshare --pid --fork --mount-proc --cgroup sh -c '
for name in freezer pids; do umount {CGROUPS}/$name; mount -t cgroup -o $name,MODE none {CGROUPS}/$name; done
exec "$@"' sh "$@"
"""
SERVICES = """
[services.app]
command = ["sh", "-c", "env -i setsid sh -c 'sleep 1002 & exec sleep 1003' & echo up; exec sleep 1000"]
[services.many]
command = ["sh", "-c", "(for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done); echo over; exec sleep 1000"]
cgroup = { pids_max = 4 }
restart = "never"
"""


def test_pid_1_of_a_runtime_with_writable_v1(held, runtime):
    box = runtime.start(held(last=RUNTIME.replace("MODE", "rw")), SERVICES)
    box.wait_for("app: up")
    box.wait_for("fork")
    procs = CGROUPS / f"freezer/{HOLD}/svc-app/cgroup.procs"
    wait_until(lambda: len(procs.read_text().split()) == 3, "the daemons")
    before = procs.read_text().split()
    assert runtime.verb("restart", "app").returncode == 0
    wait_until(lambda: len(procs.read_text().split()) == 3, "the next daemons")
    assert not set(before) & set(procs.read_text().split())
    assert (CGROUPS / f"pids/{HOLD}/svc-many/pids.max").read_text() == "4\n"
    assert runtime.verb("shutdown").returncode == 0
    assert box.wait() == 0
    assert "no writable cgroup" not in box.output


NONE = "pyinit: no writable cgroup: what a service leaves behind is found by its session and environment\n"


def test_pid_1_of_a_runtime_with_read_only_v1(held, runtime):
    box = runtime.start(held(last=RUNTIME.replace("MODE", "ro")), SERVICES.partition("[services.many]")[0])
    box.wait_for("app: up")
    assert NONE in box.output


@pytest.mark.parametrize("more", ["", "--cgroup"])
def test_the_machines_own_groups_are_left_alone(runtime, more):
    """A pid namespace shows them still, and a cgroup namespace that is made in them calls them its root."""
    before = {path: path.stat().st_mtime_ns for path in CGROUPS.glob("*/*") if path.is_dir()}
    box = runtime.start(("unshare", "--pid", "--fork", "--mount-proc", *more.split()), SERVICES.partition("[services.many]")[0])
    box.wait_for("app: up")
    assert {path: path.stat().st_mtime_ns for path in CGROUPS.glob("*/*") if path.is_dir()} == before
    assert pathlib.Path(f"/proc/{runtime.pid(box)}/cgroup").read_text() == pathlib.Path("/proc/self/cgroup").read_text()
    assert NONE in box.output
