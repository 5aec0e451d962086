"""What the entries of an OCI layer mean, laid over the layers below it: a tree for a squashfs that overlayfs puts there.

Owns the meaning: whiteouts, hard links, parents that nobody wrote. Must not know archives' format or tools.
Laws: nothing is unpacked into a file system, so that no name leads anywhere; what would lead out of the layer, or be
another thing to another reader, is refused with the entry's name and why; what comes out is in order, each parent first.
Source: the OCI image-spec, layer.md.
"""

import os
from _collections_abc import Iterable

from pyinit.config.decode import show
from pyinit.image.tar import MOST_NAME, MOST_PATH, Entry, TarError
from pyinit.records import NamedTuple

_WHITEOUT, _OPAQUE, _OF_AUFS = ".wh.", ".wh..wh..opq", ".wh..wh."
_OVERLAY = ("trusted.overlay.", "user.overlay.")
_KEPT_XATTRS = ("user.", "security.")  # squashfs has a place for these
_HIDES = tuple((f"{prefix}opaque", b"y") for prefix in _OVERLAY)  # overlayfs of root, and of an ordinary user
_ROOT = Entry("", "folder")

Tree = dict[str, Entry]  # by path


class Layer(NamedTuple):
    """`entries` in order, the root first; `tree`: what all layers up to this one show; `dropped`: how many xattrs, by name."""

    entries: tuple[Entry, ...]
    tree: Tree
    dropped: dict[str, int]


def arrange(entries: Iterable[Entry], below: Tree) -> Layer:
    """The layer of an archive's entries, over a tree of lower ones (none: {}); TarError."""
    taken = _Taken(below)
    for entry in entries:
        taken.take(entry)
    return taken.layer()


class _Taken:
    """One layer's entries, as they come."""

    def __init__(self, below: Tree) -> None:
        self.below = below
        self.found: Tree = {}
        self.said: dict[str, str] = {}  # the names as they stood there, by path
        self.hidden: set[str] = set()  # whiteouts: paths
        self.opaque: set[str] = set()  # folders whose lower content is hidden
        self.dropped: dict[str, int] = {}

    def take(self, entry: Entry) -> None:
        path = _clean(entry.path, "")
        if path in self.said:
            raise TarError(entry.path, f"it is there twice; the other is {show(self.said[path])}")
        self.said[path] = entry.path
        folder, _, name = path.rpartition("/")
        if any(part.startswith(_WHITEOUT) for part in folder.split("/")):
            raise TarError(entry.path, f"it lies in a whiteout: names in {_WHITEOUT} are no folder's")
        if name.startswith(_WHITEOUT):
            self._hide(entry, folder, name)
            return
        if entry.kind == "device":
            raise TarError(entry.path, "a device: what a container has in /dev is the launcher's to say")
        if not path and entry.kind != "folder":
            raise TarError(entry.path, f"the root is a {entry.kind}")
        self.found[path] = self._checked(entry, path)

    def _hide(self, entry: Entry, folder: str, name: str) -> None:
        if entry.kind != "file":
            raise TarError(entry.path, f"a whiteout that is a {entry.kind}")
        if name == _OPAQUE:
            self.opaque.add(folder)
        elif name.startswith(_OF_AUFS):
            return  # of the file system that it was made on
        elif name in (_WHITEOUT, _WHITEOUT + ".", _WHITEOUT + ".."):
            raise TarError(entry.path, "a whiteout of nothing")
        else:
            self.hidden.add(_join(folder, name.removeprefix(_WHITEOUT)))

    def _checked(self, entry: Entry, path: str) -> Entry:
        link = entry.link
        if entry.kind == "hardlink":
            link = _clean(link, entry.path)
            there = self.found.get(link)
            if there is None or there.kind not in ("file", "symlink", "fifo", "hardlink"):
                raise TarError(entry.path, f"a hard link to {show(entry.link)}, which is no file before it in this layer")
        elif entry.kind == "symlink":
            _check_characters(link, entry.path, "it leads to")
            if not link or len(os.fsencode(link)) > MOST_PATH:
                raise TarError(entry.path, "a symlink that leads nowhere" if not link else "a symlink that is too long")
        xattrs = []
        for name, value in entry.xattrs:
            if name.startswith(_OVERLAY):
                raise TarError(entry.path, f"it has {name}, which is overlayfs's own: it could show what lies elsewhere")
            if name.startswith(_KEPT_XATTRS):
                xattrs.append((name, value))
            else:
                self.dropped[name] = self.dropped.get(name, 0) + 1
        return entry._replace(path=path, link=link, xattrs=tuple(sorted(xattrs)))

    def layer(self) -> Layer:
        for path in list(self.found):
            self._ensure_parents(path)
        for path in sorted((*self.hidden, *self.opaque)):  # one that hides nothing makes no folders
            self._check_parents(path)
            if self._shows(path):
                self._ensure_parents(path)
        for path in self.opaque:
            if self._shows(path):
                self._ensure(path, path)
        self._ensure("", "")
        self._open_root()
        entries = [self._hiding(entry) for entry in self._grouped()]
        over = [path for path in self.hidden if path not in self.found and self._shows(path)]
        entries += [Entry(path, "whiteout", 0) for path in over]
        entries.sort(key=lambda entry: os.fsencode(entry.path))
        return Layer(tuple(entries), self._merged(), self.dropped)

    def _ensure_parents(self, path: str) -> None:
        """Each is a folder: of this layer, or as the lower ones have it, for overlayfs shows the uppermost one's owner and mode."""
        for folder in _above(path):
            self._ensure(folder, path)

    def _ensure(self, folder: str, path: str) -> None:
        self.found[folder] = self._folder(folder, path) or _ROOT._replace(path=folder)

    def _check_parents(self, path: str) -> None:
        """Of a whiteout. umoci also writes them for what lay in a folder that is no more: they hide nothing."""
        for folder in _above(path):
            there = self.found.get(folder)
            if there is not None and there.kind != "folder":
                return
            self._folder(folder, path)

    def _folder(self, folder: str, path: str) -> Entry | None:
        """What it is in this layer, or below; None: nothing. TarError if it is no folder, which `path` lies in."""
        there = self.found.get(folder)
        whose = ""
        if there is None and self._shows(folder):
            there, whose = self.below[folder], " of a layer below"
        if there is not None and there.kind != "folder":
            leads = f", to {show(there.link)}" if there.kind == "symlink" else ""
            raise TarError(self._name(path), f"its folder {show(folder)} is a {there.kind}{whose}{leads}: it would lie elsewhere, or nowhere")
        return there

    def _name(self, path: str) -> str:
        """As it stood there."""
        folder, _, name = path.rpartition("/")
        return self.said.get(path) or self.said.get(_join(folder, _WHITEOUT + name)) or self.said.get(_join(path, _OPAQUE)) or path

    def _shows(self, path: str) -> bool:
        """Whether the layers below have it, and this one does not hide what it lies in."""
        if path not in self.below:
            return False
        folder = path
        while folder:
            folder = folder.rpartition("/")[0]
            if folder in self.opaque or folder in self.hidden:
                return False
            there = self.found.get(folder)
            if there is not None and there.kind != "folder":
                return False
        return True

    def _open_root(self) -> None:
        """Overlayfs heeds no mark on a layer's root: what it would hide is hidden name by name."""
        if "" not in self.opaque:
            return
        self.opaque.discard("")
        for path in [path for path in self.below if path and "/" not in path]:
            self.hidden.add(path)

    def _grouped(self) -> list[Entry]:
        """Names of one file: the first in order is the file, the others lead to it."""
        names: dict[str, list[str]] = {}
        for path, entry in self.found.items():
            if entry.kind == "hardlink":
                origin = entry.link
                while self.found[origin].kind == "hardlink":
                    origin = self.found[origin].link
                names.setdefault(origin, [origin]).append(path)
        made = dict(self.found)
        for origin, paths in names.items():
            first, *others = sorted(paths, key=os.fsencode)
            whole = self.found[origin]
            made[first] = whole._replace(path=first)
            for path in others:
                made[path] = whole._replace(path=path) if whole.kind == "symlink" else Entry(path, "hardlink", link=first)
        return list(made.values())

    def _hiding(self, entry: Entry) -> Entry:
        """A folder that stands for another of below, and does not join it."""
        if entry.kind != "folder" or not (entry.path in self.opaque or entry.path in self.hidden):
            return entry
        there = self.below.get(entry.path)
        return entry._replace(xattrs=(*entry.xattrs, *_HIDES)) if there is not None and there.kind == "folder" else entry

    def _merged(self) -> Tree:
        tree = {path: entry for path, entry in self.below.items() if path not in self.hidden and self._shows(path)}
        return tree | self.found


def _above(path: str) -> list[str]:
    """The folders that it lies in, from the root on."""
    return ["", *(path[:at] for at, char in enumerate(path) if char == "/")] if path else []


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _clean(name: str, of: str) -> str:
    """A path below the root. `of`: the entry that leads to it, if it is not the entry's own."""
    entry, what = (of, f"a hard link to {show(name)}: ") if of else (name, "")
    if not name:
        raise TarError("", f"{show(of)}: a hard link to nothing" if of else "an entry without a name")
    if name.startswith("/"):
        raise TarError(entry, f"{what}an absolute path, and a layer has only what lies below the root")
    _check_characters(name, entry, f"{what}its name has")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise TarError(entry, f'{what}".." in a path, which leads out of a folder')
    if any(len(os.fsencode(part)) > MOST_NAME for part in parts) or len(os.fsencode(name)) > MOST_PATH:
        raise TarError(entry, f"{what}a name that is too long: {MOST_NAME} bytes, of a path {MOST_PATH}, is the most")
    return "/".join(parts)


def _check_characters(text: str, entry: str, what: str) -> None:
    bad = next((char for char in text if char < " " or char == "\x7f"), "")
    if bad:
        raise TarError(entry, f"{what} the control character {ord(bad):#04x}")
