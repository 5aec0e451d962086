"""System calls that no service needs, and each of which has been a way out or up."""

import ctypes
import errno
import os
import signal
import socket
import struct

from payload import LIBC, check, syscall

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
MNT_DETACH = 2


def _mount(source: bytes, target: bytes, fstype: bytes, flags: int, data: bytes | None = None) -> None:
    check(LIBC.mount(source, target, fstype, ctypes.c_ulong(flags), data))


def _opened(fd: int) -> str:
    os.close(fd)
    return "opened"


def unshare_user() -> str:
    check(LIBC.unshare(CLONE_NEWUSER))
    return "a user namespace"


def clone_user() -> str:
    pid = syscall(56, 220, CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "a user namespace"


def clone3_user() -> str:
    arguments = (ctypes.c_uint64 * 11)(CLONE_NEWUSER, 0, 0, 0, signal.SIGCHLD)
    pid = syscall(435, 435, ctypes.byref(arguments), ctypes.sizeof(arguments))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "a user namespace"


def unshare_mounts() -> str:
    check(LIBC.unshare(CLONE_NEWNS))
    return "a mount namespace"


def setns() -> str:
    fd = os.open("/proc/self/ns/uts", os.O_RDONLY)
    check(LIBC.setns(fd, 0))
    return "entered"


def mount_tmpfs() -> str:
    _mount(b"none", b"/root", b"tmpfs", 0)
    return "mounted"


def mount_proc() -> str:
    """A fresh procfs has no masks."""
    _mount(b"none", b"/root", b"proc", 0)
    return "mounted"


def remount() -> str:
    _mount(b"none", b"/proc/sys", b"", MS_REMOUNT | MS_BIND)
    with open("/proc/self/mountinfo") as file:
        options = [line.split()[5] for line in file if line.split()[4] == "/proc/sys"]
    return "writable" if options[-1].startswith("rw") else "read-only"


def umount_mask() -> str:
    check(LIBC.umount2(b"/sys/dev/block", MNT_DETACH))
    return "unmasked"


def bind_over_mask() -> str:
    _mount(b"/proc", b"/root", b"", MS_BIND)
    return "bound"


def fsopen() -> str:
    """CVE-2022-0185 began here: a file system context."""
    return _opened(syscall(430, 430, b"tmpfs", 1))


def open_tree() -> str:
    return _opened(syscall(428, 428, -100, b"/proc", 1 | os.O_CLOEXEC))


def mount_setattr() -> str:
    attributes = (ctypes.c_uint64 * 4)(0, MS_RDONLY, 0, 0)
    syscall(442, 442, -100, b"/proc/bus", 0, ctypes.byref(attributes), ctypes.sizeof(attributes))
    return "writable"


def open_by_handle() -> str:
    """shocker: the root folder of the file system that /usr lies on, which is the host's, has a number that is known."""
    place = os.open("/usr", os.O_RDONLY | os.O_DIRECTORY)
    mount_id = ctypes.c_int(0)
    own = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 8 + 128)
    syscall(303, 264, -100, b"/usr", own, ctypes.byref(mount_id), 0)
    root = ctypes.create_string_buffer(struct.pack("=IiII", 8, 1, 2, 0), 16)  # FILEID_INO32_GEN: inode 2, as ext4 has it
    for handle in (root, own):
        try:
            return _opened(syscall(304, 265, place, handle, os.O_RDONLY))
        except OSError as error:
            if error.errno != errno.ESTALE:  # of another file system
                raise
    return "stale"


def pidfd_getfd() -> str:
    """A descriptor of the init's."""
    pidfd = os.pidfd_open(1)
    return _opened(syscall(438, 438, pidfd, 0, 0))


def ptrace() -> str:
    """PTRACE_SEIZE stops nobody; our end lets it go."""
    syscall(101, 117, 0x4206, 1, 0, 0)
    return "seized"


def vm_read() -> str:
    """process_vm_readv of the init: any address, for whether it may be asked is decided first."""
    local = ctypes.create_string_buffer(8)
    ours = (ctypes.c_uint64 * 2)(ctypes.addressof(local), 8)
    theirs = (ctypes.c_uint64 * 2)(8, 8)
    try:
        syscall(310, 270, 1, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
    return "asked"


def io_uring() -> str:
    parameters = ctypes.create_string_buffer(120)
    return _opened(syscall(425, 425, 4, parameters))


def userfaultfd() -> str:
    return _opened(syscall(323, 282, os.O_CLOEXEC | 1))  # UFFD_USER_MODE_ONLY


def bpf() -> str:
    attributes = ctypes.create_string_buffer(struct.pack("=IIII", 2, 4, 4, 1), 128)  # an array of one
    return _opened(syscall(321, 280, 0, attributes, 128))


def perf_event() -> str:
    attributes = ctypes.create_string_buffer(struct.pack("=IIQQQQQ", 1, 120, 0, 0, 0, 0, 1 << 5 | 1 << 6), 120)  # of user space only
    return _opened(syscall(298, 241, attributes, 0, -1, -1, 8))


def add_key() -> str:
    syscall(248, 217, b"user", b"attack", b"word", 4, -3)  # KEY_SPEC_SESSION_KEYRING
    return "added"


def keyctl() -> str:
    syscall(250, 219, 0, -3, 1)  # KEYCTL_GET_KEYRING_ID, made if it is missing
    return "told"


def request_key() -> str:
    try:
        syscall(249, 218, b"user", b"attack-of-nobody", 0, 0)
    except OSError as error:
        if error.errno != errno.ENOKEY:
            raise
    return "searched"


def kernel_log() -> str:
    """syslog(2), SYSLOG_ACTION_SIZE_BUFFER, then what is in it."""
    buffer = ctypes.create_string_buffer(4096)
    syscall(103, 116, 3, buffer, 4096)
    return "read"


def mknod_disk() -> str:
    """The disk that /usr lies on, which is the host's, or else a loop device."""
    disk = os.stat("/usr").st_dev
    for number in (disk, os.makedev(7, 0)) if os.major(disk) else (os.makedev(7, 0),):
        try:
            return _node(0o060000, number)
        except OSError as error:
            last = error
    raise last


def mknod_memory() -> str:
    """/dev/mem; a kernel without it has the log of its own."""
    try:
        return _node(0o020000, os.makedev(1, 1))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    return _node(0o020000, os.makedev(1, 11))


def _node(kind: int, number: int) -> str:
    path = f"/dev/attack-{number:x}"
    os.mknod(path, kind | 0o600, number)
    try:
        return _opened(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    finally:
        os.unlink(path)


def vsock() -> str:
    socket.socket(40, socket.SOCK_STREAM).close()
    return "a socket"


def af_alg() -> str:
    """A kernel without it says so after the filter."""
    try:
        socket.socket(38, socket.SOCK_SEQPACKET).close()
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
    return "asked"


def _asked(wrong: int, x86_64: int, aarch64: int, *arguments: object) -> str:
    """What the kernel looks at only after who asks is wrong: it says `wrong`, and does nothing. It may be built without the call."""
    try:
        syscall(x86_64, aarch64, *arguments)
    except OSError as error:
        if error.errno not in (wrong, errno.ENOSYS):
            raise
    return "asked"


def kexec() -> str:
    """More segments than there may be."""
    return _asked(errno.EINVAL, 246, 104, 0, 17, 0, 0)


def init_module() -> str:
    """An image of no bytes."""
    return _asked(errno.ENOEXEC, 175, 105, 0, 0, b"")


def swapon() -> str:
    """A path that is nowhere in memory."""
    return _asked(errno.EFAULT, 167, 224, 0, 0)


def settimeofday() -> str:
    """No time, and a zone that is none."""
    return _asked(errno.EINVAL, 164, 170, 0, ctypes.byref((ctypes.c_int * 2)(10000, 0)))


def sethostname() -> str:
    check(LIBC.sethostname(b"attack", ctypes.c_size_t(6)))
    return "set"


def release_agent() -> str:
    """CVE-2022-0492: in a hierarchy of v1 where the container has no group of its own, the root's file is there."""
    last: OSError = FileNotFoundError(errno.ENOENT, "")
    for number, controller in enumerate(("name=systemd", "cpuset", "blkio", "freezer", "devices", "cpuacct", "memory", "pids", "cpu", "rdma", "misc")):
        place = f"/run/attack-{number}"
        os.mkdir(place)
        try:
            data = b"none,name=systemd" if "=" in controller else controller.encode()
            _mount(b"none", place.encode(), b"cgroup", 0, data)
            return _opened(os.open(f"{place}/release_agent", os.O_WRONLY))
        except OSError as error:
            if error.errno == errno.EPERM:
                raise
            last = error
    raise last


def cgroup_again() -> str:
    """cgroup2 anew, this time writable."""
    _mount(b"none", b"/root", b"cgroup2", 0)
    return _opened(os.open("/root/cgroup.procs", os.O_WRONLY))
