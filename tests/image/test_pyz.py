"""The program in one file: the same bytes each time, whole, quick, and of use to a Python that it was not compiled for."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from pyinit.cli import build as verb
from pyinit.errors import ConfigError, UsageError
from pyinit.image import pyz
from pyinit.image.build import build
from pyinit.image.spec import BuildError, BuildFile, Image
from pyinit.model import Origin

EPOCH = 1_700_000_000
PYTHON = "/usr/bin/python3"
REPO = Path(__file__).parents[2]
MOST = 1.5  # times what the same takes from a folder; of the least of many


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyz") / "pyinit"
    pyz.write(str(path), EPOCH)
    return path


def run(*words: object, **keys) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=60, **keys)


def test_the_same_sources_give_the_same_bytes_wherever_they_lie_and_whoever_makes_them(tmp_path: Path, program: Path) -> None:
    """Another folder, umask, seed of hashes, time zone and time of the files."""
    shutil.copytree(REPO / "pyinit", tmp_path / "elsewhere/pyinit", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (tmp_path / "elsewhere").rglob("*"):
        os.utime(path, (1, 1))
    code = f"import sys, os; os.umask(0o77); sys.path.insert(0, {str(tmp_path / 'elsewhere')!r}); from pyinit.image import pyz; print(pyz.__file__, pyz.write('again', {EPOCH}))"
    done = run(sys.executable, "-B", "-c", code, cwd=tmp_path, env={"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"})
    assert done.stdout.startswith(str(tmp_path / "elsewhere")), done.stderr
    assert (tmp_path / "again").read_bytes() == program.read_bytes()
    assert (tmp_path / "again").stat().st_mode & 0o7777 == 0o755


def test_it_is_a_zip_with_the_whole_package_as_it_stands_here(program: Path) -> None:
    with zipfile.ZipFile(program) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names[:2] == ["code", "__main__.py"]
        assert {info.date_time for info in archive.infolist()} == {time.gmtime(EPOCH)[:6]}
        for name in names[2:]:
            assert archive.read(name) == (REPO / name).read_bytes()
    assert len(names) - 3 == len([path for path in (REPO / "pyinit").rglob("*.py") if "__pycache__" not in path.parts])


def test_nothing_of_the_folder_that_it_was_made_in_is_in_it(program: Path) -> None:
    assert str(REPO).encode() not in program.read_bytes()


def test_it_is_run_by_its_name_by_a_link_of_another_s_and_by_python_itself(tmp_path: Path, program: Path) -> None:
    version = run(sys.executable, "-m", "pyinit", "--version", cwd=REPO).stdout
    (tmp_path / "tini").symlink_to(program)
    (tmp_path / "path").mkdir()
    for words in ((program,), (PYTHON, "-IS", program), (PYTHON, "-I", program), (os.path.relpath(program, tmp_path),)):
        done = run(*words, "--version", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, version, "")
    assert run(tmp_path / "tini", "-s", "--", "/bin/sh", "-c", "exit 7", cwd="/").returncode == 7
    assert run(program, "no-such-verb", cwd="/").returncode == 2
    assert run(program, "no-such-verb", cwd="/").stderr == "pyinit: no-such-verb: there is no such verb; `pyinit --help` lists the verbs\n"


def test_every_module_of_it_can_be_imported(program: Path) -> None:
    """From its code, with nothing of the package's own on any path: a module that needs its source, or its types, would fail."""
    with zipfile.ZipFile(program) as archive:
        modules = sorted(
            name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in archive.namelist() if name.startswith("pyinit/") and name.endswith(".py")
        )
        main = archive.read("__main__.py").decode().partition("name, alone = ")[0]
    ending = "import sys; bad = [n for n, m in sys.modules.items() if n.startswith('pyinit') and not m.__file__.startswith('/proc/self/fd/')]; print(bad)"
    code = f"f = open('/dev/null')\n{main}\n" + "".join(f"import {name}\n" for name in modules if name != "pyinit.__main__") + ending
    done = run(PYTHON, "-IS", "-c", code, program)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_python_of_another_version_takes_the_sources(program: Path) -> None:
    """Which stand behind the code; here it is told that it is another one."""
    with zipfile.ZipFile(program) as archive:
        main = archive.read("__main__.py").decode()
    code = f"import sys; sys.hexversion = 0x40000f0; f = open('/dev/null'); exec({main!r}.replace('code = main()', 'print(sys.modules[\"pyinit\"].__file__); code = main()'))"
    done = run(PYTHON, "-IS", "-c", code, program, "--version")
    assert done.stdout.splitlines() == [f"{program}/pyinit/__init__.py", run(program, "--version").stdout.strip()]


def test_it_runs_on_when_its_file_is_replaced_and_when_it_has_no_proc_path(tmp_path: Path, program: Path) -> None:
    """What it imports later is of the file that it started from: an upgrade of the image's tree is no half of one."""
    copy = tmp_path / "pyinit"
    shutil.copy(program, copy)
    (tmp_path / "a.toml").write_text('[init]\nexit = "when-main-exits"\nmain = "a"\n[services.a]\ncommand = ["/bin/sh", "-c", "rm pyinit; exit 7"]\n'
                                     f'working_directory = "{tmp_path}"\nrestart = "never"\n')
    environment = {"XDG_RUNTIME_DIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = run("./pyinit", "--config", "a.toml", "--no-launch", cwd=tmp_path, env=environment)
    assert (done.returncode, copy.exists()) == (7, False), done.stderr


@pytest.mark.parametrize("words", [["--version"], ["--", "/bin/true"]])
def test_it_starts_as_quickly_as_from_a_folder(program: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def seconds(path: Path) -> float:
        null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
        began = time.perf_counter()
        _, status = os.waitpid(os.posix_spawn(str(path), [str(path), *words], os.environ, file_actions=null), 0)
        assert status == 0
        return time.perf_counter() - began

    rows: dict[str, list[float]] = {"folder": [], "file": []}
    for _ in range(4):  # what else the machine does only adds to it
        for _ in range(15):
            rows["folder"].append(seconds(REPO / "pyinit/cli/pyinit"))
            rows["file"].append(seconds(program))
        if min(rows["file"]) <= MOST * min(rows["folder"]):
            break
    with capsys.disabled():
        print(f"\n{words}: one file {min(rows['file']) * 1000:.1f} ms, a folder {min(rows['folder']) * 1000:.1f} ms")
    assert min(rows["file"]) <= MOST * min(rows["folder"])


def test_the_verb_makes_it_and_tells_its_sum(tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
    assert verb.run(["--pyz", f"{tmp_path}/p"]) == 0
    assert (tmp_path / "p").read_bytes() == program.read_bytes()
    assert run("sha256sum", f"{tmp_path}/p").stdout == capsys.readouterr().out


def test_what_is_asked_wrongly_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError) as wrong:
        verb.run(["--pyz"])
    assert str(wrong.value) == "build --pyz: expected one PROGRAM to be made, found nothing"
    with pytest.raises(BuildError) as refused:
        verb.run(["--pyz", f"{tmp_path}/none/p"])
    assert str(refused.value) == f"{tmp_path}/none/p: cannot be written: No such file or directory"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(ConfigError) as epoch:
        verb.run(["--pyz", f"{tmp_path}/p"])
    assert epoch.value.problems == ['$SOURCE_DATE_EPOCH: expected seconds since 1970, found "soon"']
    assert list(tmp_path.iterdir()) == []


def quiet(_name: str, _step: str) -> None:
    """No steps."""


def unsquashed(image: str, folder: Path) -> Path:
    subprocess.run(["unsquashfs", "-q", "-n", "-d", folder, image], check=True, capture_output=True)
    return folder


def test_an_image_has_it_where_init_says_over_whatever_else_it_holds(tmp_path: Path, program: Path) -> None:
    app = tmp_path / "app"
    (app / "usr/bin").mkdir(parents=True)
    (app / "usr/bin/pyinit").write_text("an old one")
    (app / "index.php").write_text("<?php")
    images = (
        Image("app.squashfs", directory=str(app), init="/usr/bin/pyinit"),
        Image("layer.squashfs", init="/opt/pyinit/init"),  # nothing but that: to be laid over any base
    )
    steps: list[str] = []
    asked = BuildFile("build.toml", str(tmp_path / "images"), EPOCH, images)
    first = build(asked, force=False, report=lambda name, step: steps.append(f"{name}: {step}"))
    assert "app.squashfs: adding pyinit as /usr/bin/pyinit" in steps
    whole, layer = (unsquashed(one.path, tmp_path / str(number)) for number, one in enumerate(first))
    assert (whole / "usr/bin/pyinit").read_bytes() == program.read_bytes()
    assert (whole / "index.php").exists()
    assert (layer / "opt/pyinit/init").read_bytes() == program.read_bytes()
    assert [path.name for path in layer.rglob("*") if path.is_file()] == ["init"]
    assert build(asked, force=False, report=quiet) == [one._replace(fresh=False) for one in first]
    assert build(asked, force=True, report=quiet) == first  # the same bytes


def test_an_image_with_a_link_on_the_way_refuses_and_stays_away(tmp_path: Path) -> None:
    app = tmp_path / "app"
    (app / "usr/bin").mkdir(parents=True)
    (app / "bin").symlink_to("usr/bin")
    asked = BuildFile("build.toml", str(tmp_path / "images"), EPOCH, (Image("a", directory=str(app), init="/bin/pyinit", origin=Origin("build.toml", 1)),))
    with pytest.raises(BuildError) as refused:
        build(asked, force=False, report=quiet)
    assert str(refused.value) == "build.toml:1: init: /bin is a symlink to usr/bin in the base system; put the content there"
    assert os.listdir(tmp_path / "images") == [".build.lock"]
