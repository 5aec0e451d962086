"""Limits into the files of a group.

Owns the writing. Must not know whose group it is, or what a lack leads to. Law: what protects (memory, CPU time,
pids) and is refused is an OSError; what can't be held of the rest is said.
"""

from _collections_abc import Iterable, Mapping

from pyinit import scopes as contextlib
from pyinit.core.limits import INHERIT, PROTECTING, V2_NAMES, Setting, change, differing, v2_settings
from pyinit.linux import cgroup
from pyinit.model import CgroupLimits
from pyinit.records import NamedTuple


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


class Place(NamedTuple):
    """A group in one hierarchy; controllers have v2's names."""

    directory_fd: int
    version: int
    controllers: frozenset[str]


def places(unified_fd: int, v1_fds: Mapping[str, int]) -> list[Place]:
    """Of a group: what can hold a limit of it. `unified_fd` is -1 without one."""
    found = [Place(fd, 1, frozenset({V2_NAMES.get(name, name)})) for name, fd in v1_fds.items()]
    if unified_fd >= 0:
        here = cgroup.read_at(unified_fd, "cgroup.controllers").decode().split()
        found.append(Place(unified_fd, 2, frozenset(here)))
    return found


def exchange(where: list[Place], old: CgroupLimits, new: CgroupLimits) -> str:
    """Limits `new` for `old`, or all stays as it is and the text says why."""
    needed = {one.controller for one in v2_settings(new) if one.key in differing(old, new, 2)}
    missing = needed - {name for place in where for name in place.controllers}
    if missing:
        names = ", ".join(sorted(missing))
        return f"it has no group here whose controller {names} could hold the limit; one in its config is held from its start on"
    done: list[Place] = []
    for place in where:
        keys = differing(old, new, place.version)
        done.append(place)
        try:
            lacks = hold(place.directory_fd, _rows(place, old, new, keys))
        except OSError as error:
            lacks = [Lack("", error.strerror or str(error))]
        if lacks:
            for one in done:
                with contextlib.suppress(OSError):  # what has just been there
                    hold(one.directory_fd, _rows(one, new, old, differing(new, old, one.version)))
            return str(lacks[0]) if lacks[0].key else lacks[0].why
    return ""


def _rows(place: Place, old: CgroupLimits, new: CgroupLimits, keys: frozenset[str]) -> list[Setting]:
    return [one for one in change(old, new, place.version) if one.key in keys and one.controller in place.controllers]


def seed_cpuset(directory_fd: int) -> None:
    """v1 takes nobody into a group without CPUs and memory nodes of its own: those of the group above (cpusets(7))."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not cgroup.read_at(directory_fd, name).strip():
            cgroup.write_at(directory_fd, name, cgroup.read_at(directory_fd, f"../{name}").decode().strip())
