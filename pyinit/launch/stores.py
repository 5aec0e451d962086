"""Layers that are in an OCI layout: found, or imported, before anything else of a launch.

Owns what the launcher asks of an import. Must not know how one is done: that is another program's, `pyinit import oci`, which
has hashes, archives and helpers that a monitor shall not carry. Law: what comes back is pinned, and verified as any pinned
image is.
"""

import os
import sys

from pyinit.errors import LaunchError
from pyinit.linux import process
from pyinit.model import Config, Layer

_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pyinit.__main__ import main; sys.exit(main())"
_PATIENCE_S = 3600.0  # of one image: gigabytes
_folders: list[str] = []  # where it was found first: in his own user namespace an ordinary user is root


def default_folder() -> str:
    """Where images go that nobody named a folder for: of root's, or of the user's own."""
    if not _folders:
        own = f"{os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')}/pyinit/oci"
        _folders.append("/var/cache/pyinit/oci" if os.geteuid() == 0 else own)
    return _folders[0]


def resolved(config: Config) -> Config:
    """With files for what is in layouts; LaunchError."""
    box = config.container
    if box is None or not any(layer.oci for layer in box.layers):
        return config
    found = [one for layer in box.layers for one in (_imported(layer) if layer.oci else (layer,))]
    return config._replace(container=box._replace(layers=tuple(found)))


def _imported(layer: Layer) -> tuple[Layer, ...]:
    parent = os.path.dirname(os.path.abspath(sys.modules["pyinit"].__path__[0]))  # this code may have come from the bundle
    words = [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM, parent, "import", "oci", "--quiet", "--output", default_folder(), "--tag", layer.tag]
    words += ["--sha256", layer.sha256] if layer.sha256 else []
    said = os.memfd_create("pyinit-layers", os.MFD_CLOEXEC)
    try:
        done = process.run((*words, "--", layer.path), env=os.environ, timeout_s=_PATIENCE_S, stdout_fd=said)
        rows = [line.split("  ", 1) for line in os.pread(said, os.fstat(said).st_size, 0).decode().splitlines()]
    except OSError as error:
        raise LaunchError(f"{layer.origin}: container.layers: {layer.path}: {error.strerror}") from error
    finally:
        os.close(said)
    if done.code or done.signal or not rows:
        why = done.stderr.decode("utf-8", "replace").strip().removeprefix("pyinit: ") or f"the import ended with exit code {done.code}, signal {done.signal}"
        raise LaunchError(f"{layer.origin}: container.layers: {why}")
    return tuple(Layer(path, layer.origin, sha256) for sha256, path in rows)
