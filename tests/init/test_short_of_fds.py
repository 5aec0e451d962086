"""No descriptor is left, for a while: what is asked of a service's group then costs no exit and no clean-up."""

import contextlib
import os
import resource

import pytest

from pyinit.init.groups import Groups
from pyinit.init.loop import Loop
from pyinit.init.users import find_user


@pytest.fixture
def group(tmp_path):
    """A service's group of v2, as files; what it has told; its loop."""
    (tmp_path / "svc-app").mkdir()
    for name, text in (("memory.events", "oom_kill 1\n"), ("cgroup.events", "populated 1\n"), ("cgroup.kill", ""), ("cgroup.procs", "")):
        (tmp_path / "svc-app" / name).write_text(text)
    told: list[object] = []
    loop = Loop(told.append)
    groups = Groups(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), {}, loop, told.append, frozenset)
    assert groups.directory_for("app") >= 0
    return groups, told, loop, tmp_path / "svc-app"


@contextlib.contextmanager
def no_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_exit_is_told_without_the_look_for_its_reason(group):
    groups, _, _, _ = group
    with no_descriptors():
        assert groups.ran_out_of_memory("app") is False
    assert groups.ran_out_of_memory("app") is True


def test_a_user_is_not_taken_for_one_that_is_not_there(tmp_path):
    """A number without a line has a group of the same number, which is another one's."""
    (tmp_path / "passwd").write_text("app:x:1000:33::/:/bin/sh\n")
    with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
        find_user("1000", str(tmp_path / "passwd"))
    assert find_user("1000", str(tmp_path / "passwd")).gid == 33


def test_a_clean_up_waits_until_there_is_one(group):
    groups, told, loop, folder = group
    with no_descriptors():
        groups.kill("app", "cgroup")
        groups.check()
    assert ((folder / "cgroup.kill").read_text(), told) == ("", [])
    loop.call_at(0.0, lambda: (folder / "cgroup.events").write_text("populated 0\n"))
    groups._finished = lambda name: (told.append(name), loop.stop())
    loop.run()
    assert told == ["app"]
