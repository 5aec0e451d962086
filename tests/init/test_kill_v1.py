"""Killing a group of cgroup v1: real processes, a folder with the group's files, a hand that plays the kernel."""

import os
import select
import signal
import time

import pytest
from turns import DEADLINE_S, Turns

from pyinit.init.kill_v1 import GroupKiller


class Folder:
    """A group: its files are ordinary ones, and who is in it is written by hand."""

    def __init__(self, path, files: dict[str, str]) -> None:
        self.path = path
        for name, text in files.items():
            (path / name).write_text(text)
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self.pids: list[int] = []

    def fork(self) -> int:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        self.pids.append(pid)
        self.say(*self.pids)
        return os.pidfd_open(pid)

    def say(self, *pids: int) -> None:
        (self.path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))

    def read(self, name: str) -> str:
        return (self.path / name).read_text().strip()


@pytest.fixture
def group(tmp_path):
    made: list[Folder] = []

    def make(**files: str) -> Folder:
        made.append(Folder(tmp_path, {"cgroup.procs": "", **{name.replace("__", "."): text for name, text in files.items()}}))
        return made[0]

    yield make
    for one in made:
        os.close(one.fd)
        for pid in one.pids:
            os.waitpid(pid, 0)


def is_dead(pidfd: int, timeout_s: float) -> bool:
    found = bool(select.select([pidfd], [], [], timeout_s)[0])
    os.close(pidfd)
    return found


def test_all_are_killed_and_the_group_is_thawed(group):
    one, turns = group(freezer__state="THAWED\n"), Turns()
    pidfds = [one.fork() for _ in range(3)]
    killer = GroupKiller(turns.loop, "freezer", lambda: turns.answer("empty"))
    killer.kill("app", one.fd)
    one.say(0)  # what is left is outside of our pid namespace: no number that could be signalled
    assert turns.run() == ["empty"]
    assert [is_dead(pidfd, DEADLINE_S) for pidfd in pidfds] == [True] * 3
    assert one.read("freezer.state") == "THAWED"
    assert turns.run(0.2) == []  # no look is left over


def test_without_the_freezer_forks_are_refused_meanwhile_and_the_limit_comes_back(group):
    one, turns = group(pids__max="64\n"), Turns()
    pidfd = one.fork()
    GroupKiller(turns.loop, "pids", lambda: turns.answer(one.read("pids.max"))).kill("app", one.fd)
    one.say()
    assert turns.run() == ["64"]
    assert is_dead(pidfd, DEADLINE_S)


def test_who_joins_ends_the_killing(group):
    one, turns = group(freezer__state="THAWED\n"), Turns()
    old = one.fork()
    killer = GroupKiller(turns.loop, "freezer", lambda: turns.answer("empty"))
    killer.kill("app", one.fd)
    killer.end("app")
    assert one.read("freezer.state") == "THAWED"
    assert is_dead(old, DEADLINE_S)
    new = one.fork()
    assert turns.run(0.2) == []
    assert not is_dead(new, 0)
    os.kill(one.pids[-1], signal.SIGKILL)


def test_one_that_does_not_die_is_given_up(group):
    """A process in the midst of a disk's work that never ends."""
    one, turns = group(freezer__state="THAWED\n"), Turns()
    pidfd = one.fork()  # it stays in the list, whatever happens
    GroupKiller(turns.loop, "freezer", lambda: turns.answer("empty"), limit_s=0.1).kill("app", one.fd)
    before = time.process_time()
    assert turns.run(0.4) == []
    assert time.process_time() - before < 0.1
    assert one.read("freezer.state") == "THAWED"
    assert is_dead(pidfd, DEADLINE_S)
