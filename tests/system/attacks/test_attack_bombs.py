"""What would overwhelm the container or its init: it is contained, `pyinit status` is answered meanwhile, and the end is in order."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import payload_bombs as payload
import pytest
from conftest import wait_until
from harness import PIDS, Defence, Mutant, Row, answers, expected, inside_pid, names, service, words

pytestmark = pytest.mark.usefixtures("nothing_left")

PATIENCE_S = 60.0
ANSWER_S = 3.0
NAME = "attack"
SAVED_GID = Defence("PID 1's saved gid is nobody else's", mutants=(Mutant("launch/inside.py", "_SAVED_GID = 65534", "_SAVED_GID = -1"),))
INIT = 'stop_timeout = "3s"'
BY = '[services.by]\ncommand = ["/bin/sleep", "1000"]\n'
GOOD = "status answered, exit 0"


def let_off(stage, name: str, more: str = "", of_service: str = "") -> str:
    """What the bomb said, whether the init answered all the while and is in order at the end."""
    box = _start(stage, name, more, of_service)
    box.wait_for("by: ready")
    said, answered = "", True
    deadline = time.monotonic() + PATIENCE_S
    while not said and time.monotonic() < deadline and box.process.poll() is None:
        answered &= _answers(stage)
        box.read(0.05)
        said = answers(box.output).get(name, "")
    if box.process.poll() is not None:
        return f"the container is dead: {box.wait()}"
    answered &= _answers(stage)
    return f"{said}; status {'answered' if answered else 'not answered'}, exit {box.stop()}"


def _start(stage, name: str, more: str = "", of_service: str = ""):
    """`more`: tables of [container]; `of_service`: keys of the bomb's."""
    bomb = service("bomb", words(getattr(payload, name), name), f'requires = ["by"]\n{of_service}')
    return stage.start(stage.config(BY + bomb, mounts=more, init=INIT))


def _answers(stage) -> bool:
    """That it says how `by` is, soon."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pyinit", "status", "-c", NAME, "--json"], cwd=stage.package, capture_output=True, text=True, timeout=ANSWER_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and {one["name"]: one["state"] for one in json.loads(done.stdout)["services"]}["by"] == "ready"


def forks(stage) -> str:
    return let_off(stage, "forks", "[container.cgroup]\npids_max = 60\n")


def memory(stage) -> str:
    return let_off(stage, "memory", "[container.cgroup]\nmemory_max = '64M'\n")


def space(stage) -> str:
    return let_off(stage, "space", "[container.cgroup]\nmemory_max = '64M'\n")


def inodes(stage) -> str:
    return let_off(stage, "inodes", "[container.cgroup]\nmemory_max = '64M'\n")


def descriptors(stage) -> str:
    return let_off(stage, "descriptors", "[container.rlimits]\nnofile = 256\n")


def clients(stage) -> str:
    """They stay connected while the host asks."""
    return let_off(stage, "clients", of_service='kill = "process"')


def lingering(stage) -> str:
    """Its reader stays."""
    return let_off(stage, "lingering", of_service='kill = "process"\nfd_store = 1\n')


def zombies(stage) -> str:
    return let_off(stage, "zombies", "[container.cgroup]\npids_max = 2000\n")


def signals_for_the_init(stage) -> str:
    box = _start(stage, "stop_init")
    deadline = time.monotonic() + PATIENCE_S
    while "bomb: done: exit code 0" not in box.output and box.process.poll() is None and time.monotonic() < deadline:
        box.read(0.05)
    if box.process.poll() is not None:
        return f"the container is dead: {box.wait()}"
    answered = _answers(stage)
    return f"status {'answered' if answered else 'not answered'}, exit {box.stop()}"


STOP_LOGGER = "for p in /proc/[0-9]*; do grep -q pyinit-logger $p/comm && kill -STOP ${p#/proc/}; done; true"


def logger_stopped(stage) -> str:
    """A root service stops the logger, and another one fills its pipe."""
    box = stage.start(stage.config('[services.flood]\ncommand = ["/bin/yes", "a line of a log"]\n' + BY, init=INIT))
    box.wait_for("by: ready")
    assert stage.verb("exec", "-c", NAME, "by", "--", "/bin/sh", "-c", STOP_LOGGER).returncode == 0
    pid = inside_pid(NAME)
    children = [int(one) for one in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    logger = next(one for one in children if pathlib.Path(f"/proc/{one}/comm").read_text() == "pyinit-logger\n")
    wait_until(lambda: pathlib.Path(f"/proc/{logger}/stat").read_text().rpartition(")")[2].split()[0] in "Tt", "a stopped logger")
    answered = _answers(stage)
    box.process.send_signal(signal.SIGTERM)
    try:
        code, when = box.wait(ANSWER_S), "in time"
    except subprocess.TimeoutExpired:
        os.kill(logger, signal.SIGCONT)
        code, when = box.wait(), "when the logger goes on"
    return f"status {'answered' if answered else 'not answered'}, exit {code} {when}"


def log_flood(stage) -> str:
    """20 MB of lines by a log of at most 3 files of 64K."""
    flood = (
        '[services.flood]\nkind = "oneshot"\ncommand = ["/bin/sh", "-c", "yes a line of a log | head -c 20000000"]\nlog = { max_size = "64K", keep = 2 }\n'
    )
    box = stage.start(stage.config(flood + BY, init=INIT))
    box.wait_for("flood: done: exit code 0")
    answered = _answers(stage)
    folder = pathlib.Path(f"/proc/{inside_pid(NAME)}/root/var/log/pyinit/flood")
    wait_until(lambda: not stage.verb("logs", "-c", NAME, "-n", "1", "flood").stderr, "the log")
    size = sum(path.stat().st_size for path in folder.iterdir())
    return f"{'at most 192 KiB' if size <= 192 << 10 else 'megabytes'}; status {'answered' if answered else 'not answered'}, exit {box.stop()}"


def off(name: str, *mutants: Mutant) -> tuple[Defence, ...]:
    return (Defence(name, mutants=mutants),)


RAM = "a size and a number of files for each RAM disk, by memory_max"
DEAD = "the container is dead: 137"
ROWS = (
    Row(
        "bomb-forks", "fork bomb", f"{payload.MOST_CHILDREN} children that stay",
        off("pids_max", Mutant("core/limits.py", '_size(limits.pids_max)),', '""),'), Mutant("core/limits.py", "    if limits.pids_max:", "    if False:")),
        f"EAGAIN; {GOOD}", f"200 children; {GOOD}", outside=forks,
    ),
    Row(
        "bomb-memory", "memory bomb", "96 MiB are written to",
        off(
            "memory_max", Mutant("core/limits.py", '_size(limits.memory_max_bytes)),\n', '""),\n'),
            Mutant("core/limits.py", "    if limits.memory_max_bytes:\n        found", "    if False:\n        found"),
        ),
        f"killed by 9; {GOOD}", f"96 MiB; {GOOD}", outside=memory,
    ),
    Row(
        "bomb-space", "space bomb", "/tmp, /dev/shm and /run are filled, and stay full",
        off(RAM, Mutant("launch/plan.py", 'if mount.type != "tmpfs" or mount.secret or not box.cgroup.memory_max_bytes:', "if True:")),
        f"ENOSPC ENOSPC ENOSPC; {GOOD}", DEAD, outside=space,
    ),
    Row(
        "bomb-inodes", "inode bomb", f"{payload.MOST_FILES} empty files in each of /tmp, /dev/shm and /run",
        off(
            RAM, Mutant("launch/plan.py", 'files = () if "nr_inodes" in said else (("nr_inodes", str(_files(size_bytes))),)', "files = ()"),
            Mutant("launch/plan.py", ', ("nr_inodes", str(_files(shared)))', ""),
        ),
        f"ENOSPC ENOSPC ENOSPC; {GOOD}", DEAD, outside=inodes,
    ),
    Row(
        "bomb-descriptors", "fd bomb", f"{payload.MOST_FDS} descriptors of a service",
        off("[container.rlimits]", Mutant("config/load.py", "if box is not None and box.rlimits:", "if False:")),
        f"EMFILE; {GOOD}", f"{payload.MOST_FDS} descriptors; {GOOD}", outside=descriptors,
    ),
    Row(
        "bomb-clients", "fd bomb in PID 1", f"{payload.CLIENTS} connections to the control socket in the container, none of which ever asks",
        off("so many clients of each listener", Mutant("control/server.py", "sum(other.listener is listener for other in self._clients.values())", "len(self._clients)")),
        f"{payload.CLIENTS} clients; {GOOD}", f"{payload.CLIENTS} clients; status not answered, exit 0", outside=clients,
    ),
    Row(
        "bomb-lingering", "a descriptor whose close waits", "a full TCP socket with SO_LINGER is sent to PID 1 by NOTIFY_SOCKET, and its sender's is closed",
        (
            Defence(
                "what was sent and is not kept is closed without its linger",
                mutants=(Mutant("linux/fds.py", "sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(0, 0))", "pass"),),
            ),
            Defence("a signal ends its wait", mutants=(Mutant("linux/fds.py", "        _close_soon(sock)\n", "        sock.close()\n"),)),
        ),
        f"sent; {GOOD}", "sent; status not answered, exit 0", outside=lingering, alone=(f"sent; {GOOD}", f"sent; {GOOD}"),
    ),
    Row(
        "bomb-zombies", "zombies", "100,000 orphans that have ended, in batches, under a pids limit of 2000",
        off("the reaper goes on until none is left", Mutant("init/pid1.py", "ended = reaper.reap(_RETRY_REAP)", "ended = reaper.reap(1)")),
        f"{payload.ZOMBIES} zombies; {GOOD}", "EAGAIN; status answered, exit 0", outside=zombies,
    ),
    Row(
        "signals-init", "SIGSTOP and SIGKILL to the init", "by a root service; without: the init is one of the host's processes",
        (PIDS,),
        GOOD, DEAD, outside=signals_for_the_init,
    ),
    Row(
        "init-prlimit", "no descriptors for the init", "a root service lowers PID 1's limit by prlimit(2)",
        (SAVED_GID,),
        "EPERM", "lowered", payload.limit_init,
    ),
    Row(
        "logger-stopped", "SIGSTOP to the logger", "by a root service, while another one writes as fast as it can",
        off("PID 1 waits for no log, and at its end for a second", Mutant("init/pid1.py", "LOG_DRAIN_S = 1.0", "LOG_DRAIN_S = 1e6")),
        f"{GOOD} in time", f"{GOOD} when the logger goes on", outside=logger_stopped,
    ),
    Row(
        "bomb-log", "log flood", "20 MB of lines by a log of 64K with two older ones",
        off(
            "rotation", Mutant("init/logfile.py", "self._most_bytes = spec.max_size_bytes\n", "self._most_bytes = 1 << 40\n"),
            Mutant("init/logfile.py", "self._full_bytes = spec.max_size_bytes - ", "self._full_bytes = (1 << 40) - "),
        ),
        f"at most 192 KiB; {GOOD}", f"megabytes; {GOOD}", outside=log_flood,
    ),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
