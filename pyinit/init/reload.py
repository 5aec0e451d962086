"""`pyinit reload`, and instances of templates by verb: the config is read by another process, and comes here whole.

Owns the way of a new config into a running init. Must not know TOML. Laws: PID 1 never reads the file; a bad file
changes nothing; what can't change while it runs is refused, by its name; an instance that is asked for is all that is
taken of the file then; one reading at a time.
"""

import os
import time
from _collections_abc import Callable, Container

from pyinit import scopes as contextlib
from pyinit.errors import EXIT_CONFIG, EXIT_FAILED, ControlError, PyinitError, fault
from pyinit.init.loop import Deadline
from pyinit.linux import process
from pyinit.linux import sock as socket
from pyinit.model import Config, ServiceSpec, without_places
from pyinit.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pyinit.init.pid1 import Init

_KILL = 9
_PATIENCE_S = 30.0
_MOST_BYTES = 64 << 20
_MOST_NAMES_BYTES = 1 << 20
Answer = Callable[[dict[str, object]], None]
Reader = Callable[[tuple[str, ...]], Config]  # of instances that it shall hold, whether or not a service names them


def write_config(fd: int, read: Callable[[], Config]) -> None:
    """In the reader's process: the config, or why there is none, to `fd`."""
    import pickle  # once a reload: PID 1 itself has no need of it before

    try:
        data = pickle.dumps(("config", read()))
    except PyinitError as error:
        data = pickle.dumps(("error", str(error)))
    except Exception as error:  # noqa: BLE001 - the process's edge: PID 1 must hear of it
        data = pickle.dumps(("error", f"{type(error).__name__}: {error}"))
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_names(fd: int) -> tuple[str, ...]:
    """In the reader's process: what `_ask` has written."""
    return tuple(os.pread(fd, _MOST_NAMES_BYTES, 0).decode().split())


def instances(names: tuple[str, ...], config: Config, known: Container[str]) -> tuple[ServiceSpec, ...]:
    """The instances `names` of templates, and those that they name in turn, without what is `known`; ControlError."""
    there = {spec.name: spec for spec in config.services}
    found: dict[str, ServiceSpec] = {}
    todo = [(name, "") for name in names]
    while todo:
        name, needed_by = todo.pop(0)
        if name in known or name in found:
            continue
        spec = there.get(name)
        if spec is not None and spec.template in config.templates:
            found[name] = spec
            todo += [*((other, name) for other in spec.requires), *((other, "") for other in spec.wants if other in there)]
        elif needed_by:
            raise ControlError(f"{there[needed_by].origin}: {needed_by} requires {name}, which is new in the file: `pyinit reload` first")
        elif name in names:
            raise ControlError(f"{name}: {config.path} has no template {name.partition('@')[0]}@ any more")
    return tuple(found.values())


class _Reading(NamedTuple):
    """A look at the file: for the instances `names`, or, without any, for a reload."""

    names: tuple[str, ...]
    answers: list[Answer]

    def __str__(self) -> str:
        return ", ".join(self.names) or "reload"


class Reload:
    def __init__(self, init: "Init") -> None:
        self._init = init
        self._queue: list[_Reading] = []  # the first is at work
        self._made: set[str] = set()  # instances that were asked for
        self._fd = self._pidfd = -1  # of the reader, if it is our child
        self._data = b""
        self._deadline: Deadline | None = None

    def close(self) -> None:
        """The end: a reader that is still at work, on a file that does not come, goes with us."""
        if self._fd >= 0:
            self._end()

    def begin(self, then: Callable[[], None]) -> None:
        """Before the start: instances that were enabled by name are services as the others are; `then` starts them."""
        config, known = self._init.config, self._init.supervisor.names
        names = [name for name in self._init.overrides.instances() if name not in known]
        names = [name for name in names if f"{name.partition('@')[0]}@" in config.templates]
        if not names:
            then()
            return

        def made(answer: dict[str, object]) -> None:
            self.log_error("enabled instances", answer)
            then()

        self.make(tuple(names), made)

    def log_error(self, what: str, answer: dict[str, object]) -> None:
        """For those who have no client: each line of what is wrong."""
        for line in str(answer.get("error", "")).split("\n"):
            if line:
                self._init.log(f"{what}: {line.removeprefix('reload: ')}")

    def request(self, answer: Answer) -> None:
        """`answer` gets {"ok": true, "added": [...], ...} or {"error": ...}; who asks before it is begun gets the same."""
        for reading in self._queue[1:]:
            if not reading.names:
                reading.answers.append(answer)
                return
        self._add(_Reading((), [answer]))

    def make(self, names: tuple[str, ...], answer: Answer) -> None:
        """Have the init know these instances as the file has them now; `answer` gets {"ok": true} or {"error": ...}."""
        self._add(_Reading(names, [answer]))

    def _add(self, reading: _Reading) -> None:
        self._queue.append(reading)
        if len(self._queue) == 1:
            self._begin()

    def _begin(self) -> None:
        self._data = b""
        try:
            self._fd, write_end = os.pipe2(os.O_CLOEXEC)
            try:
                self._ask(write_end, self._queue[0].names or self._kept())
            finally:
                os.close(write_end)
        except OSError as error:
            if self._fd >= 0:
                os.close(self._fd)
            self._finish({"error": f"{self._queue[0]}: nobody reads the config: {error.strerror}", "exit_code": EXIT_FAILED})
            return
        os.set_blocking(self._fd, False)
        self._init.loop.add_reader(self._fd, self._read)
        self._deadline = self._init.loop.call_at(time.monotonic() + _PATIENCE_S, self._late)

    def _kept(self) -> tuple[str, ...]:
        """Instances that a reload keeps although no service names them: those that are enabled, or up by a verb."""
        supervisor = self._init.supervisor
        self._made = {name for name in self._made if name in supervisor.names and supervisor.view(name).target == "up"}
        return tuple(sorted({*self._made, *self._init.overrides.instances()}))

    def _ask(self, write_end: int, names: tuple[str, ...]) -> None:
        """The monitor, which is on the host, as the file is; without one a child of ours."""
        read = self._init.endpoints.read_config
        if read is None:
            with open(os.memfd_create("instances"), "wb", buffering=0) as file, socket.socket(fileno=os.dup(self._init.endpoints.channel_fd)) as channel:
                file.write("\n".join(names).encode())
                socket.send_fds(channel, [b"reload"], [write_end, file.fileno()])
            return
        pid, self._pidfd = process.clone(0)
        if pid:
            return
        try:
            write_config(write_end, lambda: read(names))
        finally:
            os._exit(0)

    def _read(self) -> None:
        data = os.read(self._fd, 1 << 16)
        self._data += data
        if not data or len(self._data) > _MOST_BYTES:
            self._end()
            reading = self._queue[0]
            try:
                answer = self._apply(reading)
            except Exception as error:  # the loop has it, too: but the next one is not kept waiting
                self._finish({"error": f"{reading}: {fault(error)}; see `pyinit status`", "exit_code": EXIT_FAILED})
                raise
            self._finish(answer)

    def _late(self) -> None:
        self._end()
        self._finish({"error": f"{self._queue[0]}: no config within {_PATIENCE_S:g} s; nothing was changed", "exit_code": EXIT_FAILED})

    def _end(self) -> None:
        self._init.loop.remove_reader(self._fd)
        os.close(self._fd)
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):  # it has ended, as it should
                process.pidfd_send_signal(self._pidfd, _KILL)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._deadline is not None:
            self._deadline.cancel()

    def _finish(self, answer: dict[str, object]) -> None:
        self._fd = -1
        reading = self._queue.pop(0)
        try:
            for one in reading.answers:
                one(answer)
        finally:  # behind the answers: what was made is up by then, and a reload keeps it
            if self._queue and self._fd < 0:
                self._begin()

    def _apply(self, reading: _Reading) -> dict[str, object]:
        import pickle  # see write_config; what comes here was written by our own code, outside any service

        try:
            kind, value = pickle.loads(self._data)
        except (EOFError, pickle.UnpicklingError):
            return {"error": f"{reading}: the reader ended without a config; nothing was changed", "exit_code": EXIT_FAILED}
        except Exception as error:  # noqa: BLE001 - the reader's pyinit is another by now, or was cut off
            return {"error": f"{reading}: what the reader has written is no config: {fault(error)}; nothing was changed", "exit_code": EXIT_FAILED}
        if kind in ("error", "failed"):
            return {"error": value, "exit_code": EXIT_CONFIG if kind == "error" else EXIT_FAILED}
        if self._init.supervisor.stopping:
            return {"error": f"{reading}: the init is stopping; nothing was changed", "exit_code": EXIT_FAILED}
        try:
            return self._take_instances(reading.names, value) if reading.names else self._take_config(value)
        except PyinitError as error:
            return {"error": str(error), "exit_code": error.exit_code}

    def _take_instances(self, names: tuple[str, ...], config: Config) -> dict[str, object]:
        init, old = self._init, self._init.config
        specs = init.overrides.applied(instances(names, config, init.supervisor.names))
        init.supervisor.add(specs)
        new = {spec.name for spec in specs}
        forwarded = (*old.init.forward_signals, *(row for row in config.init.forward_signals if row[1] in new))
        init.config = old._replace(services=(*old.services, *specs), init=old.init._replace(forward_signals=forwarded))
        init.make_room_for_fds()
        init.output.configure(init.config.services)
        self._made.update(names)
        return {"ok": True}

    def _take_config(self, new: Config) -> dict[str, object]:
        init = self._init
        refusal = _refusal(init.config, new)
        if refusal:
            raise ControlError(refusal)
        services = init.overrides.applied(new.services)
        found, actions = init.supervisor.reload(services, new.init, time.monotonic())
        init.config = new._replace(services=services)
        init.make_room_for_fds()
        init.output.configure(services)
        init.do(actions)
        for name in (*found.changed, *found.restarted):
            init.children.limit_again(next(spec for spec in services if spec.name == name))
        for name in found.changed:
            view = init.supervisor.view(name)
            if view.ready and not init.pauses.is_paused(name):
                init.health.started(name, view.pid, init.supervisor.spec(name).health)
        init.updates.restore()
        words = [f"{len(names)} {what}" for what, names in found._asdict().items() if names]
        init.log(f"reloaded: {', '.join(words) or 'nothing differs'}")
        return {"ok": True, **{key: list(names) for key, names in found._asdict().items()}}


def _refusal(old: Config, new: Config) -> str:
    if without_places(old.container) != without_places(new.container):
        return "reload: [container] differs, and can't change while it runs: restart the container; nothing was changed"
    for key in ("control_socket", "state_dir", "log_dir", "environment", "environment_clear"):
        if getattr(old.init, key) != getattr(new.init, key):
            return f"reload: [init] {key} differs, and can't change while pyinit runs: restart it; nothing was changed"
    return ""
