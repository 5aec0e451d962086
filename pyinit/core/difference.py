"""What a new config changes, service by service.

Owns the comparison: what asks for a new process, and what does not. Must not know states.
"""

from _collections_abc import Mapping

from pyinit.model import ServiceSpec, without_places
from pyinit.records import NamedTuple


class Difference(NamedTuple):
    """What a reload does, by names; `changed` ones go on running, their new keys count from now on."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


def compare(old: Mapping[str, ServiceSpec], new: tuple[ServiceSpec, ...]) -> Difference:
    """What makes `new` of `old`; that something stands on another line is no difference."""
    left = dict(old)
    added, restarted, changed = [], [], []
    for spec in new:
        before = left.pop(spec.name, None)
        if before is None:
            added.append(spec.name)
        elif _of_a_process(before) != _of_a_process(spec):
            restarted.append(spec.name)
        elif without_places(before) != without_places(spec):
            changed.append(spec.name)
    return Difference(tuple(added), tuple(left), tuple(restarted), tuple(changed))


def _of_a_process(spec: ServiceSpec) -> tuple[object, ...]:
    """What a process gets at its start, so that a change of it needs a new one; limits of a cgroup change under it."""
    bare: ServiceSpec = without_places(spec)
    return (
        bare.command, bare.kind, bare.user, bare.group, bare.groups, bare.working_directory, bare.environment,
        bare.environment_files, bare.env_dir, bare.environment_clear, bare.umask, bare.process, bare.kill, bare.sockets,
        bare.ready.kind in ("fd", "notify") and bare.ready, bare.fd_store, bare.watchdog_s,
        bare.log.to, bare.log.stderr,
    )  # fmt: skip
