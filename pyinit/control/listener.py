"""The listening side of the control socket: where it is bound, and who may come in.

Owns the socket file. Must not know requests. Laws: another pyinit's socket, and what is no socket, is never taken away;
PID 1 binds one where root inside can put links: none leads out, for all is done by the folder's fd.
"""

import os
import stat
import struct

from pyinit.errors import EXIT_SYSTEM, ControlError
from pyinit.linux import mount
from pyinit.linux import sock as socket


def bind(path: str) -> int:
    """fd of a unix socket bound to `path`, 0600, its folder made; ControlError if another pyinit listens there."""
    folder, name = os.path.split(path)
    try:
        place = mount.folder_plainly(os.path.abspath(folder), 0o700)
    except OSError as error:
        raise ControlError(f"the control socket {path}: {folder}: {error.strerror}", exit_code=EXIT_SYSTEM) from error
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)  # so that there is no moment with another mode
    try:
        mount.in_folder(place, lambda: _bind(sock, name, path))
    except ControlError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise ControlError(f"the control socket {path}: {error.strerror or error}", exit_code=EXIT_SYSTEM) from error
    finally:
        os.umask(mask)
        os.close(place)
    return sock.detach()


def _bind(sock: socket.socket, name: str, path: str) -> None:
    """In its folder."""
    _make_way(name, path)
    sock.bind(name)


def _make_way(name: str, path: str) -> None:
    try:
        seen = os.lstat(name)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(seen.st_mode):
        raise ControlError(f"{path} is in the way and is no socket: remove it", exit_code=EXIT_SYSTEM)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)  # noqa: FBT003 - no keywords there
        if probe.connect_ex(name) in (0, 11):
            raise ControlError(f"a pyinit is listening on {path} already: stop it, or give this one another control_socket", exit_code=EXIT_SYSTEM)
    os.unlink(name)


def stranger(sock: socket.socket) -> int:
    """The uid of a peer that is neither root nor us; -1 for who may be here.

    unix(7), SO_PEERCRED: who comes from outside our pid namespace has pid 0, and a uid that a user namespace may hide:
    there the mode of the socket file has decided.
    """
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return -1 if pid == 0 or uid in (0, os.geteuid()) else int(uid)
