"""`[container.network]`: the table becomes a Network.

Owns its keys, their defaults and what fits together. Must not know links or addresses that this host has.
"""

from pyinit.config.decode import Table, show
from pyinit.config.mounts import missing_or_wrong
from pyinit.linux import addresses
from pyinit.model import LINKED, SLIRP, NetRoute, Network, Outbound, Publish, is_name

MODES = ("none", "host", "veth", "macvlan", SLIRP, "netns")
_LINK_BYTES = 15
_BRIDGE, _POOL = "pyinit0", "10.91.0.0/16"
_SLIRP_POOL, _SLIRP_PREFIX, _SLIRP_MTU = "10.0.2.0/24", 25, 65520  # slirp4netns(1): its own default, its smallest, its largest but one
_SLIRP_OWN, _SLIRP_GATEWAY, _SLIRP_DNS = 100, 2, 3  # of its pool
# The modes that have a key, for those that have not.
_OF_MODES = {
    "bridge": ("veth",), "nat": ("veth",), "publish": ("veth", SLIRP), "ipv6": (SLIRP,), "outbound": ("veth",), "outbound_log": ("veth",),
    "forwarding": ("veth",), "parent": ("macvlan",), "submode": ("macvlan",), "path": ("netns",),
    "address": LINKED, "pool": (*LINKED, SLIRP), "gateway": LINKED, "routes": LINKED, "mtu": (*LINKED, SLIRP), "mac": LINKED,
}  # fmt: skip
_SUBMODES = ("bridge", "private", "vepa", "passthru")
_PROTOCOLS = ("tcp", "udp")
_AUTO = "auto"
_WITH_PREFIX = 'an address with its prefix, such as "10.91.0.2/24"'
_MOST_PORTS = 1024  # in one line: each is a socket of the launcher, that no other program may take it
_LEAST_MTU6 = 1280  # RFC 8200; Linux has no IPv6 on a link with less
_OWN_NAMES = ("localhost", "ip6-localhost")  # in each /etc/hosts
_SMALLEST = {32: 30, 128: 126}  # of a pool, by the width of its addresses


def network(table: Table | None) -> Network:
    if table is None:
        return Network()
    mode = table.choice("mode", "none", MODES)
    if mode in LINKED:
        found = _linked(table, mode)
    elif mode == SLIRP:
        found = _slirp(table)
    else:
        found = Network(mode=mode, path=_path(table) if mode == "netns" else "")
    dns = _addresses(table, "dns") if table.has("dns") else found.dns
    found = found._replace(dns=dns, hosts=_hosts(table), origin=table.origin, dns_of_host=mode in LINKED and not table.has("dns"))
    for key, modes in _OF_MODES.items():
        if mode not in modes and table.has(key):
            names = " or ".join(", ".join(f'"{one}"' for one in modes).rsplit(", ", 1))
            table.fault(key, f"only mode = {names} has it; write that, or take it out")
    table.close()
    return found


def _path(table: Table) -> str:
    if not table.has("path"):
        missing_or_wrong(table, "path", 'a network namespace, such as "/run/netns/blue" or "/proc/PID/ns/net"')
    return table.path_of("path")


def _linked(table: Table, mode: str) -> Network:
    """One end of it is inside, as host0."""
    own = _own_addresses(table)
    pools = _pools(table, mode) if not own else ()
    if own and table.has("pool"):
        table.fault("pool", 'only address = "auto" has it; write that, or take it out')
    nets = own or pools
    found = Network(
        mode=mode, addresses=own, pools=pools, gateways=_gateways(table, nets, mode, pools), routes=_routes(table, nets),
        mtu=_mtu(table, 0, 65535, ipv6=128 in map(_bits, nets)), mac=_mac(table),
    )  # fmt: skip
    if mode == "macvlan":
        if not table.has("parent"):
            missing_or_wrong(table, "parent", 'a link of the host, such as "eth0"')
        return found._replace(parent=_link(table, "parent", "lo"), submode=table.choice("submode", "bridge", _SUBMODES))
    families = {_bits(net) for net in nets}
    return found._replace(
        bridge=_link(table, "bridge", _BRIDGE), nat=table.boolean("nat", default=bool(pools)), publish=_publish(table, families),
        outbound=_outbound(table), outbound_log=table.boolean("outbound_log"), forwarding=table.boolean("forwarding"),
    )  # fmt: skip


def _slirp(table: Table) -> Network:
    """slirp4netns(1) has its addresses at fixed places of its network."""
    pool = table.string("pool", _SLIRP_POOL)
    parts = addresses.parted(pool)
    if parts is None or addresses.lowest(pool) != parts[0] or _bits(pool) != 32 or parts[1] > _SLIRP_PREFIX:
        table.fault("pool", f'expected an IPv4 network of 128 addresses or more, such as "{_SLIRP_POOL}", found {show(pool)}')
        pool = _SLIRP_POOL
    own, gateway, dns = (addresses.following(pool.partition("/")[0], by) for by in (_SLIRP_OWN, _SLIRP_GATEWAY, _SLIRP_DNS))
    ipv6 = table.boolean("ipv6")
    return Network(
        mode=SLIRP, addresses=(f"{own}/{pool.partition('/')[2]}",), pools=(pool,), gateways=(gateway,), dns=(dns,), ipv6=ipv6,
        mtu=_mtu(table, _SLIRP_MTU, 65521, ipv6=ipv6), publish=_publish(table, {32}, "slirp4netns publishes at IPv4 addresses only"),
    )  # fmt: skip


def _link(table: Table, key: str, default: str) -> str:
    name = table.string(key, default)
    if not (0 < len(name.encode()) <= _LINK_BYTES and is_name(name)):
        table.fault(key, f"expected a link's name of up to {_LINK_BYTES} letters, found {show(name)}")
    return name


def _words(table: Table, key: str) -> list[tuple[str, tuple[int, ...]]]:
    """A string or a list of them, each with what its messages need."""
    if isinstance(table.raw(key), str):
        return [(table.string(key), ())]
    return [(word, (number,)) for number, word in enumerate(table.strings(key))]


def _bits(net: str) -> int:
    return addresses.bits_of(net.partition("/")[0])


def _once_a_family(table: Table, key: str, words: list[tuple[str, tuple[int, ...]]]) -> None:
    seen: set[int] = set()
    for word, tail in words:
        if _bits(word) in seen:
            table.fault(key, f"expected one IPv4 and one IPv6 at most, found another: {show(word)}", *tail)
        seen.add(_bits(word))


def _own_addresses(table: Table) -> tuple[str, ...]:
    words = _words(table, "address") if table.has("address") else []
    if [word for word, _ in words] == [_AUTO]:
        return ()
    for word, tail in words:
        if addresses.parted(word) is None:
            table.fault("address", f"expected {_WITH_PREFIX}, found {show(word)}", *tail)
    good = [(word, tail) for word, tail in words if addresses.parted(word) is not None]
    for word, tail in good:
        whose = _whose(word)
        if whose:
            table.fault("address", f"expected an address of one host, found {whose}: {show(word)}", *tail)
    _once_a_family(table, "address", good)
    return tuple(word for word, _ in good) or (("0.0.0.0/0",) if words else ())  # of a wrong one: no more is said


def _whose(own: str) -> str:
    """Of an address that no host may have; "" for another. Of networks of two and one all are hosts' (RFC 3021, RFC 6164)."""
    address, _, prefix = own.partition("/")
    hosts = _bits(own) - int(prefix)
    place = addresses.number(address) - addresses.number(addresses.lowest(own))
    if hosts < 2 or 0 < place < (1 << hosts) - 1:
        return ""
    if place == 0:
        return "its network's own"
    return "its network's broadcast address" if _bits(own) == 32 else ""


def _mtu(table: Table, default: int, most: int, *, ipv6: bool) -> int:
    mtu = table.integer("mtu", default, 68, most)
    if ipv6 and 68 <= mtu < _LEAST_MTU6:
        table.fault("mtu", f"expected {_LEAST_MTU6} or more, which IPv6 needs, found {mtu}; or leave IPv6 out")
    return mtu


def _pools(table: Table, mode: str) -> tuple[str, ...]:
    if not table.has("pool"):
        if mode == "macvlan":
            missing_or_wrong(table, "address", f"{_WITH_PREFIX}, or a pool = \"...\" of its parent's network")
        return (_POOL,)
    found = []
    words = _words(table, "pool")
    for word, tail in words:
        parts = addresses.parted(word)
        if parts is None or addresses.lowest(word) != parts[0] or parts[1] > _SMALLEST[_bits(word)]:
            table.fault("pool", f'expected a network of four addresses or more, such as "{_POOL}" or "fd91::/64", found {show(word)}', *tail)
        else:
            found.append(word)
    _once_a_family(table, "pool", [(word, tail) for word, tail in words if word in found])
    return tuple(found)


def _gateways(table: Table, nets: tuple[str, ...], mode: str, pools: tuple[str, ...]) -> tuple[str, ...]:
    """On a bridge of its own a pool's first address is the host's."""
    words = [(word, tail) for word, tail in (_words(table, "gateway") if table.has("gateway") else []) if word]
    for word, tail in words:
        if nets and nets != ("0.0.0.0/0",) and not any(addresses.is_in(word, net) for net in nets):
            table.fault("gateway", f"expected an address in the network of {' or '.join(nets)}, found {show(word)}", *tail)
        elif not pools and any(addresses.packed(word) == addresses.packed(net.partition("/")[0]) for net in nets if addresses.bits_of(word)):
            table.fault("gateway", f"expected another address than the container's own, found {show(word)}", *tail)
    _once_a_family(table, "gateway", words)
    given = {addresses.bits_of(word) for word, _ in words}
    defaults = [addresses.following(pool.partition("/")[0], 1) for pool in pools if mode == "veth" and _bits(pool) not in given]
    if table.has("gateway") and not words:
        defaults = []
    return (*(word for word, _ in words), *defaults)


def _routes(table: Table, nets: tuple[str, ...]) -> tuple[NetRoute, ...]:
    found = []
    for one in table.tables("routes"):
        route = NetRoute(one.string("to"), one.string("via"))
        if addresses.parted(route.to) is None or addresses.lowest(route.to) != route.to.partition("/")[0]:
            missing_or_wrong(one, "to", 'a network, such as "10.0.0.0/8"')
        elif not any(addresses.is_in(route.via, net) for net in nets) or _bits(route.to) != _bits(route.via):
            missing_or_wrong(one, "via", f"a router's address in the network of {' or '.join(nets)}")
        one.close()
        found.append(route)
    return tuple(found)


def _mac(table: Table) -> str:
    text = table.string("mac")
    parts = text.lower().split(":")
    good = len(parts) == 6 and all(len(part) == 2 and not set(part) - set("0123456789abcdef") for part in parts)
    if table.has("mac") and (not good or int(parts[0], 16) & 1):
        table.fault("mac", f'expected a link\'s own address, such as "02:00:0a:5b:00:02", found {show(text)}')
        return ""
    return text.lower()


def _addresses(table: Table, key: str) -> tuple[str, ...]:
    found = table.strings(key)
    for number, one in enumerate(found):
        if not addresses.bits_of(one):
            table.fault(key, f"expected a numeric address, found {show(one)}", number)
    return found


_PUBLISH = 'expected [ADDRESS:]PORT[:PORT][/tcp or /udp], such as "127.0.0.1:8080:80/tcp" or "8000-8010:80-90"'


def _publish(table: Table, families: set[int], one_family: str = "") -> tuple[Publish, ...]:
    """`one_family`: why nothing else than IPv4 will do, if so."""
    found: list[Publish] = []
    for position, text in enumerate(table.strings("publish")):
        one = _published(text)
        if one is None:
            table.fault("publish", f"{_PUBLISH}, found {show(text)}", position)
            continue
        one = one._replace(origin=table.document.origin((*table.path, "publish", position)))
        bits = addresses.bits_of(one.host) if one.host else 0
        if one.length > _MOST_PORTS:
            table.fault("publish", f"expected a range of at most {_MOST_PORTS} ports, found {one.length}", position)
        elif bits and bits not in families and one_family:
            table.fault("publish", f"expected an IPv4 address, found {show(one.host)}: {one_family}; name another, or leave it out", position)
        elif bits and bits not in families and one.host != "::1":  # what comes there goes by a process, which may have either
            version = "IPv4" if bits == 32 else "IPv6"
            table.fault("publish", f"{one.host} is {version}, and the container has no such address; give it one in address or pool", position)
        else:
            there = next((other for other in found if _overlap(one, other)), None)
            if there is not None:
                table.fault("publish", f"expected each port of the host once, found {show(text)} beside line {there.origin.line}'s", position)
            found.append(one)
    return tuple(found)


def _overlap(one: Publish, other: Publish) -> bool:
    hosts = one.host == other.host or not one.host or not other.host or _is_any(one, other) or _is_any(other, one)
    return hosts and one.protocol == other.protocol and one.port < other.port + other.length and other.port < one.port + one.length


def _is_any(one: Publish, other: Publish) -> bool:
    return one.host in ("0.0.0.0", "::") and _bits(one.host) == _bits(other.host)


def _published(text: str) -> Publish | None:
    """None for what is none."""
    rest, mark, protocol = text.partition("/")
    host = ""
    if rest.startswith("["):
        host, _, rest = rest[1:].partition("]:")
        if ":" not in host:
            return None
    elif rest.count(":") == 2:
        host, _, rest = rest.partition(":")
        if ":" in host or not host:
            return None
    outside, colon, inside = rest.partition(":")
    ports, targets = _range(outside), _range(inside if colon else outside)
    if (host and not addresses.bits_of(host)) or ports is None or targets is None or (mark and protocol not in _PROTOCOLS):
        return None
    if ports[1] - ports[0] != targets[1] - targets[0]:
        return None
    return Publish(host, ports[0], targets[0], protocol or "tcp", ports[1] - ports[0] + 1)


def _range(text: str) -> tuple[int, int] | None:
    """Of "80" and "80-90"."""
    words = text.split("-")
    if len(words) > 2 or not all(word.isascii() and word.isdigit() and len(word) <= 5 for word in words):
        return None
    first, last = int(words[0]), int(words[-1])
    return (first, last) if 0 < first <= last < 65536 else None


def _outbound(table: Table) -> tuple[Outbound, ...] | None:
    if not table.has("outbound"):
        return None
    found = []
    for one in table.tables("outbound"):
        to = one.string("to")
        if "/" not in to and addresses.bits_of(to):
            to = f"{to}/{addresses.bits_of(to)}"
        if one.has("to") and (addresses.parted(to) is None or addresses.lowest(to) != to.partition("/")[0]):
            one.fault("to", f'expected a network or an address, such as "10.0.0.0/8", found {show(one.data["to"])}')
        ports = _ports(one)
        protocol = one.choice("protocol", "tcp" if ports else "", (*_PROTOCOLS, "icmp"))
        if ports and protocol == "icmp":
            one.fault("ports", 'only protocol = "tcp" or "udp" has ports; take them out')
        one.close()
        found.append(Outbound(to, ports, protocol))
    return tuple(found)


def _ports(table: Table) -> tuple[tuple[int, int], ...]:
    value = table.raw("ports")
    if value == []:
        table.fault("ports", "expected a port or more, found none; leave it out for all")
    found = []
    for position, one in enumerate(value if isinstance(value, list) else [] if value is None else [value]):
        ports = _range(str(one)) if isinstance(one, int | str) and not isinstance(one, bool) else None
        if ports is None:
            table.fault("ports", f'expected a port or a range, such as 5432 or "8000-8010", found {show(one)}', *([position] if isinstance(value, list) else []))
        else:
            found.append(ports)
    return tuple(found)


def is_hostname(text: str) -> bool:
    return is_name(text) and not set(text) & {"_", "@"}


def _hosts(table: Table) -> tuple[tuple[str, str], ...]:
    inner = table.table("hosts")
    if inner is None:
        return ()
    found = []
    for name in inner.data:
        address = inner.string(name)
        if not addresses.bits_of(address):
            inner.fault(name, f"expected a numeric address, found {show(inner.data[name])}")
        if name.lower() in _OWN_NAMES:
            inner.fault(name, f"{name} is the container's own loopback; take it out, or name it otherwise")
        elif not is_hostname(name):
            inner.fault(name, "expected a host name of letters, digits, . and -")
        found.append((name, address))
    return tuple(found)
