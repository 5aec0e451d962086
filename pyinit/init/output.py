"""PID 1's side of the logs: the pipes, what a logger's death must not cost, its own messages.

Owns both ends of every log pipe, the spools and the journal. Must not know files, formats, nor how loggers live. Laws:
PID 1 never waits for a log; a pipe outlives its logger, so no service gets SIGPIPE and what lies in a pipe is not
lost; loggers stop last; what a stream's last logger has not said to be done is given to the next one.
"""

import fcntl
import os
import select
import time
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.init import spool
from pyinit.init.logkeeper import LogKeeper
from pyinit.init.loop import Loop
from pyinit.linux import sock as socket
from pyinit.model import Config, LogSpec, ServiceSpec
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.init.logstream import Source

_THROUGH_LOGGER = ("file", "stdout", "syslog")
_FEED = "service:"
_MOST_PIPE_BYTES, _ALL_PIPES_BYTES, _PIPE_BYTES = 1 << 20, 16 << 20, 1 << 16
_PIPE_BUF = 4096
_LONGEST_LINE = _PIPE_BUF - 64  # with the line about dropped ones it is still one write of a pipe
_OWN = ("", "stderr")
_OWN_SPEC = LogSpec(to="null", timestamp="none", echo=True)

Key = tuple[str, str]  # (service, "stdout" or "stderr")


class _Pipe:
    """A log pipe: both ends, and what loggers need to go on with it. `write` is -1 once its service is gone for good."""

    def __init__(self, slot: int, size: int) -> None:
        self.slot = slot
        self.read, self.write = os.pipe2(os.O_CLOEXEC)
        try:
            self.spool = spool.create()
        except OSError:
            os.close(self.read)
            os.close(self.write)
            raise
        if size > _PIPE_BYTES:
            with contextlib.suppress(OSError):  # over the user's share of pipe memory
                fcntl.fcntl(self.write, fcntl.F_SETPIPE_SZ, size)

    def close_write(self) -> None:
        if self.write >= 0:
            os.close(self.write)
            self.write = -1

    def close(self) -> None:
        self.close_write()
        os.close(self.read)
        os.close(self.spool)


class Output:
    def __init__(self, config: Config, loop: Loop) -> None:
        self._log_dir = config.init.log_dir
        self._specs: dict[str, LogSpec] = {}  # as the present logger knows them
        self._wanted = _logged(config.services)
        self._programs = _programs(config.services)
        self._pipes: dict[Key, _Pipe] = {}
        self._parting: dict[int, tuple[Key, _Pipe, LogSpec]] = {}  # by slot: nobody writes there any more, and it may hold lines still
        self._feeds: dict[str, list[int]] = {}  # of services that are other services' loggers: read end, write end or -1
        self._syslog: socket.socket | None = None
        self._slots = 0
        self._free_slots: list[int] = []
        self._null = -1
        self._keeper = LogKeeper(loop, self._log_dir, self._sources, self._ended, self.say)
        self._dropped = 0

    @property
    def pid(self) -> int:
        """The logger's; 0 without one."""
        return self._keeper.pid

    def start(self) -> None:
        """Make the pipes and the logger, if any service needs one; a service without a pipe has our own stdout."""
        if self._wanted:
            self._specs = self._wanted
            self._make_pipes()
            if self._pipes:
                self._keeper.start()

    def configure(self, services: tuple[ServiceSpec, ...]) -> None:
        """The config has changed: a logger that knows the new logs takes over."""
        wanted = _logged(services)
        self._programs = {**self._programs, **_programs(services)}
        if wanted == self._wanted:
            return
        leaving = {name: spec for name, spec in self._wanted.items() if name not in wanted and (name, "stdout") in self._pipes}
        self._wanted = {**wanted, **leaving}  # those that leave speak until their service is gone
        if self._keeper.keep is None:
            self.start()
        else:
            self._make_pipes()
            self._keeper.renew()

    def forget(self, name: str) -> None:
        """The service is gone for good: its pipes get their end, and are kept until the logger has had it."""
        for key in [key for key in self._pipes if key[0] == name]:
            pipe = self._pipes.pop(key)
            pipe.close_write()
            self._parting[pipe.slot] = (key, pipe, self._specs.get(name) or self._wanted[name])
        self._wanted = {other: spec for other, spec in self._wanted.items() if other != name}
        for fd in self._feeds.pop(name, []):
            if fd >= 0:
                os.close(fd)

    def pipe_for(self, spec: ServiceSpec, uid: int) -> int:
        """What the service gets as stdout, and as stderr if that is joined; -1: ours. The pipe becomes its user's, to be opened anew."""
        if spec.log.to == "null":
            if self._null < 0:
                self._null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            return self._null
        if spec.log.to.startswith(_FEED):
            return _given(self._feed(spec.log.to.removeprefix(_FEED))[1], uid)
        pipe = self._pipes.get((spec.name, "stdout"))
        return _given(pipe.write, uid) if pipe is not None else -1

    def error_pipe_for(self, spec: ServiceSpec, uid: int) -> int:
        """What it gets as stderr; -1: the same as stdout."""
        pipe = self._pipes.get((spec.name, "stderr"))
        return _given(pipe.write, uid) if pipe is not None and spec.log.stderr == "separate" else -1

    def feed_for(self, name: str) -> int:
        """The standard input of a service that is the logger of others."""
        return self._feed(name)[0]

    def end_feed(self, name: str) -> None:
        """All who wrote are down: it sees the end, after the last line."""
        feed = self._feeds.get(name)
        if feed is not None and feed[1] >= 0:
            os.close(feed[1])
            feed[1] = -1

    def say(self, text: str) -> None:
        """One line of our own. If nobody reads, it is dropped and counted: PID 1 never waits."""
        line = f"pyinit: {text}".replace("\n", "; ").encode("utf-8", "replace")[:_LONGEST_LINE] + b"\n"
        if self._dropped:
            line = f"pyinit: {self._dropped} messages were dropped\n".encode() + line
        own = self._pipes.get(_OWN)
        fd = own.write if self.pid and own is not None else 2
        poll = select.poll()
        poll.register(fd, select.POLLOUT)  # of a pipe: there is room for PIPE_BUF bytes
        try:
            if poll.poll(0) and os.write(fd, line) == len(line):
                self._dropped = 0
                return
        except OSError:
            pass
        self._dropped += 1

    def exited(self, pid: int, code: int) -> bool:
        """Whether that was the logger; another one is there by then, or soon if they keep dying."""
        return self._keeper.exited(pid, code)

    def watch(self, name: str, pattern: str, found: Callable[[], None]) -> None:
        """`found` is called from the loop, once, when a line of the service matches."""
        self._keeper.watch(name, pattern, found)

    def unwatch(self, name: str) -> None:
        """None is fine."""
        self._keeper.unwatch(name)

    def logs(self, request: bytes, client_fd: int) -> None:
        """Hand a client over to the logger; its end of the socket is closed here."""
        self._keeper.logs(request, client_fd)

    def close(self, timeout_s: float) -> None:
        """All services are down: let the logger read to the end, and wait for it, but not for ever."""
        pipes = [*self._pipes.values(), *(pipe for _, pipe, _ in self._parting.values())]
        for pipe in pipes:
            pipe.close_write()
        if pipes:
            self._keeper.close(time.monotonic() + timeout_s)
        for pipe in pipes:
            pipe.close()
        self._pipes, self._parting = {}, {}
        for name in list(self._feeds):
            self.forget(name)
        if self._syslog is not None:
            from pyinit.init import syslog  # loaded already
            from pyinit.linux import fds  # by syslog

            fds.close(self._syslog)  # of an older kernel, that passes some
            with contextlib.suppress(OSError):
                os.unlink(syslog.PATH)
        self._keeper.forget()

    # Pipes

    def _make_pipes(self) -> None:
        """Those that are wanted and not there yet."""
        from pyinit.init import journal, logger, outlet  # for those who have a log: not each container has

        keys = [_OWN, *(key for name, spec in self._wanted.items() for key in _keys(name, spec))]
        size = min(_MOST_PIPE_BYTES, _ALL_PIPES_BYTES // len(keys))
        try:
            if self._keeper.keep is None:
                self._keeper.keep = logger.Keep(journal.create(), outlet.create(), outlet.create())
            for key in keys:
                if key not in self._pipes:
                    self._pipes[key] = _Pipe(self._free_slot(), size if key != _OWN else 0)
                    journal.clear(self._keeper.keep.journal_fd, self._pipes[key].slot)
        except OSError as error:
            self.say(f"not every service gets a log: {error.strerror}")
        if _OWN in self._pipes:
            os.set_blocking(self._pipes[_OWN].write, False)
        if self._syslog is None and any(spec.to == "syslog" for spec in self._wanted.values()):
            self._collect_syslog()

    def _free_slot(self) -> int:
        if self._free_slots:
            return self._free_slots.pop()
        self._slots += 1
        return self._slots - 1

    def _collect_syslog(self) -> None:
        assert self._keeper.keep is not None
        from pyinit.init import syslog

        try:
            self._syslog = syslog.bind()
        except OSError as error:
            at = next(spec.origin for spec in self._wanted.values() if spec.to == "syslog")
            self.say(f'{at}: log.to = "syslog": {syslog.PATH}: {error.strerror}: what is said by syslog(3) is not collected')
            return
        self._keeper.keep = self._keeper.keep._replace(syslog_fd=self._syslog.fileno())

    def _feed(self, name: str) -> list[int]:
        feed = self._feeds.setdefault(name, [-1, -1])
        if feed[1] < 0:
            if feed[0] >= 0:
                os.close(feed[0])
            feed[:] = os.pipe2(os.O_CLOEXEC)
        return feed

    def _sources(self, made_way: bool) -> "tuple[list[Source], bool]":  # noqa: FBT001 - the keeper's call
        """A logger that follows a killed one does what that was at as that would have done it, and then makes way."""
        from pyinit.init.logstream import Source  # the logger has it

        if made_way:
            self._specs = self._wanted
        specs = {"": _OWN_SPEC, **self._wanted, **self._specs}
        here = [*self._parting.values(), *((key, pipe, specs[key[0]]) for key, pipe in self._pipes.items())]
        found = [Source(*key, pipe.read, pipe.spool, pipe.slot, spec, self._programs.get(key[0], "")) for key, pipe, spec in here]
        return found, self._specs == self._wanted

    def _ended(self, slot: int) -> None:
        gone = self._parting.pop(slot, None)
        if gone is not None:
            gone[1].close()
            self._free_slots.append(slot)


def _logged(services: tuple[ServiceSpec, ...]) -> dict[str, LogSpec]:
    return {spec.name: spec.log for spec in services if spec.log.to in _THROUGH_LOGGER}


def _programs(services: tuple[ServiceSpec, ...]) -> dict[str, str]:
    return {spec.name: os.path.basename(spec.command[0]) for spec in services if spec.log.to == "syslog"}


def _keys(name: str, spec: LogSpec) -> list[Key]:
    return [(name, "stdout"), *([(name, "stderr")] if spec.stderr == "separate" else [])]


def _given(fd: int, uid: int) -> int:
    """The pipe is its user's, who may open it anew by /dev/stdout."""
    os.set_blocking(fd, True)  # node leaves it otherwise, for the next too
    with contextlib.suppress(PermissionError):  # without root: it is ours, and so is the service
        os.fchown(fd, max(uid, 0), -1)
    return fd
