"""The program runs from read-only, detached copies of interpreter and package.

Owns the re-exec through those copies and what is carried over it. Must not know configs.
Laws: `/proc/1/exe` of a container is on a read-only mount; after the pivot every import comes from these fds, which
no service has; the host's environment is carried in a memfd, so that /proc/PID/environ never shows it.
"""

import marshal
import os
import sys

from pyinit.errors import LaunchError
from pyinit.linux import mount

_ATTRIBUTES = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
_OPTION = "pyinit"  # -X pyinit=FD


def is_clone() -> bool:
    """Whether this process runs from the copies already."""
    return _OPTION in sys._xoptions


def execute(package: str) -> None:
    """Exec this command again through copies; does not return. LaunchError."""
    prefix = os.path.realpath(sys.base_prefix)
    program = os.path.realpath(sys.executable)
    if not program.startswith(prefix + "/"):
        raise LaunchError(f"the interpreter {program} lies outside its prefix {prefix}: use one that is whole")
    _compile(package)
    try:
        tree, code = (mount.detached_copy(path, _ATTRIBUTES) for path in (prefix, package))
    except OSError as error:
        raise LaunchError(f"a read-only copy of the interpreter: {error.strerror}; it needs CAP_SYS_ADMIN: run it as root") from error
    carried = os.memfd_create("pyinit-environment", 0)
    os.write(carried, marshal.dumps((dict(os.environ), _third_party(package))))
    for fd in (tree, code, carried):
        os.set_inheritable(fd, True)  # noqa: FBT003 - no keywords there
    home = f"/proc/self/fd/{tree}"
    words = ["pyinit", "-P", "-s", "-S", "-B", "-X", f"{_OPTION}={carried}", f"/proc/self/fd/{code}/__main__.py", *sys.argv[1:]]
    os.execve(home + program.removeprefix(prefix), words, {"PYTHONHOME": home})


def take_over() -> list[str]:
    """After the exec: take environment and import path back, shut the fds from children; the copies' own path."""
    carried = int(sys._xoptions[_OPTION])
    own = list(sys.path)
    environment, path = marshal.loads(os.pread(carried, os.fstat(carried).st_size, 0))
    os.close(carried)
    for place in (os.environ["PYTHONHOME"], os.path.dirname(__file__)):
        os.set_inheritable(int(place.split("/")[4]), False)  # noqa: FBT003 - no keywords there
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = own + path
    return own


def _third_party(package: str) -> list[str]:
    """Where pyroute2 and tomli may be: the import path without the standard library's and the checkout's places."""
    library = os.path.dirname(os.__file__)
    return [
        path
        for path in sys.path
        if "-packages" in path or not (path.startswith(library) or path in ("", os.path.dirname(package)))
    ]


def _compile(package: str) -> None:
    """Bytecode of the package, where a checkout has none: the copy is read-only and would compile at each start."""
    if sys.dont_write_bytecode:
        return
    for folder, folders, names in os.walk(package):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            if name.endswith(".py") and _is_stale(folder, name[:-3]):
                import py_compile

                try:
                    py_compile.compile(f"{folder}/{name}", doraise=True)
                except (OSError, py_compile.PyCompileError):
                    return  # not ours to write, or the import will say it better


def _is_stale(folder: str, stem: str) -> bool:
    """Bytecode notes its source's mtime at bytes 8-12 (PEP 552); a file's date alone would miss an older checkout."""
    try:
        with open(f"{folder}/__pycache__/{stem}.{sys.implementation.cache_tag}.pyc", "rb", buffering=0) as file:
            head = file.read(16)
        seen = os.stat(f"{folder}/{stem}.py")
    except OSError:
        return True
    return head[8:16] != (int(seen.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little") + (seen.st_size & 0xFFFFFFFF).to_bytes(4, "little")
