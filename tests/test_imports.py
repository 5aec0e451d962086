"""The layers hold: each room imports only rooms below it, and nothing that nobody agreed to."""

import ast
import pathlib
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "pyinit"
# room -> the rooms that it may import; rooms on one row of the design don't know each other.
ALLOWED = {
    "records": set(),
    "scopes": {"records"},
    "errors": set(),
    "model": {"errors"},
    "core": {"model", "errors"},
    "linux": {"model", "errors"},
    "protocol": {"core", "linux", "model", "errors"},
    "config": {"core", "linux", "model", "errors"},
    "control": {"core", "linux", "model", "errors"},
    "init": {"control", "config", "protocol", "core", "linux", "model", "errors"},
    "launch": {"init", "control", "config", "protocol", "core", "linux", "model", "errors"},
    "image": {"bundling", "launch", "init", "control", "config", "protocol", "core", "linux", "model", "errors"},
    "cli": {"image", "launch", "init", "control", "config", "protocol", "core", "linux", "model", "errors"},
    "__main__": {"cli", "model", "errors"},
    "kept": set(),
    "importer": set(),
    "bundle": {"kept", "bundling"},
    "bundling": {"bundle"},
}
LIGHT = {"records", "scopes", "kept", "bundle", "importer"}  # no room: what any may have to start lightly
THIRD_PARTY = {"tomli": {"config/load.py", "image/load.py"}}
PURE = {"core"}
NOT_PURE = {"os", "time", "signal", "socket", "select", "asyncio", "logging", "random", "subprocess", "ctypes", "threading"}
NOT_PURE |= {"_socket", "_random", "_signal", "posix", "_ctypes"}
NO_SUBPROCESS = {"core", "linux", "init", "launch", "control", "config", "protocol"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports_of(path: pathlib.Path) -> set[str]:
    """Full dotted names of what a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "pyinit" else {node.module}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_is_below_it(path):
    room, name = room_of(path), str(path.relative_to(PACKAGE))
    if room == "__init__":
        return
    for module in imports_of(path):
        top = module.partition(".")[0]
        if top == "pyinit":
            other = [*module.split("."), ""][1]
            assert other in ALLOWED[room] | LIGHT | {room, "", "__version__"}, f"{name} imports {module}"
        elif top in THIRD_PARTY:
            assert name in THIRD_PARTY[top], f"{name} imports {module}"
        else:
            assert top in sys.stdlib_module_names | set(sys.builtin_module_names) | {"_frozen_importlib", "_frozen_importlib_external"}, f"{name} imports {module}"
            assert not (room in PURE and top in NOT_PURE), f"{name} imports {module}: core is pure"
            assert top not in {"asyncio", "threading", "logging"}, f"{name} imports {module}"
            assert not (room in NO_SUBPROCESS and top == "subprocess"), f"{name} imports {module}"
            assert top not in {"ctypes", "_ctypes"} or room == "linux", f"{name} imports {module}: ctypes is for linux only"
    if name in ("launch/plan.py", "launch/operations.py", "launch/onhost.py"):
        assert imports_of(path) <= {"pyinit.records", "pyinit.model", "pyinit.core.limits", "pyinit.launch.operations", "pyinit.launch.onhost"}
