"""What a group uses, read when somebody asks.

Owns the accounting files of cgroup v1 and v2 and their units. Must not know services. Laws: what is not accounted
here is None, never 0 or a guess; nothing is read unless it is asked for.
Source: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/{memory,cpuacct,blkio-controller,pids}.rst, accounting/psi.rst.
"""

import os
from _collections_abc import Mapping

_V1_NO_LIMIT = 1 << 62  # PAGE_COUNTER_MAX, rounded to pages
_PRESSURES = ("cpu", "memory", "io")
Numbers = dict[str, object]


class Group:
    """One group in each hierarchy: fds of its folders, that of v2 or -1, those of v1 by controller."""

    def __init__(self, unified_fd: int, v1_fds: Mapping[str, int]) -> None:
        self._unified_fd = unified_fd
        self._v1_fds = v1_fds

    def numbers(self) -> dict[str, object]:
        """{"cpu", "memory", "io", "pids", "pressure"}: what is not known is None."""
        return {"cpu": self._cpu(), "memory": self._memory(), "io": self._io(), "pids": self._pids(), "pressure": self._pressure()}

    def _v2(self, name: str) -> str | None:
        return _read(self._unified_fd, name)

    def _v1(self, controller: str, name: str) -> str | None:
        return _read(self._v1_fds.get(controller, -1), name)

    def _cpu(self) -> Numbers:
        own, v1 = _table(self._v2("cpu.stat")), _table(self._v1("cpu", "cpu.stat"))
        used_s = _scaled(own.get("usage_usec"), 1e6)
        if used_s is None:
            used_s = _scaled(_number(self._v1("cpuacct", "cpuacct.usage")), 1e9)
        throttled_s = _scaled(own.get("throttled_usec"), 1e6)
        if throttled_s is None:
            throttled_s = _scaled(v1.get("throttled_time"), 1e9)
        return {"used_s": used_s, "throttled_s": throttled_s, "max": self._cpu_max()}

    def _cpu_max(self) -> float | None:
        """In cores."""
        quota, _, period = (self._v2("cpu.max") or "").partition(" ")
        if not quota:
            quota, period = self._v1("cpu", "cpu.cfs_quota_us") or "", self._v1("cpu", "cpu.cfs_period_us") or ""
        return int(quota) / int(period) if quota.strip().isdigit() and period.strip().isdigit() else None

    def _memory(self) -> Numbers:
        used = _number(self._v2("memory.current"))
        if used is not None:
            return {
                "used_bytes": used, "peak_bytes": _number(self._v2("memory.peak")), "max_bytes": _number(self._v2("memory.max")),
                "high_bytes": _number(self._v2("memory.high")), "swap_bytes": _number(self._v2("memory.swap.current")),
                "oom_kills": _table(self._v2("memory.events")).get("oom_kill"),
            }  # fmt: skip
        used, both = (_number(self._v1("memory", f"memory.{name}usage_in_bytes")) for name in ("", "memsw."))
        return {
            "used_bytes": used, "peak_bytes": _number(self._v1("memory", "memory.max_usage_in_bytes")),
            "max_bytes": _v1_limit(self._v1("memory", "memory.limit_in_bytes")),
            "high_bytes": _v1_limit(self._v1("memory", "memory.soft_limit_in_bytes")),
            "swap_bytes": max(0, both - used) if both is not None and used is not None else None,
            "oom_kills": _table(self._v1("memory", "memory.oom_control")).get("oom_kill"),
        }  # fmt: skip

    def _io(self) -> Numbers:
        text = self._v2("io.stat")
        if text is not None:
            pairs = [word.partition("=") for line in text.splitlines() for word in line.split()[1:]]
            sums = {key: sum(int(value) for name, _, value in pairs if name == key) for key in ("rbytes", "wbytes", "rios", "wios")}
            return {"read_bytes": sums["rbytes"], "written_bytes": sums["wbytes"], "reads": sums["rios"], "writes": sums["wios"]}
        bytes_, counts = (self._v1("blkio", f"blkio.throttle.{name}_recursive") for name in ("io_service_bytes", "io_serviced"))
        return {
            "read_bytes": _v1_io(bytes_, "Read"), "written_bytes": _v1_io(bytes_, "Write"),
            "reads": _v1_io(counts, "Read"), "writes": _v1_io(counts, "Write"),
        }  # fmt: skip

    def _pids(self) -> Numbers:
        count, most = self._v2("pids.current"), self._v2("pids.max")
        if count is None:
            count, most = self._v1("pids", "pids.current"), self._v1("pids", "pids.max")
        return {"count": _number(count), "max": _number(most)}

    def _pressure(self) -> Numbers:
        """Of each: {"some": {"avg10", "avg60", "avg300", "total_us"}, "full": ...}, shares of the time in percent."""
        return {name: _psi(self._v2(f"{name}.pressure")) for name in _PRESSURES}


def _read(directory_fd: int, name: str) -> str | None:
    """None where there is no such file, or it answers nothing (PSI that is off: EOPNOTSUPP)."""
    if directory_fd < 0:
        return None
    try:
        with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory_fd)) as file:
            return file.read()
    except OSError:
        return None


def _table(text: str | None) -> dict[str, int]:
    rows = [line.split() for line in (text or "").splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def _number(text: str | None) -> int | None:
    """None for "max", too."""
    return int(text) if text is not None and text.strip().isdigit() else None


def _v1_limit(text: str | None) -> int | None:
    found = _number(text)
    return None if found is None or found >= _V1_NO_LIMIT else found


def _scaled(count: int | None, unit: float) -> float | None:
    return None if count is None else round(count / unit, 6)


def _v1_io(text: str | None, what: str) -> int | None:
    if text is None:
        return None
    rows = [line.split() for line in text.splitlines()]
    return sum(int(row[2]) for row in rows if len(row) == 3 and row[1] == what)


def _psi(text: str | None) -> Numbers | None:
    """`some avg10=0.00 avg60=0.00 avg300=0.00 total=0`."""
    if not text:
        return None
    found: Numbers = {}
    for line in text.splitlines():
        kind, *words = line.split()
        pairs = dict(word.split("=") for word in words)
        found[kind] = {**{key: float(pairs[key]) for key in ("avg10", "avg60", "avg300")}, "total_us": int(pairs["total"])}
    return found
