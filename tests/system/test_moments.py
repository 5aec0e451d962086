"""Ended at any moment of its start: nothing stays behind, and the next start is a clean one. The seed is in the name."""

import contextlib
import os
import pathlib
import random
import select
import signal

import pytest
from test_container import VETH, config

pytestmark = pytest.mark.usefixtures("nothing_left")
LONGEST_S = 0.45  # a start with its network takes about as long
ROUNDS = 8


def text(image) -> str:
    limits = "[container.cgroup]\nmemory_max = '64M'\n"
    return config(image, "trap exit TERM; while :; do sleep 0.02; done", limits + VETH.format(address="10.92.7.9"))


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_of_the_launcher_at_any_moment(bench, busybox, seed):
    dice = random.Random(seed)
    for _ in range(ROUNDS):
        box = bench.start(text(busybox))
        select.select([], [], [], dice.random() * LONGEST_S)
        box.process.kill()
        box.process.wait()
        if dice.random() < 0.5:  # PID 1, too, if there is one yet
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(pathlib.Path("/run/pyinit/pyinit-test/pid").read_text()), signal.SIGKILL)
    box = bench.start(text(busybox))
    box.wait_for("pyinit: app: ready")
    assert box.stop() == 0


def test_term_at_any_moment(bench, busybox):
    """Before anything was made it dies of it; after that it stops in order."""
    dice = random.Random(3)
    for _ in range(ROUNDS):
        box = bench.start(text(busybox))
        select.select([], [], [], dice.random() * LONGEST_S)
        assert box.stop() in (0, -signal.SIGTERM), box.output
