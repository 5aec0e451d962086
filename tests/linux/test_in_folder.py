"""A call in a folder that is known by its fd alone."""

import os

import pytest

from pyinit.linux import mount

NOBODY = 65534


@pytest.fixture
def place(tmp_path):
    (tmp_path / "place").mkdir()
    fd = os.open(tmp_path / "place", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_it_comes_back_from_a_folder_that_is_another_by_then_and_from_an_error(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    os.rename("place", "moved")
    mount.in_folder(place, lambda: os.mkdir("made"))
    assert (os.listdir(tmp_path / "moved"), os.getcwd()) == (["made"], str(tmp_path))
    with pytest.raises(FileExistsError):
        mount.in_folder(place, lambda: os.mkdir("made"))
    assert os.getcwd() == str(tmp_path)


def test_who_may_not_look_where_it_stands_is_at_the_root_afterwards(tmp_path):
    """As after `sudo -u` in root's own folder; root is another user there."""
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "place").mkdir()
    (tmp_path / "place").chmod(0o777)
    fd = os.open(tmp_path / "place", os.O_PATH | os.O_DIRECTORY)
    pid = os.fork()
    if pid == 0:
        os.chdir(tmp_path / "closed")
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        else:
            os.chmod(".", 0)
        mount.in_folder(fd, lambda: os.mkdir("made"))
        os._exit(0 if os.getcwd() == "/" else 1)
    os.close(fd)
    assert os.waitpid(pid, 0)[1] == 0
    (tmp_path / "closed").chmod(0o700)
    assert os.listdir(tmp_path / "place") == ["made"]
