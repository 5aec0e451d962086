"""PID 1's birth where more than new namespaces is asked for: some are joined, or it has ids of its own.

Owns the midwife, a child of ours that joins what is to be joined and bears PID 1 there as our child, and the gate that PID 1
waits at until its ids are mapped. Must not know what a launch makes next. Laws: this process itself stays where it is; a
namespace is held by an fd from when it is known whose it is, so no number can become another's meanwhile; what fails
here fails before PID 1 has run a line of its own.
"""

import errno
import os
import select

from pyinit import scopes as contextlib
from pyinit.bundle import Bundle
from pyinit.config import cache
from pyinit.control import places
from pyinit.launch import clone, onhost, plan, users
from pyinit.launch.tracing import Trace, carried_out, explained
from pyinit.linux import namespaces, process
from pyinit.model import Config, Shared

_ORDER = ("net", "ipc", "uts", "cgroup", "time", "pid", "user")  # who is in another's user namespace may not join what we may
_FILES = {"mount": "mnt"}  # as /proc/PID/ns has it
_REFUSED = {
    errno.EPERM: "it takes CAP_SYS_ADMIN in the user namespace that it belongs to: run pyinit where that is, or as root",
    errno.EINVAL: "it is ours already, or, of pid, not below our own: take it out of share",
    errno.EUSERS: "this process has more than one thread",
}


def bear(config: Config, code: Bundle, trace: Trace) -> clone.Born:
    """PID 1, with its ids; LaunchError."""
    box = config.container
    assert box is not None
    whole = plan.make(config)
    steps, root = whole.host, next((step for step in whole.own if isinstance(step, onhost.JoinNamespace)), None)
    joined: dict[str, int] = {}
    root_fd = -1
    birth: _Birth | None = None
    born: clone.Born | None = None
    try:
        for step in steps:
            match step:
                case onhost.JoinNamespace():
                    with carried_out(step, trace):
                        joined[step.shared.kind] = _open(step)
                case onhost.SetClocks():
                    with carried_out(step, trace):
                        joined["time"] = _clocks(step)
                case onhost.Isolate():
                    if root is not None:
                        with explained(root):  # it is carried out by PID 1
                            root_fd = _open_root(root, joined)
                    with carried_out(step, trace):
                        birth = _Birth(joined, has_ids="user" in joined or "user" in box.namespaces)
                        born = clone.start(clone.flags_of(box), cache.pack(config), code, birth)
                    born.root_fd, root_fd = root_fd, -1
                    born.pid_space = os.dup(joined["pid"]) if "pid" in joined else -1
                case onhost.MapUsers() if not box.rootless:  # else it is the launcher's own, and done
                    assert born is not None
                    with carried_out(step, trace):
                        users.write_map(born.pid, step.users.ranges)
        assert born is not None and birth is not None
        with explained(next(step for step in steps if isinstance(step, onhost.Isolate))):
            if birth.has_ids:
                born.ids = users.of(born)
            birth.open_gate()
    except BaseException:
        if born is not None:
            born.end()
        raise
    finally:
        if birth is not None:
            birth.close()
        for fd in (*joined.values(), *([root_fd] if root_fd >= 0 else [])):
            os.close(fd)
    return born


def _open_root(step: onhost.JoinNamespace, joined: dict[str, int]) -> int:
    """fd of a mount namespace that PID 1, with what it joins besides, may enter and shall; OSError, LaunchError."""
    fd = _open(step)
    try:
        _check_root(step.shared, fd, joined)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_root(shared: Shared, fd: int, joined: dict[str, int]) -> None:
    """setns(2) takes capabilities in the user namespace that it belongs to. From above it could be entered, as a root that is not its own."""
    if os.fstat(fd).st_ino == os.stat("/proc/self/ns/mnt").st_ino:
        raise OSError(errno.EINVAL, "it is ours already, this host's own; take [container] out for services that are to stand in that root")
    try:
        owner = namespaces.user_of(fd)
    except PermissionError:
        raise OSError(errno.EINVAL, f"the mount namespace can't be joined: {_REFUSED[errno.EPERM]}") from None
    try:
        whose = os.fstat(owner).st_ino
    finally:
        os.close(owner)
    if whose == os.stat("/proc/self/ns/user").st_ino and "user" not in joined:
        return
    if "user" not in joined:
        add = f'"user:{shared.what}"' if shared.by != "path" else "the user namespace of the same one"
        raise OSError(errno.EINVAL, f"that root belongs to a user namespace of its own, and so must who stands in it: add {add} to share")
    if whose != os.fstat(joined["user"]).st_ino:
        raise OSError(errno.EINVAL, "that root belongs to another user namespace than the one in share; share that of the same one, or take user out if it has none")


def _clocks(step: onhost.SetClocks) -> int:
    try:
        return namespaces.time_namespace(step.offsets)
    except OSError as error:
        if error.errno == errno.ERANGE:
            raise OSError(errno.ERANGE, "a clock would stand before 0, or beyond 146 years; choose a smaller offset") from error
        if error.errno == errno.EINVAL:
            raise OSError(errno.EINVAL, 'this kernel has no time namespaces; take "time" out of namespaces') from error
        raise


def _open(step: onhost.JoinNamespace) -> int:
    """fd of the namespace; OSError, LaunchError."""
    shared = step.shared
    if shared.by == "path":
        fd = os.open(shared.what, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    else:
        fd = _of_process(step, _pid_of(step) if shared.by == "container" else int(shared.what))
    try:
        kind = namespaces.kind_of(fd)
    except OSError as error:
        os.close(fd)
        raise OSError(errno.EINVAL, f"{shared.what} is no namespace; give one, such as /proc/PID/ns/{_FILES.get(shared.kind, shared.kind)} or a bind of it") from error
    if kind != shared.kind:
        os.close(fd)
        raise OSError(errno.EINVAL, f"{shared.what} is a {kind} namespace; give a {shared.kind} one, or write {kind}:{shared.what}")
    return fd


def _of_process(step: onhost.JoinNamespace, pid: int) -> int:
    """The number can't become another's between two looks at who has it."""
    shared = step.shared
    gone = OSError(errno.ESRCH, f"{_named(shared)} does not run; start it first")
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        raise gone from None
    try:
        if shared.by == "container" and _pid_of(step) != pid:
            raise gone
        try:
            fd = os.open(f"/proc/{pid}/ns/{_FILES.get(shared.kind, shared.kind)}", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            raise gone from None
        except PermissionError as error:
            why = "it takes CAP_SYS_PTRACE in the user namespace that it runs in: run pyinit where that is, or as root"
            raise OSError(error.errno, f"{_named(shared)} may not be looked at: {why}") from error
        if select.select([pidfd], [], [], 0)[0]:
            os.close(fd)
            raise gone
        return fd
    finally:
        os.close(pidfd)


def _pid_of(step: onhost.JoinNamespace) -> int:
    """PID 1's of a container whose lock is held."""
    what = step.shared.what
    found = next((one.pid for one in places.running() if one.name == what), 0)
    if not found:
        raise OSError(errno.ESRCH, f"{_named(step.shared)} does not run; start it first")
    return found


def _named(shared: Shared) -> str:
    return f"container {shared.what}" if shared.by == "container" else f"the process {shared.what}"


class _Birth:
    """Called as clone(2) would be: (pid, pidfd) in the launcher, (0, -1) in PID 1."""

    def __init__(self, joined: dict[str, int], *, has_ids: bool) -> None:
        self._joined = joined
        self.has_ids = has_ids
        self._gate, self._opener = os.pipe2(os.O_CLOEXEC) if has_ids else (-1, -1)

    def __call__(self, flags: int) -> tuple[int, int]:
        if not self._joined:
            pid, pidfd = process.clone(flags)
            if pid == 0:
                self._wait()
            return pid, pidfd
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        midwife, midwife_fd = process.clone(0)
        if midwife == 0:
            os.close(read_fd)
            return self._bear(flags, write_fd)
        os.close(write_fd)
        try:
            told = os.read(read_fd, 4096).decode()
        finally:
            os.close(read_fd)
            os.waitid(os.P_PIDFD, midwife_fd, os.WEXITED)
            os.close(midwife_fd)
        word, _, text = told.partition(" ")
        if word != "born":
            raise OSError(int(word or errno.EIO), text or "who was to bear PID 1 was killed")
        return int(text), os.pidfd_open(int(text))

    def _bear(self, flags: int, write_fd: int) -> tuple[int, int]:
        """In the midwife; goes on in PID 1 alone."""
        try:
            if "user" in self._joined and os.geteuid() == 0:
                namespaces.drop_groups()  # now: in a namespace where setgroups is denied we would keep those of the host's root
            for kind in _ORDER:
                if kind in self._joined:
                    self._join(kind)
            pid = self._clone(flags | process.CLONE_PARENT)
            if pid == 0:
                os.close(write_fd)
                self._wait()
                return 0, -1
            os.write(write_fd, b"born %d" % pid)
        except OSError as error:
            os.write(write_fd, f"{error.errno or errno.EIO} {error.strerror}".encode("utf-8", "replace")[:4096])
        except BaseException as error:  # noqa: BLE001 - the process's edge: nothing may unwind into the launcher's frames
            os.write(write_fd, f"{errno.EIO} internal error: {type(error).__name__}: {error}".encode("utf-8", "replace")[:4096])
        os._exit(0)

    def _clone(self, flags: int) -> int:
        try:
            return process.clone(flags)[0]
        except OSError as error:
            if error.errno != errno.ENOMEM or "pid" not in self._joined:
                raise
            raise OSError(errno.ESRCH, "the pid namespace that it joins has just ended (pid_namespaces(7)); start whose it is first") from None

    def _join(self, kind: str) -> None:
        try:
            namespaces.enter(self._joined[kind], namespaces.CLONE_FLAGS[kind])
        except OSError as error:
            why = _REFUSED.get(error.errno or 0, os.strerror(error.errno or 0))
            raise OSError(error.errno, f"the {kind} namespace can't be joined: {why}") from error

    def _wait(self) -> None:
        """In PID 1: until its ids are mapped, of which it takes root's."""
        if self._gate < 0:
            return
        os.close(self._opener)
        if os.read(self._gate, 1) != b".":
            os._exit(111)
        namespaces.become_root()

    def open_gate(self) -> None:
        if self._opener >= 0:
            with contextlib.suppress(BrokenPipeError):  # it is gone: its exit code says why
                os.write(self._opener, b".")

    def close(self) -> None:
        for fd in (self._gate, self._opener):
            if fd >= 0:
                os.close(fd)
