"""A supervisor in a world of its own: a clock that jumps, processes that do as they are told."""

import random

from pyinit.core import actions as a
from pyinit.core import events as e
from pyinit.core.supervisor import Supervisor
from pyinit.model import InitSpec, ServiceSpec

KILL = 9


class World:
    """Time is `now`; `log` is every order since the last `take()`, as words."""

    def __init__(self, *services: ServiceSpec, init: InitSpec | None = None, seed: int = 1) -> None:
        self.now = 0.0
        self.supervisor = Supervisor(tuple(services), init or InitSpec(), random=lambda: 0.5)
        self.init = init or InitSpec()
        self.specs = {spec.name: spec for spec in services}
        self.timers: dict[tuple[str, e.Timer], float] = {}
        self.spawned: list[str] = []  # Spawn was ordered, nothing reported yet
        self.pids: dict[str, int] = {}
        self.cleaning: list[str] = []
        self.hooks: dict[str, int] = {}
        self.tasks: set[str] = set()
        self.exit: list[int] = []
        self.log: list[str] = []
        self.next_pid = 100
        self.random = random.Random(seed)

    def start(self) -> list[str]:
        self._do(self.supervisor.start(self.now))
        return self.take()

    def tell(self, event) -> list[str]:
        self._do(self.supervisor.handle(event, self.now))
        return self.take()

    def take(self) -> list[str]:
        log, self.log = self.log, []
        return log

    def state(self, name: str) -> str:
        return self.supervisor.view(name).state.value

    def states(self) -> dict[str, str]:
        return {name: self.state(name) for name in self.specs}

    # What processes do

    def execed(self, name: str) -> list[str]:
        self.spawned.remove(name)
        self.next_pid += 1
        self.pids[name] = self.next_pid
        return self.tell(e.ExecSucceeded(name, self.next_pid))

    def exits_before_it_is_known(self, name: str, code: int = 0) -> list[str]:
        """The reaper was faster than the report of the exec."""
        self.spawned.remove(name)
        self.next_pid += 1
        pid = self.next_pid
        words = self.tell(e.ProcessExited(name, pid, code, 0))
        return words + self.tell(e.ExecSucceeded(name, pid))

    def exec_failed(self, name: str, errno: int = 2) -> list[str]:
        self.spawned.remove(name)
        return self.tell(e.ExecFailed(name, 0, "exec", errno, f"cannot execute {name}"))

    def exits(self, name: str, code: int = 0, signal: int = 0) -> list[str]:
        return self.tell(e.ProcessExited(name, self.pids.pop(name), -1 if signal else code, signal))

    def hooked(self, name: str, code: int = 0) -> list[str]:
        """Its hook's command ends."""
        return self.tell(e.HookEnded(name, self.hooks.pop(name), code, 0))

    def due(self, name: str) -> list[str]:
        self.tasks.remove(name)
        return self.tell(e.Due(name))

    def unmet(self, name: str) -> list[str]:
        if name in self.spawned:
            self.spawned.remove(name)
        else:
            del self.hooks[name]
        return self.tell(e.ConditionUnmet(name, "condition: /x is not there"))

    def sickens(self, name: str, *, watchdog: bool = False) -> list[str]:
        return self.tell(e.BecameUnhealthy(name, self.pids[name], "health: refused (3 times)", watchdog))

    def reload(self, *services: ServiceSpec):
        found, actions = self.supervisor.reload(tuple(services), self.init, self.now)
        self.specs = {spec.name: spec for spec in services}
        self._do(actions)
        return found, self.take()

    def ready(self, name: str) -> list[str]:
        return self.tell(e.BecameReady(name, self.pids[name]))

    def cleaned(self, name: str) -> list[str]:
        self.cleaning.remove(name)
        return self.tell(e.CleanupFinished(name))

    def up(self, *names: str) -> None:
        """Spawned ones exec, in this order."""
        for name in names:
            self.execed(name)

    def down(self, name: str, code: int = 0, signal: int = 0) -> list[str]:
        """It exits and is cleaned up."""
        words = self.exits(name, code, signal)
        return words + (self.cleaned(name) if name in self.cleaning else [])

    def advance(self) -> list[str]:
        """Jump to the next deadline."""
        (name, timer), at_s = min(self.timers.items(), key=lambda item: item[1])
        self.now = max(self.now, at_s)
        del self.timers[name, timer]
        return self.tell(e.TimerFired(name, timer))

    def _do(self, actions) -> None:
        assert not self.exit or not actions, "orders after Exit"
        for action in actions:
            self.log.append(self._carry_out(action))

    def _carry_out(self, action) -> str:
        match action:
            case a.RunHook(name, hook, number, run, arguments):
                assert name not in self.hooks, f"{name} runs a hook already"
                self.hooks[name] = run
                return " ".join([f"hook {name} {hook} {number}", *arguments])
            case a.KillHook(name):
                del self.hooks[name]
                return f"kill hook {name}"
            case a.SetTask(name):
                self.tasks.add(name)
                return f"schedule {name}"
            case a.UnsetTask(name):
                self.tasks.remove(name)
                return f"unschedule {name}"
            case a.Forget(name):
                assert name not in {*self.pids, *self.spawned, *self.hooks}, f"{name} is not gone"
                self.supervisor.forget(name)
                return f"forget {name}"
            case a.Spawn(name):
                assert name not in self.pids, f"{name} runs already"
                assert name not in self.spawned, f"{name} is being spawned already"
                self.spawned.append(name)
                return f"spawn {name}"
            case a.SendSignal(name, number, group):
                return f"signal {name} {number}{' group' if group else ''}"
            case a.KillLeftovers(name):
                self.cleaning.append(name)
                return f"clean {name}"
            case a.ArmTimer(name, timer, at_s):
                self.timers[name, timer] = at_s
                return f"arm {name} {timer.value} {at_s - self.now:g}".replace("arm  ", "arm ")
            case a.CancelTimer(name, timer):
                assert (name, timer) in self.timers, f"{name} {timer} is not armed"
                del self.timers[name, timer]
                return f"cancel {name} {timer.value}".replace("cancel  ", "cancel ")
            case a.Unwatch(name):
                return f"unwatch {name}"
            case a.Publish(name, state, reason):
                return f"{name} is {state}" + (f": {reason}" if reason else "")
            case a.KillAll():
                return "kill all"
            case a.Exit(code):
                self.exit.append(code)
                return f"exit {code}"
        raise AssertionError(action)
