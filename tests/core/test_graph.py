"""Orders and cycles of small sets of services."""

import pytest

from pyinit.core import graph
from pyinit.model import ServiceSpec


def spec(name, **edges):
    return ServiceSpec(name=name, command=("/bin/true",), **edges)


def test_services_without_edges_keep_the_order_of_the_file():
    assert graph.start_order((spec("c"), spec("a"), spec("b"))) == ("c", "a", "b")


def test_every_kind_of_edge_orders():
    services = (
        spec("web", requires=("app",), before=("probe",)),
        spec("probe"),
        spec("app", wants=("cache",), after=("log",)),
        spec("cache"),
        spec("log"),
    )
    assert graph.start_order(services) == ("cache", "log", "app", "web", "probe")
    assert graph.stop_order(services) == ("probe", "web", "app", "log", "cache")


def test_a_name_that_two_edges_share_is_waited_for_once():
    assert graph.waits_for((spec("a", requires=("b",), after=("b",)), spec("b", before=("a",)))) == {
        "a": ("b",),
        "b": (),
    }


def test_unknown_names_are_skipped():
    assert graph.start_order((spec("a", wants=("ghost",), before=("nobody",)),)) == ("a",)


def test_a_cycle_is_named_by_its_path_without_what_leads_to_it():
    services = (
        spec("entry", requires=("a",)),
        spec("a", requires=("b",)),
        spec("b", after=("c",)),
        spec("c"),
        spec("a2", before=("c",)),
    )
    assert graph.find_cycle(services) is None
    services = (*services[:3], spec("c", wants=("a",)))
    with pytest.raises(graph.CycleError) as caught:
        graph.start_order(services)
    assert caught.value.path == ("a", "b", "c", "a")
    assert str(caught.value) == "services wait for each other in a circle: a -> b -> c -> a; remove one of these"


def test_a_cycle_through_before_and_a_service_that_waits_for_itself():
    assert graph.find_cycle((spec("a", before=("b",)), spec("b", before=("a",)))) == ("a", "b", "a")
    assert graph.find_cycle((spec("a", requires=("a",)),)) == ("a", "a")


def test_a_chain_longer_than_the_recursion_limit():
    services = (*(spec(f"s{n}", requires=(f"s{n + 1}",)) for n in range(3000)), spec("s3000"))
    assert graph.start_order(services)[:2] == ("s3000", "s2999")


def test_reachable_goes_all_the_way_and_leaves_the_name_out():
    edges = graph.requirements((spec("a", requires=("b",)), spec("b", requires=("c",)), spec("c"), spec("d")))
    assert graph.reachable(edges, "a") == {"b", "c"}
    assert graph.reachable(graph.reverse(edges), "c") == {"a", "b"}
