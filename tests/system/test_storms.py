"""What would overwhelm an init: orphans by the thousand, logs by the hundred megabytes, a disk that is full."""

import json
import os
import pathlib
import signal

import pytest
from conftest import read, verb, wait_until
from test_container import config, said

pytestmark = pytest.mark.usefixtures("nothing_left")

KEPT_LOG = """
[[container.mounts]]
type = "bind"
source = "log"
target = "/var/log/pyinit"
create = true
"""
LINES = 1_000_000  # of 100 bytes: 100 MB

# Each child of the shell leaves a grandchild behind that PID 1 must reap; the pids limit keeps the storm in its place.
STORM = """
i=0
while [ $i -lt 200 ]; do
  (j=0; while [ $j -lt 100 ]; do (true &) ; j=$((j+1)); done)
  i=$((i+1))
done
echo stormed
while set -- /proc/[0-9]*; [ $# -gt 6 ]; do sleep 0.05; done
for p in /proc/[0-9]*; do grep -H "^State:.Z" $p/status 2>/dev/null; done
echo calm
"""


def test_a_storm_of_orphans_leaves_no_zombie(bench, busybox):
    box = bench.start(config(busybox, STORM, "[container.cgroup]\npids_max = 2000\n"))
    assert box.wait(120) == 0
    assert said(box) == ["stormed", "calm"]


def test_100_mb_of_log_survive_kill_9_of_their_writer(bench, busybox, tmp_path):
    """Numbered lines as fast as they go; the writer is killed in the midst: what it wrote is there, and whole."""
    more = f"""
{KEPT_LOG}[services.writer]
command = ["/bin/sh", "-c", "yes {'x' * 91} | head -n {LINES} | cat -n; echo all; exec sleep 1000"]
restart = "never"
log = {{ timestamp = "none", max_size = "8M", keep = 100 }}
"""
    text = config(busybox, "while :; do sleep 1; done", more)
    box = bench.start(text)
    box.wait_for("writer: ready")
    folder = tmp_path / "log/writer"
    wait_until(lambda: read(folder / "current").endswith(b"all\n"), "the last line")
    pid = {one["name"]: one["pid"] for one in json.loads(verb("status", "--json").stdout)["services"]}["writer"]
    assert pid
    assert verb("signal", "KILL", "writer").returncode == 0
    box.wait_for("writer: failed: killed by KILL")
    assert box.stop() == 0
    data = b"".join(path.read_bytes() for path in [*sorted(folder.glob("@*")), folder / "current"])
    lines = data.splitlines()
    assert len(lines) == LINES + 1
    assert [int(line.split()[0]) for line in lines[:-1]] == list(range(1, LINES + 1))
    assert lines[-1] == b"all"
    assert len(list(folder.glob("@*"))) >= len(data) // (8 << 20) - 1


def test_a_writer_that_is_killed_midway_loses_nothing_that_it_wrote(bench, busybox, tmp_path):
    """The writer counts its lines in a file of its own, by write(2) after each block; the log has at least those."""
    more = KEPT_LOG + """
[services.writer]
command = ["/bin/sh", "-c", "n=0; while :; do n=$((n+1)); echo line $n; echo $n >> /run/count; done"]
restart = "never"
log = { timestamp = "iso" }
"""
    box = bench.start(config(busybox, "while :; do sleep 1; done", more))
    box.wait_for("writer: ready")
    current = tmp_path / "log/writer/current"
    wait_until(lambda: read(current).count(b"\n") >= 5000, "5000 lines")
    assert verb("signal", "KILL", "writer").returncode == 0
    box.wait_for("writer: failed: killed by KILL")
    pid = int(pathlib.Path("/run/pyinit/pyinit-test/pid").read_text())
    counted = pathlib.Path(f"/proc/{pid}/root/run/count").read_text().count("\n")
    assert box.stop() == 0
    lines = current.read_text().splitlines()
    numbers = [int(line.split()[2]) for line in lines]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= counted > 0
    assert all(line[10] == "T" and line[26:28] == "Z " for line in lines)


def test_a_full_disk_is_told_and_the_service_goes_on(bench, busybox):
    more = """
[[container.mounts]]
type = "tmpfs"
target = "/var/log/pyinit"
size = "64K"
[services.writer]
command = ["/bin/sh", "-c", "n=0; while [ $n -lt 5000 ]; do n=$((n+1)); echo line number $n of the log; done; echo done > /run/done; exec sleep 1000"]
"""
    box = bench.start(config(busybox, "while [ ! -e /run/done ]; do sleep 0.05; done; echo went on", more))
    assert box.wait() == 0
    assert "went on" in box.output
    assert box.output.count("/var/log/pyinit/writer: No space left on device: lines are dropped until that is mended") == 1


def test_a_disk_smaller_than_the_log_keeps_the_newest_lines(bench, busybox):
    more = """
[[container.mounts]]
type = "tmpfs"
target = "/var/log/pyinit"
size = "128K"
[services.writer]
command = ["/bin/sh", "-c", "seq 100000; exec sleep 1000"]
log = { timestamp = "none", max_size = "32K", keep = 100 }
"""
    box = bench.start(config(busybox, "while :; do sleep 0.1; done", more))
    box.wait_for("pyinit: writer: ready")
    wait_until(lambda: verb("logs", "-n", "1", "writer").stdout == "100000\n", "the last line")
    lines = verb("logs", "-n", "5000", "writer").stdout.splitlines()
    assert lines == [str(n) for n in range(95001, 100001)]
    assert box.stop() == 0
    assert "No space left" not in box.output


def test_the_logger_killed_comes_back(bench, busybox):
    box = bench.start(config(busybox, "echo one; while [ ! -e /run/go ]; do sleep 0.05; done; echo two; sleep 0.2"))
    box.wait_for("app: one")
    root = int(pathlib.Path("/run/pyinit/pyinit-test/pid").read_text())
    children = pathlib.Path(f"/proc/{root}/task/{root}/children").read_text().split()
    loggers = [int(pid) for pid in children if pathlib.Path(f"/proc/{pid}/comm").read_text() == "pyinit-logger\n"]
    assert len(loggers) == 1
    os.kill(loggers[0], signal.SIGKILL)
    box.wait_for("pyinit: the logger died and is started again")
    pathlib.Path(f"/proc/{root}/root/run/go").touch()
    assert box.wait() == 0
    assert said(box) == ["one", "two"]
