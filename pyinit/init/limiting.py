"""Limits into the files of a group.

Owns the writing. Must not know whose group it is, or what a lack leads to. Law: what protects (memory, CPU time,
pids) and is refused is an OSError; what can't be held of the rest is said.
"""

from collections.abc import Iterable
from typing import NamedTuple

from pyinit.core.limits import INHERIT, PROTECTING, Setting
from pyinit.linux import cgroup


class Lack(NamedTuple):
    """A limit that can't be held here."""

    key: str
    why: str

    def __str__(self) -> str:
        return f"{self.key} can't be held here: {self.why}"


def hold(directory_fd: int, settings: Iterable[Setting]) -> list[Lack]:
    """Write them; OSError. Each key that can't be held is told once."""
    lacks: dict[str, Lack] = {}
    for setting in settings:
        why = _write(directory_fd, setting)
        if why:
            lacks.setdefault(setting.key, Lack(setting.key, why))
    return list(lacks.values())


def _write(directory_fd: int, setting: Setting) -> str:
    """Why it can't be held; "" if it is."""
    why = setting.why
    for name, value in setting.files:
        if value == INHERIT and cgroup.is_v1_at(directory_fd):
            value = cgroup.read_at(directory_fd, f"../{name}").decode().strip()
        try:
            cgroup.write_at(directory_fd, name, value)
        except FileNotFoundError:
            why = f"the controller {setting.controller} has no {name}"
        except OSError as error:
            why = f"{name} = {value}: {error.strerror}"
            if setting.key in PROTECTING:
                raise OSError(error.errno, why) from error
        else:
            return ""
    if setting.key in PROTECTING:
        raise OSError(2, why)
    return why


def seed_cpuset(directory_fd: int) -> None:
    """v1 takes nobody into a group without CPUs and memory nodes of its own: those of the group above (cpusets(7))."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not cgroup.read_at(directory_fd, name).strip():
            cgroup.write_at(directory_fd, name, cgroup.read_at(directory_fd, f"../{name}").decode().strip())
