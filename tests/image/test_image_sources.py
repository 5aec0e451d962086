"""apt's sources cut down to one suite, in both formats."""

from pathlib import Path

import pytest

from pyinit.image.sources import Sources, read_sources, select_deb822, select_one_line
from pyinit.image.spec import BuildError

DEB822 = """\
# the machine's own
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm trixie bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://mirror.example/debian
Suites: trixie
Components: main

Enabled: no
Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""


def test_deb822_keeps_the_suites_asked_for_and_the_embedded_key() -> None:
    assert select_deb822(DEB822, "bookworm") == (
        "Types: deb\n"
        "Uris: http://mirror.example/debian\n"
        "Suites: bookworm bookworm-updates\n"
        "Components: main\n"
        "Signed-by: \n"
        " -----BEGIN PGP PUBLIC KEY BLOCK-----\n"
        " .\n"
        " -----END PGP PUBLIC KEY BLOCK-----\n"
    )


def test_deb822_without_the_suite_is_empty() -> None:
    assert select_deb822(DEB822, "sid") == ""


def test_one_line_keeps_the_suites_asked_for_with_their_options() -> None:
    text = """\
# deb http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian bookworm main contrib # ours
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/debian bookworm-security main
deb http://mirror.example/debian trixie main
deb cdrom:[Debian]/ bookworm main
"""
    assert select_one_line(text, "bookworm") == (
        "deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian bookworm main contrib\n"
        "deb http://mirror.example/debian bookworm-security main\n"
    )


def test_both_formats_are_read_from_the_folder(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/ bookworm main\n")
    (parts / "b.sources").write_text("Types: deb\nURIs: http://b.example/\nSuites: bookworm\nComponents: main\n")
    (parts / "c.list").write_text("deb http://c.example/ bookworm main\n")
    (parts / "d.list.disabled").write_text("deb http://d.example/ bookworm main\n")
    assert read_sources("bookworm", str(tmp_path)) == Sources(
        one_line="deb http://a.example/ bookworm main\ndeb http://c.example/ bookworm main\n",
        deb822="Types: deb\nUris: http://b.example/\nSuites: bookworm\nComponents: main\n",
    )


def test_no_source_of_the_suite_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        read_sources("sid", str(tmp_path))
    assert str(caught.value) == (
        f"no apt source of this machine is for sid (looked in {tmp_path}): "
        f"add one to {tmp_path}/sources.list.d, or build for the suite that the machine has"
    )
