"""Files that are kept from one start to the next, to make it shorter: root's alone, in RAM.

Owns the folder and who is trusted with it. Must not know what the files hold. Laws: what is read was written by root
into a folder that nobody else can write to; a file is whole or not there; none is needed: whatever is wrong with one, it
is as if it were not there.
"""

import os

FOLDER = "/run/pyinit/.kept"
_MOST_FILES = 256
_MOST_BYTES = 16 << 20
_NEW = ".new"


def read(name: str) -> bytes | None:
    """What was kept as `name`; None if there is nothing that can be trusted."""
    fd = open_file(name)
    if fd < 0:
        return None
    try:
        size = os.fstat(fd).st_size
        data = os.pread(fd, size, 0)
        return data if len(data) == size else None
    except OSError:
        return None
    finally:
        os.close(fd)


def open_file(name: str) -> int:
    """fd of what was kept as `name`; -1 if there is nothing that can be trusted."""
    try:
        if not all(_is_ours(os.lstat(path), 0o040000) for path in (os.path.dirname(FOLDER), FOLDER)):
            return -1
        fd = os.open(f"{FOLDER}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if _is_ours(os.fstat(fd), 0o100000):
            return fd
        os.close(fd)
    except OSError:
        pass
    return -1


def open_newest(start: str) -> int:
    """As open_file, of the newest whose name starts so."""
    try:
        return open_file(max((name for name in os.listdir(FOLDER) if name.startswith(start) and not name.endswith(_NEW)), key=_age_ns, default=""))
    except OSError:  # gone meanwhile
        return -1


def _age_ns(name: str) -> int:
    return os.lstat(f"{FOLDER}/{name}").st_mtime_ns


def _is_ours(seen: os.stat_result, kind: int) -> bool:
    return seen.st_mode & 0o170000 == kind and seen.st_uid == os.geteuid() == 0 and not seen.st_mode & 0o077


def write(name: str, data: bytes) -> bool:
    """Keep `data` as `name`; False where that can't be."""
    if os.geteuid() != 0 or len(data) > _MOST_BYTES:
        return False
    try:
        for path in (os.path.dirname(FOLDER), FOLDER):
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                if not _is_ours(os.lstat(path), 0o040000):
                    return False
        _make_room()
        new = f"{FOLDER}/{name}.{os.getpid()}{_NEW}"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb", buffering=0) as file:
                os.fchmod(fd, 0o600)
                if file.write(data) != len(data):
                    raise OSError
            os.rename(new, f"{FOLDER}/{name}")
        except OSError:
            os.unlink(new)
            return False
    except OSError:
        return False
    return True


def _make_room() -> None:
    """The oldest go: what is needed again is made again."""
    names = os.listdir(FOLDER)
    if len(names) < _MOST_FILES:
        return
    ages = {name: _age_ns(name) for name in names}
    for name in sorted(names, key=ages.__getitem__)[: len(names) - _MOST_FILES // 2]:
        os.unlink(f"{FOLDER}/{name}")
