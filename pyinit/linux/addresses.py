"""IP addresses and networks as numbers: the few sums that a container's network needs.

Owns the arithmetic. Must not know what an address is for. Numeric texts only; ipaddress would cost 5 ms of each start.
"""

from pyinit.linux import sock as socket


def bits_of(text: str) -> int:
    """32 or 128; 0 for what is no address."""
    for family, bits in ((socket.AF_INET, 32), (socket.AF_INET6, 128)):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return bits
    return 0


def packed(text: str) -> bytes:
    """In network order; OSError for what is no address."""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def number(text: str) -> int:
    return int.from_bytes(packed(text), "big")


def text(value: int, bits: int) -> str:
    return socket.inet_ntop(socket.AF_INET if bits == 32 else socket.AF_INET6, value.to_bytes(bits // 8, "big"))


def parted(text: str) -> tuple[str, int] | None:
    """Of "10.91.0.2/24"; None for what is not one."""
    address, mark, prefix = text.partition("/")
    bits = bits_of(address)
    if not (bits and mark and prefix.isascii() and prefix.isdigit() and len(prefix) <= 3 and int(prefix) <= bits):
        return None
    return address, int(prefix)


def lowest(net: str) -> str:
    """The network's own address, of one with a prefix."""
    address, _, prefix = net.partition("/")
    bits = bits_of(address)
    return text(number(address) >> (bits - int(prefix)) << (bits - int(prefix)), bits)


def is_in(address: str, net: str) -> bool:
    """Whether both are of one family and share the prefix of `net`."""
    bits = bits_of(address)
    return bits != 0 and bits == bits_of(net.partition("/")[0]) and lowest(f"{address}/{net.partition('/')[2]}") == lowest(net)


def following(address: str, by: int) -> str:
    """The address `by` places on."""
    return text(number(address) + by, bits_of(address))
