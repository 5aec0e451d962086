"""By the name `init`: what others' words for an init come to."""

import pytest

from pyinit.cli import asinit
from pyinit.errors import UsageError


@pytest.mark.parametrize(
    ("words", "kept", "said"),
    [
        ([], [], ""),
        (["--config", "/etc/a.toml", "--verbose"], ["--config", "/etc/a.toml", "--verbose"], ""),
        (["--config=/etc/a.toml", "quiet", "single"], ["--config=/etc/a.toml"], "quiet single"),
        (["--show-status", "systemd.unit=x", "-c", "a.toml"], ["-c", "a.toml"], "--show-status systemd.unit=x"),
        (["-c"], [], "-c"),
    ],
)
def test_words_of_a_command_line_that_is_not_ours(capsys, words, kept, said):
    assert asinit.own_words(words) == kept
    assert capsys.readouterr().err == (f"pyinit: init: not heeded: {said}; pyinit takes --config FILE\n" if said else "")


def test_another_level_is_refused():
    with pytest.raises(UsageError) as caught:
        asinit.ask(["3"])
    assert str(caught.value) == "init 3: expected 0 (stop), 6 (reboot) or q (reload); `pyinit --help` lists the verbs"
