"""PID 1's side of the logs: the pipes, the logger's process, its own messages.

Owns both ends of every log pipe and the logger's life. Must not know files or formats. Laws: PID 1 never waits for
a log; a pipe outlives its logger, so no service gets SIGPIPE and what lies in a pipe is not lost; loggers stop last.
"""

import contextlib
import fcntl
import os
import select
import socket
import time
from collections.abc import Callable

from pyinit.init import logger, reaper
from pyinit.init.loop import Loop
from pyinit.linux import process
from pyinit.model import Config, LogSpec, ServiceSpec

_THROUGH_LOGGER = ("file", "stdout")
_MOST_PIPE_BYTES, _ALL_PIPES_BYTES, _PIPE_BYTES = 1 << 20, 16 << 20, 1 << 16
_MOST_DEATHS, _DEATHS_WITHIN_S, _PAUSE_S = 5, 10.0, 1.0
_PIPE_BUF = 4096
_LONGEST_LINE = _PIPE_BUF - 64  # with the line about dropped ones it is still one write of a pipe
_KILL = 9
_REAP = 256


class Output:
    """`pid` is the logger's, 0 without one."""

    def __init__(self, config: Config, loop: Loop) -> None:
        self.pid = 0
        self._loop = loop
        self._log_dir = config.init.log_dir
        self._specs = {spec.name: spec.log for spec in config.services if spec.log.to in _THROUGH_LOGGER}
        self._pipes: dict[str, tuple[int, int]] = {}
        self._null = -1
        self._control: socket.socket | None = None
        self._dropped = 0
        self._watches: dict[str, tuple[str, Callable[[], None]]] = {}
        self._deaths: list[float] = []
        self._closing = False
        self._renewing = False

    def start(self) -> None:
        """Make the pipes and the logger, if any service needs one; a service without a pipe has our own stdout."""
        if not self._specs:
            return
        size = min(_MOST_PIPE_BYTES, _ALL_PIPES_BYTES // len(self._specs))
        try:
            for name in ("", *self._specs):
                self._pipes[name] = os.pipe2(os.O_CLOEXEC)
                if name and size > _PIPE_BYTES:
                    with contextlib.suppress(OSError):  # over the user's share of pipe memory
                        fcntl.fcntl(self._pipes[name][1], fcntl.F_SETPIPE_SZ, size)
        except OSError as error:
            self.say(f"not every service gets a log: {error.strerror}")
        if self._pipes:
            os.set_blocking(self._pipes[""][1], False)
            self._start_logger()

    def configure(self, services: tuple[ServiceSpec, ...]) -> None:
        """The config has changed: a logger that knows the new logs takes over once the present one has read all."""
        specs = {spec.name: spec.log for spec in services if spec.log.to in _THROUGH_LOGGER}
        leaving = {name: spec for name, spec in self._specs.items() if name not in specs and name in self._pipes}
        if specs == self._specs:
            return
        had_none = not self._pipes
        self._specs = {**specs, **leaving}  # those that leave speak until their service is gone
        for name in ("", *self._specs) if self._specs else ():
            if name not in self._pipes:
                try:
                    self._pipes[name] = os.pipe2(os.O_CLOEXEC)
                except OSError as error:
                    self.say(f"{name} gets no log: {error.strerror}")
        if had_none and self._pipes:
            os.set_blocking(self._pipes[""][1], False)
            self._start_logger()
        else:
            self._renew()

    def _renew(self) -> None:
        """The present logger reads what is there and ends; the next one begins."""
        if self._control is not None and self.pid:
            self._renewing = True
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)

    def forget(self, name: str) -> None:
        """The service is gone for good: its pipe is closed, and the logger sees the end."""
        self._specs.pop(name, None)
        for fd in self._pipes.pop(name, ()):
            os.close(fd)

    def pipe_for(self, spec: ServiceSpec, uid: int) -> int:
        """What the service gets as stdout and stderr; -1: ours. The pipe becomes its user's, to be opened anew."""
        if spec.log.to == "null":
            if self._null < 0:
                self._null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            return self._null
        if spec.name not in self._pipes:
            return -1
        write_end = self._pipes[spec.name][1]
        os.set_blocking(write_end, True)  # node leaves it otherwise, for the next too
        with contextlib.suppress(PermissionError):  # without root: it is ours, and so is the service
            os.fchown(write_end, max(uid, 0), -1)
        return write_end

    def say(self, text: str) -> None:
        """One line of our own. If nobody reads, it is dropped and counted: PID 1 never waits."""
        line = f"pyinit: {text}".replace("\n", "; ").encode("utf-8", "replace")[:_LONGEST_LINE] + b"\n"
        if self._dropped:
            line = f"pyinit: {self._dropped} messages were dropped\n".encode() + line
        fd = self._pipes[""][1] if self.pid and "" in self._pipes else 2
        poll = select.poll()
        poll.register(fd, select.POLLOUT)  # of a pipe: there is room for PIPE_BUF bytes
        try:
            if poll.poll(0) and os.write(fd, line) == len(line):
                self._dropped = 0
                return
        except OSError:
            pass
        self._dropped += 1

    def exited(self, pid: int) -> bool:
        """Whether that was the logger; another one is there by then, or soon if they keep dying."""
        if pid != self.pid or not pid:
            return False
        self.pid = 0
        if self._closing:
            return True
        if self._renewing:
            self._renewing = False
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
        self._ask_for(name)

    def unwatch(self, name: str) -> None:
        """None is fine."""
        if self._watches.pop(name, None) is not None:
            self._order(["unwatch", name])

    def _ask_for(self, name: str) -> None:
        self._order(["watch", name, self._watches[name][0]])

    def _order(self, words: list[str]) -> None:
        if self._control is not None and self.pid:
            with contextlib.suppress(OSError):  # it is dying: the next one is told
                self._control.send(b"\0".join(word.encode() for word in words))

    def _logger_spoke(self) -> None:
        """The name of a service whose line has come."""
        assert self._control is not None
        try:
            name = self._control.recv(4096).decode()
        except OSError:
            return
        if not name:  # it is gone; the reaper tells
            self._loop.remove_reader(self._control.fileno())
        elif name in self._watches:
            self._watches.pop(name)[1]()

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
        for _, write_end in self._pipes.values():
            os.close(write_end)
        while self._pipes and not self._drained(deadline_s) and time.monotonic() < deadline_s:
            pass
        for read_end, _ in self._pipes.values():
            os.close(read_end)
        self._pipes = {}
        if self._control is not None:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
        self.pid = 0

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
        if self._closing:
            return
        try:
            self._fork()
        except OSError as error:
            self.say(f"the logger cannot be started: {error.strerror}; again in {_PAUSE_S:g} s")
            self._loop.call_at(time.monotonic() + _PAUSE_S, self._start_logger)

    def _fork(self) -> None:
        if self._control is not None:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        ours.setblocking(False)  # noqa: FBT003 - no keywords there
        self._control = ours
        own = LogSpec(to="null", timestamp="none", echo=True)
        sources = [logger.Source(name, ends[0], self._specs.get(name, own)) for name, ends in self._pipes.items()]
        try:
            pid, pidfd = process.clone(0)
        except OSError:
            theirs.close()
            raise
        if pid == 0:
            code = 1
            try:
                process.close_all_but({0, 1, 2, theirs.fileno(), *(source.fd for source in sources)})
                logger.run(sources, self._log_dir, theirs)
                code = 0
            except BaseException as error:  # noqa: BLE001 - the process's edge: nothing may unwind into PID 1's frames
                os.write(2, f"pyinit: logger: {type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(code)
        os.close(pidfd)
        theirs.close()
        self.pid = pid
        self._loop.add_reader(ours.fileno(), self._logger_spoke)
        for name in self._watches:
            self._ask_for(name)
