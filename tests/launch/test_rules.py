"""What a container has in nft's table, and the transactions that put it in and take it out: texts, without nft."""

from pyinit.launch import rules
from pyinit.launch.rules import Element
from pyinit.model import Network, Outbound, Publish

NET = Network("veth", "br0", ("10.1.0.2/24", "fd01::2/64"), ("10.1.0.1", "fd01::1"))
OWN = ("10.1.0.2", "fd01::2")
BRIDGE = Element("inet", "bridges", '"br0"')


def elements(**changes) -> list[str]:
    return [" ".join(one).rstrip() for one in rules.elements(NET._replace(**changes), "web", "ve-web", OWN)]


def test_a_container_without_nat_ports_and_policy_has_no_rules():
    assert not rules.are_wanted(NET)
    assert all(rules.are_wanted(NET._replace(**one)) for one in ({"nat": True}, {"outbound": ()}, {"publish": (Publish("", 80, 80, "tcp"),)}))


def test_nat_is_of_each_address():
    assert elements(nat=True) == [
        'inet bridges "br0"', 'inet same "br0" . "br0"', "inet closed4 10.1.0.2", "inet nat4 10.1.0.2", "inet closed6 fd01::2", "inet nat6 fd01::2",
    ]  # fmt: skip


def test_a_port_is_published_by_family_and_address():
    assert elements(publish=(Publish("", 8080, 80, "tcp", 2),)) == [
        'inet bridges "br0"', 'inet same "br0" . "br0"', 'inet localnet "br0"', "inet closed4 10.1.0.2", "inet self4 10.1.0.2 . 10.1.0.2",
        "inet closed6 fd01::2", "inet self6 fd01::2 . fd01::2",
        "inet any4 tcp . 8080 10.1.0.2 . 80", "inet any4 tcp . 8081 10.1.0.2 . 81",
        "inet any6 tcp . 8080 fd01::2 . 80", "inet any6 tcp . 8081 fd01::2 . 81",
    ]  # fmt: skip
    assert elements(publish=(Publish("192.0.2.1", 53, 5353, "udp"), Publish("2001:db8::1", 53, 53, "udp"), Publish("::1", 54, 53, "udp")), gateways=("10.1.0.1",)) == [
        'inet bridges "br0"', 'inet same "br0" . "br0"', "inet closed4 10.1.0.2", "inet self4 10.1.0.2 . 10.1.0.2",
        "inet closed6 fd01::2", "inet self6 fd01::2 . fd01::2", "inet stray6 fd01::2",
        "inet at4 192.0.2.1 . udp . 53 10.1.0.2 . 5353", "inet at6 2001:db8::1 . udp . 53 fd01::2 . 53", "inet at6 ::1 . udp . 54 fd01::2 . 53",
    ]  # fmt: skip


def test_what_is_published_is_read_back_from_the_elements():
    publish = (Publish("", 8080, 80, "tcp", 2), Publish("2001:DB8:0::1", 53, 5353, "udp"))
    assert rules.published(rules.elements(NET._replace(publish=publish, nat=True), "web", "ve-web", ("10.1.0.2", "FD01:0::2"))) == {
        ("4", "tcp", 8080): [("", "10.1.0.2", 80)], ("4", "tcp", 8081): [("", "10.1.0.2", 81)],
        ("6", "tcp", 8080): [("", "fd01::2", 80)], ("6", "tcp", 8081): [("", "fd01::2", 81)], ("6", "udp", 53): [("2001:db8::1", "fd01::2", 5353)],
    }  # fmt: skip


def test_a_policy_is_a_chain_and_a_port_that_is_held_to_its_addresses():
    assert elements(outbound=()) == [
        'inet bridges "br0"', 'inet same "br0" . "br0"', "inet chain out-web", 'bridge policed "ve-web"', "inet policed4 10.1.0.2 goto out-web",
        'bridge own4 "ve-web" . 10.1.0.2', "inet policed6 fd01::2 goto out-web", 'bridge own6 "ve-web" . fd01::2',
    ]  # fmt: skip
    out = (
        Outbound("10.0.0.0/8", ((5432, 5432), (6000, 6010)), "tcp"), Outbound("fd00::/8"), Outbound("", (), "icmp"), Outbound("0.0.0.0/0", ((53, 53),), "udp"),
    )  # fmt: skip
    assert rules.policy(NET._replace(outbound=out, outbound_log=True), "web", ("192.0.2.53", "fd00::53")) == [
        "ct state established,related accept",
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept",
        "ip daddr 192.0.2.53 meta l4proto { tcp, udp } th dport 53 accept",
        "ip6 daddr fd00::53 meta l4proto { tcp, udp } th dport 53 accept",
        "ip daddr 10.0.0.0/8 meta l4proto tcp th dport { 5432, 6000-6010 } accept",
        "ip6 daddr fd00::/8 accept",
        "meta l4proto { icmp, ipv6-icmp } accept",
        "meta nfproto ipv4 meta l4proto udp th dport { 53 } accept",
        'limit rate 10/second log prefix "pyinit web refused: "',
        "meta l4proto tcp reject with tcp reset",
        "reject with icmpx type admin-prohibited",
    ]


def rows(chain: str) -> list[str]:
    head = f"add rule inet pyinit {chain} "
    return [line.removeprefix(head) for line in rules._TABLE.splitlines() if line.startswith(head)]


def test_a_loopback_address_is_of_no_packet_that_comes_by_a_link():
    """On any link: a frame to 127.0.0.1 would be sent on to a container before the kernel sees that it is none of ours."""
    assert rows("guard") == ['iifname != "lo" ip saddr 127.0.0.0/8 drop', 'iifname != "lo" ip daddr 127.0.0.0/8 drop']


def test_who_has_nat_or_ports_is_reached_from_elsewhere_at_its_ports_alone():
    """Before a policy has its say, which accepts what its own container opens."""
    assert rows("closed") == ["ct state established,related return", "ct status dnat return", "iifname . oifname @same return", "drop"]
    assert rows("forward") == [
        "ip daddr @closed4 jump closed", "ip6 daddr @closed6 jump closed", "ip saddr vmap @policed4", "ip6 saddr vmap @policed6",
    ]  # fmt: skip


def test_a_port_with_a_policy_sends_from_its_own_addresses_and_from_others_what_ipv6_needs():
    """No echo and no router advertisement: what has no address of the container's leads to no chain of its own."""
    head = "add rule bridge pyinit port "
    assert [line.removeprefix(head) for line in rules._TABLE_OF_PORTS.splitlines() if line.startswith(head)] == [
        "ether type arp iifname . arp saddr ip @own4 accept",
        "ether type ip iifname . ip saddr @own4 accept",
        "ether type ip6 iifname . ip6 saddr @own6 accept",
        "ether type ip6 meta l4proto ipv6-icmp ip6 saddr { ::, fe80::/10 } icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, "
        "nd-router-solicit, mld-listener-report, mld-listener-done, mld2-listener-report } accept",
        "drop",
    ]


def changes(text: str) -> list[str]:
    """The lines that are not of every transaction."""
    return [line for line in text.splitlines() if line not in (rules._TABLE + rules._TABLE_OF_PORTS).splitlines()]


def test_what_is_taken_out_may_be_missing_and_what_another_has_by_now_stays():
    mine = [BRIDGE, Element("inet", "chain", "out-web"), Element("inet", "policed4", "10.1.0.2", "goto out-web"), Element("inet", "any4", "tcp . 80", "10.1.0.2 . 80")]
    kept = [BRIDGE, Element("inet", "any4", "tcp . 80", "10.1.0.9 . 80")]
    assert changes(rules.unmake(mine, kept)) == [
        "add chain inet pyinit out-web",
        "add element inet pyinit policed4 { 10.1.0.2 : goto out-web }",
        "delete element inet pyinit policed4 { 10.1.0.2 }",
        "flush chain inet pyinit out-web",
        "delete chain inet pyinit out-web",
    ]


def test_the_last_one_takes_the_table_along_and_the_last_policy_that_of_the_ports():
    mine = [BRIDGE, Element("bridge", "policed", '"ve-web"')]
    tables = ["add table bridge pyinit", "delete table bridge pyinit"]
    assert rules.unmake(mine, []).splitlines() == ["add table inet pyinit", "delete table inet pyinit", *tables]
    assert changes(rules.unmake(mine, [BRIDGE])) == tables[1:]
    assert changes(rules.unmake(mine, [BRIDGE, Element("bridge", "policed", '"ve-b"')])) == [
        'add element bridge pyinit policed { "ve-web" }', 'delete element bridge pyinit policed { "ve-web" }',
    ]  # fmt: skip


def test_what_a_dead_one_left_goes_in_the_transaction_of_the_next():
    dead = [BRIDGE, Element("inet", "nat4", "10.1.0.2"), Element("inet", "nat4", "10.1.0.3")]
    mine = [BRIDGE, Element("inet", "nat4", "10.1.0.2")]
    assert changes(rules.make(mine, [], [dead], [])) == [
        'add element inet pyinit bridges { "br0" }', 'delete element inet pyinit bridges { "br0" }',
        "add element inet pyinit nat4 { 10.1.0.2 }", "delete element inet pyinit nat4 { 10.1.0.2 }",
        "add element inet pyinit nat4 { 10.1.0.3 }", "delete element inet pyinit nat4 { 10.1.0.3 }",
        'add element inet pyinit bridges { "br0" }', "add element inet pyinit nat4 { 10.1.0.2 }",
    ]  # fmt: skip


def test_the_journal_gives_back_what_it_was_given():
    mine = rules.elements(NET._replace(nat=True, outbound=(), publish=(Publish("::1", 80, 80, "tcp"), Publish("", 80, 80, "udp"))), "web", "ve-web", OWN)
    line = rules.written("web", mine)
    assert "\n" not in line
    assert rules.read(line) == ("web", mine)
