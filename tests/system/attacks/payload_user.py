"""What root of a user namespace would have of the host, were it root there: each of it is tried, and put back as it was."""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct

from payload import LIBC, check, name_of, opens, syscall

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_CLONE_NEWNS = 0x00020000


def _tried(attempts) -> str:
    """Those that came to something; if none did, what the last one was told."""
    found, last = [], ""
    for name, attempt in attempts.items():
        try:
            attempt()
            found.append(name)
        except OSError as error:
            last = name_of(error)
    return ", ".join(found) or last


def group_limit() -> str:
    """A file of the container's own group that a delegation does not name (cgroups(7))."""
    return opens("/sys/fs/cgroup/cgroup.max.depth")


def files_of_root() -> str:
    """Of the host's root, in a folder that is bound as it is."""
    return _tried({
        "read": lambda: opens("/bound/secret", os.O_RDONLY),
        "written": lambda: opens("/bound/secret"),
        "made": lambda: os.close(os.open("/bound/made", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)),
        "set-uid": lambda: os.chmod("/bound/program", 0o4755),
        "removed": lambda: os.unlink("/bound/program"),
    })  # fmt: skip


def process_of_root() -> str:
    """One of the host's, whose number is known where the pid namespace is the host's."""
    victim = int(os.environ["VICTIM"])

    def enter() -> None:
        """In a child: it is to come back from there."""
        fd = os.open(f"/proc/{victim}/ns/mnt", os.O_RDONLY)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if LIBC.setns(fd, _CLONE_NEWNS) == 0 else ctypes.get_errno())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code:
            raise OSError(code, "setns")

    return _tried({
        "environ": lambda: opens(f"/proc/{victim}/environ", os.O_RDONLY),
        "mem": lambda: opens(f"/proc/{victim}/mem", os.O_RDWR),
        "root": lambda: os.listdir(f"/proc/{victim}/root/"),
        "fd": lambda: opens(f"/proc/{victim}/fd/0", os.O_RDONLY),
        "setns": enter,
        "ptrace": lambda: syscall(101, 117, 0x4206, victim, 0, 0),  # PTRACE_SEIZE
        "prlimit": lambda: __import__("resource").prlimit(victim, 0),
        "kill": lambda: os.kill(victim, 0),
    })  # fmt: skip


def shared_names() -> str:
    """The host's network and names, where they are shared: as they are they are set again."""

    def interface() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            asked = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16s24x", b"lo"))
            fcntl.ioctl(sock, _SIOCSIFFLAGS, asked)

    def hostname() -> None:
        name = os.uname().nodename.encode()
        check(LIBC.sethostname(name, ctypes.c_size_t(len(name))))

    return _tried({
        "interface": interface,
        "packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close(),
        "hostname": hostname,
    })  # fmt: skip


def user_key() -> str:
    """A key of root's on the host, which no session's end takes away."""
    number = syscall(250, 219, 10, -4, b"user", b"pyinit-attack-user", 0)  # KEYCTL_SEARCH in KEY_SPEC_USER_KEYRING
    buffer = ctypes.create_string_buffer(64)
    size = syscall(250, 219, 11, number, buffer, 64)  # KEYCTL_READ
    return "read " + buffer.raw[:size].decode()


def priority() -> str:
    """More than others have of the machine's time; our own, in a child."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, -5)
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, "setpriority")
    return "taken"


def release_agent() -> str:
    """CVE-2022-0492: of each hierarchy of v1 that can be mounted; else what the last mount was told."""
    found, last = set(), ""
    for number, controller in enumerate(("cpuset", "blkio", "freezer", "devices", "cpuacct", "memory", "pids", "cpu", "rdma", "misc")):
        place = f"/run/user-{number}"
        os.mkdir(place)
        try:
            check(LIBC.mount(b"none", place.encode(), b"cgroup", ctypes.c_ulong(0), controller.encode()))
        except OSError as error:
            last = name_of(error)
            if last == "EPERM":
                break
            continue
        with contextlib.suppress(FileNotFoundError):  # not the hierarchy's root
            try:
                found.add(opens(f"{place}/release_agent"))
            except PermissionError as error:
                found.add(name_of(error))
    return ", ".join(sorted(found)) or last


def audit_socket() -> str:
    """The kernel's record of what is done on the whole machine, and its settings."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9) as sock:
        sock.bind((0, 1))  # the group that reads it
    return "read"
