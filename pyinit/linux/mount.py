"""Mounting: the kernel's new mount API, pivot_root and openat2.

Owns the numbers, one wrapper a call, and the decision for mount_old.py where the kernel or a seccomp filter refuses the
new calls. Must not know what is mounted where, or why.
Law: all mount calls of the new API are used, or none: what open_tree gives mount(2) can't change, for it lies in no
mount namespace.
Sources: mount(2), mount_setattr(2), openat2(2), fsopen(2) of kernel 5.2 and later. The numbers of
these calls are the same on every architecture but alpha.
"""

import errno
import os
from _collections_abc import Callable

from pyinit.linux import foreign as ctypes
from pyinit.linux.libc import LIBC, check, syscall
from pyinit.records import NamedTuple

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE, MS_SLAVE, MS_SHARED = 32, 4096, 8192, 16384, 1 << 18, 1 << 19, 1 << 20
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
AT_RECURSIVE, AT_EMPTY_PATH, AT_FDCWD = 0x8000, 0x1000, -100
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
MOUNT_ATTR_NOATIME, MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME, MOUNT_ATTR_NODIRATIME = 0x10, 0x20, 0x70, 0x80
MOUNT_ATTR_IDMAP, MOUNT_ATTR_NOSYMFOLLOW = 0x100000, 0x200000
RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS = 0x10, 0x02
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 428, 429, 430, 431, 432
_OPENAT2, _MOUNT_SETATTR = 437, 442
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_MOVE_EMPTY = 0x04 | 0x40  # MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
_MOST_SAID = 4096
PROC_SUPER_MAGIC = 0x9FA0

# Arguments that a kernel which has the call refuses before it does anything, as EINVAL or EBADF.
_Probe = tuple[str, int, tuple[int | bytes | None, ...]]
_OF_MOUNTS: tuple[_Probe, ...] = (
    ("open_tree", _OPEN_TREE, (-1, b"", -1)),
    ("mount_setattr", _MOUNT_SETATTR, (-1, b"", -1, None, 0)),
    ("fsconfig", _FSCONFIG, (-1, 0, None, None, 0)),
    ("fsopen", _FSOPEN, (None, -1)),
    ("fsmount", _FSMOUNT, (-1, -1, 0)),
    ("move_mount", _MOVE_MOUNT, (-1, b"", -1, b"", -1)),
)
_TRIES_OF_A_COPY = 16
_MOST_WALKS = 1000  # of one path, each microseconds
_OF_WALKS: tuple[_Probe, ...] = (("openat2", _OPENAT2, (-1, b"", None, 0)),)

LIBC.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
LIBC.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    encoded = [os.fsencode(word) for word in (source, target, fstype)]
    check(LIBC.mount(*encoded, flags, os.fsencode(data) if data else None), f"mount {fstype}".rstrip(), target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    check(LIBC.umount2(os.fsencode(target), flags), "umount", target)


class Refusal(NamedTuple):
    """A call that the kernel lacks (ENOSYS) or a seccomp filter forbids (EPERM, ENOSYS)."""

    call: str
    errno: int


_decided: dict[str, Refusal | None] = {}


def refused_mounts() -> Refusal | None:
    """The first call of the new mount API that is refused here: mount(2) does the work of all. Decided once."""
    return _decided["mounts"] if "mounts" in _decided else _decided.setdefault("mounts", _first_refused(_OF_MOUNTS))


def refused_walks() -> Refusal | None:
    """openat2, if it is refused here. Decided once."""
    return _decided["walks"] if "walks" in _decided else _decided.setdefault("walks", _first_refused(_OF_WALKS))


def _first_refused(probes: tuple[_Probe, ...]) -> Refusal | None:
    """Without CAP_SYS_ADMIN the kernel itself answers EPERM to some; mount(2) says so then, too."""
    for call, number, arguments in probes:  # at each start, so without the cost of an exception
        result = LIBC.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
        if result < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM):
            return Refusal(call, ctypes.get_errno())
    return None


def settle() -> None:
    """Decide now, and import what follows of it: for those who mount between fork and exec, where nothing may be imported."""
    if refused_mounts() or refused_walks():
        from pyinit.linux import mount_old  # noqa: F401 - only where it is needed, as everywhere below


def use_staging(folder: str) -> None:
    """A private tmpfs that mounts may be made on until they are moved; the new API needs none."""
    if refused_mounts():
        from pyinit.linux import mount_old

        mount_old.staging = folder


def open_tree(path: str, *, recursive: bool = True, dir_fd: int = AT_FDCWD) -> int:
    """A detached copy of the mount at `path`, as an fd (CLOEXEC); nobody can reach it but through that fd."""
    if refused_mounts():
        from pyinit.linux import mount_old

        return mount_old.open_tree(path, recursive=recursive, dir_fd=dir_fd)
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    if not path:
        flags |= AT_EMPTY_PATH
    return syscall("open_tree", _OPEN_TREE, dir_fd, os.fsencode(path), flags, path=path)


def mount_setattr(
    fd: int, *, attributes: int = 0, clear: int = 0, propagation: int = 0, recursive: bool = True, userns_fd: int = 0
) -> None:
    """Set and clear MOUNT_ATTR_* on the mount behind `fd`; `propagation` is an MS_*; `userns_fd` belongs to MOUNT_ATTR_IDMAP."""
    if refused_mounts():
        from pyinit.linux import mount_old

        mount_old.mount_setattr(fd, attributes=attributes, clear=clear, propagation=propagation, recursive=recursive)
        return
    attr = (ctypes.c_uint64 * 4)(attributes, clear, propagation, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall("mount_setattr", _MOUNT_SETATTR, fd, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr))


def detached_copy(path: str, attributes: int) -> int:
    """A copy of the mount at `path` that is in no mount namespace, before there is a staging folder; MOUNT_ATTR_*."""
    if refused_mounts():
        from pyinit.linux import mount_old

        return mount_old.detached_copy(path, attributes)
    for left in reversed(range(_TRIES_OF_A_COPY)):
        tree = open_tree(path)
        try:
            mount_setattr(tree, attributes=attributes)
            return tree
        except OSError as error:
            os.close(tree)
            if error.errno != errno.EBUSY or not left:  # Linux 6.18 takes a new one for written to, once in thousands
                raise
    raise AssertionError("the last try has raised")


def new_filesystem(fstype: str, options: dict[str, str | None], *, attributes: int = 0, label: str = "") -> int:
    """fsopen .. fsmount: a detached mount as an fd. An option of None is a flag (`ro`).

    OSError with what the kernel says besides its errno, where a file system says something.
    """
    if refused_mounts():
        from pyinit.linux import mount_old

        return mount_old.new_filesystem(fstype, options, attributes=attributes, label=label)
    options = {"source": fstype, **options}  # else mountinfo says "none"
    context = syscall("fsopen", _FSOPEN, os.fsencode(fstype), 1, path=fstype)
    try:
        for key, value in options.items():
            command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
            text = None if value is None else os.fsencode(value)
            syscall("fsconfig", _FSCONFIG, context, command, os.fsencode(key), text, 0, path=f"{fstype} {key}")
        syscall("mount", _FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0, path=f"{fstype} {label}".rstrip())
        return syscall("fsmount", _FSMOUNT, context, 1, attributes, path=fstype)
    except OSError as error:
        words = _said(context)
        if not words:
            raise
        raise OSError(error.errno, f"{error.strerror}: {words}") from error
    finally:
        os.close(context)


def _said(context: int) -> str:
    """The log of a file system context: lines as "e nfs: Unknown parameter 'x'", one a read(2), ENODATA after the last."""
    lines: list[str] = []
    while True:
        try:
            line = os.read(context, _MOST_SAID)
        except OSError:
            return "; ".join(lines)
        lines.append(line[2:].decode("utf-8", "replace").strip())


def probe_filesystem(fstype: str) -> None:
    """fsopen(2), which loads the module if there is one; OSError ENODEV if this kernel has no such file system."""
    if refused_mounts():
        from pyinit.linux import mount_old

        mount_old.probe_filesystem(fstype)
        return
    os.close(syscall("fsopen", _FSOPEN, os.fsencode(fstype), 1, path=fstype))


def move_mount(fd: int, target_fd: int) -> None:
    """Attach the detached mount `fd` on what `target_fd` is open on."""
    if refused_mounts():
        from pyinit.linux import mount_old

        mount_old.move_mount(fd, target_fd)
        return
    syscall("move_mount", _MOVE_MOUNT, fd, b"", target_fd, b"", _MOVE_EMPTY)


def open_in_root(root_fd: int, path: str, flags: int = os.O_PATH) -> int:
    """openat2 with RESOLVE_IN_ROOT: whatever symlinks say, the answer lies below `root_fd`."""
    if refused_walks():
        from pyinit.linux import mount_old

        return mount_old.open_in_root(root_fd, path, flags)
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    for left in range(_MOST_WALKS, -1, -1):
        try:
            return syscall("openat2", _OPENAT2, root_fd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how), path=path)
        except OSError as error:
            # Something was renamed or mounted, anywhere on this machine, while it went through a "..": to be tried again (openat2(2)).
            if error.errno != errno.EAGAIN or not left:
                raise
    raise AssertionError(path)


def open_plainly(path: str, flags: int) -> int:
    """open(2) from our root, but ELOOP for a magic link of procfs (proc_pid_fd(5)): by an image's symlink it would be what we have open."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_in_root(root, path, flags)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), path) from None  # as os.open() says it
    finally:
        os.close(root)


def folder_plainly(path: str, mode: int = 0o777) -> int:
    """An O_PATH fd of it by open_plainly(), made if it is missing, and those above it: each below the fd of the one before."""
    try:
        return open_plainly(path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        above, name = os.path.split(path.rstrip("/"))
    parent = folder_plainly(above or "/")
    try:
        try:
            os.mkdir(name, mode, dir_fd=parent)
        except FileExistsError:  # somebody was faster, or it is a link to nothing
            pass
    finally:
        os.close(parent)
    return open_plainly(path, os.O_PATH | os.O_DIRECTORY)


def in_folder(folder: int, call: Callable[[], None]) -> None:
    """`call` with the folder behind an fd as the current one, for calls that know no dir_fd (bind(2), connect(2)), and back.

    Who may not look into where it stands (another user's folder) finds nothing from there either: it stands at / from then on.
    """
    try:
        before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        before = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(folder)
        try:
            call()
        finally:
            os.chdir(before)
    finally:
        os.close(before)


def mountinfo(fd: int, proc: str = "/proc/self") -> list[str]:
    """The fields of proc_pid_mountinfo(5) of the mount that `fd` is on, without asking its file system; [] if it is detached.

    `proc`: where this process stands in a procfs.
    """
    with open(f"{proc}/fdinfo/{fd}") as file:
        number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    with open(f"{proc}/mountinfo") as file:
        return next((line.split() for line in file if line.split(" ", 1)[0] == number), [])


def pivot_to_cwd() -> None:
    """pivot_root(".", "."), which stacks the old root on the new one, then detach the old (pivot_root(2), NOTES)."""
    check(LIBC.pivot_root(b".", b"."), "pivot_root", ".")
    umount(".", MNT_DETACH)
    os.chdir("/")


def filesystem_magic(fd: int) -> int:
    """f_type of fstatfs(2)."""
    buffer = (ctypes.c_long * 32)()
    check(LIBC.fstatfs(fd, ctypes.byref(buffer)), "fstatfs")
    return buffer[0]
