"""The container's links: bridge, veth or macvlan, addresses, routes.

Owns the order of netlink requests. Must not know mounts, services or the packet filter. Laws: a bridge that pyinit
made carries the alias `pyinit`, a veth `pyinit NAME`; only such a one is changed or removed, a bridge when nothing is left
on it, a veth by its own container; one lock for all changes of bridges (journals.py), which who calls `make` holds; nobody
on a bridge of ours is a router by his own word, neither to the host nor to his neighbours.
"""

import errno
import os

from pyinit import scopes as contextlib
from pyinit.errors import LaunchError
from pyinit.launch import firewall, rules
from pyinit.launch.firewall import ALIAS
from pyinit.launch.journals import locked
from pyinit.launch.onhost import MakeNetwork
from pyinit.linux import addresses, namespaces, probe
from pyinit.linux.netlink import Link, Macvlan, Netlink, Veth, index_of
from pyinit.model import Network

INSIDE = "host0"
_CONF6 = "/proc/sys/net/ipv6/conf"
_NO_IPV6 = "`sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0`, or leave IPv6 out of the addresses"
CALLS = "/proc/sys/net/bridge/bridge-nf-call-"  # br_netfilter's, which are there while it is


def make(operation: MakeNetwork, net: Network, netns_fd: int) -> None:
    """Make it all; LaunchError with the config's line. `net` has the addresses that were taken. The link goes away with its namespace."""
    words = _Words(operation, net)
    is_ours = False
    with Netlink() as here:
        if net.mode == "veth":
            is_ours = _veth(here, operation, net, netns_fd, words)
        else:
            _macvlan(here, net, netns_fd, words)
    namespaces.enter(netns_fd, namespaces.CLONE_FLAGS["net"])
    with Netlink() as there:
        inside = index_of(INSIDE)
        _trust_own(INSIDE)
        if is_ours:
            _ignore_routers(INSIDE)
        with words(f"host0 {' and '.join(net.addresses)}"):
            there.raise_link(inside)
            if net.mode == "macvlan":
                _probe(net, INSIDE, words)
            for one in net.addresses:
                address, prefix = one.split("/")
                there.add_address(inside, address, int(prefix))
        for gateway in net.gateways:
            with words(f"the gateway {gateway}"):
                there.add_route(inside, "", gateway)
        for route in net.routes:
            with words(f"the route to {route.to}"):
                there.add_route(inside, route.to, route.via)


class _Words:
    """Makes an OSError of the kernel's a LaunchError that names what was being made."""

    def __init__(self, operation: MakeNetwork, net: Network) -> None:
        self._operation = operation
        self._net = net
        self._hints: dict[int | None, str] = {}

    def __call__(self, what: str, hints: dict[int | None, str] | None = None) -> "_Words":
        self._hints = {errno.EPERM: "it needs CAP_NET_ADMIN: run it as root", errno.EACCES: _NO_IPV6, **(hints or {})}
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if not isinstance(error, OSError):
            return
        hint = self._hints.get(error.errno, "")
        raise self.error(f"{error.strerror}{'; ' if hint else ''}{hint}") from error

    def error(self, text: str) -> LaunchError:
        return LaunchError(f"{self._operation.origin}: {self._operation.describe()}: {text}")


def _ignore_routers(link: str) -> None:
    """Before it is up: no advertisement (RFC 4861) that comes by it makes a route or an address."""
    _set6(link, "accept_ra")


def _trust_own(link: str) -> None:
    """Before it is up: its link-local address is usable at once, as those that we give are; without one no neighbour can be asked for."""
    _set6(link, "accept_dad")


def _set6(link: str, name: str) -> None:
    with contextlib.suppress(FileNotFoundError), open(f"{_CONF6}/{link}/{name}", "w") as file:  # a kernel without IPv6
        file.write("0")


def _veth(here: Netlink, operation: MakeNetwork, net: Network, netns_fd: int, words: _Words) -> bool:
    """Whether its bridge is ours."""
    links = here.links()
    bridge = _bridge(here, net, words, links)
    link = operation.link
    taken = f"a link {link} is there already: another program's, remove it or name the container otherwise"
    if any(one.master == bridge and one.alias.partition(" ")[0] != ALIAS for one in links):  # what is behind ours the journals tell
        _probe(net, net.bridge, words)
    with words(f"veth {link}", {errno.EEXIST: taken}):
        here.add_veth(Veth(link, INSIDE, netns_fd, net.mac or _mac_of(net.addresses), net.mtu))
        _ignore_routers(link)
        here.raise_link(index_of(link), master=bridge, alias=f"{ALIAS} {operation.name}")
        if net.publish:  # to reach its own ports by the host's address: br_netfilter has them go from port to port
            here.reflect(index_of(link))
    return not any(one.number == bridge and one.alias != ALIAS for one in links)


def lack_of_br_netfilter() -> str:
    """Why no policy would hold, and what mends it; "": it is there."""
    if _read(f"{CALLS}iptables"):  # the kernel takes a bridge's setting without it, too, and does nothing
        return ""
    return "this kernel has no br_netfilter, which outbound needs between the containers of a bridge; `modprobe br_netfilter`"


def _bridge(here: Netlink, net: Network, words: _Words, links: list[Link]) -> int:
    """Index of the bridge; a missing one is made, with the gateways as its addresses. One that is not ours stays as it is."""
    there = next((one for one in links if one.name == net.bridge), None)
    if there is not None and there.kind != "bridge":
        raise words.error(f"{net.bridge} is a link of this host, and no bridge; name another")
    lack = lack_of_br_netfilter() if net.outbound is not None else ""
    if lack:
        raise words.error(lack)
    if there is not None and there.alias != ALIAS:
        _check_stranger(net, words)
        return there.number
    if there is not None:
        _furnish(here, net, there.number, words)
        return there.number
    with words(f"bridge {net.bridge}"):
        here.add_bridge(net.bridge, f"02:{os.urandom(5).hex(':')}")
    try:
        index = index_of(net.bridge)
        with words(f"bridge {net.bridge}"):
            _ignore_routers(net.bridge)
            _trust_own(net.bridge)
            here.raise_link(index, alias=ALIAS)
        _furnish(here, net, index, words)
    except (OSError, LaunchError):
        with contextlib.suppress(OSError):
            namespaces.remove_bridge(net.bridge)  # now, while we know that it is ours: without its alias nobody else does
        raise
    return index


def _furnish(here: Netlink, net: Network, index: int, words: _Words) -> None:
    """A bridge of ours has what any of its containers needs."""
    for gateway in net.gateways:
        prefix = next(one.partition("/")[2] for one in net.addresses if addresses.is_in(gateway, one))
        with words(f"{gateway} of bridge {net.bridge}"):
            try:
                here.add_address(index, gateway, int(prefix))
            except FileExistsError:
                continue
    if net.outbound is not None:
        with words("bridge"):
            here.filter_bridge(index)
    if rules.wants_localnet(net):
        with words(f"route_localnet of {net.bridge}"):
            firewall.route_localnet(net.bridge)


def _check_stranger(net: Network, words: _Words) -> None:
    """What we need of it, and do not set, for it is not ours."""
    loops = [one for one in net.publish if one.host.startswith("127.")]
    if loops and not firewall.routes_localnet(net.bridge):
        raise words.error(
            f"{net.bridge} is not of pyinit's making, so its settings are left alone, and {loops[0].host} needs one; "
            f"`sysctl -w net.ipv4.conf.{net.bridge}.route_localnet=1`, or leave the address out"
        )
    if net.outbound is not None and not _filters(net.bridge):
        raise words.error(
            f"{net.bridge} is not of pyinit's making, so its settings are left alone, and outbound needs one; "
            f"`ip link set {net.bridge} type bridge nf_call_iptables 1 nf_call_ip6tables 1`"
        )


def _filters(bridge: str) -> bool:
    """br_netfilter's setting, of all bridges or of this one."""
    for name in ("iptables", "ip6tables"):
        if _read(f"{CALLS}{name}") != "1" and _read(f"/sys/class/net/{bridge}/bridge/nf_call_{name}") != "1":
            return False
    return True


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _macvlan(here: Netlink, net: Network, netns_fd: int, words: _Words) -> None:
    parent = index_of(net.parent)
    if not parent:
        raise words.error(f"there is no link {net.parent} on this host; name one that `ip link` shows")
    hints: dict[int | None, str] = {
        errno.EOPNOTSUPP: "this kernel has no macvlan; `modprobe macvlan`", errno.EBUSY: f"{net.parent} is in use by a bridge, or by another kind of macvlan",
    }  # fmt: skip
    with words(f"macvlan on {net.parent}", hints):
        here.add_macvlan(Macvlan(INSIDE, netns_fd, parent, net.submode, net.mac, net.mtu))


def _mac_of(own: tuple[str, ...]) -> str:
    """Of the address, so that who gets an address that a neighbour still remembers is who that reaches."""
    return f"02:5b:{addresses.packed(own[0].partition('/')[0])[-4:].hex(':')}" if own else ""


def _probe(net: Network, link: str, words: _Words) -> None:
    for one in net.addresses:
        address = one.partition("/")[0]
        mac = probe.who_has(address, link)
        if mac:
            fix = "write one that nobody has as address, or another pool" if net.pools else "choose another"  # of a pool it would be the same again
            raise words.error(f"{address} is in use: {mac} answers for it on {link}; {fix}")


def remove_unused_bridge(name: str) -> None:
    """Remove the bridge if pyinit made it and no port is left on it."""
    with locked(), Netlink() as here:
        links = here.links()
        bridge = next((one for one in links if one.name == name and one.alias == ALIAS), None)
        if bridge is not None and not any(one.master == bridge.number for one in links):
            namespaces.remove_bridge(name)


def remove_link(line: str) -> None:
    """Remove the veth of the journal's line that outlived its container: its namespace is held by someone, or is just going."""
    name, _, owner = line.partition(" ")
    with Netlink() as here:
        if any(one.name == name and one.alias == f"{ALIAS} {owner}" for one in here.links()):  # else it was there before ours, which could not be made
            namespaces.remove_link(name)
