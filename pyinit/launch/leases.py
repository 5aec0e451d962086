"""What a container takes of what all share: addresses, ports of the host, its name on a bridge.

Owns the choice, and the words for what is taken already. Must not know links or rules. Law: looked for and noted in the
journal under one lock, so that of any number of starts no two have the same.
"""

import errno
import fcntl
import os
import resource
import zlib
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.errors import LaunchError
from pyinit.launch import firewall, names, rules
from pyinit.launch.journals import Entries, Note, locked, others
from pyinit.launch.onhost import LOOPBACK6, TakeAddress
from pyinit.linux import addresses
from pyinit.linux import sock as socket
from pyinit.linux.netlink import Netlink
from pyinit.model import Container, Network, Origin, Publish
from pyinit.records import NamedTuple

_SPARE_FDS = 64  # that the launcher needs beside the ports' sockets
_OUT_OF_THE_WAY = 1024  # select(2) knows no greater fd, so what others open has to be below it
_BACKLOG = 4096  # of connections that nobody has accepted yet; the kernel has a limit of its own
_SPREAD = 1 << 16  # of an IPv6 pool's addresses, those that are given


class Held(NamedTuple):
    """A socket at a port of the host; `to`: the container's."""

    fd: int
    host: str
    protocol: str
    to: int


class Taken:
    """What one container has, until `close()`: `addresses` without prefix, name servers, and the ports' sockets."""

    def __init__(self, net: Network) -> None:
        self.net = net  # with the addresses that are its own
        self.servers = net.dns
        self.held: list[Held] = []

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(one.partition("/")[0] for one in self.net.addresses)

    def hold(self, publish: tuple[Publish, ...]) -> None:
        """A socket at each port, that no other program may take it; LaunchError."""
        wanted = [(one, host) for one in publish for host in self._hosts(one)]
        first_fd = _first_fd(sum(one.length for one, _ in wanted), publish)
        for one, host in wanted:
            for number in range(one.length):
                self._hold(one, host, number, first_fd)

    def _hosts(self, one: Publish) -> tuple[str, ...]:
        if one.host:
            return (one.host,)
        bits = {addresses.bits_of(own) for own in self.addresses}
        return tuple(host for host in ("0.0.0.0", "::") if addresses.bits_of(host) in bits)

    def _hold(self, one: Publish, host: str, number: int, first_fd: int) -> None:
        port = one.port + number
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        kind = socket.SOCK_STREAM if one.protocol == "tcp" else socket.SOCK_DGRAM
        try:
            with socket.socket(family, kind | socket.SOCK_CLOEXEC) as found:
                if family == socket.AF_INET6:
                    found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                is_forwarded = host in LOOPBACK6 and kind == socket.SOCK_STREAM
                if is_forwarded:
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what is left of old connections is in nobody's way
                found.bind((host, port))
                if is_forwarded:
                    found.listen(_BACKLOG)  # at once: else another program that reuses addresses could
                self.held.append(Held(fcntl.fcntl(found.fileno(), fcntl.F_DUPFD_CLOEXEC, first_fd), host, one.protocol, one.to + number))
        except OSError as error:
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            if error.errno == errno.EADDRINUSE:
                why = "is in use by another program; stop that, or publish another port"
            elif error.errno == errno.EADDRNOTAVAIL:
                why = "is no address of this host; name one that it has"
            else:
                why = f"can't be taken: {error.strerror}"
            raise LaunchError(f"{one.origin}: container.network.publish: {where}/{one.protocol} {why}") from error

    def close(self) -> None:
        for one in self.held:
            os.close(one.fd)
        self.held.clear()


def _first_fd(count: int, publish: tuple[Publish, ...]) -> int:
    """From where on that many sockets are; the limit is raised for them if it has to be. PID 1 is born by now. LaunchError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard) or count + _SPARE_FDS <= soft:
        return 0
    if count + _SPARE_FDS > hard:
        raise LaunchError(
            f"{publish[0].origin}: container.network.publish: {count} sockets at ports need {count + _SPARE_FDS} open files, and {hard} are allowed here; "
            f"`ulimit -Hn {count + _SPARE_FDS}` before (LimitNOFILE= in a unit of systemd), or publish fewer"
        )
    first = min(_OUT_OF_THE_WAY, hard - count)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, first + count), hard))
    return first


def take(step: TakeAddress, box: Container, note: Note, report: Callable[[str], None]) -> Taken:
    """All that it needs, noted; LaunchError."""
    taken = Taken(step.network)
    with locked(), Netlink() as here:
        there = [one for one in others(step.name) if one.runs]
        used = {address: one.name for one in there for address in one.values("address")}
        own = tuple(_free(pool, step, used, here) for pool in step.network.pools) or step.network.addresses
        taken.net = step.network._replace(addresses=own)
        for address in taken.addresses:
            if address in used:
                raise _refused(step, f"{address} is taken by container {used[address]}; choose another")
            if here.has_address(address):
                raise _refused(step, f"{address} is this host's own; choose another")
            note("address", address)
        _check_gateways(step.network, there, used, taken.addresses, note)
        if rules.are_wanted(taken.net):
            mine = rules.elements(taken.net, step.name, step.link, taken.addresses)
            _check_ports(step, mine)
            note(firewall.RULES, rules.written(step.name, mine))
            try:
                taken.hold(taken.net.publish)
            except LaunchError:
                taken.close()
                raise
        more: tuple[str, ...] = ()
        if taken.net.dns_of_host:
            taken.servers, more = names.of_host()
            if not taken.servers:
                report(f"{step.network.origin}: container.network: it has no name server: the host's are its own loopback's, or none; write dns = [...]")
        note(names.NAMES, f"{step.name}\t{names.entry(box, taken.addresses)}")
        names.make(box, taken.addresses, names.resolver(taken.servers, more))
    return taken


def _check_gateways(net: Network, there: list[Entries], used: dict[str, str], own: tuple[str, ...], note: Note) -> None:
    """A bridge has its containers' gateways as its addresses, so none of these may be a container's; LaunchError."""
    theirs = {gateway: one.name for one in there for gateway in one.values("gateway")}
    for key, wanted, taken, what in (("address", own, theirs, "the gateway"), ("gateway", net.gateways if net.mode == "veth" else (), used, "the address")):
        for address in wanted:
            if address in taken:
                raise LaunchError(f"{net.origin}: container.network.{key}: {address} is {what} of container {taken[address]}; choose another")
    if net.mode == "veth":
        for gateway in net.gateways:
            note("gateway", gateway)


def _refused(step: TakeAddress, text: str, key: str = "address") -> LaunchError:
    return LaunchError(f"{step.origin}: container.network.{key}: {text}")


def _free(pool: str, step: TakeAddress, used: dict[str, str], here: Netlink) -> str:
    """One that nobody has, with its prefix: the same at each start of a container, if it is free."""
    first, _, prefix = pool.partition("/")
    bits = addresses.bits_of(first)
    size = 1 << (bits - int(prefix))
    last = size - 2 if bits == 32 else size - 1  # a network's last IPv4 address is its broadcast's
    count = min(last, _SPREAD)  # from the first address on, which is not the network's own
    begin = zlib.crc32(step.name.encode())
    for number in range(count):
        address = addresses.following(first, 1 + (begin + number) % count)
        if address not in used and address not in step.network.gateways and not here.has_address(address):
            return f"{address}/{prefix}"
    takers = sum(addresses.is_in(address, pool) for address in used)
    whose = "1 container has one" if takers == 1 else f"{takers} containers have them"
    raise _refused(step, f"no address of {pool} is free, {whose}; stop one, or make it wider", "pool")


def _check_ports(step: TakeAddress, mine: list[rules.Element]) -> None:
    """LaunchError if another container has one of them, at that address or at all."""
    theirs: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for name, element in firewall.elements_of_others(step.name):
        for host, key in _port(element):
            theirs.setdefault(key, []).append((host, name))
    for element in mine:
        for host, key in _port(element):
            for other, name in theirs.get(key, ()):
                if host == other or not host or not other:
                    text = f"port {key[2]}/{key[1]} of this host is container {name}'s; publish another"
                    raise LaunchError(f"{_line(step.network, key)}: container.network.publish: {text}")


def _port(element: rules.Element) -> list[tuple[str, tuple[str, str, str]]]:
    """(address or "" for any, (family, protocol, port)) of an element that publishes."""
    if element.place[:-1] not in ("any", "at"):
        return []
    *host, protocol, port = element.key.split(" . ")
    return [(host[0] if host else "", (element.place[-1], protocol, port))]


def _line(net: Network, key: tuple[str, str, str]) -> Origin:
    port = int(key[2])
    return next((one.origin for one in net.publish if one.protocol == key[1] and one.port <= port < one.port + one.length), net.origin)


def forget(line: str) -> None:
    """Of the journal: NAME and what `names.entry` gave."""
    name, _, value = line.partition("\t")
    with contextlib.suppress(FileNotFoundError), locked():
        names.remove(name, value)

