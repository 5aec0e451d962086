"""The old mount API: mount(2) does what mount.py asks for, where the kernel or a seccomp filter refuses the new calls.

Owns the same calls with the same meaning. Must not know what is mounted where, or why. Laws: mount(2) knows no
detached mount, so each is made on a place of its own in the private staging folder; what may be renamed meanwhile is
opened first, looked at, and then named by its fd (/proc/self/fd); a walk below a root never leaves it.
Sources: mount(2), mount_setattr(2), openat2(2), proc_pid_mountinfo(5).
"""

import errno
import itertools
import os
import socket
import stat

from pyinit.linux import fds, mount, namespaces, process
from pyinit.records import NamedTuple

staging = ""  # set by mount.use_staging
_numbers = itertools.count()
_MOST_LINKS = 40  # as the kernel's own limit (path_resolution(7))
_MOST_ROUNDS = 16
_MOST_TEXT = 4096
_MS_NODIRATIME, _MS_NOSYMFOLLOW = 2048, 256
_NODIRATIME, _NOSYMFOLLOW = 0x80, 0x200000
_ATIME = 0x70  # MOUNT_ATTR__ATIME: three values, no bits
_RELATIME, _NOATIME, _STRICTATIME = 0, 0x10, 0x20
_MS_OF_ATIME = {_RELATIME: 1 << 21, _NOATIME: 1024, _STRICTATIME: 1 << 24}
_BITS = (  # MOUNT_ATTR_*, MS_*, the word in mountinfo
    (mount.MOUNT_ATTR_RDONLY, mount.MS_RDONLY, "ro"),
    (mount.MOUNT_ATTR_NOSUID, mount.MS_NOSUID, "nosuid"),
    (mount.MOUNT_ATTR_NODEV, mount.MS_NODEV, "nodev"),
    (mount.MOUNT_ATTR_NOEXEC, mount.MS_NOEXEC, "noexec"),
    (_NODIRATIME, _MS_NODIRATIME, "nodiratime"),
    (_NOSYMFOLLOW, _MS_NOSYMFOLLOW, "nosymfollow"),
)
_KNOWN = sum(bit for bit, _, _ in _BITS) | _ATIME
_OF_SUPERBLOCK = {"ro": mount.MS_RDONLY, "rw": 0, "sync": 16, "mand": 64, "dirsync": 128, "lazytime": 1 << 25}  # flags, never data


class Mounted(NamedTuple):
    """A line of mountinfo: `attributes` are MOUNT_ATTR_*."""

    number: int
    parent: int
    point: str
    attributes: int


def open_tree(path: str, *, recursive: bool, dir_fd: int) -> int:
    """As open_tree(2) with OPEN_TREE_CLONE, but for a mount in the staging folder."""
    if path:
        try:
            source = os.open(path, os.O_PATH | os.O_CLOEXEC, dir_fd=None if dir_fd == mount.AT_FDCWD else dir_fd)
        except OSError as error:
            raise _failed("open_tree", path, error) from None
    else:
        source = os.dup(dir_fd)
    try:
        place = _place(directory=stat.S_ISDIR(os.fstat(source).st_mode))
        mount.mount(_named(source), place, "", mount.MS_BIND | (mount.MS_REC if recursive else 0))
    except OSError as error:
        raise _failed("open_tree", path, error) from None
    finally:
        os.close(source)
    return os.open(place, os.O_PATH | os.O_CLOEXEC)


def new_filesystem(fstype: str, options: dict[str, str | None], *, attributes: int, label: str) -> int:
    """As fsopen(2) .. fsmount(2), but for a mount in the staging folder; OSError EINVAL for a comma in a value."""
    source, data, flags = fstype, [], 0
    for key, value in options.items():
        if value is None and key in _OF_SUPERBLOCK:
            flags |= _OF_SUPERBLOCK[key]
        elif key == "source" and value is not None:
            source = value
        elif "," in (value or ""):
            raise OSError(errno.EINVAL, f"mount {fstype} {label}".rstrip() + f": {key}={value}: the old mount API, which is in use here, can't take a comma")
        else:
            data.append(key if value is None else f"{key}={value}")
    place = _place(directory=True)
    try:
        # MS_RDONLY would make the file system read-only for all its mounts; that is for the option `ro`.
        mount.mount(source, place, fstype, flags | flags_of(attributes & ~mount.MOUNT_ATTR_RDONLY), ",".join(data))
    except OSError as error:
        raise _failed("mount", f"{fstype} {label}".rstrip(), error) from None
    fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
    if bool(flags & mount.MS_RDONLY) != bool(attributes & mount.MOUNT_ATTR_RDONLY):
        _remount(fd, attributes)
    return fd


def probe_filesystem(fstype: str) -> None:
    """OSError ENODEV if this kernel has no such file system: its type is looked up before a file turns out to be no place for it."""
    try:
        mount.mount("none", "/proc/filesystems", fstype, mount.MS_RDONLY)
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.EPERM):
            raise


def move_mount(fd: int, target_fd: int) -> None:
    """MS_MOVE; the places of the staging folder are private, as it asks for."""
    try:
        mount.mount(_named(fd), _named(target_fd), "", mount.MS_MOVE)
    except OSError as error:
        raise _failed("move_mount", None, error) from None


def mount_setattr(fd: int, *, attributes: int, clear: int, propagation: int, recursive: bool) -> None:
    """A remount of each mount that mountinfo shows below `fd`, whose other flags stay as they are (some may be locked).

    One that another covers can't be reached and is left: who could uncover it could as well change it.
    """
    if attributes & mount.MOUNT_ATTR_IDMAP:
        raise OSError(errno.EOPNOTSUPP, "mount_setattr: ids are mapped by the new mount API only, which is refused here (`pyinit doctor` says why)")
    if (attributes | clear) & ~_KNOWN:
        raise OSError(errno.EINVAL, "mount_setattr: a flag that the old mount API, which is in use here, does not know")
    if attributes or clear:
        try:
            _change(fd, attributes, clear, recursive=recursive)
        except OSError as error:
            raise _failed("mount_setattr", None, error) from None
    if propagation:
        mount.mount("", _named(fd), "", propagation | (mount.MS_REC if recursive else 0))


def _change(fd: int, attributes: int, clear: int, *, recursive: bool) -> None:
    top = _number(fd)
    for _ in range(_MOST_ROUNDS):  # again if names changed meanwhile, and once more to see that nothing is left
        table = _table()
        left = [
            (one, wanted)
            for one in (below(table, top) if recursive else [one for one in table if one.number == top])
            if (wanted := (one.attributes & ~clear) | attributes) != one.attributes and (one.number == top or not is_covered(table, one))
        ]
        if not left:
            return
        for one, wanted in left:
            if one.number == top:
                _remount(fd, wanted)
            else:
                _remount_at(one, wanted)
    raise OSError(errno.EAGAIN, "the mounts below it change all the time")


def _remount_at(one: Mounted, attributes: int) -> None:
    """Nothing, if the name leads elsewhere by now."""
    try:
        fd = os.open(one.point, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if _number(fd) == one.number:
            _remount(fd, attributes)
    finally:
        os.close(fd)


def _remount(fd: int, attributes: int) -> None:
    mount.mount("", _named(fd), "", mount.MS_REMOUNT | mount.MS_BIND | flags_of(attributes))


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """As openat2(2) with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS.

    Each name is opened as what it is, never through a link, and `..` goes back to the fd that we came from: whoever
    renames meanwhile changes which place below the root is found, and no more.
    """
    try:
        return _walk(root_fd, path, flags)
    except OSError as error:
        raise _failed("openat2", path, error) from None


def _walk(root_fd: int, path: str, flags: int) -> int:
    if not path:
        raise OSError(errno.ENOENT, "")
    pending, links = path.split("/"), 0
    done = [os.dup(root_fd)]
    try:
        while pending:
            name = pending.pop(0)
            if name in ("", ".", ".."):
                if not stat.S_ISDIR(os.fstat(done[-1]).st_mode):
                    raise OSError(errno.ENOTDIR, "")
                if name == ".." and len(done) > 1:
                    os.close(done.pop())
                continue
            found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=done[-1])
            done.append(found)
            if stat.S_ISLNK(os.fstat(found).st_mode) and (pending or not flags & os.O_NOFOLLOW):
                links += 1
                text = _link(found, links)
                os.close(done.pop())
                while text.startswith("/") and len(done) > 1:
                    os.close(done.pop())
                pending[:0] = text.split("/")
        # By its fd it is the very file that was found; a dup if only that was asked for.
        if flags & os.O_PATH and not flags & os.O_DIRECTORY:
            return os.dup(done[-1])
        return os.open(_named(done[-1]), (flags & ~os.O_NOFOLLOW) | os.O_CLOEXEC)
    finally:
        for fd in done:
            os.close(fd)


def _link(fd: int, links: int) -> str:
    text = os.readlink("", dir_fd=fd)
    # procfs' own links are jumps to whatever the process has open; what they say is a whole path or no path at all.
    magic = mount.filesystem_magic(fd) == mount.PROC_SUPER_MAGIC and (text.startswith(("/", "(")) or ":[" in text)
    if links > _MOST_LINKS or magic:
        raise OSError(errno.ELOOP, "")
    return text


def detached_copy(path: str, attributes: int) -> int:
    """A bind that only this fd can reach: made in the mount namespace of a child, whose end takes the rest away.

    Without the mounts below `path`, for those go with the namespace.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    pid, pidfd = process.clone(0)
    if pid == 0:
        os._exit(_make_copy(theirs, path, attributes))
    os.close(pidfd)
    theirs.close()
    with ours:
        text, received = fds.receive(ours, _MOST_TEXT, 1)
    os.waitpid(pid, 0)  # now the namespace is gone
    if not received:
        number, _, why = text.decode("utf-8", "replace").partition(" ")
        raise OSError(int(number or errno.ECHILD), why or "the process that makes the copy has ended")
    return received[0]


def _make_copy(channel: socket.socket, path: str, attributes: int) -> int:
    try:
        namespaces.unshare(namespaces.CLONE_FLAGS["mount"])
        mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
        mount.mount(path, path, "", mount.MS_BIND)
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        mount_setattr(fd, attributes=attributes, clear=0, propagation=0, recursive=False)
        socket.send_fds(channel, [b"0"], [fd])
    except OSError as error:
        channel.send(f"{error.errno} {error.strerror}".encode()[:_MOST_TEXT])
    return 0


def _place(*, directory: bool) -> str:
    """A fresh mount point in the staging folder, which goes with it."""
    if not staging:
        raise OSError(errno.ENOSYS, "the new mount API is refused here, and there is no staging folder for the old one yet")
    place = f"{staging}/mount-{next(_numbers)}"
    if directory:
        os.mkdir(place, 0o700)
    else:
        os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    return place


def _named(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def _failed(call: str, path: str | None, error: OSError) -> OSError:
    """In the words of the new call (libc.check), so that a message is the same under both."""
    number = error.errno or errno.EIO
    return OSError(number, f"{call}{'' if path is None else f' {path}'}: {os.strerror(number)}")


def _number(fd: int) -> int:
    """The id of the mount that `fd` is on."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(b"mnt_id:"))


def _table() -> list[Mounted]:
    with open("/proc/self/mountinfo", "rb") as file:
        return [mounted(line) for line in file]


# Pure


def mounted(line: bytes) -> Mounted:
    """A line of mountinfo, whose mount point has blanks and backslashes in octal."""
    number, parent, _, _, point, options = line.split(b" ", 6)[:6]
    head, *rest = point.split(b"\\")
    plain = head + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)
    return Mounted(int(number), int(parent), os.fsdecode(plain), attributes_of(options.decode()))


def attributes_of(options: str) -> int:
    """MOUNT_ATTR_* of mountinfo's words; without a word on atime it is strict."""
    words = options.split(",")
    atime = _NOATIME if "noatime" in words else _RELATIME if "relatime" in words else _STRICTATIME
    return atime | sum(bit for bit, _, word in _BITS if word in words)


def flags_of(attributes: int) -> int:
    """MS_* of MOUNT_ATTR_*, with a word on atime: without one a remount keeps what was."""
    return _MS_OF_ATIME[attributes & _ATIME] | sum(flag for bit, flag, _ in _BITS if attributes & bit)


def below(table: list[Mounted], top: int) -> list[Mounted]:
    """The mount `top` and all that are mounted on it, at any depth."""
    numbers, found = {top}, [one for one in table if one.number == top]
    while more := [one for one in table if one.parent in numbers and one.number not in numbers]:
        numbers |= {one.number for one in more}
        found += more
    return found


def is_covered(table: list[Mounted], one: Mounted) -> bool:
    """Whether its path leads to another mount: one on its root, or on a folder above it."""
    return any(other.point == one.point for other in _children(table, one.number)) or _is_buried(table, one)


def _is_buried(table: list[Mounted], one: Mounted) -> bool:
    above = any(one.point.startswith(other.point.rstrip("/") + "/") for other in _children(table, one.parent) if other != one)
    parents = (other for other in table if other.number == one.parent and other != one)
    return above or any(_is_buried(table, parent) for parent in parents)


def _children(table: list[Mounted], number: int) -> list[Mounted]:
    """The first mount of all is its own parent."""
    return [other for other in table if other.parent == number and other.number != number]
