"""Lists of links that change while they are read: the kernel's answers are written by hand."""

import socket
import struct

import pytest

from pyinit.linux.netlink import IFLA_IFNAME, NLM_F_DUMP_INTR, RTM_NEWLINK, Link, Netlink, attribute

MULTI, DONE = 2, 3


def message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def link(number: int, name: str, flags: int = 0) -> bytes:
    return message(RTM_NEWLINK, MULTI | flags, struct.pack("=BxHiII", 0, 0, number, 0, 0) + attribute(IFLA_IFNAME, name.encode() + b"\0"))


def end(flags: int = 0) -> bytes:
    return message(DONE, MULTI | flags, bytes(4))


@pytest.fixture
def kernel():
    """Where the answers are written, and who reads them."""
    ours = Netlink()
    ours._socket.close()
    ours._socket, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel, ours:
        yield kernel, ours


@pytest.mark.parametrize("last", [link(3, "b", NLM_F_DUMP_INTR) + end(), link(3, "b") + end(NLM_F_DUMP_INTR)])
def test_a_list_that_the_kernel_calls_inconsistent_is_asked_for_again(kernel, last):
    kernel, ours = kernel
    for answer in (link(1, "lo") + link(2, "a"), last, link(1, "lo") + link(3, "b"), end()):
        kernel.send(answer)
    assert ours.links() == [Link(1, "lo"), Link(3, "b")]


def test_a_list_that_never_is_consistent_is_an_error(kernel):
    kernel, ours = kernel
    for _ in range(100):
        kernel.send(end(NLM_F_DUMP_INTR))
    with pytest.raises(OSError, match="links come and go faster than they can be listed"):
        ours.links()
