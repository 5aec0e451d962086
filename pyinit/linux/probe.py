"""Whether somebody on a link has an address: a probe as RFC 5227 (IPv4, by ARP) and RFC 4862, 5.4 (IPv6, by neighbour discovery) have it.

Owns the frames. Must not know whose address it is.
"""

import select
import struct

from pyinit.linux import sock as socket
from pyinit.linux.addresses import packed

_ETH_P_ARP, _ETH_P_IPV6, _REQUEST, _REPLY = 0x0806, 0x86DD, 1, 2
_ICMPV6, _SOLICIT, _ADVERTISE, _HOPS = 58, 135, 136, 255
_PATIENCE_S, _PROBES = 0.1, 2


def who_has(address: str, link: str) -> str:
    """The link-layer address that answers for it, "" if none does in time. OSError."""
    wanted = packed(address)
    kind = _ETH_P_ARP if len(wanted) == 4 else _ETH_P_IPV6
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(kind)) as sock:
        sock.bind((link, kind))
        own = sock.getsockname()[4]
        frame = _request(own, wanted) if kind == _ETH_P_ARP else _solicitation(own, wanted)
        for _ in range(_PROBES):
            sock.send(frame)
            while select.select([sock], [], [], _PATIENCE_S)[0]:
                mac = _answered(sock.recv(2048), wanted)
                if mac:
                    return mac.hex(":")
    return ""


def _answered(frame: bytes, wanted: bytes) -> bytes:
    """Who says so; b"": it says something else."""
    if len(wanted) == 4:
        is_it = len(frame) >= 42 and struct.unpack_from("!H", frame, 20)[0] == _REPLY and frame[28:32] == wanted
        return frame[22:28] if is_it else b""
    is_it = len(frame) >= 78 and frame[20] == _ICMPV6 and frame[54] == _ADVERTISE and frame[62:78] == wanted
    return frame[6:12] if is_it else b""


def _request(own: bytes, wanted: bytes) -> bytes:
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, _REQUEST, own, bytes(4), bytes(6), wanted)
    return b"\xff" * 6 + own + struct.pack("!H", _ETH_P_ARP) + body


def _solicitation(own: bytes, wanted: bytes) -> bytes:
    """From nobody, to the group that who has the address is in (RFC 4291, 2.7.1)."""
    group = bytes.fromhex("ff0200000000000000000001ff") + wanted[-3:]
    body = struct.pack("!BBHI16s", _SOLICIT, 0, 0, 0, wanted)
    total = sum(struct.unpack("!32H", bytes(16) + group + struct.pack("!II", len(body), _ICMPV6) + body))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
    head = struct.pack("!IHBB16s16s", 6 << 28, len(body), _ICMPV6, _HOPS, bytes(16), group)
    return b"\x33\x33" + group[-4:] + own + struct.pack("!H", _ETH_P_IPV6) + head + body
