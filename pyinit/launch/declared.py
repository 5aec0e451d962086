"""The mounts that a config declares: each becomes a detached tree, is given its attributes, and is put in its place.

Owns how each type is mounted. Must not know the order, or where what is elsewhere comes from (outside.py). Laws: a tree
has its attributes before anybody can see it; files are written before it becomes read-only; of what is secret nothing
but its name is ever in a message.
"""

import errno
import os

from pyinit.launch import imaging
from pyinit.launch.onhost import FILE
from pyinit.launch.operations import Point, is_elsewhere, point
from pyinit.launch.root import Ids, Root, attach, write_all
from pyinit.linux import mount
from pyinit.model import IMAGES, FileSpec, Mount
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.launch.outside import Outside

_ATTRIBUTES = {
    "nosuid": mount.MOUNT_ATTR_NOSUID, "nodev": mount.MOUNT_ATTR_NODEV, "noexec": mount.MOUNT_ATTR_NOEXEC,
    "nodiratime": mount.MOUNT_ATTR_NODIRATIME, "nosymfollow": mount.MOUNT_ATTR_NOSYMFOLLOW,
}  # fmt: skip
_ATIMES = {"relatime": 0, "noatime": mount.MOUNT_ATTR_NOATIME, "strictatime": mount.MOUNT_ATTR_STRICTATIME}
_SECRET_BYTES = 16 << 20


class Declared:
    """What the mounts of one build share."""

    def __init__(self, root: Root, staging: str, images: imaging.Images, outside: "Outside | None") -> None:
        """`staging`: an absolute folder of the build's own, on which whatever is needed on the way is made.

        `outside`: what the launcher had for them; None if they need nothing of it.
        """
        self._root = root
        self._staging = staging
        self._images = images
        self._outside = outside
        self._overlays = 0

    def mount(self, entry: Mount) -> None:
        """Carry out one entry; OSError."""
        tree, directory = self._tree(entry)
        try:
            self._set(tree, entry)
        except OSError:
            os.close(tree)
            raise
        self._root.mount(tree, point(entry), directory=directory, declared=True)
        if entry.type == "tmpfs":
            for file in entry.files:
                self._write(entry, file)
            if entry.read_only:
                self._close(entry)

    def _tree(self, entry: Mount) -> tuple[int, bool]:
        """(a detached mount, whether it is of a folder)."""
        if is_elsewhere(entry):
            assert self._outside is not None
            return self._outside.take_tree(entry.target), True
        if entry.type == "bind":
            return self._bind(entry)
        if entry.type == "overlay":
            return self._overlay(entry), True
        if entry.type in IMAGES:
            tree = self._images.mount(entry.source, self._root.fd)
            imaging.check_release(tree, [self._root.fd], entry.source, entry.origin)
            return tree, True
        return _ram(entry, self._root.ids), True

    def _bind(self, entry: Mount) -> tuple[int, bool]:
        make_source(entry, self._root.ids)
        shared = self._outside if entry.propagation != "private" else None
        tree = shared.take_tree(entry.target) if shared is not None else mount.open_tree(entry.source)
        return tree, os.path.isdir(entry.source)

    def _set(self, tree: int, entry: Mount) -> None:
        """All of them at once, and of a bind on all that lies in it."""
        wanted = sum(_ATTRIBUTES.get(flag, 0) for flag in entry.flags)
        unwanted = sum(bit for flag, bit in _ATTRIBUTES.items() if flag not in entry.flags) if entry.type != "bind" else 0
        if entry.read_only and entry.type != "tmpfs":  # that one's files come first
            wanted |= mount.MOUNT_ATTR_RDONLY
        for flag in entry.flags:
            if flag in _ATIMES:
                wanted |= _ATIMES[flag]
                unwanted |= mount.MOUNT_ATTR__ATIME
        mount.mount_setattr(tree, attributes=wanted, clear=unwanted)
        userns = self._outside.take_map(entry.target) if self._outside is not None else -1
        if userns >= 0:
            try:
                mount.mount_setattr(tree, attributes=mount.MOUNT_ATTR_IDMAP, userns_fd=userns)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    raise OSError(errno.EINVAL, f"the file system of {entry.source}, or one in it, can't map ids; take idmap out") from error
                raise
            finally:
                os.close(userns)

    def _overlay(self, entry: Mount) -> int:
        """By names of our own, for `:` and `,` part the options of an overlay."""
        place = f"{self._staging}/overlay-{self._overlays}"
        self._overlays += 1
        os.mkdir(place)
        for number, layer in enumerate(entry.layers):
            os.mkdir(f"{place}/{number}")
            attach(self._images.layer(layer.path), f"{place}/{number}")
        os.chdir(place)
        try:
            return _stack(entry, self._root.ids)
        finally:
            os.chdir("/")

    def _write(self, entry: Mount, file: FileSpec) -> None:
        folder = self._root.place(Point(os.path.normpath(f"{entry.target}/{os.path.dirname(file.name)}")))
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(os.path.basename(file.name), flags, 0o600, dir_fd=folder)
            try:
                self._fill(fd, entry, file)
                uid, gid = entry.uid if file.uid < 0 else file.uid, entry.gid if file.gid < 0 else file.gid
                os.fchown(fd, self._root.ids.outside("uid", uid), self._root.ids.outside("gid", gid))
                os.fchmod(fd, file.mode)  # after the owner, for a change of that takes set-uid away
            finally:
                os.close(fd)
        finally:
            os.close(folder)

    def _fill(self, fd: int, entry: Mount, file: FileSpec) -> None:
        if file.content.kind == "text":
            write_all(fd, file.content.text.encode())
            return
        assert self._outside is not None
        source = self._outside.take_content(entry.target, FILE, file.name)
        try:
            size, at = os.fstat(source).st_size, 0
            while at < size:
                at += os.sendfile(fd, source, at, size - at)
        finally:
            os.close(source)

    def _close(self, entry: Mount) -> None:
        place = self._root.open(entry.target)
        try:
            mount.mount_setattr(place, attributes=mount.MOUNT_ATTR_RDONLY, recursive=False)
        finally:
            os.close(place)


def _stack(entry: Mount, ids: Ids) -> int:
    """Of layers that are mounted at 0, 1, ... in the current folder."""
    lowers = ":".join(str(number) for number in reversed(range(len(entry.layers))))
    if entry.writable == "none" and len(entry.layers) == 1:  # an overlay needs two
        return mount.open_tree("0", recursive=False)
    os.mkdir("all")
    options, flags = f"lowerdir={lowers}{ids.overlay}", mount.MS_RDONLY
    if entry.writable != "none":
        imaging.make_upper("changes", entry.writable, entry.size_bytes, 0, ids)
        options, flags = f"{options},upperdir=changes/upper,workdir=changes/work{imaging.FREE}", 0
    mount.mount("overlay", "all", "overlay", flags, options)
    return mount.open_tree("all", recursive=False)


def make_source(entry: Mount, ids: Ids) -> None:
    """A bind's folder on the host, if it is missing and may be made."""
    if entry.create and not os.path.lexists(entry.source):
        os.makedirs(entry.source)
        os.chown(entry.source, ids.outside("uid", entry.uid), ids.outside("gid", entry.gid))
        os.chmod(entry.source, entry.mode)


def _ram(entry: Mount, ids: Ids) -> int:
    options: dict[str, str | None] = {"mode": f"{entry.mode:o}", "uid": str(ids.outside("uid", entry.uid)), "gid": str(ids.outside("gid", entry.gid))}
    if entry.size_bytes:
        options["size"] = str(entry.size_bytes)
    options.update(entry.options)
    if not entry.secret:
        return mount.new_filesystem("tmpfs", options)
    try:
        return mount.new_filesystem("tmpfs", {**options, "size": str(_SECRET_BYTES), "noswap": None})
    except OSError as error:  # a kernel before 6.4
        if error.errno not in (errno.EINVAL, errno.EPERM):  # or an ordinary user's
            raise
    return mount.new_filesystem("ramfs", {"mode": f"{entry.mode:o}"})
