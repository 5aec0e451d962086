"""A container that stands in another's root: what it leaves there, and whether the other has ended.

Owns the removal of its folder in that root. Must not know what is in it. Laws: whose root it is may put anything in the way:
no link is followed there, only a child of ours goes in, and it has a deadline; a namespace is held no longer than that.
"""

import errno
import os
import select

from pyinit import scopes as contextlib
from pyinit.launch.journals import Note
from pyinit.linux import mount, namespaces, process
from pyinit.model import guest_folder

_PATIENCE_S, _AFTER_KILL_S = 5.0, 1.0  # for the removal of what a container has written
_TURN_S = 0.02
_KILL = 9


def note(root_fd: int, name: str, write: Note) -> None:
    """Of the journal: the folder there, and the mount namespace's number."""
    write("guest", f"{guest_folder(name)}\t{os.fstat(root_fd).st_ino}")


def leave(line: str) -> None:
    """Remove the folder, if somebody still is in that mount namespace; OSError if it stays."""
    folder, _, number = line.partition("\t")
    fd = _find(int(number))
    if fd < 0:
        return
    try:
        pid, pidfd = process.clone(0)
        if pid == 0:
            _clear(fd, folder)
    finally:
        os.close(fd)
    try:
        if not select.select([pidfd], [], [], _PATIENCE_S)[0]:
            process.pidfd_send_signal(pidfd, _KILL)
            select.select([pidfd], [], [], _AFTER_KILL_S)
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)  # it may hang in the kernel
    finally:
        os.close(pidfd)
    if found is None or found.si_code != os.CLD_EXITED:
        raise OSError(errno.ETIMEDOUT, f"not removed within {_PATIENCE_S:g} s; remove it in the root of the other container")
    if found.si_status:
        raise OSError(found.si_status, f"{os.strerror(found.si_status)}; remove it in the root of the other container")


def _find(number: int) -> int:
    """fd of the mount namespace of that number, by a process that is in it and none of ours; -1 without one."""
    if number == os.stat("/proc/self/ns/mnt").st_ino:
        return -1
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # it is gone, or not to be looked at
                fd = os.open(f"/proc/{name}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
                if os.fstat(fd).st_ino == number:
                    return fd
                os.close(fd)
    return -1


def _clear(fd: int, folder: str) -> None:
    """In the child; leaves with errno, or 0."""
    code = errno.EIO
    try:
        namespaces.enter(fd, namespaces.CLONE_FLAGS["mount"])
        above, _, name = folder.rpartition("/")
        place = mount.open_plainly(above, os.O_PATH | os.O_DIRECTORY)
        _remove(place, name)
        code = 0
    except OSError as error:
        code = 0 if error.errno == errno.ENOENT else min(error.errno or errno.EIO, 255)
    finally:
        os._exit(code)


def _remove(place: int, name: str) -> None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    except NotADirectoryError:  # a link is none either
        os.unlink(name, dir_fd=place)
        return
    try:
        for entry in os.listdir(fd):
            _remove(fd, entry)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=place)


def has_ended(pid_space: int, patience_s: float) -> bool:
    """Whether no process can be born in a pid namespace any more."""
    waits = int(patience_s / _TURN_S)
    while not (found := _is_over(pid_space)) and waits:
        select.select([], [], [], _TURN_S)
        waits -= 1
    return found


def _is_over(pid_space: int) -> bool:
    """ENOMEM: its PID 1 has gone (pid_namespaces(7))."""
    pid, pidfd = process.clone(0)
    if pid == 0:
        code = 0
        try:
            namespaces.enter(pid_space, namespaces.CLONE_FLAGS["pid"])
            inner, inner_fd = process.clone(0)
            if inner:
                os.waitid(os.P_PIDFD, inner_fd, os.WEXITED)
        except OSError as error:
            code = 1 if error.errno == errno.ENOMEM else 0
        finally:
            os._exit(code)
    try:
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    finally:
        os.close(pidfd)
    return found is not None and found.si_status == 1 and found.si_code == os.CLD_EXITED
