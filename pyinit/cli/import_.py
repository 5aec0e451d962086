"""`pyinit import oci LAYOUT[:TAG]`: an image that others made, as squashfs layers.

Owns what the user sees of an import. Must not know how one is done.
"""

import os
import signal
import sys
from types import FrameType

from pyinit.cli.options import parse
from pyinit.config import layouts
from pyinit.config.decode import SIZES
from pyinit.errors import EXIT_OK, UsageError
from pyinit.image import store
from pyinit.launch.stores import default_folder

_USAGE = """\
usage: pyinit import oci [--output FOLDER] [--max-size SIZE] [--sha256 DIGEST] [--quiet] LAYOUT[:TAG]

Makes squashfs layers of an image in an OCI image layout, such as `skopeo copy` and `umoci` write. Digests and sizes are
verified before anything is unpacked; an entry that would lead out of its layer is refused. stdout gets a line
`SHA256  PATH` for each layer, lowest first; what is there already is not made anew.

  --output FOLDER   where the layers go; by default where `layers = ["oci:LAYOUT:TAG"]` has them
  --max-size SIZE   how much a layer may be without its compression: 16G by default
  --sha256 DIGEST   refuse an image whose manifest has another digest
  --tag TAG         the same as :TAG, of a LAYOUT whose path has a colon
  --quiet           tell errors only
"""
_TOLD = ("Entrypoint", "Cmd", "User", "WorkingDir", "StopSignal", "ExposedPorts", "Volumes")


def run(words: list[str]) -> int:
    """0; BuildError for what is refused."""
    if words[:1] in (["--help"], ["-h"], []):
        print(_USAGE, end="")
        return EXIT_OK
    if words[0] != "oci":
        raise UsageError(f"{words[0]}: expected `pyinit import oci LAYOUT`")
    options = parse(words[1:], usage=_USAGE, values=("--output", "--tag", "--max-size", "--sha256"), flags=("--quiet",))
    if options is None:
        return EXIT_OK
    if len(options.names) != 1:
        raise UsageError(f"import: expected one LAYOUT[:TAG], found {' '.join(options.names) or 'nothing'}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    folder = options.values.get("--output", "") or default_folder()
    layout, tag = (options.names[0], options.values["--tag"]) if "--tag" in options.values else layouts.split(options.names[0])
    quiet = "--quiet" in options.flags
    report, most_bytes = _silent if quiet else _told, _size(options.values.get("--max-size"))
    found = store.bring(layout, tag, os.path.abspath(folder), report, most_bytes=most_bytes, sha256=options.values.get("--sha256", ""))
    for layer in found.layers:
        print(f"{layer.sha256}  {layer.path}")
    said = [f"{key} {found.runs[key]}" for key in _TOLD if found.runs.get(key)]
    if said and not quiet:
        _told(f"what the image runs is no layer's, but a service's to say: {', '.join(said)}")
    return EXIT_OK


def _size(text: str | None) -> int:
    if text is None:
        return store.MOST_BYTES
    unit = SIZES.get(text[-1:], 0)
    digits = text[:-1]
    if not unit or not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise UsageError(f'--max-size {text}: expected a size such as "512M" or "20G"')
    return int(digits) * int(unit)


def _told(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _silent(_text: str) -> None:
    """Whoever starts a container asks for the layers alone."""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """As Ctrl-C: what is half done is removed on the way out."""
    raise KeyboardInterrupt
