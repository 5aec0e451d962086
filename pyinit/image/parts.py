"""The layers of a config's image, as they are read for an export: what is in each, in order, and its bytes.

Owns the reading of mounted images and folders, and what several show together. Must not know formats of an export.
Laws: nothing is written to what is read; no symlink is followed; the same images give the same entries, in the same order.
"""

import errno
import os
import stat
from _collections_abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pyinit.image.spec import DEFAULT_EPOCH, BuildError
from pyinit.image.tar import Entry
from pyinit.launch import imaging
from pyinit.records import NamedTuple

_OVERLAY = ("trusted.overlay.", "user.overlay.")
_KINDS = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISLNK, "symlink"), (stat.S_ISFIFO, "fifo"))


class Part(NamedTuple):
    """One layer. `opaque`: folders whose content below is hidden; `read(path)` gives a file's bytes piece by piece.

    `what`: for messages; `left_out`: what no layer can carry, as "PATH (why)".
    """

    what: str
    entries: tuple[Entry, ...]
    opaque: frozenset[str]
    read: Callable[[str], Iterator[bytes]]
    left_out: tuple[str, ...] = ()


@contextmanager
def opened(places: list[tuple[str, str]], epoch: int | None) -> Iterator[list[Part]]:
    """Parts of images or folders: (path on the host, where it stands in the root); BuildError.

    No file is newer than `epoch`; without one an image's times are its own, and a folder's, which a checkout gives, are bounded.
    """
    with ExitStack() as stack:
        found: list[Part] = []
        for path, target in places:
            root = path if os.path.isdir(path) else f"/proc/self/fd/{stack.enter_context(_mounted(path))}"
            part = _walked(path, root, target.strip("/"), DEFAULT_EPOCH if epoch is None and root == path else epoch)
            if target.strip("/"):
                below = {path: entry for path, (_, entry) in merged(found).items()}
                part = part._replace(entries=_with_parents(part.entries, below, epoch or DEFAULT_EPOCH))
            found.append(part)
        yield found


@contextmanager
def _mounted(path: str) -> Iterator[int]:
    if os.geteuid() != 0:
        raise BuildError(f"{path}: an image is read by mounting it, which root alone may: run this as root")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            tree = imaging.image(fd, path)
        finally:
            os.close(fd)
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}") from error
    try:
        yield tree
    finally:
        os.close(tree)


def _walked(path: str, root: str, target: str, epoch: int | None) -> Part:
    entries, opaque, left_out = [], set(), []
    names: dict[tuple[int, int], str] = {}  # the first path of what has several
    pending = [""]
    while pending:
        inner = pending.pop()
        place = f"{root}/{inner}" if inner else f"{root}/."
        seen = os.lstat(place)
        entry = _entry(place, inner, seen, epoch)
        if entry is None:
            left_out.append(f"/{inner} ({_what(seen.st_mode)})")
            continue
        if entry.kind == "folder":
            if any(_xattr(place, f"{prefix}opaque") == b"y" for prefix in _OVERLAY):
                opaque.add(inner)
            pending += [f"{inner}/{name}" if inner else name for name in sorted(os.listdir(place), reverse=True)]
        elif entry.kind == "file" and seen.st_nlink > 1:
            first = names.setdefault((seen.st_dev, seen.st_ino), inner)
            entry = entry if first == inner else entry._replace(kind="hardlink", link=first, size_bytes=0)
        entries.append(entry)
    if target:
        entries, opaque = [_below(target, entry) for entry in entries], {f"{target}/{name}".rstrip("/") for name in opaque} | {target}
        left_out = [f"/{target}{one}" for one in left_out]
    entries.sort(key=lambda entry: os.fsencode(entry.path))
    begin = len(target) + 1 if target else 0
    return Part(path, tuple(entries), frozenset(opaque), lambda name: pieces(f"{root}/{name[begin:]}"), tuple(left_out))


def _below(target: str, entry: Entry) -> Entry:
    return entry._replace(path=f"{target}/{entry.path}".rstrip("/"), link=f"{target}/{entry.link}" if entry.kind == "hardlink" else entry.link)


def _entry(place: str, path: str, seen: os.stat_result, epoch: int | None) -> Entry | None:
    """None for what has no place in a layer."""
    if stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0:
        return Entry(path, "whiteout", 0)
    kind = next((kind for test, kind in _KINDS if test(seen.st_mode)), "")
    if not kind:
        return None
    time = int(seen.st_mtime) if epoch is None else min(int(seen.st_mtime), epoch)
    link = os.readlink(place) if kind == "symlink" else ""
    xattrs = [(name, _xattr(place, name) or b"") for name in _xattrs(place) if not name.startswith(_OVERLAY)]
    size = seen.st_size if kind == "file" else 0
    return Entry(path, kind, stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, max(time, 0), size, link, tuple(xattrs))


def _xattrs(place: str) -> list[str]:
    try:
        return sorted(os.listxattr(place, follow_symlinks=False))
    except OSError as error:
        if error.errno == errno.ENOTSUP:  # of an image without any
            return []
        raise


def _xattr(place: str, name: str) -> bytes | None:
    try:
        return os.getxattr(place, name, follow_symlinks=False)
    except OSError:
        return None


def _what(mode: int) -> str:
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def pieces(path: str) -> Iterator[bytes]:
    """A file's bytes."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def made(files: dict[str, tuple[int, bytes]], folders: dict[str, int], epoch: int, below: dict[str, Entry]) -> Part:
    """A layer of files (mode, content) and folders (mode) that are not there yet, over `below`: parents are as they are there."""
    contents = {path: data for path, (_, data) in files.items()}
    entries = {path: Entry(path, "file", mode, mtime_s=epoch, size_bytes=len(data)) for path, (mode, data) in files.items()}
    entries |= {path: Entry(path, "folder", mode, mtime_s=epoch) for path, mode in folders.items() if path not in below}
    whole = _with_parents(tuple(entries.values()), below, epoch)
    return Part("pyinit", whole, frozenset(), lambda path: iter([contents[path]]))


def _with_parents(entries: tuple[Entry, ...], below: dict[str, Entry], epoch: int) -> tuple[Entry, ...]:
    """In order, with the folders that they lie in, as these are below; BuildError if one is no folder there."""
    found = {entry.path: entry for entry in entries}
    for path in list(found):
        while path:
            path = path.rpartition("/")[0]
            there = below.get(path)
            if path not in found and there is not None and there.kind != "folder":
                raise BuildError(f"/{path} of the image is a {there.kind}{' to ' + there.link if there.link else ''}, and not the folder that an export puts something into")
            found.setdefault(path, there or Entry(path, "folder", mtime_s=epoch))
    return tuple(sorted(found.values(), key=lambda entry: os.fsencode(entry.path)))


def merged(parts: list[Part]) -> dict[str, tuple[int, Entry]]:
    """What all show together: (which part has it, the entry) by path."""
    found: dict[str, tuple[int, Entry]] = {}
    for number, part in enumerate(parts):
        own = {entry.path: entry for entry in part.entries}
        covered = {path for path, entry in own.items() if entry.kind != "folder"} | part.opaque
        found = {path: row for path, row in found.items() if not _is_covered(path, covered)}
        found |= {path: (number, entry) for path, entry in own.items() if entry.kind != "whiteout"}
    return found


def _is_covered(path: str, covered: set[str] | frozenset[str]) -> bool:
    """By what stands in its own place, or in that of a folder above it."""
    while path:
        if path in covered:
            return True
        path = path.rpartition("/")[0]
    return "" in covered
