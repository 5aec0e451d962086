"""Pinned images: the right digest, another one, and when a digest is remembered."""

import hashlib
import os
import pathlib
import shutil

import pytest

from pyinit.errors import LaunchError
from pyinit.launch import digests
from pyinit.launch.apply import Builder
from pyinit.launch.onhost import VerifyImage
from pyinit.launch.operations import AttachLayer
from pyinit.launch.outside import Outside
from pyinit.launch.root import Ids
from pyinit.model import Origin

WHERE = Origin("services.toml", 7)
OLD = pathlib.Path(shutil.__file__)  # a file whose times are not of this moment


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def verify(path, digest: str, cache) -> digests.Identity:
    return digests.verify(VerifyImage(str(path), digest, WHERE), str(cache))


def marks(path) -> digests.Identity:
    with open(path, "rb") as file:
        return digests.identity(file.fileno())


def test_the_right_digest_gives_what_the_file_is_known_by(tmp_path):
    (tmp_path / "image").write_bytes(b"image")
    assert verify(tmp_path / "image", sha256(tmp_path / "image"), tmp_path / "cache") == marks(tmp_path / "image")


def test_another_digest_is_told_with_line_expected_and_found(tmp_path):
    image = tmp_path / "image"
    image.write_bytes(b"image")
    with pytest.raises(LaunchError) as caught:
        verify(image, "0" * 64, tmp_path / "cache")
    assert str(caught.value) == (
        f"services.toml:7: {image} is not the image that is pinned: expected sha256:{'0' * 64}, "
        f"found sha256:{sha256(image)}; copy the right one, or pin the one that is there"
    )


def test_a_file_that_is_gone_is_told_with_its_step(tmp_path):
    with pytest.raises(LaunchError) as caught:
        verify(tmp_path / "image", "0" * 64, tmp_path / "cache")
    assert str(caught.value) == (
        f"services.toml:7: check that {tmp_path}/image has the digest sha256:{'0' * 64}: No such file or directory"
    )


def test_a_digest_is_remembered_for_the_very_file(tmp_path):
    cache = tmp_path / "cache"
    verify(OLD, sha256(OLD), cache)
    head = " ".join(map(str, marks(OLD)))
    assert cache.read_text() == f"{head} {sha256(OLD)}\n"
    assert cache.stat().st_mode & 0o777 == 0o600
    cache.write_text(f"{head} {'1' * 64}\n")  # only who does not read the file again can believe that
    assert verify(OLD, "1" * 64, cache) == marks(OLD)
    for torn in (f"{head} {'1' * 63}\n", f"{head} {'1' * 64}", f"9{head} {'1' * 64}\n"):
        cache.write_text(torn)
        verify(OLD, sha256(OLD), cache)


def test_a_file_of_this_moment_is_not_remembered_for_it_may_change_within_its_times(tmp_path):
    image = tmp_path / "image"
    image.write_bytes(b"image")
    verify(image, sha256(image), tmp_path / "cache")
    assert not os.path.exists(tmp_path / "cache")


def test_what_changes_between_check_and_mount_is_not_mounted(tmp_path):
    image = tmp_path / "image"
    image.write_bytes(b"image")
    seen = verify(image, sha256(image), tmp_path / "cache")
    image.rename(tmp_path / "old")
    image.write_bytes(b"other")
    (tmp_path / "staging").mkdir()
    with pytest.raises(LaunchError) as caught:
        Builder(f"{tmp_path}/staging", {str(image): seen}, Outside(frozenset(), Ids()), Ids()).run((AttachLayer(0, str(image), WHERE),))
    assert str(caught.value) == (
        f"services.toml:7: mount layer 0, {image}, read-only: {image} has changed since its digest was checked; start again"
    )
