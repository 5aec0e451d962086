"""Whether somebody on a link has an IPv4 address: a probe as RFC 5227 has it.

Owns the frame. Must not know whose address it is.
"""

import select
import struct

from pyinit.linux import sock as socket
from pyinit.linux.addresses import packed

_ETH_P_ARP, _REQUEST, _REPLY = 0x0806, 1, 2
_PATIENCE_S, _PROBES = 0.1, 2


def who_has(address: str, link: str) -> str:
    """The link-layer address that answers for it, "" if none does in time. OSError."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(_ETH_P_ARP)) as sock:
        sock.bind((link, _ETH_P_ARP))
        own = sock.getsockname()[4]
        body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, _REQUEST, own, bytes(4), bytes(6), packed(address))
        for _ in range(_PROBES):
            sock.send(b"\xff" * 6 + own + struct.pack("!H", _ETH_P_ARP) + body)
            while select.select([sock], [], [], _PATIENCE_S)[0]:
                frame = sock.recv(2048)
                if len(frame) >= 42 and struct.unpack_from("!H", frame, 20)[0] == _REPLY and frame[28:32] == packed(address):
                    return frame[22:28].hex(":")
    return ""
