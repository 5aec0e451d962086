"""What of the host's packet filter belongs to a container, and the texts that nft(8) is given. Pure.

Owns the table `pyinit`. Must not know who runs nft (firewall.py). Laws: one text is one transaction, all of it or nothing;
of two containers nothing is shared but the table, its chains and what a bridge is in, so that any may come and go while
others do; what is taken out may be missing.

Each container adds elements to sets and maps that the table's few rules look into, and, with an outbound policy, a chain
of its own that an element leads to. An element is told by its key, which one container has at a time; what several have, a
bridge, goes with the last of them. nft 1.0.6 can't delete what may be missing, so each is added, which is fine where it is
there, and then deleted; who else has that key by now keeps it, for it is not named at all.

The rules: a local address and port that are in a map are those of a container (`publish`), for packets from elsewhere and for
our own; what comes back over the bridge, what has a loopback address, and what goes elsewhere from a container with `nat`
gets the host's address. ::1 has no such way, so a process carries that (forwarder.py): a route `local ::1 dev BRIDGE` would be
one, but where br_netfilter is loaded an answer is translated back at the bridge's port, and ip6_rcv_core drops what has that
address then. `guard`: a packet with a loopback address comes from no link; DNAT is before the kernel's own check of that, so a frame to 127.0.0.1 would get to a port that is published there, and, with route_localnet, which loopback
needs, a container to the host's own. What comes back from a container has the bridge's address until conntrack has seen
it, which is later. `closed`: who has `nat` or `publish` is reached from elsewhere, another bridge too, at its published
ports alone, though the host passes on what is sent to its address; its neighbours are not elsewhere. `policed`: what comes from an address with a
policy goes to that container's chain, both to the host and through it; from bridge port to bridge port, too, by way of
br_netfilter. The table of the bridge family holds such a container's port to its own addresses.
"""

from pyinit.linux.addresses import bits_of, lowest
from pyinit.model import Network, Outbound
from pyinit.records import NamedTuple

_LOOPBACK4 = "127."
_CHAIN = "chain"
_V = {32: "4", 128: "6"}

_TABLE = """\
add table inet pyinit
add set inet pyinit bridges { type ifname; }
add set inet pyinit localnet { type ifname; }
add set inet pyinit same { type ifname . ifname; }
add set inet pyinit closed4 { type ipv4_addr; }
add set inet pyinit closed6 { type ipv6_addr; }
add set inet pyinit nat4 { type ipv4_addr; }
add set inet pyinit nat6 { type ipv6_addr; }
add set inet pyinit stray4 { type ipv4_addr; }
add set inet pyinit stray6 { type ipv6_addr; }
add set inet pyinit self4 { type ipv4_addr . ipv4_addr; }
add set inet pyinit self6 { type ipv6_addr . ipv6_addr; }
add map inet pyinit any4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
add map inet pyinit any6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
add map inet pyinit at4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
add map inet pyinit at6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
add map inet pyinit policed4 { type ipv4_addr : verdict; }
add map inet pyinit policed6 { type ipv6_addr : verdict; }
add chain inet pyinit guard { type filter hook prerouting priority raw; }
add chain inet pyinit publish
add chain inet pyinit closed
add chain inet pyinit prerouting { type nat hook prerouting priority dstnat; }
add chain inet pyinit output { type nat hook output priority -100; }
add chain inet pyinit postrouting { type nat hook postrouting priority srcnat; }
add chain inet pyinit forward { type filter hook forward priority filter; }
add chain inet pyinit input { type filter hook input priority filter; }
flush chain inet pyinit guard
flush chain inet pyinit publish
flush chain inet pyinit closed
flush chain inet pyinit prerouting
flush chain inet pyinit output
flush chain inet pyinit postrouting
flush chain inet pyinit forward
flush chain inet pyinit input
add rule inet pyinit guard iifname != "lo" ip saddr 127.0.0.0/8 drop
add rule inet pyinit guard iifname != "lo" ip daddr 127.0.0.0/8 drop
add rule inet pyinit publish dnat ip to ip daddr . meta l4proto . th dport map @at4
add rule inet pyinit publish dnat ip to meta l4proto . th dport map @any4
add rule inet pyinit publish dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6
add rule inet pyinit publish dnat ip6 to meta l4proto . th dport map @any6
add rule inet pyinit prerouting meta l4proto { tcp, udp } fib daddr type local jump publish
add rule inet pyinit output ip6 daddr ::1 return
add rule inet pyinit output meta l4proto { tcp, udp } fib daddr type local jump publish
add rule inet pyinit postrouting iifname @bridges oifname @bridges ct status dnat masquerade
add rule inet pyinit postrouting ip saddr . ip daddr @self4 ct status dnat masquerade
add rule inet pyinit postrouting ip6 saddr . ip6 daddr @self6 ct status dnat masquerade
add rule inet pyinit postrouting oifname @localnet ip saddr 127.0.0.0/8 masquerade
add rule inet pyinit postrouting ip daddr @stray4 ct status dnat masquerade
add rule inet pyinit postrouting ip6 daddr @stray6 ct status dnat masquerade
add rule inet pyinit postrouting oifname != @bridges ip saddr @nat4 masquerade
add rule inet pyinit postrouting oifname != @bridges ip6 saddr @nat6 masquerade
add rule inet pyinit closed ct state established,related return
add rule inet pyinit closed ct status dnat return
add rule inet pyinit closed iifname . oifname @same return
add rule inet pyinit closed drop
add rule inet pyinit forward ip daddr @closed4 jump closed
add rule inet pyinit forward ip6 daddr @closed6 jump closed
add rule inet pyinit forward ip saddr vmap @policed4
add rule inet pyinit forward ip6 saddr vmap @policed6
add rule inet pyinit input ip saddr vmap @policed4
add rule inet pyinit input ip6 saddr vmap @policed6
"""
_TABLE_OF_PORTS = """\
add table bridge pyinit
add set bridge pyinit policed { type ifname; }
add set bridge pyinit own4 { type ifname . ipv4_addr; }
add set bridge pyinit own6 { type ifname . ipv6_addr; }
add chain bridge pyinit port
add chain bridge pyinit prerouting { type filter hook prerouting priority -300; }
flush chain bridge pyinit port
flush chain bridge pyinit prerouting
add rule bridge pyinit port ether type arp iifname . arp saddr ip @own4 accept
add rule bridge pyinit port ether type ip iifname . ip saddr @own4 accept
add rule bridge pyinit port ether type ip6 iifname . ip6 saddr @own6 accept
add rule bridge pyinit port ether type ip6 meta l4proto ipv6-icmp ip6 saddr { ::, fe80::/10 } icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld-listener-report, mld-listener-done, mld2-listener-report } accept
add rule bridge pyinit port drop
add rule bridge pyinit prerouting iifname @policed jump port
"""


class Element(NamedTuple):
    """Of a set or a map, by its key; `value` is "" in a set. A chain of the container's own is one of "chain"."""

    family: str
    place: str
    key: str
    value: str = ""


def are_wanted(net: Network) -> bool:
    """Whether a container has anything in the table."""
    return net.nat or bool(net.publish) or net.outbound is not None


def wants_forwarding(net: Network) -> bool:
    """Whether the host has to pass on what is not its own."""
    return net.nat or any(not is_loopback(one.host) for one in net.publish)


def is_loopback(host: str) -> bool:
    return host == "::1" or host.startswith(_LOOPBACK4)


def wants_localnet(net: Network) -> bool:
    """Whether a port is asked for at the host's 127.0.0.1."""
    return any(one.host in ("", "0.0.0.0") or one.host.startswith(_LOOPBACK4) for one in net.publish)


def elements(net: Network, name: str, link: str, addresses: tuple[str, ...]) -> list[Element]:
    """Of the container `name` with the port `link`; addresses without their prefix."""
    bridge = f'"{net.bridge}"'
    found = [Element("inet", "bridges", bridge), Element("inet", "same", f"{bridge} . {bridge}")]
    if wants_localnet(net) and any(bits_of(one) == 32 for one in addresses):
        found.append(Element("inet", "localnet", bridge))
    routed = {bits_of(one) for one in net.gateways}
    for address in addresses:
        bits = bits_of(address)
        if net.nat or net.publish:
            found.append(Element("inet", f"closed{_V[bits]}", address))
        if net.nat:
            found.append(Element("inet", f"nat{_V[bits]}", address))
        if net.publish:
            found.append(Element("inet", f"self{_V[bits]}", f"{address} . {address}"))
        if net.publish and bits not in routed:  # it has no way back to who is not on the bridge
            found.append(Element("inet", f"stray{_V[bits]}", address))
    found += _published(net, addresses)
    if net.outbound is not None:
        found += _policed(name, link, addresses)
    return found


def _published(net: Network, addresses: tuple[str, ...]) -> list[Element]:
    found = []
    for one in net.publish:
        for address in addresses:
            bits = bits_of(address)
            if one.host and bits_of(one.host) != bits:
                continue
            everywhere = one.host in ("", "0.0.0.0", "::")
            place = f"{'any' if everywhere else 'at'}{_V[bits]}"
            head = "" if everywhere else f"{one.host} . "
            found += [
                Element("inet", place, f"{head}{one.protocol} . {one.port + number}", f"{address} . {one.to + number}") for number in range(one.length)
            ]
    return found


def chain(name: str) -> str:
    return f"out-{name}"


def _policed(name: str, link: str, addresses: tuple[str, ...]) -> list[Element]:
    found = [Element("inet", _CHAIN, chain(name)), Element("bridge", "policed", f'"{link}"')]
    for address in addresses:
        version = _V[bits_of(address)]
        found.append(Element("inet", f"policed{version}", address, f"goto {chain(name)}"))
        found.append(Element("bridge", f"own{version}", f'"{link}" . {address}'))
    return found


def policy(net: Network, name: str, dns: tuple[str, ...]) -> list[str]:
    """The rules of a container's own chain. Its name servers are always allowed, and what belongs to a connection that others began."""
    rows = ["ct state established,related accept", "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept"]
    rows += [f"{_to(server)} meta l4proto {{ tcp, udp }} th dport 53 accept" for server in dns]
    rows += [_allowed(one) for one in net.outbound or ()]
    if net.outbound_log:
        rows.append(f'limit rate 10/second log prefix "pyinit {name} refused: "')
    rows += ["meta l4proto tcp reject with tcp reset", "reject with icmpx type admin-prohibited"]
    return rows


def _to(net: str) -> str:
    return f"{'ip' if bits_of(net.partition('/')[0]) == 32 else 'ip6'} daddr {net}"


def _allowed(one: Outbound) -> str:
    words = [_to(one.to)] if one.to and not one.to.endswith("/0") else []
    words += [f"meta nfproto {'ipv6' if ':' in one.to else 'ipv4'}"] if one.to.endswith("/0") else []
    protocols = {"icmp": "{ icmp, ipv6-icmp }"}
    words += [f"meta l4proto {protocols.get(one.protocol, one.protocol)}"] if one.protocol else []
    if one.ports:
        ports = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in one.ports)
        words.append(f"th dport {{ {ports} }}")
    return " ".join([*words, "accept"])


def make(mine: list[Element], rows: list[str], dead: list[list[Element]], kept: list[Element]) -> str:
    """The text that puts a container's elements in. `dead`: of those that nobody has cleaned up after; `kept`: of all others."""
    text = _TABLE + (_TABLE_OF_PORTS if _has_ports(mine) else "")
    for left in dead:
        text += _without(left, kept, has_ports=_has_ports([*kept, *mine]))
    chains = [one for one in mine if one.place == _CHAIN]
    for one in chains:
        text += f"add chain inet pyinit {one.key}\nflush chain inet pyinit {one.key}\n"
        text += "".join(f"add rule inet pyinit {one.key} {row}\n" for row in rows)
    return text + "".join(f"add element {_element(one)}\n" for one in mine if one.place != _CHAIN)


def unmake(mine: list[Element], kept: list[Element]) -> str:
    """The text that takes them out; `kept`: of all others. The last one takes the tables along."""
    if not kept:
        text = "add table inet pyinit\ndelete table inet pyinit\n"
        return text + ("add table bridge pyinit\ndelete table bridge pyinit\n" if _has_ports(mine) else "")
    return _TABLE + _without(mine, kept, has_ports=_has_ports(kept))


def _without(mine: list[Element], kept: list[Element], *, has_ports: bool) -> str:
    """`has_ports`: others need the table of the ports."""
    keys = {one[:3] for one in kept}
    gone = [one for one in mine if one[:3] not in keys]
    chains = [one.key for one in gone if one.place == _CHAIN]
    rest = [one for one in gone if one.place != _CHAIN]
    text = ""
    if _has_ports(mine):
        if has_ports:
            text += _TABLE_OF_PORTS
        else:
            rest = [one for one in rest if one.family != "bridge"]
            text += "add table bridge pyinit\ndelete table bridge pyinit\n"
    text += "".join(f"add chain inet pyinit {name}\n" for name in chains)
    for one in rest:
        text += f"add element {_element(one)}\ndelete element {_element(one._replace(value=''))}\n"
    return text + "".join(f"flush chain inet pyinit {name}\ndelete chain inet pyinit {name}\n" for name in chains)


def _element(one: Element) -> str:
    return f"{one.family} pyinit {one.place} {{ {one.key}{' : ' if one.value else ''}{one.value} }}"


def _has_ports(found: list[Element]) -> bool:
    return any(one.family == "bridge" for one in found)


def published(found: list[Element]) -> dict[tuple[str, str, int], list[tuple[str, str, int]]]:
    """(version, protocol, port of the host) -> (its address, or "" for any; address and port of the container)."""
    ports: dict[tuple[str, str, int], list[tuple[str, str, int]]] = {}
    for one in found:
        if one.place[:-1] in ("any", "at"):
            *host, protocol, port = one.key.split(" . ")
            address, to = one.value.split(" . ")
            ports.setdefault((one.place[-1], protocol, int(port)), []).append((_plain(host[0]) if host else "", _plain(address), int(to)))
    return ports


def _plain(address: str) -> str:
    """As the kernel writes it, of IPv6 too."""
    return lowest(f"{address}/{bits_of(address)}")


def written(name: str, mine: list[Element]) -> str:
    """For the journal, in one line."""
    return ";".join([name, *("|".join(one) for one in mine)])


def read(line: str) -> tuple[str, list[Element]]:
    """What `written` was given; ValueError for what is none."""
    name, *rest = line.split(";")
    found = [one.split("|") for one in rest]
    if any(len(one) != 4 for one in found):
        raise ValueError(line)
    return name, [Element(*one) for one in found]
