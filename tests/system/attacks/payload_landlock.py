"""What a service with `landlock` was not given: paths, ports, processes and sockets beside it."""

import os
import signal
import socket
import subprocess

from payload import opens

ELSEWHERE = 7001  # a port that is not among its own
ADDRESS = "pyinit-attack-landlock"


def read_outside() -> str:
    return opens("/etc/passwd", os.O_RDONLY)


def list_outside() -> str:
    return "listed" if os.listdir("/etc") else "empty"


def make_outside() -> str:
    os.close(os.open("/dev/shm/attack", os.O_CREAT | os.O_WRONLY, 0o600))
    return "made"


def execute_outside() -> str:
    """busybox, whose folder is not among its own."""
    subprocess.run(["/bin/true"], check=True)
    return "executed"


def write_read_only() -> str:
    return opens("/ll/ro/file")


def make_in_read_only() -> str:
    os.close(os.open("/ll/ro/made", os.O_CREAT | os.O_WRONLY, 0o600))
    return "made"


def remove_in_read_only() -> str:
    os.unlink("/ll/ro/gone")
    return "removed"


def cut_read_only() -> str:
    os.truncate("/ll/ro/file", 0)
    return "cut"


def move_out_of_read_only() -> str:
    os.rename("/ll/ro/moved", "/ll/rw/moved")
    return "moved"


def link_into_own() -> str:
    """A second name where more is allowed."""
    os.link("/ll/ro/file", "/ll/rw/linked")
    return "linked"


def by_symlink() -> str:
    os.symlink("/etc/passwd", "/ll/rw/link")
    return opens("/ll/rw/link", os.O_RDONLY)


def by_proc() -> str:
    """/proc is among its own, and our root is in it."""
    return opens("/proc/self/root/etc/passwd", os.O_RDONLY)


def by_parent() -> str:
    """A folder of its own leads up to what is not."""
    place = os.open("/ll/rw", os.O_RDONLY | os.O_DIRECTORY)
    os.close(os.open("../secret", os.O_RDONLY, dir_fd=place))
    return "opened"


def bind_elsewhere() -> str:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", ELSEWHERE))
    return "bound"


def connect_elsewhere() -> str:
    """Nobody listens there: to be told so is to have got through."""
    with socket.socket() as sock:
        sock.connect(("127.0.0.1", ELSEWHERE + 1))
    return "connected"


def signal_outside() -> str:
    """PID 1; none is sent, for whether one may be is decided first."""
    os.kill(1, 0)
    return "signalled"


def lend_abstract() -> None:
    """Listens for another service's attack until it is stopped, without landlock."""
    signal.alarm(0)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("\0" + ADDRESS)
        sock.listen()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
        while True:
            signal.pause()


def abstract_outside() -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0" + ADDRESS)
    return "connected"
