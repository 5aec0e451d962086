"""Who of a group's processes is ours; the guest of tests/system/test_cgroup2.py has the groups."""

import os

import pytest

from pyinit.launch import delegation, rootless

WHOSE = [
    ({10: 1}, []),  # we alone: who our parent is does not matter
    ({10: 1, 11: 10, 12: 11}, []),
    ({10: 5, 5: 1}, [5]),  # a shell that we were started from
    ({10: 1, 11: 10, 20: 1, 21: 20}, [20, 21]),
    ({10: 1, 12: 11}, [12]),  # by way of one that is elsewhere: whose it is can't be seen
    ({10: 1, 0: -1}, [0]),  # of another pid namespace
    ({}, []),
]


@pytest.mark.parametrize(("parents", "found"), WHOSE)
def test_who_does_not_descend_from_us_is_a_stranger(parents, found):
    assert delegation.strangers(parents, frozenset({10})) == found


def test_who_waits_until_we_are_detached_is_ours():
    assert delegation.strangers({10: 5, 5: 1, 11: 5}, frozenset({10, 5})) == []


def test_what_is_not_there_is_taken_back(tmp_path):
    delegation.take_back(f"{tmp_path}/monitor")
    delegation.remove_empty(f"{tmp_path}/pyinit-x")
    assert os.listdir(tmp_path) == []


@pytest.fixture
def user():
    """What access(2) goes by, which root alone passes."""
    os.setreuid(1000, 0)
    yield
    os.setreuid(0, 0)


@pytest.mark.parametrize(("folder", "procs", "found"), [(0o777, 0o666, True), (0o777, 0o644, False), (0o755, 0o666, False)])
def test_a_group_is_delegated_with_the_right_to_move_processes(tmp_path, user, folder, procs, found):
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o755)
    (tmp_path / "group").mkdir()
    (tmp_path / "group/cgroup.procs").touch()
    (tmp_path / "group/cgroup.procs").chmod(procs)
    (tmp_path / "group").chmod(folder)
    assert rootless.is_delegated(f"{tmp_path}/group") is found


def test_a_folder_without_the_files_of_a_group_is_not(tmp_path):
    assert not rootless.is_delegated(str(tmp_path))
