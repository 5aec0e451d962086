"""Our requests, as pyroute2 reads them, and its answers of links, as we do: in a network namespace that goes with the child."""

import json
import os
import subprocess
import sys

PROGRAM = """
import json, os, select, socket, sys, time
sys.path.insert(0, {repo!r})
from pyinit.linux import namespaces
from pyinit.linux.netlink import Macvlan, Netlink, Veth, index_of
namespaces.unshare(namespaces.CLONE_FLAGS["net"])
namespaces.loopback_up()
fd = os.open("/proc/self/ns/net", os.O_RDONLY)
namespaces.unshare(namespaces.CLONE_FLAGS["net"])
said = []
def refused(action, *words, **keys):
    try:
        action(*words, **keys)
    except OSError as error:
        said.append([error.errno, error.strerror])
with Netlink() as ours:
    ours.add_bridge("br0", "02:00:00:00:00:01")
    bridge = index_of("br0")
    ours.raise_link(bridge, alias="pyinit")
    ours.add_veth(Veth("ve-a", "host0", fd, "02:00:00:00:00:02", 1400))
    ours.raise_link(index_of("ve-a"), master=bridge, alias="pyinit")
    ours.reflect(index_of("ve-a"))
    ours.add_macvlan(Macvlan("host1", fd, bridge, "private", "02:00:00:00:00:03", 1300))
    for address, prefix in (("10.9.0.1", 16), ("fd99::1", 64)):
        ours.add_address(bridge, address, prefix)
    ours.add_route(bridge, "10.8.0.0/16", "10.9.0.7")
    ours.add_route(bridge, "", "fd99::7")
    refused(ours.add_address, bridge, "10.9.0.1", 16)
    refused(ours.add_veth, Veth("ve-a", "host2", fd))
    refused(ours.add_route, bridge, "", "10.7.0.1")
    refused(ours.raise_link, 999)
    links = [(one.name, one.alias, one.kind, one.master == bridge) for one in ours.links() if one.name in ("br0", "ve-a", "lo")]
    for family in ("ipv4", "ipv6"):
        with open(f"/proc/sys/net/{{family}}/ip_nonlocal_bind", "w") as file:
            file.write("1")
    deadline = time.monotonic() + 20
    while not ours.has_address("fd99::1") and time.monotonic() < deadline:  # a worker of the kernel's makes an IPv6 address's route
        select.select([], [], [], 0.001)
    asked = ("10.9.0.1", "10.9.0.2", "10.9.255.255", "127.0.0.1", "192.0.2.1", "fd99::1", "fd99::2", "2001:db8::1")
    own = [one for one in asked if ours.has_address(one)]
from pyroute2 import IPRoute
def rows(ip):
    found = []
    for link in ip.get_links():
        info, get = link.get_attr("IFLA_LINKINFO"), link.get_attr
        if info is not None and info.get_attr("IFLA_INFO_KIND") in ("bridge", "veth", "macvlan"):
            data = info.get_attr("IFLA_INFO_DATA")
            mode = data.get_attr("IFLA_MACVLAN_MODE") if info.get_attr("IFLA_INFO_KIND") == "macvlan" else None
            port = info.get_attr("IFLA_INFO_SLAVE_DATA")
            mirrors = port.get_attr("IFLA_BRPORT_MODE") if port is not None else None
            found.append([get("IFLA_IFNAME"), info.get_attr("IFLA_INFO_KIND"), get("IFLA_ADDRESS"), get("IFLA_MTU"), get("IFLA_IFALIAS"), mode, mirrors])
    return sorted(found)
with IPRoute() as ip:
    here = rows(ip)
    addresses = sorted(f"{{one.get_attr('IFA_ADDRESS')}}/{{one['prefixlen']}}" for one in ip.get_addr(index=bridge) if one["scope"] == 0)
    routes = [f"{{one.get_attr('RTA_DST')}}/{{one['dst_len']}} {{one.get_attr('RTA_GATEWAY')}}" for one in [*ip.get_routes(family=2, table=254), *ip.get_routes(family=10, table=254)] if one.get_attr("RTA_GATEWAY")]
namespaces.enter(fd, namespaces.CLONE_FLAGS["net"])
with IPRoute() as ip:
    there = rows(ip)
print(json.dumps([said, links, own, here, there, addresses, routes]))
"""


def test_what_is_asked_for_is_made_and_what_is_refused_is_told_in_the_kernels_words():
    repo = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(repo=repo)], capture_output=True, text=True, check=True)
    said, links, own, here, there, addresses, routes = json.loads(done.stdout)
    assert [number for number, _ in said] == [17, 17, 101, 19]
    assert "gateway" in said[2][1]
    assert sorted(links) == [["br0", "pyinit", "bridge", False], ["lo", "", "", False], ["ve-a", "pyinit", "veth", True]]
    assert own == ["10.9.0.1", "10.9.255.255", "fd99::1"]  # its own lo is down
    assert [row[:2] + row[3:] for row in here] == [["br0", "bridge", 1400, "pyinit", None, None], ["ve-a", "veth", 1400, "pyinit", None, 1]]
    assert here[0][2] == "02:00:00:00:00:01"
    assert there == [
        ["host0", "veth", "02:00:00:00:00:02", 1400, None, None, None], ["host1", "macvlan", "02:00:00:00:00:03", 1300, None, "private", None],
    ]  # fmt: skip
    assert addresses == ["10.9.0.1/16", "fd99::1/64"]
    assert routes == ["10.8.0.0/16 10.9.0.7", "None/0 fd99::7"]
