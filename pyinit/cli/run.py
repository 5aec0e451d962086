"""`pyinit --config FILE`: the main job, in the role that fits.

Owns the choice of the role: launcher, init of another runtime's container, or plain supervisor. Must not know
how each is done.
"""

import gc
import os
import sys

from pyinit import bundle
from pyinit.errors import EXIT_OK, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyinit.model import Config

DEFAULT_CONFIG = "/etc/pyinit/services.toml"
_HELP = "usage: pyinit --config FILE [--launch | --no-launch]\n"
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_MOST_CONFIG_BYTES = 1 << 20


def run(words: list[str]) -> int:
    """The exit code of the container or of the services."""
    path, role = _parse(words)
    if not path:
        print(_HELP, end="")
        return EXIT_OK
    as_init = os.getpid() == 1
    launches = role == "launch" or (role != "init" and not as_init)
    if launches and os.geteuid() == 0 and _may_launch(path):
        gc.disable()  # what is made now stays; the monitor, which goes on for long, has it again
        code = bundle.get(_PACKAGE)
        code.load("start")
        from pyinit.launch import start

        done = start.run(path, kill="cgroup" if as_init else "group", code=code, report=_report)
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
    if launches and config.container is not None:  # not root, and perhaps with all that it takes
        from pyinit.launch import start

        start.check_privileges(config.container)
        return start.launch(config, bundle.get(_PACKAGE), _report)
    if role == "launch":
        raise UsageError(f"{path}: --launch needs a [container] table in the config, and there is none")
    from pyinit.cli import roles

    def again(instances: tuple[str, ...]) -> "Config":
        return read(config.path, instances)  # absolute: the folder may be another by then

    return roles.as_init(config, _report, again) if as_init else roles.as_supervisor(config, again)


def _parse(words: list[str]) -> tuple[str, str]:
    path, role = os.environ.get("PYINIT_CONFIG", DEFAULT_CONFIG), ""
    pending = list(words)
    while pending:
        word = pending.pop(0)
        name, mark, value = word.partition("=")
        if name in ("--config", "-c"):
            if not mark and not pending:
                raise UsageError(f"{name} needs a file: `pyinit --config services.toml`")
            path = value if mark else pending.pop(0)
        elif word == "--launch":
            role = "launch"
        elif word == "--no-launch":
            role = "init"
        elif word in ("--help", "-h"):
            return "", ""
        else:
            raise UsageError(f"{word}: there is no such option; `pyinit --help` lists them")
    return path, role


def _may_launch(path: str) -> bool:
    """Whether the file may have a [container] table; one that is included may have it, too."""
    try:
        with open(path, "rb", buffering=0) as file:
            text = file.read(_MOST_CONFIG_BYTES)
    except OSError:
        return False
    return b"container" in text or b"include" in text


def _report(text: str) -> None:
    print(f"pyinit: {text}", file=sys.stderr)
