"""The code of a start in one file: read in one go, where modules one by one cost more than what they do.

Owns its form and whether it is still true. Must not know what the code does. Laws: it is made of the modules' own bytecode
and used only while every source is the very file that it was made of; what is not in it is imported as ever; no name of
a file stands in it, so that a traceback opens none.

The file is a Python program: behind the head of a .pyc (PEP 552) stands this module's code, which Python runs as PID 1
of a container; then the sections, each a list of (name, is a package, path in the package's folder, code) in an order
in which each module finds what it imports; then their places; then, in 8 bytes, where these begin.
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
_EXCEPT = ("__main__", "pyinit.bundle")
_TAIL = 8
_Row = tuple[str, bool, str, Any]


class Bundle:
    """An open bundle of the package in `folder`; `sources` differ as soon as any of them does."""

    def __init__(self, fd: int, folder: str) -> None:
        self.fd = fd
        self.folder = folder
        size = posix.fstat(fd).st_size
        at = int.from_bytes(posix.pread(fd, _TAIL, size - _TAIL), "little")
        self.sources, self._places = marshal.loads(posix.pread(fd, size - _TAIL - at, at))

    def is_true(self) -> bool:
        """Whether every source is as it was."""
        try:
            for path, mtime_ns, size in self.sources:
                seen = posix.stat(path)
                if seen.st_mtime_ns != mtime_ns or seen.st_size != size:
                    return False
        except OSError:
            return False
        return True

    def load(self, section: str) -> None:
        """Import its modules, but those that are there."""
        modules = sys.modules
        for name, is_package, path, code in marshal.loads(posix.pread(self.fd, *self._places[section])):
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
    """Of the package in `folder`: the one that is kept, or, if that is not true any more, a new one."""
    from pyinit import kept

    name = f"code-{MAGIC_NUMBER[:2].hex()}-{sum(map(ord, folder)):x}-{len(folder):x}"
    fd = kept.open_file(name)
    if fd >= 0:
        try:
            found = Bundle(fd, folder)
            if found.sources[0][0] == f"{folder}/bundle.py" and found.is_true():
                return found
        except (OSError, ValueError, EOFError, TypeError):  # damaged
            pass
        posix.close(fd)
    data = build(folder)
    fd = kept.open_file(name) if kept.write(name, data) else -1
    if fd < 0:
        import fcntl  # where nothing can be kept

        fd = posix.memfd_create("pyinit-code", posix.MFD_CLOEXEC | posix.MFD_ALLOW_SEALING)
        while data:
            data = data[posix.write(fd, data) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    return Bundle(fd, folder)


def build(folder: str) -> bytes:
    """The file's content. The sections' modules and their order are those of an import in a process of its own."""
    sources = dict.fromkeys([f"{folder}/bundle.py", *_files(folder)])
    for path in sources:
        _compile(path)
    sections: dict[str, list[_Row]] = {}
    known: set[str] = set()
    told = {section: _teller(folder, name) for section, name in SECTIONS.items()}  # at once: they take long
    for section, (pid, pipe_fd) in told.items():
        with open(pipe_fd, "rb") as pipe:
            data = pipe.read()
        posix.waitpid(pid, 0)
        found: list[_Row] = marshal.loads(data)
        if section == "inside":
            known = set()  # it is another process
        sections[section] = [row for row in found if row[0] not in known]
        known |= {row[0] for row in found}
        sources |= dict.fromkeys(row[2] for row in found if row[2].startswith("/"))  # the standard library's
    code = compiled(folder, "pyinit.bundle", False, f"{folder}/bundle.py")[3]  # noqa: FBT003
    out = bytearray(MAGIC_NUMBER + bytes(12) + marshal.dumps(code))
    places = {}
    for section, rows in sections.items():
        data = marshal.dumps(rows)
        places[section] = (len(data), len(out))
        out += data
    seen = [(path, posix.stat(path)) for path in sources]
    index = marshal.dumps(([(path, one.st_mtime_ns, one.st_size) for path, one in seen], places))
    return bytes(out + index + len(out).to_bytes(_TAIL, "little"))


def _compile(path: str) -> None:
    """Its bytecode is written beside it: the copy that PID 1 imports the rest from is read-only, and would compile each time."""
    try:
        SourceFileLoader("", path).get_code("")
    except (OSError, SyntaxError):  # not ours to write, or the import will say it better
        pass


def _files(folder: str) -> list[str]:
    """Every source: what a section lacks may still be what a config was checked by."""
    import os

    return [f"{place}/{name}" for place, _, names in os.walk(folder) for name in names if name.endswith(".py")]


_TELL = "import sys; sys.path.insert(0, {parent!r}); from pyinit import bundle; bundle._tell({folder!r}, {name!r})"


def _teller(folder: str, name: str) -> tuple[int, int]:
    """(pid, pipe) of a process that tells what an import of `name` brings and Python does not have in it."""
    import os

    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    words = [sys.executable, "-I", "-S", "-B", "-X", "no_debug_ranges", "-c", _TELL.format(parent=os.path.dirname(folder), folder=folder, name=name)]
    pid = os.posix_spawn(sys.executable, words, {}, file_actions=[(os.POSIX_SPAWN_DUP2, write_fd, 1)])
    os.close(write_fd)
    return pid, read_fd


def _tell(folder: str, name: str) -> None:
    """In that process: the rows to its output."""
    found = [("pyinit", True, f"{folder}/__init__.py")]
    load = SourceFileLoader.exec_module

    def exec_module(self: SourceFileLoader, module: object) -> None:
        load(self, module)  # type: ignore[arg-type]
        found.append((self.name, hasattr(module, "__path__"), str(self.path)))

    SourceFileLoader.exec_module = exec_module  # type: ignore[method-assign,assignment]
    __import__(name)
    rows = [compiled(folder, *row) for row in list(found) if row[0] not in _EXCEPT]  # what that itself brings is not of it
    with open(1, "wb") as out:
        out.write(marshal.dumps(rows))


def compiled(folder: str, name: str, is_package: bool, path: str) -> _Row:  # noqa: FBT001 - a row, as it came
    """Without what no start reads: texts for readers, types, columns."""
    import __future__

    import ast

    inner = path.removeprefix(f"{folder}/")
    label = f"<pyinit/{inner}>" if inner != path else f"<{name}>"
    with open(path, "rb") as file:
        tree = ast.parse(file.read(), label)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node, clean=False):
            node.body[0:1] = [] if len(node.body) > 1 else [ast.copy_location(ast.Pass(), node.body[0])]
    return name, is_package, inner, compile(tree, label, "exec", __future__.annotations.compiler_flag, dont_inherit=True)


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
