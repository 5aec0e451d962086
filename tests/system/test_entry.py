"""The command as it is installed: it needs nobody's import path, and takes nothing of where it is called."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from conftest import REPO, verb

from pyinit import bundle, bundling, kept

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


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """(a copy of the package with its bytecode, what its bundle is)."""
    folder = shutil.copytree(REPO / "pyinit", tmp_path_factory.mktemp("lib") / "pyinit", ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", False)
        return folder, bundling.build(str(folder))


@pytest.fixture
def package(original, tmp_path, monkeypatch):
    """A copy to be changed; what is kept is kept in a folder of the test's."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(kept, "FOLDER", str(tmp_path / "run/.kept"))
    (tmp_path / "run/.kept").mkdir(mode=0o700, parents=True)
    (tmp_path / "run").chmod(0o700)
    return shutil.copytree(original[0], tmp_path / "lib/pyinit")


def opened(package: pathlib.Path, path: pathlib.Path, content: bytes, kind=bundle.Bundle) -> bundle.Bundle:
    """As a file, open for as long as the tests run."""
    path.write_bytes(content)
    return kind(os.open(path, os.O_RDONLY | os.O_CLOEXEC), str(package))


def rows(found: bundle.Bundle) -> dict[str, list]:
    return {section: found.part(section) for section in (*bundle.SECTIONS, "program")}


def test_a_bundle_is_true_as_long_as_its_sources_are(package, original, tmp_path):
    found = opened(package, tmp_path / "code", original[1])
    assert found.is_true()  # also of a copy
    source = package / "init/pid1.py"
    source.write_text(source.read_text() + "\n")
    assert not found.is_true()
    names = {one[0] for one in found.sources if one[0][0] != "/"}
    assert names == {str(path.relative_to(package)) for path in package.rglob("*.py")}
    assert str(original[0]).encode() not in original[1]


class Forged(bundle.Bundle):
    """Its code says that it is of this one."""

    def part(self, name):
        found = super().part(name)
        return found if name == "sums" else [(*row[:3], compile("FORGED = True", row[0], "exec")) for row in found]


def test_what_one_has_of_the_same_text_is_not_compiled_again(package, original, tmp_path):
    def are_forged(content: bytes) -> dict[str, bool]:
        found = opened(package, tmp_path / "new", content)
        return {row[0]: "FORGED" in row[3].co_names for section in rows(found).values() for row in section}

    before = opened(package, tmp_path / "code", original[1], Forged)
    assert set(are_forged(original[1]).values()) == {False}
    for path in package.rglob("*.py"):
        os.utime(path)
    with open(package / "init/pid1.py", "a") as file:
        file.write("# more\n")
    assert [name for name, is_forged in are_forged(bundling.build(str(package), before)).items() if not is_forged] == ["pyinit.init.pid1"]
    with open(package / "bundling.py", "a") as file:  # by which they are compiled
        file.write("# more\n")
    assert set(are_forged(bundling.build(str(package), before)).values()) == {False}


def test_with_one_before_it_is_the_same_as_without(package, original, tmp_path):
    with open(package / "init/pid1.py", "a") as file:
        file.write("MORE = 1\n")
    before = opened(package, tmp_path / "before", original[1])
    after, whole = (opened(package, tmp_path / f"{len(them)}", bundling.build(str(package), *them)) for them in ([before], []))
    assert rows(after) == rows(whole) != rows(before)
    assert (after.part("sums"), after.sources) == (whole.part("sums"), whole.sources)


def test_the_newest_that_is_kept_is_the_one_before(package, original):
    """Also of another folder: of a version that is installed elsewhere."""
    for name, data in ((f"{bundle.NAME}-1-1", b"damaged"), (f"{bundle.NAME}-2-2", original[1])):
        assert kept.write(name, data)
    pathlib.Path(kept.FOLDER, f"{bundle.NAME}-3-3.7.new").touch()
    assert os.pread(kept.open_newest(bundle.NAME), 1 << 24, 0) == original[1]


def test_it_lies_beside_the_bytecode_and_goes_along_with_a_copy(package, tmp_path):
    found = bundle.get(str(package))
    path = pathlib.Path(f"/proc/self/fd/{found.fd}").readlink()
    assert (path.parent, oct(path.stat().st_mode), os.listdir(kept.FOLDER)) == (package / "__pycache__", "0o100644", [])
    copy = shutil.copytree(package, tmp_path / "elsewhere/pyinit") / "__pycache__" / path.name
    for one in (path, copy):
        before = one.stat()
        assert bundle.get(str(one.parents[1])).is_true()
        assert (one.stat().st_ino, one.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("what", ["its owner", "its mode", "a link", "a FIFO", "damaged", "cut off", "empty", "a source"])
def test_one_that_is_not_to_be_trusted_is_made_anew(package, original, tmp_path, what):
    path = package / "__pycache__" / bundle.NAME
    path.write_bytes(original[1])
    path.chmod(0o644)
    assert kept.write(f"{bundle.NAME}-1-1", original[1])  # of another folder, so that little is to be compiled
    match what:
        case "its owner":
            os.chown(path, 1000, 1000)
        case "its mode":
            path.chmod(0o664)
        case "a link":
            path.rename(tmp_path / "code")
            path.symlink_to(tmp_path / "code")
        case "a FIFO":
            path.unlink()
            os.mkfifo(path, 0o600)
        case "damaged":
            path.write_bytes(original[1][:-9] + b"\0" + original[1][-8:])
        case "cut off":
            path.write_bytes(original[1][:-100])
        case "empty":
            path.write_bytes(b"")
        case "a source":
            os.utime(package / "model.py")
    before = path.lstat().st_ino
    found = bundle.get(str(package))
    assert found.is_true()
    seen = path.lstat()
    assert (seen.st_ino != before, seen.st_uid, oct(seen.st_mode)) == (True, 0, "0o100644")
    assert os.fstat(found.fd).st_ino == seen.st_ino


@pytest.mark.parametrize("why", ["no place", "no bytecode"])
def test_where_nothing_is_written_beside_it_is_kept_and_where_not_it_is_in_memory(package, original, monkeypatch, why):
    if why == "no place":
        shutil.rmtree(package / "__pycache__")
        (package / "__pycache__").touch()
    else:
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert kept.write(f"{bundle.NAME}-1-1", original[1])
    for _ in range(2):
        found = bundle.get(str(package))
        [path] = (path for path in pathlib.Path(kept.FOLDER).iterdir() if path.name != f"{bundle.NAME}-1-1")
        assert pathlib.Path(f"/proc/self/fd/{found.fd}").readlink() == path
    os.chmod(kept.FOLDER, 0o770)
    found = bundle.get(str(package))
    assert str(pathlib.Path(f"/proc/self/fd/{found.fd}").readlink()).startswith("/memfd:pyinit-code")
    assert found.is_true()
    assert not list(package.glob(f"__pycache__/{bundle.NAME}*"))
