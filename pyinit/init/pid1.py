"""The init: where the pure supervisor meets the kernel.

Owns processes, timers, readiness watches and log pipes of the services. Must not know TOML or how the container
was made, and has no opinion: what happens next is core.supervisor's. Laws: one thread, one reaper, nothing blocks;
signals are blocked before the first child exists; each child is known before its exit can be read, since exits are
read only from the loop; an error at the loop's edge is a line on stderr and the loop goes on.
"""

import contextlib
import errno
import os
import random
import resource
import time

from pyinit.control.server import Server, bind
from pyinit.core import actions as a
from pyinit.core import events as e
from pyinit.core.supervisor import Supervisor
from pyinit.errors import PyinitError, fault
from pyinit.init import reaper, spawn, users
from pyinit.init.groups import Groups
from pyinit.init.host import Host
from pyinit.init.loop import Deadline, Loop
from pyinit.init.output import Output
from pyinit.init.readiness import Readiness
from pyinit.linux import process
from pyinit.model import RTMIN, Config, ServiceSpec, signal_name

TERM, INT, QUIT, HUP, CHLD, PWR, KILL = 15, 2, 3, 1, 17, 30, 9
REBOOT = RTMIN + 5
STOP_SIGNALS = (TERM, QUIT, PWR, RTMIN + 3, RTMIN + 4, REBOOT, INT)
# All but KILL and STOP, the C library's own, faults of our own, and what a terminal or a pipe says by the way.
HANDLED = [n for n in range(1, 65) if n not in (KILL, 19, 32, 33, 4, 5, 7, 8, 11, 31, 20, 21, 22, 13, 25)]
LOG_DRAIN_S = 1.0
_FDS, _FDS_A_SERVICE = 256, 6  # a pipe's two ends, its cgroup, a start's report, a watch, a log file
_QUIET = ("waiting", "running", "stopping", "cleaning")  # on the way to a state that is told
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_RETRY_REAP = 256  # exits a turn: the rest waits for the next, so that a storm can't starve the socket


class Endpoints:
    """What the init is given: fds (-1: none), its role and the environment that services may inherit."""

    def __init__(
        self, *, channel_fd: int = -1, cgroup_fd: int = -1, listen_fds: tuple[int, ...] = (), container: str = "",
        inherited: dict[str, str] | None = None, control_path: str = "",
    ) -> None:  # fmt: skip
        self.channel_fd = channel_fd
        self.cgroup_fd = cgroup_fd
        self.listen_fds = listen_fds  # bound already, of the control socket
        self.container = container
        self.inherited = inherited or {}
        self.control_path = control_path  # to be bound by the init itself; "" for none


class Init:
    """One run of the init; `run()` returns the exit code. Signals must be blocked before (HANDLED)."""

    def __init__(self, config: Config, endpoints: Endpoints) -> None:
        self.config = config
        self.endpoints = endpoints
        self.exit_code = 0
        self.reboots = False
        self.specs = {service.name: service for service in config.services}
        self.supervisor = Supervisor(config.services, config.init, random=random.random)
        self.loop = Loop(lambda error: self.log(f"internal error: {fault(error)}"))
        self.pids: dict[int, str] = {}  # unreaped main processes
        self.current: dict[str, int] = {}
        self.deadlines: dict[tuple[str, e.Timer], Deadline] = {}
        self.groups = Groups(endpoints.cgroup_fd, self.loop, lambda name: self.tell(e.CleanupFinished(name)))
        self.output = Output(config, self.loop)
        state_dir = config.init.state_dir
        self.readiness = Readiness(self.loop, state_dir, lambda name, pid: self.tell(e.BecameReady(name, pid)))
        self.server = Server(self.loop, Host(self), self.log)
        self.null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def log(self, text: str) -> None:
        """One line for people."""
        self.output.say(text)

    def run(self) -> int:
        """Until every service is down and the supervisor says Exit."""
        process.close_from(3)  # what a runtime or a shell left open goes to no service
        _make_room_for_fds(len(self.specs))
        process.block_signals(HANDLED)
        signal_fd = process.signalfd(HANDLED)
        self.loop.add_reader(signal_fd, lambda: self._signals(process.read_signals(signal_fd)))
        if self.endpoints.channel_fd >= 0:
            self.loop.add_reader(self.endpoints.channel_fd, self._monitor_spoke)
        self.output.start()
        self.do(self.supervisor.start(time.monotonic()))
        self._listen()  # after the services: they come first
        self.loop.call_soon(self._reap)
        if not self.supervisor.finished:
            self.loop.run()
        self.server.close()
        self.readiness.close()
        self.output.close(LOG_DRAIN_S)
        if self.reboots and os.getpid() == 1:
            with contextlib.suppress(OSError):  # without CAP_SYS_BOOT, or in the first namespace of a runtime's: a stop it is
                process.reboot()
        return self.exit_code

    def _listen(self) -> None:
        """A socket that can't be had is no reason not to run services."""
        listening = list(self.endpoints.listen_fds)
        if self.endpoints.control_path:
            try:
                listening.append(bind(self.endpoints.control_path))
            except (OSError, PyinitError) as error:
                self.log(f"no control socket at {self.endpoints.control_path}: {error}")
        for fd in listening:
            self.server.listen(fd)

    def tell(self, event: e.Event) -> None:
        """Hand a fact to the supervisor and carry out what it orders."""
        self.do(self.supervisor.handle(event, time.monotonic()))

    def do(self, actions: list[a.Action]) -> None:
        for action in actions:
            match action:
                case a.Spawn(name):
                    self._spawn(self.specs[name])
                case a.SendSignal(name, number, group):
                    self.signal(name, number, group=group)
                case a.KillLeftovers(name):
                    self.groups.kill(name, self.specs[name].kill)
                case a.ArmTimer(name, timer, at_s):
                    self._arm(name, timer, at_s)
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

    def _publish(self, name: str, state: str, reason: str) -> None:
        if state not in _QUIET and (reason or state != "starting"):
            self.log(f"{name}: {state}{': ' + reason if reason else ''}")
        self.server.changed(name)

    def _arm(self, name: str, timer: e.Timer, at_s: float) -> None:
        self._cancel(name, timer)

        def fired() -> None:
            self.deadlines.pop((name, timer), None)
            self.tell(e.TimerFired(name, timer))

        self.deadlines[name, timer] = self.loop.call_at(at_s, fired)

    def _cancel(self, name: str, timer: e.Timer) -> None:
        deadline = self.deadlines.pop((name, timer), None)
        if deadline is not None:
            deadline.cancel()

    def _spawn(self, spec: ServiceSpec) -> None:
        """Facts are told from the loop's next turn: the supervisor is not entered from its own orders."""
        notify = (-1, -1)
        try:
            user = self._user(spec)
            notify = self.readiness.prepare(spec, user.uid if user else -1)
            child = self._child(spec, user, notify)
            spawned = spawn.spawn(child)
        except (OSError, _RefusedError) as error:
            self.readiness.discard(notify)
            failed = _failure(spec, error)
            self.loop.call_soon(lambda: self.tell(failed))
            return
        self.readiness.started(spec, spawned.pid, notify)
        self.pids[spawned.pid] = spec.name
        self.current[spec.name] = spawned.pid
        self.groups.started(spec.name, spawned.pid)
        if spawned.status_fd < 0:
            self.loop.call_soon(lambda: self.tell(e.ExecSucceeded(spec.name, spawned.pid)))
        else:
            self.loop.add_reader(spawned.status_fd, lambda: self._exec_status(spec, spawned))

    def _exec_status(self, spec: ServiceSpec, spawned: spawn.Spawned) -> None:
        data = os.read(spawned.status_fd, 64)
        self.loop.remove_reader(spawned.status_fd)
        os.close(spawned.status_fd)
        if not data:
            self.tell(e.ExecSucceeded(spec.name, spawned.pid))
            return
        stage, number = spawn.read_failure(data)
        self.pids.pop(spawned.pid, None)  # its exit is the failed step's, not the service's
        self.tell(e.ExecFailed(spec.name, spawned.pid, stage, number, _explain(spec, stage, number)))

    @staticmethod
    def _user(spec: ServiceSpec) -> users.User | None:
        user = users.find_user(spec.user) if spec.user else None
        if spec.user and user is None:
            raise _RefusedError("user", errno.ENOENT, f"{spec.user_origin}: user {spec.user} is not in /etc/passwd: add it to the image, or name another")
        return user

    def _child(self, spec: ServiceSpec, user: users.User | None, notify: tuple[int, int]) -> spawn.Child:
        changes = (user is not None and (user.uid, user.gid) != (os.geteuid(), os.getegid())) or bool(spec.group or spec.groups)
        groups: tuple[int, ...] | None = None
        gid = user.gid if user else 0
        if changes and user is not None:
            gid = self._gid(spec, spec.group) if spec.group else user.gid
            named = spec.groups
            extra = users.groups_of(user) if named is None else [self._gid(spec, name) for name in named]
            groups = tuple(sorted({gid, *extra}))
        environment = self._environment(spec, user)
        environment.update(self.readiness.environment(spec))
        environment.update(self.groups.environment(spec.name))
        return spawn.Child(
            argv=spec.command,
            path=spawn.find_program(spec.command[0], environment["PATH"]),
            environment=environment,
            stdin_fd=self.null_fd,
            output_fd=self.output.pipe_for(spec, user.uid if user and groups is not None else -1),
            cgroup_fd=self.groups.directory_for(spec.name) if spec.kill == "cgroup" else -1,
            notify_fd=notify,
            uid=user.uid if user else 0,
            gid=gid,
            groups=groups,
            umask=spec.umask,
            working_directory=spec.working_directory,
            rlimits=tuple(
                (getattr(resource, "RLIMIT_" + name.upper()), soft, hard) for name, soft, hard in spec.rlimits
            ),
            no_new_privileges=spec.no_new_privileges,
        )

    @staticmethod
    def _gid(spec: ServiceSpec, name: str) -> int:
        gid = users.find_group(name)
        if gid is None:
            raise _RefusedError("user", errno.ENOENT, f"{spec.origin}: group {name} is not in /etc/group: add it to the image, or name another")
        return gid

    def _environment(self, spec: ServiceSpec, user: users.User | None) -> dict[str, str]:
        environment = dict(self.endpoints.inherited)
        environment.setdefault("PATH", DEFAULT_PATH)
        if user is not None:
            environment.update(HOME=user.home, USER=user.name, LOGNAME=user.name, SHELL=user.shell)
        if self.endpoints.container:
            environment["container"] = self.endpoints.container
        environment.update(self.config.init.environment)
        environment.update(spec.environment)
        for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID"):
            environment.pop(name, None)
        return environment

    def signal(self, name: str, number: int, *, group: bool = False) -> None:
        pid = self.current.get(name, 0)
        if group and self.specs[name].kill != "process":
            self.groups.signal(name, number)
        if pid in self.pids:  # not reaped: the number can be nobody else's
            os.kill(pid, number)

    def _kill_all(self) -> None:
        """All but us and the logger, which has lines to write still. Twice: what was being forked then."""
        if os.getpid() != 1:
            for name in self.specs:
                self.signal(name, KILL, group=True)
            return
        for _ in range(2):
            for pid in _all_pids():
                if pid not in (1, self.output.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, KILL)

    def _reap(self) -> None:
        ended = reaper.reap(_RETRY_REAP)
        if len(ended) == _RETRY_REAP:
            self.loop.call_soon(self._reap)
        for pid, code, number in ended:
            name = self.pids.pop(pid, None)
            if name is not None:
                self.tell(e.ProcessExited(name, pid, code, number))
            else:
                self.output.exited(pid)
        if ended:
            self.groups.check()

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
                self.log("HUP received: reload is not in this version; restart the container for a new config")
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


def _make_room_for_fds(services: int) -> None:
    """Raise our soft limit, no further than needed: services inherit it, and a huge one has its own troubles."""
    needed = _FDS + _FDS_A_SERVICE * services
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else min(needed, hard), hard))


def _all_pids() -> list[int]:
    """Of our own pid namespace; without /proc, -1: kill(2) takes it for all, the logger too."""
    try:
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    except FileNotFoundError:
        return [-1]


class _RefusedError(Exception):
    """A step before fork that has no errno of its own to raise."""

    def __init__(self, stage: str, number: int, message: str) -> None:
        super().__init__(message)
        self.stage, self.number = stage, number


def _failure(spec: ServiceSpec, error: OSError | _RefusedError) -> e.ExecFailed:
    if isinstance(error, _RefusedError):
        return e.ExecFailed(spec.name, 0, error.stage, error.number, str(error))
    stage = "exec" if error.filename else "fork"
    number = error.errno or 0
    return e.ExecFailed(spec.name, 0, stage, number, _explain(spec, stage, number))


def _explain(spec: ServiceSpec, stage: str, number: int) -> str:
    if stage == "exec":
        what = f"cannot execute {spec.command[0]}: {os.strerror(number)}"
        hint = "; is it in the image?" if number == errno.ENOENT else ""
        return f"{spec.command_origin}: {what}{hint}"
    return f"{spec.origin}: {stage} failed before exec: {os.strerror(number)}"
