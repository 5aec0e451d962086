"""Into a container without asking its PID 1: `pyinit enter`.

Owns the way in: who PID 1 is, its namespaces and groups, and what a process of ours becomes in there. Must not know how
bytes go to and fro. Laws: a pid is taken for PID 1 only by what that holds, and only while its pidfd says that it is the
same; nothing of the image is looked at before the process is confined as the container's own are; nothing of the host's is
left to it: no descriptor, no variable, no capability, no keyring; it is executed from a read-only mount (clone.py says why),
or from sealed memory. Root may be shown the folder of an ordinary user, who writes in it what he likes: such a one leads
nowhere but into a user namespace and groups of that user's own.

We fork a helper, which joins the groups and namespaces: it must be another, since from then on every path is the image's.
It forks the command as our child (CLONE_PARENT), says its pidfd, and is gone.
"""

import fcntl
import os
import resource
import select
import struct
import sys
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.control.places import Running, plainly
from pyinit.errors import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, ControlError, LaunchError
from pyinit.init import shell, spawn, users
from pyinit.init.environment import DEFAULT_PATH
from pyinit.init.shell import Wishes
from pyinit.launch.claim import SHELL, groups_of
from pyinit.linux import caps, cgroup, namespaces, process, pty
from pyinit.linux import sock as socket
from pyinit.linux.fds import receive
from pyinit.linux.mount import filesystem_magic
from pyinit.model import ServiceSpec
from pyinit.records import NamedTuple

LEAF = "enter"
_SHELLS = ("/bin/bash", "/bin/sh")
_KINDS = {"mount": "mnt"}  # as /proc/PID/ns has it
_HUP, _KILL, _CONT = 1, 9, 18
_STEPS = ("CHOWN", "SETUID", "SETGID", "SETPCAP", "SYS_ADMIN")  # what the last steps before exec need
_MOST_TEXT, _MOST_SHELL = 4096, 1 << 20
_CGROUP_MAGICS = (0x63677270, 0x27E0EB)  # of v2, of v1

# cgroups(7), "Cgroups delegation": what is above both groups must be his as well.
_ELSEWHERE = "; an ordinary user comes there only from a group below the one that is delegated to him, as `systemd-run --user --scope` gives him"
_LIMIT_NAME = 26  # bytes of a line of /proc/PID/limits
_LIMITS = {
    "Max cpu time": resource.RLIMIT_CPU, "Max file size": resource.RLIMIT_FSIZE, "Max data size": resource.RLIMIT_DATA,
    "Max stack size": resource.RLIMIT_STACK, "Max core file size": resource.RLIMIT_CORE, "Max resident set": resource.RLIMIT_RSS,
    "Max processes": resource.RLIMIT_NPROC, "Max open files": resource.RLIMIT_NOFILE, "Max locked memory": resource.RLIMIT_MEMLOCK,
    "Max address space": resource.RLIMIT_AS, "Max pending signals": resource.RLIMIT_SIGPENDING,
    "Max msgqueue size": resource.RLIMIT_MSGQUEUE, "Max nice priority": resource.RLIMIT_NICE,
    "Max realtime priority": resource.RLIMIT_RTPRIO, "Max realtime timeout": resource.RLIMIT_RTTIME,
}  # fmt: skip


class Target(NamedTuple):
    """A container as it is found."""

    name: str
    pid: int
    pidfd: int
    kinds: tuple[str, ...]  # of namespaces that are not ours
    groups: tuple[str, ...]
    owner: int  # of its folder
    capabilities: tuple[str, ...]  # the bounding set
    no_new_privileges: bool
    may_set_groups: bool
    rlimits: tuple[tuple[int, int, int], ...]
    basis: shell.Basis


class Inside(NamedTuple):
    """A command in there, our child; `status_fd` says why it is none, or its end that it has been executed."""

    pidfd: int
    status_fd: int


def find(one: Running) -> Target:
    """ControlError, with what to do."""
    if not one.pid:
        raise ControlError(f"container {one.name} is starting: try again")
    try:
        pidfd = os.pidfd_open(one.pid)
    except OSError:
        raise _gone(one) from None
    try:
        found = _look(one, pidfd)
        process.pidfd_send_signal(pidfd, 0)  # the number was its own all the time
    except ProcessLookupError:
        os.close(pidfd)
        raise _gone(one) from None
    except PermissionError as error:
        os.close(pidfd)
        raise ControlError(f"PID 1 of {one.name} ({one.pid}) belongs to someone else: {error.strerror}; try as root") from error
    except (OSError, ControlError) as error:
        os.close(pidfd)
        raise error if isinstance(error, ControlError) else _gone(one) from None
    return found


def _gone(one: Running) -> ControlError:
    return ControlError(f"PID 1 of {one.name} ({one.pid}) is gone; what is left of it ends by itself")


def _look(one: Running, pidfd: int) -> Target:
    if not _is_its_first(one):
        raise _gone(one)
    kinds = tuple(kind for kind in namespaces.CLONE_FLAGS if _is_other(one.pid, kind))
    owner = os.lstat(one.directory).st_uid
    if owner != os.geteuid() and not ("user" in kinds and _made_its_ids(one.pid) == owner):
        raise ControlError(f"PID 1 of {one.name} ({one.pid}) is in no user namespace of the user {owner}, whose {one.directory} is: it is not entered by that")
    if not kinds:
        raise ControlError(f"{one.name} is a supervisor and no container: `pyinit exec -c {one.name} -- COMMAND` runs a command in it")
    try:
        with open(f"{one.directory}/{SHELL}", "rb", opener=plainly) as file:
            basis = shell.unpacked(file.read(_MOST_SHELL))
    except (FileNotFoundError, ValueError):
        raise ControlError(f"{one.name} was started by another pyinit, so what confines its processes is not known: enter it by that one") from None
    status, may_set_groups = _status(one.pid), True
    with contextlib.suppress(OSError), open(f"/proc/{one.pid}/setgroups") as file:
        may_set_groups = "user" not in kinds or file.read() != "deny\n"
    return Target(
        one.name, one.pid, pidfd, kinds, tuple(groups_of(one.directory)), owner, caps.named(int(status["CapBnd"], 16)),
        status.get("NoNewPrivs") == "1", may_set_groups, _limits(one.pid), basis,
    )  # fmt: skip


def _made_its_ids(pid: int) -> int:
    """The uid of who made its user namespace."""
    fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return namespaces.owner_of(fd)
    finally:
        os.close(fd)


def _is_its_first(one: Running) -> bool:
    """By the lock, which our own init holds open, or by the monitor, whose child an init of the image is."""
    folder = f"/proc/{one.pid}/fd"
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"{folder}/{name}") == f"{one.directory}/lock":  # not stat(2): some file systems answer when they like
                return True
    return _status(one.pid)["PPid"] == str(_monitor(one.directory))


def _monitor(directory: str) -> int:
    """The process that has the lock of monitors (fcntl_locking(2), struct flock); -1: none."""
    try:
        fd = os.open(f"{directory}/monitor", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return -1
    try:
        kind, *_, pid = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)))
    finally:
        os.close(fd)
    return -1 if kind == fcntl.F_UNLCK else int(pid)


def _is_other(pid: int, kind: str) -> bool:
    name = _KINDS.get(kind, kind)
    if not os.path.exists(f"/proc/self/ns/{name}"):  # the kernel has none
        return False
    return os.stat(f"/proc/{pid}/ns/{name}").st_ino != os.stat(f"/proc/self/ns/{name}").st_ino


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as file:
        rows = [line.partition(":") for line in file]
    return {name: value.strip() for name, _, value in rows}


def _limits(pid: int) -> tuple[tuple[int, int, int], ...]:
    """PID 1's, as far as we may have them: ours are those of the user's shell."""
    found = []
    with open(f"/proc/{pid}/limits") as file:  # prlimit(2) would need CAP_SYS_RESOURCE, for its saved gid is nobody's
        rows = [(line[:_LIMIT_NAME].strip(), line[_LIMIT_NAME:].split()) for line in file]
    for name, said in rows:
        number = _LIMITS.get(name)
        if number is not None:
            soft, hard = (resource.RLIM_INFINITY if word == "unlimited" else int(word) for word in said[:2])
            hard = _lower(hard, resource.getrlimit(number)[1])
            found.append((number, _lower(soft, hard), hard))
    return tuple(found)


def _lower(one: int, other: int) -> int:
    """Of two limits."""
    unlimited = resource.RLIM_INFINITY
    return other if one == unlimited else one if other == unlimited else min(one, other)


def start(target: Target, argv: tuple[str, ...], wishes: Wishes, stdio: tuple[int, int, int] | spawn.Terminal) -> Inside:
    """`argv` (): a shell. LaunchError for what can't be joined."""
    process.prctl(process.PR_SET_DUMPABLE, 0)
    groups = _open_groups(target)
    status, reports = os.pipe2(os.O_CLOEXEC)
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    ourselves = os.pidfd_open(os.getpid())
    spec = shell.wished(shell.nameless(target.basis, kill="cgroup"), wishes)
    pid, helper = process.clone(0)
    if pid == 0:
        try:
            _help(target, groups, reports, theirs, lambda: _become(target, spec, argv, stdio, reports, ourselves))
        finally:
            os._exit(0)
    for fd in (reports, ourselves, *groups):
        os.close(fd)
    theirs.close()
    os.waitid(os.P_PIDFD, helper, os.WEXITED)
    os.close(helper)
    with mine:
        _, fds = receive(mine, 16, 1)
    return Inside(fds[0] if fds else -1, status)


def _open_groups(target: Target) -> list[int]:
    """`cgroup.procs` of a leaf below the container's group of v2, and of its groups of v1; LaunchError."""
    found = []
    for directory in target.groups:
        try:
            place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:  # noted, and never made
            continue
        try:
            _check_group(target, directory, place)
            found.append(_open_group(target, place))
        except OSError as error:
            raise LaunchError(f"enter: the container's group {directory}: {error.strerror}") from error
        finally:
            os.close(place)
    return found


def _check_group(target: Target, directory: str, place: int) -> None:
    if filesystem_magic(place) not in _CGROUP_MAGICS or (target.owner != os.geteuid() and os.fstat(place).st_uid != target.owner):
        raise LaunchError(f"enter: the journal of {target.name} names {directory}, which is no group of the user {target.owner}: it is not entered by that")


def _open_group(target: Target, place: int) -> int:
    """By what is there: there are no links in such a file system."""
    name = "cgroup.procs"
    if cgroup.has_at(place, "cgroup.controllers"):
        name = f"{LEAF}/{name}"
        own = os.geteuid(), os.getegid()
        if target.owner != own[0]:  # he may come himself
            process.set_fs_ids(target.owner, os.fstat(place).st_gid)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(LEAF, dir_fd=place)
        finally:
            process.set_fs_ids(*own)
    return os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=place)


def _help(target: Target, groups: list[int], reports: int, theirs: socket.socket, become: Callable[[], None]) -> None:
    """In the helper: from the first namespace on no path is the host's."""
    what = "its cgroup"
    try:
        process.prctl(process.PR_SET_PDEATHSIG, _KILL)  # its group may be frozen, and we with it
        for fd in groups:
            os.write(fd, b"0")
        flags = {kind: namespaces.CLONE_FLAGS[kind] for kind in target.kinds}
        user = flags.pop("user", 0)
        rest = sum(flags.values())
        if user and os.geteuid() == 0:
            namespaces.drop_groups()  # now: where setgroups is denied in there we would keep those of the host's root
        # As the host's root the others first: they may belong to no namespace of that user's.
        for step in ((rest, user) if os.geteuid() == 0 else (user, rest)):
            what = "its user namespace" if step == user else f"its namespaces {' '.join(flags)}"
            if step:
                namespaces.enter(target.pidfd, step)
        if user:
            what = "its root"
            namespaces.become_root()
        what = "a process in it"
        pid, pidfd = process.clone(process.CLONE_PARENT)
        if pid == 0:
            try:
                become()
            except OSError as error:
                os.write(reports, f"!before the image was looked at: {error.strerror}".encode("utf-8", "replace"))
            finally:
                os._exit(EXIT_NOT_FOUND)
        socket.send_fds(theirs, [b"made"], [pidfd])
    except OSError as error:
        hint = _ELSEWHERE if what == "its cgroup" and isinstance(error, PermissionError) else ""
        os.write(reports, f"!{what} can't be had: {error.strerror}{hint}".encode("utf-8", "replace"))


def _become(
    target: Target, spec: ServiceSpec, argv: tuple[str, ...], stdio: tuple[int, int, int] | spawn.Terminal, reports: int, parent: int
) -> None:
    """In the command's process: nothing but system calls, and Python that is here already."""
    if select.select([parent], [], [], 0)[0]:
        return
    given = (stdio.socket_fd, max(stdio.spare_fd, 0)) if isinstance(stdio, spawn.Terminal) else stdio
    sys.path[:] = []
    process.close_all_but({0, 1, 2, reports, *given})
    with contextlib.suppress(OSError):  # a kernel without keys
        process.join_session_keyring()
    for number, name in enumerate(caps.NAMES):
        if name not in target.capabilities:
            with contextlib.suppress(OSError):  # this kernel does not know it
                process.prctl(caps.PR_CAPBSET_DROP, number)
    caps.keep_only((*target.capabilities, *_STEPS))
    os.umask(0o022)
    # From here on the image may be looked at.
    user = users.find_user(spec.user)
    gid = users.find_group(spec.group) if spec.group else user.gid if user else None
    if user is None or gid is None:
        missing = f"user {spec.user} is not in /etc/passwd" if user is None else f"group {spec.group} is not in /etc/group"
        os.write(reports, f"!{missing}: add it to the image, or name another".encode("utf-8", "replace")[:_MOST_TEXT])
        return
    argv = argv or (_shell(user.shell),)
    groups = {gid} if spec.groups == () else {gid, *users.groups_of(user)}
    environment = {
        "PATH": DEFAULT_PATH, "HOME": user.home, "USER": user.name, "LOGNAME": user.name, "SHELL": user.shell, "container": "pyinit",
        **dict(target.basis.environment), **dict(spec.environment),
    }  # fmt: skip
    limits = {number: (number, soft, hard) for number, soft, hard in target.rlimits}
    for name, soft, hard in spec.process.rlimits:
        number = getattr(resource, f"RLIMIT_{name.upper()}")
        hard = _lower(hard, limits[number][2]) if number in limits else hard
        limits[number] = (number, _lower(soft, hard), hard)
    terminal = stdio if isinstance(stdio, spawn.Terminal) else None
    streams = (0, -1, -1) if isinstance(stdio, spawn.Terminal) else stdio
    spawn.run_here(
        spawn.Child(
            argv=argv,
            path=spawn.find_program(argv[0], environment["PATH"]),
            environment=environment,
            stdin_fd=streams[0],
            output_fd=streams[1],
            error_fd=streams[2],
            uid=user.uid,
            gid=gid,
            groups=tuple(sorted(groups)) if target.may_set_groups or user.uid else None,
            umask=spec.umask,
            working_directory=spec.working_directory,
            rlimits=tuple(limits.values()),
            no_new_privileges=spec.process.no_new_privileges or target.no_new_privileges,
            terminal=terminal,
            filter=spec.process.seccomp.program,
            death_signal=_HUP,
        ),
        reports,
    )


def _shell(of_root: str) -> str:
    return next((path for path in (of_root, *_SHELLS) if os.access(path, os.X_OK) and not os.path.isdir(path)), of_root)


def await_exec(inside: Inside, argv: tuple[str, ...]) -> None:
    """LaunchError, or ControlError with the code that a shell would have, for what was not executed."""
    with open(inside.status_fd, "rb") as file:
        data = file.read()
    if not data and inside.pidfd >= 0:
        return
    if not data:
        raise LaunchError("enter: it was killed on its way in: is there memory left in the container?")
    if data.startswith(b"!"):
        raise LaunchError(f"enter: {data[1:].decode('utf-8', 'replace')}")
    stage, number = spawn.read_failure(data)
    if stage == "exec":
        hint = "; is it in the image?" if number == 2 else ""
        code = EXIT_NOT_FOUND if number == 2 else EXIT_NOT_EXECUTABLE
        raise ControlError(f"enter: cannot execute {argv[0] if argv else 'a shell'}: {os.strerror(number)}{hint}", exit_code=code)
    if stage == "tty":
        raise LaunchError(f"enter: no terminal can be had at {pty.FOLDER}: {os.strerror(number)}")
    raise LaunchError(f"enter: {stage} failed before exec: {os.strerror(number)}")


def exit_code(inside: Inside) -> int:
    """Of a command that has ended, which is waited for."""
    found = os.waitid(os.P_PIDFD, inside.pidfd, os.WEXITED)
    assert found is not None
    return found.si_status if found.si_code == os.CLD_EXITED else 128 + found.si_status


def forwarder(inside: Inside) -> Callable[[int], None]:
    """Of signals."""

    def forward(number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.pidfd_send_signal(inside.pidfd, number)

    return forward


def hang_up(inside: Inside) -> None:
    """We leave, and it may be there still."""
    for number in (_HUP, _CONT):
        with contextlib.suppress(ProcessLookupError):
            process.pidfd_send_signal(inside.pidfd, number)
