"""What the control socket may ask of the init.

Owns the answers of `status` and the way a request becomes an event. Must not know sockets.
"""

import os
import time
from _collections_abc import Callable

from pyinit import __version__
from pyinit.core import events as e
from pyinit.core.supervisor import ServiceView
from pyinit.errors import ControlError, no_such_service
from pyinit.init.jobs import Ended
from pyinit.model import MOST_NAME, is_name
from pyinit.records import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pyinit.control.wire import Request
    from pyinit.init.beside import Held
    from pyinit.init.pid1 import Init

_KILL = 9
_RELOAD_TIMEOUT_S = 30.0
_MOST_COMMAND = 512
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


class Host:
    """The init as its control server sees it."""

    def __init__(self, init: "Init") -> None:
        self._init = init
        self._since = time.monotonic()

    def names(self) -> tuple[str, ...]:
        return self._init.supervisor.names

    def make(self, names: tuple[str, ...], done: Callable[[dict[str, object]], None]) -> None:
        """Instances of templates become known, down as yet; ControlError for a name that is none."""
        templates = self._init.config.templates
        for name in names:
            base, mark, instance = name.partition("@")
            if f"{base}@" not in templates:
                raise no_such_service(name, self.names(), templates)
            if not mark or not instance or not is_name(name):
                raise ControlError(
                    f"{name}: {base}@ is a template: expected an instance such as {base}@1, "
                    f"up to {MOST_NAME} letters, digits, _ . - or @"
                )
            self._refuse_while_stopping(name)
        self._init.reloading.make(names, done)

    def view(self, name: str) -> ServiceView:
        return self._init.supervisor.view(name)

    def status(self) -> dict[str, object]:
        now = time.monotonic()
        state = "stopping" if self._init.supervisor.stopping else "running" if self._init.is_ready else "starting"
        own = {"pid": os.getpid(), "version": __version__, "uptime_s": round(now - self._since, 3), "state": state}
        running = tuple(name for name in self.names() if self.view(name).pid)
        members = self._init.groups.census(running)
        return {"init": own, "services": [self._service(name, now, members.get(name, [])) for name in self.names()]}

    def _service(self, name: str, now: float, pids: list[int]) -> dict[str, object]:
        view = self.view(name)
        said = self._init.words.status(name)
        memory, cpu = _usage(pids)
        return {
            "name": view.name, "state": view.state.word, "target": view.target, "pid": view.pid or None,
            "ready": view.ready, "paused": self._init.pauses.is_paused(name), "uptime_s": round(now - view.since_s, 3) if view.pid else None,
            "restarts": view.restarts, "exit": {"code": view.exit_code, "signal": view.exit_signal},
            "reason": self._reason(name, view), "status": said["text"], "health": self._init.health.state(name)[0],
            "notify": {key: said[key] for key in ("errno", "reloading", "stopping", "stored_fds")},
            "memory_bytes": memory, "cpu_s": cpu,
        }  # fmt: skip

    def _reason(self, name: str, view: ServiceView) -> str:
        """Of a task, also when it runs next; of bad health, what was said."""
        more = self._init.schedules.next_run(name) or self._init.health.state(name)[1]
        return "; ".join(text for text in (view.reason, more) if text)

    def exec(self, request: "Request", fds: tuple[int, ...], done: Callable[[int, str], None]) -> "Held":
        """Run a command as the service would: its user, environment, cgroup and limits; `done(exit code, error)`.

        `fds`: its standard input, output and error, or those of a terminal (spawn.Terminal). Without a service: see shell.py.
        """
        from pyinit.init.shell import Wishes  # nobody may ever ask
        from pyinit.init.spawn import Terminal

        name = "".join(request.names)
        self._refuse_while_stopping(name or "exec")
        if name:
            self._refuse_while_paused(name)
        wishes = Wishes(request.user, request.directory, tuple(request.environment.items()))
        spare_fd = fds[1] if len(fds) > 1 else -1
        stdio = Terminal(fds[0], spare_fd, *request.size) if request.tty else (fds[0], fds[1], fds[2])

        def ended(how: Ended) -> None:
            done(128 + how.signal if how.signal else how.code, how.message)

        return self._init.beside.run_for_client(name, request.argv, wishes, stdio, ended)

    def processes(self, name: str) -> dict[str, object]:
        """Of one service, for `ps`."""
        view = self.view(name)
        rows = [row for pid in self._init.groups.members(name) if (row := _process(pid)) is not None]
        return {"name": name, "state": view.state.word, "processes": [{**dict(zip(row._fields[:4], row[:4], strict=True)), "command": _command(row.pid)} for row in rows]}

    def stats(self, names: tuple[str, ...]) -> dict[str, object]:
        """What is used; the whole only if no name is said. Without accounting memory and pids are those of the processes."""
        chosen = names or self.names()
        members = self._init.groups.census(tuple(name for name in chosen if self.view(name).pid))
        services = [{"name": name, **self._numbers(name, members.get(name, []))} for name in chosen]
        whole = None if names else self._init.groups.whole_numbers()
        return {"t_s": round(time.monotonic() - self._since, 3), "container": whole, "services": services}

    def _numbers(self, name: str, pids: list[int]) -> dict[str, object]:
        found: dict[str, Any] = self._init.groups.numbers(name)
        memory, threads = found["memory"], found["pids"]
        if memory["used_bytes"] is None or threads["count"] is None:
            rows = [row for pid in pids if (row := _process(pid)) is not None]
            if memory["used_bytes"] is None:
                memory["used_bytes"] = sum(row.memory_bytes for row in rows)
            if threads["count"] is None:
                threads["count"] = sum(row.threads for row in rows)
        return found

    def pause(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Those that are named, all or none; else all that run: why some of these are left as they are."""
        pauses = self._init.pauses
        running = names or tuple(name for name in self.names() if self.view(name).pid)
        obstacles = {name: text for name in running if (text := pauses.obstacle(name))}
        if obstacles and (names or len(obstacles) == len(running)):
            raise ControlError("\n".join(obstacles.values()))
        for name in running:
            if name not in obstacles:
                pauses.pause(name)
        return tuple(obstacles.values())

    def resume(self, names: tuple[str, ...]) -> None:
        for name in names:
            if not self._init.pauses.is_paused(name):
                raise ControlError(f"{name}: is not paused")
        for name in names or self.names():
            self._init.pauses.end(name)

    def update(self, name: str, said: dict[str, object], done: Callable[[dict[str, object]], None]) -> None:
        """Other limits, live; "" means all together."""
        self._init.updates.update(name, said, done)

    def _refuse_while_paused(self, name: str) -> None:
        if self._init.pauses.is_paused(name):
            raise ControlError(f"{name}: is paused: `pyinit resume {name}` first")

    def start(self, name: str) -> None:
        self._refuse_while_stopping(name)
        self._init.tell(e.StartRequested(name))

    def stop(self, name: str) -> None:
        self._init.tell(e.StopRequested(name))

    def restart(self, name: str) -> None:
        self._refuse_while_stopping(name)
        self._init.tell(e.RestartRequested(name))

    def signal(self, name: str, number: int) -> None:
        if not self.view(name).pid:
            raise ControlError(f"{name}: is {self.view(name).state.word}: there is no process to signal")
        if number == _KILL:  # with cgroup v1 a frozen process does not die
            self._init.pauses.end(name, "killed")
        self._init.signal(name, number)

    def shutdown(self, exit_code: int | None) -> None:
        self._init.tell(e.ShutdownRequested("shutdown requested", exit_code))

    def logs(self, request: bytes, client_fd: int) -> None:
        self._init.output.logs(request, client_fd)

    def hup(self, name: str, done: Callable[[str], None]) -> None:
        """The service's own reload; `done("")` when it is over, or a text."""
        view, spec = self.view(name), self._init.supervisor.spec(name)
        if not view.pid:
            raise ControlError(f"{name}: is {view.state.word}: there is no process that could reload")
        self._refuse_while_paused(name)
        if spec.reload_signal:
            self._init.signal(name, spec.reload_signal)
            self._init.loop.call_soon(lambda: done(""))
            return
        variables = {"MAINPID": str(view.pid)}
        self._init.beside.run(name, spec.reload_command, _RELOAD_TIMEOUT_S, lambda how: done(how.text()), variables)

    def enable(self, name: str) -> None:
        self._init.overrides.set(name, enabled=True)
        self._init.supervisor.enable(name, enabled=True)
        self.start(name)

    def disable(self, name: str) -> None:
        self._init.overrides.set(name, enabled=False)
        self._init.supervisor.enable(name, enabled=False)
        self.stop(name)

    def reload(self, done: Callable[[dict[str, object]], None]) -> None:
        self._init.reload(done)

    def _refuse_while_stopping(self, name: str) -> None:
        if self._init.supervisor.stopping:
            raise ControlError(f"{name}: the init is stopping: nothing is started any more")


class _Process(NamedTuple):
    pid: int
    parent: int
    memory_bytes: int
    cpu_s: float
    threads: int


def _process(pid: int) -> _Process | None:
    """proc_pid_stat(5), behind the name's bracket; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(1024).rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    cpu_s = round((int(fields[11]) + int(fields[12])) / _TICKS, 2)
    return _Process(pid, int(fields[1]), int(fields[21]) * _PAGE, cpu_s, int(fields[17]))


def _usage(pids: list[int]) -> tuple[int, float]:
    """Resident bytes and CPU seconds."""
    rows = [row for pid in pids if (row := _process(pid)) is not None]
    return sum(row.memory_bytes for row in rows), round(sum(row.cpu_s for row in rows), 2)


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
            return file.read(_MOST_COMMAND).replace(b"\0", b" ").decode("utf-8", "replace").rstrip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
