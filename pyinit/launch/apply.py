"""Carrying out the plan's operations on the inside: mounts, devices, pivot.

Owns the one way an operation meets the kernel. Must not know the order (plan.py) or processes (launcher.py).
Laws: every target is opened below the new root by openat2(RESOLVE_IN_ROOT) and mounted on by fd, so no
symlink of an image reaches the host; an OSError leaves as LaunchError with the operation's line and words.
"""

import errno
import os
import stat
from typing import assert_never

from pyinit.launch import imaging
from pyinit.launch import plan as p
from pyinit.launch.digests import Identity, identity
from pyinit.launch.resolve import canonical_target
from pyinit.launch.tracing import SILENT, Trace, carried_out
from pyinit.linux import caps, mount, namespaces
from pyinit.model import IMAGES, Mount

_ATTRIBUTES = {p.RO: mount.MOUNT_ATTR_RDONLY, p.NOSUID: mount.MOUNT_ATTR_NOSUID,
               p.NODEV: mount.MOUNT_ATTR_NODEV, p.NOEXEC: mount.MOUNT_ATTR_NOEXEC}  # fmt: skip
_UPPER = "changes"
# What would tie a kept upper layer to the very images that it was made over (overlayfs.rst, "Changes to underlying filesystems").
_FREE = ",index=off,metacopy=off,redirect_dir=nofollow,xino=off"
_SAFE = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV


class Builder:
    """The state of one build: the staging folder (absolute) and, once mounted, the new root's fd."""

    def __init__(self, staging: str, verified: dict[str, Identity], trace: Trace = SILENT) -> None:
        """`verified`: what the pinned images, by their path, were when their digest was right."""
        self.staging = staging
        self._verified = verified
        self._trace = trace
        self.root_fd = -1
        self._layers = 0
        self._file_targets: set[str] = set()  # a file is bound there, so the mount point must be one

    def run(self, operations: tuple[p.Inside, ...]) -> None:
        """Carry out `operations` in order; LaunchError names the first that fails."""
        self._file_targets = {
            step.mount.target for step in operations if isinstance(step, p.MountDeclared) and _is_file(step.mount)
        }
        for operation in operations:
            with carried_out(operation, self._trace):
                self._execute(operation)

    def _execute(self, operation: p.Inside) -> None:
        match operation:
            case p.Stage():
                mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
                mount.mount("tmpfs", self.staging, "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, "mode=0700")
            case p.AttachLayer():
                self._layer(operation)
            case p.CheckRelease():
                self._release(operation)
            case p.MakeRoot():
                self._root(operation)
            case p.MakeWritable():
                self._writable(operation)
            case p.MountKernel():
                self._kernel(operation)
            case p.MakeDevices():
                self._devices()
            case p.MountDeclared():
                self._declared(operation.mount)
            case p.HidePaths():
                self._hide(operation)
            case p.SetHostname():
                namespaces.set_hostname(operation.hostname)
            case p.Pivot():
                os.fchdir(self.root_fd)
                mount.pivot_to_cwd()
                os.close(self.root_fd)
            case p.LimitCapabilities():
                caps.limit_bounding_set(operation.keep)
                caps.clear_inheritable()
            case _:
                assert_never(operation)

    def _layer(self, operation: p.AttachLayer) -> None:
        place = f"{self.staging}/{operation.position}"
        os.mkdir(place)
        if os.path.isdir(operation.path):
            tree = mount.open_tree(operation.path)
            mount.mount_setattr(tree, attributes=mount.MOUNT_ATTR_RDONLY | _SAFE)
        else:
            tree = self._image(operation.path)
        self._attach(tree, place)
        self._layers = operation.position + 1

    def _release(self, operation: p.CheckRelease) -> None:
        layers = [os.open(f"{self.staging}/{n}", os.O_PATH | os.O_CLOEXEC) for n in range(operation.position + 1)]
        try:
            imaging.check_release(layers[-1], layers[-2::-1], operation.path, operation.origin)
        finally:
            for fd in layers:
                os.close(fd)

    @staticmethod
    def _attach(tree: int, place: str) -> None:
        target = os.open(place, os.O_PATH | os.O_CLOEXEC)
        try:
            mount.move_mount(tree, target)
        finally:
            os.close(target)
            os.close(tree)

    def _root(self, operation: p.MakeRoot) -> None:
        os.chdir(self.staging)  # relative names: no length limit, and no `:` or `,` of a path in the options
        lowers = ":".join(str(index) for index in reversed(range(operation.layers)))
        os.mkdir("view")
        if operation.layers > 1:
            mount.mount("overlay", "view", "overlay", mount.MS_RDONLY, f"lowerdir={lowers}")
        view = os.open("view" if operation.layers > 1 else "0", os.O_PATH | os.O_CLOEXEC)
        try:
            self._generate(view, operation)
        finally:
            os.close(view)
        options, flags = f"lowerdir=generated:{lowers}", mount.MS_RDONLY
        if operation.writable != "none":
            self._upper(operation)
        if operation.whole:
            options, flags = options + f",upperdir={_UPPER}/upper,workdir={_UPPER}/work{_FREE}", 0
        os.mkdir("root")
        mount.mount("overlay", "root", "overlay", flags | mount.MS_NODEV, options)
        self.root_fd = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.chdir("/")

    @staticmethod
    def _upper(operation: p.MakeRoot) -> None:
        """In the staging folder, by a name without `:` and `,`: a RAM disk, or the folder that the launcher has made."""
        os.mkdir(_UPPER)
        if operation.writable != "tmpfs":
            Builder._attach(mount.open_tree(operation.writable, recursive=False), _UPPER)
            return
        size = f",size={operation.size_bytes}" if operation.size_bytes else ""
        size += f",nr_inodes={operation.inodes}" if operation.inodes else ""
        mount.mount("tmpfs", _UPPER, "tmpfs", mount.MS_NODEV, f"mode=0755{size}")
        for name in p.UPPER_FOLDERS:
            os.mkdir(f"{_UPPER}/{name}", 0o755)

    def _writable(self, operation: p.MakeWritable) -> None:
        """An overlay of the layers' folders themselves: one over the root's would be one too deep on some hosts."""
        real = canonical_target(self.root_fd, operation.path)
        if set(real) & set(":,\\"):
            raise OSError(errno.EINVAL, f"{real}, which it is in the image, has a : , or \\ in its name; name another folder")
        os.chdir(self.staging)
        self._copy_directories(self.root_fd, real, f"{_UPPER}/upper")
        os.makedirs(f"{_UPPER}/works{real}", 0o700, exist_ok=True)
        lowers = ":".join(layer + real for layer in self._layers_with(real))
        place = f"writable-{operation.position}"
        os.mkdir(place)
        options = f"lowerdir={lowers},upperdir={_UPPER}/upper{real},workdir={_UPPER}/works{real}{_FREE}"
        mount.mount("overlay", place, "overlay", mount.MS_NODEV, options)
        tree = mount.open_tree(place, recursive=False)
        os.chdir("/")
        self._mount(tree, operation.path)

    def _layers_with(self, path: str) -> list[str]:
        """Layers whose folder `path` shows in the root, uppermost first; OSError if it is none.

        As overlayfs looks them up (kernel: Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
        """
        found = ["generated"]
        for position in reversed(range(self._layers)):
            kind = _kind(str(position), path)
            if kind == "other" and len(found) == 1:
                raise OSError(errno.ENOTDIR, f"{path} is no folder in the image; name a folder")
            if kind in ("folder", "opaque"):
                found.append(str(position))
            if kind in ("other", "whiteout", "opaque"):
                break
        return found

    def _generate(self, view: int, operation: p.MakeRoot) -> None:
        """The uppermost read-only layer: mount points and the files every container has."""
        os.mkdir("generated", 0o755)
        for target in operation.directories:
            path = canonical_target(view, target)
            if target in self._file_targets:
                self._copy_directories(view, os.path.dirname(path))
                with open(f"generated{path}", "x"):
                    pass
            else:
                self._copy_directories(view, path)
        for target, content in operation.files:
            folder = canonical_target(view, os.path.dirname(target))
            self._copy_directories(view, folder)
            with open(f"generated{folder}/{os.path.basename(target)}", "x") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(content)

    @staticmethod
    def _copy_directories(view: int, path: str, into: str = "generated") -> None:
        """Make `path` in the layer `into`; owners and modes as the image has them, for the top layer's win."""
        done = ""
        for name in path.strip("/").split("/") if path != "/" else ():
            done += "/" + name
            try:
                os.mkdir(into + done, 0o755)
            except FileExistsError:
                if not stat.S_ISDIR(os.lstat(into + done).st_mode):  # of a kept upper layer: the container's link to anywhere
                    raise OSError(errno.ENOTDIR, f"{done} is no folder any more in the upper layer; remove it there") from None
                continue
            try:
                seen = os.stat(done[1:], dir_fd=view, follow_symlinks=False)
            except FileNotFoundError:
                continue
            os.chown(into + done, seen.st_uid, seen.st_gid)
            os.chmod(into + done, stat.S_IMODE(seen.st_mode))

    def _place(self, target: str, *, directory: bool = True) -> int:
        """An O_PATH fd of `target` below the root; what is missing is made where the place is writable."""
        try:
            return mount.open_in_root(self.root_fd, target)
        except FileNotFoundError:
            parent = self._place(os.path.dirname(target))
        try:
            name = os.path.basename(target)
            if directory:
                os.mkdir(name, 0o755, dir_fd=parent)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o644, dir_fd=parent))
        finally:
            os.close(parent)
        return mount.open_in_root(self.root_fd, target)

    def _mount(self, tree: int, target: str, *, directory: bool = True) -> None:
        try:
            place = self._place(target, directory=directory)
            try:
                mount.move_mount(tree, place)
            finally:
                os.close(place)
        finally:
            os.close(tree)

    def _kernel(self, operation: p.MountKernel) -> None:
        attributes = sum(_ATTRIBUTES[flag] for flag in operation.flags)
        tree = mount.new_filesystem(operation.fstype, dict(operation.options), attributes=attributes)
        self._mount(tree, operation.target)

    def _devices(self) -> None:
        dev = mount.open_in_root(self.root_fd, "/dev", os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name, major, minor in p.DEVICES:
                os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)
                os.chmod(name, 0o666, dir_fd=dev)  # mknod obeys the umask
            for name, target in p.DEVICE_LINKS:
                os.symlink(target, name, dir_fd=dev)
            for name in ("pts", "shm", "mqueue"):
                os.mkdir(name, 0o755, dir_fd=dev)
        finally:
            os.close(dev)

    def _declared(self, entry: Mount) -> None:
        if entry.type == "tmpfs":
            options = {"mode": f"{entry.mode:o}", "uid": str(entry.uid), "gid": str(entry.gid)}
            if entry.size_bytes:
                options["size"] = str(entry.size_bytes)
            tree = mount.new_filesystem("tmpfs", dict(options), attributes=_SAFE)
            self._mount(tree, entry.target)
            self._files(entry)
        elif entry.type in IMAGES:
            tree = self._image(entry.source)
            imaging.check_release(tree, [self.root_fd], entry.source, entry.origin)
            self._mount(tree, entry.target)
        else:
            tree, directory = _bind(entry)
            self._mount(tree, entry.target, directory=directory)
            return
        if entry.read_only and entry.type == "tmpfs":
            place = mount.open_in_root(self.root_fd, entry.target)
            mount.mount_setattr(place, attributes=mount.MOUNT_ATTR_RDONLY, recursive=False)
            os.close(place)

    def _image(self, source: str) -> int:
        if source.startswith("image:"):
            fd = self._nested(source.removeprefix("image:"))
        else:
            fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if source in self._verified and identity(fd) != self._verified[source]:
                raise OSError(errno.ESTALE, f"{source} has changed since its digest was checked; start again")
            return imaging.image(fd, source)
        finally:
            os.close(fd)

    def _nested(self, path: str) -> int:
        """fd of a file of the root, by the layer that has it: that inode is the same for all containers of the image."""
        fd = mount.open_in_root(self.root_fd, path, os.O_RDONLY | os.O_NONBLOCK)
        seen = os.fstat(fd)
        real = canonical_target(self.root_fd, path)
        for position in reversed(range(self._layers)):
            place = os.open(f"{self.staging}/{position}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                below = mount.open_in_root(place, real, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                continue
            finally:
                os.close(place)
            if _looks_like(os.fstat(below), seen):  # else another layer hides it, or it was written to
                os.close(fd)
                return below
            os.close(below)
        return fd

    def _files(self, entry: Mount) -> None:
        for name, content, mode in entry.files:
            folder = self._place(os.path.normpath(f"{entry.target}/{os.path.dirname(name)}"))
            try:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(os.path.basename(name), flags, mode, dir_fd=folder)
                with open(fd, "w") as file:
                    os.fchmod(fd, mode)
                    os.fchown(fd, entry.uid, entry.gid)
                    file.write(content)
            finally:
                os.close(folder)

    def _hide(self, operation: p.HidePaths) -> None:
        for path in operation.masked:
            for one in self._matches(path):
                self._mask(one)
        for path in operation.readonly:
            try:
                place = mount.open_in_root(self.root_fd, path)
            except FileNotFoundError:
                continue
            try:
                tree = mount.open_tree("", dir_fd=place)
                mount.mount_setattr(tree, attributes=mount.MOUNT_ATTR_RDONLY)
                mount.move_mount(tree, place)
                os.close(tree)
            finally:
                os.close(place)

    def _matches(self, path: str) -> list[str]:
        """A `*` stands for the rest of one name (cpu*)."""
        head, star, tail = path.partition("*")
        if not star:
            return [path]
        folder, _, prefix = head.rpartition("/")
        try:
            place = mount.open_in_root(self.root_fd, folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return []
        try:
            return [f"{folder}/{name}{tail}" for name in os.listdir(place) if name.startswith(prefix)]
        finally:
            os.close(place)

    def _mask(self, path: str) -> None:
        """Nothing of the container runs yet, so /dev/null here is the one that MakeDevices made on our own tmpfs."""
        try:
            place = mount.open_in_root(self.root_fd, path)
        except (FileNotFoundError, NotADirectoryError):  # cpufreq is no CPU
            return
        try:
            if stat.S_ISDIR(os.fstat(place).st_mode):
                tree = mount.new_filesystem("tmpfs", {"size": "0", "mode": "0555"}, attributes=mount.MOUNT_ATTR_RDONLY | _SAFE)
            else:
                null = mount.open_in_root(self.root_fd, "/dev/null")
                seen = os.fstat(null)
                if not stat.S_ISCHR(seen.st_mode) or seen.st_rdev != os.makedev(1, 3):
                    raise OSError(errno.EPERM, "/dev/null of the container is not the null device")
                tree = mount.open_tree("", recursive=False, dir_fd=null)
                os.close(null)
            mount.move_mount(tree, place)
            os.close(tree)
        finally:
            os.close(place)


def _kind(layer: str, path: str) -> str:
    """What a layer holds at `path`: "missing", "folder", "opaque" (what is below is hidden), "whiteout", "other"."""
    found, place = "folder", layer
    for name in path.strip("/").split("/"):
        place += "/" + name
        try:
            seen = os.lstat(place)
        except FileNotFoundError:
            return "whiteout" if found == "opaque" else "missing"
        if stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0:
            return "whiteout"
        if not stat.S_ISDIR(seen.st_mode):
            return "other"
        try:
            if os.getxattr(place, "trusted.overlay.opaque", follow_symlinks=False) == b"y":
                found = "opaque"
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):  # it has none, or its file system has no such thing
                raise
    return found


def _looks_like(one: os.stat_result, other: os.stat_result) -> bool:
    """The device is overlay's in one of them, and says nothing."""
    return all(getattr(one, key) == getattr(other, key) for key in ("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns"))


def _is_file(entry: Mount) -> bool:
    return entry.type == "bind" and not entry.create and not os.path.isdir(entry.source)


def _bind(entry: Mount) -> tuple[int, bool]:
    if entry.create and not os.path.lexists(entry.source):
        os.makedirs(entry.source)
        os.chown(entry.source, entry.uid, entry.gid)
        os.chmod(entry.source, entry.mode)
    directory = os.path.isdir(entry.source)
    tree = mount.open_tree(entry.source)
    attributes = _SAFE | (mount.MOUNT_ATTR_RDONLY if entry.read_only else 0)
    mount.mount_setattr(tree, attributes=attributes)
    return tree, directory
