"""`pyinit.pyz`: the whole package as one program, the entry point of an image that has nothing but Python.

Owns its form. Must not know who asks for it, or what the code does. Laws: the same sources and the same Python give the same
bytes; nothing of it is compressed or compiled at a start; a Python of another version takes the sources, which are in it,
too, and the start is longer by the compiling; it needs no folder, no writable place and no name but its own.

The file: the head of the script cli/pyinit, for the shell, which hands Python the place of `__main__.py` in it; then a zip:
`code`, which holds the importer (importer.py), its index and every module's bytecode, one behind another; `__main__.py`, which
starts that or, where `code` is another Python's, the sources; and these. `python3 -IS pyinit.pyz` needs no shell, and takes
longer by what Python's own way into a zip costs.
"""

import functools
import hashlib
import io
import marshal
import os
import subprocess
import sys
import time
import zipfile
from _frozen_importlib_external import MAGIC_NUMBER

from pyinit import bundling
from pyinit.image.spec import BuildError

_NO_REFERENCES = 2  # marshal's version: later ones tell whether somebody else holds an object, which differs from run to run
_RECIPE = 2  # goes up when this code makes other bytes of the same sources
_FIRST_EPOCH = 315532800  # 1980: a zip knows no earlier time
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_IMPORTER = "pyinit.importer"
_LOCAL_HEADER = 30  # bytes of a zip's local file header, before the name
_HEAD_ENDS = "exec "  # the line of the script in which the shell ends; what follows there is Python's
_START = """\
	[ -x "$python" ] && exec "$python" -IS ${ignored:+-X "ignored=$ignored"} -c 'import sys
f = open(sys.argv[1], "rb", 0)
f.seek(0x%08x)
exec(f.read(0x%08x))' "$0" "$@"
"""
_MAIN = """\
import sys
if sys.argv[0] == "-c":
    del sys.argv[0]
    f.close()
if sys.hexversion >> 16 == 0x{python:04x} and sys.implementation.name == "cpython":
    import marshal
    with open(sys.argv[0], "rb", 0) as f:
        f.seek(0x{importer:08x})
        made = {{"__name__": "{name}"}}
        exec(marshal.loads(f.read(0x{importer_size:08x})), made)
    made["install"](sys.argv[0], 0x{index:08x}, 0x{index_size:08x})
elif sys.path[:1] != sys.argv[:1]:
    sys.path.insert(0, sys.argv[0])
name, alone = sys.argv[0].rpartition("/")[2], "--" in sys.argv and sys.argv[1][:1] == "-"
if alone or name in ("tini", "docker-init", "dumb-init", "catatonit", "podman-init"):
    from pyinit.cli.single import main
else:
    from pyinit.__main__ import main
code = main()
sys.stdout and sys.stdout.flush()
sys.stderr and sys.stderr.flush()
from posix import _exit
_exit(code)
"""


def digest() -> str:
    """A hash of all that the bytes depend on, but for the epoch."""
    total = hashlib.sha256(f"{_RECIPE} {sys.version} {MAGIC_NUMBER.hex()}".encode())
    for inner, data in _sources():
        total.update(f"\0{inner}\0{len(data)}\0".encode() + data)
    return total.hexdigest()


def make(epoch: int) -> bytes:
    """The program; its files' times are `epoch`, in seconds."""
    sources = _sources()
    head = _head(dict(sources)["cli/pyinit"].decode())
    code, importer_size, index_size = _code(digest())
    out = io.BytesIO((head % (0, 0)).encode())
    out.seek(0, io.SEEK_END)
    date = time.gmtime(max(epoch, _FIRST_EPOCH))[:6]
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        at = _add(archive, "code", code, date)
        main = _MAIN.format(
            python=sys.hexversion >> 16, name=_IMPORTER, importer=at, importer_size=importer_size,
            index=at + importer_size, index_size=index_size,
        ).encode()  # fmt: skip
        main_at = _add(archive, "__main__.py", main, date)
        for inner, data in sources:
            _add(archive, f"pyinit/{inner}", data, date)
    return (head % (main_at, len(main))).encode() + out.getvalue()[len(head % (0, 0)) :]


def write(path: str, epoch: int) -> str:
    """Make it at `path`, whole or not at all, for everyone to execute; its sha256 in hex."""
    data = make(epoch)
    new = f"{path}.new"
    try:
        with open(new, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o755)
        os.rename(new, path)
    except OSError as error:
        raise BuildError(f"{path}: cannot be written: {error.strerror}") from error
    return hashlib.sha256(data).hexdigest()


def _sources() -> list[tuple[str, bytes]]:
    """(path in the package, content) of each module, and of the script."""
    found = []
    for place, folders, names in os.walk(_PACKAGE):
        folders.sort()
        for name in names:
            path = f"{place}/{name}"
            if name.endswith(".py") or path == f"{_PACKAGE}/cli/pyinit":
                with open(path, "rb") as file:
                    found.append((path[len(_PACKAGE) + 1 :], file.read()))
    return sorted(found)


def _head(script: str) -> str:
    """What the shell reads, with the places of two numbers in it."""
    lines = script.splitlines(keepends=True)
    lines = [line for line in lines[: lines.index("'''\n")] if line != "''':'\n"]
    starts = [number for number, line in enumerate(lines) if f"&& {_HEAD_ENDS}" in line]
    if len(starts) != 1:
        raise BuildError(f"{_PACKAGE}/cli/pyinit: expected one line with `&& {_HEAD_ENDS}`, found {len(starts)}")
    lines[starts[0]] = _START
    return "".join(line if line is _START else line.replace("%", "%%") for line in lines)


def _add(archive: zipfile.ZipFile, name: str, data: bytes, date: tuple[int, ...]) -> int:
    """Where its content begins."""
    info = zipfile.ZipInfo(name, date)  # type: ignore[arg-type]  # six of them
    info.create_system, info.external_attr = 3, 0o100644 << 16  # Unix, wherever it is made
    archive.writestr(info, data)
    return info.header_offset + _LOCAL_HEADER + len(name)


_COMPILE = "import sys; sys.path.insert(0, {parent!r}); from pyinit.image import pyz; pyz._compile_all()"


@functools.cache
def _code(_digest: str) -> tuple[bytes, int, int]:
    """(importer, index and modules; bytes of the importer; bytes of the index), compiled in a process of its own, with no
    columns, whatever we were started with.
    """
    words = [sys.executable, "-I", "-S", "-B", "-X", "no_debug_ranges", "-c", _COMPILE.format(parent=os.path.dirname(_PACKAGE))]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise BuildError(f"the package can't be compiled: {done.stderr.decode(errors='replace').strip().rpartition(chr(10))[2]}")
    importer, index, modules = marshal.loads(done.stdout)
    return importer + index + modules, len(importer), len(index)


def _compile_all() -> None:
    """In that process: what `_code` reads, to its output."""
    importer, modules = b"", bytearray()
    rows: dict[str, tuple[bool, str, int, int]] = {}
    for inner, _ in _sources():
        if not inner.endswith(".py"):
            continue
        name = bundling.name_of(inner)
        is_package = inner.endswith("__init__.py")
        data = marshal.dumps(bundling.compiled(_PACKAGE, name, is_package, f"{_PACKAGE}/{inner}")[3], _NO_REFERENCES)
        rows[name] = (is_package, f"pyinit/{inner}", len(modules), len(data))
        modules += data
        if name == _IMPORTER:
            importer = data
    with open(1, "wb") as out:
        out.write(marshal.dumps((importer, marshal.dumps(rows, _NO_REFERENCES), bytes(modules))))

