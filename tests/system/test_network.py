"""The network of containers on a host of their own: published ports, addresses, names, policies, and nothing left."""


import netlab
import pytest
from conftest import wait_until
from netlab import HERE4, HERE6, THERE4, THERE6, refusal, talks_tcp, talks_udp

from pyinit.linux import addresses

V4, V6, LOOP = "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "127.0.0.1"
BOTH = 'mode = "veth"\nbridge = "pyinit-t1"\npool = ["10.92.0.0/24", "fd92::/64"]\n'


@pytest.fixture(scope="module")
def host():
    """Around everything, for the first one makes /run/netns a mount, which stays."""
    netlab.make()
    yield
    netlab.remove()


@pytest.fixture
def lab(host, nothing_left, bench, busybox):
    lab = netlab.Lab(bench, busybox)
    for name in (V4, V6):
        lab.write_setting(name, "1")
    yield lab
    for box in bench.running:
        box.close()
    wait_until(lambda: lab.left() == ("", []), f"an empty host: {lab.left()}", 5.0)


def test_a_published_port_is_reached_from_outside_from_the_host_and_from_its_loopback(lab):
    lab.start(BOTH + 'publish = ["8080:80", "8081:81/udp"]')
    web = lab.inside()
    four, six = lab.addresses()
    assert addresses.is_in(four, "10.92.0.0/24") and addresses.is_in(six, "fd92::/64")
    assert talks_tcp(lab.outside, (HERE4, 8080), web, ("0.0.0.0", 80)) == THERE4
    assert talks_tcp(lab.outside, (HERE6, 8080), web, ("::", 80)) == THERE6
    assert talks_udp(lab.outside, (HERE4, 8081), web, (four, 81)) == THERE4
    assert talks_udp(lab.outside, (HERE6, 8081), web, (six, 81)) == THERE6
    assert talks_tcp(lab.host, (LOOP, 8080), web, (four, 80)) == "10.92.0.1"
    assert talks_udp(lab.host, (LOOP, 8081), web, (four, 81)) == "10.92.0.1"
    assert talks_tcp(lab.host, (HERE4, 8080), web, (four, 80)) == HERE4
    assert talks_tcp(lab.host, (HERE6, 8080), web, (six, 80)) == HERE6
    assert talks_tcp(web, (HERE4, 8080), web, (four, 80)) == "10.92.0.1"


def test_a_port_at_one_address_of_the_host_is_at_no_other(lab):
    lab.start(BOTH + f'publish = ["{LOOP}:8080:80", "{HERE4}:8081:80", "[{HERE6}]:8082:80", "0.0.0.0:8083:80/tcp", "[::]:8084:80"]')
    web = lab.inside()
    four, six = lab.addresses()
    assert talks_tcp(lab.host, (LOOP, 8080), web, (four, 80)) == "10.92.0.1"
    assert talks_tcp(lab.outside, (HERE4, 8081), web, (four, 80)) == THERE4
    assert talks_tcp(lab.outside, (HERE6, 8082), web, (six, 80)) == THERE6
    assert talks_tcp(lab.outside, (HERE4, 8083), web, (four, 80)) == THERE4
    assert talks_tcp(lab.outside, (HERE6, 8084), web, (six, 80)) == THERE6
    for place, address, port in (
        (lab.outside, HERE4, 8080), (lab.host, HERE4, 8080), (lab.host, LOOP, 8081), (lab.outside, HERE4, 8082), (lab.outside, HERE6, 8083),
        (lab.outside, HERE4, 8084),
    ):  # fmt: skip
        assert refusal(place, address, port) == "ConnectionRefusedError", (address, port)


def test_a_range_of_ports_goes_port_by_port(lab):
    lab.start(BOTH + 'publish = ["8000-8003:9000-9003", "8000-8003:7000-7003/udp"]')
    web, (four, _) = lab.inside(), lab.addresses()
    for number in range(4):
        assert talks_tcp(lab.outside, (HERE4, 8000 + number), web, (four, 9000 + number)) == THERE4
        assert talks_udp(lab.outside, (HERE4, 8000 + number), web, (four, 7000 + number)) == THERE4
    assert refusal(lab.outside, HERE4, 8004) == "ConnectionRefusedError"


def test_a_container_reaches_others_by_the_hosts_address(lab):
    lab.start(BOTH, "app")
    app = lab.inside("app")
    four, six = lab.addresses("app")
    assert talks_tcp(app, (THERE4, 5000), lab.outside, (THERE4, 5000)) == HERE4
    assert talks_tcp(app, (THERE6, 5000), lab.outside, (THERE6, 5000)) == HERE6
    assert talks_udp(app, (THERE4, 5000), lab.outside, (THERE4, 5000)) == HERE4
    lab.start(BOTH + 'publish = ["8080:80"]')
    web, (web4, web6) = lab.inside(), lab.addresses()
    assert talks_tcp(app, (web4, 80), web, (web4, 80)) == four  # from neighbour to neighbour it is itself
    assert talks_tcp(app, (web6, 80), web, (web6, 80)) == six


def test_a_container_with_a_port_at_loopback_opens_nothing_of_the_hosts_own_loopback(lab):
    """route_localnet is on, for the way back: what else there is at 127.0.0.1 stays there."""
    lab.start(BOTH + f'publish = ["{LOOP}:8080:80"]')
    web, (four, _) = lab.inside(), lab.addresses()
    assert lab.setting("net/ipv4/conf/pyinit-t1/route_localnet") == "1"
    done = web.run("ip", "route", "add", f"{LOOP}/32", "via", "10.92.0.1", "dev", "host0", "table", "7")
    done = web.run("sh", "-c", f"ip rule add pref 1 to {LOOP} table 7; ip rule del pref 0; ip rule add pref 5 table local; echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet")
    assert done.returncode == 0, done.stderr
    with lab.host.listen(LOOP, 7777):
        assert refusal(web, LOOP, 7777, 1.0) == "TimeoutError"
    assert talks_tcp(lab.host, (LOOP, 8080), web, (four, 80)) == "10.92.0.1"


@pytest.mark.parametrize("bridged", [True, False], ids=["by br_netfilter", "without it"])
def test_a_neighbour_and_the_container_itself_reach_a_published_port(lab, bridged):
    """With br_netfilter the packets go from port to port of the bridge, without it by way of the host."""
    for name in ("iptables", "ip6tables"):
        lab.write_setting(f"net/bridge/bridge-nf-call-{name}", str(int(bridged)))
    lab.start(BOTH + 'publish = ["8080:80"]')
    lab.start(BOTH, "app")
    web, (four, six), app, (app4, app6) = lab.inside(), lab.addresses(), lab.inside("app"), lab.addresses("app")
    for address in (HERE4, "10.92.0.1"):
        assert talks_tcp(app, (address, 8080), web, (four, 80)) == (app4 if bridged else "10.92.0.1")
        assert talks_tcp(web, (address, 8080), web, (four, 80)) == "10.92.0.1"
    for address in (HERE6, "fd92::1"):
        assert talks_tcp(app, (address, 8080), web, (six, 80)) == (app6 if bridged else "fd92::1")
        assert talks_tcp(web, (address, 8080), web, (six, 80)) == "fd92::1"
    for name in ("iptables", "ip6tables"):
        lab.write_setting(f"net/bridge/bridge-nf-call-{name}", "1")
