"""PID 1's side of the logs: the pipes, what a logger's death must not cost, the logger's process, its own messages.

Owns both ends of every log pipe, the spools, the journal and the logger's life. Must not know files or formats. Laws:
PID 1 never waits for a log; a pipe outlives its logger, so no service gets SIGPIPE and what lies in a pipe is not
lost; loggers stop last; what a stream's last logger has not said to be done is given to the next one.
"""

import contextlib
import fcntl
import os
import select
import socket
import time
from collections.abc import Callable

from pyinit.init import journal, logger, outlet, reaper, spool, syslog
from pyinit.init.logclient import HANDED_OVER, RENEW
from pyinit.init.logstream import Source
from pyinit.init.loop import Loop
from pyinit.linux import process
from pyinit.linux.fds import receive
from pyinit.model import Config, LogSpec, ServiceSpec

_THROUGH_LOGGER = ("file", "stdout", "syslog")
_FEED = "service:"
_MOST_PIPE_BYTES, _ALL_PIPES_BYTES, _PIPE_BYTES = 1 << 20, 16 << 20, 1 << 16
_MOST_DEATHS, _DEATHS_WITHIN_S, _PAUSE_S = 5, 10.0, 1.0
_PIPE_BUF = 4096
_LONGEST_LINE = _PIPE_BUF - 64  # with the line about dropped ones it is still one write of a pipe
_MOST_MESSAGE = 1 << 16
_KILL = 9
_REAP = 256
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
    """`pid` is the logger's, 0 without one."""

    def __init__(self, config: Config, loop: Loop) -> None:
        self.pid = 0
        self._loop = loop
        self._log_dir = config.init.log_dir
        self._specs: dict[str, LogSpec] = {}  # as the present logger knows them
        self._wanted = _logged(config.services)
        self._programs = _programs(config.services)
        self._pipes: dict[Key, _Pipe] = {}
        self._parting: dict[int, tuple[Key, _Pipe, LogSpec]] = {}  # by slot: nobody writes there any more, and it may hold lines still
        self._feeds: dict[str, list[int]] = {}  # of services that are other services' loggers: read end, write end or -1
        self._keep: logger.Keep | None = None
        self._syslog: socket.socket | None = None
        self._slots = 0
        self._null = -1
        self._control: socket.socket | None = None
        self._dropped = 0
        self._watches: dict[str, tuple[str, Callable[[], None]]] = {}
        self._handed: list[tuple[bytes, list[int]]] = []  # clients on their way from one logger to the next
        self._deaths: list[float] = []
        self._closing = False
        self._renewing = False

    def start(self) -> None:
        """Make the pipes and the logger, if any service needs one; a service without a pipe has our own stdout."""
        if self._wanted:
            self._specs = self._wanted
            self._make_pipes()
            self._start_logger()

    def configure(self, services: tuple[ServiceSpec, ...]) -> None:
        """The config has changed: a logger that knows the new logs takes over."""
        wanted = _logged(services)
        self._programs = {**self._programs, **_programs(services)}
        if wanted == self._wanted:
            return
        leaving = {name: spec for name, spec in self._wanted.items() if name not in wanted and (name, "stdout") in self._pipes}
        self._wanted = {**wanted, **leaving}  # those that leave speak until their service is gone
        if self.pid:
            self._make_pipes()
            self._renew()
        elif self._keep is None:
            self.start()

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
        if pid != self.pid or not pid:
            return False
        self._hear()
        self.pid = 0
        if self._closing:
            return True
        if self._renewing and code == 0:
            self._renewing = False
            self._specs = self._wanted
            self._start_logger()
            return True
        now = time.monotonic()
        self._deaths = [at for at in self._deaths if at > now - _DEATHS_WITHIN_S] + [now]
        self.say("the logger died and is started again")
        if len(self._deaths) > _MOST_DEATHS:
            self._loop.call_at(now + _PAUSE_S, self._start_logger)
        else:
            self._start_logger()
        return True

    def watch(self, name: str, pattern: str, found: Callable[[], None]) -> None:
        """`found` is called from the loop, once, when a line of the service matches."""
        self._watches[name] = (pattern, found)
        if self.pid:
            self._order(["watch", name, pattern])

    def unwatch(self, name: str) -> None:
        """None is fine."""
        if self._watches.pop(name, None) is not None and self.pid:
            self._order(["unwatch", name])

    def logs(self, request: bytes, client_fd: int) -> None:
        """Hand a client over to the logger; its end of the socket is closed here."""
        try:
            if self._control is None:
                os.write(client_fd, b'{"error": "no service logs through pyinit: see log.to in the config", "exit_code": 1}\n')
            elif not self.pid:
                os.write(client_fd, b'{"error": "the logger died and is to be started again: try in a second", "exit_code": 1}\n')
            else:
                socket.send_fds(self._control, [request], [client_fd])
        except OSError:
            pass  # the client sees the end of the connection
        finally:
            os.close(client_fd)

    def close(self, timeout_s: float) -> None:
        """All services are down: let the logger read to the end, and wait for it, but not for ever."""
        deadline_s = time.monotonic() + timeout_s
        self._closing = True
        pipes = [*self._pipes.values(), *(pipe for _, pipe, _ in self._parting.values())]
        for pipe in pipes:
            pipe.close_write()
        while pipes and not self._drained(deadline_s) and time.monotonic() < deadline_s:
            pass
        for pipe in pipes:
            pipe.close()
        self._pipes, self._parting = {}, {}
        for name in list(self._feeds):
            self.forget(name)
        if self._control is not None:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
        if self._syslog is not None:
            self._syslog.close()
            with contextlib.suppress(OSError):
                os.unlink(syslog.PATH)
        for fd in self._keep[:3] if self._keep is not None else ():
            os.close(fd)
        self._keep = None
        self.pid = 0

    # Pipes

    def _make_pipes(self) -> None:
        """Those that are wanted and not there yet."""
        keys = [_OWN, *(key for name, spec in self._wanted.items() for key in _keys(name, spec))]
        size = min(_MOST_PIPE_BYTES, _ALL_PIPES_BYTES // len(keys))
        try:
            if self._keep is None:
                self._keep = logger.Keep(journal.create(), outlet.create(), outlet.create())
            for key in keys:
                if key not in self._pipes:
                    self._pipes[key] = _Pipe(self._slots, size if key != _OWN else 0)
                    journal.clear(self._keep.journal_fd, self._slots)
                    self._slots += 1
        except OSError as error:
            self.say(f"not every service gets a log: {error.strerror}")
        if _OWN in self._pipes:
            os.set_blocking(self._pipes[_OWN].write, False)
        if self._syslog is None and any(spec.to == "syslog" for spec in self._wanted.values()):
            self._collect_syslog()

    def _collect_syslog(self) -> None:
        assert self._keep is not None
        try:
            self._syslog = syslog.bind()
        except OSError as error:
            at = next(spec.origin for spec in self._wanted.values() if spec.to == "syslog")
            self.say(f'{at}: log.to = "syslog": {syslog.PATH}: {error.strerror}: what is said by syslog(3) is not collected')
            return
        self._keep = self._keep._replace(syslog_fd=self._syslog.fileno())

    def _feed(self, name: str) -> list[int]:
        feed = self._feeds.setdefault(name, [-1, -1])
        if feed[1] < 0:
            if feed[0] >= 0:
                os.close(feed[0])
            feed[:] = os.pipe2(os.O_CLOEXEC)
        return feed

    # The logger's process

    def _renew(self) -> None:
        """The present logger finishes what it is at, hands over its clients and ends; the next one begins."""
        self._renewing = True
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.send(RENEW)

    def _order(self, words: list[str]) -> None:
        if self._control is not None:
            with contextlib.suppress(OSError):  # it is dying: the next one is told
                self._control.send(b"\0".join(word.encode() for word in words))

    def _hear(self) -> None:
        """All that the logger has said: whose line has come, what has ended, who is to be handed on."""
        while self._control is not None:
            try:
                data, fds = receive(self._control, _MOST_MESSAGE, 2)
            except OSError:
                return
            if not data:  # it is gone; the reaper tells
                self._loop.remove_reader(self._control.fileno())
                return
            word, _, rest = data.partition(b"\0")
            if data.startswith(HANDED_OVER):
                self._handed.append((data, fds))
            elif word == b"ended":
                gone = self._parting.pop(int(rest), None)
                if gone is not None:
                    gone[1].close()
            elif rest.decode() in self._watches:
                self._watches.pop(rest.decode())[1]()

    def _drained(self, deadline_s: float) -> bool:
        """Whether a logger has read all; one that dies of something else leaves the rest to another."""
        try:
            if not self.pid:
                self._fork()
            pidfd = os.pidfd_open(self.pid)
        except OSError:  # no more processes, or a logger that was reaped: what is in the pipes is lost
            return True
        if self._control is not None:
            self._control.shutdown(socket.SHUT_WR)
        try:
            ended = select.select([pidfd], [], [], max(0.0, deadline_s - time.monotonic()))[0]
            if not ended:
                process.pidfd_send_signal(pidfd, _KILL)
        finally:
            os.close(pidfd)
        if not ended:
            return True
        pid, self.pid = self.pid, 0
        return any(one == pid and code == 0 for one, code, _ in reaper.reap(_REAP))

    def _start_logger(self) -> None:
        """As long as the kernel refuses a process, again."""
        if self._closing or self.pid or not self._pipes:
            return
        try:
            self._fork()
        except OSError as error:
            self.say(f"the logger cannot be started: {error.strerror}; again in {_PAUSE_S:g} s")
            self._loop.call_at(time.monotonic() + _PAUSE_S, self._start_logger)
            return
        if self._specs != self._wanted:
            self._renew()

    def _sources(self) -> list[Source]:
        specs = {"": _OWN_SPEC, **self._wanted, **self._specs}
        here = [*((key, pipe, specs[key[0]]) for key, pipe in self._pipes.items()), *self._parting.values()]
        return [Source(*key, pipe.read, pipe.spool, pipe.slot, spec, self._programs.get(key[0], "")) for key, pipe, spec in here]

    def _fork(self) -> None:
        assert self._keep is not None
        if self._control is not None:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        ours.setblocking(False)  # noqa: FBT003 - no keywords there
        self._control = ours
        for name, (pattern, _) in self._watches.items():  # it reads all of this before any line
            self._order(["watch", name, pattern])
        for data, fds in self._handed:
            with contextlib.suppress(OSError):
                socket.send_fds(ours, [data], fds)
        sources = self._sources()
        try:
            pid, pidfd = process.clone(0)
        except OSError:
            theirs.close()
            raise
        if pid == 0:
            _run(sources, self._log_dir, theirs, self._keep)
        os.close(pidfd)
        theirs.close()
        self.pid = pid
        self._loop.add_reader(ours.fileno(), self._hear)
        for _, fds in self._handed:
            for fd in fds:
                os.close(fd)
        self._handed = []


def _run(sources: list[Source], log_dir: str, control: socket.socket, keep: logger.Keep) -> None:
    """In the logger's process."""
    code = 1
    try:
        fds = {fd for source in sources for fd in (source.fd, source.spool_fd)}
        process.close_all_but({0, 1, 2, control.fileno(), *fds, *(fd for fd in keep if fd >= 0)})
        logger.run(sources, log_dir, control, keep)
        code = 0
    except BaseException as error:  # noqa: BLE001 - the process's edge: nothing may unwind into PID 1's frames
        os.write(2, f"pyinit: logger: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


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
