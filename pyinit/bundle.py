"""The code of a start in one file: read in one go, where modules one by one cost more than what they do.

Owns its form, its place and whether it is still true. Must not know what the code does, or how it is made (bundling.py).
Laws: it is used only while every source is the very file that it was made of; what is not in it is imported as ever; no
name of a file stands in its code, so that a traceback opens none; where the package lies stands nowhere in it.

It lies beside the package's bytecode, and is trusted as that is: so it is there after a boot, and for every user. Where
nothing can be written there it is kept in RAM, for root (kept.py).

The file is a Python program: behind the head of a .pyc (PEP 552) stands this module's code, which Python runs as PID 1
of a container; then the sections, each a list of (name, is a package, path in the package's folder, code) in an order
in which each module finds what it imports; then what is imported later (importer.py), so that a container is served to its
end by what has started it, whatever lies in the folder by then; then the sums of all texts, by which the next one knows what it need not
compile again; then the places of these; then, in 8 bytes, where they begin.
"""

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
else:
    Any = object
# What each is there for: the launcher up to the birth of PID 1, the launcher from there on, PID 1, PID 1 of one that logs.
SECTIONS = {"start": "pyinit.launch.start", "launcher": "pyinit.launch.launcher", "inside": "pyinit.launch.inside", "logs": "pyinit.init.logger"}
PROGRAM, SUMS = "program", "sums"  # this module's row; {path: sum of its text}
# What the sections lack, to be imported one by one: {name: (is a package, path, where its code begins behind the index, bytes)}.
LATER, LATER_INSIDE, CODE = "later", "later inside", " code"
NAME = f"code-{MAGIC_NUMBER[:2].hex()}"
TAIL = 8


class Bundle:
    """An open bundle of the package in `folder`; `sources` differ as soon as any of them does."""

    def __init__(self, fd: int, folder: str) -> None:
        self.fd = fd
        self.folder = folder
        size = posix.fstat(fd).st_size
        at = int.from_bytes(posix.pread(fd, TAIL, size - TAIL), "little")
        self.sources, self._places = marshal.loads(posix.pread(fd, size - TAIL - at, at))

    def is_true(self) -> bool:
        """Whether every source is as it was."""
        try:
            for path, mtime_ns, size in self.sources:
                seen = posix.stat(path if path[0] == "/" else f"{self.folder}/{path}")
                if seen.st_mtime_ns != mtime_ns or seen.st_size != size:
                    return False
        except (OSError, ValueError, TypeError, IndexError):  # gone, or damaged
            return False
        return True

    def part(self, name: str) -> Any:
        """A section, or what else there is by name."""
        return marshal.loads(posix.pread(self.fd, *self._places[name]))

    def later(self, group: str) -> dict[str, tuple[bool, str, int, int]]:
        """The index of LATER or LATER_INSIDE, for an Importer: where each module's code begins in this file."""
        size, at = self._places[group]
        return {name: (is_package, inner, at + size + start, length) for name, (is_package, inner, start, length) in self.part(group).items()}

    def of_inside(self) -> bytes:
        """A bundle of no more than what PID 1 has need of."""
        out = bytearray(posix.pread(self.fd, min(at for _, at in self._places.values()), 0))
        places = {}
        for name in ("inside", "logs", LATER_INSIDE, LATER_INSIDE + CODE):
            size, at = self._places[name]
            places[name] = (size, len(out))
            out += posix.pread(self.fd, size, at)
        return bytes(out + marshal.dumps(([], places)) + len(out).to_bytes(TAIL, "little"))

    def load(self, section: str) -> None:
        """Import its modules, but those that are there."""
        modules = sys.modules
        for name, is_package, path, code in self.part(section):
            if name in modules:
                continue
            path = f"{self.folder}/{path}" if name.startswith("pyinit") else path
            spec = ModuleSpec(name, SourceFileLoader(name, path), origin=path, is_package=is_package)
            spec.has_location = True
            module = type(sys)(name)
            module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, path
            module.__package__, _, tail = name.rpartition(".")
            if is_package:
                module.__package__ = name
                module.__path__ = spec.submodule_search_locations = [path.rpartition("/")[0]]
            modules[name] = module
            try:
                exec(code, module.__dict__)  # as every import does
            except BaseException:
                del modules[name]
                raise
            if name.partition(".")[1]:
                setattr(modules[name.rpartition(".")[0]], tail, module)


def get(folder: str) -> Bundle:
    """Of the package in `folder`: one that was made before, or, if that is not true any more, a new one."""
    from pyinit import kept

    name = f"{NAME}-{sum(map(ord, folder)):x}-{len(folder):x}"
    found: Bundle | None = None
    for find in (_beside, lambda _: kept.open_file(name)):
        other = _opened(find(folder), folder)
        if other is None:
            continue
        if found is not None:
            posix.close(found.fd)
        found = other
        if found.is_true():
            return found
    if found is None:
        found = _opened(kept.open_newest(NAME), folder)  # of another folder: much will be the same
    from pyinit import bundling  # for the first start of this code

    data = bundling.build(folder, found)
    if found is not None:
        posix.close(found.fd)
    fd = _beside(folder) if bundling.write(folder, data) else kept.open_file(name) if kept.write(name, data) else -1
    if fd < 0:
        import fcntl  # where nothing can be kept

        fd = posix.memfd_create("pyinit-code", posix.MFD_CLOEXEC | posix.MFD_ALLOW_SEALING)
        while data:
            data = data[posix.write(fd, data) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    return Bundle(fd, folder)


def _opened(fd: int, folder: str) -> Bundle | None:
    """None for what is no bundle, which is closed."""
    if fd < 0:
        return None
    try:
        return Bundle(fd, folder)
    except (OSError, ValueError, EOFError, TypeError):  # damaged
        posix.close(fd)
        return None


def _beside(folder: str) -> int:
    """fd of the one beside the package's bytecode; -1 if there is none that can be trusted as the package is."""
    try:
        owner = posix.stat(f"{folder}/bundle.py").st_uid
        fd = posix.open(f"{folder}/__pycache__/{NAME}", posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC)
    except OSError:
        return -1
    seen = posix.fstat(fd)
    if seen.st_mode & 0o170022 == 0o100000 and seen.st_uid in (0, owner):
        return fd
    posix.close(fd)
    return -1


def _begin() -> None:
    """As the program: PID 1 of a container, of which `-X pyinit=` knows more (launch/clone.py)."""
    import _signal  # type: ignore[import-not-found]  # built in; a stop sent from here on must not be lost
    import gc

    _signal.pthread_sigmask(_signal.SIG_BLOCK, {n for n in range(1, 65) if n not in (32, 33)})
    gc.disable()  # nothing that is made now goes away again
    program, folder = sys.argv[0], sys._xoptions["pyinit"].split(",")[0]
    fd = posix.open(program, posix.O_RDONLY | posix.O_CLOEXEC)
    bundle = Bundle(fd, folder)
    sys.modules["pyinit.bundle"] = sys.modules["__main__"]
    bundle.load("inside")
    posix._exit(sys.modules["pyinit.launch.inside"].main(bundle))


if __name__ == "__main__":
    _begin()
