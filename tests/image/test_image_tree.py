"""The tree of an image: laid, hashed, settled, removed."""

import os
import stat
from pathlib import Path

import pytest

from pyinit.image import tree
from pyinit.image.spec import BuildError

EPOCH = 1_700_000_000


def pair(tmp_path: Path) -> tuple[Path, Path]:
    """An empty folder to lay, and an empty tree."""
    folder, root = tmp_path / "folder", tmp_path / "root"
    folder.mkdir()
    root.mkdir()
    return folder, root


def test_laid_files_get_plain_modes_and_the_epoch(tmp_path: Path) -> None:
    folder, root = pair(tmp_path)
    (folder / "bin").mkdir(mode=0o700)
    (folder / "bin/tool").write_text("#!/bin/sh\n")
    (folder / "bin/tool").chmod(0o775)
    (folder / "secret").write_text("x")
    (folder / "secret").chmod(0o600)
    (folder / "link").symlink_to("/nowhere")
    tree.lay(str(folder), str(root), EPOCH)
    assert stat.S_IMODE((root / "bin").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "bin/tool").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "secret").stat().st_mode) == 0o644
    assert os.readlink(root / "link") == "/nowhere"
    assert {(root / name).lstat().st_mtime for name in ("bin/tool", "secret", "link")} == {EPOCH}


def test_a_keep_file_makes_a_folder_and_stays_out(tmp_path: Path) -> None:
    folder, root = pair(tmp_path)
    (folder / "empty").mkdir()
    (folder / "empty/.keep").touch()
    tree.lay(str(folder), str(root), EPOCH)
    assert list((root / "empty").iterdir()) == []


def test_a_file_replaces_a_link_not_what_it_points_to(tmp_path: Path) -> None:
    folder, root = pair(tmp_path)
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (root / "conf").symlink_to(outside)
    (folder / "conf").write_text("new")
    tree.lay(str(folder), str(root), EPOCH)
    assert outside.read_text() == "mine"
    assert (root / "conf").read_text() == "new" and not (root / "conf").is_symlink()


def test_a_folder_over_a_symlink_is_refused(tmp_path: Path) -> None:
    folder, root = pair(tmp_path)
    (folder / "run").mkdir()
    (root / "run").symlink_to("/host")
    with pytest.raises(BuildError) as caught:
        tree.lay(str(folder), str(root), EPOCH)
    assert str(caught.value) == f"{folder}/run: /run is a symlink to /host in the base system; put the content there"


def test_a_file_over_a_folder_is_refused(tmp_path: Path) -> None:
    folder, root = pair(tmp_path)
    (folder / "etc").touch()
    (root / "etc").mkdir()
    with pytest.raises(BuildError) as caught:
        tree.lay(str(folder), str(root), EPOCH)
    assert str(caught.value) == (
        f"{folder}/etc: /etc is a folder in the base system, which this cannot replace; rename or exclude one"
    )


def test_a_fifo_is_refused(tmp_path: Path) -> None:
    folder, root = pair(tmp_path)
    os.mkfifo(folder / "pipe")
    with pytest.raises(BuildError) as caught:
        tree.lay(str(folder), str(root), EPOCH)
    assert str(caught.value) == f"{folder}/pipe: expected a file, a folder or a symlink; remove it"


def test_the_digest_knows_content_and_execute_bit_but_no_times(tmp_path: Path) -> None:
    folder, _ = pair(tmp_path)
    file = folder / "a"
    file.write_text("1")
    file.chmod(0o644)
    first = tree.digest(str(folder))
    os.utime(file, (1, 1))
    file.chmod(0o664)
    assert tree.digest(str(folder)) == first
    file.chmod(0o755)
    second = tree.digest(str(folder))
    file.write_text("2")
    assert len({first, second, tree.digest(str(folder))}) == 3


def test_settling_empties_what_names_the_machine(tmp_path: Path) -> None:
    _, root = pair(tmp_path)
    (root / "etc").mkdir()
    outside = tmp_path / "outside"
    outside.write_text("nameserver 192.0.2.1\n")
    (root / "etc/resolv.conf").symlink_to(outside)
    (root / "etc/machine-id").write_text("0123\n")
    tree.settle(str(root), EPOCH)
    assert {name: (root / name).read_text() for name in tree.EMPTIED} == dict.fromkeys(tree.EMPTIED, "")
    assert outside.read_text() == "nameserver 192.0.2.1\n"


def test_settling_removes_what_is_volatile_but_nothing_through_a_link(tmp_path: Path) -> None:
    _, root = pair(tmp_path)
    for name in ("etc/ssh", "run/lock/sub", "var/cache/apt", "var/lib"):
        (root / name).mkdir(parents=True)
    for name in ("etc/ssh/ssh_host_rsa_key", "etc/ssh/moduli", "etc/passwd-", "etc/passwd", "run/.hidden"):
        (root / name).touch()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "log").touch()
    (root / "var/log").symlink_to(outside)
    (root / "var/cache/apt/link").symlink_to(outside)
    tree.settle(str(root), EPOCH)
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.name not in ("var", "etc", "lib")) == [
        "etc/hostname", "etc/machine-id", "etc/passwd", "etc/resolv.conf", "etc/ssh", "etc/ssh/moduli",
        "run", "var/cache", "var/cache/apt", "var/log",
    ]  # fmt: skip
    assert (outside / "log").exists()


def test_settling_sets_back_the_source_time_in_compiled_python(tmp_path: Path) -> None:
    _, root = pair(tmp_path)
    cache = root / "usr/lib/__pycache__"
    cache.mkdir(parents=True)
    (root / "etc").mkdir()
    head = b"\xa7\r\r\n"

    def compiled(flags: int, mtime: int) -> bytes:
        return head + flags.to_bytes(4, "little") + mtime.to_bytes(4, "little") + b"size" + b"code"

    (cache / "new.pyc").write_bytes(compiled(0, EPOCH + 9))
    (cache / "old.pyc").write_bytes(compiled(0, EPOCH - 9))
    (cache / "hash.pyc").write_bytes(compiled(1, EPOCH + 9))
    outside = tmp_path / "outside.pyc"
    outside.write_bytes(compiled(0, EPOCH + 9))
    (cache / "link.pyc").symlink_to(outside)
    tree.settle(str(root), EPOCH)
    assert (cache / "new.pyc").read_bytes() == compiled(0, EPOCH)
    assert (cache / "old.pyc").read_bytes() == compiled(0, EPOCH - 9)
    assert (cache / "hash.pyc").read_bytes() == compiled(1, EPOCH + 9)
    assert outside.read_bytes() == compiled(0, EPOCH + 9)


def test_a_tree_with_a_mount_in_it_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a b"
    place.mkdir()
    table = tmp_path / "mountinfo"
    table.write_text(f"36 35 0:5 / {tmp_path}/a\\040b/root/dev rw - devtmpfs udev rw\n")
    monkeypatch.setattr(tree, "MOUNTINFO", str(table))
    with pytest.raises(BuildError) as caught:
        tree.remove(str(place))
    assert str(caught.value) == (
        f"{place} is left there, for {tmp_path}/a\\040b/root/dev is mounted: unmount it, then remove the folder"
    )
    assert place.is_dir()


def test_removing_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    tree.remove(str(tmp_path / "gone"))
