"""Cgroups: where this process is in each hierarchy, and the files of a group.

Owns the reading of /proc/self/cgroup and mountinfo. Must not know what a container's limits are.
Laws: never one path for all hierarchies (hybrid hosts differ per controller); a group is removed only empty.
Source: cgroups(7), Documentation/admin-guide/cgroup-v2.rst.
"""

import errno
import os

from pyinit.records import NamedTuple


class Hierarchy(NamedTuple):
    """One mounted hierarchy: `directory` is this process's own group in it; v2 has no controllers in its name.

    `is_root`: the mount shows no group above it.
    """

    controllers: tuple[str, ...]
    directory: str
    version: int
    is_root: bool


def hierarchies() -> list[Hierarchy]:
    """Every hierarchy that is mounted and holds this process."""
    with open("/proc/self/cgroup") as file:
        rows = [line.rstrip("\n").split(":", 2) for line in file]
    with open("/proc/self/mountinfo") as file:
        mounts = [_cgroup_mount(line) for line in file if " - cgroup" in line]
    found = []
    for number, names, path in rows:
        wanted = set(names.split(",")) - {""}
        for kind, root, place, options in mounts:
            fits = kind == "cgroup2" if number == "0" else kind == "cgroup" and wanted <= options
            if fits and (path == root or root == "/" or path.startswith(root + "/")):
                inner = path if root == "/" else path[len(root) :]
                directory = os.path.normpath(place + "/" + inner)
                if os.path.isdir(directory):
                    version = 2 if number == "0" else 1
                    found.append(Hierarchy(tuple(sorted(wanted)), directory, version, path == root))
                break
    return found


def _cgroup_mount(line: str) -> tuple[str, str, str, set[str]]:
    left, _, right = line.rstrip("\n").partition(" - ")
    fields, tail = left.split(" "), right.split(" ")
    return tail[0], fields[3], fields[4].replace("\\040", " "), set(tail[-1].split(","))


def is_machines_root(found: Hierarchy) -> bool:
    """Whether that is the whole machine's group, also where a namespace calls another one the root.

    By its files: v1 has `release_agent` in no other, v2 `cgroup.type` in every other (CFTYPE_ONLY_ON_ROOT, _NOT_ON_ROOT).
    """
    if found.version == 1:
        return os.path.exists(f"{found.directory}/release_agent")
    return not os.path.exists(f"{found.directory}/cgroup.type")


def write(directory: str, name: str, value: str) -> None:
    """Write one file of a group; OSError names the file."""
    path = os.path.join(directory, name)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, f"write {value!r} to {path}: {os.strerror(error.errno or 0)}") from error


def write_at(directory_fd: int, name: str, value: str) -> None:
    """The same below an open directory; O_NONBLOCK: newer kernels then don't wait for memory to be given back."""
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory_fd)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def read_at(directory_fd: int, name: str) -> bytes:
    """What a file below an open directory says."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def has_at(directory_fd: int, name: str) -> bool:
    """Whether a group has a file; no group (-1) has any."""
    return directory_fd >= 0 and os.access(name, os.F_OK, dir_fd=directory_fd)


def is_v1_at(directory_fd: int) -> bool:
    """v1 has `notify_on_release` in every group, v2 in none."""
    return os.access("notify_on_release", os.F_OK, dir_fd=directory_fd)


def subgroups_at(directory_fd: int, path: str = "") -> list[str]:
    """The group itself ("") and all below it, as paths that end in a slash; kernfs counts folders as links."""
    fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        if os.fstat(fd).st_nlink <= 2:
            return [path]
        with os.scandir(fd) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    finally:
        os.close(fd)
    found = [path]
    for name in names:
        try:
            found += subgroups_at(directory_fd, f"{path}{name}/")
        except FileNotFoundError:  # removed meanwhile
            continue
    return found


def pids_at(directory_fd: int) -> list[int]:
    """Live processes of the group and of those below it, as our pid namespace sees them: those outside read as 0."""
    found: list[int] = []
    for path in subgroups_at(directory_fd):
        try:
            fd = os.open(path + "cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory_fd)
            with open(fd) as file:
                found += [pid for line in file if (pid := int(line))]
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # removed meanwhile
                raise
    return found


def is_populated(events: bytes) -> bool:
    """What a `cgroup.events` text says."""
    return b"populated 1" in events


def oom_kills(events: bytes) -> int:
    """What a `memory.events` (v2) or `memory.oom_control` (v1) text says."""
    for line in events.split(b"\n"):
        key, _, value = line.partition(b" ")
        if key == b"oom_kill":
            return int(value)
    return 0


def remove_tree(directory: str) -> None:
    """rmdir a group and the groups below it; a missing one is fine, a busy one raises OSError."""
    try:
        children = [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for child in children:
        remove_tree(child)
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        pass


def processes_of(directory: str) -> list[int]:
    """The pids in a group, without those below it."""
    with open(f"{directory}/cgroup.procs") as file:
        return [int(line) for line in file]


def processes(directory: str) -> list[int]:
    """The pids in a group and in those below it."""
    pids: list[int] = []
    for place, _, names in os.walk(directory):
        if "cgroup.procs" in names:
            pids += [pid for pid in processes_of(place) if pid]
    return pids
