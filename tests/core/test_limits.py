"""Which hierarchy of cgroup v1 holds the groups of services."""

import pytest

from pyinit.core.limits import tracker


@pytest.mark.parametrize(
    ("mounted", "best"),
    [
        (["cpu", "cpuacct", "pids", "freezer", "memory"], "freezer"),
        (["cpu", "memory", "pids"], "pids"),
        (["cpu", "memory"], "memory"),
        (["name=systemd", "cpuset", "devices"], "devices"),
        (["name=systemd"], "name=systemd"),
        (["cpuset"], ""),
        ([], ""),
    ],
)
def test_the_best_hierarchy_to_kill_in(mounted, best):
    assert tracker(mounted) == best
