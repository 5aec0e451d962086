"""Where containers are found, and which of them is meant."""

import fcntl
import os

import pytest

from pyinit.control import places
from pyinit.errors import ControlError


@pytest.fixture
def base(tmp_path, monkeypatch):
    """The folder of all containers, by way of an ordinary user's $XDG_RUNTIME_DIR."""
    uid = os.getuid() or 4242
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(places, "INSIDE", str(tmp_path / "inside.sock"))
    base = tmp_path / "pyinit"
    base.mkdir(0o700)
    os.chown(base, uid, -1)
    return base


@pytest.fixture
def make(base):
    """A function that makes a container's folder, its lock held or free."""
    held = []

    def make(name, *, runs=True, pid="4711\n"):
        folder = base / name
        folder.mkdir()
        if pid:
            (folder / "pid").write_text(pid)
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        held.append(fd)
        if runs:
            fcntl.flock(fd, fcntl.LOCK_EX)
        return places.Running(name, int(pid or 0), f"{folder}/control.sock", str(folder))

    yield make
    for fd in held:
        os.close(fd)


def test_those_run_whose_lock_is_held(base, make):
    web, starting = make("web"), make("a-start", pid="")
    make("stale", runs=False)
    (base / "no-lock").mkdir()
    (base / "no-folder").touch()
    (base / "link").mkdir()
    (base / "link" / "lock").symlink_to(base / "web" / "lock")
    assert places.running() == [starting, web]
    assert places.running() == [starting, web]  # looking took no lock away


def test_a_pid_that_is_none_counts_as_not_there_yet(make):
    assert places.running() == []
    folder = make("web").directory
    with open(f"{folder}/pid", "w") as file:
        file.write("half a")
    assert places.running()[0].pid == 0


def test_which_one_is_meant(base, make):
    inside = base.parent / "inside.sock"
    with pytest.raises(ControlError, match=r"^nothing of pyinit runs here; if it does elsewhere, say --socket PATH$") as caught:
        places.find_socket(None, None, {})
    assert caught.value.exit_code == 3
    web = make("web")
    assert places.find_socket(None, None, {}) == web.socket
    db = make("db")
    with pytest.raises(ControlError, match=r"^several run here: say -c db or -c web$"):
        places.find_socket(None, None, {})
    inside.touch()
    assert places.find_socket(None, None, {}) == str(inside)
    assert places.find_socket("db", None, {}) == db.socket
    assert places.find_socket(None, None, {"PYINIT_SOCKET": "/e"}) == "/e"
    assert places.find_socket("db", None, {"PYINIT_SOCKET": "/e"}) == db.socket
    assert places.find_socket("db", "/x", {"PYINIT_SOCKET": "/e"}) == "/x"


def test_a_name_that_does_not_run(make):
    with pytest.raises(ControlError, match=r"^no container web runs here; nothing runs$"):
        places.find_socket("web", None, {})
    make("db")
    make("web", runs=False)
    with pytest.raises(ControlError, match=r"^no container web runs here; running are: db$") as caught:
        places.find_socket("web", None, {})
    assert caught.value.exit_code == 3


def test_a_folder_that_others_may_write_is_not_trusted(base):
    base.chmod(0o777)
    with pytest.raises(ControlError) as caught:
        places.runtime_dir()
    assert str(caught.value) == f"{base} is not a folder of ours alone: remove it, or set XDG_RUNTIME_DIR"
    base.rmdir()
    base.symlink_to("/tmp")
    with pytest.raises(ControlError):
        places.runtime_dir()


def test_long_paths_go_by_their_folder():
    assert places.short("/" + "x" * 106, 7) == "/" + "x" * 106
    assert places.short("/" + "x" * 103 + "/\xe9\xe9", 7) == "/proc/self/fd/7/\xe9\xe9"
