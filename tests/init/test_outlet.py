"""Standard output that is slow, full or gone."""

import os
import socket

import pytest

from pyinit.init import outlet
from pyinit.init.outlet import Outlet

pytest_plugins = ["deadline_fixture"]


@pytest.fixture
def box():
    fd = outlet.create()
    yield fd
    os.close(fd)


def test_a_socket_that_nobody_reads_makes_nobody_wait(box, deadline):
    ours, theirs = socket.socketpair()
    out = Outlet(theirs.fileno(), box)
    out.fill(b"x" * (1 << 20))
    out.send()
    assert not out.is_free
    got = b""
    while not out.is_free:
        got += ours.recv(1 << 20)
        out.send()
    while len(got) < 1 << 20:
        got += ours.recv(1 << 20)
    assert got == b"x" * (1 << 20)
    ours.close()
    theirs.close()


def test_what_a_full_disk_refuses_is_counted_and_said_once_there_is_room(box, tmp_path):
    fd = os.open("/dev/full", os.O_WRONLY)
    out = Outlet(fd, box)
    for _ in range(3):
        out.fill(b"lost\n")
        out.send()
        assert out.is_free
    with open(tmp_path / "out", "wb") as file:
        os.dup2(file.fileno(), fd)
    for _ in range(2):
        out.fill(b"here\n")
        out.send()
    os.close(fd)
    assert (tmp_path / "out").read_bytes() == b"pyinit: 15 bytes were dropped here: No space left on device\nhere\nhere\n"


def test_whatever_refuses_is_no_reason_to_die(box):
    with socket.socket(socket.AF_UNIX) as nobody:
        out = Outlet(nobody.fileno(), box)
        out.fill(b"to nobody\n")
        out.send()
        assert out.is_free
