"""PID 1 runs from read-only, detached copies of interpreter and package, and is born early.

Owns its birth: the copies, the clone with its namespaces, the exec, and what is carried over it. Must not know configs'
meaning. Laws: `/proc/1/exe` of a container is on a read-only mount; after the pivot every import comes from these fds,
which no service has; no word and no variable of the host's is in its command line or environment.

Python takes longer to start than all the rest: so PID 1 starts while the launcher reads on, makes the groups and has the
root built (launcher.py). All that it needs for that comes by fds: its code, the config, one end of the channel.
"""

import errno
import os
import sys
from _collections_abc import Callable

from pyinit.bundle import Bundle
from pyinit.errors import LaunchError
from pyinit.linux import mount, namespaces, process
from pyinit.linux import sock as socket
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.launch.users import Mapped
    from pyinit.model import Container

_ATTRIBUTES = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
# No locale, no zone of the host's: there are none of ours in an image.
_ENVIRONMENT = {"LC_ALL": "C", "PYTHONUTF8": "1", "PYTHONCOERCECLOCALE": "0", "TZ": "UTC0"}


class Born:
    """A PID 1 that waits to be told of its container (inside.py); `channel` is the monitor's end."""

    def __init__(self, pid: int, pidfd: int, channel: socket.socket) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel
        self.ids: Mapped | None = None  # of one in a user namespace
        self.root_fd = -1  # of the mount namespace that it joins in the place of a pivot
        self.pid_space = -1  # the pid namespace of somebody else's that it is in

    def end(self) -> None:
        """Kill and reap it, and give back what we have of it; once is enough."""
        if self.pidfd < 0:
            return
        process.pidfd_send_signal(self.pidfd, 9)
        os.waitpid(self.pid, 0)
        self.close()

    def close(self) -> None:
        """It is reaped; once is enough."""
        if self.pidfd < 0:
            return
        self.channel.close()
        os.close(self.pidfd)
        if self.ids is not None:
            os.close(self.ids.fd)
        if self.pid_space >= 0:
            os.close(self.pid_space)
        self.let_root_go()
        self.pidfd = -1

    def let_root_go(self) -> None:
        """Held longer, it would keep the other's mounts from ending."""
        if self.root_fd >= 0:
            os.close(self.root_fd)
            self.root_fd = -1


def flags_of(box: "Container") -> int:
    """Of clone(2): the namespaces that it is born into. Its cgroup one comes when it stands in its group, which that takes as root;
    its clocks are set before it is born.
    """
    wanted = {name for name in box.namespaces if name not in ("cgroup", "time")} - ({"net"} if box.network.mode == "host" else set())
    return sum(namespaces.CLONE_FLAGS[name] for name in wanted)


def start(flags: int, config: bytes, code: Bundle, birth: Callable[[int], tuple[int, int]] = process.clone) -> Born:
    """One thread, signals blocked. OSError for copies that can't be made, and of clone(2), or what is `birth` instead."""
    prefix = os.path.realpath(sys.base_prefix)
    program = os.path.realpath(sys.executable)
    if not program.startswith(prefix + "/"):
        raise LaunchError(f"the interpreter {program} lies outside its prefix {prefix}: use one that is whole")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        tree, package, bundle = mount.detached_copy(prefix, _ATTRIBUTES), mount.detached_copy(code.folder, _ATTRIBUTES), _copy_file(code, is_of_all=birth is not process.clone)
    except OSError as error:
        raise OSError(error.errno, f"a read-only copy of the interpreter: {error.strerror}") from error
    carried = os.memfd_create("pyinit-config", os.MFD_CLOEXEC)
    os.write(carried, config)
    home = f"/proc/self/fd/{tree}"
    option = f"pyinit=/proc/self/fd/{package},{theirs.fileno()},{carried}"
    words = ["pyinit", "-P", "-s", "-S", "-B", "-X", option, f"/proc/self/fd/{bundle}"]
    environment = {"PYTHONHOME": home, **_ENVIRONMENT}
    program = home + program.removeprefix(prefix)
    fds = (tree, package, bundle, carried, theirs.fileno())
    try:
        pid, pidfd = birth(flags)
        if pid == 0:
            _exec(program, words, environment, fds)
    finally:
        theirs.close()
        for fd in fds[:-1]:
            os.close(fd)
    return Born(pid, pidfd, ours)


def _exec(program: str, words: list[str], environment: dict[str, str], fds: tuple[int, ...]) -> None:
    """In the child: nothing of ours but `fds` is carried over."""
    try:
        os.setsid()
        process.close_from(3)
        for fd in fds:
            os.set_inheritable(fd, True)  # noqa: FBT003 - no keywords there
        os.execve(program, words, environment)
    except OSError as error:
        os.write(fds[-1], f"!the read-only copy of the interpreter: {error.strerror}".encode())
    finally:
        os._exit(111)


def _copy_file(code: Bundle, *, is_of_all: bool) -> int:
    """A file on a mount of its own, or a sealed memfd, which lies on none; the old mount API can't bind what is known by its fd alone.

    `is_of_all`: who reads it may be another than root, whose the file is.
    """
    if os.readlink(f"/proc/self/fd/{code.fd}").startswith("/memfd:"):
        return os.dup(code.fd)
    if not is_of_all and not mount.refused_mounts() and os.fstat(code.fd).st_nlink:  # another start may have put a new one in its place
        try:
            return mount.detached_copy(f"/proc/self/fd/{code.fd}", _ATTRIBUTES)
        except OSError as error:
            if error.errno != errno.EINVAL:  # else it was opened in another mount namespace: an ordinary user has one of his own by now
                raise
    return sealed(code.of_inside(), "pyinit-code")


def sealed(source: int | bytes, name: str) -> int:
    """A memfd with it, or with what is in the file behind it, which nobody can write to any more."""
    import fcntl  # for those few

    memory = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    if isinstance(source, int):
        while os.sendfile(memory, source, os.lseek(memory, 0, os.SEEK_CUR), 1 << 24):
            pass
    else:
        while source:
            source = source[os.write(memory, source) :]
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    return memory
