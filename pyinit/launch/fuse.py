"""A FUSE program: the mount is ours, what answers in it is the program's.

Owns how the two are tied together and the program's words, and what all programs that serve a container have in common. Must not know when it is started again (keeper.py). Laws: the
program gets its mount as `/dev/fd/3`, as libfuse from 3.3 on takes it, so it needs no mount point, no right to mount and
no place in the container; it lives in the host's namespaces, and ends by itself when the container's mounts have gone.
Source: the kernel's Documentation/filesystems/fuse.rst; mount.fuse3(8), drop_privileges.
"""

import errno
import os
import select

from pyinit.linux import mount, process
from pyinit.linux.programs import find_program
from pyinit.model import FUSE, Mount

_FD = 3
_KERNELS = ("max_read", "blksize")  # options that the kernel is to know, too
_DEFAULTS: dict[str, tuple[tuple[str, str | None], ...]] = {
    # A server that is away for a while is waited for; nobody is there to type a password.
    "sshfs": (("reconnect", None), ("ServerAliveInterval", "15"), ("ServerAliveCountMax", "3"), ("BatchMode", "yes")),
}
_KILL = 9
_ENDING_S = 1.0
_MOST_LINE = 4096
_KEPT_LINES = 3  # ssh says why, then sshfs that it did not come to be
_SIGNALS = [number for number in range(1, 32) if number not in (9, 19)]


class Served:
    """A program on the host that the container needs, through all its lives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.pidfd = -1
        self.errors = -1  # what it says, to be read without blocking
        self.last_lines: list[str] = []
        self._partial = b""

    def read(self) -> list[str]:
        """New lines of its output, the last of which are kept."""
        try:
            data = os.read(self.errors, 1 << 16)
        except BlockingIOError:
            return []
        whole, _, self._partial = (self._partial + data)[-_MOST_LINE:].rpartition(b"\n")
        if not data:
            whole, self._partial = whole + self._partial, b""
        lines = [line for line in whole.decode("utf-8", "replace").splitlines() if line.strip()]
        self.last_lines = [*self.last_lines, *lines][-_KEPT_LINES:]
        return lines

    def kill(self) -> None:
        """SIGKILL, if it is there."""
        if self.pidfd >= 0:
            try:
                process.pidfd_send_signal(self.pidfd, _KILL)
            except ProcessLookupError:
                pass

    def close(self) -> None:
        """Forget the life that has ended."""
        for fd in (self.pidfd, self.errors):
            if fd >= 0:
                os.close(fd)
        self.pid, self.pidfd, self.errors, self._partial = 0, -1, -1, b""


class Program(Served):
    """One of FUSE's."""

    def __init__(self, entry: Mount, hidden: frozenset[str] = frozenset()) -> None:
        """`hidden`: variables of ours that are not its business."""
        super().__init__(entry.type.removeprefix(FUSE))
        self._hidden = hidden
        self.entry = entry

    def start(self) -> int:
        """Start it over a new mount, whose fd is the caller's; OSError."""
        path = find_program(self.name, os.environ)
        if not path:
            raise OSError(errno.ENOENT, f"there is no program {self.name} in the PATH; install it")
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            tree = mount.new_filesystem("fuse", self._kernel_options(device))
            try:
                self._spawn(path, device)
            except BaseException:
                os.close(tree)
                raise
        finally:
            os.close(device)  # the program's is the only one, so its death is the end of the connection
        return tree

    def _kernel_options(self, device: int) -> dict[str, str | None]:
        own = {name: value for name, value in self.entry.options if name in _KERNELS}
        return {
            "source": self.entry.source, "subtype": self.name, "fd": str(device), "rootmode": "40000", "user_id": "0", "group_id": "0",
            "allow_other": None, "default_permissions": None, **own,
        }  # fmt: skip

    def words(self) -> list[str]:
        """Its command line."""
        given = {name for name, _ in self.entry.options}
        options = [*((name, value) for name, value in _DEFAULTS.get(self.name, ()) if name not in given), *self.entry.options]
        said = ",".join(name if value is None else f"{name}={value}" for name, value in options)
        return [self.name, self.entry.source, f"/dev/fd/{_FD}", "-f", *(["-o", said] if said else [])]

    def _spawn(self, path: str, device: int) -> None:
        self.close()
        errors, theirs = os.pipe()
        os.set_blocking(errors, False)
        try:
            self.pid = os.posix_spawn(
                path, self.words(), {name: value for name, value in os.environ.items() if name not in self._hidden}, setsid=True, setsigmask=[], setsigdef=_SIGNALS,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, theirs, 1),
                    (os.POSIX_SPAWN_DUP2, theirs, 2),
                    (os.POSIX_SPAWN_DUP2, device, _FD),
                ],
            )  # fmt: skip
        except BaseException:
            os.close(errors)
            raise
        finally:
            os.close(theirs)
        self.errors = errors
        self.pidfd = os.pidfd_open(self.pid)


def await_root(tree: int) -> int:
    """pidfd of a child that ends with 0 once the root of the mount answers: who asks a program that does not is held up."""
    pid, pidfd = process.clone(0)
    if pid == 0:
        try:
            os.stat(f"/proc/self/fd/{tree}/.")
            os._exit(0)
        except OSError as error:
            os._exit(min(error.errno or 1, 255))
        finally:
            os._exit(255)
    return pidfd


def identity(pid: int) -> str:
    """The process's number and birth, for a journal: proc_pid_stat(5), field 22, since the boot that it counts from: a journal may outlive that."""
    with open(f"/proc/{pid}/stat") as file, open("/proc/sys/kernel/random/boot_id") as boot:
        return f"{pid} {file.read().rpartition(') ')[2].split()[19]} {boot.read().strip()}"


def kill_again(value: str) -> None:
    """Undo: end the process of that identity, if it is still there, and what it had is free."""
    pid = int(value.partition(" ")[0])
    try:
        if identity(pid) == value:
            pidfd = os.pidfd_open(pid)
            try:
                if identity(pid) == value:  # of the process that the fd holds
                    process.pidfd_send_signal(pidfd, _KILL)
                    select.select([pidfd], [], [], _ENDING_S)
            finally:
                os.close(pidfd)
    except (FileNotFoundError, ProcessLookupError):
        return
