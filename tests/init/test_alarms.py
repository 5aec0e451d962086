"""Whose memory ran out: counts of groups as the kernel raises them, the group's first, then those above it."""

import os
import pathlib

import pytest

from pyinit.init.alarms import Alarms, Group
from pyinit.init.loop import Loop


class Tree:
    """Groups that are folders; `told` is what the alarms said."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.told: list[tuple[str, str, str]] = []
        self.alarms = Alarms(Loop(lambda error: pytest.fail(str(error))), "whole", lambda *said: self.told.append(said), pytest.fail)
        self.fds: list[int] = []

    def group(self, name: str) -> None:
        """Of v2, watched from now on; only the whole is asked to tell by itself."""
        (self.folder / name).mkdir()
        self.kills(name, 0)
        self.fds.append(os.open(self.folder / name, os.O_RDONLY | os.O_DIRECTORY))
        self.alarms._groups[name], self.alarms._kills[name] = Group(self.fds[-1], -1), 0

    def kills(self, name: str, count: int) -> None:
        (self.folder / name / "memory.events").write_text(f"low 0\noom {count}\noom_kill {count}\noom_group_kill 0\n")

    def look(self) -> list[str]:
        """At a notification: what was said."""
        self.told.clear()
        self.alarms._look(())
        return [text for _, _, text in self.told]


@pytest.fixture
def tree(tmp_path):
    tree = Tree(tmp_path)
    for name in ("whole", "big", "many"):
        tree.group(name)
    yield tree
    for fd in tree.fds:
        os.close(fd)


def test_a_kill_that_the_whole_does_not_count_yet_is_told_with_its_name_once_it_does(tree):
    tree.kills("big", 1)
    assert tree.look() == []
    tree.kills("whole", 1)
    assert tree.look() == ["out of memory: 1 process of big killed"]
    assert tree.look() == []


def test_a_second_kill_in_the_midst_of_the_first_is_told_with_it(tree):
    tree.kills("big", 1)
    tree.kills("whole", 1)
    tree.kills("many", 1)
    assert tree.look() == []
    tree.kills("whole", 2)
    assert tree.look() == ["out of memory: 2 processes of big, many killed"]
    assert tree.look() == []


def test_who_stands_in_no_service_s_group_has_no_name(tree):
    tree.kills("whole", 3)
    tree.kills("many", 2)
    assert tree.look() == ["out of memory: 3 processes of many killed"]
    tree.kills("whole", 4)
    assert tree.look() == ["out of memory: 1 process killed"]
