"""Where running containers are found on a host.

Owns the folders and their meaning. Must not know what a container is made of. Laws: `lock` is held while monitor or
PID 1 lives, so a free one is a stale folder; without root nobody else's folder is trusted; no file in one is waited for,
since root may be shown another's.
"""

import fcntl
import os
import stat
from _collections_abc import Mapping

from pyinit import scopes as contextlib
from pyinit.errors import ControlError
from pyinit.records import NamedTuple

CONTROL_SOCKET = "control.sock"
_LONGEST_PATH = 107  # of a unix socket's address
INSIDE = "/run/pyinit/control.sock"
_TO_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_DIGITS = 20


class Running(NamedTuple):
    """A container or supervisor that runs here; `pid` is PID 1's as this host sees it, 0 while it starts."""

    name: str
    pid: int
    socket: str
    directory: str


_ours: list[str] = []


def keep_runtime_dir() -> None:
    """The folder stays what it is for whom we are now, whoever we become."""
    _ours[:] = [runtime_dir()]


def runtime_dir() -> str:
    """The folder of all of them; made, private, at the first use."""
    if _ours:
        return _ours[0]
    if os.geteuid() == 0 and (not os.environ.get("XDG_RUNTIME_DIR") or os.access("/run", os.W_OK)):  # root of a user namespace may not
        path = "/run/pyinit"
    elif os.environ.get("XDG_RUNTIME_DIR"):
        path = f"{os.environ['XDG_RUNTIME_DIR']}/pyinit"
    else:
        path = f"/tmp/pyinit-{os.geteuid()}"
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        seen = os.lstat(path)
    except OSError as error:
        raise ControlError(f"{path} can't be made: {error.strerror}; set XDG_RUNTIME_DIR to a folder of your own") from error
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
        raise ControlError(f"{path} is not a folder of ours alone: remove it, or set XDG_RUNTIME_DIR")
    return path


def container_dir(name: str) -> str:
    """Of one name."""
    return f"{runtime_dir()}/{name}"


def running() -> list[Running]:
    """Those that run, by name."""
    base = runtime_dir()
    found = []
    for name in sorted(os.listdir(base)):
        directory = f"{base}/{name}"
        if _is_locked(f"{directory}/lock"):
            found.append(Running(name, read_pid(f"{directory}/pid"), f"{directory}/{CONTROL_SOCKET}", directory))
    return found


def _is_locked(path: str) -> bool:
    try:
        fd = os.open(path, _TO_READ)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def read_pid(path: str) -> int:
    """0 if it is not there yet."""
    with contextlib.suppress(OSError, ValueError), open(path, opener=plainly) as file:
        return int(file.read(_MOST_DIGITS))
    return 0


def plainly(path: str, _flags: int) -> int:
    """An opener of open() that neither waits nor follows a link."""
    return os.open(path, _TO_READ)


def find_socket(name: str | None, explicit: str | None, environment: Mapping[str, str]) -> str:
    """The control socket that is meant; ControlError with what to type instead.

    `explicit` (--socket) before $PYINIT_SOCKET before `name` (-c) before the one inside a container before a lone one.
    """
    if explicit or (not name and environment.get("PYINIT_SOCKET")):
        return explicit or environment["PYINIT_SOCKET"]
    if not name and os.path.exists(INSIDE):
        return INSIDE
    return find(name).socket


def find(name: str | None) -> Running:
    """The one of that name, or a lone one; ControlError as above."""
    found = running()
    if name:
        for one in found:
            if one.name == name:
                return one
        there = f"; running are: {', '.join(one.name for one in found)}" if found else "; nothing runs"
        raise ControlError(f"no container {name} runs here{there}", exit_code=3)
    if not found:
        raise ControlError("nothing of pyinit runs here; if it does elsewhere, say --socket PATH", exit_code=3)
    if len(found) > 1:
        names = " or ".join(f"-c {one.name}" for one in found)
        raise ControlError(f"several run here: say {names}")
    return found[0]


def at(socket: str) -> Running:
    """The one that has that control socket; ControlError. Only root may be led into another's folder, whose files say what he likes."""
    directory, name = os.path.split(os.path.abspath(socket))
    try:
        owner = os.lstat(directory).st_uid
    except OSError as error:
        raise ControlError(f"{socket}: {error.strerror}", exit_code=3) from error
    if os.geteuid() not in (0, owner):
        raise ControlError(f"{socket} is in a folder of someone else's: try as root")
    if name != CONTROL_SOCKET or not _is_locked(f"{directory}/lock"):
        raise ControlError(f"{socket}: no container runs there; expected the {CONTROL_SOCKET} of one", exit_code=3)
    return Running(os.path.basename(directory), read_pid(f"{directory}/pid"), socket, directory)


def short(path: str, folder_fd: int) -> str:
    """An address of at most 107 bytes for `path`, by way of its open folder."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        return path
    return f"/proc/self/fd/{folder_fd}/{os.path.basename(path)}"
