"""The image's passwd and group, as we read them: plain files, plain numbers."""

import os

import pytest

from pyinit.init.users import User, find_group, find_user, groups_of

PASSWD = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\nbare:x:7:8:::\nodd:x:+5:5::/:/bin/sh\n"
GROUP = "root:x:0:\nwww-data:x:33:\nadm:x:4:www-data,root\nssl:x:110:www-data\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "passwd").write_text(PASSWD)
    (tmp_path / "group").write_text(GROUP)
    return str(tmp_path / "passwd"), str(tmp_path / "group")


@pytest.mark.parametrize(
    ("name", "user"),
    [
        ("www-data", User("www-data", 33, 33, "/var/www", "/usr/sbin/nologin")),
        ("33", User("www-data", 33, 33, "/var/www", "/usr/sbin/nologin")),
        ("bare", User("bare", 7, 8, "/", "/bin/sh")),
        ("12345", User("12345", 12345, 12345, "/", "/bin/sh")),  # nobody's number
        ("nobody", None),
        ("odd", None),  # its uid has a sign
        ("+0", None),
        (" 0", None),
        ("-1", None),
        ("4294967295", None),  # -1 in disguise
        ("", None),
    ],
)
def test_users(files, name, user):
    assert find_user(name, files[0]) == user


HOSTILE = (
    "1000:x:0:0:the name is a number:/:/bin/sh\n"
    "nul:x:7:7::/\0:/bin/sh\nlong:x:" + "9" * 5000 + ":7::/:/bin/sh\nscript:x:\u0661:7::/:/bin/sh\nhex:x:0x0:7::/:/bin/sh\n"
    "minus:x:7:-1::/:/bin/sh\nfew:x:7:7\n:x:7:7::/:/bin/sh\n"
)


@pytest.mark.parametrize(
    ("name", "user"),
    [
        ("1000", User("1000", 1000, 1000, "/", "/bin/sh")),  # CVE-2016-3697
        ("0", User("1000", 0, 0, "/", "/bin/sh")),
        ("9" * 5000, None),
        *((name, None) for name in ("nul", "long", "script", "hex", "minus", "few")),
    ],
)
def test_a_hostile_images_users(tmp_path, name, user):
    path = tmp_path / "passwd"
    path.write_text(HOSTILE)
    assert find_user(name, str(path)) == user


@pytest.mark.parametrize(("name", "gid"), [("1000", 1000), ("+0", None), ("long", None), ("9" * 5000, None)])
def test_a_hostile_images_groups(tmp_path, name, gid):
    path = tmp_path / "group"
    path.write_text("1000:x:0:\n+0:x:+0:\nlong:x:" + "9" * 5000 + ":app\n")
    assert find_group(name, str(path)) == gid
    assert groups_of(User("app", 5, 5, "/", "/"), str(path)) == [5]


def test_root_is_there_without_a_file(tmp_path):
    assert find_user("root", str(tmp_path / "none")) == User("root", 0, 0, "/root", "/bin/sh")
    assert find_group("root", str(tmp_path / "none")) == 0


def test_groups(files):
    assert (find_group("adm", files[1]), find_group("110", files[1]), find_group("none", files[1])) == (4, 110, None)
    user = find_user("www-data", files[0])
    assert user is not None
    assert groups_of(user, files[1]) == [4, 33, 110]


@pytest.mark.parametrize("kind", ["fifo", "link", "folder", "binary"])
def test_what_is_no_plain_file_is_not_read(tmp_path, kind):
    path = tmp_path / "passwd"
    if kind == "fifo":
        os.mkfifo(path)  # a reader would wait for ever
    elif kind == "link":
        (tmp_path / "real").write_text(PASSWD)
        path.symlink_to("real")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"\xff\xfe:x:\0:::\n" * 10)
    assert find_user("www-data", str(path)) is None
