"""Which services come of an instance that is asked for: real configs, no processes."""

import pytest

from pyinit.config.load import load
from pyinit.errors import ControlError
from pyinit.init.reload import instances

TEXT = """
[services.app]
command = ["app"]
[services."db@"]
command = ["db", "${INSTANCE}"]
[services."worker@"]
command = ["worker", "${INSTANCE}"]
requires = ["app", "db@${INSTANCE}"]
wants = ["cache@${INSTANCE}"]
[services."cache@"]
command = ["cache", "${INSTANCE}"]
wants = ["other"]
[services.other]
command = ["other"]
"""


def made(tmp_path, text: str, names: tuple[str, ...], known: set[str]):
    path = tmp_path / "services.toml"
    path.write_text(text)
    return instances(names, load(str(path), {}, extra=names), known)


def test_an_instance_comes_with_those_that_it_names_and_with_no_other_service(tmp_path):
    found = made(tmp_path, TEXT, ("worker@x",), {"app"})
    assert [(spec.name, spec.command) for spec in found] == [
        ("worker@x", ("worker", "x")), ("db@x", ("db", "x")), ("cache@x", ("cache", "x")),
    ]  # fmt: skip


def test_what_is_known_is_not_taken_from_the_file(tmp_path):
    found = made(tmp_path, TEXT, ("worker@x", "worker@y"), {"app", "worker@x", "db@y", "cache@y"})
    assert [spec.name for spec in found] == ["worker@y"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT, "{path}:6: worker@x requires app, which is new in the file: `pyinit reload` first"),
        ('[services.app]\ncommand = "app"\n', "worker@x: {path} has no template worker@ any more"),
        ('[services."worker@x"]\ncommand = "app"\n', "worker@x: {path} has no template worker@ any more"),
    ],
)
def test_what_can_not_be_made(tmp_path, text, message):
    with pytest.raises(ControlError) as caught:
        made(tmp_path, text, ("worker@x",), set())
    assert str(caught.value) == message.format(path=tmp_path / "services.toml")
