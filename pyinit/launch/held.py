"""Imports of a PID 1 that stands in another's root: from what it holds open, never by a path.

Owns the finder that takes the place of Python's own. Must not know who imports what. Laws: its code is known by paths below
/proc/self/fd, and /proc is whatever the owner of that root has put there: of such a path only the number of the descriptor
and what lies below that count; a module that is not there is none, wherever else a file of its name may be.
"""

import os
import sys
from _frozen_importlib import BuiltinImporter, FrozenImporter, ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader, SourceFileLoader
from _imp import extension_suffixes

from pyinit.linux import mount
from pyinit.records import Any

_HEAD = "/proc/self/fd/"


def install() -> None:
    """Before the root is another's."""
    library = [path for path in sys.path if path.startswith(_HEAD) and _is_there(path)]
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, _Finder(library, sys.modules["pyinit"].__path__[0])]


def _parted(path: str) -> tuple[int, str]:
    """The descriptor, and the path below it."""
    number, _, rest = path.removeprefix(_HEAD).partition("/")
    return int(number), rest or "."


def _stat(path: str) -> os.stat_result:
    fd, rest = _parted(path)
    return os.stat(rest, dir_fd=fd)


def _is_there(path: str) -> bool:
    try:
        _stat(path)
    except OSError:
        return False
    return True


class _Finder:
    """Of the package and the standard library, by a module's full name."""

    def __init__(self, library: list[str], package: str) -> None:
        self._library = library
        self._package = package

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """As importlib.abc.MetaPathFinder has it."""
        first, *inner = name.split(".")
        stems = ["/".join((self._package, *inner))] if first == "pyinit" else ["/".join((folder, first, *inner)) for folder in self._library]
        for stem in stems:
            for end, kind in (("/__init__.py", _Source), *((one, _Extension) for one in extension_suffixes()), (".py", _Source)):
                if _is_there(stem + end):
                    spec = ModuleSpec(name, kind(name, stem + end), origin=stem + end, is_package=end[0] == "/")
                    spec.has_location = True
                    if end[0] == "/":
                        spec.submodule_search_locations = [stem]
                    return spec
        return None


class _Source(SourceFileLoader):
    def path_stats(self, path: str) -> dict[str, Any]:
        seen = _stat(path)
        return {"mtime": seen.st_mtime, "size": seen.st_size}

    def get_data(self, path: str) -> bytes:
        fd, rest = _parted(path)
        with open(rest, "rb", opener=lambda name, flags: os.open(name, flags, dir_fd=fd)) as file:
            return file.read()


class _Extension(ExtensionFileLoader):
    """dlopen(3) knows no descriptor of a folder, but the folder that we stand in."""

    def create_module(self, spec: ModuleSpec) -> Any:
        fd, rest = _parted(self.path)
        found: list[Any] = []
        place = spec.origin
        spec.origin = f"./{rest}"
        create = super().create_module
        mount.in_folder(fd, lambda: found.append(create(spec)))
        spec.origin = place
        return found[0]
