"""A folder that is kept, taken: what of it others may see."""

import os
import pathlib
import re

import pytest

from pyinit.errors import LaunchError
from pyinit.launch.claim import Claim
from pyinit.model import Origin

ORIGIN = Origin("box.toml", 5)


def modes(folder: pathlib.Path) -> dict[str, str]:
    return {str(one.relative_to(folder.parent)): f"{one.stat().st_mode & 0o7777:o}" for one in sorted([folder, *folder.iterdir()])}


@pytest.mark.parametrize("name", ["state", "upper"])
def test_nobody_else_enters_a_folder_that_is_made(tmp_path, name):
    """What root of a container leaves in it with a set-user-ID bit is nobody's to run."""
    folder = tmp_path / name
    os.close(Claim(str(tmp_path), -1, -1).take_folder(str(folder), ORIGIN))
    assert modes(folder) == {name: "700", f"{name}/lock": "600", f"{name}/upper": "755", f"{name}/work": "700", f"{name}/works": "700"}


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701])
def test_a_folder_that_others_can_enter_is_refused_as_it_is(tmp_path, mode):
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(mode)
    words = (
        f"box.toml:5: container.writable: {folder}: others can enter it (mode {mode:04o}), and run what root inside leaves there with a "
        f"set-user-ID bit; `chmod 700 {folder}`"
    )
    with pytest.raises(LaunchError, match=f"^{re.escape(words)}$"):
        Claim(str(tmp_path), -1, -1).take_folder(str(folder), ORIGIN)
    assert modes(folder) == {"state": f"{mode:o}"}


def test_a_folder_that_is_there_and_closed_is_taken(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    os.close(Claim(str(tmp_path), -1, -1).take_folder(str(folder), ORIGIN))
    assert modes(folder)["state"] == "700"
