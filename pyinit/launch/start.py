"""The first milliseconds of a launch: the config, and PID 1's birth. What comes after is loaded while that one starts.

Owns the order of these. Must not know what a launch is made of (launcher.py). Law: nothing is imported here that PID 1's
birth does not need.
"""

import os
from _collections_abc import Callable

from pyinit.bundle import Bundle
from pyinit.config import cache
from pyinit.errors import LaunchError
from pyinit.launch import clone
from pyinit.linux import caps, process
from pyinit.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pyinit.launch.tracing import Trace
    from pyinit.model import Config, Container

_RTMIN = 34
# Stops, and what services may want to be told; not the faults, nor what job control and a broken pipe are for.
FORWARDED = (1, 2, 3, 10, 12, 15, 28, 30, *(_RTMIN + n for n in range(16)))
NEEDED_CAPABILITIES = ("SYS_ADMIN", "SYS_CHROOT", "MKNOD", "CHOWN", "DAC_OVERRIDE", "SETUID", "SETGID", "SETPCAP", "KILL")


class Birth(NamedTuple):
    """What of a config PID 1's birth needs."""

    is_container: bool
    flags: int
    needs: tuple[str, ...]  # capabilities of the launcher
    is_plain: bool  # nothing but a clone is needed for it


def birth(config: "Config") -> Birth:
    """Of a config."""
    box = config.container
    if box is None:
        return Birth(is_container=False, flags=0, needs=(), is_plain=True)
    return Birth(is_container=True, flags=clone.flags_of(box), needs=birth_needs(box), is_plain=_is_plain(box))


def _is_plain(box: "Container") -> bool:
    return not (box.share or {"user", "time"} & set(box.namespaces) or any(layer.oci for layer in box.layers))


def run(path: str, *, kill: str, code: Bundle, report: Callable[[str], None], trace: "Trace | None" = None) -> "int | Config":
    """Run the container of a config; its exit code, or the config if it has none. ConfigError, LaunchError.

    `trace` is told of each operation of the plan.
    """
    found = cache.find(path, os.environ, kill=kill, code=code.sources) if trace is None else None
    if found is not None:
        is_container, flags, needs, is_plain = found.born
        if is_container and is_plain and not _missing(needs) and caps.are_the_machines():
            process.block_signals(list(FORWARDED))
            try:
                born = clone.start(flags, found.packed, code)
            except OSError:  # said below, with its line
                return _launch(cache.load(path, os.environ, kill=kill, code=code.sources, born=_kept), code, report)
            try:
                code.load("launcher")
                config = cache.take(found.packed)
                if config is not None:
                    return _go_on(config, code, born, report, None)
            finally:
                born.end()
    return _launch(cache.load(path, os.environ, kill=kill, code=code.sources, born=_kept), code, report, trace)


def _kept(config: "Config") -> tuple[object, ...]:
    return tuple(birth(config))


def _launch(config: "Config", code: Bundle, report: Callable[[str], None], trace: "Trace | None" = None) -> "int | Config":
    return config if config.container is None else launch(config, code, report, trace)


def launch(config: "Config", code: Bundle, report: Callable[[str], None], trace: "Trace | None" = None) -> int:
    """Run the container; its exit code. LaunchError; what could not be undone is reported."""
    box = config.container
    assert box is not None
    try:
        config = _apart(config, report, trace)
    except (OSError, ImportError) as error:  # a module of ours, or its folder, that can't be read
        if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("pyinit."):
            raise  # of a Python that is not whole, which its entry has words for
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise LaunchError(f"{box.origin}: container {box.name}: {text}") from error
    process.block_signals(list(FORWARDED))
    born = _born(config, code, trace)
    try:
        code.load("launcher")
        return _go_on(config, code, born, report, trace)
    finally:
        born.end()


def _apart(config: "Config", report: Callable[[str], None], trace: "Trace | None") -> "Config":
    """As this host and this user can have it; LaunchError. What a birth apart needs is loaded, once it is known to be one."""
    box = config.container
    assert box is not None
    if any(layer.oci for layer in box.layers):
        from pyinit.launch import stores  # for those who have an image of a layout

        config = stores.resolved(config)
        box = config.container
        assert box is not None
    if is_rootless(box):
        from pyinit.launch import rootless, tracing  # for ordinary users

        config = rootless.enter(config, trace or tracing.SILENT, report)
    check_privileges(box)
    if not _is_plain(box):
        from pyinit.launch import isolation, users  # noqa: F401 - for those who have a user namespace, or join one

        config = users.resolved(config)
    return config


def _go_on(config: "Config", code: Bundle, born: clone.Born, report: Callable[[str], None], trace: "Trace | None") -> int:
    from pyinit.launch import launcher, tracing

    return launcher.launch(config, code, born, lambda: _born(config, code, trace), report, trace or tracing.SILENT)


def _missing(needs: tuple[str, ...]) -> list[str]:
    return sorted(set(needs) - caps.effective_set(), key=needs.index)


def is_rootless(box: "Container") -> bool:
    """Whether an ordinary user starts it, who lacks what it takes, or whoever is root of no more than a user namespace."""
    return bool(os.geteuid() and _missing(birth_needs(box))) or not caps.are_the_machines()


def birth_needs(box: "Container") -> tuple[str, ...]:
    """Capabilities."""
    return (*NEEDED_CAPABILITIES, "NET_ADMIN") if box.network.mode in ("veth", "macvlan", "slirp4netns") else NEEDED_CAPABILITIES


def check_privileges(box: "Container") -> None:
    """LaunchError."""
    missing = _missing(birth_needs(box))
    if missing:
        raise LaunchError(
            f"{box.origin}: a container needs CAP_{' CAP_'.join(missing)}, which this process lacks: run pyinit as root"
        )


def _born(config: "Config", code: Bundle, trace: "Trace | None") -> clone.Born:
    from pyinit.launch import onhost, plan, tracing  # of the launcher's section, which is loaded next

    assert config.container is not None
    if not _is_plain(config.container):
        from pyinit.launch import isolation  # for those who join one, or have ids or clocks of their own

        return isolation.bear(config, code, trace or tracing.SILENT)
    isolate = next(step for step in plan.make(config).host if isinstance(step, onhost.Isolate))
    born: clone.Born | None = None
    try:
        with tracing.carried_out(isolate, trace or tracing.SILENT):
            born = clone.start(birth(config).flags, cache.pack(config), code)
    except LaunchError:
        if born is not None:
            born.end()
        raise
    return born
