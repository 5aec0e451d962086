"""Links, addresses and routes by rtnetlink(7): the dozen requests that a container's network is made of.

Owns the numbers and the wire form. Must not know what a link is for. Law: a request is acknowledged before the next one;
what the kernel refuses is an OSError with the kernel's own words where it has any.

pyroute2 does all of this, and its import takes longer (170-280 ms) than a whole start; it is the tests' second opinion.
"""

import errno
import os
import struct
import sys

from pyinit.linux import sock as socket
from pyinit.linux.addresses import packed
from pyinit.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Self

RTM_NEWLINK, RTM_GETLINK, RTM_SETLINK, RTM_NEWADDR, RTM_NEWROUTE, RTM_GETROUTE = 16, 18, 19, 20, 24, 26  # linux/rtnetlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE, NLM_F_DUMP_INTR = 1, 4, 0x300, 0x200, 0x400, 0x10  # linux/netlink.h
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SOL_NETLINK, _NETLINK_EXT_ACK = 270, 11
_NLMSGERR_ATTR_MSG, _NLM_F_CAPPED, _NLM_F_ACK_TLVS = 1, 0x100, 0x200
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_PROTINFO, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_NET_NS_FD = 1, 3, 4, 5, 10, 12, 18, 20, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER, IFLA_MACVLAN_MODE = 1, 2, 1, 1
IFLA_BR_NF_CALL_IPTABLES, IFLA_BR_NF_CALL_IP6TABLES = 36, 37
_AF_BRIDGE, _NLA_F_NESTED, _IFLA_BRPORT_MODE = 7, 0x8000, 4
IFA_ADDRESS, IFA_LOCAL, IFA_F_NODAD = 1, 2, 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST = 254, 4, 1
_OWN_ROUTES = (2, 3, 5)  # RTN_LOCAL, RTN_BROADCAST, RTN_MULTICAST: what a socket may be bound to
_IFF_UP = 1
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
_MOST = 1 << 18  # of one answer
_MOST_DUMPS = 100


def attribute(kind: int, data: bytes) -> bytes:
    """struct rtattr, padded."""
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _text(kind: int, text: str) -> bytes:
    return attribute(kind, os.fsencode(text) + b"\0")


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _mac(text: str) -> bytes:
    return attribute(IFLA_ADDRESS, bytes.fromhex(text.replace(":", ""))) if text else b""


def _link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    """struct ifinfomsg."""
    return struct.pack("=BxHiII", 0, 0, index, flags, change)


def _info(kind: str, data: bytes) -> bytes:
    return attribute(IFLA_LINKINFO, _text(IFLA_INFO_KIND, kind) + (attribute(IFLA_INFO_DATA, data) if data else b""))


class Veth(NamedTuple):
    """A pair: `name` here, `peer` in the namespace behind `netns_fd`, where the rest is meant, too."""

    name: str
    peer: str
    netns_fd: int
    mac: str = ""
    mtu: int = 0


class Macvlan(NamedTuple):
    """`name`, in the namespace behind `netns_fd`, on the link `parent` here."""

    name: str
    netns_fd: int
    parent: int
    submode: str
    mac: str = ""
    mtu: int = 0


class Link(NamedTuple):
    """What there is; `kind` is "bridge", "veth", ..., "" for a link of hardware; `master` is the number of its bridge."""

    number: int
    name: str
    alias: str = ""
    kind: str = ""
    master: int = 0


class Netlink:
    """A socket in the network namespace that we are in now."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sequence = 0

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, kind: int, body: bytes, flags: int = 0) -> None:
        """One request and its acknowledgement; OSError."""
        self._sequence += 1
        head = struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, self._sequence, 0)
        self._socket.send(head + body)
        reply = self._socket.recv(_MOST)
        number = -struct.unpack_from("=i", reply, 16)[0]  # struct nlmsgerr, behind its header
        if number:
            raise OSError(number, _said(reply) or os.strerror(number))

    def links(self) -> list[Link]:
        """All of the namespace. Links that come and go meanwhile may have one left out; the kernel says so, and is asked again."""
        for _ in range(_MOST_DUMPS):
            found, is_whole = self._dump()
            if is_whole:
                return found
        raise OSError(errno.EAGAIN, "links come and go faster than they can be listed")

    def _dump(self) -> tuple[list[Link], bool]:
        self._sequence += 1
        self._socket.send(struct.pack("=IHHIIBxHiII", 32, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0, 0, 0, 0, 0, 0))
        found: list[Link] = []
        is_whole = True
        while True:
            data, at = self._socket.recv(_MOST), 0
            while at + 16 <= len(data):
                length, kind, flags = struct.unpack_from("=IHH", data, at)
                is_whole = is_whole and not flags & NLM_F_DUMP_INTR
                if kind == _NLMSG_DONE:
                    return found, is_whole
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", data, at + 16)[0]
                    raise OSError(number, os.strerror(number))
                found.append(_read_link(data[at : at + length]))
                at += (length + 3) & ~3

    def has_address(self, address: str) -> bool:
        """Whether the namespace has it, by where a packet to it would go: bind(2) says yes to all with ip_nonlocal_bind."""
        raw = packed(address)
        family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
        body = struct.pack("=BBBBBBBBI", family, 8 * len(raw), 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, raw)
        self._sequence += 1
        self._socket.send(struct.pack("=IHHII", 16 + len(body), RTM_GETROUTE, NLM_F_REQUEST, self._sequence, 0) + body)
        reply = self._socket.recv(_MOST)
        kind = struct.unpack_from("=H", reply, 4)[0]
        return kind != _NLMSG_ERROR and reply[16 + 7] in _OWN_ROUTES  # an error: it leads nowhere; else struct rtmsg, rtm_type

    def add_bridge(self, name: str, mac: str) -> None:
        """With an address of its own: it would have its lowest port's, and another one when that goes."""
        self.ask(RTM_NEWLINK, _link() + _text(IFLA_IFNAME, name) + _mac(mac) + _info("bridge", b""), NLM_F_CREATE | NLM_F_EXCL)

    def filter_bridge(self, index: int) -> None:
        """What passes from port to port goes through the filters of IP, too; without br_netfilter nothing says that it does not."""
        data = attribute(IFLA_BR_NF_CALL_IPTABLES, b"\1") + attribute(IFLA_BR_NF_CALL_IP6TABLES, b"\1")
        self.ask(RTM_NEWLINK, _link(index) + _info("bridge", data))

    def add_veth(self, pair: Veth) -> None:
        mtu = _number(IFLA_MTU, pair.mtu) if pair.mtu else b""
        peer = _link() + _text(IFLA_IFNAME, pair.peer) + _mac(pair.mac) + mtu + _number(IFLA_NET_NS_FD, pair.netns_fd)
        data = attribute(VETH_INFO_PEER, peer)
        self.ask(RTM_NEWLINK, _link() + _text(IFLA_IFNAME, pair.name) + mtu + _info("veth", data), NLM_F_CREATE | NLM_F_EXCL)

    def add_macvlan(self, link: Macvlan) -> None:
        body = _link() + _text(IFLA_IFNAME, link.name) + _number(IFLA_LINK, link.parent) + _number(IFLA_NET_NS_FD, link.netns_fd) + _mac(link.mac)
        body += _number(IFLA_MTU, link.mtu) if link.mtu else b""
        body += _info("macvlan", _number(IFLA_MACVLAN_MODE, MACVLAN_MODES[link.submode]))
        self.ask(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL)

    def raise_link(self, index: int, *, master: int = 0, alias: str = "") -> None:
        """Up, as a port of the bridge `master`."""
        body = _link(index, _IFF_UP, _IFF_UP) + (_number(IFLA_MASTER, master) if master else b"")
        self.ask(RTM_NEWLINK, body + (_text(IFLA_IFALIAS, alias) if alias else b""))

    def reflect(self, index: int) -> None:
        """A bridge's port sends back out what came in by it: hairpin mode."""
        head = struct.pack("=BxHiII", _AF_BRIDGE, 0, index, 0, 0)
        self.ask(RTM_SETLINK, head + attribute(IFLA_PROTINFO | _NLA_F_NESTED, attribute(_IFLA_BRPORT_MODE, b"\1")))

    def add_address(self, index: int, address: str, prefix: int) -> None:
        """Usable at once: whether somebody else has an IPv6 address is not asked for, which takes a second or two. EEXIST.

        What is sent to that one finds the way a moment later, when a worker of the kernel's has made its route.
        """
        raw = packed(address)
        family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
        body = struct.pack("=BBBBi", family, prefix, IFA_F_NODAD if len(raw) == 16 else 0, 0, index)
        self.ask(RTM_NEWADDR, body + attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw), NLM_F_CREATE | NLM_F_EXCL)

    def add_route(self, index: int, to: str, via: str) -> None:
        """`to` is "10.0.0.0/8", "" for the default route."""
        gateway = packed(via)
        family = socket.AF_INET if len(gateway) == 4 else socket.AF_INET6
        address, _, prefix = to.partition("/")
        body = struct.pack("=BBBBBBBBI", family, int(prefix or 0), 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, 0, _RTN_UNICAST, 0)
        body += attribute(RTA_DST, packed(address)) if address else b""
        self.ask(RTM_NEWROUTE, body + attribute(RTA_GATEWAY, gateway) + _number(RTA_OIF, index), NLM_F_CREATE | NLM_F_EXCL)


def _read_link(message: bytes) -> Link:
    rows = dict(attributes(message, 32))
    info = dict(attributes(rows.get(IFLA_LINKINFO, b""), 0))
    texts = (rows.get(IFLA_IFNAME, b""), rows.get(IFLA_IFALIAS, b""), info.get(IFLA_INFO_KIND, b""))
    name, alias, kind = (text.rstrip(b"\0").decode("utf-8", "replace") for text in texts)
    return Link(struct.unpack_from("=i", message, 20)[0], name, alias, kind, int.from_bytes(rows.get(IFLA_MASTER, b""), sys.byteorder))


def attributes(data: bytes, at: int) -> list[tuple[int, bytes]]:
    """(kind, value) of each, from the byte `at` on."""
    found = []
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        found.append((kind & 0x3FFF, data[at + 4 : at + size]))
        at += max(4, (size + 3) & ~3)
    return found


def index_of(name: str) -> int:
    """Of a link in our namespace; 0 if there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:  # it has no number, whatever it is
        return 0


def _said(reply: bytes) -> str:
    """The extended acknowledgement's text, behind what it has of our request."""
    length, _, flags = struct.unpack_from("=IHH", reply)
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    asked = struct.unpack_from("=I", reply, 20)[0]
    at = 20 + (16 if flags & _NLM_F_CAPPED else (asked + 3) & ~3)
    texts = (text for kind, text in attributes(reply[:length], at) if kind == _NLMSGERR_ATTR_MSG)
    return next(texts, b"").rstrip(b"\0").decode("utf-8", "replace")
