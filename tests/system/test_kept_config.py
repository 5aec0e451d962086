"""A checked config is kept between starts (root's, in RAM) and used only while all that it was made of is the same."""

import os
import pathlib

import pytest

from pyinit import kept
from pyinit.config import cache
from pyinit.errors import ConfigError
from pyinit.launch import start

TEXT = """\
include = ["more/*.toml"]
[container]
name = "kept"
layers = ["base"]
[services.app]
command = ["/bin/true", "a b"]
environment = { TEXT = "x" }
"""
CODE = ["of this version"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a config; what is kept is kept in it, too."""
    monkeypatch.setattr(kept, "FOLDER", str(tmp_path / "run/.kept"))
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "base").mkdir()
    (tmp_path / "more").mkdir()
    (tmp_path / "more/one.toml").write_text('[services.one]\ncommand = ["/bin/one"]\n')
    (tmp_path / "services.toml").write_text(TEXT)
    return tmp_path


def found(place: pathlib.Path, environment=None, **keys):
    """The config as it was kept; None if it must be read."""
    keys = {"kill": "group", "code": CODE, **keys}
    kept_one = cache.find(str(place / "services.toml"), environment or {}, **keys)
    return kept_one and cache.take(kept_one.packed)


def read(place: pathlib.Path, environment=None):
    return cache.load(str(place / "services.toml"), environment or {}, kill="group", code=CODE, born=lambda config: tuple(start.birth(config)))


def test_what_was_kept_is_what_was_read(place):
    assert found(place) is None
    config = read(place)
    assert found(place) == config
    assert [type(one) for one in found(place).services] == [type(one) for one in config.services]
    assert cache.find(str(place / "services.toml"), {}, kill="group", code=CODE).born == tuple(start.birth(config))
    [file] = (place / "run/.kept").iterdir()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def change(place: pathlib.Path, what: str) -> None:
    match what:
        case "the file":  # of the same length and time
            path = place / "services.toml"
            seen = path.stat()
            path.write_text(TEXT.replace("a b", "c d"))
            os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        case "an included file":
            (place / "more/one.toml").write_text('[services.one]\ncommand = ["/bin/two"]\n')
        case "a file that a pattern finds":
            (place / "more/two.toml").write_text('[services.two]\ncommand = ["/bin/two"]\n')
        case "a file that is gone":
            (place / "more/one.toml").unlink()


@pytest.mark.parametrize("what", ["the file", "an included file", "a file that a pattern finds", "a file that is gone"])
def test_what_differs_is_read_again(place, what):
    old = read(place)
    change(place, what)
    assert found(place) is None
    new = read(place)
    assert new != old
    assert found(place) == new


def test_another_version_or_role_reads_again(place):
    read(place)
    assert found(place, code=["of another version"]) is None
    assert found(place, kill="cgroup") is None


def test_a_value_of_the_environment_is_not_kept(place):
    path = place / "services.toml"
    path.write_text(TEXT.replace('"x"', '"${SECRET}"'))
    assert dict(read(place, {"SECRET": "xyzzy"}).services[1].environment) == {"TEXT": "xyzzy"}
    assert found(place, {"SECRET": "xyzzy"}) is None
    assert not (place / "run/.kept").exists()


def test_a_default_is_kept_as_long_as_its_variable_is_not_set(place):
    path = place / "services.toml"
    path.write_text(TEXT.replace('"x"', '"${PLACE:-here}"'))
    config = read(place)
    assert found(place) == config
    assert found(place, {"PLACE": "there"}) is None
    assert found(place, {"PLACE": ""}) is None


@pytest.mark.parametrize("at", [0, 5, 100, -1])
def test_a_damaged_file_is_as_none(place, at):
    read(place)
    [file] = (place / "run/.kept").iterdir()
    data = bytearray(file.read_bytes())
    data[at] ^= 0x55
    file.write_bytes(data)
    assert found(place) is None
    file.write_bytes(data[: len(data) // 2])
    assert found(place) is None
    file.write_bytes(b"")
    assert found(place) is None
    assert read(place) == found(place)


@pytest.mark.parametrize("who", ["the file's owner", "the folder's owner", "the file's mode", "the folder's mode", "a link"])
def test_what_is_not_ours_alone_is_not_trusted(place, who):
    read(place)
    folder = place / "run/.kept"
    [file] = folder.iterdir()
    match who:
        case "the file's owner":
            os.chown(file, 1000, 1000)
        case "the folder's owner":
            os.chown(folder, 1000, 1000)
        case "the file's mode":
            file.chmod(0o620)
        case "the folder's mode":
            folder.chmod(0o770)
        case "a link":
            file.rename(place / "elsewhere")
            file.symlink_to(place / "elsewhere")
    assert found(place) is None


def test_errors_have_their_lines_also_after_a_start_that_was_kept(place):
    read(place)
    (place / "base").rmdir()  # on the host, so of no file of the config
    assert found(place) is None
    with pytest.raises(ConfigError) as error:
        read(place)
    assert str(error.value).startswith(f"{place}/services.toml:4: container.layers: {place}/base")
    (place / "base").mkdir()
    assert found(place) is not None
    (place / "more/one.toml").write_text("[services.one]\ncommand = 3\n")
    with pytest.raises(ConfigError) as error:
        read(place)
    assert str(error.value).startswith(f"{place}/more/one.toml:2: services.one.command")


def test_old_ones_make_room(place, monkeypatch):
    monkeypatch.setattr(kept, "_MOST_FILES", 4)
    for number in range(6):
        assert kept.write(f"config-{number}", b"x")
    assert len(list((place / "run/.kept").iterdir())) <= 4
    assert kept.read("config-5") == b"x"
