"""The old mount API in words: mountinfo's lines, flags, what is below what; and the walk that stands in for openat2."""

import errno
import os
import random
import subprocess
import sys

import pytest

from pyinit.linux import mount, mount_old
from pyinit.linux.mount_old import Mounted, attributes_of, below, flags_of, is_covered, mounted

RO, NOSUID, NODEV, NOEXEC = mount.MOUNT_ATTR_RDONLY, mount.MOUNT_ATTR_NOSUID, mount.MOUNT_ATTR_NODEV, mount.MOUNT_ATTR_NOEXEC


def test_a_line_of_mountinfo():
    line = rb"36 35 98:0 /mnt1 /a\040b\134c\012d rw,noatime,nosuid shared:1 master:2 - ext3 /dev/root rw,errors=continue" + b"\n"
    assert mounted(line) == Mounted(36, 35, "/a b\\c\nd", NOSUID | 0x10)


@pytest.mark.parametrize(
    ("words", "attributes", "flags"),
    [
        ("rw,relatime", 0, 1 << 21),
        ("ro,nosuid,nodev,noexec,relatime", RO | NOSUID | NODEV | NOEXEC, 1 << 21 | 1 | 2 | 4 | 8),
        ("rw,noatime,nodiratime", 0x10 | 0x80, 1024 | 2048),
        ("ro", RO | 0x20, 1 << 24 | 1),  # no word on atime: each access is noted
        ("rw,relatime,nosymfollow,idmapped", 0x200000, 1 << 21 | 256),
    ],
)
def test_flags_of_a_mount_in_all_three_tongues(words, attributes, flags):
    assert attributes_of(words) == attributes
    assert flags_of(attributes) == flags


TABLE = [
    Mounted(1, 1, "/", 0),
    Mounted(2, 1, "/stage", 0),
    Mounted(7, 3, "/stage/m/a", 0),  # the kernel's order says nothing
    Mounted(3, 2, "/stage/m", 0),
    Mounted(4, 3, "/stage/m/auto", 0),
    Mounted(5, 4, "/stage/m/auto", 0),  # on the root of 4
    Mounted(6, 4, "/stage/m/auto/deep", 0),  # below 5, which came later
    Mounted(8, 7, "/stage/m/a/b", 0),
    Mounted(9, 3, "/stage/m/a/x", 0),  # below 7
    Mounted(10, 9, "/stage/m/a/x/y", 0),
    Mounted(11, 2, "/stage/mm", 0),
]


def test_what_is_mounted_below_a_mount():
    assert sorted(one.number for one in below(TABLE, 3)) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert [one.number for one in below(TABLE, 11)] == [11]
    assert below(TABLE, 99) == []


def test_what_another_mount_covers():
    assert [one.number for one in TABLE if is_covered(TABLE, one)] == [4, 6, 9, 10]


@pytest.mark.parametrize("attributes", [mount.MOUNT_ATTR_IDMAP, RO | 0x40000000])
def test_what_the_old_api_can_t_do_is_said(attributes):
    with pytest.raises(OSError, match="mount API") as caught:
        mount_old.mount_setattr(0, attributes=attributes, clear=0, propagation=0, recursive=True)
    assert caught.value.strerror == (
        "mount_setattr: ids are mapped by the new mount API only, which is refused here (`pyinit doctor` says why)"
        if attributes == mount.MOUNT_ATTR_IDMAP
        else "mount_setattr: a flag that the old mount API, which is in use here, does not know"
    )


def test_a_comma_in_a_value_is_refused():
    with pytest.raises(OSError, match="comma") as caught:
        mount_old.new_filesystem("tmpfs", {"mode": "1,uid=0"}, attributes=0, label="")
    assert caught.value.strerror == "mount tmpfs: mode=1,uid=0: the old mount API, which is in use here, can't take a comma"


@pytest.fixture
def root(tmp_path):
    """A tree of links beside what must not be found: its path and an fd of it."""
    top = tmp_path / "root"
    (top / "usr/lib").mkdir(parents=True)
    (top / "etc").mkdir()
    (top / "etc/motd").write_text("inside\n")
    (top / "dir/sub").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/motd").write_text("outside\n")
    links = {
        "lib": "usr/lib", "var": "/usr", "abs": "/usr/lib", "up": "usr/../etc", "out": "../../etc", "top": "/../etc", "far": "../" * 40 + "etc",
        "loop": "loop2", "loop2": "loop", "gone": "nowhere/at/all", "usr/lib/back": "../../etc", "file": "etc/motd", "slash": "etc/", "fileslash": "etc/motd/",
        "whole": str(tmp_path / "etc"), "self": ".", "dir/sub/hop": "../../dir/../top",
    }  # fmt: skip
    for name, target in links.items():
        (top / name).symlink_to(target)
    for number in range(45):  # not tried near the limit of 40: when the kernel looks again, it counts on
        (top / f"chain{number}").symlink_to(f"chain{number + 1}" if number < 44 else "etc")
    fd = os.open(top, os.O_PATH)
    yield top, fd
    os.close(fd)


NAMES = ["", "/", ".", "..", "/..", "etc", "lib", "var", "abs", "up", "out", "top", "far", "loop", "gone", "usr", "lib/back", "file", "slash", "fileslash",
         "whole", "self", "self/self/etc", "dir/sub/hop", "dir/sub/..", "dir/sub/../..", "out/motd", "top/motd", "far/motd", "etc/motd", "etc/motd/", "etc/motd/x",
         "etc/motd/..", "etc/motd/.", "none", "none/x", "lib/back/motd", "//etc//motd", "chain0", "chain30", "chain30/motd", "lib/", "file/", "x" * 300]  # fmt: skip
FLAGS = [os.O_PATH, os.O_RDONLY, os.O_RDONLY | os.O_DIRECTORY, os.O_PATH | os.O_NOFOLLOW, os.O_RDONLY | os.O_NOFOLLOW, os.O_PATH | os.O_DIRECTORY]


def seen(call, fd: int, path: str, flags: int) -> tuple[int, ...] | str:
    """The inode that is found and what the fd is for, or the error's words."""
    try:
        found = call(fd, path, flags)
    except OSError as error:
        return f"{errno.errorcode[error.errno]} {error.strerror}"
    try:
        import fcntl

        what = os.fstat(found)
        kept = os.O_PATH | os.O_ACCMODE
        return (what.st_dev, what.st_ino, fcntl.fcntl(found, fcntl.F_GETFL) & kept, fcntl.fcntl(found, fcntl.F_GETFD))
    finally:
        os.close(found)


@pytest.mark.parametrize("flags", FLAGS)
def test_the_walk_finds_what_openat2_finds_and_refuses_what_it_refuses(root, flags):
    _, fd = root
    before = sorted(os.listdir("/proc/self/fd"))
    differing = {}
    for name in NAMES:
        ours, kernels = (seen(call, fd, name, flags) for call in (mount_old.open_in_root, mount.open_in_root))
        if ours != kernels:
            differing[name] = (ours, kernels)
    assert differing == {}
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_random_paths_are_walked_as_openat2_does(root):
    _, fd = root
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    words = [name for name in NAMES if "/" not in name and name and len(name) < 20 and "chain" not in name] + ["..", "usr", "dir", "sub", "motd", "back", "hop"]
    for _ in range(2000):
        path = chance.choice(["", "/"]) + "/".join(chance.choices(words, k=chance.randint(1, 6)))
        if path:
            assert seen(mount_old.open_in_root, fd, path, os.O_PATH) == seen(mount.open_in_root, fd, path, os.O_PATH), (path, seed)


def test_what_is_renamed_elsewhere_meanwhile_is_no_reason_to_fail(tmp_path):
    """The kernel gives up a walk through ".." then: one of the machine's many renames would be the end of a start."""
    for name in ("a", "in/usr/lib"):
        (tmp_path / name).mkdir(parents=True)
    fd = os.open(tmp_path / "in", os.O_PATH)
    renames = f"import os\nwhile True:\n os.rename({str(tmp_path / 'a')!r}, {str(tmp_path / 'b')!r}); os.rename({str(tmp_path / 'b')!r}, {str(tmp_path / 'a')!r})"
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", renames], stderr=subprocess.DEVNULL) as busy:
        try:
            for _ in range(2000):
                os.close(mount.open_in_root(fd, "/usr/lib/../lib/../../usr/lib"))
        finally:
            busy.kill()
            os.close(fd)


@pytest.mark.parametrize("path", ["self/fd/0", "self/root", "self/cwd/etc", "self/exe", "self/ns/mnt", "thread-self/fd/0"])
def test_no_jump_through_the_links_of_procfs(path):
    fd = os.open("/proc", os.O_PATH)
    try:
        ours, kernels = (seen(call, fd, path, os.O_RDONLY) for call in (mount_old.open_in_root, mount.open_in_root))
        assert ours == kernels == f"ELOOP openat2 {path}: Too many levels of symbolic links"
        assert seen(mount_old.open_in_root, fd, "self/status", os.O_PATH)[0] == os.fstat(fd).st_dev
    finally:
        os.close(fd)


def test_the_old_api_is_imported_only_where_a_call_is_refused():
    code = "import sys\nfrom pyinit.linux import mount\nmount.settle()\nprint('pyinit.linux.mount_old' in sys.modules, mount.refused_mounts() or mount.refused_walks())"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    imported, _, refused = done.stdout.strip().partition(" ")
    assert imported == str(refused != "None")
