"""The network of containers on a host of their own: published ports, addresses, names, policies, and nothing left."""

import os
import pathlib
import select
import signal
import socket
import sys

import netlab
import pytest
from conftest import DEADLINE_S, wait_until
from netlab import HERE4, HERE6, THERE4, THERE6, refusal, talks_tcp, talks_udp

from pyinit.linux import addresses

V4, V6, LOOP, LOOP6 = "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "127.0.0.1", "::1"
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
    assert talks_tcp(lab.host, (LOOP6, 8080), web, (six, 80)) == "fd92::1"
    assert talks_udp(lab.host, (LOOP6, 8081), web, (six, 81)) == "fd92::1"
    assert talks_tcp(lab.host, (HERE4, 8080), web, (four, 80)) == HERE4
    assert talks_tcp(lab.host, (HERE6, 8080), web, (six, 80)) == HERE6
    assert talks_tcp(web, (HERE4, 8080), web, (four, 80)) == "10.92.0.1"


def test_a_port_at_one_address_of_the_host_is_at_no_other(lab):
    ports = f'"{LOOP}:8080:80", "{HERE4}:8081:80", "[{HERE6}]:8082:80", "0.0.0.0:8083:80/tcp", "[::]:8084:80", "[{LOOP6}]:8085:80"'
    lab.start(BOTH + f"publish = [{ports}]")
    web = lab.inside()
    four, six = lab.addresses()
    assert talks_tcp(lab.host, (LOOP, 8080), web, (four, 80)) == "10.92.0.1"
    assert talks_tcp(lab.outside, (HERE4, 8081), web, (four, 80)) == THERE4
    assert talks_tcp(lab.outside, (HERE6, 8082), web, (six, 80)) == THERE6
    assert talks_tcp(lab.outside, (HERE4, 8083), web, (four, 80)) == THERE4
    assert talks_tcp(lab.outside, (HERE6, 8084), web, (six, 80)) == THERE6
    assert talks_tcp(lab.host, (LOOP6, 8084), web, (six, 80)) == "fd92::1"
    assert talks_tcp(lab.host, (LOOP6, 8085), web, (six, 80)) == "fd92::1"
    for place, address, port in (
        (lab.outside, HERE4, 8080), (lab.host, HERE4, 8080), (lab.host, LOOP, 8081), (lab.outside, HERE4, 8082), (lab.outside, HERE6, 8083),
        (lab.outside, HERE4, 8084), *((lab.host, LOOP6, port) for port in (8080, 8081, 8082, 8083)), (lab.host, HERE6, 8085), (lab.outside, HERE6, 8085),
        (lab.host, LOOP, 8085),
    ):  # fmt: skip
        assert refusal(place, address, port) == "ConnectionRefusedError", (address, port)


def test_a_range_of_ports_goes_port_by_port(lab):
    lab.start(BOTH + 'publish = ["8000-8003:9000-9003", "8000-8003:7000-7003/udp"]')
    web, (four, six) = lab.inside(), lab.addresses()
    for number in range(4):
        assert talks_tcp(lab.outside, (HERE4, 8000 + number), web, (four, 9000 + number)) == THERE4
        assert talks_udp(lab.outside, (HERE4, 8000 + number), web, (four, 7000 + number)) == THERE4
        assert talks_tcp(lab.host, (LOOP6, 8000 + number), web, (six, 9000 + number)) == "fd92::1"
        assert talks_udp(lab.host, (LOOP6, 8000 + number), web, (six, 7000 + number)) == "fd92::1"
    assert refusal(lab.outside, HERE4, 8004) == "ConnectionRefusedError"


def test_a_veth_has_the_mtu_the_mac_and_the_routes_that_it_is_given(lab):
    given = BOTH + 'mtu = 1400\nmac = "02:00:00:00:00:77"\nroutes = [{ to = "203.0.113.0/24", via = "10.92.0.1" }, { to = "2001:db8:7::/48", via = "fd92::1" }]'
    lab.start(given)
    web = lab.inside()
    inner, outer = web.run("ip", "-o", "link", "show", "host0").stdout, lab.host.run("ip", "-o", "link", "show", "ve-pyinit-web").stdout
    assert " mtu 1400 " in inner and "link/ether 02:00:00:00:00:77 " in inner and " mtu 1400 " in outer
    for family, first, other in (("-4", "default via 10.92.0.1", "203.0.113.0/24 via 10.92.0.1"), ("-6", "default via fd92::1", "2001:db8:7::/48 via fd92::1")):
        found = [line.partition(" dev")[0] for line in web.run("ip", family, "route").stdout.splitlines() if " via " in line]
        assert sorted(found) == sorted([first, other])


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


def test_a_frame_to_loopback_from_the_hosts_own_net_reaches_no_port_that_is_published_there(lab):
    """No router passes such a packet on, but who is on the same segment needs none. One to an address of the host gets through."""
    lab.start(BOTH + f'publish = ["{LOOP}:8080:80/udp", "8081:81/udp"]')
    web, (four, _) = lab.inside(), lab.addresses()
    with web.receive(four, 80) as at_loopback, web.receive(four, 81) as everywhere:
        for address, port in ((LOOP, 8080), (LOOP, 8081), (HERE4, 8081)):
            netlab.send_frame(THERE4, address, port)
        word, peer = everywhere.recvfrom(64)
        assert (word, peer[0]) == (f"to {HERE4}".encode(), THERE4)
        netlab.send_frame(LOOP, HERE4, 8081)
        assert not netlab.wait_for_datagram(everywhere, 0.2)
        assert not netlab.wait_for_datagram(at_loopback, 0.0)
    assert talks_udp(lab.host, (LOOP, 8080), web, (four, 80)) == "10.92.0.1"


def test_who_routes_to_a_container_reaches_its_published_ports_alone(lab):
    """From another machine and from another bridge. One that has neither nat nor ports is as open as its address."""
    lab.start(BOTH + 'publish = ["8080:80"]')
    lab.start(BOTH, "app")
    lab.start(BOTH.replace("pyinit-t1", "pyinit-t2").replace("92", "93"), "other")
    lab.start(BOTH.replace("pyinit-t1", "pyinit-t3").replace("92", "94") + "nat = false\n", "open")
    web, app, other = lab.inside(), lab.inside("app"), lab.inside("other")
    with netlab.routes("10.92.0.0/14", "fd92::/64", "fd94::/64"):
        for place, name in ((web, "web"), (app, "app")):
            for address in lab.addresses(name):
                with place.listen(address, 80):
                    assert refusal(lab.outside, address, 80, 0.5) == refusal(other, address, 80, 0.5) == "TimeoutError", address
        four, six = lab.addresses()
        assert talks_tcp(lab.outside, (HERE4, 8080), web, (four, 80)) == THERE4
        assert talks_tcp(lab.outside, (HERE6, 8080), web, (six, 80)) == THERE6
        assert talks_tcp(other, (HERE4, 8080), web, (four, 80)) == "10.92.0.1"
        assert talks_tcp(app, (four, 81), web, (four, 81)) == lab.addresses("app")[0]
        assert talks_tcp(lab.host, (four, 81), web, (four, 81)) == "10.92.0.1"
        for address, there in zip(lab.addresses("open"), (THERE4, THERE6), strict=True):
            assert talks_tcp(lab.outside, (address, 80), lab.inside("open"), (address, 80)) == there


def kinds_of_files(pid: int) -> list[str]:
    """Sorted; [] while some are being closed, as at its start."""
    try:
        return sorted(os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0] for fd in os.listdir(f"/proc/{pid}/fd"))
    except FileNotFoundError:
        return []


@pytest.mark.parametrize("pool", ["fd92::/64", "10.92.0.0/24"])
def test_the_forwarder_is_nobody_and_has_nothing_but_its_ports(lab, pool):
    """Of a container without IPv6, too. Who kills it has it again, with who came meanwhile; it ends with the container."""
    box = lab.start(f'mode = "veth"\nbridge = "pyinit-t1"\npool = "{pool}"\npublish = ["[::1]:8080-8081:80-81"]')
    web, (own,), pid = lab.inside(), lab.addresses(), lab.forwarder()
    gateway = addresses.following(pool.partition("/")[0], 1)
    wait_until(lambda: kinds_of_files(pid) == ["/dev/null", "/dev/null", "anon_inode", "pipe", "socket", "socket", "socket"], "two ports, and the link's end")
    status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    assert [status[name] for name in ("Uid", "Gid", "Groups", "NoNewPrivs")] == ["\t".join(["65534"] * 4)] * 2 + [" ", "1"]
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert talks_tcp(lab.host, (LOOP6, 8081), web, (own, 81)) == gateway
    os.kill(pid, signal.SIGKILL)
    with web.listen(own, 80) as listener, lab.host.connect(LOOP6, 8080) as near:  # by the kernel: nobody is there to carry it
        near.sendall(b"ping")
        far, _ = listener.accept()
        with far:
            far.settimeout(20)
            assert far.recv(16) == b"ping"
    box.wait_for("pyinit: network: the forwarder of [::1] is there again\n")
    assert [line for line in box.output.splitlines() if "network: " in line] == [
        "pyinit: network: the forwarder of [::1] was killed by signal 9; it is started again in 0.1 s",
        "pyinit: network: the forwarder of [::1] is there again",
    ]
    again = lab.forwarder()
    assert again != pid
    assert pathlib.Path("/run/pyinit/pyinit-web/journal").read_text().count("forwarder\t") == 1  # however often
    assert box.stop() == 0
    assert not os.path.exists(f"/proc/{again}")


def test_the_forwarder_of_a_link_that_somebody_took_away_is_not_started_again(lab):
    box = lab.start(BOTH + 'publish = ["[::1]:8080:80"]')
    netlab.ip("link", "del", "ve-pyinit-web", at=netlab.HOST)
    said = "pyinit: network: the forwarder of [::1] ended with the container's link; what comes to ports at ::1 gets nowhere until it is started again\n"
    box.wait_for(said)
    assert box.stop() == 0
    assert [line for line in box.output.splitlines(keepends=True) if "network: " in line] == [said]


def test_the_forwarder_of_a_killed_monitor_ends_with_the_container(lab):
    box = lab.start(BOTH + 'publish = ["8080:80"]')
    pidfd = os.pidfd_open(lab.forwarder())
    box.process.kill()
    assert select.select([pidfd], [], [], DEADLINE_S)[0]
    os.close(pidfd)
    assert lab.start(BOTH + 'publish = ["8080:80"]').stop() == 0


def test_a_port_at_ipv6_s_loopback_is_one_container_s_and_no_other_program_s(lab):
    with lab.host.listen(LOOP6, 8080):
        taken = "services.toml:11: container.network.publish: {}:8080/tcp is in use by another program; stop that, or publish another port\n"
        assert lab.refused(BOTH + 'publish = ["[::1]:8080:80"]') == "pyinit: " + taken.format("[::1]")
        assert lab.refused(BOTH + 'publish = ["8080:80"]') == "pyinit: " + taken.format("[::]")
    lab.start(BOTH + 'publish = ["[::1]:8080:80"]')
    for port in ("8080:80", "[::1]:8080:81", "[::]:8080:81"):
        said = "pyinit: services.toml:11: container.network.publish: port 8080/tcp of this host is container pyinit-web's; publish another\n"
        assert lab.refused(BOTH + f'publish = ["{port}"]') == said
    lab.start(BOTH + 'publish = ["127.0.0.1:8080:80"]', "app")


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
    assert talks_tcp(lab.host, (LOOP6, 8080), web, (six, 80)) == "fd92::1"
    assert talks_tcp(lab.host, (LOOP, 8080), web, (four, 80)) == "10.92.0.1"
    for name in ("iptables", "ip6tables"):
        lab.write_setting(f"net/bridge/bridge-nf-call-{name}", "1")


def hears(sender: socket.socket, to: tuple[str, int], receiver: socket.socket) -> bool:
    """Whether a datagram from there comes, the first one. The answer has the kernel take the flow for one that lasts."""
    sender.sendto(b"ping", to)
    if not netlab.wait_for_datagram(receiver, 1.0):
        return False
    word, peer = receiver.recvfrom(16)
    receiver.sendto(b"pong", peer)
    return (word, sender.recvfrom(16)[0]) == (b"ping", b"pong")


def test_a_sender_that_keeps_its_port_reaches_who_has_the_published_one_now(lab):
    """From before there was anybody, over a container of another address, to one that gets the first one's address and publishes nothing."""
    ports = 'publish = ["8081:81/udp", "127.0.0.1:8082:81/udp"]'
    lab.start(BOTH + 'publish = ["8080:80"]')  # there are rules already, so the kernel remembers
    ways = ((lab.outside, HERE4, 8081), (lab.outside, HERE6, 8081), (lab.host, LOOP, 8082))
    senders = [place.open(address, socket.SOCK_DGRAM) for place, address, _ in ways]
    try:
        for sender, (_, address, port) in zip(senders, ways, strict=True):
            sender.sendto(b"to nobody", (address, port))
        for name in ("first", "second"):
            box = lab.start(BOTH + ports, name)
            four, six = lab.addresses(name)
            with lab.inside(name).receive(four, 81) as at4, lab.inside(name).receive(six, 81) as at6:
                for sender, (_, address, port) in zip(senders, ways, strict=True):
                    assert hears(sender, (address, port), at6 if ":" in address else at4), (name, address)
            assert box.stop() == 0
        heir = BOTH.replace('pool = ["10.92.0.0/24", "fd92::/64"]', f'address = ["{four}/24", "{six}/64"]')
        lab.start(heir, "heir")
        with lab.inside("heir").receive(four, 81) as at4, lab.inside("heir").receive(six, 81) as at6:
            for sender, (_, address, port) in zip(senders, ways, strict=True):
                sender.sendto(b"to nobody", (address, port))
                assert not netlab.wait_for_datagram(at6 if ":" in address else at4, 0.2), address
    finally:
        for sender in senders:
            sender.close()


def test_a_pod_keeps_its_network_until_its_last_member_ends(lab):
    """Link, address, port, policy and name; who shares it by way of another member, too. Then nothing is left of it."""
    lab.start(BOTH, "app")
    text = BOTH + 'publish = ["8080:80"]\noutbound = []\n'
    web = lab.start(text)
    four, six = lab.addresses()
    members = []
    for name, of in (("one", "web"), ("two", "one")):
        share = f'[container]\nshare = ["net:pyinit-{of}"]\n'
        members.append(lab.launch(lab.text("", name).replace("[container]\n", share, 1), name))
        members[-1].wait_for("app: up")
    before = lab.left()
    assert web.stop() == 0
    two = lab.inside("two")
    assert os.stat(two.path).st_ino == os.stat(lab.inside("one").path).st_ino
    assert talks_tcp(lab.outside, (HERE4, 8080), two, (four, 80)) == THERE4
    assert talks_tcp(lab.host, (LOOP, 8080), two, (four, 80)) == "10.92.0.1"
    assert talks_tcp(lab.host, (LOOP6, 8080), two, (six, 80)) == "fd92::1"
    with lab.outside.listen(THERE4, 5000):
        assert refusal(two, THERE4, 5000) == "ConnectionRefusedError"
    assert lab.left() == before
    assert lab.hosts("app")[-2:] == [f"{four}\tpyinit-web", f"{six}\tpyinit-web"]
    other = f'mode = "veth"\nbridge = "pyinit-t1"\naddress = "{four}/24"\n'
    assert lab.refused(other) == f"pyinit: services.toml:7: container.network.address: {four} is taken by container pyinit-web; choose another\n"
    taken = BOTH + 'publish = ["8080:80"]\n'
    assert lab.refused(taken).endswith("publish: port 8080/tcp of this host is container pyinit-web's; publish another\n")
    said = "container pyinit-web has left its network to pyinit-{} (by share), and can't have it twice; stop what shares it first, then start all again\n"
    assert lab.refused(text, "web") == "pyinit: services.toml:4: " + said.format("one, pyinit-two")
    assert members[0].stop() == 0
    assert lab.refused(text, "web") == "pyinit: services.toml:4: " + said.format("two")
    assert talks_tcp(lab.outside, (HERE4, 8080), two, (four, 80)) == THERE4
    assert talks_tcp(lab.host, (LOOP6, 8080), two, (six, 80)) == "fd92::1"
    forwarder = os.pidfd_open(lab.forwarder())  # the host's init reaps it, when it likes
    assert members[1].stop() == 0
    assert select.select([forwarder], [], [], 0)[0]
    os.close(forwarder)
    wait_until(lambda: "ve-pyinit-web" not in lab.left()[1] and "8080" not in lab.left()[0], "the end of the pod's network")
    assert lab.hosts("app")[-1] == "# neighbours on pyinit-t1, as they come and go"
    assert not pathlib.Path("/run/pyinit/pyinit-web").exists()
    assert lab.start(text).stop() == 0


def test_names_of_the_neighbours_come_and_go(lab):
    first = lab.start(BOTH + 'hosts = { "db.internal" = "10.92.0.200" }', "first")
    own = [f"{address}\tpyinit-first" for address in lab.addresses("first")]
    head = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost", *own, "10.92.0.200\tdb.internal", "# neighbours on pyinit-t1, as they come and go"]
    assert lab.hosts("first") == head
    second = lab.start(BOTH, "second", more='[container.sysctl]\n"net.ipv4.conf.host0.rp_filter" = 2\n')
    rows = [f"{address}\tpyinit-second" for address in lab.addresses("second")]
    assert lab.hosts("first") == head + rows
    assert lab.hosts("second")[-2:] == own
    other = lab.start(BOTH.replace("pyinit-t1", "pyinit-t2").replace("92", "93"), "other")
    assert lab.hosts("first") == head + rows
    assert lab.hosts("other")[-1] == "# neighbours on pyinit-t2, as they come and go"
    assert second.stop() == 0
    assert lab.hosts("first") == head
    assert first.stop() == other.stop() == 0
    assert not pathlib.Path("/run/pyinit/.net").exists()


def test_a_neighbour_is_reached_by_its_name_and_nobody_inside_can_change_that(lab):
    lab.start(BOTH)
    box = lab.launch(lab.text(BOTH, "app", "echo 127.0.0.1 pyinit-web > /etc/hosts; umount /etc/hosts; echo up; until nc -w 5 pyinit-web 80 < /dev/null; do sleep 0.1; done; echo reached; exec sleep 1000"), "app")
    box.wait_for("app: up")
    with lab.inside().listen("0.0.0.0", 80) as listener:
        far, peer = listener.accept()
        far.close()
    assert peer[0] == lab.addresses("app")[0]
    box.wait_for("app: reached")
    assert "/etc/hosts: Read-only file system" in box.output


def test_a_policy_lets_out_what_it_lists_and_nothing_else(lab):
    """To others, to the host and to a neighbour; both families; what others begin goes on."""
    allow = (
        f'outbound = [{{ to = "{THERE4}", ports = [5000, "5002-5003"] }}, {{ to = "{THERE6}/128", ports = [5000], protocol = "udp" }}, '
        '{ ports = [6000] }]\npublish = ["8080:80", "8081:81/udp"]\n'
    )
    lab.start(BOTH, "app")
    lab.start(BOTH + allow + f'dns = ["{THERE4}", "{THERE6}"]')
    web, (four, six), app, (app4, app6) = lab.inside(), lab.addresses(), lab.inside("app"), lab.addresses("app")
    for port in (5000, 5002, 5003, 53):
        assert talks_tcp(web, (THERE4, port), lab.outside, (THERE4, port)) == HERE4
    assert talks_udp(web, (THERE6, 5000), lab.outside, (THERE6, 5000)) == HERE6
    assert talks_udp(web, (THERE6, 53), lab.outside, (THERE6, 53)) == HERE6
    assert talks_tcp(web, (app6, 6000), app, (app6, 6000)) == six
    assert talks_tcp(web, ("10.92.0.1", 6000), lab.host, ("10.92.0.1", 6000)) == four
    refused = [
        (lab.outside, THERE4, 5001), (lab.outside, THERE6, 5000), (lab.host, HERE4, 5000), (lab.host, "10.92.0.1", 5000), (lab.host, "fd92::1", 22),
        (app, app4, 5000), (app, app6, 5000),
    ]  # fmt: skip
    for place, address, port in refused:
        with place.listen(address, port):
            assert refusal(web, address, port) == "ConnectionRefusedError", (address, port)
    for place, address in ((lab.outside, THERE4), (app, app4), (app, app6), (lab.host, "10.92.0.1")):
        with place.receive(address, 5001) as far, web.open(address, socket.SOCK_DGRAM) as near:
            near.sendto(b"x", (address, 5001))
            assert not netlab.wait_for_datagram(far, 0.2)
    assert talks_tcp(lab.outside, (HERE4, 8080), web, (four, 80)) == THERE4
    assert talks_udp(lab.outside, (HERE6, 8081), web, (six, 81)) == THERE6
    assert talks_tcp(app, (four, 80), web, (four, 80)) == app4
    assert talks_udp(app, (six, 81), web, (six, 81)) == app6
    assert talks_tcp(lab.host, (LOOP, 8080), web, (four, 80)) == "10.92.0.1"


def test_an_empty_policy_lets_nothing_out_and_no_root_inside_can_lift_it(lab):
    """With all capabilities over its own network, it takes other addresses, and its neighbour's."""
    lab.start(BOTH, "app")
    lab.start(BOTH + "outbound = []")
    web, (four, _), app, (app4, app6) = lab.inside(), lab.addresses(), lab.inside("app"), lab.addresses("app")
    with lab.outside.listen(THERE4, 5000), app.listen(app6, 5000), app.listen(app4, 5000):
        assert refusal(web, THERE4, 5000) == refusal(web, app6, 5000) == "ConnectionRefusedError"
        assert web.run("sh", "-c", "nft flush ruleset; ip addr add 10.92.0.77/24 dev host0; ip addr add fd92::77/64 dev host0 nodad; ip addr del " + four + "/24 dev host0").returncode == 0
        web.run("ip", "route", "add", "default", "via", "10.92.0.1")
        web.run("ip", "-6", "addr", "flush", "dev", "host0", "scope", "global")
        web.run("ip", "addr", "add", "fd92::78/64", "dev", "host0", "nodad")
        for address in (app4, THERE4, app6):
            assert refusal(web, address, 5000, 1.0) in ("TimeoutError", "OSError"), address  # the latter: nobody answers whom it asks who that is
    assert app.run("ping", "-c", "1", "-W", "1", "10.92.0.77").returncode != 0


def test_what_a_policy_refuses_is_in_the_kernels_log_where_that_is_asked_for(lab):
    """As a rule: what another namespace than the machine's logs is not written, by default."""
    lab.start(BOTH + "outbound = []\noutbound_log = true")
    chain = lab.host.run("nft", "list", "chain", "inet", "pyinit", "out-pyinit-web").stdout
    assert 'log prefix "pyinit pyinit-web refused: "' in chain


MACVLAN = 'mode = "macvlan"\nparent = "up0"\naddress = ["198.51.100.7/24", "2001:db8::7/64"]\ngateway = "198.51.100.2"\nmtu = 1400\nmac = "02:00:00:00:00:77"\n'


def test_a_macvlan_is_on_the_hosts_own_net(lab):
    box = lab.launch(lab.text(MACVLAN + 'submode = "private"\nroutes = [{ to = "203.0.113.0/24", via = "198.51.100.2" }]', command="echo up; ip -o link show host0; ip route; sleep 1000"))
    box.wait_for("203.0.113")
    web = lab.inside()
    assert talks_tcp(lab.outside, ("198.51.100.7", 80), web, ("198.51.100.7", 80)) == THERE4
    assert talks_tcp(web, (THERE6, 80), lab.outside, (THERE6, 80)) == "2001:db8::7"
    assert "mtu 1400" in box.output and "02:00:00:00:00:77" in box.output
    assert "macvlan mode private" in web.run("ip", "-d", "-o", "link", "show", "host0").stdout
    assert "default via 198.51.100.2 dev host0" in box.output
    assert box.stop() == 0
    assert lab.refused(MACVLAN.replace("up0", "up7")) == (
        "pyinit: services.toml:7: make macvlan (bridge) on up7, host0 with 198.51.100.7/24 and 2001:db8::7/64 inside, default route by "
        "198.51.100.2: there is no link up7 on this host; name one that `ip link` shows\n"
    )
    theirs = MACVLAN.replace("gateway", "# ")
    for own, taken in (("198.51.100.7", THERE4), ("2001:db8::7", THERE6)):
        four, six = theirs.replace(own, taken).split('["')[1].split('"]')[0].split('", "')
        assert lab.refused(theirs.replace(own, taken)) == (
            f"pyinit: services.toml:7: make macvlan (bridge) on up0, host0 with {four} and {six} inside: "
            f"{taken} is in use: {netlab.mac('up0', netlab.OUTSIDE)} answers for it on host0; choose another\n"
        )
    pool = 'mode = "macvlan"\nparent = "up0"\npool = "198.51.100.0/30"\n'  # its other one is the host's
    assert lab.refused(pool).partition(" inside: ")[2] == (
        f"{THERE4} is in use: {netlab.mac('up0', netlab.OUTSIDE)} answers for it on host0; write one that nobody has as address, or another pool\n"
    )


def test_a_bridge_of_somebody_else_is_used_and_left_as_it_is(lab):
    netlab.ip("link", "add", "br7", "type", "bridge", at=netlab.HOST)
    netlab.ip("addr", "add", "10.97.0.1/24", "dev", "br7", at=netlab.HOST)
    netlab.ip("link", "set", "br7", "up", at=netlab.HOST)
    netlab.ip("link", "add", "port7", "type", "veth", "peer", "name", "far7", "netns", netlab.OUTSIDE, at=netlab.HOST)
    netlab.ip("link", "set", "port7", "master", "br7", "up", at=netlab.HOST)
    netlab.ip("addr", "add", "10.97.0.9/24", "dev", "far7", at=netlab.OUTSIDE)
    netlab.ip("addr", "add", "fd97::9/64", "dev", "far7", "nodad", at=netlab.OUTSIDE)
    netlab.ip("link", "set", "far7", "up", at=netlab.OUTSIDE)
    try:
        before = netlab.ip("-4", "addr", "show", "br7", at=netlab.HOST)
        theirs = 'mode = "veth"\nbridge = "br7"\naddress = "10.97.0.{}/24"\ngateway = "10.97.0.1"\n'
        box = lab.start(theirs.format(2) + 'publish = ["8080:80"]')
        assert talks_tcp(lab.outside, (HERE4, 8080), lab.inside(), ("0.0.0.0", 80)) == THERE4
        assert lab.setting("net/ipv4/conf/br7/route_localnet") == "0"
        for own, taken in (('"10.97.0.9/24"', "10.97.0.9"), ('["10.97.0.3/24", "fd97::9/64"]', "fd97::9")):
            assert lab.refused(theirs.replace('"10.97.0.{}/24"', own)) == (
                f"pyinit: services.toml:7: make veth ve-pyinit-other on bridge br7, host0 with {' and '.join(own.strip('[]').replace(chr(34), '').split(', '))} inside, "
                f"default route by 10.97.0.1: {taken} is in use: {netlab.mac('far7', netlab.OUTSIDE)} answers for it on br7; choose another\n"
            )
        gateway = theirs.format(4).replace("10.97.0.1", "10.97.0.254")
        router = lab.start(gateway, "router")
        said = "pyinit: services.toml:7: container.network.{}: 10.97.0.{} is the {} of container pyinit-{}; choose another\n"
        assert lab.refused(theirs.format(254)) == said.format("address", 254, "gateway", "router")
        assert lab.refused(theirs.format(5).replace("10.97.0.1", "10.97.0.2")) == said.format("gateway", 2, "address", "web")
        assert router.stop() == 0
        assert lab.refused(theirs.format(3) + 'publish = ["127.0.0.1:9090:80"]').partition("10.97.0.1: ")[2] == (
            "br7 is not of pyinit's making, so its settings are left alone, and 127.0.0.1 needs one; "
            "`sysctl -w net.ipv4.conf.br7.route_localnet=1`, or leave the address out\n"
        )
        assert lab.refused(theirs.format(3).replace("br7", "port7")).partition("10.97.0.1: ")[2] == "port7 is a link of this host, and no bridge; name another\n"
        assert box.stop() == 0
        assert netlab.ip("-4", "addr", "show", "br7", at=netlab.HOST) == before
    finally:
        netlab.ip("link", "del", "port7", at=netlab.HOST)
        netlab.ip("link", "del", "br7", at=netlab.HOST)


def test_nobody_on_a_bridge_of_ours_makes_himself_its_router(lab):
    """Neither the host's nor a neighbour's. What is said is believed where that is asked for, so it is well said."""
    lab.write_setting(V6, "0")
    lab.start(BOTH + "nat = false")
    lab.start(BOTH + "nat = false", "app")
    web, app = lab.inside(), lab.inside("app")

    def learned(place, link: str) -> list[str]:
        return [line for line in place.run("ip", "-6", "route", "show", "dev", link).stdout.splitlines() if "proto ra" in line or "fd66" in line]

    netlab.advertise(web, "host0")
    netlab.advertise(app, "host0")
    lab.write_setting("net/ipv6/conf/pyinit-t1/accept_ra", "1")
    assert app.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/host0/accept_ra").returncode == 0
    assert learned(lab.host, "pyinit-t1") == learned(app, "host0") == learned(web, "host0") == []
    netlab.advertise(web, "host0")
    for place, link in ((lab.host, "pyinit-t1"), (app, "host0")):
        wait_until(lambda place=place, link=link: any("default" in line for line in learned(place, link)), f"a router of {link}")
    assert learned(web, "host0") == []


def test_name_servers_of_the_hosts_own_loopback_are_left_out(lab, tmp_path):
    """In a view of the host of this test's own."""
    script = f'for f in /etc/resolv.conf /run/systemd/resolve/resolv.conf; do [ ! -e $f ] || mount --bind {tmp_path}/resolv.conf $f || exit; done; exec {sys.executable} -m pyinit "$@"'
    command = ("nsenter", f"--net=/run/netns/{netlab.HOST}", "unshare", "-m", "sh", "-c", script, "sh")
    own = "nameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%up0\noptions ndots:2\n"
    lack = "it has no name server: the host's are its own loopback's, or none; write dns = [...]"
    for name, more, said in (("web", "nameserver 192.0.2.53\nsearch example.org\nnameserver 2001:db8::53\n", []), ("app", "", [lack])):
        (tmp_path / "resolv.conf").write_text(own + more)
        box = lab.bench.start(lab.text(BOTH, name), name=f"{name}/services.toml", command=command)
        box.wait_for("app: up")
        pid = pathlib.Path(f"/run/pyinit/pyinit-{name}/pid").read_text().strip()
        found = pathlib.Path(f"/proc/{pid}/root/etc/resolv.conf").read_text()
        assert sorted(found.splitlines()) == sorted(["options ndots:2", *more.splitlines()])
        assert [line.partition(": container.network: ")[2] for line in box.output.splitlines() if "name server" in line] == said


def test_what_another_has_is_told_and_nothing_is_left_of_the_try(lab):
    small = BOTH.replace('["10.92.0.0/24", "fd92::/64"]', '"10.92.0.0/30"')
    lab.start(small + 'publish = ["8080:80"]')
    there = lab.left()
    assert lab.refused(small) == (
        "pyinit: services.toml:7: container.network.pool: no address of 10.92.0.0/30 is free, 1 container has one; stop one, or make it wider\n"
    )
    other = 'mode = "veth"\nbridge = "pyinit-t1"\naddress = "10.92.0.{}/24"\n'
    assert lab.refused(other.format(2)) == "pyinit: services.toml:7: container.network.address: 10.92.0.2 is taken by container pyinit-web; choose another\n"
    assert lab.refused(other.format(1)) == "pyinit: services.toml:7: container.network.address: 10.92.0.1 is this host's own; choose another\n"
    assert lab.refused(other.format(5) + f'publish = ["9000:90", "{HERE4}:8080:81"]') == (
        "pyinit: services.toml:11: container.network.publish: port 8080/tcp of this host is container pyinit-web's; publish another\n"
    )
    with lab.host.listen(HERE4, 8085):
        assert lab.refused(other.format(5) + 'publish = ["8080-8090:80-90/udp", "8085:80"]') == (
            "pyinit: services.toml:11: container.network.publish: 0.0.0.0:8085/tcp is in use by another program; stop that, or publish another port\n"
        )
    assert lab.refused(other.format(5) + f'publish = ["{THERE4}:8086:80"]') == (
        f"pyinit: services.toml:11: container.network.publish: {THERE4}:8086/tcp is no address of this host; name one that it has\n"
    )
    with pytest.raises(OSError, match="in use"):
        lab.host.listen("0.0.0.0", 8080)
    assert lab.left() == there


def test_a_host_that_has_ipv6_turned_off_is_told(lab):
    off = "net/ipv6/conf/default/disable_ipv6"
    lab.write_setting(off, "1")
    try:
        assert lab.refused(BOTH) == (
            "pyinit: services.toml:7: make veth ve-pyinit-other on bridge pyinit-t1, host0 with an address of 10.92.0.0/24 and one of fd92::/64 inside, "
            "default route by 10.92.0.1 and fd92::1: ipv6: IPv6 is disabled on this device; "
            "`sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0`, or leave IPv6 out of the addresses\n"
        )
        lab.start(BOTH.replace(', "fd92::/64"', "") + 'publish = ["8080:80"]')
    finally:
        lab.write_setting(off, "0")


def test_a_host_that_passes_nothing_on_is_told_and_only_changed_if_that_is_asked_for(lab):
    for name in (V4, V6):
        lab.write_setting(name, "0")
    what = "pyinit: services.toml:7: add to nft's table pyinit: NAT: {} is 0, so this host passes nothing on between the container and others; "
    how = "`sysctl -w {}=1`, or write forwarding = true in [container.network] to have that done; or nat = false, if it needs nobody outside\n"
    four, six = (name.replace("/", ".") for name in (V4, V6))
    assert lab.refused(BOTH) == (what + how).format(four, four)
    lab.write_setting(V4, "1")
    assert lab.refused(BOTH) == (what + how).format(six, six)
    assert (lab.setting(V4), lab.setting(V6)) == ("1", "0")
    lab.write_setting(V4, "0")
    box = lab.start(BOTH + 'nat = false\npublish = ["127.0.0.1:8080:80"]')
    assert talks_tcp(lab.host, (LOOP, 8080), lab.inside(), ("0.0.0.0", 80)) == "10.92.0.1"
    assert (box.stop(), lab.setting(V4), lab.setting(V6)) == (0, "0", "0")
    box = lab.start(BOTH + "forwarding = true")
    assert (box.stop(), lab.setting(V4), lab.setting(V6)) == (0, "1", "1")


def test_a_host_without_nft(lab, tmp_path):
    """Where pyinit looks for it there is none, in a view of the host of this test's own."""
    text = lab.text(BOTH)
    script = f"mount --bind /dev/null {os.path.realpath('/usr/sbin/nft')}; exec {sys.executable} -m pyinit \"$@\""
    box = lab.bench.start(text, command=("nsenter", f"--net=/run/netns/{netlab.HOST}", "unshare", "-m", "sh", "-c", script, "sh"))
    assert box.wait() == 111
    assert box.output.endswith("services.toml:7: add to nft's table pyinit: NAT: there is no program nft on this host; install it (Debian: nftables)\n")


def test_kill_9_of_the_monitor_then_nothing_is_left_after_the_next_start(lab):
    """Of the same container, or of another one that wants its port."""
    text = BOTH + 'publish = ["8080:80", "127.0.0.1:8081:81/udp"]\noutbound = []\n'
    first = lab.start(text)
    held = lab.addresses()
    first.process.send_signal(signal.SIGKILL)
    first.wait()
    again = lab.start(text)
    assert lab.addresses() == held
    assert talks_tcp(lab.outside, (HERE4, 8080), lab.inside(), ("0.0.0.0", 80)) == THERE4
    monitor, pid = again.process, int(pathlib.Path("/run/pyinit/pyinit-web/pid").read_text())
    monitor.send_signal(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    again.wait()
    other = lab.start(text, "other")
    assert talks_tcp(lab.outside, (HERE4, 8080), lab.inside("other"), ("0.0.0.0", 80)) == THERE4
    assert "out-pyinit-web" not in lab.left()[0]
    box = lab.start(BOTH)
    assert talks_tcp(lab.outside, (HERE4, 8080), lab.inside("other"), ("0.0.0.0", 80)) == THERE4
    assert other.stop() == box.stop() == 0


def test_50_starts_at_once_have_50_addresses_and_leave_nothing(lab):
    pool = 'mode = "veth"\nbridge = "pyinit-t1"\npool = ["10.92.0.0/26", "fd92::/122"]\n'
    names = [f"many-{number}" for number in range(50)]
    boxes = [
        lab.launch(lab.text(f'{pool}publish = ["{8000 + number}:80"]\noutbound = []' if number % 2 else pool, name), name) for number, name in enumerate(names)
    ]
    for box in boxes:
        box.wait_for("app: up", timeout_s=120.0)
    given = [address for name in names for address in lab.addresses(name)]
    assert len(set(given)) == len(given) == 100
    assert all(len(lab.hosts(name)) == 5 + 98 for name in names)
    for number in (1, 49):
        assert talks_tcp(lab.outside, (HERE4, 8000 + number), lab.inside(names[number]), ("0.0.0.0", 80)) == THERE4
    for box in boxes:
        box.process.terminate()
    assert [box.wait(120.0) for box in boxes] == [0] * 50


def test_a_given_network_is_joined_and_left_as_it_is(lab):
    before = netlab.ip("addr", at=netlab.OUTSIDE)
    box = lab.start(f'mode = "netns"\npath = "/run/netns/{netlab.OUTSIDE}"\nhosts = {{ me = "{THERE4}" }}')
    assert os.stat(lab.inside().path).st_ino == os.stat(lab.outside.path).st_ino
    assert talks_tcp(lab.host, (THERE4, 80), lab.inside(), (THERE4, 80)) == HERE4
    assert f"{THERE4}\tme" in lab.hosts()
    assert box.stop() == 0
    assert netlab.ip("addr", at=netlab.OUTSIDE) == before
    assert "/run/netns/no-such" in lab.refused('mode = "netns"\npath = "/run/netns/no-such"')
