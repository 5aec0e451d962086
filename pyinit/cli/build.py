"""`pyinit build FILE`: the images of a build file, made where they are missing or out of date; `--pyz`: pyinit itself in one file.

Owns what the user sees of a build. Must not know how an image is made.
"""

import os
import signal
import sys
import time
from types import FrameType

from pyinit.errors import EXIT_OK, UsageError
from pyinit.image import pyz
from pyinit.image.build import build
from pyinit.image.load import epoch, load

_HELP = """\
usage: pyinit build [--force] FILE
       pyinit build --pyz PROGRAM

Makes the squashfs images that FILE (build.toml) describes: base systems of Debian packages with a skeleton over
them, and folders. What has not changed since it was built is left alone; the same inputs make the same bytes.
Steps go to stderr; stdout gets a line `SHA256  PATH` for each image.

  --force   make all images anew, with the packages that the mirror has now
  --pyz     make PROGRAM (pyinit.pyz): all of pyinit in one file, the entry point of an image that has Python and no more;
            `init = "/usr/bin/pyinit"` in an [[image]] adds the same to that image
"""


def run(words: list[str]) -> int:
    """0 when every image is as the file wants it."""
    if "--help" in words or "-h" in words:
        print(_HELP, end="")
        return EXIT_OK
    if words[:1] == ["--pyz"]:
        return _program(words[1:])
    force = "--force" in words
    paths = [word for word in words if word != "--force"]
    if len(paths) != 1 or paths[0].startswith("-"):
        raise UsageError(f"build: expected one FILE and perhaps --force, found {' '.join(words) or 'nothing'}")
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    for image in build(load(paths[0], os.environ), force=force, report=_Steps().show):
        print(f"{image.sha256}  {image.path}")
    return EXIT_OK


def _program(words: list[str]) -> int:
    if len(words) != 1 or words[0].startswith("-"):
        raise UsageError(f"build --pyz: expected one PROGRAM to be made, found {' '.join(words) or 'nothing'}")
    print(f"{pyz.write(words[0], epoch(os.environ))}  {words[0]}")
    return EXIT_OK


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """As Ctrl-C: what is half done is removed on the way out."""
    raise KeyboardInterrupt


class _Steps:
    """A line a step, with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def show(self, image: str, step: str) -> None:
        print(f"[{time.monotonic() - self.start:5.1f} s] {image}: {step}", file=sys.stderr, flush=True)
