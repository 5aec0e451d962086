"""A build: whole or not at all, once for the same inputs. mksquashfs and mmdebstrap are scripts but for the last test."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyinit.image.build import Built, build
from pyinit.image.spec import BuildError, BuildFile, Image
from pyinit.model import Origin

EPOCH = 1_700_000_000
WHERE = Origin("build.toml", 3)


class Bench:
    """A folder to work in, whose `tools/` comes first on the PATH."""

    def __init__(self, place: Path) -> None:
        self.app, self.output, self.tools = place / "app", place / "images", place / "tools"
        for folder in (self.app, self.tools):
            folder.mkdir()
        (self.app / "index.php").write_text("<?php")
        self.steps: list[str] = []

    def tool(self, name: str, script: str) -> None:
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def build(self, *, force: bool = False, image: Image | None = None) -> list[Built]:
        image = image or Image("app.squashfs", directory=str(self.app), origin=WHERE)
        asked = BuildFile("build.toml", str(self.output), EPOCH, (image,))
        return build(asked, force=force, report=lambda name, step: self.steps.append(f"{name}: {step}"))

    def left(self) -> list[str]:
        return sorted(os.listdir(self.output))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(tmp_path)
    monkeypatch.setenv("PATH", f"{bench.tools}:/usr/bin:/bin")
    bench.tool("mksquashfs", 'case $1 in -version) echo "mksquashfs 1";; *) cat "$1/index.php" > "$2";; esac')
    return bench


def test_an_image_is_made_then_left_alone_then_made_anew_when_its_files_change(bench: Bench) -> None:
    (first,) = bench.build()
    assert (first.fresh, Path(first.path).read_text()) == (True, "<?php")
    (second,) = bench.build()
    assert second == first._replace(fresh=False)
    (bench.app / "index.php").write_text("<?php 2")
    (third,) = bench.build()
    assert (third.fresh, Path(third.path).read_text()) == (True, "<?php 2")
    assert bench.steps == [
        f"app.squashfs: copying {bench.app}", "app.squashfs: packing with zstd", "app.squashfs: done, 0.0 MB",
        "app.squashfs: unchanged",
        f"app.squashfs: copying {bench.app}", "app.squashfs: packing with zstd", "app.squashfs: done, 0.0 MB",
    ]  # fmt: skip
    assert bench.left() == [".build.lock", "app.squashfs", "app.squashfs.stamp"]


def test_force_and_a_damaged_image_and_another_tool_build_anew(bench: Bench) -> None:
    bench.build()
    assert bench.build(force=True)[0].fresh
    (bench.output / "app.squashfs").write_text("cut")
    assert bench.build()[0].fresh
    bench.tool("mksquashfs", 'case $1 in -version) echo "mksquashfs 2";; *) cat "$1/index.php" > "$2";; esac')
    assert bench.build()[0].fresh
    assert not bench.build()[0].fresh


def test_a_failing_tool_leaves_the_old_image_and_nothing_else(bench: Bench) -> None:
    (old,) = bench.build()
    bench.tool("mksquashfs", 'case $1 in -version) echo 1;; *) echo half > "$2"; echo "no space"; exit 3;; esac')
    with pytest.raises(BuildError) as caught:
        bench.build(force=True)
    assert str(caught.value) == (
        "build.toml:3: app.squashfs: mksquashfs failed with exit code 3; it said last:\n    no space"
    )
    assert Path(old.path).read_text() == "<?php"
    assert bench.left() == [".build.lock", "app.squashfs", "app.squashfs.stamp"]


def test_a_missing_tool_names_its_package(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(BuildError) as caught:
        bench.build()
    assert str(caught.value) == "mksquashfs is missing: apt-get install squashfs-tools"


def test_what_a_killed_build_left_is_removed(bench: Bench) -> None:
    (bench.output / ".app.squashfs.tree/root").mkdir(parents=True)
    (bench.output / "app.squashfs.new").write_text("half")
    bench.build()
    assert bench.left() == [".build.lock", "app.squashfs", "app.squashfs.stamp"]


def test_a_second_build_at_the_same_time_is_refused(bench: Bench) -> None:
    caught: list[str] = []

    def again(name: str, step: str) -> None:
        with pytest.raises(BuildError) as error:
            bench.build()
        caught.append(str(error.value))

    asked = BuildFile("build.toml", str(bench.output), EPOCH, (Image("a.squashfs", directory=str(bench.app)),))
    build(asked, force=False, report=again)
    assert set(caught) == {f"{bench.output}: another build is at work there, or a program that it left: wait for its end"}


def test_an_interrupt_ends_the_tool_and_removes_what_is_half_done(bench: Bench, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "started")
    bench.tool(
        "mksquashfs",
        f'case $1 in -version) echo 1;; *) echo half > "$2"; echo $$ > {tmp_path}/started; exec sleep 60;; esac',
    )
    code = (
        "from pyinit.image.build import build\n"
        "from pyinit.image.spec import BuildFile, Image\n"
        f"image = Image('app.squashfs', directory={str(bench.app)!r})\n"
        f"build(BuildFile('build.toml', {str(bench.output)!r}, {EPOCH}, (image,)), force=False, report=lambda *_: None)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    tool = int((tmp_path / "started").read_text())  # blocks until the tool is at work
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=20)
    assert said.endswith("KeyboardInterrupt\n")
    with pytest.raises(ProcessLookupError):
        os.kill(tool, 0)
    assert bench.left() == [".build.lock"]


def test_packages_without_root_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("pyinit.image.build.read_sources", lambda _: ("deb x bookworm main\n", ""))
    bench.tool("mmdebstrap", "echo mmdebstrap 1")
    image = Image("base.squashfs", suite="bookworm", packages=("bash",), origin=WHERE)
    with pytest.raises(BuildError) as caught:
        bench.build(image=image)
    assert str(caught.value) == "build.toml:3: packages are installed by root only: run this build as root"
    assert bench.left() == [".build.lock"]


def test_the_same_files_make_the_same_bytes_whenever_and_however_they_were_checked_out(tmp_path: Path) -> None:
    sums = []
    for name, mode, age in (("one", 0o644, 0.0), ("two", 0o664, 9e6)):
        app = tmp_path / name / "app"
        app.mkdir(parents=True)
        (app / "index.php").write_text("<?php")
        (app / "index.php").chmod(mode)
        (app / "public").mkdir(mode=0o700)
        os.utime(app / "index.php", (time.monotonic() + age,) * 2)
        asked = BuildFile("build.toml", f"{tmp_path}/{name}", EPOCH, (Image("app.squashfs", directory=str(app)),))
        sums.append(build(asked, force=False, report=lambda *_: None)[0].sha256)
    assert sums[0] == sums[1]
