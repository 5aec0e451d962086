"""Archives by hostile hands, and our own: what is refused with which words, what is read, and that others read ours."""

import io
import tarfile

import pytest
from layouts import archive, entry, folder, hardlink, symlink

from pyinit.image import tar
from pyinit.image.tar import Entry, TarError


def read(data: bytes) -> list[Entry]:
    return list(tar.read(io.BytesIO(data), len(data)))


def refusal(data: bytes) -> str:
    with pytest.raises(TarError) as caught:
        read(data)
    return str(caught.value)


def summed(block: bytes) -> bytes:
    """With the right checksum."""
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def patched(at: int, value: bytes, name="a", data=b"hi") -> bytes:
    """An archive of one file, whose header has other bytes at a place."""
    whole = archive(entry(name, data=data), dialect=tarfile.USTAR_FORMAT)
    return summed(whole[:at] + value + whole[at + len(value) : 512]) + whole[512:]


def records(*pairs, kind=tarfile.XHDTYPE, raw=None) -> bytes:
    """An archive of one file with a PAX header of these records, before it."""
    data = b"".join(tar._record(key, value) for key, value in pairs) if raw is None else raw
    before = archive(entry("pax", kind, data), dialect=tarfile.USTAR_FORMAT)[: 512 + len(tar.padded(data))]
    return before + archive(entry("a", data=b"hi"), dialect=tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_what_python_and_gnu_write_is_read(kind):
    long, deep = "d/" + "n" * 200, "d/" + "l" * 300
    found = read(
        archive(
            folder("d", mode=0o1777, uid=70_000_000, gid=8**7), entry(long, data=b"hello", mode=0o4755), symlink("s", deep), hardlink("h", long),
            entry("pipe", tarfile.FIFOTYPE), entry("müll"), entry("\udcff"), dialect=kind,
        )
    )  # fmt: skip
    time = 1_600_000_000
    assert [one._replace(at=0) for one in found] == [
        Entry("d/", "folder", 0o1777, 70_000_000, 8**7, time),
        Entry(long, "file", 0o4755, mtime_s=time, size_bytes=5),
        Entry("s", "symlink", 0o644, mtime_s=time, link=deep),
        Entry("h", "hardlink", 0o644, mtime_s=time, link=long),
        Entry("pipe", "fifo", 0o644, mtime_s=time),
        Entry("müll", "file", 0o644, mtime_s=time),
        Entry("\udcff", "file", 0o644, mtime_s=time),
    ]


def test_an_archive_without_its_last_blocks_and_an_empty_one():
    whole = archive(entry("a", data=b"hi"), dialect=tarfile.USTAR_FORMAT)
    assert [one.path for one in read(whole[:1024])] == ["a"]
    assert read(b"") == []


def test_extended_attributes_are_bytes():
    value = b"\x01\x00\xff="
    assert read(records((b"SCHILY.xattr.security.capability", value)))[0].xattrs == (("security.capability", value),)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (patched(0, b"b", data=b"hi")[:148] + b"0000000\0" + patched(0, b"b")[156:], '"b": its header is damaged: the checksum is wrong'),
        (patched(156, b"S"), '"a": a sparse file: pack it anew with a tar that writes whole ones'),
        (records((b"GNU.sparse.major", b"1")), '"a": a sparse file: pack it anew with a tar that writes whole ones'),
        (patched(156, b"V"), '"a": an entry of type "V", which no layer has'),
        (patched(156, b"M"), '"a": an entry of type "M", which no layer has'),
        (patched(124, b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7), '"a": it says 9223372036854775807 bytes, the archive has 9728 more'),
        (patched(124, b"\xff" * 12), '"a": a size of -1'),
        (patched(124, b"00000009xyz\0"), '"a": its size is no number: "00000009xyz\\x00"'),
        (patched(156, b"5"), '"a": a folder with 2 bytes of content'),
        (patched(156, b"1"), '"a": a hardlink with 2 bytes of content'),
        (patched(108, b"\xff" * 8), '"a": owner -1 is none: there are 0 to 4294967294'),
        (patched(116, b"\x80\0\0\0\xff\xff\xff\xff"), '"a": group 4294967295 is none: there are 0 to 4294967294'),
        (records((b"size", b"1e3")), '"a": a PAX size that is no number: "1e3"'),
        (records((b"size", b"9" * 15)), f'"a": it says {"9" * 15} bytes, the archive has 9728 more'),
        (records((b"path", b"b"), (b"path", b"../c")), '"pax": a PAX header that says path twice'),
        (records((b"path", b"")), '"pax": a PAX header with an empty path'),
        (records(raw=b"12 path=b"), '"pax": a PAX header whose lengths are wrong'),
        (records(raw=b"-1 path=b\n"), '"pax": a PAX header that has no length where one belongs'),
        (records(raw=b"09 path=b\n"), '"pax": a PAX header that has no length where one belongs'),
        (records(raw=b"9" * 30 + b" path=b\n"), '"pax": a PAX header that has no length where one belongs'),
        (records((b"path", b"/etc/passwd"), kind=tarfile.XGLTYPE), '"pax": a PAX header for all entries that says path'),
        (records((b"mtime", b"1"))[:1024] + records((b"uid", b"1")), '"pax": two PAX headers for one entry'),
        (records((b"mtime", b"1"))[:1024] + tar.END, "it ends after a header that is about an entry to come"),
        (archive(entry("a", data=b"hi" * 100))[:600], '"a": it says 200 bytes, the archive has 88 more'),
        (archive(entry("a"))[:700], "it is cut off within a header, after 700 bytes"),
        (archive(entry("a")) + archive(entry("b")), "something stands behind its end"),
    ],
)  # fmt: skip
def test_what_is_refused(data, said):
    assert refusal(data) == said


def test_a_header_of_two_megabytes_is_not_read():
    head = patched(124, b"00010000000\0")[:512]
    said = '"a": a header of 2097152 bytes, of which 1048576 would be many'
    assert refusal(summed(head[:156] + b"x" + head[157:]) + bytes(1 << 21)) == said


def test_a_header_of_fewer_bytes_than_none_is_not_read():
    head = patched(124, b"\xff" * 12)[:512]
    said = '"a": a header of -1 bytes, of which 1048576 would be many'
    assert refusal(summed(head[:156] + b"x" + head[157:]) + bytes(1024)) == said


def test_comments_for_all_entries_are_gits():
    assert [one.path for one in read(records((b"comment", b"0123abc"), kind=tarfile.XGLTYPE))] == ["a"]


OURS = [
    Entry("", "folder", 0o755),
    Entry("d", "folder", 0o1777, 70_000_000, 8**7, 5),
    Entry("d/" + "n" * 200, "file", 0o4755, size_bytes=2, xattrs=(("security.capability", b"\x01\xff\n="), ("user.a", b"b"))),
    Entry("h", "hardlink", link="d/" + "n" * 200),
    Entry("m\u00fcll", "symlink", 0o777, link="../" * 60 + "x"),
    Entry("p", "fifo", 0o600),
]


def written(entries: list[Entry]) -> bytes:
    return b"".join(tar.header(one) + (tar.padded(b"hi") if one.size_bytes else b"") for one in entries) + tar.END


def test_our_own_is_read_as_it_was_meant():
    found = read(written(OURS))
    assert [one._replace(at=0, path=one.path.removeprefix("./").rstrip("/")) for one in found] == OURS


def test_python_reads_ours():
    with tarfile.open(fileobj=io.BytesIO(written(OURS)), errors="surrogateescape") as file:
        found = [(one.name, one.mode, one.uid, one.gid, one.mtime, one.size, one.linkname) for one in file]
    assert found == [(one.path or ".", one.mode, one.uid, one.gid, one.mtime_s, one.size_bytes, one.link) for one in OURS]


def test_a_file_of_8_gib_has_its_size_in_a_record():
    whole = Entry("a", "file", size_bytes=8**11)
    with tarfile.open(fileobj=io.BytesIO(tar.header(whole))) as file:
        assert file.next().size == 8**11
