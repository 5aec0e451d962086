"""The init: where the pure supervisor meets the kernel.

Owns processes, timers, readiness watches and log pipes of the services. Must not know TOML or how the container
was made, and has no opinion: what happens next is core.supervisor's. Laws: one thread, one reaper, nothing blocks;
signals are blocked before the first child exists; each child is known before its exit can be read, since exits are
read only from the loop; an error at the loop's edge is a line on stderr and the loop goes on.
"""

import os
import resource
import time
from _collections_abc import Callable
from _random import Random

from pyinit import scopes as contextlib
from pyinit.control.server import Server, bind
from pyinit.core import actions as a
from pyinit.core import events as e
from pyinit.core.supervisor import Supervisor
from pyinit.errors import PyinitError, fault
from pyinit.init import reaper, sockets, spawn
from pyinit.init.alarms import Alarms, Group
from pyinit.init.beside import Beside, failure
from pyinit.init.children import Base, Children, explain
from pyinit.init.groups import Groups
from pyinit.init.health import Health
from pyinit.init.host import Host
from pyinit.init.loop import Deadline, Loop
from pyinit.init.output import Output
from pyinit.init.overrides import Overrides
from pyinit.init.pauses import Pauses
from pyinit.init.privileges import RefusedError
from pyinit.init.readiness import LogWatch, Readiness
from pyinit.init.reload import Answer, Reader, Reload
from pyinit.init.render import now_iso
from pyinit.init.schedule import Schedules
from pyinit.init.updates import WHOLE, Updates
from pyinit.init.upward import Upward
from pyinit.init.words import Words
from pyinit.linux import process
from pyinit.model import RTMIN, Config, Pressure, ServiceSpec, signal_name

random = Random()  # its core: the module brings hashes and 5 ms
TERM, INT, QUIT, HUP, CHLD, CONT, PWR, KILL = 15, 2, 3, 1, 17, 18, 30, 9
REBOOT = RTMIN + 5
STOP_SIGNALS = (TERM, QUIT, PWR, RTMIN + 3, RTMIN + 4, REBOOT, INT)
# All but KILL and STOP, the C library's own, faults of our own, and what a terminal or a pipe says by the way.
HANDLED = [n for n in range(1, 65) if n not in (KILL, 19, 32, 33, 4, 5, 7, 8, 11, 31, 20, 21, 22, 13, 25)]
_OF_SERVICES = (4, 5, 7, 8, 11, 31, 20, 21, 22)  # those of them that no start resets
LOG_DRAIN_S = 1.0
_FDS, _FDS_A_SERVICE = 256, 9  # a pipe's two ends, its spool, its cgroup's two, a start's report, a watch, a log file, a socket
_QUIET = ("waiting", "running", "stopping", "cleaning")  # on the way to a state that is told
_ENDS_A_PAUSE = (a.SendSignal, a.KillLeftovers, a.RunHook, a.Spawn)
_RETRY_REAP = 256  # exits a turn: the rest waits for the next, so that a storm can't starve the socket


class Endpoints:
    """What the init is given: fds (-1: none), its role, its own environment and what of it services may inherit."""

    def __init__(
        self, *, channel_fd: int = -1, cgroup_fd: int = -1, v1_fds: dict[str, int] | None = None, listen_fds: tuple[int, ...] = (), container: str = "",
        given: dict[str, str] | None = None, inherited: dict[str, str] | None = None, control_path: str = "",
        read_config: Reader | None = None,
    ) -> None:  # fmt: skip
        self.channel_fd = channel_fd
        self.cgroup_fd = cgroup_fd
        self.v1_fds = v1_fds or {}  # the container's groups in the hierarchies of cgroup v1, by controller
        self.listen_fds = listen_fds  # bound already, of the control socket
        self.container = container
        self.read_config = read_config  # None: the monitor does it
        self.given = given or {}
        self.inherited = inherited or {}
        self.given_fds = sockets.inherited(self.given, os.getpid())
        self.control_path = control_path  # to be bound by the init itself; "" for none


class Init:
    """One run of the init; `run()` returns the exit code. Signals must be blocked before (HANDLED)."""

    def __init__(self, config: Config, endpoints: Endpoints) -> None:
        self.config = config
        self.endpoints = endpoints
        self.exit_code = 0
        self.reboots = False
        self._control_path = ""  # that we have bound ourselves
        self.is_ready = False  # everything that was to start has, or has failed
        self.overrides = Overrides(config.init.state_dir, self.log)
        self.supervisor = Supervisor(self.overrides.applied(config.services), config.init, random=random.random)
        self.loop = Loop(lambda error: self.log(f"internal error: {fault(error)}"))
        self.pids: dict[int, str] = {}  # unreaped main processes
        self._starting: dict[int, Callable[[], bool]] = {}  # of those whose exec has not been looked at: tells how it went
        self.current: dict[str, int] = {}
        self.deadlines: dict[tuple[str, e.Timer], Deadline] = {}
        self.groups = Groups(endpoints.cgroup_fd, endpoints.v1_fds, self.loop, lambda name: self.tell(e.CleanupFinished(name)), self._children_known, fresh=endpoints.container == "pyinit")
        self.output = Output(config, self.loop)
        base = Base(endpoints.inherited, endpoints.container, config.init)
        self.children = Children(base, self.groups, self.output, self.log)
        self.beside = Beside(self)
        self.sockets = sockets.Sockets(endpoints.given_fds)
        self.words = Words(self, config.init.state_dir)
        log = LogWatch(self.output.watch, self.output.unwatch)
        self.readiness = Readiness(self.loop, lambda name, pid: self.tell(e.BecameReady(name, pid)), self.beside.probe, log)
        self.health = Health(self.loop, self._unhealthy, self.beside.probe, random.random)
        self.schedules = Schedules(self.loop, lambda name: self.tell(e.Due(name)), self.log)
        self.pauses = Pauses(self)
        self.updates = Updates(self)
        self.alarms = Alarms(self.loop, WHOLE, self.happened, self.log)
        self.reloading = Reload(self)
        self.upward = Upward(endpoints.channel_fd, endpoints.given)
        self.server = Server(self.loop, Host(self), self.log)

    def log(self, text: str) -> None:
        """One line for people."""
        self.output.say(text)

    def run(self) -> int:
        """Until every service is down and the supervisor says Exit."""
        process.close_from(3)  # what a runtime or a shell left open goes to no service
        self.make_room_for_fds()
        process.block_signals(HANDLED)
        for number in (*HANDLED, *_OF_SERVICES):  # nohup, a shell's & or a runtime has us ignore some, and a service would inherit that
            process.reset_signal(number)
        signal_fd = process.signalfd(HANDLED)
        self.loop.add_reader(signal_fd, lambda: self._signals(process.read_signals(signal_fd)))
        if self.endpoints.channel_fd >= 0:
            self.loop.add_reader(self.endpoints.channel_fd, self._monitor_spoke)
        self.output.start()
        self.reloading.begin(self._begin)
        if not self.supervisor.finished:
            self.loop.run()
        self.server.close()
        with contextlib.suppress(OSError):  # it may lie on what has become read-only, or have been removed
            sockets.remove(self._control_path)
        self.reloading.close()
        self.updates.close()
        self.alarms.close()
        self.readiness.close()
        self.words.close()
        self.sockets.close()
        self.schedules.close()
        self.groups.close()
        self.upward.exit_status(self.exit_code)
        self.output.close(LOG_DRAIN_S)
        if self.reboots and os.getpid() == 1:
            with contextlib.suppress(OSError):  # without CAP_SYS_BOOT, or in the first namespace of a runtime's: a stop it is
                process.reboot()
        return self.exit_code

    def _begin(self) -> None:
        self._bind_sockets()
        box = self.config.container
        self._watch_group("", box.cgroup.pressure if box is not None and self.endpoints.read_config is None else ())
        self.do(self.supervisor.start(time.monotonic()))
        self._listen()  # after the services: they come first
        self._look_if_ready()  # now, if nothing is to be started
        self.loop.call_soon(self._reap)

    def make_room_for_fds(self) -> None:
        """Raise our soft limit, no further than needed: services inherit it, and a huge one has its own troubles."""
        needed = _FDS + _FDS_A_SERVICE * len(self.supervisor.names)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < needed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else min(needed, hard), hard))

    def _bind_sockets(self) -> None:
        """Before anything runs: a client may come early, and waits. What fails here fails at the start, with its reason."""
        for name in self.supervisor.names:
            spec = self.supervisor.spec(name)
            if spec.sockets and spec.enabled:
                with contextlib.suppress(OSError, RefusedError):
                    self.sockets.bind(spec, self.children.ids_of)

    def _listen(self) -> None:
        """A socket that can't be had is no reason not to run services."""
        listening = list(self.endpoints.listen_fds)
        if self.endpoints.control_path:
            try:
                listening.append(bind(self.endpoints.control_path))
                self._control_path = self.endpoints.control_path
            except (OSError, PyinitError) as error:
                self.log(f"no verb can reach this init: {error}")
        for fd in listening:
            self.server.listen(fd)

    def tell(self, event: e.Event) -> None:
        """Hand a fact to the supervisor and carry out what it orders."""
        was_stopping = self.supervisor.stopping
        self.do(self.supervisor.handle(event, time.monotonic()))
        if self.supervisor.stopping and not was_stopping:
            self.pauses.end_all("the init is stopping")  # others may need it for their own stop
            self.upward.stopping()
        else:
            self._look_if_ready()

    def _look_if_ready(self) -> None:
        """What leaves with an error because of this very fact has never been ready."""
        if not self.is_ready and not self.exit_code and not self.supervisor.stopping and self.supervisor.settled():
            self.is_ready = True
            self.upward.ready(f"{len(self.supervisor.names)} services")

    def do(self, actions: list[a.Action]) -> None:
        for action in actions:
            if isinstance(action, _ENDS_A_PAUSE):
                self.pauses.end(action.name, "it is to act")
            match action:
                case a.Spawn(name):
                    self._spawn(self.supervisor.spec(name))
                case a.RunHook():
                    self.beside.run_hook(action)
                case a.KillHook(name):
                    self.beside.kill_hook(name)
                case a.SetTask(name):
                    schedule = self.supervisor.spec(name).schedule
                    assert schedule is not None
                    self.schedules.set(name, schedule)
                case a.UnsetTask(name):
                    self.schedules.unset(name)
                case a.Forget(name):
                    self._forget(name)
                case a.SendSignal(name, a.END_OF_INPUT, _):
                    self.output.end_feed(name)
                case a.SendSignal(name, number, group):
                    self.signal(name, number, group=group)
                    if number != KILL:
                        self.signal(name, CONT)  # a stopped process would not hear it
                case a.KillLeftovers(name):
                    self.groups.kill(name, self.supervisor.spec(name).kill)
                case a.ArmTimer(name, timer, at_s):
                    self.arm(name, timer, at_s)
                case a.CancelTimer(name, timer):
                    self._cancel(name, timer)
                case a.Unwatch(name):
                    self.readiness.unwatch(name)
                case a.Publish(name, state, reason):
                    self._publish(name, state, reason)
                case a.KillAll():
                    self._kill_all()
                case a.Exit(code):
                    self.exit_code = code
                    self.loop.stop()

    def reload(self, answer: Answer) -> None:
        """Read the config again, and make the services what it says."""
        self.reloading.request(answer)

    def _reload_by_signal(self) -> None:
        self.reload(lambda answer: self.reloading.log_error("reload", answer))

    def _publish(self, name: str, state: str, reason: str) -> None:
        if state not in _QUIET and (reason or state != "starting"):
            self.log(f"{name}: {state}{': ' + reason if reason else ''}")
        if state not in ("running", "ready"):
            self.pauses.end(name)
        if state == "ready" and not self.pauses.is_paused(name):
            self.health.started(name, self.current.get(name, 0), self.supervisor.spec(name).health)
        else:
            self.health.stopped(name)
        self.words.changed(name, state)
        self._tell_clients(name, state, reason, self.supervisor.view(name).pid)
        self.server.changed(name)

    def happened(self, name: str, what: str, reason: str, pid: int = 0) -> None:
        """Something that is no change of state: for people, and for those who watch."""
        self.log(f"{name}: {what}{': ' + reason if reason else ''}")
        self._tell_clients(name, what, reason, pid)

    def _tell_clients(self, name: str, state: str, reason: str, pid: int) -> None:
        self.server.happened({"t": now_iso(), "name": name, "state": state, "reason": reason, "pid": pid})

    def _unhealthy(self, name: str, pid: int, text: str) -> None:
        self.tell(e.BecameUnhealthy(name, pid, text))

    def arm(self, name: str, timer: e.Timer, at_s: float) -> None:
        """TimerFired at that time; after a pause, if there is one."""
        self._cancel(name, timer)
        if self.pauses.hold(name, timer, at_s):
            return

        def fired() -> None:
            self.deadlines.pop((name, timer), None)
            why = self.readiness.failing(name) if timer is e.Timer.READY else ""
            self.tell(e.TimerFired(name, timer, why))

        self.deadlines[name, timer] = self.loop.call_at(at_s, fired)

    def _cancel(self, name: str, timer: e.Timer) -> None:
        self.pauses.drop(name, timer)
        deadline = self.deadlines.pop((name, timer), None)
        if deadline is not None:
            deadline.cancel()

    def _spawn(self, spec: ServiceSpec) -> None:
        """Facts are told from the loop's next turn: the supervisor is not entered from its own orders."""
        notify = (-1, -1)
        try:
            unmet = "" if spec.hooks.pre_start else self.children.unmet(spec)  # those have looked before the first of them
            if unmet:
                self.loop.call_soon(lambda: self.tell(e.ConditionUnmet(spec.name, unmet)))
                return
            uid = self.children.uid_for_files(spec)
            self.words.prepare(spec, uid)
            notify = self.readiness.prepare(spec)
            child = self._child(spec, notify)
            self._watch_group(spec.name, spec.cgroup.pressure)  # before it is there: it may have died of its memory by the next line
            try:
                spawned = spawn.spawn(child)
            finally:
                self.children.release(spec, child)
        except (OSError, RefusedError) as error:
            self.readiness.discard(spec, notify)
            failed = failure(spec, error, spec.command[0])
            self.loop.call_soon(lambda: self.tell(failed))
            return
        self._started(spec, spawned, notify)

    def _child(self, spec: ServiceSpec, notify: tuple[int, int]) -> spawn.Child:
        bound = self.sockets.bind(spec, self.children.ids_of)
        handed = [*bound, *self.words.stored(spec.name)]
        variables = {**self.words.environment(spec), **sockets.variables([name for name, _ in handed])}
        passed = (*((fd, sockets.FIRST_FD + number) for number, (_, fd) in enumerate(handed)), notify)
        kind, _, name = spec.process.stdin.partition(":")
        stdin_fd = dict(bound)[name] if kind == "socket" else -1
        pid_variables = (*self.words.pid_variables(spec), *(("LISTEN_PID",) if handed else ()))
        return self.children.main(spec, passed=passed, pid_variables=pid_variables, variables=variables, stdin_fd=stdin_fd)

    def _started(self, spec: ServiceSpec, spawned: spawn.Spawned, notify: tuple[int, int]) -> None:
        self.pids[spawned.pid] = spec.name
        self.current[spec.name] = spawned.pid
        self.groups.started(spec.name, spawned.pid)
        self.readiness.started(spec, spawned.pid, notify)
        self._starting[spawned.pid] = lambda: self._exec_status(spec, spawned)
        if spawned.status_fd < 0:
            self.loop.call_soon(lambda: self._see_start(spawned.pid))
        else:
            self.loop.add_reader(spawned.status_fd, lambda: self._see_start(spawned.pid))

    def _see_start(self, pid: int) -> None:
        self._look_at_start(pid)

    def _look_at_start(self, pid: int) -> bool:
        """Tell how its exec went, once; whether it has failed, and an exit is the failed step's, not the service's."""
        tell = self._starting.get(pid)
        return tell is not None and tell()

    def _exec_status(self, spec: ServiceSpec, spawned: spawn.Spawned) -> bool:
        data = b""
        if spawned.status_fd >= 0:
            try:
                data = os.read(spawned.status_fd, 64)
            except BlockingIOError:  # told of one that had this number, and was read with its exit, in this very turn
                return False
            self.loop.remove_reader(spawned.status_fd)
            os.close(spawned.status_fd)
        del self._starting[spawned.pid]
        if not data:
            self.tell(e.ExecSucceeded(spec.name, spawned.pid))
            return False
        stage, number = spawn.read_failure(data)
        self.pids.pop(spawned.pid, None)
        text = explain(spec, spec.command[0], stage, number)
        self.tell(e.ExecFailed(spec.name, spawned.pid, stage, number, text))
        return True

    def _watch_group(self, name: str, pressures: tuple[Pressure, ...]) -> None:
        self.alarms.watch(name or WHOLE, Group(self.groups.unified_fd(name), self.groups.memory_fd(name)), pressures)

    def _forget(self, name: str) -> None:
        self.log(f"{name}: removed")
        self.words.forget(name)
        self.sockets.forget(name)
        self.output.forget(name)
        self.schedules.forget(name)
        self.alarms.forget(name)
        self.groups.forget(name)
        self.current.pop(name, None)
        self.supervisor.forget(name)

    def signal(self, name: str, number: int, *, group: bool = False) -> None:
        pid = self.current.get(name, 0)
        if group and self.supervisor.spec(name).kill != "process":
            self.groups.signal(name, number)
        if pid in self.pids:  # not reaped: the number can be nobody else's
            os.kill(pid, number)

    def _kill_all(self) -> None:
        """All but us and the logger, which has lines to write still. Twice: what was being forked then."""
        self.pauses.end_all("it is killed")
        if os.getpid() != 1:
            for name in self.supervisor.names:
                self.signal(name, KILL, group=True)
            return
        for _ in range(2):
            for pid in _all_pids():
                if pid not in (1, self.output.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, KILL)

    def _children_known(self) -> frozenset[int]:
        return frozenset((*self.pids, *self.beside.jobs.pids(), self.output.pid))

    def _reap(self) -> None:
        self.words.drain()  # what a process said before it ended
        ended = reaper.reap(_RETRY_REAP)
        if len(ended) == _RETRY_REAP:
            self.loop.call_soon(self._reap)
        for pid, code, number in ended:
            self.loop.call(self._exit_of(pid, code, number))  # each by itself: an error costs none of the others
        if ended:
            self.groups.check()

    def _exit_of(self, pid: int, code: int, number: int) -> Callable[[], None]:
        return lambda: self._exited(pid, code, number)

    def _exited(self, pid: int, code: int, number: int) -> None:
        name = self.pids.pop(pid, None)  # from here on it can't be signalled: the number may be another's
        if name is not None:
            if number == KILL:
                self.groups.was_killed(name)
            if not self._look_at_start(pid):  # that has happened first
                self.tell(e.ProcessExited(name, pid, code, number, self.groups.ran_out_of_memory(name)))
        elif not self.beside.jobs.exited(pid, code, number):
            self.output.exited(pid, code)

    def _signals(self, numbers: list[int]) -> None:
        stop = (*STOP_SIGNALS, *self.config.init.stop_signals)
        for number in numbers:
            if number == CHLD:
                self._reap()
            elif number in stop:
                kill = number == INT and self.supervisor.stopping
                # To LXC, INT is what Ctrl-Alt-Del is to a machine.
                self.reboots |= number == REBOOT or (number == INT and self.endpoints.container == "lxc")
                self.tell(e.ShutdownRequested(f"{signal_name(number)} received", None, kill))
            elif number == HUP:
                self._reload_by_signal()
            else:
                for wanted, name in self.config.init.forward_signals:
                    if wanted == number:
                        self.signal(name, number, group=False)

    def _monitor_spoke(self) -> None:
        """EOF: the monitor is gone, nobody would clean up after us; stop in order."""
        if not os.read(self.endpoints.channel_fd, 4096):
            self.loop.remove_reader(self.endpoints.channel_fd)
            box = self.config.container
            if box is None or not box.orphan:
                self.tell(e.ShutdownRequested("the monitor is gone"))


def _all_pids() -> list[int]:
    """Of our own pid namespace; without /proc, -1: kill(2) takes it for all, the logger too."""
    try:
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    except FileNotFoundError:
        return [-1]
