"""Limits, statistics, pauses and updates on this host's own layout: v1's controllers beside a v2 without any."""

import json
import os
import pathlib

import pytest
from conftest import leftovers, verb

pytestmark = pytest.mark.usefixtures("nothing_left")
CGROUPS = pathlib.Path("/sys/fs/cgroup")
CONFIG = """
[init]
strict = {strict}
[container]
name = "lim"
layers = ["{image}"]
[container.cgroup]
{limits}
[services.app]
command = ["/bin/sh", "-c", "echo up; exec sleep 1000"]
log = {{ to = "stdout", timestamp = "none" }}
restart = "never"
cgroup = {{ {own} }}
"""
LIMITS = """
memory_max = "64M"
memory_swap_max = "0"
cpuset = "0-1"
io_weight = 300
io_max = [{ device = "/dev/loop0", read = "1M", write_iops = 77 }]
"""
OWN = "memory_max = '32M', memory_swap_max = '4M', cpuset = [1], io_max = [{ device = '7:0', write = '2M' }]"


def read(controller: str, name: str, group: str = "") -> str:
    [found] = CGROUPS.glob(f"{controller}/**/pyinit-lim")
    return (found / group / name).read_text().strip()


def test_limits_of_container_and_service_are_held(bench, busybox):
    box = bench.start(CONFIG.format(image=busybox, limits=LIMITS, own=OWN, strict="true"))
    box.wait_for("app: up")
    assert (read("memory", "memory.limit_in_bytes"), read("memory", "memory.memsw.limit_in_bytes")) == (str(64 << 20),) * 2
    assert (read("cpuset", "cpuset.cpus"), read("cpuset", "cpuset.mems")) == ("0-1", "0")
    assert read("blkio", "blkio.bfq.weight") == "300"
    assert read("blkio", "blkio.throttle.read_bps_device") == f"7:0 {1 << 20}"
    assert read("blkio", "blkio.throttle.write_iops_device") == "7:0 77"
    assert read("memory", "memory.memsw.limit_in_bytes", "svc-app") == str(36 << 20)
    assert read("cpuset", "cpuset.cpus", "svc-app") == "1"
    assert read("blkio", "blkio.throttle.write_bps_device", "svc-app") == f"7:0 {2 << 20}"
    [pid] = read("cpuset", "cgroup.procs", "svc-app").split()
    assert os.sched_getaffinity(int(pid)) == {1}
    assert box.stop() == 0
    assert "can't" not in box.output


LACKS = """pyinit: {file}:7: cgroup: io_max can't be held here: there is no block device /dev/gone here{then}
pyinit: {file}:7: cgroup: memory_low can't be held here: cgroup v1 has no such limit{then}
"""


def test_a_limit_that_can_not_be_held_is_a_warning_and_with_strict_an_error(bench, busybox):
    limits = 'memory_low = "8M"\nio_max = [{ device = "/dev/gone", read = "1M" }]'
    own = "memory_swap_max = '4M'"
    text = CONFIG.format(image=busybox, limits=limits, own=own, strict="false")
    box = bench.start(text)
    box.wait_for("app: up")
    file = bench.folder / "services.toml"
    why = "memory_swap_max can't be held here: with cgroup v1 it needs memory_max beside it"
    assert box.output.startswith(LACKS.format(file=file, then="; it runs without")), box.output
    assert f"pyinit: {file}:14: cgroup: {why}; it runs without\n" in box.output
    assert box.stop() == 0
    before = leftovers()
    box = bench.start(text.replace("strict = false", "strict = true"))
    assert box.wait() == 111
    assert box.output == LACKS.format(file=file, then="")
    assert leftovers() == before
    box = bench.start(text.replace("strict = false", "strict = true").replace(limits, ""))
    box.wait_for(f"app: failed: {file}:13: cgroup: {why}\n")
    assert box.stop() == 0


STATS = """
[container]
name = "lim"
layers = ["{image}"]
[container.cgroup]
memory_max = "64M"
[services.busy]
command = ["/bin/sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/run/x bs=1M count=10 2>/dev/null; echo done; exec sleep 1000"]
log = {{ to = "stdout", timestamp = "none" }}
cgroup = {{ pids_max = 9 }}
[services.idle]
command = ["/bin/sleep", "1000"]
"""


def stats(*words: str) -> dict:
    found = verb("stats", "--json", *words)
    assert (found.returncode, found.stderr) == (0, "")
    return json.loads(found.stdout)


def test_stats_are_those_of_the_kernels_files(bench, busybox):
    box = bench.start(STATS.format(image=busybox))
    box.wait_for("busy: done")
    found = stats()
    whole, (busy, idle) = found["container"], found["services"]
    assert whole["memory"]["max_bytes"] == 64 << 20
    assert whole["memory"]["used_bytes"] > 10 << 20
    assert whole["memory"]["used_bytes"] == pytest.approx(int(read("memory", "memory.usage_in_bytes")), abs=4 << 20)
    assert whole["memory"]["oom_kills"] == 0
    assert whole["cpu"]["used_s"] > busy["cpu"]["used_s"] > 0.1 > idle["cpu"]["used_s"] > 0
    shown = [len(group.read_text().split()) for group in CGROUPS.glob("pids/**/pyinit-lim/**/cgroup.procs")]
    assert (whole["pids"]["count"], busy["pids"], idle["pids"]) == (sum(shown), {"count": 1, "max": 9}, {"count": 1, "max": None})
    assert idle["memory"]["max_bytes"] is None
    assert 0 < idle["memory"]["used_bytes"] < 4 << 20  # what its processes hold: v1 counts none of its own
    assert set(whole["pressure"]["memory"]["some"]) == {"avg10", "avg60", "avg300", "total_us"}
    assert whole["io"]["read_bytes"] >= 0
    assert idle["io"]["read_bytes"] is None
    assert stats("idle")["container"] is None
    table = verb("stats").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["NAME", "(container)", "busy", "idle"]
    assert box.stop() == 0

