"""Namespaces: their flags, entering and leaving them, the host name, the loopback link.

Owns the numbers. Must not know which namespaces a container wants.
"""

import errno
import fcntl
import os
import struct

from pyinit.linux import foreign as ctypes
from pyinit.linux import process
from pyinit.linux import sock as socket
from pyinit.linux.libc import LIBC, check

CLONE_FLAGS = {
    "mount": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000,
    "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000, "time": 0x00000080,
}  # fmt: skip
_NS_GET_USERNS, _NS_GET_NSTYPE, _NS_GET_OWNER_UID = 0xB701, 0xB703, 0xB704  # linux/nsfs.h
_PID_NS_INIT_INO = 0xEFFFFFFC  # linux/nsfs.h, enum init_ns_ino
_SIOCSIFFLAGS, _SIOCBRDELBR, _IFF_UP = 0x8914, 0x89A1, 1
_RTM_DELLINK, _IFLA_IFNAME, _NLM_F_REQUEST_ACK = 17, 3, 1 | 4


def unshare(flags: int) -> None:
    """unshare(2)."""
    check(LIBC.unshare(flags), "unshare")


def enter(fd: int, flags: int = 0) -> None:
    """setns(2) into the namespace behind `fd`."""
    check(LIBC.setns(fd, flags), "setns")


def is_first_pid_namespace() -> bool:
    """Whether ours is the one that the kernel booted with: its PID 1 is the machine's."""
    return os.stat("/proc/self/ns/pid").st_ino == _PID_NS_INIT_INO


def kind_of(fd: int) -> str:
    """Which of CLONE_FLAGS the namespace behind `fd` is (ioctl_ns(2), NS_GET_NSTYPE); OSError ENOTTY for none."""
    number = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    return next(name for name, flag in CLONE_FLAGS.items() if flag == number)


def user_of(fd: int) -> int:
    """fd of the user namespace that the namespace behind `fd` belongs to (ioctl_ns(2), NS_GET_USERNS); PermissionError if it lies beyond ours."""
    found = fcntl.ioctl(fd, _NS_GET_USERNS)
    os.set_inheritable(found, False)  # noqa: FBT003 - no keywords there
    return found


def owner_of(fd: int) -> int:
    """The uid of who made the user namespace behind `fd` (ioctl_ns(2), NS_GET_OWNER_UID)."""
    found: int = struct.unpack("I", fcntl.ioctl(fd, _NS_GET_OWNER_UID, bytes(4)))[0]
    return found


def ids(kind: str, folder: str = "/proc/self") -> list[tuple[int, int, int]]:
    """(the first here, the first of the one above, how many) of the "uid"s or "gid"s of our user namespace (user_namespaces(7))."""
    with open(f"{folder}/{kind}_map") as file:
        rows = [line.split() for line in file]
    return [(int(first), int(above), int(count)) for first, above, count in rows]


def has_id(kind: str, number: int, folder: str = "/proc/self") -> bool:
    """Whether our user namespace has it; without a /proc that tells nobody knows better."""
    try:
        return any(first <= number < first + count for first, _, count in ids(kind, folder))
    except OSError:
        return True


def drop_groups() -> None:
    """All supplementary ones. Where setgroups(2) is denied (user_namespaces(7)) they stay: an ordinary user's, who has mapped his group himself."""
    try:
        os.setgroups(())
    except PermissionError:
        pass


def become_root() -> None:
    """Of the user namespace that this process is in, with none of the groups from before."""
    drop_groups()
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def time_namespace(offsets: tuple[tuple[str, int], ...]) -> int:
    """fd of a new time namespace without a process; (clock, nanoseconds), time_namespaces(7)."""
    waits, release = os.pipe2(os.O_CLOEXEC)
    errors, report = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = process.clone(0)
    if pid == 0:
        try:
            os.close(release)
            unshare(CLONE_FLAGS["time"])
            fd = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, "".join(f"{clock} {offset // 10**9} {offset % 10**9}\n" for clock, offset in offsets).encode())
            os.write(report, b"0")
            os.read(waits, 1)
        except OSError as error:
            os.write(report, str(error.errno).encode())
        finally:
            os._exit(0)
    os.close(report)
    try:
        number = int(os.read(errors, 16) or errno.EIO)
        if number:
            raise OSError(number, os.strerror(number))
        return os.open(f"/proc/{pid}/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (waits, release, errors):
            os.close(fd)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)


def user_namespace(uids: list[tuple[int, int, int]], gids: list[tuple[int, int, int]]) -> int:
    """fd of a new user namespace without a process; its maps are lists of (inside, outside, length), user_namespaces(7)."""
    waits, release = os.pipe()
    pid, pidfd = process.clone(CLONE_FLAGS["user"])
    if pid == 0:
        os.close(release)
        os.read(waits, 1)
        os._exit(0)
    try:
        for name, rows in (("uid_map", uids), ("gid_map", gids)):
            if rows:
                fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(fd, "".join(f"{inside} {outside} {length}\n" for inside, outside, length in rows).encode())
                finally:
                    os.close(fd)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (waits, release):
            os.close(fd)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)


def set_hostname(name: str) -> None:
    """sethostname(2)."""
    encoded = os.fsencode(name)
    check(LIBC.sethostname(encoded, ctypes.c_size_t(len(encoded))), "sethostname", name)


def loopback_up() -> None:
    """Raise `lo` of the current network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def remove_link(name: str) -> None:
    """Delete a link by netlink (rtnetlink(7)); one that is gone is fine."""
    attribute = struct.pack("=HH16s", 20, _IFLA_IFNAME, os.fsencode(name))
    request = struct.pack("=IHHII16x", 32 + len(attribute), _RTM_DELLINK, _NLM_F_REQUEST_ACK, 1, 0) + attribute
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        sock.send(request)
        number = -struct.unpack_from("=i", sock.recv(4096), 16)[0]  # struct nlmsgerr, behind its header
    if number not in (0, errno.ENODEV):
        raise OSError(number, f"remove link {name}: {os.strerror(number)}")


def remove_bridge(name: str) -> None:
    """Take a bridge down and delete it (linux/sockios.h)."""
    encoded = os.fsencode(name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", encoded, 0))
        fcntl.ioctl(sock, _SIOCBRDELBR, encoded + b"\0")
