"""The builder: a fork of the launcher in PID 1's namespaces that makes the root.

Owns its life and what it does beside the plan's operations. Must not know what an operation does (apply.py). Laws: it
stands below PID 1, which takes it along when it ends; nobody who looks for the monitor finds it.
"""

import errno
import os

from pyinit import scopes as contextlib
from pyinit.errors import LaunchError, PyinitError
from pyinit.launch import apply
from pyinit.launch.clone import flags_of
from pyinit.linux import mount, namespaces, process
from pyinit.model import Container, root_of
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.launch.launcher import Launch

_KILL = 9
_MOST_TEXT = 8192


class Builder:
    """A fork of ours in PID 1's namespaces that makes the root; it is PID 1's to kill, too, for it stands below it."""

    def __init__(self, launch: "Launch") -> None:
        self._origin = launch.box.origin
        self._read, write_fd = os.pipe2(os.O_CLOEXEC)
        linked, self._linked = os.pipe2(os.O_CLOEXEC)
        # Not born in the container's group: CLONE_INTO_CGROUP kills the child where the two groups' kills differ in number (Linux 6.18).
        has_own = "pid" in launch.box.namespaces  # else the number may be somebody's, and PID 1's end ends nobody
        try:
            born = _by_a_midwife if launch.box.rootless else _by_us
            self._pid, self._pidfd = born(launch.born.pidfd, 2 if has_own else 0)
            if self._pid == 0:
                os.close(self._linked)
                os._exit(_build(launch, write_fd, linked))
        finally:
            for fd in (write_fd, linked):
                os.close(fd)

    def linked(self) -> None:
        """The network is there."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, and says why
            os.write(self._linked, b".")

    def wait(self) -> None:
        """Until it is done; LaunchError."""
        text = b""
        while data := os.read(self._read, _MOST_TEXT):
            text += data
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        if text or status:
            raise LaunchError(text.decode("utf-8", "replace") or f"{self._origin}: the container's builder ended while it made the root")

    def close(self) -> None:
        """End and reap it; once is enough."""
        os.close(self._read)
        os.close(self._linked)
        if self._pid:
            process.pidfd_send_signal(self._pidfd, _KILL)
            os.waitpid(self._pid, 0)
        os.close(self._pidfd)


class NoBuilder:
    """Of a container that stands in another's root and has nothing of its own to be set."""

    def linked(self) -> None:
        """The network is there."""

    def wait(self) -> None:
        """There is nothing to wait for."""

    def close(self) -> None:
        """There is nothing to end."""


def begin(launch: "Launch") -> Builder | NoBuilder:
    """One that is at work, if there is any."""
    return Builder(launch) if launch.steps.inside or flags_of(launch.box) & namespaces.CLONE_FLAGS["net"] else NoBuilder()


def _by_us(pidfd: int, inner_pid: int) -> tuple[int, int]:
    """A child in the pid namespace of the process behind `pidfd`, as clone(2); our own children are born in ours again."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    pid = made = -1
    try:
        namespaces.enter(pidfd, namespaces.CLONE_FLAGS["pid"])  # of our children, not our own
        pid, made = process.clone(0, inner_pid=inner_pid)
        return pid, made
    finally:
        if pid:  # in us
            _come_back(own, pid, made)
        os.close(own)


def _come_back(own: int, pid: int, pidfd: int) -> None:
    """PID 1's end waits for each of its namespace to be reaped: a child that nobody would know of does not stay."""
    try:
        namespaces.enter(own, namespaces.CLONE_FLAGS["pid"])
    except OSError:
        if pid > 0:
            process.pidfd_send_signal(pidfd, _KILL)
            os.waitpid(pid, 0)
            os.close(pidfd)
        raise


def _by_a_midwife(pidfd: int, inner_pid: int) -> tuple[int, int]:
    """The same for who may go in but not back, as an ordinary user."""
    told, tell = os.pipe2(os.O_CLOEXEC)
    midwife, midwife_fd = process.clone(0)
    if midwife == 0:
        try:
            namespaces.enter(pidfd, namespaces.CLONE_FLAGS["pid"])
            pid, _ = process.clone(process.CLONE_PARENT, inner_pid=inner_pid)
            if pid == 0:
                return 0, -1
            os.write(tell, b"%d" % pid)
        except OSError as error:
            os.write(tell, b"%d" % -(error.errno or errno.EIO))
        os._exit(0)
    os.close(tell)
    try:
        number = int(os.read(told, 16) or -errno.EIO)
    finally:
        os.close(told)
        os.waitid(os.P_PIDFD, midwife_fd, os.WEXITED)
        os.close(midwife_fd)
    if number < 0:
        raise OSError(-number, os.strerror(-number))
    return number, os.pidfd_open(number)


def _build(launch: "Launch", write_fd: int, linked: int) -> int:
    """In the builder."""
    box = launch.box
    flags = flags_of(box)
    try:
        if "pid" not in box.namespaces:
            process.prctl(process.PR_SET_PDEATHSIG, _KILL)
        launch.leave_to_the_monitor()
        # Not PID 1's user namespace: what is mounted there, and made as its root, is by this host's rights.
        namespaces.enter(launch.born.pidfd, (flags | _shared(box)) & ~(namespaces.CLONE_FLAGS["pid"] | namespaces.CLONE_FLAGS["user"]))
        if root_of(box) is not None:
            _stand_apart(launch.held.directory)
        launch.ids.become()
        if flags & namespaces.CLONE_FLAGS["net"]:
            namespaces.loopback_up()

        def await_network() -> None:
            if os.read(linked, 1) != b".":
                raise LaunchError(f"{box.network.origin}: the network was not made")

        await_it = await_network if launch.steps.network_first() else lambda: None
        builder = apply.Builder(launch.held.directory, launch.verified, launch.outside, launch.ids, await_it, launch.trace)
        builder.run(launch.steps.inside)
    except BaseException as error:  # noqa: BLE001 - the process's edge: nothing may unwind into the launcher's frames
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(write_fd, text_of(error, box).encode("utf-8", "replace")[:_MOST_TEXT])
        return 1
    return 0


def _stand_apart(staging: str) -> None:
    """PID 1 has no mounts of its own, and what the old mount API needs for a setting is no business of the host's, nor of the other's."""
    namespaces.unshare(namespaces.CLONE_FLAGS["mount"])
    if mount.refused_mounts():
        mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
        mount.mount("tmpfs", staging, "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, "mode=0700")
        mount.use_staging(staging)


def _shared(box: Container) -> int:
    """Those whose file systems and settings the builder sees to."""
    return sum(namespaces.CLONE_FLAGS[one.kind] for one in box.share if one.kind in ("net", "ipc", "uts"))


def text_of(error: BaseException, box: Container) -> str:
    """What people are told of an error that no operation of the plan has explained."""
    if isinstance(error, PyinitError):
        return str(error)
    if isinstance(error, ImportError):  # a library of a module's that can't be loaded now
        return f"{box.origin}: container {box.name}: {error}"
    if not isinstance(error, OSError):
        return f"internal error: {type(error).__name__}: {error}"
    where = f"{error.filename}: " if error.filename else ""
    return f"{box.origin}: container {box.name}: {where}{error.strerror}"
