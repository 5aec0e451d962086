"""Images that are cut, have wrong bits or name another compressor, through the whole launch: words or a container, no hang, nothing left."""

import random
import re
import time

import pytest
from conftest import erofs, make_busybox, squash
from test_each_step import Driver, same_as, seen

pytestmark = pytest.mark.usefixtures("nothing_left")

ROUNDS = 40
LONGEST_S = 5.0
CONFIG = """
[init]
exit = "when-main-exits"
main = "app"
[container]
name = "pyinit-test"
layers = [{layers}]
{more}
[services.app]
log = {{ to = "stdout", timestamp = "none" }}
command = ["/bin/sh", "-c", "cat {folder}/word; ls {folder} | grep -c ."]
"""
MOUNT = '[[container.mounts]]\ntype = "{kind}"\nsource = "{source}"\ntarget = "/app"'
COMPRESSOR_AT = 20  # of a squashfs' superblock


def damaged(good: bytes, kind: str, choose: random.Random) -> bytes:
    """Cut anywhere, or bits of the superblock and of the tables, or the compressor's number."""
    content = bytearray(good)
    how = choose.randrange(4)
    if how == 0:
        return bytes(content[: choose.randrange(len(good))])
    if how == 1 and kind == "squashfs":
        content[COMPRESSOR_AT] = choose.randrange(256)
        return bytes(content)
    first = 1024 if kind == "erofs" else 0
    tables = range(min(len(good), 4096) - 200 if kind == "erofs" else good.index(b"word"), len(good))
    for _ in range(choose.choice((1, 3, 20))):
        content[choose.choice((*range(first, first + 96), *tables)) % len(good)] ^= 1 << choose.randrange(8)
    return bytes(content)


@pytest.mark.parametrize("kind", ["squashfs", "erofs"])
@pytest.mark.parametrize("place", ["layer", "mount", "nested"])
def test_a_damaged_image_is_told_in_one_line_or_is_a_container(bench, tmp_path, kind, place):
    tree = make_busybox(tmp_path / "base")
    (tmp_path / "app").mkdir()
    (tmp_path / "app/word").write_text("word of the application")
    image = tree / "app.image" if place == "nested" else tmp_path / "app.image"
    good = (squash if kind == "squashfs" else erofs)(tmp_path / "app", tmp_path / "good").read_bytes()
    image.write_bytes(good)
    layers = f'"{tree}"' + (f', "{image}"' if place == "layer" else "")
    more = "" if place == "layer" else MOUNT.format(kind=kind, source="image:/app.image" if place == "nested" else image)
    path = bench.write(CONFIG.format(layers=layers, more=more, folder="" if place == "layer" else "/app"))
    line = path.read_text().splitlines().index("[[container.mounts]]" if more else f"layers = [{layers}]") + 1
    driver = Driver(path)
    try:
        assert "app: word of the application" in driver.run(read_again=True)["text"]
        before = seen()
        told = set()
        for seed in range(ROUNDS):
            image.write_bytes(damaged(good, kind, random.Random(f"{kind} {place} {seed}")))
            began = time.monotonic()
            done = driver.run(read_again=True)
            what = f"seed {seed}: {done}"
            if done["code"] in (100, 111):
                assert re.fullmatch(rf"pyinit: {path}:({line}|{line + 2}): .*\n", done["text"]), what
            else:
                assert ("pyinit: app: ready\n" in done["text"], done["code"] in (0, 1)) == (True, True), what
            told.add(done["code"])
            assert (done["left"], time.monotonic() - began < LONGEST_S) == ([], True), what
            same_as(before, what)
        assert told & {100, 111}
    finally:
        driver.close()
