"""What a config names on the host: images with their digests, folders, what is written to.

Owns how such names are written. Must not know what becomes of them, or look at them (check.py does).
"""

import os

from pyinit.config.decode import Table, show
from pyinit.errors import hint
from pyinit.model import Layer, Origin

_DIGESTS = ("sha256", "sha512", "sha384", "sha224", "sha1", "md5")
_SHA256_DIGITS = 64
_OCI = "oci:"


def layers(table: Table) -> tuple[Layer, ...]:
    """The images or folders of `layers`, lowest first; at least one."""
    paths = table.strings("layers")
    if not paths:
        missing = 'layers: expected a list of squashfs files or folders, such as ["base.squashfs"], found none'
        where = ".".join(str(part) for part in table.path if not isinstance(part, int))
        table.document.problems.append((table.origin, f"{where}.{missing}"))
    found = []
    for number, text in enumerate(paths):
        if not text:
            table.fault("layers", "expected a squashfs file or a folder, found nothing", number)
        path, sha256 = pinned(table, "layers", text, number)
        at = table.document.origin((*table.path, "layers", number))
        if text.startswith(_OCI):
            found.append(_oci(table, path.removeprefix(_OCI), at, sha256, number))
        else:
            found.append(Layer(absolute(table, path), at, sha256))
    return tuple(found)


def _oci(table: Table, text: str, at: Origin, sha256: str, number: int) -> Layer:
    """An image of a layout, LAYOUT:TAG: as skopeo has it, a layout's path has no colon."""
    path, _, tag = text.partition(":")
    if not path:
        table.fault("layers", "expected an OCI layout, as oci:LAYOUT:TAG, found nothing behind oci:", number)
    if table.path[-1] != "container":
        table.fault("layers", "an image of an OCI layout has layers of a root; `pyinit import oci` makes files of them, for here", number)
    return Layer(absolute(table, path), at, sha256, oci=True, tag=tag)


def pinned(table: Table, key: str, text: str, *tail: int) -> tuple[str, str]:
    """A path and the digest after it: `base.squashfs@sha256:...`."""
    path, mark, word = text.rpartition("@")
    name, colon, digest = word.partition(":")
    if not mark or not colon or name not in _DIGESTS:
        return text, ""
    digest = digest.lower()
    if name != "sha256" or len(digest) != _SHA256_DIGITS or set(digest) - set("0123456789abcdef"):
        table.fault(key, f"expected @sha256: and its {_SHA256_DIGITS} hexadecimal digits, found {show(mark + word)}", *tail)
        return path, ""
    return path, digest


def absolute(table: Table, path: str) -> str:
    """Relative paths are relative to the file that they stand in."""
    folder = os.path.dirname(os.path.abspath(table.document.file))
    return os.path.normpath(os.path.join(folder, path))


def writable(table: Table, sizes: tuple[str, ...]) -> str:
    """The word, or an absolute folder: that is told from a misspelt word by its slash. `sizes`: keys of a RAM disk."""
    value = table.string("writable", "none", what='"none", "tmpfs" or a folder with a / in its path')
    if "/" in value:
        value = absolute(table, value)
    elif value not in ("none", "tmpfs"):
        near = hint(value, ("none", "tmpfs"))
        table.fault("writable", f'expected "none", "tmpfs" or a folder with a / in its path, found {show(value)}{near}')
        return "tmpfs"  # what follows from it is no error of its own
    for key in sizes:
        if value != "tmpfs" and key in table.data:
            table.fault(key, 'only writable = "tmpfs" has it; write that, or take it out')
    return value
