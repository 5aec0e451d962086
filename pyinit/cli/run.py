"""`pyinit --config FILE`: the main job, in the role that fits.

Owns the choice of the role: launcher, init of another runtime's container, or plain supervisor. Must not know
how each is done.
"""

import gc
import os
import sys
import time

from pyinit import bundle
from pyinit.errors import EXIT_OK, LaunchError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyinit.launch.operations import Operation
    from pyinit.launch.tracing import Trace
    from pyinit.model import Config

DEFAULT_CONFIG = "/etc/pyinit/services.toml"
_HELP = "usage: pyinit --config FILE [--launch | --no-launch] [--detach [--output FILE]] [--verbose]\n"
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_MOST_CONFIG_BYTES = 1 << 20


def run(words: list[str]) -> int:
    """The exit code of the container or of the services."""
    started_ns = time.monotonic_ns()
    path, role, output, verbose = _parse(words)
    if not path:
        print(_HELP, end="")
        return EXIT_OK
    as_init = os.getpid() == 1
    launches = role == "launch" or (role != "init" and not as_init)
    trace = _trace(started_ns) if verbose else None
    if launches and output is None and os.geteuid() == 0 and _may_launch(path) and os.path.isdir(_PACKAGE):
        gc.disable()  # what is made now stays; the monitor, which goes on for long, has it again
        code = bundle.get(_PACKAGE)
        code.load("start")
        from pyinit.launch import start

        done = start.run(path, kill="cgroup" if as_init else "group", code=code, report=_report, trace=trace)
        if isinstance(done, int):
            return done
        gc.enable()
        config = done  # it is read once: a file of it may be a pipe
    else:
        config = None
    from pyinit.config.load import load

    def read(path: str, instances: tuple[str, ...] = ()) -> "Config":
        return load(
            path, environment, log_to="stdout" if as_init and not launches else "file",
            kill="cgroup" if as_init else "group", on_host=launches, extra=instances,
        )  # fmt: skip

    environment = dict(os.environ)
    config = config or read(path)
    box = config.container if launches else None
    if box is not None:  # to be detached; or not root, and perhaps with all that it takes
        from pyinit.launch import start

        def work(report: "Callable[[str], None]") -> int:
            return start.launch(config, _code(config.path), report, trace)

        if not start.is_rootless(box):
            start.check_privileges(box)
        return work(_report) if output is None else _detached(config, box.name, output, work)
    if role == "launch":
        raise UsageError(f"{path}: --launch needs a [container] table in the config, and there is none")
    from pyinit.cli import roles

    def again(instances: tuple[str, ...]) -> "Config":
        return read(config.path, instances)  # absolute: the folder may be another by then

    if output is not None:
        return _detached(config, roles.supervisor_name(config.path), output, lambda report: roles.as_supervisor(config, report, again))
    return roles.as_init(config, _report, again) if as_init else roles.as_supervisor(config, _report, again)


def _code(path: str) -> bundle.Bundle:
    """What a launch runs of; a program in one file (image/pyz.py) has no folder, of which PID 1 gets its copy."""
    if not os.path.isdir(_PACKAGE):
        raise LaunchError(f"{path}: a [container] is launched by a pyinit that is installed, not by one in one file; or add --no-launch, to run its services")
    return bundle.get(_PACKAGE)


def _detached(config: "Config", name: str, output: str, work: "Callable[[Callable[[str], None]], int]") -> int:
    from pyinit.launch import detach

    code = detach.run(config, name, output, work, _report)
    if code >= 0:
        return code
    print(f"{name}: running as pid {-code}")
    return EXIT_OK


def _parse(words: list[str]) -> tuple[str, str, str | None, bool]:
    """The file, the role, with --detach the absolute path that the output goes to, or "" for nowhere, whether to tell each step.

    No file: help was given.
    """
    path, role = os.environ.get("PYINIT_CONFIG", DEFAULT_CONFIG), ""
    verbose = os.environ.get("PYINIT_VERBOSE", "0") not in ("", "0")
    detach, output = False, ""
    pending = list(words)
    while pending:
        word = pending.pop(0)
        name, mark, value = word.partition("=")
        if name in ("--config", "-c", "--output"):
            if not (value if mark else pending):
                raise UsageError(f"{name} needs a file: `pyinit --config services.toml`")
            value = value if mark else pending.pop(0)
            path, output = (path, os.path.abspath(value)) if name == "--output" else (value, output)
        elif word == "--detach":
            detach = True
        elif word == "--launch":
            role = "launch"
        elif word == "--no-launch":
            role = "init"
        elif word == "--verbose":
            verbose = True
        elif word in ("--help", "-h"):
            return "", "", None, False
        else:
            raise UsageError(f"{word}: there is no such option; `pyinit --help` lists them")
    if detach and os.getpid() == 1:
        raise UsageError("--detach: as PID 1 there is nobody to go back to; take it out")
    if output and not detach:
        raise UsageError("--output belongs to --detach; add that, or take this out")
    return path, role, output if detach else None, verbose


def _may_launch(path: str) -> bool:
    """Whether the file may have a [container] table; one that is included may have it, too."""
    try:
        with open(path, "rb", buffering=0) as file:
            text = file.read(_MOST_CONFIG_BYTES)
    except OSError:
        return False
    return b"container" in text or b"include" in text


def _trace(started_ns: int) -> "Trace":
    from pyinit.launch import tracing

    class Verbose(tracing.Trace):
        def before(self, operation: "Operation") -> None:
            passed_ms = (time.monotonic_ns() - started_ns) / 1e6
            _report(f"+{passed_ms:.1f} ms  {operation.describe()}  [{operation.origin}]")

    return Verbose()


def _report(text: str) -> None:
    if sys.stderr is not None:  # it was closed
        try:
            sys.stderr.write(f"pyinit: {text}\n")  # in one go: several processes of a launch have something to say
        except OSError:  # who reads it may have gone: that is no failure of the launch, or of what runs
            pass
