"""What a bridge has to have, and what of one is ours: the kernel's answers are a fake's, its settings are files."""

from typing import Self

import pytest

from pyinit.errors import LaunchError
from pyinit.launch import firewall, network
from pyinit.launch.onhost import MakeNetwork
from pyinit.linux.netlink import Link
from pyinit.model import Network, Origin

NET = Network("veth", "br7", ("10.1.0.2/24",), outbound=())
STEP = MakeNetwork(NET, "web", "ve-web", Origin("services.toml", 9))
HEAD = "services.toml:9: make veth ve-web on bridge br7, host0 with 10.1.0.2/24 inside: "


class FakeKernel:
    """With these links. It answers as it does without br_netfilter: yes to everything."""

    def __init__(self, *links: Link) -> None:
        self._links = list(links)
        self.filtered: list[int] = []
        self.removed: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def links(self) -> list[Link]:
        return self._links

    def remove_link(self, name: str) -> None:
        self.removed.append(name)

    def filter_bridge(self, index: int) -> None:
        self.filtered.append(index)


@pytest.mark.parametrize("alias", ["pyinit", ""])
def test_without_br_netfilter_there_is_no_outbound(tmp_path, monkeypatch, alias):
    monkeypatch.setattr(network, "CALLS", f"{tmp_path}/")
    kernel = FakeKernel()
    links = [Link(3, "br7", alias, "bridge")]
    with pytest.raises(LaunchError) as caught:
        network._bridge(kernel, NET, network._Words(STEP, NET), links)
    assert str(caught.value) == (
        f"{HEAD}this kernel has no br_netfilter, which outbound needs between the containers of a bridge; `modprobe br_netfilter`"
    )
    for name in ("iptables", "ip6tables"):
        (tmp_path / name).write_text("1\n")
    assert network._bridge(kernel, NET, network._Words(STEP, NET), links) == 3
    assert kernel.filtered == ([3] if alias else [])


@pytest.mark.parametrize(("alias", "left"), [("pyinit", "0"), ("", "1\n"), ("office", "1\n")])
def test_the_end_of_a_container_leaves_the_settings_of_a_strangers_bridge(tmp_path, monkeypatch, alias, left):
    monkeypatch.setattr(firewall, "CONF", str(tmp_path))
    monkeypatch.setattr(firewall, "Netlink", lambda: FakeKernel(Link(1, "lo"), Link(3, "br7", alias, "bridge")))
    for name in ("lo", "br7"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "route_localnet").write_text("1\n")
    firewall._unroute_localnet("br7")
    firewall._unroute_localnet("lo")
    assert [(tmp_path / name / "route_localnet").read_text() for name in ("br7", "lo")] == [left, "1\n"]


def test_a_container_removes_its_own_link_and_no_others(monkeypatch):
    kernel = FakeKernel(Link(4, "ve-a", "pyinit web", "veth"), Link(5, "ve-b", "pyinit db", "veth"), Link(6, "ve-c", "", "veth"))
    monkeypatch.setattr(network, "Netlink", lambda: kernel)
    monkeypatch.setattr(network, "namespaces", kernel)
    for line in ("ve-a web", "ve-b web", "ve-c web", "ve-d web"):
        network.remove_link(line)
    assert kernel.removed == ["ve-a"]
