"""What a log holds: read across its archives, compressed ones too, by whoever asked for it.

Owns the way back through `current` and what came before it. Must not know sockets, nor how lines are shown. Laws: a
rotation in between takes nothing away and gives nothing twice; memory grows with the number of lines that are asked
for, not with the log; nothing is followed out of the folder, for what is in it may be a container's doing.
"""

import os
from _collections_abc import Callable, Iterator

from pyinit.init import render
from pyinit.init.archives import GZIP, archive_name, archives, current_name
from pyinit.records import NamedTuple, deque

_BLOCK = 1 << 18
_PACKED_BLOCK = 1 << 12  # gzip makes a thousandth of what is all the same
_WBITS = 31  # gzip's own header
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Line(NamedTuple):
    """`ns`: its own stamp, or that of the last line that has one, before the first its file's; `text` is without newline."""

    ns: int
    text: bytes


class Wanted(NamedTuple):
    """Which lines: the `last` ones (-1: all), not before `since_ns`, only those that `match`."""

    last: int = -1
    since_ns: int = 0
    match: Callable[[bytes], object] | None = None


class _Piece(NamedTuple):
    """A part of the log: of a file's bytes those from `start` to `end`, less the first `skip` lines; -1: to its end."""

    name: str
    fd: int  # -1: not open yet
    start: int = 0
    end: int = -1
    skip: int = 0


class Past:
    """One stream's log, up to byte `size` of the file `ino`. `rest` is then, after `lines()`, a line that is not finished."""

    def __init__(self, log_dir: int, service: str, stream: str, ino: int, size: int, after: tuple[int, int] | None = None, begun: bytes = b"") -> None:
        """`log_dir`: a descriptor of it. `after`: only what follows such a mark, of an earlier answer or a frame, and `begun`.

        `is_whole` tells whether what follows it is all there.
        """
        self.is_whole = True
        self.rest = self._begun = begun
        self._stream = stream
        self._pieces: list[_Piece] = []
        self._folder = -1
        try:
            self._folder = os.open(service, _FLAGS | os.O_DIRECTORY, dir_fd=log_dir)
            self._pieces = self._find(ino, size)
            if after is not None and after[0]:
                self._skip(*after)
        except OSError:
            self.close()
            self.is_whole = not ino  # it was there a moment ago: someone took it away

    def _skip(self, ino: int, size: int) -> None:
        """All before that has been seen."""
        for number, piece in enumerate(self._pieces):
            seen = os.fstat(piece.fd) if piece.fd >= 0 else os.stat(piece.name, dir_fd=self._folder, follow_symlinks=False)
            if seen.st_ino == ino:
                self._pieces[:number] = []
                self._pieces[0] = piece._replace(start=size)
                return
        self.is_whole = False

    def close(self) -> None:
        for piece in self._pieces:
            if piece.fd >= 0:
                os.close(piece.fd)
        if self._folder >= 0:
            os.close(self._folder)
        self._pieces, self._folder = [], -1

    def lines(self, wanted: Wanted) -> Iterator[Line]:
        """The oldest first."""
        if wanted.last == 0:
            deque(self._read(self._last(1)), maxlen=0)  # for `rest`
            return
        if wanted.last < 0 or wanted.match or wanted.since_ns:
            found = self._filtered(wanted)
            yield from found if wanted.last < 0 else deque(found, maxlen=wanted.last)
        else:
            yield from self._read(self._last(wanted.last))

    def _find(self, ino: int, size: int) -> list[_Piece]:
        """What is newer than that file is not past."""
        current = current_name(self._stream)
        try:
            fd = os.open(current, _FLAGS, dir_fd=self._folder)
        except FileNotFoundError:  # taken away, or in the midst of a rotation
            fd = -1
        names = archives(self._folder, self._stream)
        if fd >= 0:
            if os.fstat(fd).st_ino == ino:
                return [*(_Piece(name, -1) for name in names), _Piece(current, fd, 0, size)]
            os.close(fd)
        for number, name in reversed(list(enumerate(names))):
            if os.stat(name, dir_fd=self._folder, follow_symlinks=False).st_ino == ino:
                fd = os.open(name, _FLAGS, dir_fd=self._folder)
                return [*(_Piece(other, -1) for other in names[:number]), _Piece(name, fd, 0, size)]
        return [_Piece(name, -1) for name in names]

    def _filtered(self, wanted: Wanted) -> Iterator[Line]:
        pieces = self._pieces
        if wanted.since_ns:  # an archive's name says when its last line came
            oldest = archive_name(wanted.since_ns // 1000, self._stream)
            pieces = [piece for piece in pieces if piece.fd >= 0 or piece.name.removesuffix(GZIP) >= oldest]
        for line in self._read(pieces):
            if line.ns >= wanted.since_ns and (wanted.match is None or wanted.match(line.text)):
                yield line

    def _last(self, count: int) -> list[_Piece]:
        """The pieces with the last `count` lines."""
        found: list[_Piece] = []
        for piece in reversed(self._pieces):
            if count <= 0:
                break
            opened = self._open(piece)
            if opened is None:
                continue
            if opened.name.endswith(GZIP):
                total = sum(block.count(b"\n") for block in _blocks(opened))
                found.append(piece._replace(skip=max(0, total - count)))
            else:
                end = opened.end if opened.end >= 0 else os.fstat(opened.fd).st_size
                start, total = _start_of_last(opened.fd, end, count)
                found.append(piece._replace(start=start, end=opened.end))
            self._release(piece, opened)
            count -= total
        return found[::-1]

    @staticmethod
    def _release(piece: _Piece, opened: _Piece) -> None:
        """There may be more files than descriptors."""
        if opened.fd != piece.fd:
            os.close(opened.fd)

    def _open(self, piece: _Piece) -> _Piece | None:
        """None: it was the oldest, and had to go. One that has been compressed meanwhile has another name."""
        if piece.fd >= 0:
            return piece
        for name in (piece.name, piece.name.removesuffix(GZIP) + GZIP):
            try:
                return piece._replace(name=name, fd=os.open(name, _FLAGS, dir_fd=self._folder))
            except OSError:
                continue
        return None

    def _read(self, pieces: list[_Piece]) -> Iterator[Line]:
        ns, rest = 0, self._begun
        for piece in pieces:
            opened = self._open(piece)
            if opened is None:
                continue
            skip = opened.skip
            ns = ns or os.fstat(opened.fd).st_mtime_ns
            try:
                for block in _blocks(opened):
                    *texts, rest = (rest + block).split(b"\n")
                    for text in texts:
                        if skip:
                            skip -= 1
                            continue
                        ns = render.read_stamp(text) or ns
                        yield Line(ns, text)
            finally:
                self._release(piece, opened)
        self.rest = rest


def _blocks(piece: _Piece) -> Iterator[bytes]:
    """The file's bytes; of a compressed one those that went in, as far as it is whole."""
    at, unpack, seen = piece.start, None, 0
    if piece.name.endswith(GZIP):
        import zlib  # only for those who have such archives

        at, unpack, seen = 0, zlib.decompressobj(wbits=_WBITS), piece.start
    most = _BLOCK if unpack is None else _PACKED_BLOCK
    while True:
        data = os.pread(piece.fd, most if piece.end < 0 else min(most, piece.end - at), at)
        if not data:
            return
        at += len(data)
        if unpack is None:
            yield data
            continue
        try:
            block = unpack.decompress(data)
        except zlib.error:
            return
        yield block[seen:]
        seen = max(0, seen - len(block))


def _start_of_last(fd: int, end: int, count: int) -> tuple[int, int]:
    """(where the last `count` lines before `end` begin, how many there are)."""
    if end <= 0:
        return 0, 0
    found, high = 0, end - 1  # the last line's own newline begins no other
    while high > 0:
        low = max(0, high - _BLOCK)
        block = os.pread(fd, high - low, low)
        here = block.count(b"\n")
        if found + here >= count:
            at = len(block)
            for _ in range(count - found):
                at = block.rfind(b"\n", 0, at)
            return low + at + 1, count
        found += here
        high = low
    return 0, found + 1
