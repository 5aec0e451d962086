"""What limits are called, how one set becomes another; which hierarchy of cgroup v1 holds the groups of services."""

import pytest

from pyinit.core.limits import (
    INHERIT,
    change,
    controllers,
    cpu_list,
    differing,
    tracker,
    updated,
    v1_settings,
    v2_settings,
    words,
)
from pyinit.model import CgroupLimits, IoLimit

VDA, GONE = IoLimit("/dev/vda", "254:0", 50 << 20, 0, 0, 100), IoLimit("/dev/gone", "", 1)
ALL = CgroupLimits(
    64 << 20, 48 << 20, 0.5, 200, 40, memory_low_bytes=8 << 20, memory_swap_max_bytes=0, cpuset=(0, 1, 3), io_max=(VDA,), io_weight=2000,
)  # fmt: skip


def rows(settings):
    return [f"{one.key}: " + (" or ".join(f"{name} = {value}" for name, value in one.files) or one.why) for one in settings]


def test_all_limits_in_v2():
    assert rows(v2_settings(ALL)) == [
        "memory_max: memory.max = 67108864", "memory_high: memory.high = 50331648", "memory_low: memory.low = 8388608",
        "memory_swap_max: memory.swap.max = 0", "cpu_max: cpu.max = 50000 100000", "cpu_weight: cpu.weight = 200",
        "cpuset: cpuset.cpus = 0-1,3", "pids_max: pids.max = 40",
        "io_weight: io.weight = default 2000 or io.bfq.weight = 1000", "io_max: io.max = 254:0 rbps=52428800 wiops=100",
    ]  # fmt: skip
    assert controllers(ALL) == {"memory", "cpu", "cpuset", "pids", "io"}
    assert v2_settings(CgroupLimits()) == []


def test_all_limits_in_v1():
    assert rows(v1_settings(ALL)) == [
        "memory_max: memory.limit_in_bytes = 67108864", "memory_high: memory.soft_limit_in_bytes = 50331648",
        "memory_low: cgroup v1 has no such limit", "memory_swap_max: memory.memsw.limit_in_bytes = 67108864",
        "cpu_max: cpu.cfs_period_us = 100000", "cpu_max: cpu.cfs_quota_us = 50000", "cpu_weight: cpu.shares = 2048",
        "cpuset: cpuset.cpus = 0-1,3", "pids_max: pids.max = 40", "io_weight: blkio.weight = 1000 or blkio.bfq.weight = 1000",
        "io_max: blkio.throttle.read_bps_device = 254:0 52428800", "io_max: blkio.throttle.write_iops_device = 254:0 100",
    ]  # fmt: skip


def test_what_can_not_be_held_says_why():
    assert rows(v1_settings(CgroupLimits(memory_swap_max_bytes=0))) == ["memory_swap_max: with cgroup v1 it needs memory_max beside it"]
    assert rows(v2_settings(CgroupLimits(io_max=(GONE,)))) == ["io_max: there is no block device /dev/gone here"]


def test_what_is_gone_is_lifted_and_the_rest_is_written():
    less = CgroupLimits(memory_max_bytes=1 << 20, io_max=(VDA._replace(read_bytes=0),))
    assert rows(change(ALL, less, 2)) == [
        "memory_high: memory.high = max", "memory_low: memory.low = 0", "memory_swap_max: memory.swap.max = max", "cpu_max: cpu.max = max",
        "cpu_weight: cpu.weight = 100", f"cpuset: cpuset.cpus = {INHERIT}", "pids_max: pids.max = max",
        "io_weight: io.weight = default 100 or io.bfq.weight = 100", "io_max: io.max = 254:0 rbps=max",
        "memory_max: memory.max = 1048576", "io_max: io.max = 254:0 wiops=100",
    ]  # fmt: skip
    assert rows(change(ALL, less, 1)) == [
        "memory_swap_max: memory.memsw.limit_in_bytes = -1", "memory_high: memory.soft_limit_in_bytes = -1", "cpu_max: cpu.cfs_quota_us = -1",
        "cpu_weight: cpu.shares = 1024", f"cpuset: cpuset.cpus = {INHERIT}", "pids_max: pids.max = max",
        "io_weight: blkio.weight = 100 or blkio.bfq.weight = 100", "io_max: blkio.throttle.read_bps_device = 254:0 0",
        "memory_max: memory.limit_in_bytes = 1048576", "io_max: blkio.throttle.write_iops_device = 254:0 100",
    ]  # fmt: skip
    assert change(CgroupLimits(), CgroupLimits(), 2) == []


@pytest.mark.parametrize(("cpus", "text"), [((), ""), ((3,), "3"), ((0, 1, 2), "0-2"), ((0, 2, 3, 9), "0,2-3,9")])
def test_a_list_of_cpus(cpus, text):
    assert cpu_list(cpus) == text


@pytest.mark.parametrize(
    ("mounted", "best"),
    [
        (["cpu", "cpuacct", "pids", "freezer", "memory"], "freezer"),
        (["cpu", "memory", "pids"], "pids"),
        (["cpu", "memory"], "memory"),
        (["name=systemd", "cpuset", "devices"], "devices"),
        (["name=systemd"], "name=systemd"),
        (["cpuset"], ""),
        ([], ""),
    ],
)
def test_the_best_hierarchy_to_kill_in(mounted, best):
    assert tracker(mounted) == best


def test_an_update_changes_what_is_said():
    said = {"memory_max_bytes": 1 << 20, "memory_high_bytes": 0, "memory_low_bytes": 0, "cpuset": [1], "io_max": [["/dev/vda", "254:0", 0, 7, 0, 0]]}
    io = IoLimit("/dev/vda", "254:0", write_bytes=7)
    assert updated(ALL, said) == ALL._replace(
        memory_max_bytes=1 << 20, memory_high_bytes=0, memory_low_bytes=0, cpuset=(1,), io_max=(io,)
    )
    assert differing(ALL, updated(ALL, said), 2) == {"memory_max", "memory_high", "memory_low", "cpuset", "io_max"}
    assert differing(ALL, updated(ALL, said), 1) == {"memory_max", "memory_high", "memory_low", "memory_swap_max", "cpuset", "io_max"}
    assert words(updated(CgroupLimits(), {"pids_max": 3, "memory_swap_max_bytes": 0})) == ["memory_swap_max=0", "pids_max=3"]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"pids": 1}, "pids = 1 is no limit"), ({"origin": 1}, "origin = 1 is no limit"), ({"pids_max": True}, "pids_max = True is no limit"),
        ({"pids_max": -1}, "pids_max = -1 is no limit"), ({"cpu_max": "1"}, "cpu_max = 1 is no limit"), ({"cpu_max": 1e9}, "cpu_max = 1000000000.0 is no limit"),
        ({"cpuset": "0"}, "cpuset = 0 is no limit"), ({"io_max": [["a", "b", 1, 1, 1, 1]]}, "io_max = [['a', 'b', 1, 1, 1, 1]] is no limit"),
        ({"memory_max_bytes": 1024}, "expected memory_high <= memory_max, found 48M and 1K"),
    ],
)  # fmt: skip
def test_what_is_no_limit(said, text):
    with pytest.raises(ValueError, match=r"no limit|expected") as caught:
        updated(ALL, said)
    assert str(caught.value) == text
