"""Whose the ids of a container are on this host.

Owns the ranges of /etc/subuid and /etc/subgid, the writing of a map, and what has to be given to the container's root.
Must not know how PID 1 is born (isolation.py). Laws: no range is invented; what is made for the container belongs to its
root from the start; a file system that can't show its files as the container's is an error, and never copied.
"""

import errno
import os

from pyinit.errors import LaunchError
from pyinit.launch.root import Ids
from pyinit.linux import caps, cgroup, mount, namespaces, process
from pyinit.model import Config, Container, IdRange, Origin, UserNamespace
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.launch.clone import Born

_FILES = {"uid": "/etc/subuid", "gid": "/etc/subgid"}
_OF_AN_IMAGE = 65536  # its nobody is 65534
_OURS, _ROOT = "pyinit", "root"
_PROGRAM_S = 10.0
_DELEGATE = "/sys/kernel/cgroup/delegate"
_OF_V1 = ("cgroup.procs", "tasks")
_NO_SETUID_FIXUP, _PR_SET_SECUREBITS = 1 << 2, 28


class Mapped(Ids):
    """Of a container in a user namespace; rows are (inside, outside, length)."""

    def __init__(self, fd: int, uids: list[tuple[int, int, int]], gids: list[tuple[int, int, int]]) -> None:
        self.fd = fd
        self._rows = {"uid": uids, "gid": gids}

    def outside(self, kind: str, inside: int, length: int = 1) -> int:
        for first, outside, count in self._rows[kind]:
            if first <= inside and inside + length <= first + count:
                return outside + inside - first
        named = str(inside) if length == 1 else f"{inside}-{inside + length - 1}"
        raise OSError(errno.EINVAL, f"the container's user namespace has no {kind} {named}; choose another, or a larger map")

    def has(self, kind: str, inside: int) -> bool:
        return any(first <= inside < first + count for first, _, count in self._rows[kind])

    def show(self, tree: int, label: str) -> None:
        if mount.refused_mounts():
            raise OSError(errno.ENOSYS, "only the new mount API maps ids, which is refused here (`pyinit doctor` says why); take the user namespace out")
        try:
            mount.mount_setattr(tree, attributes=mount.MOUNT_ATTR_IDMAP, userns_fd=self.fd)
        except OSError as error:
            if error.errno == errno.EINVAL:
                text = f"the file system of {label} can't map ids (squashfs can since Linux 6.2, tmpfs since 6.3); use a newer kernel, or take the user namespace out"
                raise OSError(errno.EINVAL, text) from error
            raise

    def become(self) -> None:
        """What this process makes from now on is the container's root's; its capabilities stay (capabilities(7), securebits)."""
        process.prctl(_PR_SET_SECUREBITS, _NO_SETUID_FIXUP)
        process.set_fs_ids(self.outside("uid", 0), self.outside("gid", 0))

    def take_groups(self, directories: list[str]) -> None:
        """Give the groups to the container's root, with the files that a delegation names (cgroups(7), "Cgroups delegation")."""
        try:
            with open(_DELEGATE) as file:
                delegated = file.read().split()
        except FileNotFoundError:
            delegated = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"]
        for directory in directories:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                names = _OF_V1 if cgroup.is_v1_at(fd) else delegated
                for name in (".", *(one for one in names if cgroup.has_at(fd, one))):
                    os.chown(name, self.outside("uid", 0), self.outside("gid", 0), dir_fd=fd)
            finally:
                os.close(fd)


def resolved(config: Config) -> Config:
    """With the ranges that this host has for its user namespace; LaunchError."""
    box = config.container
    if box is None or "user" not in box.namespaces or box.user_namespace.ranges:
        return config
    return config._replace(container=box._replace(user_namespace=resolve(box)))


def resolve(box: Container) -> UserNamespace:
    """Of an ordinary user: root inside is himself, and his ranges follow from 1 on. Of root of a user namespace: all that it has. LaunchError."""
    users = box.user_namespace
    if users.ranges:
        return users
    at = users.origin if users.origin.line else box.origin
    if users.map == "single":
        return users._replace(ranges=_single(users.user, at))
    if not (os.geteuid() or users.user or caps.are_the_machines()):
        return users._replace(ranges=_all_of_ours(at))
    rows = {kind: _read(path, at) for kind, path in _FILES.items()}
    own = {"uid": os.geteuid(), "gid": os.getegid()} if os.geteuid() else {}
    user = users.user or (_own_name() if own else next((name for name in (_OURS, _ROOT) if any(whose == name for whose, _, _ in rows["uid"])), _ROOT))
    found: list[IdRange] = []
    for kind, path in _FILES.items():
        found += [IdRange(kind, own[kind], 0)] if own else []
        inside = len(own) // 2
        for whose, first, count in rows[kind]:
            if whose in _names(user):
                found.append(IdRange(kind, first, inside, count))
                inside += count
        if inside < _OF_AN_IMAGE:
            count = inside - len(own) // 2
            what = f"has {count} ids of {user}" if count else f"has no range of {user}"
            raise LaunchError(
                f"{at}: container.user_namespace: {path} {what}, expected {_OF_AN_IMAGE}; "
                f"add a line such as {user}:100000:{_OF_AN_IMAGE} of ids that nobody has, or write the ranges as `map`"
            )
    return users._replace(user=user, ranges=tuple(found))


def _all_of_ours(at: Origin) -> tuple[IdRange, ...]:
    found: list[IdRange] = []
    for kind in _FILES:
        found += [IdRange(kind, first, first, count) for first, _, count in namespaces.ids(kind)]
    if len(found) == len(_FILES) and all(one.length == 1 for one in found):
        raise LaunchError(f"{at}: container.user_namespace: the user namespace that pyinit is in has no other (/proc/self/uid_map); make it with more, as `unshare --map-root-user --map-auto` does")
    return tuple(found)


def _own_name() -> str:
    import pwd  # as below

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _names(user: str) -> tuple[str, ...]:
    """subuid(5): by name or by number."""
    import pwd  # of the host, and for those who have a user namespace

    try:
        return user, str(pwd.getpwnam(user).pw_uid)
    except KeyError:
        return (user,)


def _read(path: str, at: Origin) -> list[tuple[str, int, int]]:
    try:
        with open(path) as file:
            rows = [line.strip().split(":") for line in file]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LaunchError(f"{at}: container.user_namespace: {path}: {error.strerror}") from error
    return [(row[0], int(row[1]), int(row[2])) for row in rows if len(row) == 3 and row[1].isdigit() and row[2].isdigit()]


def _single(user: str, at: Origin) -> tuple[IdRange, ...]:
    """Root is that one user of the host, and there is nobody else."""
    if (os.geteuid() or not caps.are_the_machines()) and user in ("", _own_name()):
        return IdRange("uid", os.geteuid(), 0), IdRange("gid", os.getegid(), 0)
    import pwd  # as above

    try:
        seen = pwd.getpwnam(user or _OURS)
    except KeyError:
        fix = "make it (`useradd --system`), or name another" if user else 'name one beside it: user = "..."'
        raise LaunchError(f'{at}: container.user_namespace: map = "single": there is no user {user or _OURS} on this host; {fix}') from None
    return IdRange("uid", seen.pw_uid, 0), IdRange("gid", seen.pw_gid, 0)


def write_map(pid: int, ranges: tuple[IdRange, ...]) -> None:
    """Of the user namespace that `pid` was born in; OSError. Without the capabilities for it, newuidmap and newgidmap do."""
    own = {one.source for one in ranges if one.length == 1} <= {os.geteuid(), os.getegid()} and len(ranges) == 2
    if os.geteuid() and own:
        _write(f"/proc/{pid}/setgroups", "deny")  # user_namespaces(7): else nobody may map a group by himself
    for kind in ("uid", "gid"):
        rows = [one for one in ranges if one.kind == kind]
        if os.geteuid() and not own:
            _by_program(f"new{kind}map", pid, rows)
            continue
        try:
            _write(f"/proc/{pid}/{kind}_map", "".join(f"{one.inside} {one.source} {one.length}\n" for one in rows))
        except PermissionError as error:
            missing = [name for name in ("SETUID", "SETGID", "SETFCAP") if not caps.has(name)]
            why = f"it takes CAP_{' CAP_'.join(missing)}, which this process lacks" if missing else "this host's own ids have none such (/proc/self/uid_map)"
            raise OSError(errno.EPERM, f"the kernel refuses this map of {kind}s: {why}; choose others") from error


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _by_program(name: str, pid: int, rows: list[IdRange]) -> None:
    words = [str(number) for one in rows for number in (one.inside, one.source, one.length)]
    try:
        ended = process.run((name, str(pid), *words), env=os.environ, timeout_s=_PROGRAM_S)
    except FileNotFoundError:
        raise OSError(errno.ENOENT, f'there is no program {name}; install it (Debian: uidmap), or write map = "single"') from None
    if ended.code:
        raise OSError(errno.EPERM, f"{name}: {ended.last_line() or f'it ended with {ended.code}'}")


def of(born: "Born") -> Mapped:
    """Whose ids are those of a PID 1, which has its map."""
    fd = os.open(f"/proc/{born.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    found: list[list[tuple[int, int, int]]] = []
    for kind in ("uid", "gid"):
        with open(f"/proc/{born.pid}/{kind}_map") as file:
            rows = [tuple(map(int, line.split())) for line in file]
        found.append([(first, outside, count) for first, outside, count in rows])
    return Mapped(fd, *found)
