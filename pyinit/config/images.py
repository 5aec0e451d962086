"""What an image says of itself: the superblocks of squashfs and EROFS.

Owns where their fields stand. Must not know files, or who asks. Law: bytes that the kernel would refuse with a bare
"invalid argument" are told apart here, in words.
Sources: the kernel's fs/squashfs/squashfs_fs.h and fs/erofs/erofs_fs.h.
"""

import struct

from pyinit.records import NamedTuple

HEAD_BYTES = 1024 + 128
SQUASHFS, EROFS = "squashfs", "erofs"
_SQUASHFS_MAGIC, _EROFS_MAGIC = b"hsqs", b"\xe2\xe1\xf5\xe0"
_SQUASHFS_BYTES, _EROFS_AT, _EROFS_BYTES = 96, 1024, 128
_SUPERBLOCK = struct.Struct("<4sIIIIHHHHHHQQ")
_COMPRESSORS = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
_NOT_IN_LINUX = ("lzma",)
_BLOCK_LOGS = range(12, 21)  # 4 KiB to 1 MiB
_AGAIN = "build or copy it again"


class _Squashfs(NamedTuple):
    block_bytes: int
    block_log: int
    compressor: int
    version: str
    used_bytes: int


def kind(head: bytes) -> str:
    """"squashfs", "erofs" or "" for what starts with `head`, HEAD_BYTES of it."""
    if head.startswith(_SQUASHFS_MAGIC):
        return SQUASHFS
    return EROFS if head[_EROFS_AT:].startswith(_EROFS_MAGIC) else ""


def fault(head: bytes, size_bytes: int | None) -> str:
    """Why an image of a known kind can't be whole, and what to do; "" if nothing speaks against it.

    `size_bytes`: of the file; None of a block device, whose size is not asked for.
    """
    erofs = kind(head) == EROFS
    least = _EROFS_AT + _EROFS_BYTES if erofs else _SQUASHFS_BYTES
    if len(head) < least:
        return _truncated(least, len(head))
    used = _erofs_bytes(head) if erofs else _squashfs(head).used_bytes
    if size_bytes is not None and used > size_bytes:
        return _truncated(used, size_bytes)
    return "" if erofs else _squashfs_fault(_squashfs(head))


def compressor(head: bytes) -> str:
    """Of a squashfs, by the name that mksquashfs gives it; "" if that is nothing to be told."""
    return _COMPRESSORS.get(_squashfs(head).compressor, "") if kind(head) == SQUASHFS and len(head) >= _SQUASHFS_BYTES else ""


def _truncated(wanted: int, found: int) -> str:
    return f"is truncated: the superblock says {wanted} bytes, the file has {found}; {_AGAIN}"


def _squashfs(head: bytes) -> _Squashfs:
    row = _SUPERBLOCK.unpack_from(head)
    return _Squashfs(row[3], row[6], row[5], f"{row[9]}.{row[10]}", row[12])


def _squashfs_fault(found: _Squashfs) -> str:
    if found.version != "4.0":
        return f"is a squashfs of version {found.version}, and Linux reads 4.0 only; build it again with mksquashfs 4"
    name = _COMPRESSORS.get(found.compressor)
    if name in _NOT_IN_LINUX:
        return f"is compressed with {name}, which Linux does not read; build it again with zstd, xz, lz4, lzo or gzip"
    if name is None:
        return f"is damaged: there is no compressor {found.compressor}; {_AGAIN}"
    if found.block_log not in _BLOCK_LOGS or found.block_bytes != 1 << found.block_log:
        return f"is damaged: its blocks can't be of {found.block_bytes} bytes and 2^{found.block_log} bytes; {_AGAIN}"
    if found.used_bytes < _SQUASHFS_BYTES:
        return f"is damaged: {found.used_bytes} bytes are less than its superblock has; {_AGAIN}"
    return ""


def _erofs_bytes(head: bytes) -> int:
    block_log = head[_EROFS_AT + 12]
    blocks: int = struct.unpack_from("<I", head, _EROFS_AT + 36)[0]
    return blocks << min(block_log, 32)
