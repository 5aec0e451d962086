"""The container's network: bridge, veth, address, route. The only user of pyroute2.

Owns the order of netlink requests. Must not know mounts or services. Laws: runs in a short-lived child, so that
neither monitor nor PID 1 ever loads pyroute2; a bridge or veth that pyinit made carries the alias `pyinit`, and only
such a one is removed, a bridge when nothing is left on it; one lock for all changes of bridges.
"""

import errno
import fcntl
import os

from pyinit import scopes as contextlib
from pyinit.errors import LaunchError
from pyinit.launch.operations import MakeNetwork
from pyinit.linux import namespaces

ALIAS = "pyinit"
_INSIDE = "host0"


def preload() -> None:
    """Import pyroute2 (0.1-0.5 s), while the launcher does the rest."""
    import pyroute2  # noqa: F401 - only this child may pay for it


def make(operation: MakeNetwork, netns_fd: int, lock_path: str) -> None:
    """Make it all; LaunchError with the config's line. The veth goes away with its namespace."""
    from pyroute2 import IPRoute, NetlinkError

    net = operation.network
    try:
        with _locked(lock_path), IPRoute() as ip:
            bridge = _bridge(ip, operation)
            ip.link("add", ifname=operation.link, kind="veth", peer={"ifname": _INSIDE, "net_ns_fd": netns_fd})
            outside = ip.link_lookup(ifname=operation.link)[0]
            ip.link("set", index=outside, master=bridge, state="up", ifalias=ALIAS)
        namespaces.enter(netns_fd, namespaces.CLONE_FLAGS["net"])
        with IPRoute() as ip:
            inside = ip.link_lookup(ifname=_INSIDE)[0]
            address, _, prefix = net.address.partition("/")
            ip.addr("add", index=inside, address=address, prefixlen=int(prefix))
            ip.link("set", index=inside, state="up")
            if net.gateway:
                ip.route("add", dst="default", gateway=net.gateway)
    except NetlinkError as error:
        text = os.strerror(error.code)
        hint = ""
        if error.code == errno.EPERM:
            hint = "; it needs CAP_NET_ADMIN: run it as root"
        elif error.code == errno.EEXIST:
            hint = f"; a link {operation.link} is there already: another program's, remove it or name the container otherwise"
        elif error.code == errno.ENETUNREACH:
            hint = f"; the gateway {net.gateway} is not in the net of {net.address}"
        raise LaunchError(f"{operation.origin}: {operation.describe()}: {text}{hint}") from error


def _bridge(ip: object, operation: MakeNetwork) -> int:
    """Index of the bridge; a missing one is made, with the gateway as its address."""
    from pyroute2 import IPRoute, NetlinkError

    assert isinstance(ip, IPRoute)
    net = operation.network
    found = ip.link_lookup(ifname=net.bridge)
    if found:
        return int(found[0])
    ip.link("add", ifname=net.bridge, kind="bridge")
    try:
        index = int(ip.link_lookup(ifname=net.bridge)[0])
        if net.gateway:
            ip.addr("add", index=index, address=net.gateway, prefixlen=int(net.address.partition("/")[2]))
        ip.link("set", index=index, state="up", ifalias=ALIAS)
    except (NetlinkError, OSError, IndexError):
        with contextlib.suppress(OSError):
            namespaces.remove_bridge(net.bridge)  # now, while we know that it is ours: without its alias nobody else does
        raise
    return index


def remove_unused_bridge(name: str, lock_path: str) -> None:
    """Remove the bridge if pyinit made it and no port is left on it; sysfs answers without pyroute2."""
    folder = f"/sys/class/net/{name}"
    with _locked(lock_path):
        try:
            with open(f"{folder}/ifalias") as file:
                ours = file.read().strip() == ALIAS
            if not ours or os.listdir(f"{folder}/brif"):
                return
        except FileNotFoundError:
            return
        namespaces.remove_bridge(name)  # an ioctl: pyroute2's import would be most of the whole stop


def remove_link(name: str) -> None:
    """Remove our veth that outlived its container: its namespace is held by someone, or is just going."""
    try:
        with open(f"/sys/class/net/{name}/ifalias") as file:
            ours = file.read().strip() == ALIAS
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        return
    if ours:  # else it was there before ours, which could not be made
        namespaces.remove_link(name)


class _locked:  # noqa: N801 - a context
    """`path` is a folder: a lock that leaves no file behind."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
