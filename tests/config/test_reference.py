"""The reference page and the code hold together: every key is in it, and its examples are good configs."""

import pathlib
import re

import pytest

import pyinit
from pyinit.config import decode
from pyinit.config.load import load

PAGE = (pathlib.Path(pyinit.__file__).parent / "man/pyinit.toml.5.md").read_text()
EXAMPLES = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_is_a_good_config(tmp_path, number):
    text = EXAMPLES[number]
    if "[services." not in text:
        text += '[services.app]\ncommand = ["/bin/app"]\n'
    path = tmp_path / "services.toml"
    path.write_text(text.replace("layers = []", f'layers = ["{tmp_path}"]'))
    assert load(str(path), {"DB_PASSWORD": "x"}).path == str(path)


def test_every_key_is_documented_with_an_example(tmp_path, monkeypatch):
    """The keys are those that the decoder asks for: no list of ours that could be forgotten."""
    asked: set[str] = set()
    known = decode.Table.close

    def close(table, later=()):
        asked.update(table._asked)
        known(table, later)

    monkeypatch.setattr(decode.Table, "close", close)
    for number in range(len(EXAMPLES)):
        test_an_example_is_a_good_config(tmp_path, number)
    words = set(re.findall(r"[a-z_0-9]+", "\n".join(EXAMPLES) + PAGE[: PAGE.index("```")]))
    words |= {"main"}  # told in words: it stands beside another value of `exit` than the example's
    limits = {"as", "cpu", "data", "fsize", "memlock", "msgqueue", "rss", "rtprio", "rttime", "sigpending", "stack"}
    assert asked - words - limits == {"services", "container", "init"} - words
