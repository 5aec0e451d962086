"""Where what is told upward goes, and that telling never fails."""

import os
import socket

import pytest

from pyinit.init import upward


def test_an_inherited_socket_is_an_address(monkeypatch):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        upward.send(b"READY=1", f"fd:{theirs.fileno()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"fd:{theirs.fileno()}")
        upward.relay(b"READY=1\nX=2")
        assert [ours.recv(99) for _ in range(2)] == [b"READY=1", b"READY=1\nMAINPID=%d" % os.getpid()]
        ours.close()
        upward.send(b"STOPPING=1", f"fd:{theirs.fileno()}")


@pytest.mark.parametrize("address", ["", "fd:", "fd:x", "fd:99999", "vsock:2:1", "/none/s", "@none-at-all", "/" + "x" * 200])
def test_an_address_that_is_none_is_no_error(address):
    upward.send(b"READY=1", address)
