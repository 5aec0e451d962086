"""Schedules on the real clocks."""

import re
import time

import pytest
from turns import Turns

from pyinit.init.schedule import Schedules
from pyinit.model import Schedule


@pytest.fixture
def turns():
    return Turns()


@pytest.fixture
def schedules(turns):
    schedules = Schedules(turns.loop, turns.answer, turns.answer)
    yield schedules
    schedules.close()


def test_an_interval_counts_from_the_start_of_the_last_run(turns, schedules):
    every = Schedule(interval_s=0.05)
    schedules.set("a", every)
    begin = time.monotonic()
    assert turns.run() == ["a"]  # the first at once
    for _ in range(3):
        schedules.set("a", every)
        assert turns.run() == ["a"]
    assert 0.15 <= time.monotonic() - begin < 1.0


def test_what_runs_now_has_no_next_time_yet(turns, schedules):
    schedules.set("a", Schedule(interval_s=60.0))
    assert turns.run() == ["a"]
    assert schedules.next_run("a") == ""
    schedules.set("a", Schedule(interval_s=60.0))
    assert schedules.next_run("a") == "next run in 60 s"


def test_unset_is_not_due(turns, schedules):
    schedules.set("a", Schedule(interval_s=0.01))
    schedules.unset("a")
    assert turns.run(0.05) == []


def test_cron_waits_for_the_wall_clock(turns, schedules):
    schedules.set("a", Schedule(cron="* * * * *"))
    assert re.fullmatch(r"next run at \d{4}-\d\d-\d\dT\d\d:\d\d:00Z", schedules.next_run("a"))
    schedules._tasks["a"].due_s = int(time.time_ns() // 10**9) + 1  # the next full second will do
    schedules._arm()
    assert turns.run() == ["a"]
    assert schedules.next_run("a") == ""


def test_runs_that_were_skipped_are_told(turns, schedules):
    schedules.set("a", Schedule(cron="* * * * *"))
    schedules._tasks["a"].last_due_s = int(time.time_ns() // 10**9) // 60 * 60 - 180  # it began three minutes ago, and has just ended
    schedules.set("a", Schedule(cron="* * * * *"))
    assert turns.answers == ["a: 3 runs were skipped: it was still running"]


def test_an_interval_that_is_far_away_is_told(schedules):
    schedules.set("a", Schedule(interval_s=600.0))
    schedules._tasks["a"].started_s = time.monotonic()
    schedules.set("a", Schedule(interval_s=600.0))
    assert schedules.next_run("a") == "next run in 600 s"


def test_without_a_cron_task_there_is_no_timer(schedules):
    schedules.set("a", Schedule(interval_s=600.0))
    assert schedules._fd == -1
