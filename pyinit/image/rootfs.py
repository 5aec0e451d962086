"""What the layers of an image show together, as a folder: the root of a runtime that takes no layers.

Owns the writing of that folder. Must not know whose it is. Laws: it is written into a new folder of ours, and what an image has
for a symlink is never followed; a file that layers hide is not written at all.
"""

import os
from _collections_abc import Callable

from pyinit.image.parts import Part, merged
from pyinit.image.spec import BuildError
from pyinit.image.tar import Entry

_Row = tuple[int, Entry]


def write(parts: list[Part], root: str, report: Callable[[str], None]) -> None:
    """Root's, for owners are the image's; BuildError."""
    if os.geteuid() != 0:
        raise BuildError(f"{root}: files get the owners that they have in the image, which root alone can do: run this as root")
    for part in parts:
        for path in part.left_out:
            report(f"{part.what}: {path} is left out")
    rows = merged(parts)
    ordered = sorted(rows.items(), key=lambda row: os.fsencode(row[0]))
    for path, (number, entry) in ordered:
        _make(parts[number], entry, f"{root}/{path}" if path else root, root, rows, number)
    for path, (_, entry) in reversed(ordered):
        if entry.kind == "folder":
            os.utime(f"{root}/{path}", (entry.mtime_s, entry.mtime_s))


def _make(part: Part, entry: Entry, place: str, root: str, rows: dict[str, _Row], number: int) -> None:
    if entry.kind == "hardlink":
        there = rows.get(entry.link)
        if there is not None and there[0] == number and there[1].kind == "file" and os.path.lexists(f"{root}/{entry.link}"):
            os.link(f"{root}/{entry.link}", place, follow_symlinks=False)
            return  # else the name that it stands for is hidden: it is the file now
    if entry.kind == "folder":
        if entry.path:
            os.mkdir(place)
    elif entry.kind == "symlink":
        os.symlink(entry.link, place)
    elif entry.kind == "fifo":
        os.mkfifo(place)
    else:
        with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as file:
            for piece in part.read(entry.path):
                file.write(piece)
    os.chown(place, entry.uid, entry.gid, follow_symlinks=False)
    if entry.kind != "symlink":
        os.chmod(place, entry.mode)  # after the owner, which takes set-user-ID away
    for name, value in entry.xattrs:
        os.setxattr(place, name, value, follow_symlinks=False)
    os.utime(place, (entry.mtime_s, entry.mtime_s), follow_symlinks=False)
