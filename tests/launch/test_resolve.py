"""Mount targets in an image full of symlinks."""

import os
import pathlib
import re

import pytest

from pyinit.launch.resolve import canonical_target


@pytest.fixture
def root(tmp_path):
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "file").touch()
    links = {
        "lib": "usr/lib", "var": "/usr", "abs": "/usr/lib", "up": "usr/../etc", "out": "../../outside", "top": "/../etc",
        "loop": "loop2", "loop2": "loop", "gone": "nowhere/at/all", "usr/lib/back": "../../etc",
    }  # fmt: skip
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("/etc", "/etc"), ("/new/one", "/new/one"), ("/lib", "/usr/lib"), ("/lib/x/y", "/usr/lib/x/y"), ("/var/lib/z", "/usr/lib/z"),
        ("/abs/q", "/usr/lib/q"), ("/up", "/etc"), ("/lib/back/motd", "/etc/motd"), ("/", "/"), ("//etc//x", "/etc/x"),
    ],
)  # fmt: skip
def test_links_are_followed_inside_the_root(root, target, place):
    assert canonical_target(root, target) == place


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/out", "/out is a symlink to ../../outside, which leads out of the root"),
        ("/top", "/top is a symlink to /../etc, which leads out of the root"),
        ("/gone/x", "/gone is a symlink to nowhere/at/all, which leads out of the root or to nothing in it"),
        ("/loop", "in a loop"),
        ("/file/x", "/file is no directory"),
    ],
)
def test_what_leads_out_or_nowhere_is_refused(root, target, words):
    with pytest.raises(OSError, match=re.escape(words)):
        canonical_target(root, target)


def test_the_fixture_is_not_touched(root):
    before = sorted(str(path) for path in pathlib.Path(f"/proc/self/fd/{root}").iterdir())
    canonical_target(root, "/a/b/c")
    assert sorted(str(path) for path in pathlib.Path(f"/proc/self/fd/{root}").iterdir()) == before
