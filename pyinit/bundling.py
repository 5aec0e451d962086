"""How the code of a start is put into one file (bundle.py).

Owns which modules are in it and what is left out of them. Must not know what they do. Laws: a section's modules and their
order are those of an import in a process of its own; the code is that of the modules' own texts, without what no start
reads; what the file before has of the very same text is not compiled again, unless this module was another one then.
"""

import _imp
import marshal
import posix
import sys
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader

from pyinit.bundle import CODE, LATER, LATER_INSIDE, NAME, PROGRAM, SECTIONS, SUMS, TAIL, Bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
else:
    Any = object
_US = "bundling.py"
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # of statements, in which more of them stand
_PROCESSES = (("start", "launcher"), ("inside", "logs"))  # who has which section
_INSIDE = ("control", "core", "init", "linux", "protocol")  # the rooms that PID 1 may have need of later, as the launcher of these
_OUTSIDE = (*_INSIDE, "config", "launch")
_EXCEPT = ("__main__", "pyinit.bundle", "pyinit.bundling")
_Module = tuple[str, bool, str]  # name, is a package, path
_Row = tuple[str, bool, str, Any]


def build(folder: str, before: Bundle | None = None) -> bytes:
    """The file's content; `before` is one whose sources were others, here or elsewhere."""
    seen = {path: posix.stat(path) for path in [f"{folder}/bundle.py", *_files(folder)]}  # before they are read
    codes = {path: _compile(path) for path in seen}
    told: dict[str, list[_Module]] = {}
    for process in [_python(folder, f"_tell({folder!r}, {names!r})") for names in _PROCESSES]:  # at once: they take long
        told |= _answer(*process)
    told[PROGRAM] = [("pyinit.bundle", False, f"{folder}/bundle.py")]
    rows, sums = _rows(folder, dict.fromkeys(one for modules in told.values() for one in modules), before)
    seen |= {path: posix.stat(path) for _, _, path in rows if path not in seen}  # the standard library's, too
    out = bytearray(MAGIC_NUMBER + bytes(12) + marshal.dumps(rows[told[PROGRAM][0]][3]))
    places = {}
    parts: dict[str, Any] = {name: [rows[one] for one in modules] for name, modules in told.items()}
    for name, part in (parts | {SUMS: sums}).items():
        data = marshal.dumps(part)
        places[name] = (len(data), len(out))
        out += data
    for group, has, rooms in ((LATER, _PROCESSES[0], _OUTSIDE), (LATER_INSIDE, _PROCESSES[1][:1], _INSIDE)):
        there = {name for section in has for name, _, _ in told[section]}
        index, modules = _later(folder, codes, rooms, there)
        for name, data in ((group, index), (group + CODE, modules)):
            places[name] = (len(data), len(out))
            out += data
    index = marshal.dumps(([(_inner(folder, path), one.st_mtime_ns, one.st_size) for path, one in seen.items()], places))
    return bytes(out + index + len(out).to_bytes(TAIL, "little"))


def _inner(folder: str, path: str) -> str:
    """In the package without its folder; of the standard library as it is."""
    return path.removeprefix(f"{folder}/")


def name_of(inner: str) -> str:
    """The module's, by its path in the package."""
    return f"pyinit/{inner.removesuffix('.py')}".removesuffix("/__init__").replace("/", ".")


def _later(folder: str, codes: dict[str, Any], rooms: tuple[str, ...], there: set[str]) -> tuple[bytes, bytes]:
    """The index, and the code of each module of the rooms that is not `there`."""
    rows, modules = {}, bytearray()
    for path, code in sorted(codes.items()):
        inner = _inner(folder, path)
        name = name_of(inner)
        if code is None or name in there or name.split(".")[1:2] not in [[room] for room in rooms]:
            continue
        _imp._fix_co_filename(code, f"<pyinit/{inner}>")  # type: ignore[attr-defined]  # importlib's own
        data = marshal.dumps(code)
        rows[name] = (inner.endswith("__init__.py"), f"pyinit/{inner}", len(modules), len(data))
        modules += data
    return marshal.dumps(rows), bytes(modules)


def _compile(path: str) -> Any:
    """Its code, None if there is an error in it. Its bytecode is written beside it: not only we read that."""
    try:
        return SourceFileLoader("", path).get_code("")
    except (OSError, SyntaxError):  # the import will say it better
        return None


def _files(folder: str) -> list[str]:
    """Every source: what a section lacks may still be what a config was checked by."""
    import os

    return [f"{place}/{name}" for place, _, names in os.walk(folder) for name in names if name.endswith(".py")]


def _python(folder: str, call: str) -> tuple[int, int]:
    """(pid, pipe) of a process that calls one of this module's functions and writes marshal's form of what it gives; it compiles without columns."""
    read_fd, write_fd = posix.pipe2(posix.O_CLOEXEC)
    parent = folder.rpartition("/")[0]
    code = f"import sys; sys.path.insert(0, {parent!r}); from pyinit import bundling; bundling._write(bundling.{call})"
    words = [sys.executable, "-I", "-S", "-B", "-X", "no_debug_ranges", "-c", code]
    pid = posix.posix_spawn(sys.executable, words, {}, file_actions=[(posix.POSIX_SPAWN_DUP2, write_fd, 1)])
    posix.close(write_fd)
    return pid, read_fd


def _write(found: Any) -> None:
    with open(1, "wb") as out:
        out.write(marshal.dumps(found))


def _answer(pid: int, pipe_fd: int) -> Any:
    with open(pipe_fd, "rb") as pipe:
        data = pipe.read()
    posix.waitpid(pid, 0)
    return marshal.loads(data)


def _tell(folder: str, names: tuple[str, ...]) -> dict[str, list[_Module]]:
    """What an import of each section in turn brings that Python does not have in it."""
    found = [("pyinit", True, f"{folder}/__init__.py")]
    load = SourceFileLoader.exec_module

    def exec_module(self: SourceFileLoader, module: object) -> None:
        load(self, module)  # type: ignore[arg-type]
        found.append((self.name, hasattr(module, "__path__"), str(self.path)))

    SourceFileLoader.exec_module = exec_module  # type: ignore[method-assign,assignment]
    told = {}
    for name in names:
        __import__(SECTIONS[name])
        told[name] = [one for one in found if one[0] not in _EXCEPT]
        found.clear()
    return told


def _rows(folder: str, modules: dict[_Module, None], before: Bundle | None) -> tuple[dict[_Module, _Row], dict[str, bytes]]:
    """Each one's, and the sums by path; what must be compiled is shared by two processes."""
    sums = {_inner(folder, path): _sum(_text(path)) for path in (f"{folder}/{_US}", *(path for _, _, path in modules))}
    known = _known(before, sums)
    rows = {one: known[key] for one in modules if (key := (one[0], _inner(folder, one[2]))) in known}
    new = sorted((one for one in modules if one not in rows), key=lambda one: posix.stat(one[2]).st_size, reverse=True)
    shares = [share for share in (new[::2], new[1::2]) if share]
    for share, process in zip(shares, [_python(folder, f"_compiled({folder!r}, {share!r})") for share in shares], strict=True):
        for one, (row, its_sum) in zip(share, _answer(*process), strict=True):
            rows[one], sums[row[2]] = row, its_sum  # of the text that it is made of: it may be a new one by now
    return rows, sums


def _known(before: Bundle | None, sums: dict[str, bytes]) -> dict[tuple[str, str], _Row]:
    """What `before` has of the same texts, by name and path; nothing if it was compiled otherwise than we do."""
    if before is None:
        return {}
    try:
        had = before.part(SUMS)
        if had[_US] != sums[_US]:
            return {}
        rows: list[_Row] = [row for name in (*SECTIONS, PROGRAM) for row in before.part(name)]
        return {(row[0], row[2]): row for row in rows if had[row[2]] == sums.get(row[2])}
    except (OSError, ValueError, EOFError, TypeError, KeyError):  # damaged
        return {}


def _compiled(folder: str, modules: list[_Module]) -> list[tuple[_Row, bytes]]:
    import gc

    gc.disable()  # a tree is made and thrown away whole
    return [(compiled(folder, *one), _sum(_text(one[2]))) for one in modules]


def _text(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _sum(text: bytes) -> bytes:
    """As of .pyc files that are held against their source's (PEP 552)."""
    return _imp.source_hash(int.from_bytes(MAGIC_NUMBER, "little"), text)


def compiled(folder: str, name: str, is_package: bool, path: str) -> _Row:  # noqa: FBT001 - a row, as it came
    """Without what no start reads: texts for readers, types, columns."""
    import __future__

    import ast

    inner = path.removeprefix(f"{folder}/")
    label = f"<pyinit/{inner}>" if inner != path else f"<{name}>"
    with open(path, "rb") as file:
        tree = ast.parse(file.read(), label)
    pending: list[Any] = [tree]
    while pending:  # ast.walk would look at each expression, too, which takes longer than to compile them
        node = pending.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node, clean=False):
            node.body[0:1] = [] if len(node.body) > 1 else [ast.copy_location(ast.Pass(), node.body[0])]
        pending += [one for field in _BLOCKS for one in getattr(node, field, ())]
    return name, is_package, inner, compile(tree, label, "exec", __future__.annotations.compiler_flag, dont_inherit=True)


def write(folder: str, data: bytes) -> bool:
    """Beside the package's bytecode: whole or not at all, also where the machine then loses its power; False where that can't be."""
    if sys.dont_write_bytecode or sys.pycache_prefix:
        return False
    path = f"{folder}/__pycache__/{NAME}"
    new = f"{path}.{posix.getpid()}.new"
    try:
        fd = posix.open(new, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                posix.fchmod(fd, posix.stat(f"{folder}/bundle.py").st_mode & 0o644)
                posix.fsync(fd)
            posix.rename(new, path)
        except OSError:
            posix.unlink(new)
            return False
    except OSError:
        return False
    return True
