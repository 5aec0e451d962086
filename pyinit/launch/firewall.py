"""The host's packet filter for a container: rules put in, taken out, and what else of the host that needs.

Owns the runs of nft and the settings below /proc/sys/net. Must not know the rules (rules.py). Laws: all under the lock of
the runtime folder, where the journals say who has what; a setting of the host's is only changed where the config asks
for it, one of a bridge only where the bridge is pyinit's own.

A flow that the kernel remembers never meets the rules again: a sender of datagrams that keeps its own port would talk to
who had the published port before, for as long as it talks. So who puts a port in forgets what was said to that before, and
who takes one out what its container answered: whose address it is next is no heir to that.
"""

import os

from pyinit import scopes as contextlib
from pyinit.errors import LaunchError
from pyinit.launch import rules
from pyinit.launch.journals import Entries, mark_gone, others
from pyinit.launch.onhost import MakeRules
from pyinit.linux import process
from pyinit.linux.addresses import bits_of
from pyinit.linux.conntrack import Conntrack
from pyinit.linux.netlink import Netlink
from pyinit.linux.programs import find_program

ALIAS = "pyinit"  # of a bridge that pyinit made
RULES = "rules"  # in the journal
CONF = "/proc/sys/net/ipv4/conf"
_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_NFT_S = 30.0
_BITS = {"4": 32, "6": 128}  # of the addresses of a version
_FORWARDING = {32: "net.ipv4.ip_forward", 128: "net.ipv6.conf.all.forwarding"}


def lack_of_nft() -> str:
    """Why there are no rules, and what mends it; "": nothing is in the way."""
    return "" if find_program("nft", {"PATH": _PATH}) else "there is no program nft on this host; install it (Debian: nftables)"


def lack_of_forwarding(bits: int) -> str:
    """As of nft, for packets with such addresses."""
    name = _FORWARDING[bits]
    if _read(_file_of(name)) != "0":
        return ""
    return (
        f"{name} is 0, so this host passes nothing on between the container and others; "
        f"`sysctl -w {name}=1`, or write forwarding = true in [container.network] to have that done"
    )


def _file_of(name: str) -> str:
    return f"/proc/sys/{name.replace('.', '/')}"


def check_host(operation: MakeRules, addresses: tuple[str, ...]) -> None:
    """nft is there, and the host passes on what has to be passed on; LaunchError."""
    lack = lack_of_nft()
    if lack:
        raise LaunchError(f"{operation.origin}: {operation.describe()}: {lack}")
    if not rules.wants_forwarding(operation.network):
        return
    for bits in sorted({bits_of(address) for address in addresses}):
        lack = lack_of_forwarding(bits)
        if lack and not operation.network.forwarding:
            more = "" if operation.network.publish else "; or nat = false, if it needs nobody outside"
            raise LaunchError(f"{operation.origin}: {operation.describe()}: {lack}{more}")
        if lack:
            _write(_file_of(_FORWARDING[bits]), "1")


def make(operation: MakeRules, addresses: tuple[str, ...], dns: tuple[str, ...]) -> None:
    """Under the lock. OSError, LaunchError."""
    mine = rules.elements(operation.network, operation.name, operation.link, addresses)
    found = others(operation.name)
    kept = [element for one in found if one.runs for element in _elements(one)]
    dead = [_elements(one) for one in found if not one.runs]
    rows = rules.policy(operation.network, operation.name, dns) if operation.network.outbound is not None else []
    _run(rules.make(mine, rows, dead, kept))
    for left in dead:
        _forget_answered(left, [*kept, *mine])
    _forget_former(mine)


def remove(line: str) -> None:
    """Of the journal's line, under the lock; OSError."""
    try:
        name, mine = rules.read(line)
    except ValueError:
        return  # it was cut off: nothing of it was made
    kept = [element for one in others(name) if one.runs for element in _elements(one)]
    keys = {one[:3] for one in kept}
    for one in mine:
        if one.place == "localnet" and one[:3] not in keys:  # before what guards it
            _unroute_localnet(one.key.strip('"'))
    if not lack_of_nft():  # else nothing was made
        _run(rules.unmake(mine, kept))
        _forget_answered(mine, kept)
    mark_gone(name, RULES)


def _forget_former(mine: list[rules.Element]) -> None:
    """Datagrams to ports that are published now, which go elsewhere: to another container, or to the host, that had nobody there."""
    ports = rules.published(mine)
    with contextlib.suppress(OSError), Conntrack() as tracked, Netlink() as here:  # without ctnetlink they end once nobody has talked for a while
        for version in sorted({version for version, protocol, _ in ports if protocol == "udp"}):
            for flow in tracked.datagrams(_BITS[version]):
                ours = [to for host, *to in ports.get((version, flow.protocol, flow.port), ()) if host in ("", flow.to)]
                if ours and [flow.by, flow.by_port] not in ours and (flow.is_translated or here.has_address(flow.to)):
                    tracked.forget(flow)


def _forget_answered(gone: list[rules.Element], kept: list[rules.Element]) -> None:
    """What DNAT has led to a container that is gone, if no other one has ports at that address by now."""
    addresses = sorted(_served(gone) - _served(kept))
    with contextlib.suppress(OSError), Conntrack() as tracked:  # as above
        for address in addresses:
            for flow in tracked.answered_by(address):
                if flow.is_translated:
                    tracked.forget(flow)


def _served(found: list[rules.Element]) -> set[str]:
    return {address for places in rules.published(found).values() for _, address, _ in places}


def route_localnet(bridge: str) -> None:
    """Let loopback addresses through to this bridge, which is ours and guarded."""
    _write(f"{CONF}/{bridge}/route_localnet", "1")


def _unroute_localnet(bridge: str) -> None:
    """If it is ours: on another's we have not set it."""
    with Netlink() as here:
        ours = any(one.name == bridge and one.alias == ALIAS for one in here.links())
    if ours:
        with contextlib.suppress(FileNotFoundError):
            _write(f"{CONF}/{bridge}/route_localnet", "0")


def routes_localnet(bridge: str) -> bool:
    return any(_read(f"{CONF}/{name}/route_localnet") == "1" for name in ("all", bridge))


def elements_of_others(name: str) -> list[tuple[str, rules.Element]]:
    """(container, element) of all that run but `name`."""
    return [(one.name, element) for one in others(name) if one.runs for element in _elements(one)]


def _elements(one: Entries) -> list[rules.Element]:
    found = []
    for line in one.values(RULES):
        with contextlib.suppress(ValueError):
            found += rules.read(line)[1]
    return found


def _run(text: str) -> None:
    fd = os.memfd_create("pyinit-rules", os.MFD_CLOEXEC)
    try:
        os.write(fd, text.encode())
        os.lseek(fd, 0, os.SEEK_SET)
        done = process.run(("nft", "-f", "-"), env={"PATH": _PATH, "LC_ALL": "C"}, timeout_s=_NFT_S, stdin_fd=fd)
    finally:
        os.close(fd)
    if done.code:
        said = done.stderr.decode("utf-8", "replace").splitlines()
        why = next((line.partition("Error: ")[2] for line in said if "Error: " in line), "") or " ".join(said[:1]) or done.why_killed
        raise OSError(0, f"nft: {why or f'it ended with {done.code}'}")


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def _write(path: str, value: str) -> None:
    with open(path, "w") as file:
        file.write(value)
