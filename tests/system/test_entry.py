"""The command as it is installed: it needs nobody's import path, and takes nothing of where it is called."""

import os
import pathlib
import shutil
import subprocess

import pytest
from conftest import REPO, verb

from pyinit import bundle

SCRIPT = REPO / "pyinit/cli/pyinit"
# Of the standard library, what a start of a container with one plain service has no time for.
SLOW = {"typing", "re", "enum", "contextlib", "collections", "functools", "socket", "selectors", "ctypes", "json", "random", "signal",
        "tomli", "tomllib", "asyncio", "threading", "subprocess", "dataclasses", "site", "importlib.util", "runpy", "inspect", "glob"}  # fmt: skip


def run(command, *words: str, **keys) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(command), *words], capture_output=True, text=True, check=False, timeout=60, **keys)


def test_a_hostile_folder_and_path_have_no_word(tmp_path):
    for name in ("re", "os", "typing", "pyinit", "tomli", "sitecustomize", "usercustomize", "marshal", "errno"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hostile')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "re.py"), "PYTHONHOME": str(tmp_path)}
    (tmp_path / "a.toml").write_text('[services.app]\ncommand = ["/bin/true"]\n')
    for words in (("--version",), ("check", "a.toml")):
        done = run(SCRIPT, *words, cwd=tmp_path, env=environment)
        assert (done.returncode, done.stderr) == (0, "")


def test_an_installed_one_finds_its_package_and_a_link_its_personality(tmp_path):
    """As an installer lays it out; python3 beside it goes first."""
    (tmp_path / "bin").mkdir()
    shutil.copy(SCRIPT, tmp_path / "bin/pyinit")
    shutil.copytree(REPO / "pyinit", tmp_path / "lib/python3/dist-packages/pyinit", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bin/python3").symlink_to("/usr/bin/python3")
    (tmp_path / "bin/tini").symlink_to("pyinit")
    assert run(tmp_path / "bin/pyinit", "--version", cwd="/").stdout == verb("--version").stdout
    assert run(tmp_path / "bin/tini", "--", "/bin/sh", "-c", "exit 7", cwd="/").returncode == 7
    assert run(tmp_path / "bin/pyinit", "no-such-verb", cwd="/").returncode == 2


def test_an_install_keeps_the_script(tmp_path):
    """The wheel that setuptools builds has it as it stands here: installers change lines that name Python only."""
    text = (REPO / "pyproject.toml").read_text()
    assert 'script-files = ["pyinit/cli/pyinit"]' in text
    assert SCRIPT.read_text().startswith("#!/bin/sh\n")
    assert os.access(SCRIPT, os.X_OK)


@pytest.mark.parametrize("section", ["start", "launcher", "inside"])
def test_what_a_start_loads(section):
    """In a process of its own: an import of what the section is there for."""
    name = bundle.SECTIONS[section]
    code = f"import sys; sys.path.insert(0, {str(REPO)!r}); import {name}; print(*sys.modules)"
    loaded = set(run("/usr/bin/python3", "-I", "-S", "-c", code).stdout.split())
    assert name in loaded
    assert sorted(loaded & SLOW) == []
    if section == "inside":  # PID 1 knows neither the launcher nor TOML
        assert not {"pyinit.launch.launcher", "pyinit.launch.apply", "pyinit.config.load", "pyinit.init.logger"} & loaded
    if section == "start":
        assert len(loaded) < 60


def test_a_bundle_is_true_as_long_as_its_sources_are(tmp_path):
    folder = tmp_path / "pyinit"
    shutil.copytree(REPO / "pyinit", folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "code"
    path.write_bytes(bundle.build(str(folder)))
    with open(path) as file:
        found = bundle.Bundle(file.fileno(), str(folder))
        assert found.is_true()
        source = folder / "init/pid1.py"
        source.write_text(source.read_text() + "\n")
        assert not found.is_true()
    names = {str(pathlib.Path(one[0]).relative_to(folder)) for one in found.sources if one[0].startswith(str(folder))}
    assert {"bundle.py", "init/pid1.py", "config/load.py", "config/services.py"} <= names
    assert b"".join(path.read_bytes().split()).count(str(tmp_path).encode()) == len(found.sources) - len([one for one in found.sources if not one[0].startswith(str(folder))])
