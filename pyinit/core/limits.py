"""What the limits of a cgroup are called in cgroup v1 and v2; which hierarchy of v1 knows a service's processes.

Owns names and units of the files. Must not know where groups are. Laws: pure; controllers have v2's names.
Source: cgroups(7), Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
"""

from _collections_abc import Iterable, Mapping

from pyinit.model import CgroupLimits, IoLimit, Pressure
from pyinit.records import NamedTuple

_PERIOD_US = 100_000
_TRACKERS = ("freezer", "pids", "memory")
V1_NAMES = {"io": "blkio"}
V2_NAMES = {"blkio": "io"}
INHERIT = "\n"  # no CPUs of its own: in v2 an empty list, in v1 those of the group above
# A group that can't hold one of these protects nobody: without them the container is not started.
PROTECTING = frozenset({"memory_max", "memory_high", "cpu_max", "cpu_weight", "pids_max"})
_MOST_BFQ = 1000


class Setting(NamedTuple):
    """One limit in one hierarchy: of `files` the first that is there is written; without any it can't be held, `why`."""

    key: str
    controller: str
    files: tuple[tuple[str, str], ...]
    why: str = ""


def v2_settings(limits: CgroupLimits) -> list[Setting]:
    rows = [
        ("memory_max", "memory", "memory.max", _size(limits.memory_max_bytes)),
        ("memory_high", "memory", "memory.high", _size(limits.memory_high_bytes)),
        ("memory_low", "memory", "memory.low", _size(limits.memory_low_bytes)),
        ("memory_swap_max", "memory", "memory.swap.max", str(limits.memory_swap_max_bytes) if limits.memory_swap_max_bytes >= 0 else ""),
        ("cpu_max", "cpu", "cpu.max", f"{int(limits.cpu_max * _PERIOD_US)} {_PERIOD_US}" if limits.cpu_max else ""),
        ("cpu_weight", "cpu", "cpu.weight", _size(limits.cpu_weight)),
        ("cpuset", "cpuset", "cpuset.cpus", cpu_list(limits.cpuset)),
        ("pids_max", "pids", "pids.max", _size(limits.pids_max)),
    ]
    found = [Setting(key, controller, ((file, value),)) for key, controller, file, value in rows if value]
    if limits.io_weight:
        bfq = str(min(limits.io_weight, _MOST_BFQ))
        found.append(Setting("io_weight", "io", (("io.weight", f"default {limits.io_weight}"), ("io.bfq.weight", bfq))))
    for one in limits.io_max:
        words = " ".join(f"{name}={value}" for name, value in _io_words(one))
        found.append(_of_device(one, (("io.max", f"{one.number} {words}"),)))
    return found


def v1_settings(limits: CgroupLimits) -> list[Setting]:
    found = []
    if limits.memory_max_bytes:
        found.append(Setting("memory_max", "memory", (("memory.limit_in_bytes", str(limits.memory_max_bytes)),)))
    if limits.memory_high_bytes:
        found.append(Setting("memory_high", "memory", (("memory.soft_limit_in_bytes", str(limits.memory_high_bytes)),)))
    if limits.memory_low_bytes:
        found.append(Setting("memory_low", "memory", (), "cgroup v1 has no such limit"))
    if limits.memory_swap_max_bytes >= 0:  # v1 bounds the sum
        total = str(limits.memory_max_bytes + limits.memory_swap_max_bytes)
        files = (("memory.memsw.limit_in_bytes", total),) if limits.memory_max_bytes else ()
        found.append(Setting("memory_swap_max", "memory", files, "with cgroup v1 it needs memory_max beside it"))
    if limits.cpu_max:
        quota = int(limits.cpu_max * _PERIOD_US)
        found.append(Setting("cpu_max", "cpu", (("cpu.cfs_period_us", str(_PERIOD_US)),)))
        found.append(Setting("cpu_max", "cpu", (("cpu.cfs_quota_us", str(quota)),)))
    if limits.cpu_weight:  # v2's 1-10000 (100) onto v1's shares (1024), as runc and crun do for the default
        found.append(Setting("cpu_weight", "cpu", (("cpu.shares", str(max(2, limits.cpu_weight * 1024 // 100))),)))
    if limits.cpuset:
        found.append(Setting("cpuset", "cpuset", (("cpuset.cpus", cpu_list(limits.cpuset)),)))
    if limits.pids_max:
        found.append(Setting("pids_max", "pids", (("pids.max", str(limits.pids_max)),)))
    if limits.io_weight:
        weight = str(min(max(limits.io_weight, 10), _MOST_BFQ))
        found.append(Setting("io_weight", "io", (("blkio.weight", weight), ("blkio.bfq.weight", weight))))
    for one in limits.io_max:
        for name, value in _io_words(one):
            found.append(_of_device(one, ((_V1_THROTTLE[name], f"{one.number} {0 if value == 'max' else value}"),)))
    return found


_V1_THROTTLE = {
    "rbps": "blkio.throttle.read_bps_device", "wbps": "blkio.throttle.write_bps_device",
    "riops": "blkio.throttle.read_iops_device", "wiops": "blkio.throttle.write_iops_device",
}  # fmt: skip


def _of_device(one: IoLimit, files: tuple[tuple[str, str], ...]) -> Setting:
    return Setting("io_max", "io", files if one.number else (), f"there is no block device {one.device} here")


def _io_words(one: IoLimit) -> list[tuple[str, str]]:
    pairs = (("rbps", one.read_bytes), ("wbps", one.write_bytes), ("riops", one.read_iops), ("wiops", one.write_iops))
    return [(name, "max" if value < 0 else str(value)) for name, value in pairs if value]


def _size(count: int) -> str:
    return str(count) if count else ""


def cpu_list(cpus: tuple[int, ...]) -> str:
    """`0-2,5`, as the kernel has it."""
    spans: list[list[int]] = []
    for cpu in cpus:
        if spans and spans[-1][1] == cpu - 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


_FREE_V2 = {
    "memory_max": ("memory", "memory.max", "max"), "memory_high": ("memory", "memory.high", "max"),
    "memory_low": ("memory", "memory.low", "0"), "memory_swap_max": ("memory", "memory.swap.max", "max"),
    "cpu_max": ("cpu", "cpu.max", "max"), "cpu_weight": ("cpu", "cpu.weight", "100"),
    "cpuset": ("cpuset", "cpuset.cpus", INHERIT), "pids_max": ("pids", "pids.max", "max"),
}  # fmt: skip
_FREE_V1 = {
    "memory_max": ("memory", "memory.limit_in_bytes", "-1"), "memory_high": ("memory", "memory.soft_limit_in_bytes", "-1"),
    "cpu_max": ("cpu", "cpu.cfs_quota_us", "-1"), "cpu_weight": ("cpu", "cpu.shares", "1024"),
    "cpuset": ("cpuset", "cpuset.cpus", INHERIT), "pids_max": ("pids", "pids.max", "max"),
}  # fmt: skip


def change(old: CgroupLimits, new: CgroupLimits, version: int) -> list[Setting]:
    """What makes a group with the limits `old` one with `new`: what is no longer there is lifted, the rest is written."""
    settings = v2_settings if version == 2 else v1_settings
    kept = {setting.key for setting in settings(new)}
    found = []
    if version == 1 and old.memory_swap_max_bytes >= 0:  # never below the limit of memory itself: so it goes first
        found.append(Setting("memory_swap_max", "memory", (("memory.memsw.limit_in_bytes", "-1"),)))
    for key, (controller, file, value) in (_FREE_V2 if version == 2 else _FREE_V1).items():
        if key not in kept and any(setting.key == key for setting in settings(old)):
            found.append(Setting(key, controller, ((file, value),)))
    if old.io_weight and not new.io_weight:
        found += settings(CgroupLimits(io_weight=100))
    lifted = tuple(_lifted(one, new) for one in old.io_max if one.number)
    return [*found, *settings(CgroupLimits(io_max=tuple(one for one in lifted if any(one[2:6])))), *settings(new)]


def _lifted(one: IoLimit, new: CgroupLimits) -> IoLimit:
    """The same device without what `new` does not say of it."""
    still = next((other for other in new.io_max if other.number == one.number), IoLimit(one.device))
    values = zip(one[2:6], still[2:6], strict=True)
    return IoLimit(one.device, one.number, *(-1 if was and not is_ else 0 for was, is_ in values))


def words(limits: CgroupLimits) -> list[str]:
    """`memory_max=64M`, as the config has it, of each that is set."""
    pairs = (
        ("memory_max", limits.memory_max_bytes, size_text(limits.memory_max_bytes)),
        ("memory_high", limits.memory_high_bytes, size_text(limits.memory_high_bytes)),
        ("memory_low", limits.memory_low_bytes, size_text(limits.memory_low_bytes)),
        ("memory_swap_max", limits.memory_swap_max_bytes >= 0, size_text(limits.memory_swap_max_bytes)),
        ("cpu_max", limits.cpu_max, f"{limits.cpu_max:g}"), ("cpu_weight", limits.cpu_weight, limits.cpu_weight),
        ("cpuset", limits.cpuset, cpu_list(limits.cpuset)), ("pids_max", limits.pids_max, limits.pids_max),
        ("io_weight", limits.io_weight, limits.io_weight), *((f"pressure.{one.kind}", one, _wait(one)) for one in limits.pressure), *(("io_max", one, _io_text(one)) for one in limits.io_max),
    )  # fmt: skip
    return [f"{key}={text}" for key, value, text in pairs if value]


def _wait(one: Pressure) -> str:
    return f"{one.stall_us / 1e6:g}s/{one.window_us / 1e6:g}s"


def _io_text(one: IoLimit) -> str:
    pairs = (
        ("read", one.read_bytes, size_text(one.read_bytes)), ("write", one.write_bytes, size_text(one.write_bytes)),
        ("read_iops", one.read_iops, one.read_iops), ("write_iops", one.write_iops, one.write_iops),
    )  # fmt: skip
    return f"{one.device}({','.join(f'{key}={text}' for key, value, text in pairs if value)})"


def size_text(count: int) -> str:
    """In the largest unit that says it exactly, as the config has it."""
    for unit, factor in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if count and count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)


_RANGES = {
    "memory_max_bytes": (0, 1 << 62), "memory_high_bytes": (0, 1 << 62), "memory_low_bytes": (0, 1 << 62),
    "memory_swap_max_bytes": (-1, 1 << 62), "cpu_weight": (0, 10_000), "pids_max": (0, 1 << 22), "io_weight": (0, 10_000),
}  # fmt: skip


def updated(limits: CgroupLimits, said: Mapping[str, object]) -> CgroupLimits:
    """With what was said in the fields of CgroupLimits (io_max as lists); ValueError for what is none, or no whole."""
    found = dict(said)
    for key, value in said.items():
        low, high = _RANGES.get(key, (0, 0))
        if key == "cpu_max":
            good = isinstance(value, int | float) and not isinstance(value, bool) and (value == 0 or 0.01 <= value <= 4096)
        elif key == "cpuset":
            good = isinstance(value, list | tuple) and all(type(cpu) is int and 0 <= cpu < 4096 for cpu in value)
            found[key] = tuple(value) if good and isinstance(value, list | tuple) else ()
        elif key == "io_max":
            good = isinstance(value, list | tuple) and all(_is_io(one) for one in value)
            found[key] = tuple(IoLimit(*one) for one in value) if good and isinstance(value, list | tuple) else ()
        else:
            good = key in _RANGES and type(value) is int and low <= value <= high
        if not good:
            raise ValueError(f"{key} = {value} is no limit")
    new = limits._replace(**found)  # type: ignore[arg-type]
    for key, lower in (("memory_high", new.memory_high_bytes), ("memory_low", new.memory_low_bytes)):
        if new.memory_max_bytes and lower > new.memory_max_bytes:
            raise ValueError(f"expected {key} <= memory_max, found {size_text(lower)} and {size_text(new.memory_max_bytes)}")
    return new


def _is_io(value: object) -> bool:
    if not isinstance(value, list | tuple) or len(value) != len(IoLimit._fields):
        return False
    number = value[1].partition(":") if isinstance(value[1], str) else ("", "", "")
    is_number = number[1] and all(part.isascii() and part.isdigit() for part in (number[0], number[2]))
    return isinstance(value[0], str) and (is_number or value[1] == "") and all(type(count) is int and 0 <= count <= 1 << 62 for count in value[2:])


def differing(old: CgroupLimits, new: CgroupLimits, version: int) -> frozenset[str]:
    """Keys whose files would get something else."""
    settings = v2_settings if version == 2 else v1_settings
    was, is_ = settings(old), settings(new)
    return frozenset(one.key for one in (*was, *is_) if (one in was) != (one in is_))


def controllers(limits: CgroupLimits) -> frozenset[str]:
    """Which controllers the limits need."""
    return frozenset(setting.controller for setting in v2_settings(limits))


def tracker(hierarchies: Iterable[str]) -> str:
    """Which of these controllers of v1 best holds a group a service, so that all of it can be killed; "" if none can.

    The freezer stops forks while we kill, pids refuses them; the others only hold the list. cpuset takes nobody in
    before its CPUs and nodes are written.
    """
    usable = sorted(set(hierarchies) - {"cpuset"})
    return next((name for name in (*_TRACKERS, *usable) if name in usable), "")
