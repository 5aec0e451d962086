"""A launch by an ordinary user: the launcher becomes root of a user namespace of its own, and goes on as it ever does.

Or by root of a user namespace that others made, which can't make devices either.

Owns the way in, and what is different there. Must not know how a container is made. Laws: it is entered before anything is
made, by a process of one thread; the container has no user namespace besides; what an ordinary user can't have (a group,
a limit) is told once, what a config can't do without is an error.
"""

import errno
import os
from _collections_abc import Callable

from pyinit.control import places
from pyinit.errors import LaunchError
from pyinit.launch import onhost, plan, users
from pyinit.launch.root import Ids
from pyinit.launch.tracing import Trace, carried_out
from pyinit.linux import cgroup, namespaces, process
from pyinit.linux.programs import find_program
from pyinit.model import LINKED, NETWORK_TYPES, SLIRP, CgroupLimits, Config, Container, UserNamespace

_MOST_TEXT = 4096
_EMPTY = ("/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd", "/proc/xen", "/proc/openprom")  # folders of procfs that are there to be mounted on
# setns(2) takes CAP_SYS_ADMIN in the user namespace that the other belongs to: the host's, or that of another container.
_ALONE = "has a user namespace of its own, from which nobody else's namespaces can be joined"


class Ours(Ids):
    """Of a container whose launcher is in its user namespace already: what is made is whose it is inside."""

    overlay = ",userxattr"
    overlay_xattrs = "user"
    makes_devices = False

    def __init__(self) -> None:
        self._rows = {kind: namespaces.ids(kind) for kind in ("uid", "gid")}

    def outside(self, kind: str, inside: int, length: int = 1) -> int:
        if self.has(kind, inside) and self.has(kind, inside + length - 1):
            return inside
        raise OSError(errno.EINVAL, f"the container's user namespace has no {kind} {inside}; choose another, or a larger map")

    def has(self, kind: str, inside: int) -> bool:
        return any(first <= inside < first + count for first, _, count in self._rows[kind])

    def why_no_proc(self) -> str:
        with open("/proc/self/mountinfo") as file:
            covered = next((place for place in (line.split()[4] for line in file) if place.startswith("/proc/") and place not in _EMPTY), "")
        return covered and (
            f"{covered} is covered here, as container runtimes do, and a user namespace may then have no other /proc that shows more; "
            "start this one without (podman: --security-opt unmask=ALL; docker: --security-opt systempaths=unconfined)"
        )

    def heir(self, kind: str, seen: int) -> int:
        return seen if self.has(kind, seen) else -1  # a folder of the host's that is a layer shows who has no id here as nobody


def adapted(config: Config, report: Callable[[str], None] = lambda _: None) -> Config:
    """As an ordinary user can have it; LaunchError for what he can't."""
    box = config.container
    assert box is not None
    _refuse(box)
    namespaces_ = tuple(name for name in box.namespaces if name != "user")
    return config._replace(container=box._replace(rootless=True, namespaces=namespaces_, user_namespace=_users(box, report)))


def _users(box: Container, report: Callable[[str], None]) -> UserNamespace:
    wanted = box.user_namespace
    if wanted.origin.line:
        return users.resolve(box)
    try:
        found = users.resolve(box)
        needed = ("newuidmap", "newgidmap") if os.geteuid() else ()
        missing = next((name for name in needed if not find_program(name, os.environ)), "")
        if not missing:
            return found
        why = f"there is no program {missing}; install it (Debian: uidmap)"
    except LaunchError as error:
        why = str(error).partition(": container.user_namespace: ")[2]
    report(f'{box.origin}: root is the only user inside: {why}; user_namespace = {{ map = "single" }} says that it is meant')
    return users.resolve(box._replace(user_namespace=UserNamespace("single")))


def _refuse(box: Container) -> None:
    who, root = ("an ordinary user", "run pyinit as root") if os.geteuid() else ("root of a user namespace", "run pyinit outside of that")
    if box.network.mode in LINKED:
        what = "veth on a bridge" if box.network.mode == "veth" else "macvlan"
        raise LaunchError(f'{box.network.origin}: container.network: {who} can make no {what}; write mode = "{SLIRP}", or {root}')
    if box.network.mode == "netns":
        raise LaunchError(f'{box.network.origin}: container.network: a container of {who} {_ALONE}; write mode = "{SLIRP}", or {root}')
    for one in box.share:
        raise LaunchError(f"{one.origin}: container.share: a container of {who} {_ALONE}; make both services of one container, or {root.replace('pyinit', 'both')}")
    for mount in box.mounts:
        at = mount.origin
        if mount.type in NETWORK_TYPES or mount.type == "erofs" or mount.source.startswith("image:"):
            what = "nested image" if mount.source.startswith("image:") else mount.type
            raise LaunchError(f"{at}: container.mounts: {who} can mount no {what}; take it out, or {root}")
        if mount.idmap:
            raise LaunchError(f"{at}: container.mounts.idmap: {who} can map no ids of a mount; take it out, or {root}")


def enter(config: Config, trace: Trace, report: Callable[[str], None]) -> Config:
    """The config as it is here; LaunchError. From here on this process is root of what is its own."""
    config = adapted(config, report)
    box = config.container
    assert box is not None
    places.keep_runtime_dir()
    step = next(one for one in plan.make(config).host if isinstance(one, onhost.MapUsers))
    with carried_out(step, trace):
        _enter(step)
    return config


def _enter(step: onhost.MapUsers) -> None:
    gate, opener = os.pipe2(os.O_CLOEXEC)
    answer, teller = os.pipe2(os.O_CLOEXEC)
    target = os.getpid()
    pid, pidfd = process.clone(0)
    if pid == 0:
        os.close(opener)
        _map(gate, teller, target, step)
    os.close(teller)
    os.close(gate)
    try:
        namespaces.unshare(namespaces.CLONE_FLAGS["user"] | namespaces.CLONE_FLAGS["mount"])
        os.write(opener, b".")
        said = os.read(answer, _MOST_TEXT).decode("utf-8", "replace")
    finally:
        os.close(opener)
        os.close(answer)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
    if said != "mapped":
        number, _, text = said.partition(" ")
        raise OSError(int(number or errno.EIO), text or "the process that maps the ids was killed")
    namespaces.become_root()
    process.prctl(process.PR_SET_DUMPABLE, 1)  # whose the files in our /proc are


def _map(gate: int, teller: int, target: int, step: onhost.MapUsers) -> None:
    """In a child, which stays outside: only from there is a map written."""
    try:
        if os.read(gate, 1) == b".":
            users.write_map(target, step.users.ranges)
            os.write(teller, b"mapped")
    except OSError as error:
        os.write(teller, f"{error.errno or errno.EIO} {error.strerror}".encode("utf-8", "replace")[:_MOST_TEXT])
    except BaseException as error:  # noqa: BLE001 - the process's edge: nothing may unwind into the launcher's frames
        os.write(teller, f"{errno.EIO} internal error: {type(error).__name__}: {error}".encode("utf-8", "replace")[:_MOST_TEXT])
    finally:
        os._exit(0)


def delegated(step: onhost.MakeCgroup, report: Callable[[str], None]) -> list[cgroup.Hierarchy]:
    """Those in which this user has a group to make others in; if there is none that is told, once. LaunchError if it matters."""
    found = [one for one in cgroup.hierarchies() if is_delegated(one.directory)]
    if found:
        return found
    text = f"{step.origin}: {step.describe()}: no group is delegated to this user"
    fix = "start pyinit in one, as `systemd-run --user --scope -p Delegate=yes` does"
    if step.strict and (step.of_services or step.limits != CgroupLimits(origin=step.limits.origin)):
        raise LaunchError(f"{text}; {fix}")
    report(f"{text}; it runs without groups and limits; {fix}")
    return []


def is_delegated(directory: str) -> bool:
    """Whether a group is this user's to make others in: it takes the right to move processes out of it (cgroups(7), "Cgroups delegation")."""
    return all(os.access(path, os.W_OK) for path in (directory, f"{directory}/cgroup.procs"))
