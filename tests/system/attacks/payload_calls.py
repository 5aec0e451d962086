"""System calls that no service needs, and each of which has been a way out or up."""

import ctypes
import errno
import mmap
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


def _asked(wrong: int | tuple[int, ...], x86_64: int, aarch64: int, *arguments: object) -> str:
    """What the kernel looks at only after who asks is wrong: it says `wrong`, and does nothing. It may be built without the call."""
    try:
        syscall(x86_64, aarch64, *arguments)
    except OSError as error:
        if error.errno not in (*(wrong if isinstance(wrong, tuple) else (wrong,)), errno.ENOSYS):
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


_OTHERS = {"net": 0x40000000, "pid": 0x20000000, "uts": 0x04000000, "ipc": 0x08000000, "cgroup": 0x02000000, "time": 0x80}


def unshare_others() -> str:
    """Each other namespace, in a child of its own."""
    return _each({name: lambda flag=flag: check(LIBC.unshare(flag)) for name, flag in _OTHERS.items()})


def clone_others() -> str:
    """By clone(2), which has no flag for clocks."""

    def clone(flag: int) -> None:
        if syscall(56, 220, flag | signal.SIGCHLD, 0, 0, 0, 0) == 0:
            os._exit(0)

    return _each({name: lambda flag=flag: clone(flag) for name, flag in _OTHERS.items() if name != "time"})


def _each(attempts) -> str:
    """What of it came to something; else OSError of what the first was told."""
    found, codes = [], []
    for name, attempt in attempts.items():
        pid = os.fork()
        if pid == 0:
            try:
                attempt()
            except OSError as error:
                os._exit(error.errno)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        found += [name] if not codes[-1] else []
    if not found:
        raise OSError(codes[0], "")
    return ", ".join(found)


def pivot_root() -> str:
    """To a folder that is no mount."""
    return _asked((errno.EINVAL, errno.EBUSY), 155, 41, b"/attacks", b"/attacks")


def fspick() -> str:
    """Flags that there are none."""
    return _asked(errno.EINVAL, 433, 433, -100, b"/tmp", 0x1000)


def move_mount() -> str:
    return _asked(errno.EINVAL, 429, 429, -1, b"", -1, b"", 0x1000)


def fsmount() -> str:
    return _asked(errno.EINVAL, 432, 432, -1, 0x1000, 0)


def fanotify() -> str:
    """A watch over all files of a file system's; its flags are none."""
    return _asked(errno.EINVAL, 300, 262, 0x40000000, 0)


def process_madvise() -> str:
    """Of nobody's memory: a descriptor that is none."""
    return _asked(errno.EBADF, 440, 440, -1, 0, 0, 0, 0)


def kcmp() -> str:
    """What a process has open, compared; by a kind that is none."""
    return _asked(errno.EINVAL, 312, 272, os.getpid(), os.getpid(), 99, 0, 0)


def personality() -> str:
    """READ_IMPLIES_EXEC: what may be read may be executed from then on."""
    syscall(135, 92, 0x0400000)
    return "set"


def reboot() -> str:
    """By numbers that mean nothing."""
    return _asked(errno.EINVAL, 169, 142, 1, 1, 1, 0)


def delete_module() -> str:
    return _asked((errno.ENOENT, errno.EFAULT), 176, 106, b"pyinit-attack", os.O_NONBLOCK)


def finit_module() -> str:
    return _asked((errno.EBADF, errno.EINVAL), 313, 273, -1, b"", 0x1000)


def kexec_file() -> str:
    return _asked(errno.EINVAL, 320, 294, -1, -1, 0, 0, 0x1000)


def swapoff() -> str:
    return _asked(errno.EFAULT, 168, 225, 0)


def acct() -> str:
    """The record of processes, to a file that is nowhere."""
    return _asked(errno.ENOENT, 163, 89, b"/nowhere/at/all")


def setdomainname() -> str:
    syscall(171, 162, b"attack", 6)
    return "set"


def vhangup() -> str:
    """Of a process that has no terminal: nothing is hung up."""
    os.setsid() if os.getsid(0) != os.getpid() else None
    syscall(153, 58)
    return "asked"


def move_pages() -> str:
    return _asked(errno.EINVAL, 279, 239, 0, 0, 0, 0, 0, 0x1000)


def io_uring_enter() -> str:
    return _asked((errno.EBADF, errno.EINVAL), 426, 426, -1, 0, 0, 0x100000, 0, 0)


def vm_write() -> str:
    """process_vm_writev of the init: any address, as process_vm_readv."""
    local = ctypes.create_string_buffer(8)
    ours = (ctypes.c_uint64 * 2)(ctypes.addressof(local), 8)
    theirs = (ctypes.c_uint64 * 2)(8, 8)
    return _asked(errno.EFAULT, 311, 271, 1, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)


def af_alg_wide() -> str:
    """A bit above those that the kernel looks at: it takes the family as an int."""
    return _asked(errno.EAFNOSUPPORT, 41, 198, 1 << 32 | 38, socket.SOCK_SEQPACKET, 0)


def vsock_wide() -> str:
    os.close(syscall(41, 198, 1 << 32 | 40, socket.SOCK_STREAM, 0))
    return "a socket"


def tiocsti_wide() -> str:
    """On a terminal of our own; CVE-2019-10063: a bit above got through a filter that compared 64."""
    return _typed(1 << 32 | 0x5412)


def tioclinux() -> str:
    """What the console's selection would paste; no terminal of ours is a console, and says so."""
    return _typed(0x541C)


def _typed(request: int) -> str:
    main, side = os.openpty()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            syscall(16, 29, side, 0x540E, 0)  # TIOCSCTTY
            syscall(16, 29, side, request, ctypes.create_string_buffer(b"#", 64))
        except OSError as error:
            os._exit(0 if error.errno in (errno.ENOTTY, errno.EINVAL) else error.errno)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(main)
    os.close(side)
    if code:
        raise OSError(code, "ioctl")
    return "asked"


def of_32_bits() -> str:
    """getpid by int 0x80: the numbers of another architecture mean other calls."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
    pid = os.fork()
    if pid == 0:
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return f"killed by {-code}" if code < 0 else "answered"
