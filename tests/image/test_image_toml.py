"""TOML that we write is the value again, for the standard library's parser."""

import random
import tomllib

from pyinit.image import toml

WORDS = ["a", "b c", "", '"', "\\", "\n\t\r", "\x00\x1f\x7f", "müll", "${NAME:-x}", "a.b", "'", "#"]


def value(chance: random.Random, depth: int = 0):
    kinds = [lambda: chance.choice(WORDS), lambda: chance.randint(-9, 1 << 40), lambda: chance.random() * 100, lambda: chance.random() < 0.5]
    if depth < 4:
        kinds += [lambda: [value(chance, depth + 1) for _ in range(chance.randint(0, 3))], lambda: table(chance, depth + 1)]
        kinds += [lambda: [table(chance, depth + 1) for _ in range(chance.randint(1, 2))]]
    return chance.choice(kinds)()


def table(chance: random.Random, depth: int = 0):
    return {chance.choice(WORDS): value(chance, depth) for _ in range(chance.randint(0, 4))}


def test_what_is_written_is_read_as_it_was():
    for seed in range(400):
        data = table(random.Random(seed))
        assert tomllib.loads(toml.text(data)) == data, f"seed {seed}"


def test_how_it_looks():
    data = {"container": {"layers": ["/"], "mounts": [{"type": "tmpfs", "files": {"a.env": "X=1\n"}}]}, "services": {"app": {"command": ["a"], "x": True}}}
    assert toml.text(data) == (
        '[container]\nlayers = ["/"]\n\n[[container.mounts]]\ntype = "tmpfs"\n\n[container.mounts.files]\n"a.env" = "X=1\\n"\n\n'
        '[services]\n\n[services.app]\ncommand = ["a"]\nx = true\n'
    )
