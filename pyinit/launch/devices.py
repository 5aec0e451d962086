"""Which devices a container's processes may open: rules of its group.

Owns the rules. Must not know how groups are made (cgroups.py) or nodes (apply.py). Laws: it is v1's controller where
the host has it, else a program on the group of v2; what can't be held is said, and with `strict` an error.
"""

import os
import stat
from _collections_abc import Callable

from pyinit.errors import LaunchError
from pyinit.launch.onhost import DEVICES, LimitDevices
from pyinit.linux import bpf, cgroup
from pyinit.model import Device

_ALL = "rwm"
_PTMX, _PTS = (5, 2), 136


def limit(step: LimitDevices, v1_group: str, unified: str, report: Callable[[str], None]) -> None:
    """`v1_group`: of the controller `devices`, or ""; `unified`: of v2, or "". OSError, LaunchError."""
    allowed = rules(step.devices)
    if v1_group:
        cgroup.write(v1_group, "devices.deny", "a")
        for rule in allowed:
            cgroup.write(v1_group, "devices.allow", f"{rule.kind} {rule.major}:{rule.minor if rule.minor >= 0 else '*'} {rule.access}")
        return
    why = "no hierarchy of cgroup v1 has the controller devices, and there is no group of v2"
    if unified:
        try:
            _attach(allowed, unified)
        except OSError as error:
            why = f"no hierarchy of cgroup v1 has the controller devices, and {error.strerror}"
        else:
            return
    text = f"{step.origin}: devices: {why}"
    if step.strict:
        raise LaunchError(text)
    report(f"{text}; what is made by mknod can be opened")


def rules(devices: tuple[Device, ...]) -> tuple[bpf.Rule, ...]:
    """Of the nodes that every container has, its terminals, and these, as the host has them now."""
    found = [bpf.Rule("c", major, minor, _ALL) for _, major, minor in DEVICES]
    found += [bpf.Rule("c", *_PTMX, _ALL), bpf.Rule("c", _PTS, -1, _ALL)]
    for one in devices:
        seen = os.stat(one.path)
        found.append(bpf.Rule("b" if stat.S_ISBLK(seen.st_mode) else "c", os.major(seen.st_rdev), os.minor(seen.st_rdev), one.access))
    return tuple(found)


def _attach(allowed: tuple[bpf.Rule, ...], unified: str) -> None:
    group = os.open(unified, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        program = bpf.load_device_program(bpf.device_program(allowed))
        try:
            bpf.attach_device_program(program, group)
        finally:
            os.close(program)
    finally:
        os.close(group)
