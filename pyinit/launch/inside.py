"""PID 1 from its birth to the moment that it is the init.

Owns its side of the launch. Must not know how the root is built (apply.py) or what is made on the host (launcher.py).
Laws: all that the init may need is loaded before the pivot; from there on no word, no path and no open file of the host's
is left, and every import comes from the copies (clone.py). Who stands in another's root joins that in the place of the pivot.

The channel: the launcher says where the container is made (`Facts`, with the lock, the control socket and the folders),
and, once it is, b"go" (in a user namespace with the root itself, or with the mount namespace of another's); we say b"built" or an error's text, which begins with "!" if it has no line of the config yet.
What comes after is launcher.py's.
"""

import errno
import gc
import marshal
import os
import sys
import zlib  # noqa: F401 - its C library is loaded with it: after the pivot that would be the image's, for a log's gzip
from _collections_abc import Callable

from pyinit.bundle import LATER_INSIDE, Bundle
from pyinit.config import cache
from pyinit.errors import EXIT_SYSTEM, LaunchError, PyinitError
from pyinit.importer import Importer
from pyinit.init.pid1 import Endpoints, Init
from pyinit.linux import caps, cgroup, mount, namespaces, process, seccomp
from pyinit.linux import sock as socket
from pyinit.linux.fds import receive
from pyinit.model import Config, Container, root_of
from pyinit.records import NamedTuple

MOST_TEXT = 8192
_MOST_FDS = 200
_KILL = 9
_SAVED_GID = 65534
INIT_LEAF = "init"
INSIDE_SOCKET = "/run/pyinit/control.sock"


class Facts(NamedTuple):
    """What the launcher has made: the container's group of v2, or "", and those of v1 by controller; we stand in them."""

    staging: str  # the folder whose `root` becomes ours
    unified: str
    v1_places: dict[str, str]
    shows_groups: bool  # by a mount of cgroup2
    waits: bool  # for another b"go", after b"built"


def main(code: Bundle) -> int:
    """The exit code of the container."""
    package, channel_fd, config_fd = sys._xoptions["pyinit"].split(",")
    channel = socket.socket(fileno=int(channel_fd))
    built: list[bool] = []  # not empty from b"built" on: then the launcher listens no more
    try:
        return _run(package, channel, int(config_fd), code, built)
    except BaseException as error:  # noqa: BLE001 - the process's edge
        _say_why(error, channel, built=bool(built))
        return EXIT_SYSTEM


def _differ() -> None:
    """No root of a service is the same as we (prlimit(2), ptrace(2)); an exec takes it away."""
    try:
        os.setresgid(-1, -1, _SAVED_GID)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        with open("/proc/self/gid_map") as file:  # of a small user namespace: its last one, which may be root's, the only one
            rows = [line.split() for line in file]
        os.setresgid(-1, -1, max(int(first) + int(count) - 1 for first, _, count in rows))


def _say_why(error: BaseException, channel: socket.socket, *, built: bool) -> None:
    """To the launcher, or, if that listens no more, to those who read our output."""
    text = str(error) if isinstance(error, PyinitError) else f"!{_words(error)}"
    if not built:
        try:
            channel.send(text.encode("utf-8", "replace")[:MOST_TEXT])
        except OSError:
            pass
        else:
            return
    os.write(2, f"pyinit: the init can't start: {text.removeprefix('!')}\n".encode("utf-8", "replace"))


def _words(error: BaseException) -> str:
    if not isinstance(error, OSError):
        return f"internal error: {type(error).__name__}: {error}"
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)


def _run(package: str, channel: socket.socket, config_fd: int, code: Bundle, built: list[bool]) -> int:
    if os.getpid() != 1:  # others see us
        _shut_ourselves()
    process.set_name("pyinit")
    for fd in (os.environ["PYTHONHOME"].split("/")[4], package.split("/")[4], channel.fileno()):
        os.set_inheritable(int(fd), False)  # noqa: FBT003 - no keywords there
    config = cache.unpack(os.pread(config_fd, os.fstat(config_fd).st_size, 0))
    if any(spec.log.to not in ("null", "inherit") for spec in config.services):
        code.load("logs")
    box = config.container
    assert box is not None
    if os.getpid() != 1:  # in a pid namespace of somebody else's: orphans come to us all the same
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    data, fds = receive(channel, MOST_TEXT * 8, _MOST_FDS)
    if not data:
        return EXIT_SYSTEM  # the launcher has failed, or is gone
    lock_fd, control_fd, *folder_fds = fds
    facts = Facts(*marshal.loads(data))
    v1_fds = {name: os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for name, place in facts.v1_places.items()}
    cgroup_fd = _enter_groups(box, facts)
    word, root_fds = receive(channel, 16, 1)
    if word != b"go":
        return EXIT_SYSTEM  # it is gone before there was anything to stop
    if os.getpid() == 1:  # now: who made us has no more to do in our namespaces, which without CAP_SYS_PTRACE it could not either
        _shut_ourselves()
    _do_own_steps(box, facts, root_fds)
    sys.meta_path.insert(0, Importer(code.fd, code.later(LATER_INSIDE)))
    _shut_the_host_out({channel.fileno(), lock_fd, control_fd, *folder_fds, max(cgroup_fd, 0), *v1_fds.values()})
    warnings, program = _limit(config) if box.init else ([], b"")
    channel.send(b"built")
    built.append(True)
    if facts.waits and channel.recv(16) != b"go":
        return EXIT_SYSTEM
    if box.init:
        for warning in warnings:
            print(f"pyinit: {warning}", file=sys.stderr)
        return _exec_init(box, channel, program)
    gc.enable()
    gc.freeze()  # what a start has made stays: no collection has to look at it
    endpoints = Endpoints(
        channel_fd=channel.fileno(), cgroup_fd=cgroup_fd, v1_fds=v1_fds, listen_fds=(control_fd,),
        container="pyinit", control_path=config.init.control_socket or INSIDE_SOCKET,
    )  # fmt: skip
    return Init(config, endpoints).run()


def _shut_ourselves() -> None:
    """Before there is any process but ours: nobody looks into our memory and files, or traces us."""
    process.prctl(process.PR_SET_DUMPABLE, 0)
    _differ()


def _limit(config: Config) -> tuple[list[str], bytes]:
    from pyinit.launch import rlimits  # for an init of the image

    return rlimits.limit_ourselves(config)


def _enter_groups(box: Container, facts: Facts) -> int:
    """fd of the container's own v2 group, opened while the mount that it is on can be written."""
    if "cgroup" in box.namespaces:  # what we stand in is its root
        namespaces.unshare(namespaces.CLONE_FLAGS["cgroup"])
    if not facts.unified:
        return -1
    fd = os.open(facts.unified, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if cgroup.read_at(fd, "cgroup.controllers").strip():  # else there is nothing that could be handed down, and the move takes long
        leaf = f"{facts.unified}/{INIT_LEAF}"  # so that groups of services may be made and given controllers beside it
        try:
            os.mkdir(leaf)
        except FileExistsError:
            pass
        cgroup.write(leaf, "cgroup.procs", "0")
    return fd


def _do_own_steps(box: Container, facts: Facts, root_fds: list[int]) -> None:
    """The plan's `own`, in its order."""
    root = root_fds[0] if root_fds else os.open(f"{facts.staging}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    steps: list[Callable[[], None]] = [_join_keyring]
    steps += [lambda: _mount_groups(root, facts)] if facts.shows_groups else []
    steps += [lambda: _pivot(root) if root_of(box) is None else _join_root(root), lambda: _limit_capabilities(box)]
    for number, step in enumerate(steps):
        try:
            step()
        except OSError as error:
            from pyinit.launch import plan
            from pyinit.launch.explain import explain

            raise LaunchError(explain(plan.own(box)[number], error)) from error


def _join_keyring() -> None:
    """Who may not ask for one (a seccomp filter of what started us), or has a kernel without keys, shows services none either."""
    try:
        process.join_session_keyring()
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES):
            raise


def _mount_groups(root: int, facts: Facts) -> None:
    if mount.refused_mounts():
        os.mkdir(f"{facts.staging}/own")
        mount.use_staging(f"{facts.staging}/own")
    attributes = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC
    tree = mount.new_filesystem("cgroup2", {}, attributes=attributes)
    place = mount.open_in_root(root, "/sys/fs/cgroup")
    mount.move_mount(tree, place)
    os.close(place)
    os.close(tree)


def _pivot(root: int) -> None:
    os.fchdir(root)
    mount.pivot_to_cwd()
    os.close(root)


def _join_root(fd: int) -> None:
    """setns(2): its root is ours then, and where we stand. OSError, if that is no place for us."""
    from pyinit.launch import held  # for those few

    held.install()
    namespaces.enter(fd, namespaces.CLONE_FLAGS["mount"])
    os.close(fd)
    try:
        with open("/proc/self/status", "rb", buffering=0) as file:
            is_procfs = mount.filesystem_magic(file.fileno()) == mount.PROC_SUPER_MAGIC
            numbers = next(line.split()[1:] for line in file.read(MOST_TEXT).split(b"\n") if line.startswith(b"NSpid:")) if is_procfs else []
    except (FileNotFoundError, NotADirectoryError):
        numbers = []
    if len(numbers) != 1:  # from the pid namespace of that procfs down to ours (proc_pid_status(5))
        raise OSError(errno.EXDEV, "/proc there is not that of the pid namespace in share: share the pid namespace of the same one")


def _limit_capabilities(box: Container) -> None:
    caps.limit_bounding_set(box.security.capabilities)
    caps.clear_inheritable()


def _shut_the_host_out(kept: set[int]) -> None:
    process.close_all_but({0, 1, 2, *kept})
    os.environ.clear()
    sys.path_importer_cache.clear()
    sys.argv[:] = ["pyinit"]
    os.umask(0o022)
    os.environ["TZ"] = "UTC0"  # else the C library would read the image's /etc/localtime


def _exec_init(box: Container, channel: socket.socket, program: bytes) -> int:
    """`[container] init`: a program of the image takes over, with what the container may have and no more."""
    path = box.init
    if not box.orphan:  # it can't see the end of our channel, and may not heed anything but KILL
        process.prctl(process.PR_SET_PDEATHSIG, _KILL)
    process.set_signal_mask([])
    if box.security.no_new_privileges:
        process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    process.close_from(3)
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "container": "pyinit"}
    what, at = "seccomp", box.security.seccomp.origin
    try:
        if program:
            seccomp.install(seccomp.prepare(program))
        what, at = f"init {path} of the image", box.origin
        os.execve(path, [path], environment)
    except OSError as error:
        channel.send(b"failed")
        text = f"{at}: {what}: {error.strerror}"
        print(f"pyinit: {text}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126
