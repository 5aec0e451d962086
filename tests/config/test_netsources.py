"""Sources and options of network file systems, as a config gives them."""

import pytest

from pyinit.config.netsources import Place, fault, option_fault, place


@pytest.mark.parametrize(
    ("fstype", "source", "expected"),
    [
        ("nfs", "nas:/files", Place("nas", "/files")),
        ("nfs4", "10.0.2.2:/", Place("10.0.2.2", "/")),
        ("nfs4", "[fd00::1]:/a:b/c d", Place("fd00::1", "/a:b/c d")),
        ("nfs4", "[fe80::1%eth0]:/x", Place("fe80::1%eth0", "/x")),
        ("cifs", "//nas/share", Place("nas", "share")),
        ("cifs", "//nas.example/My Files/a/b", Place("nas.example", "My Files/a/b")),
        ("cifs", "//[fd00::1]/share", Place("fd00::1", "share")),
        ("9p", "files", Place("files")),
    ],
)
def test_a_source_has_parts(fstype, source, expected):
    assert place(fstype, source) == expected
    assert fault(fstype, source) == ""


@pytest.mark.parametrize(
    ("fstype", "source", "expected"),
    [
        ("nfs", "/files", 'expected "host:/path", found "/files"'),
        ("nfs", "nas", 'expected "host:/path", found "nas"'),
        ("nfs", "nas:files", 'expected "host:/path", found "nas:files"'),
        ("nfs", ":/files", 'expected "host:/path", found ":/files"'),
        ("nfs", "", 'expected "host:/path", found ""'),
        ("nfs4", "nfs://nas/files", 'expected "host:/path", found "nfs://nas/files"; without nfs://, and with a colon after the host'),
        ("nfs4", "a,b:/files", 'expected "host:/path", found "a,b:/files"; one server only'),
        ("nfs4", "fd00::1:/x", 'expected "host:/path", found "fd00::1:/x"; an IPv6 address stands in brackets, [fd00::1]:/path'),
        ("nfs4", "[fd00::1]/x", 'expected "[IPv6 address]:/path", found "[fd00::1]/x"'),
        ("nfs4", "nas:/a\nb", "there is a '\\n' in 'nas:/a\\nb'"),
        ("nfs4", "nas:/" + "x" * 251, "is longer than the 255 bytes that the kernel takes"),
        ("cifs", "nas/share", 'expected "//server/share" or "//server/share/folder", found "nas/share"'),
        ("cifs", "//nas", 'expected "//server/share" or "//server/share/folder", found "//nas"'),
        ("cifs", "//nas//x", 'expected "//server/share" or "//server/share/folder", found "//nas//x"'),
        ("cifs", "\\\\nas\\x", 'expected "//server/share" or "//server/share/folder", found "\\\\nas\\x"; with slashes, and nothing before them'),
        ("cifs", "smb://nas/x", 'expected "//server/share" or "//server/share/folder", found "smb://nas/x"; with slashes, and nothing before them'),
        ("cifs", "//joe@nas/x", 'expected "//server/share" or "//server/share/folder", found "//joe@nas/x"; the user goes into options'),
        ("9p", "", 'expected the tag of a 9p device, or a host (trans = "tcp"), found nothing'),
        ("9p", "my files", "there is a ' ' in 'my files'"),
    ],
)
def test_what_is_no_source_is_told(fstype, source, expected):
    assert fault(fstype, source) == expected


@pytest.mark.parametrize(
    ("fstype", "name", "expected"),
    [
        ("nfs4", "soft", ""),
        ("nfs4", "clientaddr", ""),
        ("nfs4", "addr", "pyinit sets addr itself; take it out"),
        ("cifs", "username", ""),
        ("cifs", "pass", "expected pass in secret_options, for here it stands in the open"),
        ("cifs", "credentials", "expected username here and password in secret_options, for only mount.cifs reads such a file"),
        ("cifs", "ip", "pyinit sets ip itself; take it out"),
        ("9p", "trans", ""),
        ("9p", "source", "pyinit sets source itself; take it out"),
    ],
)
def test_options_that_a_config_can_not_give(fstype, name, expected):
    assert option_fault(fstype, name) == expected
