"""The set of services: scenarios as facts and the whole sequence of orders that follows."""

from world import KILL, World

from pyinit.core import events as e
from pyinit.model import InitSpec, Readiness, RestartDelay, ServiceSpec, StartLimit

TCP = Readiness("tcp", timeout_s=30.0)


def service(name: str, **keys) -> ServiceSpec:
    return ServiceSpec(name, (f"/bin/{name}",), **keys)


def oneshot(name: str, **keys) -> ServiceSpec:
    return service(name, kind="oneshot", restart="never", **keys)


def test_a_service_waits_until_what_it_requires_is_ready():
    world = World(service("db", ready=TCP), service("app", requires=("db",)))
    assert world.start() == ["db is waiting", "app is waiting", "spawn db", "arm db ready 30", "db is starting"]
    assert world.execed("db") == ["db is running"]
    assert world.ready("db") == ["cancel db ready", "db is ready", "spawn app", "arm app ready 30", "app is starting"]
    assert world.execed("app") == ["cancel app ready", "app is ready"]


def test_a_oneshot_is_ready_when_it_has_ended_well():
    world = World(oneshot("migrate"), service("app", requires=("migrate",)))
    world.start()
    assert world.execed("migrate") == ["cancel migrate ready", "migrate is running"]
    assert world.exits("migrate") == ["clean migrate", "arm migrate cleanup 2", "migrate is cleaning: exit code 0"]
    assert world.cleaned("migrate") == [
        "cancel migrate cleanup", "migrate is done: exit code 0", "spawn app", "arm app ready 30", "app is starting",
    ]  # fmt: skip


def test_a_requirement_that_fails_is_the_reason_and_nothing_hangs():
    world = World(oneshot("migrate"), service("app", requires=("migrate",)), service("web", requires=("app",)))
    world.start()
    world.up("migrate")
    assert world.down("migrate", 3)[-3:] == [
        "migrate is failed: exit code 3",
        "app is failed: requires migrate, which failed: exit code 3",
        "web is failed: requires app, which failed: requires migrate, which failed: exit code 3",
    ]


def test_who_only_wants_it_goes_on_when_it_fails():
    world = World(oneshot("cache"), service("app", wants=("cache",)))
    world.start()
    world.up("cache")
    assert world.exits("cache", 1)[-4:] == ["cache is cleaning: exit code 1", "spawn app", "arm app ready 30", "app is starting"]


def test_it_is_not_settled_before_it_is_known_what_an_end_leads_to():
    """READY=1 goes out when it is: not for what leaves a moment later because of that very end."""
    init = InitSpec(exit="when-main-exits", main="app")
    for exits in (lambda world: world.exits("app", 7), lambda world: world.advance() and world.exits("app", 7)):
        world = World(service("app", ready=TCP), init=init)
        world.start()
        world.up("app")
        exits(world)
        assert (world.states(), world.supervisor.settled()) == ({"app": "cleaning"}, False)
        world.cleaned("app")
        assert world.exit
    world = World(service("app", ready=TCP))
    world.start()
    world.up("app")
    world.exits("app", 7)
    world.cleaned("app")
    world.up("app")
    world.exits("app", 7)
    assert not world.supervisor.settled()
    world.cleaned("app")
    assert (world.states(), world.supervisor.settled()) == ({"app": "backoff"}, True)


def test_a_ready_timeout_is_a_failed_start():
    world = World(service("db", ready=Readiness("tcp", timeout_s=5.0)))
    world.start()
    world.up("db")
    assert world.advance() == [
        "unwatch db", "signal db 15", "arm db stop 7", "db is stopping: not ready after 5 s",
    ]  # fmt: skip
    assert world.now == 5.0
    assert world.down("db", signal=15)[-3:] == [
        "spawn db", "arm db ready 5", "db is starting: restart after: not ready after 5 s",
    ]  # fmt: skip


def crash(world: World, name: str = "app") -> str:
    """It execs, dies and is cleaned up; what is said then."""
    world.up(name)
    return world.down(name, 1)[-1]


def test_restarts_back_off_and_are_forgiven():
    world = World(service("app", start_limit=StartLimit(100)))
    world.start()
    told = []
    for _ in range(5):
        told.append(crash(world))
        if world.state("app") == "backoff":
            world.advance()
    assert told == [
        "app is starting: restart after: exit code 1",
        "app is backoff: exit code 1; restart in 0.1 s",
        "app is backoff: exit code 1; restart in 0.2 s",
        "app is backoff: exit code 1; restart in 0.4 s",
        "app is backoff: exit code 1; restart in 0.8 s",
    ]
    world.up("app")
    world.now += 10
    assert world.down("app", 1)[-1] == "app is starting: restart after: exit code 1"


def limited(then: str, **init) -> tuple[World, list[str]]:
    world = World(service("app", start_limit=StartLimit(3, 60.0, then)), init=InitSpec(**init))
    world.start()
    told = []
    for number in range(3):
        world.up("app")
        told += world.down("app", 9)
        if number < 2 and world.state("app") == "backoff":
            told += world.advance()
    return world, told


def test_the_start_limit_retries_fails_or_exits():
    world, told = limited("retry")
    assert told[-1] == "app is backoff: start limit of 3 within 60 s: exit code 9; restart in 30.0 s"
    world, told = limited("fail")
    assert told[-1] == "app is failed: start limit of 3 within 60 s: exit code 9"
    assert world.exit == []
    world, told = limited("exit")
    assert told[-2:] == ["app is failed: start limit of 3 within 60 s: exit code 9", "exit 9"]


def test_a_command_that_is_not_there_counts_as_a_start():
    world = World(service("app", restart_delay=RestartDelay(first_s=1.0)))
    world.start()
    assert world.exec_failed("app") == [
        "cancel app ready", "arm app restart 1", "app is backoff: cannot execute app; restart in 1.0 s",
    ]  # fmt: skip
    assert world.advance() == ["spawn app", "arm app ready 30", "app is starting: restart after: cannot execute app"]


def three() -> World:
    world = World(service("db"), service("app", requires=("db",)), service("web", wants=("app",)))
    world.start()
    world.up("db", "app", "web")
    return world


def test_a_shutdown_goes_backwards_and_ends_in_one_exit():
    world = three()
    assert world.tell(e.ShutdownRequested("TERM received")) == [
        "arm shutdown 8", "signal web 15", "arm web stop 7", "web is stopping: TERM received",
    ]  # fmt: skip
    assert world.exits("web", signal=15) == [
        "cancel web stop", "clean web", "arm web cleanup 2", "web is cleaning: TERM received",
    ]  # fmt: skip
    assert world.cleaned("web") == [
        "cancel web cleanup", "web is stopped: TERM received", "signal app 15", "arm app stop 7", "app is stopping: TERM received",
    ]  # fmt: skip
    world.down("app")
    assert world.down("db")[-3:] == ["db is stopped: TERM received", "cancel shutdown", "exit 0"]
    assert world.timers == {}


def test_who_does_not_heed_the_stop_is_killed():
    world = three()
    world.tell(e.StopRequested("web"))
    assert world.advance() == [f"signal web {KILL} group"]
    assert world.now == 7.0
    assert world.down("web", signal=KILL)[-1] == "web is stopped: stop requested"


def test_the_shutdown_has_an_end_for_all():
    """Three services of 7 s each in a whole of 9 s: at 8 s all are killed, a second later it leaves without them."""
    world = three()
    world.tell(e.ShutdownRequested("TERM received", 5))
    assert world.advance() == [f"signal web {KILL} group"]
    assert world.advance() == [
        "kill all", "arm shutdown 1", "app is stopping: TERM received; killed", "db is stopping: TERM received; killed",
    ]  # fmt: skip
    assert world.now == 8.0
    assert world.advance() == ["exit 5"]
    assert world.now == 9.0


def test_a_second_request_kills_at_once():
    world = three()
    world.tell(e.ShutdownRequested("INT received"))
    assert world.tell(e.ShutdownRequested("INT received", kill=True))[:2] == ["kill all", "arm shutdown 1"]
    for name in ("web", "app", "db"):
        world.down(name, signal=KILL)
    assert world.exit == [0]


def test_an_explicit_stop_stops_dependants_first_and_is_no_failure():
    world = three()
    assert world.tell(e.StopRequested("db")) == [
        "signal app 15", "arm app stop 7", "app is stopping: requires db, which was stopped",
    ]  # fmt: skip
    assert world.down("app", signal=15)[-4:] == [
        "app is stopped: requires db, which was stopped", "signal db 15", "arm db stop 7", "db is stopping: stop requested",
    ]  # fmt: skip
    assert world.down("db", 1)[-1] == "db is stopped: stop requested"
    assert world.states() == {"db": "stopped", "app": "stopped", "web": "ready"}


def test_a_crash_leaves_dependants_alone():
    world = three()
    assert world.down("db", 1)[-1] == "db is starting: restart after: exit code 1"
    assert world.execed("db") == ["cancel db ready", "db is ready"]
    assert world.states() == {"db": "ready", "app": "ready", "web": "ready"}


def test_an_exit_that_is_known_before_the_exec():
    world = World(service("app", restart="never"))
    world.start()
    assert world.exits_before_it_is_known("app", 4) == [
        "cancel app ready", "app is running", "clean app", "arm app cleanup 2", "app is cleaning: exit code 4",
    ]  # fmt: skip
    assert world.cleaned("app") == ["cancel app cleanup", "app is failed: exit code 4"]


def test_facts_about_an_old_process_are_stale():
    world = World(service("app", ready=TCP))
    world.start()
    world.up("app")
    old = world.pids["app"]
    world.down("app", 1)
    world.up("app")
    assert world.tell(e.BecameReady("app", old)) == []
    assert world.tell(e.ProcessExited("app", old, 1, 0)) == []
    assert world.state("app") == "running"


def test_a_stop_before_the_exec_was_reported_is_kept():
    world = World(service("app"))
    world.start()
    assert world.tell(e.StopRequested("app")) == []
    assert world.execed("app") == [
        "cancel app ready", "app is running", "signal app 15", "arm app stop 7", "app is stopping: stop requested",
    ]  # fmt: skip


def test_the_exit_code_of_main_is_the_whole_s():
    world = World(service("app"), service("log"), init=InitSpec(exit="when-main-exits", main="app"))
    world.start()
    world.up("app", "log")
    world.down("app", signal=6)
    world.down("log", signal=15)
    assert world.exit == [134]


def test_all_have_exited():
    world = World(oneshot("a"), service("b", restart="never"), init=InitSpec(exit="when-all-exited"))
    world.start()
    world.up("a", "b")
    world.down("b", 7)
    assert world.exit == []
    world.down("a")
    assert world.exit == [0]


def test_a_critical_service_ends_all_with_its_code():
    world = World(service("app", restart="never", critical=True), service("log"))
    world.start()
    world.up("app", "log")
    assert world.down("app", 12)[-4:] == [
        "arm shutdown 8", "signal log 15", "arm log stop 7", "log is stopping: app failed: exit code 12",
    ]  # fmt: skip
    world.down("log")
    assert world.exit == [12]


def test_a_shutdown_before_anything_was_started_ends_at_once():
    world = World(service("app"))
    assert world.tell(e.ShutdownRequested("TERM received")) == ["exit 0"]
    assert world.start() == []


def test_kill_process_leaves_what_is_left_for_the_next_but_not_for_a_stop():
    world = World(service("ssh", kill="process"))
    world.start()
    world.up("ssh")
    assert world.exits("ssh", 255)[0] == "spawn ssh"  # sessions live on
    world.up("ssh")
    world.tell(e.StopRequested("ssh"))
    assert "clean ssh" in world.exits("ssh", 0)


def test_cleaning_has_an_end():
    world = World(service("app", restart="never"))
    world.start()
    world.up("app")
    world.exits("app", 0)
    assert world.advance() == ["app is done: exit code 0; what it left behind outlived 2 s of killing"]
    assert world.tell(e.CleanupFinished("app")) == []
