"""What one command under us takes beside Python's own start, in turns: the law of single.py in figures."""

import os
import pathlib
import time

import pytest
from small_inits import make

ROUNDS, SERIES = 31, 4
MOST = 1.5  # times `python3 -I -S -c pass`
FLOOR = ["/usr/bin/python3", "-I", "-S", "-c", "pass"]


def seconds(words: list[str]) -> float:
    """All of it, by posix_spawn, with all output thrown away."""
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    began = time.perf_counter()
    pid = os.posix_spawn(words[0], words, os.environ, file_actions=null)
    _, status = os.waitpid(pid, 0)
    assert status == 0, words
    return time.perf_counter() - began


@pytest.mark.parametrize("name", ["tini", "dumb-init", "catatonit", "pyinit"])
def test_a_start_takes_no_more_than_half_of_python_s_own_beside_it(tmp_path, name, capsys):
    """As PID 1, for that is what they are for."""
    ours = str(make(tmp_path, name, "ours").path)
    inside = ["/usr/bin/unshare", "--pid", "--fork"]
    assert all(pathlib.Path(words[0]).exists() for words in (FLOOR, inside))
    rows: dict[str, list[float]] = {"floor": [], "ours": [], "true": [], "alone": []}
    for _ in range(SERIES):  # what else the machine does only adds to it: the least of many counts
        for _ in range(ROUNDS):
            rows["floor"].append(seconds([*inside, *FLOOR]))
            rows["ours"].append(seconds([*inside, ours, "--", "/bin/true"]))
            rows["true"].append(seconds([*inside, "/bin/true"]))
            rows["alone"].append(seconds(["/bin/true"]))
        own = min(rows["ours"]) - min(rows["true"])  # unshare's time and the command's are in both
        floor = min(rows["floor"]) - min(rows["true"]) + min(rows["alone"])
        if own <= MOST * floor:
            break
    with capsys.disabled():
        print(f"\n{name}: {own * 1000:.1f} ms beside {floor * 1000:.1f} ms of Python, {own / floor:.2f} times")
    assert own <= MOST * floor
