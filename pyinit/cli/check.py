"""`pyinit check FILE`: every error of a config at once."""

import os

from pyinit.config.load import load
from pyinit.errors import EXIT_OK, UsageError

_HELP = "usage: pyinit check FILE\n\nTell every error of a config, each with file and line; exit code 100 if there is one.\n"


def run(arguments: list[str]) -> int:
    """0, or ConfigError with all that is wrong."""
    if arguments[:1] in (["--help"], ["-h"]):
        print(_HELP, end="")
        return EXIT_OK
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UsageError("expected one file: `pyinit check services.toml`")
    config = load(arguments[0], os.environ)
    count = len(config.services)
    print(f"{arguments[0]}: ok, {count} service{'' if count == 1 else 's'}" + (", a container" if config.container else ""))
    return EXIT_OK
