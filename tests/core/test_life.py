"""Hooks, drains, stop sequences, health, tasks, conditions and reload: a scenario, then the whole sequence of orders."""

import pytest
from world import World

from pyinit.core import events as e
from pyinit.core.difference import Difference
from pyinit.core.graph import CoreError, CycleError
from pyinit.model import (
    Health,
    Hooks,
    InitSpec,
    LogSpec,
    Probe,
    Readiness,
    RestartDelay,
    Schedule,
    ServiceSpec,
    StartLimit,
    StopStep,
)

CHECKED = Readiness("probe", Probe("tcp", "127.0.0.1", 80))
AT_ONCE = RestartDelay(first_s=0.0, jitter=0.0)


def app(name="app", **keys) -> ServiceSpec:
    return ServiceSpec(name, (name,), **{"restart_delay": AT_ONCE, **keys})


def task(**keys) -> ServiceSpec:
    return app(kind="task", schedule=Schedule("* * * * *"), restart="never", **keys)


def running(*specs, **keys) -> World:
    world = World(*specs, **keys)
    world.start()
    for spec in specs:
        if spec.name in world.spawned:
            world.execed(spec.name)
    world.take()
    return world


def test_hooks_come_one_after_the_other_around_the_process():
    hooks = Hooks((("a",), ("b",)), (("c",),), (("d",),), (("e",),))
    world = World(app(hooks=hooks))
    assert world.start() == ["app is waiting", "app is starting", "hook app pre_start 0", "arm app hook 30"]
    assert world.hooked("app") == ["cancel app hook", "hook app pre_start 1", "arm app hook 30"]
    assert world.hooked("app") == ["cancel app hook", "spawn app", "arm app ready 30", "app is starting"]
    assert world.execed("app") == ["cancel app ready", "app is running", "hook app post_start 0", "arm app hook 30"]
    assert world.hooked("app") == ["cancel app hook", "app is ready"]
    assert world.tell(e.StopRequested("app")) == ["app is stopping: stop requested", "hook app pre_stop 0", "arm app hook 5"]
    assert world.hooked("app", 1) == ["cancel app hook", "signal app 15", "arm app stop 7", "app is stopping: stop requested"]
    assert world.exits("app", signal=15) == [
        "cancel app stop", "app is cleaning: stop requested", "hook app finish 0 -1 15", "arm app hook 5",
    ]  # fmt: skip
    assert world.hooked("app") == ["cancel app hook", "clean app", "arm app cleanup 2", "app is cleaning: stop requested"]
    assert world.cleaned("app") == ["cancel app cleanup", "app is stopped: stop requested"]


def test_a_pre_start_that_fails_is_a_failed_start():
    world = World(app(hooks=Hooks(pre_start=(("mkdir", "-p"),)), restart="never"))
    world.start()
    assert world.hooked("app", 3) == [
        "cancel app hook", "clean app", "arm app cleanup 2", "app is cleaning: pre_start mkdir: exit code 3",
    ]  # fmt: skip
    assert world.cleaned("app") == ["cancel app cleanup", "app is failed: pre_start mkdir: exit code 3"]


def test_a_hook_that_takes_too_long_is_killed_and_counts_as_failed():
    world = World(app(hooks=Hooks(pre_start=(("slow",),), pre_start_timeout_s=2.0), restart="never"))
    world.start()
    assert world.advance() == [
        "kill hook app", "clean app", "arm app cleanup 2", "app is cleaning: pre_start slow: not done after 2 s",
    ]  # fmt: skip
    assert world.now == 2.0


def test_a_stop_during_pre_start_cancels_the_start():
    world = World(app(hooks=Hooks(pre_start=(("slow",),))))
    world.start()
    assert world.tell(e.StopRequested("app")) == [
        "kill hook app", "cancel app hook", "clean app", "arm app cleanup 2", "app is cleaning: stop requested",
    ]  # fmt: skip
    assert world.cleaned("app") == ["cancel app cleanup", "app is stopped: stop requested"]


def test_a_post_start_that_fails_stops_the_service():
    world = running(app(hooks=Hooks(post_start=(("greet",),)), restart="never"))
    assert world.hooked("app", 1) == [
        "cancel app hook", "signal app 15", "arm app stop 7", "app is stopping: post_start greet: exit code 1",
    ]  # fmt: skip
    world.down("app", signal=15)
    assert world.state("app") == "failed"


def test_finish_125_is_a_permanent_failure():
    world = running(app(hooks=Hooks(finish=(("f",),))))
    world.exits("app", 1)
    world.hooked("app", 125)
    assert world.cleaned("app") == ["cancel app cleanup", "app is failed: exit code 1; finish left with 125: no restart"]


def test_a_stop_is_a_sequence_of_signals_and_then_kill():
    world = running(app(stop=(StopStep(3, 5.0), StopStep(15, 2.0)), drain_s=1.0))
    assert world.tell(e.StopRequested("app")) == ["app is stopping: stop requested", "arm app drain 1"]
    assert world.advance() == ["signal app 3", "arm app stop 5", "app is stopping: stop requested"]
    assert world.advance() == ["signal app 15", "arm app stop 2"]
    assert world.advance() == ["signal app 9 group"]
    assert world.now == 8.0


def test_a_logger_of_others_sees_the_end_of_its_input_once_they_are_down_and_then_its_signals():
    sink = app("sink", stop=(StopStep(0, 2.0), StopStep(15, 7.0)))
    world = running(sink, app(log=LogSpec(to="service:sink"), after=("sink",)))
    assert world.tell(e.RestartRequested("sink"))[0] == "signal sink 15"  # its input goes on
    world.down("sink", signal=15)
    world.execed("sink")
    assert world.tell(e.ShutdownRequested("TERM received"))[1:3] == ["signal app 15", "arm app stop 7"]
    assert world.down("app", signal=15)[-3:] == ["signal sink 0", "arm sink stop 2", "sink is stopping: TERM received"]
    assert world.advance() == ["signal sink 15", "arm sink stop 7"]
    assert world.down("sink", signal=15)[-2:] == ["cancel shutdown", "exit 0"]


def test_an_exit_during_the_drain_ends_it():
    world = running(app(drain_s=5.0))
    world.tell(e.StopRequested("app"))
    assert world.exits("app") == ["cancel app drain", "clean app", "arm app cleanup 2", "app is cleaning: stop requested"]
    world.cleaned("app")
    assert world.state("app") == "stopped"


def health(action: str) -> Health:
    return Health(Probe("path"), action=action)


def test_bad_health_restarts():
    world = running(app(health=health("restart")))
    assert world.sickens("app") == ["signal app 15", "arm app stop 7", "app is stopping: health: refused (3 times)"]
    world.exits("app", signal=15)
    assert world.cleaned("app") == [
        "cancel app cleanup", "spawn app", "arm app ready 30", "app is starting: restart after: health: refused (3 times)",
    ]  # fmt: skip


def test_bad_health_may_stop_the_service_for_good():
    world = running(app(health=health("stop")), app("other"))
    world.sickens("app")
    world.down("app")
    assert world.states() == {"app": "failed", "other": "ready"}


def test_bad_health_may_end_all_with_its_code():
    world = running(app(health=health("exit")), app("other"))
    world.sickens("app")
    words = world.down("app")
    assert "other is stopping: app failed: health: refused (3 times)" in words
    world.down("other")
    assert world.exit == [1]


def test_a_watchdog_asks_for_a_core_first():
    world = running(app(stop=(StopStep(15, 3.0),)))
    assert world.sickens("app", watchdog=True) == ["signal app 6", "arm app stop 3", "app is stopping: health: refused (3 times)"]
    assert world.advance() == ["signal app 9 group"]


def test_a_task_runs_at_its_times_and_never_twice_at_once():
    world = World(task())
    assert world.start() == ["schedule app", "app is waiting"]
    assert world.due("app") == ["app is waiting", "spawn app", "arm app ready 30", "app is starting"]
    assert world.execed("app") == ["cancel app ready", "app is running"]
    assert world.tell(e.Due("app")) == []  # it is at work
    world.exits("app", 2)
    assert world.cleaned("app") == ["cancel app cleanup", "schedule app", "app is waiting: exit code 2"]


def test_a_task_is_run_now_on_request():
    world = World(task())
    world.start()
    assert world.tell(e.StartRequested("app"))[:2] == ["unschedule app", "app is waiting"]
    assert world.spawned == ["app"]


def test_a_task_has_a_time_limit():
    world = running(task(timeout_s=5.0))
    world.due("app")
    assert world.execed("app") == ["cancel app ready", "arm app ready 5", "app is running"]
    assert world.advance() == ["signal app 15", "arm app stop 7", "app is stopping: not done after 5 s"]
    world.exits("app", signal=15)
    assert world.cleaned("app") == ["cancel app cleanup", "schedule app", "app is waiting: not done after 5 s"]


def test_a_task_that_fails_may_be_tried_again_before_its_time():
    world = running(task()._replace(restart="on-failure"))
    world.due("app")
    world.execed("app")
    world.exits("app", 1)
    assert "spawn app" in world.cleaned("app")


def test_a_task_that_meets_its_start_limit_waits_for_its_next_time():
    world = running(task(start_limit=StartLimit(2, 60.0, "fail"))._replace(restart="on-failure"))
    for _ in range(2):
        world.due("app")
        world.execed("app")
        world.down("app", 1)
        world.execed("app")
        assert world.down("app", 1)[-2:] == ["schedule app", "app is waiting: start limit of 2 within 60 s: exit code 1"]
        assert world.supervisor.view("app").failed


def test_a_stopped_task_is_not_due():
    world = World(task())
    world.start()
    assert world.tell(e.StopRequested("app")) == ["unschedule app", "app is stopped: stop requested"]
    assert world.tell(e.Due("app")) == []


def test_a_condition_that_is_not_met_is_no_failure():
    world = World(app(), app("other", requires=("app",)))
    world.start()
    assert world.unmet("app")[:2] == ["cancel app ready", "app is done: condition: /x is not there"]
    assert world.spawned == ["other"]


def test_a_service_may_ask_for_more_time():
    world = World(app(ready=CHECKED))
    world.start()
    world.execed("app")
    assert world.tell(e.TimeoutExtended("app", 60.0)) == ["arm app ready 60"]
    assert world.tell(e.TimeoutExtended("app", 1.0)) == []


def test_a_new_main_process_is_the_one_whose_exit_counts():
    world = running(app())
    old, world.pids["app"] = world.pids["app"], 777
    world.tell(e.MainPidChanged("app", 777))
    assert world.tell(e.ProcessExited("app", old, 0, 0)) == []
    assert world.exits("app", 4)[-1] == "app is cleaning: exit code 4"


def test_out_of_memory_is_the_reason():
    world = running(app(restart="never"))
    world.tell(e.ProcessExited("app", world.pids.pop("app"), -1, 9, oom=True))
    world.cleaned("app")
    assert world.supervisor.view("app").reason == "killed by KILL: out of memory"


def test_the_reason_of_a_ready_timeout_is_what_the_probe_said():
    world = running(app(ready=CHECKED, restart="never"))
    del world.timers["app", e.Timer.READY]
    assert world.tell(e.TimerFired("app", e.Timer.READY, "connection refused"))[-1] == (
        "app is stopping: not ready after 30 s: connection refused"
    )


# Reload


def test_a_reload_touches_only_what_differs():
    world = running(app("a"), app("b"), app("c"), app("d"))
    found, words = world.reload(app("a"), app("b")._replace(command=("new",)), app("c", restart="never"), app("e"))
    assert found == (("e",), ("d",), ("b",), ("c",))
    assert words == [
        "signal b 15", "arm b stop 7", "b is stopping: restart requested",
        "e is waiting", "spawn e", "arm e ready 30", "e is starting",
        "signal d 15", "arm d stop 7", "d is stopping: no longer in the config",
    ]  # fmt: skip
    assert world.supervisor.spec("b").command == ("b",)
    world.exits("b")
    assert world.cleaned("b")[-3:] == ["spawn b", "arm b ready 30", "b is starting"]
    assert (world.supervisor.spec("b").command, world.supervisor.spec("c").restart) == (("new",), "never")
    world.exits("d")
    assert world.cleaned("d") == ["cancel d cleanup", "d is stopped: no longer in the config", "forget d"]
    assert world.supervisor.names == ("a", "b", "c", "e")


def test_a_reload_starts_what_it_enables_and_stops_nothing_for_being_disabled():
    world = running(app(enabled=False), app("other"))
    found, words = world.reload(app(), app("other", enabled=False))
    assert (found.changed, words) == (("app", "other"), ["app is waiting", "spawn app", "arm app ready 30", "app is starting"])
    assert world.states() == {"app": "starting", "other": "ready"}


def test_what_was_enabled_by_verb_is_no_difference():
    world = running(app(enabled=False))
    world.supervisor.enable("app", enabled=True)
    assert world.reload(app()) == (Difference(), [])  # nor is it started again, if it was stopped since


def test_a_reload_without_a_difference_does_nothing():
    world = running(app("a"), app("b", requires=("a",)))
    assert world.reload(app("a"), app("b", requires=("a",))) == (((), (), (), ()), [])


def test_a_removed_requirement_stops_after_those_that_needed_it():
    world = running(app("db"), app("web", requires=("db",)))
    found, words = world.reload()
    assert (found.removed, words) == (("db", "web"), ["signal web 15", "arm web stop 7", "web is stopping: no longer in the config"])
    world.exits("web")
    assert "signal db 15" in world.cleaned("web")
    world.down("db")
    assert world.supervisor.names == ()


def test_a_bad_reload_changes_nothing():
    world = running(app("a"))
    with pytest.raises(CycleError):
        world.reload(app("b", after=("c",)), app("c", after=("b",)))
    assert world.supervisor.names == ("a",)


def test_a_shutdown_during_a_reload_ends():
    world = running(app("a"), app("b"), init=InitSpec())
    world.reload(app("a"))
    world.tell(e.ShutdownRequested("TERM"))
    world.down("b")
    world.down("a")
    assert world.exit == [0]


def test_services_that_are_down_already_are_forgotten_dependants_first():
    """In whichever order they come out of a set: what one requires is known as long as it is."""
    names = [f"s{number}" for number in range(6)]
    world = running(*(app(name, requires=tuple(names[number - 1 : number])) for number, name in enumerate(names)))
    world.tell(e.StopRequested("s0"))
    for name in reversed(names):
        world.down(name)
    assert world.reload()[1] == [f"forget {name}" for name in reversed(names)]
    assert world.supervisor.names == ()


# Instances that are asked for


def test_an_added_service_is_down_until_it_is_asked_for_and_touches_no_other():
    world = running(app("db"))
    world.supervisor.add((app("worker@x", requires=("db",)),))
    assert (world.supervisor.names, world.supervisor.view("worker@x").state.value) == (("db", "worker@x"), "stopped")
    assert world.tell(e.StartRequested("worker@x")) == ["worker@x is waiting", "spawn worker@x", "arm worker@x ready 30", "worker@x is starting"]
    world.execed("worker@x")
    assert world.tell(e.StopRequested("db")) == ["signal worker@x 15", "arm worker@x stop 7", "worker@x is stopping: requires db, which was stopped"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (app("worker@x", requires=("db",)), "(default):0: worker@x requires db, which is not a service"),
        (app("worker@x", after=("app",), before=("app",)), "services wait for each other in a circle: app -> worker@x -> app; remove one of these"),
    ],
)
def test_what_can_not_be_added_changes_nothing(spec, message):
    world = running(app("app"))
    with pytest.raises(CoreError) as caught:
        world.supervisor.add((spec,))
    assert str(caught.value) == message
    assert world.supervisor.names == ("app",)
    with pytest.raises(CoreError, match="no such service"):
        world.tell(e.StartRequested("worker@x"))
    world.tell(e.StopRequested("app"))
    world.down("app")
    assert world.states() == {"app": "stopped"}


def test_an_added_service_leaves_with_a_reload_that_does_not_know_it():
    world = running(app("app"))
    world.supervisor.add((app("worker@x"),))
    world.tell(e.StartRequested("worker@x"))
    world.execed("worker@x")
    found, words = world.reload(app("app"))
    assert (found.removed, words) == (("worker@x",), ["signal worker@x 15", "arm worker@x stop 7", "worker@x is stopping: no longer in the config"])
    assert world.down("worker@x")[-1] == "forget worker@x"
