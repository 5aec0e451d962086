"""What a logger was about to do, kept where its death cannot reach it.

Owns the layout of the journal: a memfd of PID 1's that each logger maps, two copies of a record for each stream. Must
not know pipes or lines. Law: a record counts from the store of one byte on, so that a SIGKILL at any instruction leaves
the old record or the new one.
"""

import mmap
import os
import struct

NONE, WRITE, ECHO, REWIND, SHOW = 0, 1, 2, 3, 4
_FIELDS = (
    "known", "file_pos", "line_pos", "mid_line", "suppressed", "lost_bytes", "lost_errno",
    "intent", "raw_end", "dev", "ino", "size", "out_from", "stamp_ns", "allow",
)  # fmt: skip
_LAYOUT = struct.Struct(f"<{len(_FIELDS)}Q")
_COPY = 128
SLOT_BYTES = 3 * _COPY  # the byte that chooses, then two copies
EVERY_LINE = 1 << 62


class Record:
    """Where one stream stands. Positions are offsets in its spool; `intent` is what is under way.

    known     this life has looked at the file
    file_pos  the file has everything before this; line_pos: terminal and watchers had every line before this, and it
              is never behind file_pos but for a line that is not finished
    mid_line  0: the file ends at a line's end, 1: within a line of ours, 2: within one of an earlier life
    WRITE     the spool's bytes up to `raw_end`, rendered with `stamp_ns` and `allow` lines, go from byte `out_from` on
              into the file `dev`, `ino`, which had `size` bytes before; `ino` 0: nothing of that has been written
    SHOW      that is done, and those who follow have it; they wait for standard output
    ECHO      they are in the file, and the same lines go into the box of standard output
    REWIND    what follows `file_pos` is copied to the spool's front; `raw_end` bytes are there
    """

    __slots__ = _FIELDS

    def __init__(self) -> None:
        self.known = self.file_pos = self.line_pos = self.mid_line = 0
        self.suppressed = self.lost_bytes = self.lost_errno = 0
        self.intent = self.raw_end = self.dev = self.ino = self.size = self.out_from = self.stamp_ns = 0
        self.allow = EVERY_LINE


def create() -> int:
    """The memfd, in PID 1, with no slot in it."""
    return os.memfd_create("pyinit-log-journal", os.MFD_CLOEXEC)


def clear(fd: int, slot: int) -> None:
    """For a stream that is new; the journal grows as needed. In PID 1, while no logger uses the slot."""
    end = (slot + 1) * SLOT_BYTES
    if os.fstat(fd).st_size < end:
        os.ftruncate(fd, -(-end // mmap.PAGESIZE) * mmap.PAGESIZE)
    fresh = bytearray(SLOT_BYTES)
    _pack(fresh, _COPY, Record())
    os.pwrite(fd, fresh, slot * SLOT_BYTES)


class Journal:
    """The records, in a logger."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map = mmap.mmap(fd, 0)

    def load(self, slot: int) -> Record:
        base = slot * SLOT_BYTES
        if base >= len(self._map):  # it has grown since
            self._map.resize(os.fstat(self._fd).st_size)
        record = Record()
        values = _LAYOUT.unpack_from(self._map, base + _COPY * (1 + self._map[base]))
        for name, value in zip(_FIELDS, values, strict=True):
            setattr(record, name, value)
        return record

    def save(self, slot: int, record: Record) -> None:
        base = slot * SLOT_BYTES
        other = 1 - self._map[base]
        _pack(self._map, base + _COPY * (1 + other), record)
        self._map[base] = other


def _pack(buffer: bytearray | mmap.mmap, offset: int, r: Record) -> None:
    _LAYOUT.pack_into(
        buffer, offset, r.known, r.file_pos, r.line_pos, r.mid_line, r.suppressed, r.lost_bytes, r.lost_errno,
        r.intent, r.raw_end, r.dev, r.ino, r.size, r.out_from, r.stamp_ns, r.allow,
    )  # fmt: skip
