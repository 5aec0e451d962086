"""`pyinit check FILE`: every error of a config at once.

Owns what the verb prints: a line an error, `FILE:LINE: ...` first, as editors and CI read it. Must not know what is
checked.
"""

import os
import sys

from pyinit.config.load import load
from pyinit.errors import EXIT_CONFIG, EXIT_OK, ConfigError, UsageError

_HELP = "usage: pyinit check FILE\n\nTell every error of a config, each with file and line; exit code 100 if there is one.\n"


def run(arguments: list[str]) -> int:
    """0, or 100 with all that is wrong on stderr."""
    if arguments[:1] in (["--help"], ["-h"]):
        print(_HELP, end="")
        return EXIT_OK
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UsageError("expected one file: `pyinit check services.toml`")
    try:
        config = load(arguments[0], os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    count = len(config.services)
    print(f"{arguments[0]}: ok, {count} service{'' if count == 1 else 's'}" + (", a container" if config.container else ""))
    return EXIT_OK
