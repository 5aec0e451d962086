"""Which application image fits which base."""

import pytest

from pyinit.launch import release

BOOKWORM = release.parse('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n# a comment\nID=debian\nVERSION_ID="12"\n')
LEVELLED = {"ID": "web", "ID_LIKE": "debian ubuntu", "VERSION_ID": "3.1", "SYSEXT_LEVEL": "7"}
ROLLING = {"ID": "arch"}


def test_quotes_are_a_shells_and_comments_and_other_lines_are_left_out():
    text = "A=1\nB='it is $2'\nC=\"say \\\"so\\\"\"\n#D=4\nno line\n  E = 5\nF=\nG=\"\n"
    assert release.parse(text) == {"A": "1", "B": "it is $2", "C": 'say "so"', "E ": " 5", "F": "", "G": '"'}


@pytest.mark.parametrize(
    ("extension", "base", "text"),
    [
        ("ID=debian\nVERSION_ID=12", BOOKWORM, ""),
        ("ID=debian\nVERSION_ID=13", BOOKWORM, "needs VERSION_ID=13, and the base has VERSION_ID=12"),
        ("ID=debian", BOOKWORM, "does not say which VERSION_ID it needs, and the base has VERSION_ID=12"),
        ("ID=fedora\nVERSION_ID=12", BOOKWORM, "needs ID=fedora, and the base has ID=debian"),
        ("VERSION_ID=12", BOOKWORM, "does not say what it needs: its extension-release has no ID"),
        ("ID=_any", BOOKWORM, ""),
        ("ID=_any", None, ""),
        ("ID=debian", None, "needs ID=debian, and the base has no os-release"),
        ("ID=web\nSYSEXT_LEVEL=7", LEVELLED, ""),
        ("ID=web\nSYSEXT_LEVEL=7\nVERSION_ID=2", LEVELLED, ""),
        ("ID=web\nSYSEXT_LEVEL=6\nVERSION_ID=3.1", LEVELLED, "needs SYSEXT_LEVEL=6, and the base has SYSEXT_LEVEL=7"),
        ("ID=debian\nSYSEXT_LEVEL=7", LEVELLED, ""),
        ("ID=debian\nSYSEXT_LEVEL=7\nVERSION_ID=12", BOOKWORM, ""),
        ("ID=arch\nVERSION_ID=5", ROLLING, ""),
        ("ID=linux", {}, ""),
        ("ID=debian\nVERSION_ID=12\nARCHITECTURE=x86-64", BOOKWORM, ""),
        ("ID=_any\nARCHITECTURE=arm64", BOOKWORM, "needs ARCHITECTURE=arm64, and this machine is x86-64"),
    ],
)
def test_a_fit_or_why_not(extension, base, text):
    assert release.mismatch(release.parse(extension), base, "x86_64") == text
