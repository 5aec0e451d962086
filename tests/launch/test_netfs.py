"""Network file systems: what the kernel is given for a source and its options, and what its answers are told as."""

import errno
import socket

import pytest

from pyinit.launch import netfs
from pyinit.launch.netfs import Peer, Server


class World:
    """A resolver: every host is at 192.0.2.9, we are 192.0.2.1; it remembers who was asked for."""

    def __init__(self) -> None:
        self.asked = []

    def reach(self, server: Server) -> Peer:
        self.asked.append(server)
        return Peer("192.0.2.9", "192.0.2.1")


def prepared(fstype: str, source: str, options: dict, *asked: Server):
    """The kernel's type and the options, as a list, for their order counts."""
    world = World()
    kind, found = netfs.prepare(fstype, source, options, world.reach)
    assert world.asked == list(asked)
    return kind, list(found.items())


def test_nfs_is_version_4_2_unless_options_say_otherwise():
    source, filled = ("source", "nas:/files"), [("addr", "192.0.2.9"), ("clientaddr", "192.0.2.1")]
    for fstype in ("nfs", "nfs4"):
        assert prepared(fstype, "nas:/files", {"soft": None}, Server("nas", 2049)) == (
            "nfs4", [source, ("vers", "4.2"), *filled, ("soft", None)],
        )  # fmt: skip
    for options, vers in (
        ({"vers": "4.1"}, "4.1"), ({"nfsvers": "4.0"}, "4.0"), ({"v4.1": None}, "4.1"), ({"v4": None}, "4.2"),
        ({"vers": "4"}, "4.2"), ({"vers": "4", "minorversion": "1"}, "4.1"),
    ):  # fmt: skip
        assert prepared("nfs", "nas:/files", options, Server("nas", 2049)) == ("nfs4", [source, ("vers", vers), *filled])


def test_nfs_options_pass_and_what_was_filled_in_gives_way_to_them():
    options = {"port": "12049", "sloppy": None, "timeo": "30", "nconnect": "4", "clientaddr": "192.0.2.77", "proto": "tcp6"}
    assert prepared("nfs4", "[2001:db8::9]:/f", options, Server("2001:db8::9", 12049, "6")) == (
        "nfs4",
        [
            ("sloppy", None), ("source", "[2001:db8::9]:/f"), ("vers", "4.2"), ("addr", "192.0.2.9"), ("clientaddr", "192.0.2.77"),
            ("port", "12049"), ("timeo", "30"), ("nconnect", "4"), ("proto", "tcp6"),
        ],
    )  # fmt: skip
    assert prepared("nfs4", "nas:/f", {"proto": "rdma"}, Server("nas", 0, "4"))[1][-1] == ("proto", "rdma")


def test_nfs_3_asks_the_portmapper_and_may_have_a_mount_server_of_its_own():
    options = {"vers": "3", "nolock": None, "mounthost": "other"}
    assert prepared("nfs", "nas:/f", options, Server("nas", 111), Server("other", 0)) == (
        "nfs",
        [("source", "nas:/f"), ("vers", "3"), ("addr", "192.0.2.9"), ("mountaddr", "192.0.2.9"), ("nolock", None), ("mounthost", "other")],
    )
    assert prepared("nfs", "nas:/f", {"v3": None, "udp": None}, Server("nas", 0))[0] == "nfs"


def test_cifs_has_its_password_last():
    options = {"password": "s3cret", "username": "joe", "sign": None, "sec": "ntlmssp", "domain": "D"}
    assert prepared("cifs", "//nas/share/a", options, Server("nas", 445)) == (
        "cifs",
        [
            ("source", "//nas/share/a"), ("sec", "ntlmssp"), ("ip", "192.0.2.9"), ("username", "joe"), ("sign", None), ("domain", "D"),
            ("password", "s3cret"),
        ],
    )  # fmt: skip
    assert prepared("cifs", "//nas/share", {"sec": "krb5i"}, Server("nas", 445))[1][-1] == ("username", "root")
    assert prepared("cifs", "//nas/share", {"guest": None, "port": "10445"}, Server("nas", 10445)) == (
        "cifs",
        [("source", "//nas/share"), ("ip", "192.0.2.9"), ("port", "10445"), ("username", ""), ("password", "")],
    )


def test_9p_is_a_device_or_a_server():
    assert prepared("9p", "files", {"msize": "262144"}) == ("9p", [("source", "files"), ("trans", "virtio"), ("msize", "262144")])
    assert prepared("9p", "nas", {"trans": "tcp"}, Server("nas", 564, "4")) == ("9p", [("source", "192.0.2.9"), ("trans", "tcp")])
    assert prepared("9p", "/run/s", {"trans": "unix"}) == ("9p", [("source", "/run/s"), ("trans", "unix")])


@pytest.mark.parametrize(
    ("fstype", "source", "options", "expected"),
    [
        ("nfs", "nas", {}, 'source: expected "host:/path", found "nas"'),
        ("nfs4", "n:/x", {"vers": "3"}, 'type "nfs4" is NFS 4: for vers=3 write type = "nfs"'),
        ("nfs", "n:/x", {"vers": "2"}, "vers: expected one of 3, 4.0, 4.1, 4.2, found 2"),
        ("nfs", "n:/x", {"vers": "3", "v4.2": None}, "the options name several versions of NFS: 3, 4.2; leave one"),
        ("nfs", "n:/x", {"port": "nfs"}, "port: expected 1-65535, found nfs"),
        ("nfs", "n:/x", {"port": None}, "port: expected 1-65535, found nothing"),
        ("nfs", "n:/x", {"addr": "1.2.3.4"}, "option addr: pyinit sets addr itself; take it out"),
        ("cifs", "//n/x", {"domain": "D"}, "cifs needs an option username, with a password in secret_options, or the option guest, or sec=krb5"),
        ("cifs", "//n/x", {"guest": None, "port": "70000"}, "port: expected 1-65535, found 70000"),
        ("cifs", "//n/x", {"password": "s3cret\0"}, "option password: the kernel takes 255 bytes at most, and no NUL"),
        ("cifs", "//n/x", {"password": "s3cret" * 50}, "option password: the kernel takes 255 bytes at most, and no NUL"),
    ],
)
def test_what_can_not_be_meant_is_told_before_any_server_is_asked(fstype, source, options, expected):
    world = World()
    with pytest.raises(OSError) as caught:
        netfs.prepare(fstype, source, options, world.reach)
    assert (caught.value.errno, caught.value.strerror, world.asked) == (errno.EINVAL, expected, [])


def test_a_name_is_resolved_and_the_server_knocked_at():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert netfs.reach(Server("localhost", port)) == Peer("127.0.0.1", "127.0.0.1")
    with pytest.raises(ConnectionRefusedError) as caught:
        netfs.reach(Server("127.0.0.1", port))
    assert caught.value.strerror == f"127.0.0.1 refuses connections to port {port}: is the server up?"


def test_a_server_that_can_not_be_knocked_at_is_only_looked_up():
    assert netfs.reach(Server("127.0.0.1", 0)) == Peer("127.0.0.1", "127.0.0.1")


def test_a_name_that_nobody_knows_is_told():
    with pytest.raises(OSError) as caught:
        netfs.reach(Server("nobody.invalid", 2049))
    text = caught.value.strerror
    assert text.startswith("nobody.invalid: ") and text.endswith(": is the name right, and known to this host's resolver?"), text
    with pytest.raises(OSError) as caught:
        netfs.reach(Server("ä" * 64, 2049))
    assert caught.value.strerror == f"{'ä' * 64}: is no name of a host"


@pytest.mark.parametrize(
    ("fstype", "options", "number", "expected"),
    [
        ("nfs4", {"vers": "4.2"}, errno.EPROTONOSUPPORT, "the server does not speak NFS 4.2, or the kernel does not: set vers to one that both do (4.2, 4.1, 4.0, 3)"),
        ("nfs4", {"clientaddr": "192.0.2.1"}, errno.EACCES, "the export refuses this client, 192.0.2.1: let it in at the server (its address, its port below 1024, sec=)"),
        ("nfs", {"vers": "3"}, errno.ENOENT, "the server has no such export, or lets this client see none: look at its list of exports"),
        ("nfs4", {"vers": "4.2"}, errno.ECONNREFUSED, "the server does not talk to us, though something answers there: is it the right port, and does it speak NFS 4.2?"),
        ("nfs4", {"vers": "4.2"}, errno.ENODEV, "this kernel has no nfs4: modprobe nfsv4, or nfsv3"),
        ("cifs", {"username": "joe"}, errno.EACCES, "the server refuses the user joe: the name, domain or password is wrong, or the share is not for that user"),
        ("9p", {"trans": "virtio"}, errno.ENOENT, "there is no 9p device of that tag (trans=virtio): the machine must be given one, of qemu by -fsdev and -device virtio-9p-pci,mount_tag="),
        ("9p", {}, errno.ENOMEM, "the mount failed; dmesg(1) may tell more"),
    ],
)
def test_an_errno_is_told_in_the_terms_of_the_server(fstype, options, number, expected):
    assert netfs.meaning(fstype, options, number) == expected
