"""`pyinit export oci|bundle|systemd FILE`: a config's container, for other runtimes.

Owns what the user sees of an export. Must not know how one is made. Law: what an export lacks is told, a line an item.
"""

import os
import signal
import sys
from types import FrameType

from pyinit.cli.options import parse
from pyinit.errors import EXIT_OK, UsageError, hint
from pyinit.image import export, nspawn, oci, runc

_USAGE = """\
usage: pyinit export oci [--output FOLDER] [--tag TAG] FILE
       pyinit export bundle [--output FOLDER] FILE
       pyinit export systemd [--output FOLDER] FILE

Makes, of the container that FILE describes, with pyinit as its init and the services as they are:
  oci      an OCI image layout, for podman, skopeo, Docker and the like; the same images make the same bytes
  bundle   a bundle for runc and crun: config.json and rootfs
  systemd  a machine for systemd-nspawn: its root, a .nspawn file and a unit
The image needs /usr/bin/python3. No secret and no value of a variable is in an export; what is not is told on stderr.

  --output FOLDER   a new folder; by default NAME.oci, NAME.bundle or NAME.machine
  --tag TAG         of the image; by default latest
"""
_SUFFIXES = {"oci": "oci", "bundle": "bundle", "systemd": "machine"}


def run(words: list[str]) -> int:
    """0; BuildError, ConfigError, LaunchError for what can't be exported."""
    if words[:1] in (["--help"], ["-h"], []):
        print(_USAGE, end="")
        return EXIT_OK
    kind = words[0]
    if kind not in _SUFFIXES:
        raise UsageError(f"{kind}: expected `pyinit export oci`, `bundle` or `systemd`{hint(kind, _SUFFIXES)}")
    options = parse(words[1:], usage=_USAGE, values=("--output", "--tag") if kind == "oci" else ("--output",))
    if options is None:
        return EXIT_OK
    if len(options.names) != 1:
        raise UsageError(f"export {kind}: expected one FILE, found {' '.join(options.names) or 'nothing'}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    asked = export.ask(options.names[0], os.environ)
    output = os.path.abspath(options.values.get("--output") or f"{nspawn.name_of(asked)}.{_SUFFIXES[kind]}")
    if kind == "oci":
        tag = options.values.get("--tag", "latest")
        lost = oci.lost(asked)
        print(f"{oci.write(asked, output, tag, os.environ, _told)}  {output}:{tag}")
    elif kind == "bundle":
        lost = runc.lost(asked)
        runc.write(asked, output, os.environ, _told)
        print(output)
    else:
        lost = nspawn.lost(asked)
        nspawn.write(asked, output, os.environ, _told)
        name = nspawn.name_of(asked)
        print(f"cp -a {output}/{name} /var/lib/machines/{name}\ncp {output}/{name}.nspawn /etc/systemd/nspawn/\ncp {output}/{name}.service /etc/systemd/system/")
    for line in lost:
        _told(line)
    return EXIT_OK


def _told(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """As Ctrl-C: what is half done is removed on the way out."""
    raise KeyboardInterrupt
