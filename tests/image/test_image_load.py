"""build.toml: what it becomes, and every error of it with its line."""

from pathlib import Path

import pytest

from pyinit.errors import ConfigError
from pyinit.image.load import load
from pyinit.image.spec import DEFAULT_EPOCH, BuildFile, Image
from pyinit.model import Origin


def written(tmp_path: Path, text: str) -> str:
    for folder in ("skel", "app"):
        (tmp_path / folder).mkdir()
    path = tmp_path / "build.toml"
    path.write_text(text)
    return str(path)


def problems(path: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    return caught.value.problems


GOOD = """\
output = "out"
source_date_epoch = 1700000000

[[image]]
name = "base.squashfs"
suite = "bookworm"
packages = ["bash", "libstdc++6:amd64", "php8.2-fpm=8.2.1-1"]
skeleton = "skel"
exclude = ["usr/share/doc/*"]
compression_level = 3

[[image]]
name = "app.squashfs"
directory = "app"
compression = "lz4"
"""


def test_a_file_becomes_images_with_absolute_places(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    base = Image(
        name="base.squashfs",
        suite="bookworm",
        packages=("bash", "libstdc++6:amd64", "php8.2-fpm=8.2.1-1"),
        skeleton=f"{tmp_path}/skel",
        exclude=("usr/share/doc/*",),
        level=3,
        origin=Origin(path, 4),
    )
    app = Image(name="app.squashfs", directory=f"{tmp_path}/app", compression="lz4", origin=Origin(path, 12))
    assert load(path, {}) == BuildFile(path, f"{tmp_path}/out", 1_700_000_000, (base, app))


def test_pyinit_itself_may_be_all_that_is_in_an_image_and_one_image_needs_no_array(tmp_path: Path) -> None:
    path = written(tmp_path, 'image = { name = "pyinit.squashfs", init = "/usr/bin/pyinit" }\n')
    (found,) = load(path, {}).images
    assert found == Image(name="pyinit.squashfs", init="/usr/bin/pyinit", origin=Origin(path, 1))


@pytest.mark.parametrize("init", ["/", "/usr/bin/", "//pyinit", "/a/../b"])
def test_the_place_of_pyinit_is_a_file_s(tmp_path: Path, init: str) -> None:
    path = written(tmp_path, f'[[image]]\nname = "a"\ndirectory = "app"\ninit = "{init}"\n')
    assert problems(path) == [f'{path}:4: image[1].init: expected a file\'s path such as "/usr/bin/pyinit", found "{init}"']


def test_the_place_of_pyinit_is_absolute(tmp_path: Path) -> None:
    path = written(tmp_path, '[[image]]\nname = "a"\ndirectory = "app"\ninit = "pyinit"\n')
    assert problems(path) == [f'{path}:4: image[1].init: expected an absolute path, found "pyinit"']


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    assert load(written(tmp_path, GOOD), {"SOURCE_DATE_EPOCH": "1"}).epoch == 1


def test_the_defaults(tmp_path: Path) -> None:
    found = load(written(tmp_path, '[[image]]\nname = "a"\ndirectory = "app"\n'), {})
    assert (found.output, found.epoch, found.images[0].compression) == (f"{tmp_path}/images", DEFAULT_EPOCH, "zstd")


def test_all_errors_come_at_once_each_with_its_line(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """\
outptu = "out"
source_date_epoch = "now"

[[image]]
name = "../base.squashfs"
packages = ["bash", "-o evil"]
skeleton = "nowhere"
exclude = ["/etc"]
compression = "lz4"
compression_level = 3

[[image]]
name = "app"
directory = "app"
skeleton = "skel"
compression = "brotli"

[[image]]
name = "app"

[[image]]
name = 7
directory = ""
compression_level = 23
""",
    )
    assert problems(path) == [
        f"{path}:1: outptu: there is no such key; did you mean output?",
        f'{path}:2: source_date_epoch: expected an integer from 0 to 4294967295, found "now"',
        f"{path}:4: image[1].suite: expected a release's name such as \"bookworm\", found \"\"",
        f'{path}:5: image[1].name: expected a plain file name such as "base.squashfs", found "../base.squashfs"',
        f'{path}:6: image[1].packages[2]: expected the name of a Debian package, found "-o evil"',
        f'{path}:7: image[1].skeleton: expected a folder, found none at {tmp_path}/nowhere',
        f"{path}:8: image[1].exclude[1]: expected a pattern from the image's root, without a / before it, found \"/etc\"",
        f"{path}:10: image[1].compression_level: lz4 has no levels: remove the key",
        f"{path}:15: image[2].skeleton: expected either directory or suite, packages, skeleton, found both",
        f'{path}:16: image[2].compression: expected "gzip", "lz4", "lzo", "xz" or "zstd", found "brotli"',
        f'{path}:18: image[3].packages: expected packages = [...] (a base system) or directory = "...", found neither',
        f"{path}:19: image[3].name: the name app is taken at {path}:13",
        f"{path}:22: image[4].name: expected a string, found 7",
        f'{path}:22: image[4].name: expected a plain file name such as "base.squashfs", found ""',
        f'{path}:23: image[4].directory: expected a folder, found none at ""',
        f"{path}:24: image[4].compression_level: expected an integer from 1 to 22, found 23",
    ]


def test_no_image_at_all(tmp_path: Path) -> None:
    path = written(tmp_path, 'output = "x"\n')
    assert problems(path) == [f"{path}:1: image: expected at least one [[image]]"]


def test_a_missing_file(tmp_path: Path) -> None:
    path = f"{tmp_path}/none.toml"
    assert problems(path) == [f"{path}: cannot be read: No such file or directory"]


def test_a_bad_epoch_in_the_environment(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    with pytest.raises(ConfigError) as caught:
        load(path, {"SOURCE_DATE_EPOCH": "yesterday"})
    assert caught.value.problems == [
        f'{path}:2: source_date_epoch: $SOURCE_DATE_EPOCH: expected seconds since 1970, found "yesterday"'
    ]


def test_an_error_of_syntax_has_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, 'output = "x"\nname = [\n  "a",\n  b,\n]\n')
    assert problems(path) == [f"{path}:4: Invalid value"]
