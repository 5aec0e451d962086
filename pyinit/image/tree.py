"""The tree of files that becomes an image: laying folders over it, making it the same each time, removing it.

Owns every change to the tree. Must not know mmdebstrap, mksquashfs or build files.
Laws: nothing is written through a symlink of the tree; modes come out as 0644 or 0755, whatever the umask of the
checkout was; a tree with something mounted in it is never removed, for that may be the machine's own /dev.
"""

import fnmatch
import hashlib
import os
import shutil
import stat
from _collections_abc import Iterator

from pyinit.image.spec import BuildError

MOUNTINFO = "/proc/self/mountinfo"
KEEP = ".keep"  # git has no empty folders: such a file holds one, and stays out of the image

# The machine that builds must not show in the image: names and keys of its own, logs, caches, apt's sources.
VOLATILE = (
    "dev/*", "proc/*", "sys/*", "run/*", "tmp/*", "var/tmp/*", "var/log/*",
    "etc/ssh/ssh_host_*", "etc/.pwd.lock", "etc/*-",
    "etc/apt/sources.list", "etc/apt/sources.list.d/*", "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap", "var/lib/apt/lists/*", "var/cache/apt/*", "var/cache/debconf/*-old",
    "var/cache/ldconfig/*", "var/lib/dpkg/*-old", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed",
)  # fmt: skip
# Empty rather than absent: runtimes bind their own file over each, for which a read-only root must have the place.
EMPTIED = ("etc/machine-id", "etc/hostname", "etc/resolv.conf")


def entries(folder: str) -> list[tuple[str, os.stat_result]]:
    """What is in the folder, as (relative path, lstat), a parent before its children; only what an image may hold."""
    found = []
    pending = [""]
    while pending:
        place = pending.pop()
        with os.scandir(os.path.join(folder, place)) as listing:
            for entry in listing:
                if entry.name == KEEP:
                    continue
                name = os.path.join(place, entry.name)
                seen = entry.stat(follow_symlinks=False)
                if not (stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode) or stat.S_ISLNK(seen.st_mode)):
                    raise BuildError(f"{folder}/{name}: expected a file, a folder or a symlink; remove it")
                found.append((name, seen))
                if stat.S_ISDIR(seen.st_mode):
                    pending.append(name)
    return sorted(found)


def digest(folder: str) -> str:
    """A hash of names, kinds, execute bits and contents; not of times and owners, which an image has its own of."""
    total = hashlib.sha256()
    for name, seen in entries(folder):
        path = os.path.join(folder, name)
        if stat.S_ISLNK(seen.st_mode):
            what = f"link {os.readlink(path)}"
        elif stat.S_ISDIR(seen.st_mode):
            what = "folder"
        else:
            with open(path, "rb") as file:
                what = f"file {_mode(seen):o} {hashlib.file_digest(file, 'sha256').hexdigest()}"
        total.update(f"{name}\0{what}\0".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def lay(folder: str, tree: str, epoch: int) -> None:
    """Copy the folder's content over the tree; a file replaces a file or a link, a folder only joins a folder."""
    for name, seen in entries(folder):
        source, target = os.path.join(folder, name), os.path.join(tree, name)
        there = os.lstat(target) if os.path.lexists(target) else None
        if there is not None and (stat.S_ISDIR(there.st_mode) != stat.S_ISDIR(seen.st_mode)):
            raise BuildError(f"{source}: {_clash(name, target, there)}")
        if stat.S_ISDIR(seen.st_mode):
            if there is None:
                os.mkdir(target)
                os.chmod(target, 0o755)
            continue
        if there is not None:
            os.unlink(target)
        if stat.S_ISLNK(seen.st_mode):
            os.symlink(os.readlink(source), target)
        else:
            shutil.copyfile(source, target)
            os.chmod(target, _mode(seen))
        os.utime(target, (epoch, epoch), follow_symlinks=False)


def _mode(seen: os.stat_result) -> int:
    return 0o755 if seen.st_mode & stat.S_IXUSR else 0o644


def _clash(name: str, target: str, there: os.stat_result) -> str:
    if stat.S_ISLNK(there.st_mode):
        return f"/{name} is a symlink to {os.readlink(target)} in the base system; put the content there"
    kind = "folder" if stat.S_ISDIR(there.st_mode) else "file"
    return f"/{name} is a {kind} in the base system, which this cannot replace; rename or exclude one"


def settle(tree: str, epoch: int) -> None:
    """Make an installed system independent of where and when it was installed; before anything is laid over it."""
    for pattern in VOLATILE:
        for path in list(_matches(tree, pattern.split("/"))):
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
    for name in EMPTIED:
        path = os.path.join(tree, name)
        if os.path.lexists(path):
            os.unlink(path)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    for folder, _, names in os.walk(tree):
        for name in names if folder.endswith("/__pycache__") else ():
            if name.endswith(".pyc") and not os.path.islink(f"{folder}/{name}"):
                _clamp_pyc(f"{folder}/{name}", epoch)


def _matches(place: str, parts: list[str]) -> Iterator[str]:
    """The paths of the pattern; not by glob, which follows symlinks: /var/log -> /x would lead to the machine's own."""
    if os.path.islink(place) or not os.path.isdir(place):
        return
    for name in sorted(fnmatch.filter(os.listdir(place), parts[0])):
        if len(parts) == 1:
            yield f"{place}/{name}"
        else:
            yield from _matches(f"{place}/{name}", parts[1:])


def _clamp_pyc(path: str, epoch: int) -> None:
    """mksquashfs sets times after the epoch to it; a .pyc carries its source's time, and is stale if they differ.

    The header (PEP 552): magic, flags, mtime, size, 4 bytes each; flags 0 means that the mtime counts.
    """
    with open(path, "r+b") as file:
        header = file.read(12)
        if len(header) == 12 and header[4:8] == bytes(4) and int.from_bytes(header[8:], "little") > epoch:
            file.seek(8)
            file.write(epoch.to_bytes(4, "little"))


def remove(path: str) -> None:
    """Remove a tree that a build made, if it is there; BuildError if something is mounted in it."""
    if not os.path.lexists(path):
        return
    inside = os.path.realpath(path) + "/"
    with open(MOUNTINFO) as file:
        # Spaces and the like are octal escapes there (proc(5)); the comparison is of the escaped form.
        escaped = inside.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
        mounted = [words[4] for words in map(str.split, file) if words[4].startswith(escaped)]
    if mounted:
        raise BuildError(f"{path} is left there, for {mounted[0]} is mounted: unmount it, then remove the folder")
    shutil.rmtree(path)
