"""What the limits of a cgroup are called in cgroup v1 and v2; which hierarchy of v1 knows a service's processes.

Owns names and units of the files. Must not know where groups are. Law: pure.
Source: cgroups(7), Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
"""

from collections.abc import Iterable

from pyinit.model import CgroupLimits

Files = dict[str, list[tuple[str, str]]]  # controller -> (file, value)
_PERIOD_US = 100_000
_TRACKERS = ("freezer", "pids", "memory")
NO_LIMIT_V1: Files = {
    "memory": [("memory.limit_in_bytes", "-1"), ("memory.soft_limit_in_bytes", "-1")],
    "cpu": [("cpu.cfs_quota_us", "-1"), ("cpu.shares", "1024")],
    "pids": [("pids.max", "max")],
}
NO_LIMIT_V2: Files = {
    "memory": [("memory.max", "max"), ("memory.high", "max")],
    "cpu": [("cpu.max", "max"), ("cpu.weight", "100")],
    "pids": [("pids.max", "max")],
}


def v1_files(limits: CgroupLimits) -> Files:
    files: Files = {}
    if limits.memory_max_bytes:
        files["memory"] = [("memory.limit_in_bytes", str(limits.memory_max_bytes))]
    if limits.memory_high_bytes:
        files.setdefault("memory", []).append(("memory.soft_limit_in_bytes", str(limits.memory_high_bytes)))
    if limits.cpu_max:
        quota = int(limits.cpu_max * _PERIOD_US)
        files["cpu"] = [("cpu.cfs_period_us", str(_PERIOD_US)), ("cpu.cfs_quota_us", str(quota))]
    if limits.cpu_weight:  # v2's 1-10000 (100) onto v1's shares (1024), as runc and crun do for the default
        files.setdefault("cpu", []).append(("cpu.shares", str(max(2, limits.cpu_weight * 1024 // 100))))
    if limits.pids_max:
        files["pids"] = [("pids.max", str(limits.pids_max))]
    return files


def v2_files(limits: CgroupLimits) -> Files:
    files: Files = {}
    if limits.memory_max_bytes:
        files["memory"] = [("memory.max", str(limits.memory_max_bytes))]
    if limits.memory_high_bytes:
        files.setdefault("memory", []).append(("memory.high", str(limits.memory_high_bytes)))
    if limits.cpu_max:
        files["cpu"] = [("cpu.max", f"{int(limits.cpu_max * _PERIOD_US)} {_PERIOD_US}")]
    if limits.cpu_weight:
        files.setdefault("cpu", []).append(("cpu.weight", str(limits.cpu_weight)))
    if limits.pids_max:
        files["pids"] = [("pids.max", str(limits.pids_max))]
    return files


def controllers(limits: CgroupLimits) -> frozenset[str]:
    """Which controllers the limits need."""
    return frozenset(v2_files(limits))


def tracker(hierarchies: Iterable[str]) -> str:
    """Which of these controllers of v1 best holds a group a service, so that all of it can be killed; "" if none can.

    The freezer stops forks while we kill, pids refuses them; the others only hold the list. cpuset takes nobody in
    before its CPUs and nodes are written.
    """
    usable = sorted(set(hierarchies) - {"cpuset"})
    return next((name for name in (*_TRACKERS, *usable) if name in usable), "")
