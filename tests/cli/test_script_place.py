"""The start script finds its package, however it is called: by its path, by links, installed, from anywhere."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from pyinit import __version__

REPO = pathlib.Path(__file__).parents[2]
VERSION = {"pyinit": f"pyinit {__version__}", "tini": "tini version 0.19.0"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """One package in a folder, and one installed under a prefix, each with its script; no other is to be found."""
    folder = tmp_path_factory.mktemp("place")
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPO / "pyinit", folder / "opt/pyinit", ignore=leave)
    shutil.copytree(REPO / "pyinit", folder / f"usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages/pyinit", ignore=leave)
    (folder / "usr/bin").mkdir()
    shutil.copy(REPO / "pyinit/cli/pyinit", folder / "usr/bin/pyinit")
    return folder


LINKS = {  # name of a link -> where it leads
    "absolute": "{place}/opt/pyinit/cli/pyinit", "relative": "../opt/pyinit/cli/pyinit", "detour": "../opt/../opt/./pyinit/cli/../cli/pyinit",
    "dots": "{place}/opt/pyinit/image/../cli/./pyinit", "twice": "../absolute/tini", "folder": "../by-folder/cli/pyinit",
    "installed": "../usr/bin/pyinit", "installed-dots": "../usr/lib/../bin/pyinit",
}  # fmt: skip


@pytest.mark.parametrize("name", ["tini", "pyinit"])
@pytest.mark.parametrize("way", LINKS)
def test_by_a_link(place, name, way):
    if not (place / "by-folder").is_symlink():
        (place / "by-folder").symlink_to("opt/pyinit")
    for one in ("absolute", way):
        (place / one).mkdir(exist_ok=True)
        if not (place / one / name).is_symlink():
            (place / one / name).symlink_to(LINKS[one].format(place=place))
    if way == "twice":
        (place / way / name).unlink()
        (place / way / name).symlink_to(f"../absolute/{name}")
    for words, cwd in (([str(place / way / name)], "/"), ([f"./{name}"], place / way), ([f"../{way}/{name}"], place / "usr")):
        assert version(words, cwd) == VERSION[name]


def test_by_its_own_path(place):
    for path in ("opt/pyinit/cli/pyinit", "usr/bin/pyinit"):
        assert version([str(place / path)], "/") == VERSION["pyinit"]
        assert version(["./pyinit"], (place / path).parent) == VERSION["pyinit"]
        assert version([path], place) == VERSION["pyinit"]
        assert command([str(place / path), "--", "/bin/sh", "-c", "exit 7"], "/").returncode == 7
        assert command(["./pyinit", "--", "/bin/sh", "-c", "exit 7"], (place / path).parent).returncode == 7


def version(words: list[str], cwd: "str | pathlib.Path") -> str:
    done = command([*words, "--version"], cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def command(words: list[str], cwd: "str | pathlib.Path") -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=20, check=False)
