"""Images that others made, as squashfs layers: out of an OCI layout into a folder, once.

Owns that folder and the way of a layer into it. Must not know an entry's meaning (unpack.py) or a manifest's (layouts.py).
Laws: what is in a blob is looked at when its digest and size are right, and not before; no more is read out of one than was
allowed; a layer's file has its own digest for a name and is there whole or not at all; one import at a time in a folder.
In it stand SHA256.squashfs for each layer and, for each image, MANIFEST.layers: the digests of its layers, lowest first.
Two images with a layer in common have one file of it, if it is the same over what is below it in each.
"""

import fcntl
import hashlib
import os
import re
import tempfile
import zlib
from _collections_abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from pyinit.config import layouts
from pyinit.config.decode import show
from pyinit.core.limits import size_text
from pyinit.errors import LaunchError
from pyinit.image import tar, tools, unpack
from pyinit.image.spec import BuildError
from pyinit.launch import digests
from pyinit.launch.onhost import VerifyImage
from pyinit.model import NOWHERE
from pyinit.records import NamedTuple

MOST_BYTES = 16 << 30  # of one layer's archive, without compression
_FORMAT = "pyinit-layers 1"  # another one as soon as we make other bytes of the same layer
_LOCK, _NEW = ".lock", ".new"
_PIECE = 1 << 20
_DIGESTS = ".digests"  # what was verified, as launch/digests.py has it
_LINE = re.compile(r"[0-9a-f]{64}")

Report = Callable[[str], None]


class Stored(NamedTuple):
    """One layer, lowest first: `sha256` of the squashfs."""

    path: str
    sha256: str


class Imported(NamedTuple):
    """An image; `runs` is what it says of the program that it is for."""

    layers: tuple[Stored, ...]
    runs: dict[str, object]


def bring(layout: str, tag: str, folder: str, report: Report, *, most_bytes: int = MOST_BYTES, sha256: str = "") -> Imported:
    """The layers of an image, imported if they are not in the folder as they were left; BuildError. `sha256`: it is pinned to that."""
    try:
        found = layouts.chosen(layout, tag, os.uname().machine)
        layouts.check_pin(layout, found, sha256)
        image = layouts.manifest(layout, found)
        os.makedirs(folder, 0o755, exist_ok=True)
        _check_owner(folder)
        with _lock(folder) as lock_fd:
            layers = _standing(folder, image)
            if layers is None:
                layers = _Import(layout, image, folder, lock_fd, report, most_bytes).run()
    except layouts.LayoutError as error:
        raise BuildError(str(error)) from error
    except OSError as error:
        raise BuildError(f"{error.filename or folder}: {error.strerror}") from error
    return Imported(layers, dict(image.runs.get("config") or {}))


def standing(layout: str, tag: str, folder: str, sha256: str) -> tuple[Stored, ...]:
    """The layers of an image that was imported before; none if it was not. BuildError; nothing is changed."""
    try:
        found = layouts.chosen(layout, tag, os.uname().machine)
        layouts.check_pin(layout, found, sha256)
        return _noted(folder, layouts.manifest(layout, found)) or ()
    except layouts.LayoutError as error:
        raise BuildError(str(error)) from error


def _check_owner(folder: str) -> None:
    seen = os.stat(folder)
    if seen.st_uid not in (0, os.geteuid()) or seen.st_mode & 0o022:
        raise BuildError(f"{folder}: others can write there (owner {seen.st_uid}, mode {seen.st_mode & 0o7777:04o}), and layers of containers are taken from it")


@contextmanager
def _lock(folder: str) -> Iterator[int]:
    """Who comes second waits, and finds it done."""
    fd = os.open(f"{folder}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _standing(folder: str, image: layouts.Manifest) -> tuple[Stored, ...] | None:
    """What an earlier import left, if each file is what its name says."""
    found = _noted(folder, image)
    try:
        for one in found or ():
            digests.verify(VerifyImage(one.path, one.sha256, NOWHERE), f"{folder}/{_DIGESTS}")
    except LaunchError:
        return None
    return found


def _noted(folder: str, image: layouts.Manifest) -> tuple[Stored, ...] | None:
    try:
        with open(f"{folder}/{image.sha256}.layers", encoding="ascii") as file:
            head, *lines = file.read().splitlines()
    except (FileNotFoundError, ValueError):
        return None
    if head != _FORMAT or len(lines) != len(image.layers) or not all(_LINE.fullmatch(line) for line in lines):
        return None
    return tuple(Stored(f"{folder}/{line}.squashfs", line) for line in lines)


class _Import:
    """One image, layer by layer."""

    def __init__(self, layout: str, image: layouts.Manifest, folder: str, lock_fd: int, report: Report, most_bytes: int) -> None:
        self._layout = layout
        self._image = image
        self._folder = folder
        self._lock_fd = lock_fd
        self._report = report
        self._most_bytes = most_bytes
        self._new = f"{folder}/{_NEW}"

    def run(self) -> tuple[Stored, ...]:
        try:
            tree: unpack.Tree = {}
            done = []
            for number in range(len(self._image.layers)):
                stored, tree = self._layer(number, tree)
                done.append(stored)
            with open(self._new, "w", encoding="ascii") as file:
                file.write("\n".join([_FORMAT, *(one.sha256 for one in done)]) + "\n")
            os.rename(self._new, f"{self._folder}/{self._image.sha256}.layers")
        finally:
            if os.path.lexists(self._new):
                os.unlink(self._new)
        return tuple(done)

    def _layer(self, number: int, below: unpack.Tree) -> tuple[Stored, unpack.Tree]:
        blob = self._image.layers[number]
        what = f"{self._layout}: layer {number + 1} (sha256:{blob.sha256[:12]})"
        with tempfile.TemporaryFile(dir=self._folder) as plain:
            size = _Blob(self._layout, what, blob, self._most_bytes).unpacked_to(plain, self._image.diff_ids[number])
            try:
                layer = unpack.arrange(tar.read(plain, size), below)
            except tar.TarError as error:
                raise BuildError(f"{what}: {error}") from error
            self._report(f"layer {number + 1} of {len(self._image.layers)}: {len(layer.entries)} entries, {size / 1e6:.1f} MB")
            for name, count in sorted(layer.dropped.items()):
                self._report(f"layer {number + 1}: {show(name)} of {count} entries is left out: squashfs has no place for it")
            self._squash(layer.entries, plain)
        with open(self._new, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        stored = Stored(f"{self._folder}/{sha256}.squashfs", sha256)
        os.chmod(self._new, 0o444)
        os.rename(self._new, stored.path)
        return stored, layer.tree

    def _squash(self, entries: tuple[tar.Entry, ...], plain: IO[bytes]) -> None:
        """By tar2sqfs: to sqfstar of squashfs-tools 4.5 the root is no entry, and its time is now."""
        if os.path.lexists(self._new):  # of one that was killed
            os.unlink(self._new)
        argv = ["tar2sqfs", "--quiet", "--no-skip", "--compressor", "zstd", "--defaults", "mtime=0", self._new]
        tools.feed(argv, lambda pipe: _write(entries, plain, pipe), lock_fd=self._lock_fd)


def _write(entries: tuple[tar.Entry, ...], plain: IO[bytes], out: IO[bytes]) -> None:
    for entry in entries:
        out.write(tar.header(entry))
        left = entry.size_bytes
        plain.seek(entry.at)
        while left:
            piece = plain.read(min(left, _PIECE))
            out.write(piece)
            left -= len(piece)
        out.write(bytes(-entry.size_bytes % tar.BLOCK))
    out.write(tar.END)


class _Blob:
    """One layer's content, on its way out of the layout."""

    def __init__(self, layout: str, what: str, blob: layouts.Blob, most_bytes: int) -> None:
        self._layout = layout
        self._what = what
        self._blob = blob
        self._most_bytes = most_bytes
        self._packed = hashlib.sha256()
        self._plain = hashlib.sha256()
        self._size_bytes = 0

    def unpacked_to(self, plain: IO[bytes], diff_id: str) -> int:
        """How many bytes; LayoutError, BuildError for what is not what it should be."""
        with open(layouts.open_blob(self._layout, self._blob.sha256), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size != self._blob.size_bytes:
                raise layouts.LayoutError(layouts.mismatch(self._layout, self._blob, size, ""))
            how = layouts.COMPRESSIONS[self._blob.media_type]
            try:
                {"": self._copy, "gzip": self._gunzip, "zstd": self._unzstd}[how](file, plain)
            except (zlib.error, EOFError) as error:
                self._check()  # that its bytes are others says more
                raise BuildError(f"{self._what}: no {how}, or a damaged one: {error}") from error
        self._check()
        if self._plain.hexdigest() != diff_id:
            raise BuildError(f"{self._what}: its archive has the digest sha256:{self._plain.hexdigest()}, and the image's config says sha256:{diff_id}")
        return self._size_bytes

    def _check(self) -> None:
        found = self._packed.hexdigest()
        if found != self._blob.sha256:
            raise layouts.LayoutError(layouts.mismatch(self._layout, self._blob, self._blob.size_bytes, found))

    def _pieces(self, file: IO[bytes]) -> Iterator[bytes]:
        """Not more than its size: a file may grow."""
        left = self._blob.size_bytes
        while left and (piece := file.read(min(_PIECE, left))):
            left -= len(piece)
            self._packed.update(piece)
            yield piece

    def _put(self, data: bytes, plain: IO[bytes]) -> None:
        self._size_bytes += len(data)
        if self._size_bytes > self._most_bytes:
            most, packed = size_text(self._most_bytes), self._blob.size_bytes
            raise BuildError(f"{self._what}: more than {most} come out of its {packed} bytes; `pyinit import oci --max-size` lets more through")
        self._plain.update(data)
        plain.write(data)

    def _copy(self, file: IO[bytes], plain: IO[bytes]) -> None:
        for piece in self._pieces(file):
            self._put(piece, plain)

    def _gunzip(self, file: IO[bytes], plain: IO[bytes]) -> None:
        """One member after another, as gzip does it."""
        member = zlib.decompressobj(wbits=31)
        for piece in self._pieces(file):
            while piece:
                if member.eof:
                    member = zlib.decompressobj(wbits=31)
                self._put(member.decompress(piece, _PIECE), plain)
                piece = member.unconsumed_tail or member.unused_data
        while not member.eof:
            data = member.decompress(member.unconsumed_tail, _PIECE)
            if not data:
                raise EOFError("it is cut off")
            self._put(data, plain)

    def _unzstd(self, file: IO[bytes], plain: IO[bytes]) -> None:
        """By zstd's own program, of the blob itself: should that change meanwhile, the archive's digest is another. It refuses a window of over 128 MB."""
        for _ in self._pieces(file):
            pass
        self._check()
        file.seek(0)
        tools.drain(["zstd", "-dcq"], file, lambda data: self._put(data, plain))
