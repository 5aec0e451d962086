"""Who waits for whom: start order, stop order, cycles.

Owns the edges between services. Must not know states or time.
Laws: pure functions over ServiceSpec; ties keep the config's order, so that an order is the same on every run;
a name that no service bears is skipped here, for the config's check has already told the user where it stands.
"""

from _collections_abc import Iterable, Mapping

from pyinit.errors import PyinitError
from pyinit.model import ServiceSpec

Edges = Mapping[str, tuple[str, ...]]


class CoreError(PyinitError):
    """The core was asked for what can't be: an unknown service, a cycle, an illegal event."""


class CycleError(CoreError):
    """Services wait for each other in a circle; `path` begins and ends with the same name."""

    def __init__(self, path: tuple[str, ...]) -> None:
        super().__init__(f"services wait for each other in a circle: {' -> '.join(path)}; remove one of these")
        self.path = path


def waits_for(services: Iterable[ServiceSpec]) -> dict[str, tuple[str, ...]]:
    """Each name's predecessors by requires, wants, after and the others' before; no doubles."""
    specs = {spec.name: spec for spec in services}
    found: dict[str, list[str]] = {name: [] for name in specs}
    for spec in specs.values():
        found[spec.name] += [name for name in (*spec.requires, *spec.wants, *spec.after) if name in specs]
        for other in spec.before:
            if other in specs:
                found[other].append(spec.name)
    return {name: tuple(dict.fromkeys(before)) for name, before in found.items()}


def requirements(services: Iterable[ServiceSpec]) -> dict[str, tuple[str, ...]]:
    """Each name's hard requirements."""
    specs = {spec.name: spec for spec in services}
    return {name: tuple(r for r in dict.fromkeys(spec.requires) if r in specs) for name, spec in specs.items()}


def reverse(edges: Edges) -> dict[str, tuple[str, ...]]:
    """The same edges seen from the other end."""
    found: dict[str, list[str]] = {name: [] for name in edges}
    for name, others in edges.items():
        for other in others:
            found[other].append(name)
    return {name: tuple(others) for name, others in found.items()}


def reachable(edges: Edges, name: str) -> frozenset[str]:
    """All that is reached from `name`, without itself."""
    seen: set[str] = set()
    todo = list(edges[name])
    while todo:
        other = todo.pop()
        if other not in seen:
            seen.add(other)
            todo += edges[other]
    return frozenset(seen)


def find_cycle(services: Iterable[ServiceSpec]) -> tuple[str, ...] | None:
    """One cycle's path, as `a -> b -> a` reads "a waits for b"; None if there is none."""
    return _visit_all(waits_for(services))[1]


def start_order(services: Iterable[ServiceSpec]) -> tuple[str, ...]:
    """Predecessors first. Raises CycleError."""
    order, cycle = _visit_all(waits_for(services))
    if cycle is not None:
        raise CycleError(cycle)
    return order


def stop_order(services: Iterable[ServiceSpec]) -> tuple[str, ...]:
    """The start order backwards: dependants first. Raises CycleError."""
    return start_order(services)[::-1]


def _visit_all(edges: Edges) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Depth first with a stack of our own: a chain of services may be longer than Python's recursion limit."""
    done: dict[str, None] = {}
    for root in edges:
        path: dict[str, int] = {root: 0}  # name -> the next edge to look at
        while path and root not in done:
            name = next(reversed(path))
            position = path[name]
            if position == len(edges[name]):
                done[name] = None
                del path[name]
                continue
            path[name] += 1
            other = edges[name][position]
            if other in path:
                names = list(path)
                return tuple(done), (*names[names.index(other) :], other)
            if other not in done:
                path[other] = 0
    return tuple(done), None
