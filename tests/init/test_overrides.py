"""What enable and disable keep, whatever lies in the place of the file or its folder."""

import os

import pytest

from pyinit.init.overrides import Overrides
from pyinit.model import ServiceSpec

pytest_plugins = ["deadline_fixture"]

SPECS = (ServiceSpec("web", ("x",)), ServiceSpec("other", ("x",)))
LOOP = "Too many levels of symbolic links"


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that we have open, as PID 1 has the host's: what a link of root inside leads to."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    yield folder, f"/proc/self/fd/{fd}"
    os.close(fd)


def enabled(state_dir, report):
    return [spec.enabled for spec in Overrides(str(state_dir), report).applied(SPECS)]


def test_what_was_said_is_there_at_the_next_start(tmp_path):
    told = []
    state = tmp_path / "state/of/it"
    overrides = Overrides(str(state), told.append)
    assert overrides.instances() == ()
    overrides.set("web", enabled=False)
    overrides.set("worker@x", enabled=True)
    assert ((state / "enabled").read_text(), os.listdir(state)) == ("-web\n+worker@x\n", ["enabled"])
    assert (enabled(state, told.append), Overrides(str(state), told.append).instances()) == ([False, True], ("worker@x",))
    assert told == []


def test_a_fifo_in_the_new_file_s_place_stops_nobody(tmp_path, deadline):
    told = []
    os.mkfifo(tmp_path / "enabled.new")
    Overrides(str(tmp_path), told.append).set("web", enabled=False)
    assert ((tmp_path / "enabled").read_text(), os.listdir(tmp_path), told) == ("-web\n", ["enabled"], [])


def test_a_link_in_the_new_file_s_place_is_not_followed(tmp_path):
    told = []
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "scratch").write_text("mine")
    (state / "enabled.new").symlink_to(tmp_path / "scratch")
    Overrides(str(state), told.append).set("web", enabled=False)
    assert ((tmp_path / "scratch").read_text(), (state / "enabled").read_text(), (state / "enabled").is_symlink()) == ("mine", "-web\n", False)
    assert told == []


def test_a_folder_in_the_new_file_s_place_costs_only_what_is_kept(tmp_path):
    told = []
    (tmp_path / "enabled.new").mkdir()
    overrides = Overrides(str(tmp_path), told.append)
    overrides.set("web", enabled=False)
    assert told == [f"web: is not kept disabled over a restart: {tmp_path}/enabled: Is a directory"]
    assert [spec.enabled for spec in overrides.applied(SPECS)] == [False, True]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkfifo, "[Errno 22] expected a regular file"),
        (lambda path: os.symlink("/dev/zero", path), f"[Errno 40] {LOOP}: 'enabled'"),
        (lambda path: os.symlink("nothing", path), f"[Errno 40] {LOOP}: 'enabled'"),
    ],
    ids=["fifo", "link", "dangling"],
)
def test_what_is_in_the_file_s_place_stops_no_start(tmp_path, deadline, make, why):
    told = []
    make(tmp_path / "enabled")
    assert enabled(tmp_path, told.append) == [True, True]
    assert told == [f"{tmp_path}/enabled: {why}: services are enabled as the config says"]


def test_a_folder_that_is_a_link_to_what_we_have_open_is_not_entered(tmp_path, elsewhere):
    told = []
    folder, place = elsewhere
    (folder / "enabled").write_text("-web\n")
    state = tmp_path / "state"
    state.symlink_to(place)
    overrides = Overrides(str(state), told.append)
    assert [spec.enabled for spec in overrides.applied(SPECS)] == [True, True]
    overrides.set("other", enabled=False)
    assert told == [
        f"{state}/enabled: [Errno 40] {LOOP}: '{state}': services are enabled as the config says",
        f"other: is not kept disabled over a restart: {state}/enabled: {LOOP}",
    ]
    assert (os.listdir(folder), (folder / "enabled").read_text()) == (["enabled"], "-web\n")


def test_no_folder_is_made_behind_such_a_link(tmp_path, elsewhere):
    told = []
    folder, place = elsewhere
    (tmp_path / "link").symlink_to(place)
    Overrides(f"{tmp_path}/link/made", told.append).set("web", enabled=False)
    assert (os.listdir(folder), told) == ([], [f"web: is not kept disabled over a restart: {tmp_path}/link/made/enabled: {LOOP}"])
