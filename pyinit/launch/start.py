"""The first milliseconds of a launch: the config, and PID 1's birth. What comes after is loaded while that one starts.

Owns the order of these. Must not know what a launch is made of (launcher.py). Law: nothing is imported here that PID 1's
birth does not need.
"""

import gc
import os
from _collections_abc import Callable

from pyinit.bundle import Bundle
from pyinit.config import cache
from pyinit.errors import LaunchError
from pyinit.launch import clone
from pyinit.linux import caps, process
from pyinit.model import RTMIN, Config, Container

# Stops, and what services may want to be told; not the faults, nor what job control and a broken pipe are for.
FORWARDED = (1, 2, 3, 10, 12, 15, 28, 30, *(RTMIN + n for n in range(16)))
NEEDED_CAPABILITIES = ("SYS_ADMIN", "SYS_CHROOT", "MKNOD", "CHOWN", "DAC_OVERRIDE", "SETUID", "SETGID", "SETPCAP", "KILL")


def read(path: str, *, kill: str, code: Bundle) -> Config:
    """The config for a launcher; ConfigError."""
    gc.disable()  # what is made now stays; the monitor, which goes on for long, has it again
    return cache.load(path, os.environ, kill=kill, code=code.key)


def launch(config: Config, code: Bundle, report: Callable[[str], None]) -> int:
    """Run the container; its exit code. LaunchError; what could not be undone is reported."""
    box = config.container
    assert box is not None
    check_privileges(box)
    process.block_signals(list(FORWARDED))
    packed = cache.pack(config)
    born = _born(config, packed, code)
    try:
        code.load("launcher")
        from pyinit.launch import launcher

        return launcher.launch(config, born, lambda: _born(config, packed, code), report)
    except BaseException:
        born.end()
        raise


def check_privileges(box: Container) -> None:
    """LaunchError."""
    needed = (*NEEDED_CAPABILITIES, "NET_ADMIN") if box.network.mode == "veth" else NEEDED_CAPABILITIES
    missing = [name for name in needed if not caps.has(name)]
    if missing:
        raise LaunchError(
            f"{box.origin}: a container needs CAP_{' CAP_'.join(missing)}, which this process lacks: run pyinit as root"
        )


def _born(config: Config, packed: bytes, code: Bundle) -> clone.Born:
    box = config.container
    assert box is not None
    try:
        return clone.start(clone.flags_of(box), packed, code)
    except OSError as error:
        from pyinit.launch import plan
        from pyinit.launch.explain import explain

        isolate = next(step for step in plan.make(config).host if isinstance(step, plan.Isolate))
        raise LaunchError(explain(isolate, error)) from error
