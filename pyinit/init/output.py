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

from pyinit.init import logger
from pyinit.init.loop import Loop
from pyinit.linux import process
from pyinit.model import Config, LogSpec, ServiceSpec

_THROUGH_LOGGER = ("file", "stdout")
_MOST_PIPE_BYTES, _ALL_PIPES_BYTES, _PIPE_BYTES = 1 << 20, 16 << 20, 1 << 16
_MOST_DEATHS, _DEATHS_WITHIN_S, _PAUSE_S = 5, 10.0, 1.0
_PIPE_BUF = 4096
_KILL = 9


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
        self._deaths: list[float] = []
        self._closing = False

    def start(self) -> None:
        """Make the pipes and the logger, if any service needs one."""
        if not self._specs:
            return
        size = min(_MOST_PIPE_BYTES, _ALL_PIPES_BYTES // len(self._specs))
        for name in (*self._specs, ""):
            self._pipes[name] = os.pipe2(os.O_CLOEXEC)
            if name and size > _PIPE_BYTES:
                with contextlib.suppress(OSError):  # over the user's share of pipe memory
                    fcntl.fcntl(self._pipes[name][1], fcntl.F_SETPIPE_SZ, size)
        os.set_blocking(self._pipes[""][1], False)
        self._fork()

    def pipe_for(self, spec: ServiceSpec, uid: int) -> int:
        """What the service gets as stdout and stderr; -1: ours. The pipe becomes its user's, to be opened anew."""
        if spec.log.to == "null":
            if self._null < 0:
                self._null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            return self._null
        if spec.name not in self._pipes:
            return -1
        write_end = self._pipes[spec.name][1]
        with contextlib.suppress(PermissionError):  # without root: it is ours, and so is the service
            os.fchown(write_end, max(uid, 0), -1)
        return write_end

    def say(self, text: str) -> None:
        """One line of our own. If nobody reads, it is dropped and counted: PID 1 never waits."""
        line = f"pyinit: {text}\n".encode("utf-8", "replace")[:_PIPE_BUF]
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
        now = time.monotonic()
        self._deaths = [at for at in self._deaths if at > now - _DEATHS_WITHIN_S] + [now]
        self.say("the logger died and is started again")
        if len(self._deaths) > _MOST_DEATHS:
            self._loop.call_at(now + _PAUSE_S, self._fork)
        else:
            self._fork()
        return True

    def logs(self, request: bytes, client_fd: int) -> None:
        """Hand a client over to the logger; its end of the socket is closed here."""
        try:
            if self._control is None or not self.pid:
                os.write(client_fd, b'{"error": "no service logs through pyinit: see log.to in the config"}\n')
            else:
                socket.send_fds(self._control, [request], [client_fd])
        except OSError:
            pass  # the client sees the end of the connection
        finally:
            os.close(client_fd)

    def close(self, timeout_s: float) -> None:
        """All services are down: let the logger read to the end, and wait for it, but not for ever."""
        self._closing = True
        for _, write_end in self._pipes.values():
            os.close(write_end)
        if self._control is not None:
            self._control.shutdown(socket.SHUT_WR)
        if not self.pid:
            return
        pidfd = os.pidfd_open(self.pid)
        if not select.select([pidfd], [], [], timeout_s)[0]:
            process.pidfd_send_signal(pidfd, _KILL)
        os.close(pidfd)

    def _fork(self) -> None:
        if self._closing:
            return
        if self._control is not None:
            self._control.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        ours.setblocking(False)  # noqa: FBT003 - no keywords there
        own = LogSpec(to="null", timestamp="none", echo=True)
        sources = [logger.Source(name, ends[0], self._specs.get(name, own)) for name, ends in self._pipes.items()]
        pid, pidfd = process.clone(0)
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
        self._control = ours
        self.pid = pid
