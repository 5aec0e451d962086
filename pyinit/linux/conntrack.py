"""What the kernel remembers of who talks to whom, by ctnetlink: flows are found and forgotten.

Owns the numbers and the wire form. Must not know whose flows they are. Laws: a flow is forgotten by its own addresses and its
number, so never another that has come meanwhile, and never all of them; one that is gone is fine; OSError where the kernel
has no ctnetlink. Source: linux/netfilter/nfnetlink_conntrack.h.
"""

import errno
import os
import struct

from pyinit.linux import sock as socket
from pyinit.linux.addresses import packed
from pyinit.linux.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, attribute, attributes
from pyinit.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Self

_NETLINK_NETFILTER = 12
_CT_GET, _CT_DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _ID, _ZONE, _FILTER = 1, 2, 3, 12, 18, 25  # CTA_*
_IP, _PROTO, _PROTO_NUM, _SRC_PORT, _DST_PORT = 1, 2, 1, 2, 3
_SRC, _DST = {4: 1, 16: 3}, {4: 2, 16: 4}  # CTA_IP_V4_*, CTA_IP_V6_*, by an address's bytes
_FILTER_ORIG, _FILTER_REPLY, _FILTER_IP_SRC, _FILTER_PROTO_NUM = 1, 2, 1 << 0, 1 << 3
_IPS_DST_NAT = 1 << 5
_NESTED = 0x8000
_MOST = 1 << 18
_TCP, _UDP = 6, 17  # IPPROTO_*
_NAMES = {_TCP: "tcp", _UDP: "udp"}


class Flow(NamedTuple):
    """`to` and `port` are what its first sender asked for, `by` and `by_port` who answers: somebody else by DNAT."""

    protocol: str
    to: str
    port: int
    by: str
    by_port: int
    is_translated: bool
    key: bytes  # what the kernel knows it by


class Conntrack:
    """Of the network namespace that we are in now."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._sequence = 0

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def datagrams(self, bits: int) -> list[Flow]:
        """UDP's, of IPv4 or IPv6 (32 or 128); OSError."""
        protocol = attribute(_PROTO | _NESTED, attribute(_PROTO_NUM, bytes([_UDP])))
        return self._dump(bits, attribute(_TUPLE_ORIG | _NESTED, protocol) + _filter(_FILTER_ORIG, _FILTER_PROTO_NUM))

    def answered_by(self, address: str) -> list[Flow]:
        """Those whose answers come from there; OSError."""
        raw = packed(address)
        # The filter of IPv6 addresses sends all but those that match (Linux 6.18: ctnetlink_filter_match_tuple), so there all are asked for.
        place = attribute(_IP | _NESTED, attribute(_SRC[len(raw)], raw))
        wanted = attribute(_TUPLE_REPLY | _NESTED, place) + _filter(_FILTER_REPLY, _FILTER_IP_SRC) if len(raw) == 4 else b""
        return [flow for flow in self._dump(8 * len(raw), wanted) if flow.by == address]

    def _dump(self, bits: int, wanted: bytes) -> list[Flow]:
        self._send(_CT_GET, NLM_F_DUMP, bits, wanted)
        found: list[Flow] = []
        while True:
            data, at = self._socket.recv(_MOST), 0
            while at + 16 <= len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", data, at + 16)[0]
                    raise OSError(number, os.strerror(number))
                flow = _read(data[at : at + length])
                found += [flow] if flow is not None else []
                at += (length + 3) & ~3

    def forget(self, flow: Flow) -> None:
        """OSError."""
        self._send(_CT_DELETE, NLM_F_ACK, 128 if ":" in flow.to else 32, flow.key)
        number = -struct.unpack_from("=i", self._socket.recv(_MOST), 16)[0]
        if number not in (0, errno.ENOENT):
            raise OSError(number, os.strerror(number))

    def _send(self, kind: int, flags: int, bits: int, body: bytes) -> None:
        self._sequence += 1
        family = socket.AF_INET if bits == 32 else socket.AF_INET6
        head = struct.pack("=IHHIIBBH", 20 + len(body), kind, NLM_F_REQUEST | flags, self._sequence, 0, family, 0, 0)  # struct nfgenmsg
        self._socket.send(head + body)


def _filter(side: int, flags: int) -> bytes:
    """What of a tuple has to match (Linux 5.8)."""
    other = _FILTER_REPLY if side == _FILTER_ORIG else _FILTER_ORIG
    return attribute(_FILTER | _NESTED, attribute(side, struct.pack("=I", flags)) + attribute(other, struct.pack("=I", 0)))


def _read(message: bytes) -> Flow | None:
    """None of a protocol without ports."""
    rows = dict(attributes(message, 20))
    asked, answers = _tuple(rows.get(_TUPLE_ORIG, b"")), _tuple(rows.get(_TUPLE_REPLY, b""))
    if asked is None or answers is None or _ID not in rows:
        return None
    key = attribute(_TUPLE_ORIG | _NESTED, rows[_TUPLE_ORIG]) + attribute(_ID, rows[_ID])
    key += attribute(_ZONE, rows[_ZONE]) if _ZONE in rows else b""
    status = int.from_bytes(rows.get(_STATUS, b""), "big")
    return Flow(_NAMES[asked[0]], asked[2], asked[4], answers[1], answers[3], bool(status & _IPS_DST_NAT), key)


def _tuple(data: bytes) -> tuple[int, str, str, int, int] | None:
    """(protocol, source, destination, and their ports)."""
    rows = dict(attributes(data, 0))
    protocol = dict(attributes(rows.get(_PROTO, b""), 0))
    number = int.from_bytes(protocol.get(_PROTO_NUM, b""), "big")
    if number not in _NAMES or _SRC_PORT not in protocol or _DST_PORT not in protocol:
        return None
    places = dict(attributes(rows.get(_IP, b""), 0))
    source, to = _address(places, _SRC), _address(places, _DST)
    if not source or not to:
        return None
    return number, source, to, int.from_bytes(protocol[_SRC_PORT], "big"), int.from_bytes(protocol[_DST_PORT], "big")


def _address(places: dict[int, bytes], kinds: dict[int, int]) -> str:
    raw = next((places[kind] for kind in kinds.values() if kind in places), b"")
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw) if raw else ""
