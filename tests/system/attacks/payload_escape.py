"""Ways to what lies beside the container: the host's processes, sockets, groups, keys, terminal, root."""

import ctypes
import fcntl
import os
import signal
import socket
import termios

from payload import LIBC, check, opens, syscall


def kill_outside() -> str:
    """By the number that the host has for it; no signal is sent, for whether one may be is decided first."""
    os.kill(int(os.environ["VICTIM"]), 0)
    return "signalled"


def abstract_socket() -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0" + os.environ["ADDRESS"])
    return "connected"


SHARED = 0x7079  # the key of a segment


def offer() -> str:
    """As another container: a socket without a file, a segment of memory, a process."""
    segment = check(LIBC.shmget(SHARED, 4096, 0o1666))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("\0" + os.environ["ADDRESS"])
        sock.listen()
        os.write(1, b"offered\n")
        signal.alarm(0)
        try:
            signal.sigwait({signal.SIGTERM})
        finally:
            LIBC.shmctl(segment, 0, None)  # IPC_RMID: the namespace may be the host's
    return "ended"


def neighbour() -> str:
    """What of those is had."""
    ways = {"process": kill_outside, "memory": lambda: check(LIBC.shmget(SHARED, 4096, 0)), "socket": abstract_socket}
    found = []
    for name, attempt in ways.items():
        try:
            attempt()
            found.append(name)
        except OSError:
            continue
    return ", ".join(found) or "nothing"


def chroot_escape() -> str:
    """A folder that is open above our root leads up to the root of the mount namespace."""
    os.mkdir("/tmp/jail")
    top = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.chroot("/tmp/jail")
    os.chdir(top)
    for _ in range(40):
        os.chdir("..")
    os.chroot(".")
    return "the host's root" if os.path.exists(os.environ["MARK"]) else "the container's root"


def cgroup_write() -> str:
    return opens("/sys/fs/cgroup/cgroup.procs")


def cgroup_mkdir() -> str:
    os.mkdir("/sys/fs/cgroup/attack")
    os.rmdir("/sys/fs/cgroup/attack")
    return "made"


def tiocsti() -> str:
    """A character as if it were typed on the terminal that is our input."""
    fcntl.ioctl(0, termios.TIOCSTI, b"#")
    return "typed"


def host_key() -> str:
    """A key of the session that started the container."""
    number = syscall(250, 219, 10, -3, b"user", b"pyinit-attack", 0)  # KEYCTL_SEARCH
    buffer = ctypes.create_string_buffer(64)
    size = syscall(250, 219, 11, number, buffer, 64)  # KEYCTL_READ
    return "read " + buffer.raw[:size].decode()


def node_of_image() -> str:
    return opens("/node", os.O_RDONLY)


def _mount(source: bytes, target: bytes, fstype: bytes, flags: int = 0, data: bytes | None = None) -> None:
    check(LIBC.mount(source, target, fstype, ctypes.c_ulong(flags), data))


def place_devpts() -> str:
    """As the kernel looks for the other end of a pair whose master is bound elsewhere: `pts` beside it."""
    _mount(b"none", b"/dev/pts", b"tmpfs")
    os.mkdir("/dev/pts/pts")
    _mount(b"none", b"/dev/pts/pts", b"devpts", 0, b"newinstance,ptmxmode=0666")
    os.close(os.open("/dev/pts/ptmx", os.O_CREAT | os.O_WRONLY))
    _mount(b"/dev/pts/pts/ptmx", b"/dev/pts/ptmx", b"", 4096)  # MS_BIND
    return "placed"


def whose_terminal() -> str:
    if not os.isatty(0):
        return "none"
    return "the attacker's" if os.fstat(0).st_dev == os.stat("/dev/pts/pts").st_dev else "the user's"


def is_of_devpts() -> str:
    """Whether our terminal is of what is at /dev/pts."""
    if not os.isatty(0):
        return "none"
    return "the container's" if os.fstat(0).st_dev == os.stat("/dev/pts").st_dev else "the user's"


def cover_proc() -> str:
    _mount(b"none", b"/proc", b"tmpfs")
    os.mkdir("/proc/self")
    os.close(os.open("/proc/self/oom_score_adj", os.O_CREAT | os.O_WRONLY))
    return "covered"


# What a PID 1 of pyinit loads when it is first asked for; below the package, and below Python's prefix.
_LATE = ("control/wire", "init/shell", "launch/plan", *(f"lib/python3.{minor}/{name}" for minor in range(11, 16) for name in ("json/__init__", "pickle", "calendar")))


def plant_code() -> str:
    """Where a PID 1 that stands in this root would look for its code by the numbers of its descriptors."""
    _mount(b"none", b"/proc", b"tmpfs")
    for number in range(3, 64):
        for name in _LATE:
            path = f"/proc/self/fd/{number}/{name}.py"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write('open("/tmp/planted", "w")\n')
    return "planted"


def what_was_written() -> str:
    with open("/proc/self/oom_score_adj") as file:
        return f"written: {file.read()}"


def place_links() -> str:
    """What a service with the same root can do to a path that the init will open."""
    os.symlink("/proc/1/fd/0", "/dev/attack-tty")
    return "placed"


def as_capable_as_init() -> str:
    """Of /proc/1, what a service with the init's own capabilities reaches; CAP_SYS_PTRACE is not among them.

    Not its environment and its addresses, which CAP_PERFMON and CAP_SYS_ADMIN let read (kernel: perfmon_capable() in mm_access()).
    """
    found = []
    for name, attempt in _OF_INIT.items():
        try:
            found += [name] if attempt() else []
        except OSError:
            continue
    return ", ".join(found) or "nothing"


_OF_INIT = {
    "mem": lambda: opens("/proc/1/mem", os.O_RDWR),
    "fd": lambda: opens("/proc/1/fd/0", os.O_RDONLY),
    "root": lambda: os.listdir("/proc/1/root/"),
    "exe": lambda: os.readlink("/proc/1/exe"),
    "ptrace": lambda: syscall(101, 117, 0x4206, 1, 0, 0) == 0,  # PTRACE_SEIZE
}
