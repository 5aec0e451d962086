"""What `pyinit export` and `pyinit import` refuse on the command line, and that each option of theirs is in the manual."""

import pathlib
import re

import pytest

import pyinit
from pyinit.cli import export, import_
from pyinit.errors import UsageError

PAGE = (pathlib.Path(pyinit.__file__).parent / "man/pyinit.1").read_text().replace("\\", "")


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        (export, ["ocy", "x"], "ocy: expected `pyinit export oci`, `bundle` or `systemd`; did you mean oci?"),
        (export, ["oci"], "export oci: expected one FILE, found nothing"),
        (export, ["bundle", "a", "b"], "export bundle: expected one FILE, found a b"),
        (export, ["bundle", "--tag", "x", "a"], "--tag: there is no such option; there are: --output --socket -c"),
        (import_, ["docker", "x"], "docker: expected `pyinit import oci LAYOUT`"),
        (import_, ["oci"], "import: expected one LAYOUT[:TAG], found nothing"),
        (import_, ["oci", "--max-size", "9X", "a"], '--max-size 9X: expected a size such as "512M" or "20G"'),
        (import_, ["oci", "--max-size", "-1G", "a"], '--max-size -1G: expected a size such as "512M" or "20G"'),
    ],
)
def test_wrong_words(verb, words, said):
    with pytest.raises(UsageError) as caught:
        verb.run(words)
    assert str(caught.value) == said


@pytest.mark.parametrize("kind", ["oci", "bundle", "systemd"])
def test_what_stands_in_anothers_root_has_none_to_be_exported(tmp_path, kind):
    path = tmp_path / "side.toml"
    path.write_text('[container]\nname = "side"\nshare = ["pid:db", "mount:db"]\n[services.app]\ncommand = ["x"]\n')
    with pytest.raises(UsageError) as caught:
        export.run([kind, "--output", str(tmp_path / "out"), str(path)])
    assert str(caught.value) == (
        f"{path}:3: container.share: the root is another's (db), and an export has one of its own: export that one, or give this one layers"
    )
    assert not (tmp_path / "out").exists()


def test_each_option_is_in_the_manual():
    wanted = {word for usage in (export._USAGE, import_._USAGE) for word in re.findall(r"--[a-z0-9-]+", usage)}
    assert {word for word in wanted if word not in PAGE} == set()
