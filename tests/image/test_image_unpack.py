"""What a layer means: whiteouts, parents, hard links; and each entry that would lead elsewhere, with its words."""

import io
import random
import tarfile

import pytest
from layouts import archive, entry, folder, hardlink, symlink

from pyinit.image import tar
from pyinit.image.tar import TarError
from pyinit.image.unpack import arrange

OPAQUE = (("trusted.overlay.opaque", b"y"), ("user.overlay.opaque", b"y"))


def layers(*archives):
    """What each becomes over those before it."""
    tree, found = {}, []
    for data in archives:
        layer = arrange(tar.read(io.BytesIO(data), len(data)), tree)
        tree = layer.tree
        found.append(layer)
    return found


def shown(layer):
    """Without times and places."""
    return [(one.path, one.kind, f"{one.mode:04o}", *([one.link] if one.link else []), *one.xattrs) for one in layer.entries]


def refusal(*archives):
    with pytest.raises(TarError) as caught:
        layers(*archives)
    return str(caught.value)


BASE = archive(
    folder("./"), folder("./etc", mode=0o750, uid=7), entry("./etc/passwd", data=b"root"), folder("./tmp", mode=0o1777), folder("./usr"),
    folder("./usr/bin"), entry("./usr/bin/su", data=b"su", mode=0o4755), symlink("./bin", "usr/bin"), symlink("./etc/mtab", "/proc/mounts"),
)  # fmt: skip


def test_a_base_in_order_with_its_modes():
    assert shown(layers(BASE)[0]) == [
        ("", "folder", "0755"), ("bin", "symlink", "0644", "usr/bin"), ("etc", "folder", "0750"), ("etc/mtab", "symlink", "0644", "/proc/mounts"),
        ("etc/passwd", "file", "0644"), ("tmp", "folder", "1777"), ("usr", "folder", "0755"), ("usr/bin", "folder", "0755"),
        ("usr/bin/su", "file", "4755"),
    ]  # fmt: skip


def test_parents_that_nobody_wrote_are_as_below_or_plain():
    top = layers(BASE, archive(entry("tmp/x"), entry("etc/a/b/c")))[1]
    assert shown(top) == [
        ("", "folder", "0755"), ("etc", "folder", "0750"), ("etc/a", "folder", "0755"), ("etc/a/b", "folder", "0755"), ("etc/a/b/c", "file", "0644"),
        ("tmp", "folder", "1777"), ("tmp/x", "file", "0644"),
    ]  # fmt: skip
    assert next(one.uid for one in top.entries if one.path == "etc") == 7


def test_whiteouts():
    top = layers(BASE, archive(folder("etc"), entry("etc/.wh.passwd"), entry("etc/.wh.nothing"), entry("no/.wh.where"), entry("usr/.wh..wh..opq"), entry(".wh..wh.plnk")))[1]
    assert shown(top) == [
        ("", "folder", "0755"), ("etc", "folder", "0755"), ("etc/passwd", "whiteout", "0000"), ("usr", "folder", "0755", *OPAQUE),
    ]  # fmt: skip
    assert sorted(top.tree) == ["", "bin", "etc", "etc/mtab", "tmp", "usr"]


def test_a_whiteout_beside_what_stands_for_it():
    top = layers(BASE, archive(entry("usr/new"), entry(".wh.usr"), entry("bin"), entry(".wh.bin")))[1]
    assert shown(top) == [("", "folder", "0755"), ("bin", "file", "0644"), ("usr", "folder", "0755", *OPAQUE), ("usr/new", "file", "0644")]
    assert [path for path in sorted(top.tree) if path.startswith("usr")] == ["usr", "usr/new"]


def test_whiteouts_in_what_is_no_folder_any_more_hide_nothing():
    top = layers(BASE, archive(symlink("usr", "../.."), entry("usr/.wh.bin"), entry("usr/bin/.wh..wh..opq"), entry("etc"), entry("etc/.wh.passwd")))[1]
    assert shown(top) == [("", "folder", "0755"), ("etc", "file", "0644"), ("usr", "symlink", "0644", "../..")]


def test_a_root_that_hides_all_below():
    top = layers(BASE, archive(folder("./", mode=0o700), entry(".wh..wh..opq"), folder("tmp"), entry("new")))[1]
    assert shown(top) == [
        ("", "folder", "0700"), ("bin", "whiteout", "0000"), ("etc", "whiteout", "0000"), ("new", "file", "0644"), ("tmp", "folder", "0755", *OPAQUE),
        ("usr", "whiteout", "0000"),
    ]  # fmt: skip
    assert sorted(top.tree) == ["", "new", "tmp"]


def test_what_comes_back_in_a_later_layer_is_new():
    assert shown(layers(BASE, archive(entry(".wh.etc")), archive(entry("etc/x")))[2]) == [
        ("", "folder", "0755"), ("etc", "folder", "0755"), ("etc/x", "file", "0644"),
    ]  # fmt: skip


def test_hard_links_lead_to_the_first_name():
    found = layers(archive(entry("z", data=b"hi", mode=0o600), hardlink("b", "./z"), hardlink("a", "b"), symlink("s", "z"), hardlink("r", "s")))[0]
    assert shown(found)[1:] == [("a", "file", "0600"), ("b", "hardlink", "0755", "a"), ("r", "symlink", "0644", "z"), ("s", "symlink", "0644", "z"), ("z", "hardlink", "0755", "a")]


def test_attributes_without_a_place_are_counted():
    one = entry("a", pax_headers={"SCHILY.xattr.system.posix_acl_access": "x", "SCHILY.xattr.user.a": "b", "SCHILY.xattr.security.capability": "c"})
    found = layers(archive(one))[0]
    assert shown(found)[1:] == [("a", "file", "0644", ("security.capability", b"c"), ("user.a", b"b"))]
    assert found.dropped == {"system.posix_acl_access": 1}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([entry("/etc/passwd")], '"/etc/passwd": an absolute path, and a layer has only what lies below the root'),
        ([entry("../etc/passwd")], '"../etc/passwd": ".." in a path, which leads out of a folder'),
        ([entry("a/../../b")], '"a/../../b": ".." in a path, which leads out of a folder'),
        ([symlink("a", "/etc"), entry("a/passwd")], '"a/passwd": its folder "a" is a symlink, to "/etc": it would lie elsewhere, or nowhere'),
        ([entry("a/passwd"), symlink("a", "/etc")], '"a/passwd": its folder "a" is a symlink, to "/etc": it would lie elsewhere, or nowhere'),
        ([entry("bin/.wh.su")], '"bin/.wh.su": its folder "bin" is a symlink of a layer below, to "usr/bin": it would lie elsewhere, or nowhere'),
        ([entry("bin/sh")], '"bin/sh": its folder "bin" is a symlink of a layer below, to "usr/bin": it would lie elsewhere, or nowhere'),
        ([entry("etc/passwd/x")], '"etc/passwd/x": its folder "etc/passwd" is a file of a layer below: it would lie elsewhere, or nowhere'),
        ([entry("f"), folder("f/d")], '"f/d/": its folder "f" is a file: it would lie elsewhere, or nowhere'),
        ([hardlink("h", "/etc/shadow")], '"h": a hard link to "/etc/shadow": an absolute path, and a layer has only what lies below the root'),
        ([hardlink("h", "../shadow")], '"h": a hard link to "../shadow": ".." in a path, which leads out of a folder'),
        ([hardlink("h", "etc/passwd")], '"h": a hard link to "etc/passwd", which is no file before it in this layer'),
        ([folder("d"), hardlink("h", "d")], '"h": a hard link to "d", which is no file before it in this layer'),
        ([hardlink("h", "h")], '"h": a hard link to "h", which is no file before it in this layer'),
        ([entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3)], "\"null\": a device: what a container has in /dev is the launcher's to say"),
        ([entry("hidden", tarfile.CHRTYPE)], "\"hidden\": a device: what a container has in /dev is the launcher's to say"),
        ([entry("sda", tarfile.BLKTYPE, devmajor=8)], "\"sda\": a device: what a container has in /dev is the launcher's to say"),
        ([entry("a"), entry("./a")], '"./a": it is there twice; the other is "a"'),
        ([folder("d"), folder("d")], '"d/": it is there twice; the other is "d/"'),
        ([entry("a\nb")], '"a\\nb": its name has the control character 0x0a'),
        ([entry("a\x1b[2J")], '"a\\x1b[2J": its name has the control character 0x1b'),
        ([symlink("s", "a\nb")], '"s": it leads to the control character 0x0a'),
        ([entry("n" * 256)], f'"{"n" * 56}...": a name that is too long: 255 bytes, of a path 4095, is the most'),
        ([entry("d/" * 2048 + "f")], f'"{"d/" * 28}...": a name that is too long: 255 bytes, of a path 4095, is the most'),
        ([symlink("./", "/etc")], '"./": the root is a symlink'),
        ([entry(".wh.")], '".wh.": a whiteout of nothing'),
        ([entry(".wh...")], '".wh...": a whiteout of nothing'),
        ([folder(".wh.etc")], '".wh.etc/": a whiteout that is a folder'),
        ([entry(".wh.etc/passwd")], '".wh.etc/passwd": it lies in a whiteout: names in .wh. are no folder\'s'),
        (
            [entry("a", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/secret"})],
            '"a": it has trusted.overlay.redirect, which is overlayfs\'s own: it could show what lies elsewhere',
        ),
    ],
)
def test_what_is_refused(entries, said):
    assert refusal(BASE, archive(*entries)) == said


def test_whatever_the_bytes_are_they_are_a_layer_or_refused():
    """A printed seed; what is taken lies below the root, each thing once and in a folder."""
    whole = tar.padded(BASE.rstrip(b"\0")) + archive(hardlink("usr/x", "usr/bin/su"), entry("n" * 150), entry(".wh.etc"), entry("a", pax_headers={"SCHILY.xattr.user.a": "b"}))
    taken = 0
    for seed in range(3000):
        chance = random.Random(seed)
        data = bytearray(whole if seed % 2 else BASE)
        for _ in range(chance.randint(1, 4)):
            at = chance.choice([chance.randrange(len(data)), chance.randrange(len(data) // 512) * 512 + chance.choice([0, 100, 124, 135, 148, 156, 157, 257, 345])])
            data[at] = chance.randrange(256)
        if chance.random() < 0.7:  # so that it gets past the checksum
            for at in range(0, len(data), 512):
                if data[at + 257 : at + 262] == b"ustar":
                    data[at + 148 : at + 156] = b" " * 8
                    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
        if chance.random() < 0.1:
            del data[chance.randrange(len(data)) :]
        try:
            layer = arrange(tar.read(io.BytesIO(bytes(data)), len(data)), {})
        except TarError as error:
            assert "\n" not in str(error), seed
            continue
        taken += 1
        paths = [one.path for one in layer.entries]
        folders = {one.path for one in layer.entries if one.kind == "folder"}
        assert len(set(paths)) == len(paths), seed
        assert all(not path.startswith("/") and ".." not in path.split("/") for path in paths), seed
        assert all(path.rpartition("/")[0] in folders for path in paths if path), seed
    assert 300 < taken < 2700
