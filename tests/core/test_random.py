"""Whatever happens, in whatever order: the laws of the core hold. Each seed is a story of its own."""

import pytest
from world import KILL, World

from pyinit.core import events as e
from pyinit.core.transitions import State
from pyinit.model import (
    Health,
    Hooks,
    InitSpec,
    Probe,
    Readiness,
    RestartDelay,
    Schedule,
    ServiceSpec,
    StartLimit,
    StopStep,
)

NAMES = "abcdef"


def story(seed: int) -> World:
    """Services at random: requirements only backwards, so there is no circle."""
    dice = __import__("random").Random(seed)
    specs = []
    for number, name in enumerate(NAMES[: dice.randint(1, 6)]):
        before = list(NAMES[:number])
        specs.append(
            ServiceSpec(
                name, ("x",), **of_kind(dice),
                requires=tuple(dice.sample(before, min(len(before), dice.randint(0, 2)))),
                wants=tuple(dice.sample(before, min(len(before), dice.randint(0, 1)))),
                hooks=Hooks(*(((("h",),) * dice.choice([0, 0, 1, 2])) for _ in range(3)), ((("f",),) * dice.choice([0, 0, 1]))),
                stop=(StopStep(3, 1.0), StopStep(15, 1.0))[: dice.randint(1, 2)], drain_s=dice.choice([0, 0, 1.0]),
                health=Health(Probe("path"), action=dice.choice(["restart", "stop", "exit"])),
                ready=Readiness(dice.choice(["started", "probe"])), restart=dice.choice(["always", "on-failure", "never"]),
                kill=dice.choice(["cgroup", "process"]), critical=dice.random() < 0.1,
                restart_delay=RestartDelay(first_s=dice.choice([0.0, 0.1])),
                start_limit=StartLimit(3, 10.0, dice.choice(["retry", "fail", "exit"])), enabled=dice.random() < 0.9,
            )
        )  # fmt: skip
    init = InitSpec(exit=dice.choice(["on-signal", "when-all-exited"]))
    return World(*specs, init=init, seed=seed)


def of_kind(dice):
    kind = dice.choice(["service", "service", "service", "oneshot", "task"])
    keys = {"task": {"schedule": Schedule(interval_s=60.0)}}.get(kind, {})
    return {"kind": kind, "timeout_s": 0.0 if kind == "service" else dice.choice([0.0, 5.0]), **keys}


def step(world: World) -> None:
    """One thing that can happen now."""
    dice = world.random
    can = [lambda: world.tell(dice.choice([e.StartRequested, e.StopRequested, e.RestartRequested])(dice.choice(list(world.specs))))]
    can += [lambda name=name: world.execed(name) for name in world.spawned]
    can += [lambda name=name: world.exec_failed(name) for name in world.spawned]
    can += [lambda name=name: world.exits_before_it_is_known(name, dice.choice([0, 1])) for name in world.spawned]
    for name in world.pids:
        can += [lambda name=name: world.exits(name, dice.choice([0, 1])), lambda name=name: world.exits(name, signal=KILL)]
        if world.specs[name].ready.kind == "probe":
            can += [lambda name=name: world.ready(name)] * 2
        can += [lambda name=name: world.sickens(name, watchdog=dice.random() < 0.2)]
        can += [lambda name=name: world.tell(e.TimeoutExtended(name, 3.0))]
    can += [lambda name=name: world.hooked(name, dice.choice([0, 0, 1, 125])) for name in world.hooks] * 2
    can += [lambda name=name: world.due(name) for name in world.tasks]
    can += [lambda name=name: world.unmet(name) for name in world.spawned[:1]]
    can += [lambda name=name: world.cleaned(name) for name in world.cleaning]
    if world.timers:
        can += [world.advance] * 2
    known = [name for name in world.specs if name not in world.spawned]  # of the others the pid isn't known yet
    can += [lambda name=name: world.tell(e.ProcessExited(name, 7, 0, 0)) for name in known[:1]]  # of long ago
    dice.choice(can)()


@pytest.mark.parametrize("block", range(10))
def test_the_laws_hold_in_every_story(block):
    for seed in range(block * 60, block * 60 + 60):
        try:
            check(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error


def check(seed: int) -> None:
    world = story(seed)
    world.start()
    for _ in range(world.random.randint(0, 120)):
        if world.exit:
            break
        step(world)
        for name in (*world.spawned, *world.pids, *world.hooks):
            assert world.state(name) not in ("stopped", "waiting", "backoff", "failed", "done"), f"{name} has a process"
        assert {name for name in world.specs if world.supervisor.view(name).state is State.SCHEDULED} == world.tasks
    if not world.exit:
        world.tell(e.ShutdownRequested("enough", 3))
    spawned_before = list(world.spawned)
    for _ in range(400):
        if world.exit:
            break
        end(world, spawned_before)
    assert len(world.exit) == 1
    assert world.timers == {}
    assert world.tasks == set()
    assert world.tell(e.ShutdownRequested("again", 4)) == []


def end(world: World, spawned_before: list[str]) -> None:
    """A shutdown ends, whether processes help it or not."""
    assert set(world.spawned) <= set(spawned_before), "spawned after the shutdown began"
    dice = world.random
    can = [world.advance] if world.timers else []
    can += [lambda name=name: world.execed(name) for name in world.spawned]
    can += [lambda name=name: world.exits(name) for name in world.pids]
    can += [lambda name=name: world.cleaned(name) for name in world.cleaning]
    can += [lambda name=name: world.hooked(name) for name in world.hooks]
    assert can, f"nothing can happen, and yet there is no Exit: {world.states()}"
    dice.choice(can)()
