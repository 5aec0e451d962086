"""Carrying out the plan's operations on the inside: mounts, devices, settings.

Owns the one way an operation meets the kernel. Must not know the order (plan.py) or processes (launcher.py).
Laws: every target is opened below the new root by openat2(RESOLVE_IN_ROOT) and mounted on by fd, so no
symlink of an image reaches the host; an OSError leaves as LaunchError with the operation's line and words.
"""

import errno
import os
import stat
from _collections_abc import Callable

from pyinit.launch import imaging, onhost
from pyinit.launch import operations as p
from pyinit.launch.declared import Declared
from pyinit.launch.digests import Identity
from pyinit.launch.resolve import canonical_target
from pyinit.launch.root import Ids, Root, attach, own
from pyinit.launch.tracing import SILENT, Trace, carried_out
from pyinit.linux import mount, namespaces
from pyinit.model import Mount
from pyinit.records import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    from pyinit.launch.outside import Outside

_ATTRIBUTES = {p.RO: mount.MOUNT_ATTR_RDONLY, p.NOSUID: mount.MOUNT_ATTR_NOSUID,
               p.NODEV: mount.MOUNT_ATTR_NODEV, p.NOEXEC: mount.MOUNT_ATTR_NOEXEC}  # fmt: skip
_UPPER = "changes"
_SAFE = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV


class Builder:
    """The state of one build: the staging folder (absolute) and, once mounted, the new root."""

    def __init__(
        self, staging: str, verified: dict[str, Identity], outside: "Outside | None", ids: Ids, linked: Callable[[], None] = lambda: None,
        trace: Trace = SILENT,
    ) -> None:  # fmt: skip
        """`verified`: what the pinned images, by their path, were when their digest was right; `linked()` waits for the network."""
        self.staging = staging
        self.root = Root(-1, ids)
        self._images = imaging.Images(staging, verified, ids, outside)
        self._declared = Declared(self.root, staging, self._images, outside)
        self._linked = linked
        self._trace = trace
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
                mount.use_staging(self.staging)
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
            case p.MakeDevice():
                self._device(operation)
            case p.MountDeclared():
                self._declared.mount(operation.mount)
            case p.HidePaths():
                self._hide(operation)
            case p.BindNames():
                self._names(operation)
            case p.SetHostname():
                namespaces.set_hostname(operation.hostname)
            case p.SetSysctl():
                self._sysctl(operation)
            case _:
                assert_never(operation)

    def _layer(self, operation: p.AttachLayer) -> None:
        place = f"{self.staging}/{operation.position}"
        os.mkdir(place)
        attach(self._images.layer(operation.path), place)
        self._images.layers = operation.position + 1

    def _release(self, operation: p.CheckRelease) -> None:
        layers = [os.open(f"{self.staging}/{n}", os.O_PATH | os.O_CLOEXEC) for n in range(operation.position + 1)]
        try:
            imaging.check_release(layers[-1], layers[-2::-1], operation.path, operation.origin)
        finally:
            for fd in layers:
                os.close(fd)

    def _root(self, operation: p.MakeRoot) -> None:
        os.chdir(self.staging)  # relative names: no length limit, and no `:` or `,` of a path in the options
        lowers = ":".join(str(index) for index in reversed(range(operation.layers)))
        os.mkdir("view")
        if operation.layers > 1:
            mount.mount("overlay", "view", "overlay", mount.MS_RDONLY, f"lowerdir={lowers}{self.root.ids.overlay}")
        view = os.open("view" if operation.layers > 1 else "0", os.O_PATH | os.O_CLOEXEC)
        try:
            self._generate(view, operation)
        finally:
            os.close(view)
        options, flags = f"lowerdir=generated:{lowers}{self.root.ids.overlay}", mount.MS_RDONLY
        if operation.writable != "none":
            imaging.make_upper(_UPPER, operation.writable, operation.size_bytes, operation.inodes, self.root.ids)
        if operation.whole:
            options, flags = options + f",upperdir={_UPPER}/upper,workdir={_UPPER}/work{imaging.FREE}", 0
        os.mkdir("root")
        mount.mount("overlay", "root", "overlay", flags | mount.MS_NODEV, options)
        self.root.fd = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.chdir("/")

    def _writable(self, operation: p.MakeWritable) -> None:
        """An overlay of the layers' folders themselves: one over the root's would be one too deep on some hosts."""
        real = canonical_target(self.root.fd, operation.path)
        if set(real) & set(":,\\"):
            raise OSError(errno.EINVAL, f"{real}, which it is in the image, has a : , or \\ in its name; name another folder")
        os.chdir(self.staging)
        self._copy_directories(self.root.fd, real, f"{_UPPER}/upper")
        os.makedirs(f"{_UPPER}/works{real}", 0o700, exist_ok=True)
        lowers = f"generated{real}"
        for layer in self._layers_with(real):
            lower = f"lower-{operation.position}-{layer}"
            os.mkdir(lower)
            attach(_folder_of(layer, real), lower)
            lowers += f":{lower}"
        place = f"writable-{operation.position}"
        os.mkdir(place)
        options = f"lowerdir={lowers},upperdir={_UPPER}/upper{real},workdir={_UPPER}/works{real}{imaging.FREE}{self.root.ids.overlay}"
        mount.mount("overlay", place, "overlay", mount.MS_NODEV, options)
        tree = mount.open_tree(place, recursive=False)
        os.chdir("/")
        self.root.mount(tree, p.Point(operation.path))

    def _layers_with(self, path: str) -> list[str]:
        """Layers below the generated one whose folder `path` shows in the root, uppermost first; OSError if it is none.

        As overlayfs looks them up (kernel: Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
        """
        found: list[str] = []
        for position in reversed(range(self._images.layers)):
            kind = _kind(str(position), path, self.root.ids)
            if kind == "other" and not found:
                raise OSError(errno.ENOTDIR, f"{path} is no folder in the image; name a folder")
            if kind in ("folder", "opaque"):
                found.append(str(position))
            if kind in ("other", "whiteout", "opaque"):
                break
        return found

    def _generate(self, view: int, operation: p.MakeRoot) -> None:
        """The uppermost read-only layer: mount points and the files every container has."""
        os.mkdir("generated", 0o755)
        for point in operation.points:
            path = canonical_target(view, point.path)
            if point.path in self._file_targets:
                self._copy_directories(view, os.path.dirname(path))
                with open(f"generated{path}", "x"):
                    own(f"generated{path}", point, self.root.ids, directory=False)
            else:
                self._copy_directories(view, path, point=point)
        for target, content in operation.files:
            folder = canonical_target(view, os.path.dirname(target))
            self._copy_directories(view, folder)
            with open(f"generated{folder}/{os.path.basename(target)}", "x") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(content)

    def _copy_directories(self, view: int, path: str, into: str = "generated", point: p.Point | None = None) -> None:
        """Make `path` in the layer `into`; owners and modes as the image has them, for the top layer's win, else as the point's."""
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
                if point is not None and done == path:
                    own(into + done, point, self.root.ids)
                continue
            os.chown(into + done, self.root.ids.heir("uid", seen.st_uid), self.root.ids.heir("gid", seen.st_gid))
            os.chmod(into + done, stat.S_IMODE(seen.st_mode))

    def _kernel(self, operation: p.MountKernel) -> None:
        attributes = sum(_ATTRIBUTES[flag] for flag in operation.flags)
        options: dict[str, str | None] = dict(operation.options)
        if "gid" in options:  # the kernel reads it as the host's
            group = int(options.pop("gid") or 0)
            if self.root.ids.has("gid", group):
                options["gid"] = str(self.root.ids.outside("gid", group))
        try:
            tree = mount.new_filesystem(operation.fstype, options, attributes=attributes)
        except PermissionError:
            if operation.fstype == "proc" and (why := self.root.ids.why_no_proc()):
                raise OSError(errno.EPERM, why) from None
            if operation.fstype != "sysfs" or self.root.ids.makes_devices:
                raise
            tree = mount.open_tree("/sys")  # an ordinary user has that of his own network namespaces only
            mount.mount_setattr(tree, attributes=attributes)
        self.root.mount(tree, p.Point(operation.target))

    def _devices(self) -> None:
        dev = self.root.open("/dev", os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name, major, minor in onhost.DEVICES if self.root.ids.makes_devices else ():
                os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)
                os.chmod(name, 0o666, dir_fd=dev)  # mknod obeys the umask
            for name, target in p.DEVICE_LINKS:
                os.symlink(target, name, dir_fd=dev)
            for name in ("pts", "shm", "mqueue"):
                os.mkdir(name, 0o755, dir_fd=dev)
            for name, _, _ in () if self.root.ids.makes_devices else onhost.DEVICES:
                self._bind_device(name)
        finally:
            os.close(dev)

    def _device(self, operation: p.MakeDevice) -> None:
        """In a tmpfs of ours, in which nobody else has made anything yet."""
        one = operation.device
        seen = os.stat(one.path)
        if not stat.S_ISCHR(seen.st_mode) and not stat.S_ISBLK(seen.st_mode):
            raise OSError(errno.ENODEV, f"{one.path} is no device any more")
        place = self.root.open("/dev", os.O_RDONLY | os.O_DIRECTORY)
        *folders, name = one.path.split("/")[2:]
        try:
            for folder in folders:
                try:
                    os.mkdir(folder, 0o755, dir_fd=place)
                except FileExistsError:
                    pass
                inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
                os.close(place)
                place = inner
            os.mknod(name, stat.S_IFMT(seen.st_mode) | 0o600, seen.st_rdev, dir_fd=place)
            uid, gid = (mine if mine >= 0 else theirs for mine, theirs in ((one.uid, seen.st_uid), (one.gid, seen.st_gid)))
            os.chown(name, uid, gid, dir_fd=place, follow_symlinks=False)
            os.chmod(name, one.mode if one.mode >= 0 else stat.S_IMODE(seen.st_mode), dir_fd=place)
        finally:
            os.close(place)

    def _names(self, operation: p.BindNames) -> None:
        """Over those of the generated layer, which hold what is known before the start."""
        from pyinit.launch import names  # for those who have a link

        for name in (names.HOSTS, names.RESOLVER):
            tree = mount.open_tree(f"{names.folder(operation.name)}/{name}", recursive=False)
            try:
                mount.mount_setattr(tree, attributes=mount.MOUNT_ATTR_RDONLY | _SAFE | mount.MOUNT_ATTR_NOEXEC)
                place = self.root.open(f"/etc/{name}")
                try:
                    mount.move_mount(tree, place)
                finally:
                    os.close(place)
            finally:
                os.close(tree)

    def _bind_device(self, name: str) -> None:
        """The host's own node: in a user namespace nobody can make one."""
        self.root.mount(mount.open_tree(f"/dev/{name}", recursive=False), p.Point(f"/dev/{name}", 0o666), directory=False)

    def _sysctl(self, operation: p.SetSysctl) -> None:
        """Through a procfs of our own that is mounted nowhere: nothing in the image can lead us elsewhere."""
        if operation.path.startswith("net/"):
            self._linked()
            self._linked = lambda: None
        tree = mount.new_filesystem("proc", {}, attributes=_SAFE | mount.MOUNT_ATTR_NOEXEC)
        try:
            fd = mount.open_in_root(tree, f"sys/{operation.path}", os.O_WRONLY)
        except FileNotFoundError:
            raise OSError(errno.ENOENT, "this kernel has no such setting; mend its name, or load the module that it belongs to") from None
        except PermissionError:
            raise OSError(errno.ENOTSUP, "it can only be read in a namespace of its own; set it on the host") from None
        finally:
            os.close(tree)
        try:
            if mount.filesystem_magic(fd) != mount.PROC_SUPER_MAGIC:
                raise OSError(errno.EPERM, f"sys/{operation.path} is no file of procfs")
            os.write(fd, operation.value.encode())
        except OSError as error:
            raise OSError(error.errno, f"the kernel refuses that value: {error.strerror}") from None
        finally:
            os.close(fd)

    def _hide(self, operation: p.HidePaths) -> None:
        for path in operation.masked:
            for one in self._matches(path):
                self._mask(one)
        for path in operation.readonly:
            try:
                place = self.root.open(path)
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
            place = self.root.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return []
        try:
            return [f"{folder}/{name}{tail}" for name in os.listdir(place) if name.startswith(prefix)]
        finally:
            os.close(place)

    def _mask(self, path: str) -> None:
        """Nothing of the container runs yet, so /dev/null here is the one that MakeDevices made on our own tmpfs."""
        try:
            place = self.root.open(path)
        except (FileNotFoundError, NotADirectoryError):  # cpufreq is no CPU
            return
        try:
            if stat.S_ISDIR(os.fstat(place).st_mode):
                tree = mount.new_filesystem("tmpfs", {"size": "0", "mode": "0555"}, attributes=mount.MOUNT_ATTR_RDONLY | _SAFE)
            else:
                null = self.root.open("/dev/null")
                seen = os.fstat(null)
                if not stat.S_ISCHR(seen.st_mode) or seen.st_rdev != os.makedev(1, 3):
                    raise OSError(errno.EPERM, "/dev/null of the container is not the null device")
                tree = mount.open_tree("", recursive=False, dir_fd=null)
                os.close(null)
            mount.move_mount(tree, place)
            os.close(tree)
        finally:
            os.close(place)


def _folder_of(layer: str, path: str) -> int:
    """A mount of a layer's folder, found inside the layer: by a path overlayfs would follow what has become a link since."""
    top = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        folder = mount.open_in_root(top, path, os.O_PATH | os.O_DIRECTORY)
    finally:
        os.close(top)
    try:
        return mount.open_tree("", recursive=False, dir_fd=folder)
    finally:
        os.close(folder)


def _kind(layer: str, path: str, ids: Ids) -> str:
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
            if os.getxattr(place, f"{ids.overlay_xattrs}.overlay.opaque", follow_symlinks=False) == b"y":
                found = "opaque"
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):  # it has none, or its file system has no such thing
                raise
    return found


def _is_file(entry: Mount) -> bool:
    return entry.type == "bind" and not entry.create and not os.path.isdir(entry.source)
