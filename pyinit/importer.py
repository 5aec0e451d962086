"""The importer of code that stands in one file, a module behind another: the program in one file (pyz.py), a start's (bundle.py).

Owns how a module is found there. Must not know what is in it. Laws: it may run before anything else of the package is
there, so it imports only what Python has in it; it holds the file open, for its path may be another's, or gone, when PID 1 needs
the next module; no name of a file that exists stands in a module, so that a traceback opens none.
"""

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import CodeType, ModuleType
_LAST_STANDARD = 2


class Importer:
    """Of the package: `index` has (is a package, path inside, where its code begins, bytes) by name."""

    def __init__(self, fd: int, index: "Mapping[str, tuple[bool, str, int, int]]") -> None:
        self.fd = fd  # process.close_all_but() leaves it open
        self._index = index
        self._place = f"/proc/self/fd/{fd}"

    def find_spec(self, name: str, _path: "Sequence[str] | None" = None, _target: "ModuleType | None" = None) -> ModuleSpec | None:
        """As every meta path finder; None for what is not of the package."""
        row = self._index.get(name)
        if row is None:
            return None
        spec = ModuleSpec(name, self, origin=f"{self._place}/{row[1]}", is_package=row[0])  # type: ignore[arg-type]  # it is enough of a Loader
        spec.has_location = True
        return spec

    def create_module(self, _spec: ModuleSpec) -> None:
        """The usual one."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run its code."""
        exec(self.get_code(module.__name__), module.__dict__)  # as every import does

    def get_code(self, name: str) -> "CodeType":
        """Of one that is here."""
        _, _, at, size = self._index[name]
        code: CodeType = marshal.loads(posix.pread(self.fd, size, at))
        return code


def install(path: str, at: int, size: int) -> None:
    """From here on the package is imported from the file: the index stands there, the modules behind it."""
    lower = []
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    while fd <= _LAST_STANDARD:  # one of them was closed: it is not to be taken for what we say
        lower.append(fd)
        fd = posix.dup(fd)
    for one in lower:
        posix.close(one)
    index = marshal.loads(posix.pread(fd, size, at))
    sys.meta_path.insert(0, Importer(fd, {name: (one, inner, at + size + start, length) for name, (one, inner, start, length) in index.items()}))
