"""Tar archives, as strangers write them and as we do: headers, PAX records, GNU's long names.

Owns the format. Must not know what an entry means in a layer of an image (unpack.py), or where an archive comes from.
Laws: what two readers could understand in two ways is refused, with the entry's name and why; no length that an archive
claims is believed before it is bounded; the same entries make the same bytes.
Sources: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar's manual, "Basic Tar Format".
"""

import re
from _collections_abc import Iterator, Mapping
from typing import IO

from pyinit.config.decode import show
from pyinit.records import NamedTuple

BLOCK = 512
MOST_PATH = 4095  # PATH_MAX without its NUL
MOST_NAME = 255
_MOST_RECORDS = 1 << 20  # bytes of a PAX header or a long name
_MOST_ENTRIES = 1_000_000
_MOST_ID = 2**32 - 2  # -1 is "nobody said"
_MOST_TIME = 2**32 - 1  # squashfs has 32 bits
_XATTR = "SCHILY.xattr."
_KINDS = {b"0": "file", b"\0": "file", b"7": "file", b"1": "hardlink", b"2": "symlink", b"3": "device", b"4": "device", b"5": "folder", b"6": "fifo"}
_TYPES = {"file": b"0", "hardlink": b"1", "symlink": b"2", "whiteout": b"3", "folder": b"5", "fifo": b"6"}
_DECIDING = ("path", "linkpath", "size", "uid", "gid", "mtime")  # what must not be said twice
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]*)?")


class TarError(Exception):
    """An archive that is refused; `entry` is the name as it stands there, "" where it is not about one."""

    def __init__(self, entry: str, why: str) -> None:
        super().__init__(f"{show(entry)}: {why}" if entry else why)


class Entry(NamedTuple):
    """One file of a tree. `path` is relative, without `.` and slashes at its ends; "" is the root.

    `kind`: "file", "folder", "symlink", "hardlink" (`link` is the path of the file), "fifo", "device", or "whiteout": a name
    that hides one of a layer below, which is a device 0:0 to overlayfs. `at`: where a file's bytes are in the archive.
    """

    path: str
    kind: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime_s: int = 0
    size_bytes: int = 0
    link: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    at: int = 0


def read(file: IO[bytes], size_bytes: int) -> Iterator[Entry]:
    """The entries of an archive that can be sought in, with their names as they stand there; TarError."""
    reader = _Reader(file, size_bytes)
    for _ in range(_MOST_ENTRIES):
        entry = reader.entry()
        if entry is None:
            return
        yield entry
    raise TarError("", f"it has more than {_MOST_ENTRIES} entries")


class _Reader:
    """`at`: of the next header. What stands before an entry and is about it is kept up to that."""

    def __init__(self, file: IO[bytes], size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._at = 0

    def entry(self) -> Entry | None:
        records: Mapping[str, str] | None = None
        long: dict[bytes, str] = {}
        while True:
            head = self._block()
            if not head.strip(b"\0"):
                if records is not None or long:
                    raise TarError("", "it ends after a header that is about an entry to come")
                self._end(head)
                return None
            name = _name(head)
            _check_sum(head, name)
            kind = head[156:157]
            if kind not in (b"x", b"g", b"L", b"K"):
                return self._made(head, name, records or {}, long)
            size = _number(head, 124, 12, name, "size")
            if not 0 <= size <= _MOST_RECORDS:
                raise TarError(name, f"a header of {size} bytes, of which {_MOST_RECORDS} would be many")
            text = self._content(size, name)
            if kind == b"x":
                if records is not None:
                    raise TarError(name, "two PAX headers for one entry")
                records = _records(text, name)
            elif kind == b"g":
                _check_global(_records(text, name), name)
            elif kind in long:
                raise TarError(name, "two long names for one entry")
            else:
                long[kind] = _text(text.rstrip(b"\0"))

    def _block(self) -> bytes:
        if self._at == self._size_bytes:
            return b""  # some leave out the blocks of zeros
        self._file.seek(self._at)
        block = self._file.read(BLOCK)
        if len(block) < BLOCK:
            raise TarError("", f"it is cut off within a header, after {self._size_bytes} bytes")
        self._at += BLOCK
        return block

    def _content(self, size: int, name: str) -> bytes:
        self._skip(size, name)
        return self._file.read(size)

    def _skip(self, size: int, name: str) -> None:
        """The file stands at the content; the next header comes after it."""
        if size > self._size_bytes - self._at:
            raise TarError(name, f"it says {size} bytes, the archive has {self._size_bytes - self._at} more")
        self._file.seek(self._at)
        self._at = min(self._at + (size + BLOCK - 1) // BLOCK * BLOCK, self._size_bytes)

    def _end(self, head: bytes) -> None:
        """Nothing but zeros: another reader would go on where this one ends."""
        while head:
            if head.strip(b"\0"):
                raise TarError("", "something stands behind its end")
            head = self._file.read(1 << 16)

    def _made(self, head: bytes, name: str, records: Mapping[str, str], long: Mapping[bytes, str]) -> Entry:
        name = records.get("path", long.get(b"L", name))
        if ("path" in records and b"L" in long) or ("linkpath" in records and b"K" in long):
            raise TarError(name, "a PAX name and a GNU one")
        link = records.get("linkpath", long.get(b"K", _text(head[157:257].partition(b"\0")[0])))
        kind = _KINDS.get(head[156:157])
        if head[156:157] == b"S" or any(key.startswith("GNU.sparse.") for key in records):
            raise TarError(name, "a sparse file: pack it anew with a tar that writes whole ones")
        if kind is None:
            raise TarError(name, f"an entry of type {show(_text(head[156:157]))}, which no layer has")
        if kind == "file" and name.endswith("/"):
            kind = "folder"  # before POSIX
        size = _decided(records, "size", name) if "size" in records else _number(head, 124, 12, name, "size")
        if size < 0:
            raise TarError(name, f"a size of {size}")
        if kind != "file" and size:
            raise TarError(name, f"a {kind} with {size} bytes of content")
        uid = _decided(records, "uid", name) if "uid" in records else _number(head, 108, 8, name, "owner")
        gid = _decided(records, "gid", name) if "gid" in records else _number(head, 116, 8, name, "group")
        for what, number in (("owner", uid), ("group", gid)):
            if not 0 <= number <= _MOST_ID:
                raise TarError(name, f"{what} {number} is none: there are 0 to {_MOST_ID}")
        mtime = _decided(records, "mtime", name) if "mtime" in records else _number(head, 136, 12, name, "time")
        mode = _number(head, 100, 8, name, "mode") & 0o7777
        at = self._at
        self._skip(size, name)
        xattrs = tuple((key[len(_XATTR) :], _bytes(value)) for key, value in records.items() if key.startswith(_XATTR))
        return Entry(name, kind, mode, uid, gid, min(max(mtime, 0), _MOST_TIME), size, link, xattrs, at)


def _name(head: bytes) -> str:
    """Of the header alone; GNU's own has other things where POSIX has the beginning of a long name."""
    name = head[:100].partition(b"\0")[0]
    prefix = head[345:500].partition(b"\0")[0] if head[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _check_sum(head: bytes, name: str) -> None:
    wanted = _number(head, 148, 8, name, "checksum")
    if wanted != sum(head) - sum(head[148:156]) + 8 * 0x20:
        raise TarError(name, "its header is damaged: the checksum is wrong")


def _number(head: bytes, at: int, length: int, name: str, what: str) -> int:
    """Octal digits, or, as GNU has it, a number of 95 bits behind a set first one."""
    field = head[at : at + length]
    if field[0] & 0x80:
        bits = length * 8 - 1
        number = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return number - (1 << bits) if field[0] & 0x40 else number
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise TarError(name, f"its {what} is no number: {show(_text(field))}")
    return int(digits or b"0", 8)


def _decided(records: Mapping[str, str], key: str, name: str) -> int:
    if not _NUMBER.fullmatch(records[key]):
        raise TarError(name, f"a PAX {key} that is no number: {show(records[key][:40])}")
    return int(records[key].partition(".")[0] or "0")


def _records(data: bytes, name: str) -> dict[str, str]:
    """`LENGTH KEY=VALUE` and a line's end, one after another; the length is of all that, itself too."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space] if space > 0 else b""
        if not digits.isdigit() or digits.startswith(b"0"):
            raise TarError(name, "a PAX header that has no length where one belongs")
        end = at + int(digits)
        key, mark, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n" or not mark or not key:
            raise TarError(name, "a PAX header whose lengths are wrong")
        word = _text(key)
        if word in found and (word in _DECIDING or word.startswith(_XATTR)):
            raise TarError(name, f"a PAX header that says {word} twice")
        found[word] = _text(value)
        at = end
    empty = [word for word in ("path", "linkpath") if found.get(word) == ""]
    if empty:
        raise TarError(name, f"a PAX header with an empty {empty[0]}")
    return found


def _check_global(records: Mapping[str, str], name: str) -> None:
    """git leaves a comment there; what decides about each entry is no longer that entry's own."""
    found = [key for key in records if key != "comment"]
    if found:
        raise TarError(name, f"a PAX header for all entries that says {found[0]}")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def header(entry: Entry) -> bytes:
    """All that stands before an entry's bytes."""
    path = _bytes(entry.path) + (b"/" if entry.kind == "folder" else b"")
    if not entry.path:
        path = b"./"
    link = _bytes(entry.link)
    records = [(f"{_XATTR}{key}".encode(), value) for key, value in sorted(entry.xattrs)]
    for key, value in ((b"path", path), (b"linkpath", link)):
        if len(value) > 100 or (not value.isascii() and _is_utf8(value)):
            records.append((key, value))
    numbers = ((b"size", entry.size_bytes, 8**11), (b"uid", entry.uid, 8**7), (b"gid", entry.gid, 8**7), (b"mtime", entry.mtime_s, 8**11))
    records += [(key, b"%d" % number) for key, number, bound in numbers if number >= bound]
    before = b""
    if records:
        data = b"".join(_record(key, value) for key, value in sorted(records))
        before = _head(b"pax", Entry("", "file", 0o644, size_bytes=len(data)), b"", b"x") + padded(data)
    return before + _head(path, entry, link, _TYPES[entry.kind])


def _head(path: bytes, entry: Entry, link: bytes, kind: bytes) -> bytes:
    """A number that has no room stands in a PAX record."""
    numbers = [(entry.mode, 8), (entry.uid, 8), (entry.gid, 8), (entry.size_bytes, 12), (entry.mtime_s, 12)]
    fields = b"".join(b"%0*o\0" % (length - 1, number if number < 8 ** (length - 1) else 0) for number, length in numbers)
    device = b"%07o\0" % 0
    head = path[:100].ljust(100, b"\0") + fields + b" " * 8 + kind + link[:100].ljust(100, b"\0") + b"ustar\x0000" + bytes(64) + device * 2
    head = head.ljust(BLOCK, b"\0")
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def padded(data: bytes) -> bytes:
    """Up to the next block."""
    return data + bytes(-len(data) % BLOCK)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


END = bytes(2 * BLOCK)
