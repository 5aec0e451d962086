"""The control socket's file: its folder is what it is, whatever a link says."""

import os
import socket
import stat

import pytest

from pyinit.control.listener import bind
from pyinit.errors import ControlError


def test_a_socket_is_bound_with_its_folder_made_and_nobody_else_may_come(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fd = bind(f"{tmp_path}/a/b/control.sock")
    os.close(fd)
    assert stat.S_IMODE(os.lstat(tmp_path / "a/b/control.sock").st_mode) == 0o600
    assert (stat.S_IMODE(os.stat(tmp_path / "a/b").st_mode), os.getcwd()) == (0o700, str(tmp_path))


def test_a_path_that_is_too_long_for_an_address_serves(tmp_path):
    path = f"{tmp_path}/{'long' * 30}/control.sock"
    os.close(bind(path))
    assert stat.S_ISSOCK(os.lstat(path).st_mode)


def test_a_path_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.close(bind("control.sock"))
    assert os.listdir(tmp_path) == ["control.sock"]


def test_a_folder_that_is_a_link_to_what_we_have_open_is_not_entered(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    fd = os.open(elsewhere, os.O_PATH | os.O_DIRECTORY)
    (tmp_path / "run").symlink_to(f"/proc/self/fd/{fd}")
    with pytest.raises(ControlError) as caught:
        bind(f"{tmp_path}/run/made/control.sock")
    os.close(fd)
    assert str(caught.value) == f"the control socket {tmp_path}/run/made/control.sock: {tmp_path}/run/made: Too many levels of symbolic links"
    assert os.listdir(elsewhere) == []


def test_one_that_is_listened_on_stays_and_one_that_is_not_is_replaced(tmp_path):
    path = f"{tmp_path}/control.sock"
    with socket.socket(fileno=bind(path)) as other:
        other.listen()
        with pytest.raises(ControlError) as caught:
            bind(path)
        assert str(caught.value) == f"a pyinit is listening on {path} already: stop it, or give this one another control_socket"
    os.close(bind(path))
    os.unlink(path)
    (tmp_path / "control.sock").write_text("mine")
    with pytest.raises(ControlError) as caught:
        bind(path)
    assert str(caught.value) == f"{path} is in the way and is no socket: remove it"
