"""Health checks of a path that comes and goes."""

import time

import pytest
from turns import Turns

from pyinit.init.health import Health
from pyinit.model import Health as Spec
from pyinit.model import Probe


@pytest.fixture
def turns():
    return Turns()


@pytest.fixture
def health(turns):
    return Health(turns.loop, turns.answer, lambda *_: None, lambda: 0.0)


def spec(path, **keys):
    return Spec(Probe("path", path=str(path)), **{"interval_s": 0.01, "failures": 3, **keys})


def test_three_bad_answers_in_a_row(turns, health, tmp_path):
    assert health.state("app") == ("", "")
    health.started("app", 7, spec(tmp_path / "x"))
    assert health.state("app") == ("starting", "")
    assert turns.run() == [("app", 7, f"health: {tmp_path}/x is not there (3 times)")]
    assert health.state("app") == ("unhealthy", f"{tmp_path}/x is not there")
    assert turns.run(0.05) == []  # once


def test_a_good_answer_forgives(turns, health, tmp_path):
    health.started("app", 7, spec(tmp_path, failures=1))
    assert turns.run(0.05) == []
    assert health.state("app") == ("healthy", "")


def test_a_start_period_excuses_until_the_first_good_answer(turns, health, tmp_path):
    path = tmp_path / "x"
    health.started("app", 7, spec(path, failures=1, start_period_s=60.0))
    assert turns.run(0.05) == []
    path.touch()
    turns.run(0.03)
    assert health.state("app") == ("healthy", "")
    path.unlink()
    assert turns.run() == [("app", 7, f"health: {path} is not there")]


def test_a_service_that_is_no_longer_ready_is_not_asked(turns, health, tmp_path):
    health.started("app", 7, spec(tmp_path / "x", failures=1))
    health.stopped("app")
    health.stopped("app")
    assert (turns.run(0.03), health.state("app")) == ([], ("", ""))


def test_checks_of_one_service_never_overlap(turns, tmp_path):
    running, most = [], []

    class Run:
        def cancel(self) -> None:
            running.remove(self)

    def run(_name, _argv, _timeout_s, done):
        one = Run()
        running.append(one)
        most.append(len(running))

        def end():
            running.remove(one)
            done("")

        turns.loop.call_at(time.monotonic() + 0.02, end)
        return one

    health = Health(turns.loop, turns.answer, run, lambda: 0.0)
    health.started("app", 7, Spec(Probe("exec", command=("x",)), interval_s=0.001))
    turns.run(0.15)
    assert (max(most), len(most) > 2) == (1, True)
