"""The set of services: who may start, who must stop first, when the whole leaves.

Owns the order between services, the shutdown and the exit code. Must not know clocks, pids' origin or file descriptors.
Laws: `handle(event, now)` is the only way in and returns orders; nothing is spawned once a shutdown has begun;
a shutdown ends in exactly one Exit, with or without the processes' help; an intended stop is no failure.
"""

from _collections_abc import Callable, Iterable

from pyinit.core import actions as a
from pyinit.core import events as e
from pyinit.core import graph
from pyinit.core.difference import Difference, compare
from pyinit.core.ending import SIGKILL
from pyinit.core.events import Timer
from pyinit.core.inputs import input_of
from pyinit.core.service import DOWN, IDLE, CoreError, Input, Kind, Service, State, Target, Why
from pyinit.model import CgroupLimits, InitSpec, ServiceSpec
from pyinit.records import NamedTuple

LAST_SECOND_S = 1.0  # of the shutdown's time: KillAll, reaping, logs
_ENDING = (State.STOPPING, State.FINISHING, State.CLEANING)  # what follows, an end of all perhaps, is yet to come
_HAS_PROCESS = frozenset({State.PREPARING, State.RUNNING, State.STARTED, State.READY})  # and nobody has told it to leave
_HEEDS_START = frozenset({  # up by its target, and a request runs it whatever its policy says
    State.SCHEDULED, State.DONE, State.BACKOFF, State.DRAINING, State.STOPPING, State.FINISHING, State.CLEANING,
})  # fmt: skip


class ServiceView(NamedTuple):
    """A service as `status` shows it; `pid` 0 and `since_s` 0 without a process, `since_s` is monotonic.

    `failed`: its latest run ended, and not as it should; of a task there is no state that says so.
    """

    name: str
    state: State
    target: str
    pid: int
    ready: bool
    since_s: float
    restarts: int
    exit_code: int | None
    exit_signal: int | None
    reason: str
    failed: bool = False


class Supervisor:
    """Raises CycleError for services that wait for each other, CoreError for a requirement that nobody bears."""

    def __init__(
        self, config_services: tuple[ServiceSpec, ...], init: InitSpec, *, random: Callable[[], float]
    ) -> None:
        self.names = tuple(spec.name for spec in config_services)
        self._init = init
        self._random = random
        self._services = {spec.name: Service(self._as_main(spec), random) for spec in config_services}
        self._leaving: set[str] = set()  # no longer in the config, and not down yet
        self._link(config_services)
        self._out: list[a.Action] = []
        self._code: int | None = None
        self._reason = ""
        self._started = self._killed = self._clock_armed = False
        self.stopping = False
        self.finished = False

    def _link(self, specs: tuple[ServiceSpec, ...]) -> None:
        self._check_names(specs)
        self._order = graph.start_order(specs)
        self._specs = specs
        self._before = graph.waits_for(specs)
        self._after = graph.reverse(self._before)
        self._requires = graph.requirements(specs)
        self._required_by = graph.reverse(self._requires)

    @staticmethod
    def _check_names(specs: tuple[ServiceSpec, ...]) -> None:
        names = {spec.name for spec in specs}
        for spec in specs:
            for name in spec.requires:
                if name not in names:
                    raise CoreError(f"{spec.origin}: {spec.name} requires {name}, which is not a service")

    def _as_main(self, spec: ServiceSpec) -> ServiceSpec:
        """With "when-main-exits", `restart = "always"` (the default) would mean that main never exits."""
        if self._init.exit == "when-main-exits" and spec.name == self._init.main and spec.restart == "always":
            return spec._replace(restart="never")
        return spec

    def start(self, now: float) -> list[a.Action]:
        """Start every enabled service and what it requires."""
        if not self.stopping:
            self._started = True
            self._raise([name for name in self.names if self._services[name].spec.enabled], now)
        return self._settle(now)

    def handle(self, event: e.Event, now: float) -> list[a.Action]:
        """The orders that follow from a fact. Raises CoreError for an unknown name, IllegalEventError."""
        if self.finished:
            return []
        match event:
            case e.ShutdownRequested():
                self._shut_down(event.reason, event.exit_code, now, kill=event.kill)
            case e.TimerFired("", Timer.SHUTDOWN, _):
                self._time_is_up(now)
            case e.StartRequested(name):
                self._request_start(self._find(name), now)
            case e.StopRequested(name):
                self._request_stop(self._find(name), "stop requested", now)
            case e.RestartRequested(name):
                self._request_restart(self._find(name), now)
            case _:
                self._tell(self._find(event.name), input_of(event), now)
        return self._settle(now)

    def view(self, name: str) -> ServiceView:
        """What is known of a service now. Raises CoreError for an unknown name."""
        it = self._find(name)
        reason = it.reason
        if it.state is State.WAITING:
            reason = f"waits for {', '.join(self._blockers(it))}"
        ready = it.state is State.READY
        ends = (it.exit_code, it.exit_signal)
        return ServiceView(name, it.state, it.target.value, it.pid, ready, it.since_s, it.restarts, *ends, reason, it.has_failed())

    def spec(self, name: str) -> ServiceSpec:
        """What the service runs by now; of a changed one the old, until it has ended."""
        return self._find(name).spec

    def amend(self, name: str, limits: CgroupLimits) -> None:
        """Its group has other limits now; a config that waits for its restart keeps its own."""
        service = self._find(name)
        service.spec = service.spec._replace(cgroup=limits)

    def settled(self) -> bool:
        """Whether nothing is on its way: each service that is wanted is ready, done, failed or trying again."""
        return not any(service.on_its_way() or service.state in _ENDING for service in self._services.values())

    # Reload

    def enable(self, name: str, *, enabled: bool) -> None:
        """The user's word, which wins over the config: no difference to what a reload brings, which has heard it, too."""
        self._find(name).note_enabled(enabled=enabled)

    def forget(self, name: str) -> None:
        """What Forget named is known no longer; its carrier says when, for there may be something to tell of it yet."""
        self._find(name)
        del self._services[name]
        self.names = tuple(other for other in self.names if other != name)
        self._link(tuple(spec for spec in self._specs if spec.name != name))

    def add(self, specs: tuple[ServiceSpec, ...]) -> None:
        """Know these, too; they are down. Raises what the constructor does, and changes nothing then."""
        self._link((*self._specs, *specs))
        for spec in specs:
            self._services[spec.name] = Service(self._as_main(spec), self._random)
        self.names = (*self.names, *(spec.name for spec in specs))

    def reload(self, specs: tuple[ServiceSpec, ...], init: InitSpec, now: float) -> tuple[Difference, list[a.Action]]:
        """Make the services those of `specs`, touching only what differs; what is new, or newly enabled, is started.

        Raises what the constructor does, and changes nothing then.
        """
        leaving = [name for name in self.names if name not in {spec.name for spec in specs}]
        new = Supervisor(specs, init, random=self._random)
        here = {name: s.next_spec or s.spec for name, s in self._services.items() if name not in self._leaving}
        enabled = {spec.name: spec.enabled for spec in specs}
        found = compare(here, tuple(self._as_main(spec) for spec in specs))
        self._init = init
        for name in (*leaving, *self._leaving):
            self._leaving.add(name)
        for spec in specs:
            if spec.name not in self._services:
                self._services[spec.name] = Service(new._as_main(spec), self._random)
            elif spec.name in (*found.restarted, *found.changed):
                at_once = spec.name in found.changed
                self._out += self._services[spec.name].take_spec(self._as_main(spec), at_once=at_once)
        gone = tuple(self._parting(name) for name in self._leaving if name not in new.names)
        self._leaving = {spec.name for spec in gone}
        self.names = (*new.names, *self._leaving)
        self._link((*(spec._replace(requires=_only(spec.requires, new.names)) for spec in specs), *gone))
        for name in self._order:
            if name in self._leaving:
                self._request_stop(self._services[name], "no longer in the config", now)
        for name in found.restarted:
            if self._services[name].state not in IDLE:
                self._request_restart(self._services[name], now)
        fresh = [name for name in (*found.restarted, *found.changed) if not here[name].enabled]
        self._raise([name for name in (*found.added, *fresh) if enabled[name]], now)
        return found, self._settle(now)

    def _parting(self, name: str) -> ServiceSpec:
        """Of a service that leaves: its requirements hold the order of the stop, and are taken from nobody else."""
        spec = self._services[name].spec
        return spec._replace(
            requires=_only(spec.requires, tuple(self._leaving)), wants=(), before=(), after=(), enabled=False
        )

    def _find(self, name: str) -> Service:
        service = self._services.get(name)
        if service is None:
            raise CoreError(f"{name}: no such service; there are: {', '.join(self.names)}")
        return service

    def _tell(self, service: Service, event: Input, now: float) -> None:
        self._out += service.take(event, now)

    # Requests

    def _request_start(self, service: Service, now: float) -> None:
        if not self.stopping:
            self._raise([service.spec.name], now)
            if service.state in _HEEDS_START:
                # up by its target already, so _raise left it alone; a request runs it whatever its policy says
                self._tell(service, Input(Kind.START), now)

    def _raise(self, names: Iterable[str], now: float) -> None:
        wanted = set(names)
        for name in tuple(wanted):
            wanted |= graph.reachable(self._requires, name)
        for name in self._order:
            service = self._services[name]
            if name in self._leaving:
                continue
            rerun = service.state in DOWN and not service.satisfies()
            if name in wanted and (rerun or service.target is Target.DOWN):
                self._tell(service, Input(Kind.START), now)

    def _request_stop(self, service: Service, reason: str, now: float) -> None:
        name = service.spec.name
        dependants = graph.reachable(self._required_by, name)
        for other in reversed(self._order):
            if other == name:
                self._condemn(service, reason, now)
            elif other in dependants:
                self._condemn(self._services[other], f"requires {name}, which was stopped", now)

    def _condemn(self, service: Service, reason: str, now: float) -> None:
        """The target is down at once; a process is told when those that depend on it are down."""
        service.target = Target.DOWN
        service.stop_reason = reason
        if service.state in IDLE and service.state is not State.STOPPED:
            self._tell(service, Input(Kind.STOP, text=reason), now)

    def _request_restart(self, service: Service, now: float) -> None:
        if self.stopping:
            return
        self._raise(graph.reachable(self._requires, service.spec.name), now)
        self._tell(service, Input(Kind.RESTART), now)

    # Shutdown

    def _shut_down(self, reason: str, code: int | None, now: float, *, kill: bool) -> None:
        if self._code is None:
            self._code = code
        if not self.stopping:
            self.stopping, self._reason = True, reason
            for name in reversed(self._order):
                service = self._services[name]
                if service.state not in DOWN:
                    self._condemn(service, reason, now)
                service.target = Target.DOWN
            if not kill:
                self._arm_clock(now + max(0.0, self._init.stop_timeout_s - LAST_SECOND_S))
        if kill and not self._killed:
            self._kill_all(now)

    def _arm_clock(self, at_s: float) -> None:
        if any(service.state not in DOWN for service in self._services.values()):
            self._clock_armed = True
            self._out.append(a.ArmTimer("", Timer.SHUTDOWN, at_s))

    def _kill_all(self, now: float) -> None:
        self._killed = True
        self._out.append(a.KillAll())
        self._arm_clock(now + LAST_SECOND_S)
        for name in reversed(self._order):
            self._tell(self._services[name], Input(Kind.KILL, text=f"{self._reason}; killed"), now)

    def _time_is_up(self, now: float) -> None:
        if not self._clock_armed:
            return  # stale: it was cancelled while it fired
        self._clock_armed = False
        if not self._killed:
            self._kill_all(now)
            return
        for service in self._services.values():  # a process in D state ignores SIGKILL: leave without it
            self._out += service.give_up()
        self._exit()

    def _exit(self) -> None:
        if self._clock_armed:
            self._out.append(a.CancelTimer("", Timer.SHUTDOWN))
        self._clock_armed, self.finished = False, True
        self._out.append(a.Exit(self._code or 0))

    # What follows by itself

    def _settle(self, now: float) -> list[a.Action]:
        """Go on until nothing more follows: each round moves some service, and none moves for ever."""
        while not self.finished and (self._start_next(now) or self._stop_next(now) or self._end_next(now)):
            pass
        for name in reversed(self._order) if self._leaving else ():  # what one requires is known as long as it is
            if name in self._leaving and self._services[name].state in DOWN:
                self._leaving.discard(name)
                self._out.append(a.Forget(name))
        out, self._out = self._out, []
        return out

    def _start_next(self, now: float) -> bool:
        moved = False
        for name in self._order:
            service = self._services[name]
            if service.state is State.WAITING and not self.stopping:
                refusal = self._refusal(service)
                if refusal is not None:
                    self._tell(service, refusal, now)
                    moved = True
                elif not self._blockers(service):
                    self._tell(service, Input(Kind.GO), now)
                    moved = True
        return moved

    def _refusal(self, service: Service) -> Input | None:
        for name in self._requires[service.spec.name]:
            other = self._services[name]
            if other.state in DOWN and not other.satisfies():
                verb = {State.FAILED: "failed", State.DONE: "ended"}.get(other.state, "is stopped")
                why = f": {other.cause}" if other.cause else ""
                return Input(Kind.REFUSE, code=other.final_code or 1, text=f"requires {name}, which {verb}{why}")
        return None

    def _blockers(self, service: Service) -> list[str]:
        required = self._requires[service.spec.name]
        return [
            name
            for name in self._before[service.spec.name]
            if (not self._services[name].satisfies() if name in required else self._services[name].on_its_way())
        ]

    def _stop_next(self, now: float) -> bool:
        moved = False
        for name in reversed(self._order):
            service = self._services[name]
            if service.target is Target.UP or service.state not in _HAS_PROCESS:
                continue
            if self._killed:  # its exec was reported after KillAll, which may have missed it
                self._out.append(a.SendSignal(name, SIGKILL, group=True))
                self._tell(service, Input(Kind.KILL, text=service.stop_reason), now)
                moved = True
            elif all(self._is_out_of_the_way(other) for other in self._after[name]):
                self._tell(service, Input(Kind.STOP, text=service.stop_reason, flag=self._input_has_ended(name)), now)
                moved = True
        return moved

    def _input_has_ended(self, name: str) -> bool:
        """Whether nobody who logs to the service is there any more."""
        return all(self._services[other].state in DOWN for other in self._after[name] if self._services[other].spec.log.to == f"service:{name}")

    def _is_out_of_the_way(self, name: str) -> bool:
        other = self._services[name]
        return other.target is Target.UP or other.state in DOWN

    def _end_next(self, now: float) -> bool:
        """Begin the shutdown that a service's end asks for, or finish the one that is under way."""
        services = [self._services[name] for name in self.names]
        if self.stopping:
            if all(service.state in DOWN for service in services):
                self._exit()
            return False
        for service in services:
            if self._ends_all(service):
                reason = f"{service.spec.name} {service.state.word}: {service.cause}"
                self._shut_down(reason, service.final_code, now, kill=False)
                return True
        if self._started and self._init.exit == "when-all-exited" and all(s.state in DOWN for s in services):
            self._shut_down("all services have exited", None, now, kill=False)
            return True
        return False

    def _ends_all(self, service: Service) -> bool:
        if service.state not in (State.FAILED, State.DONE):
            return False
        if self._init.exit == "when-main-exits" and service.spec.name == self._init.main:
            return True
        if service.state is State.DONE:
            return False
        by_limit = service.why is Why.START_LIMIT and service.spec.start_limit.then == "exit"
        return service.spec.critical or by_limit or service.ends_all


def _only(names: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name in known)
