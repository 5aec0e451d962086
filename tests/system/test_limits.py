"""Limits, statistics, pauses and updates on this host's own layout: v1's controllers beside a v2 without any."""

import os
import pathlib

import pytest
from conftest import leftovers

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
