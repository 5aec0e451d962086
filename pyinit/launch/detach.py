"""`--detach`: the launcher, or the supervisor, goes on without the terminal and the one who started it.

Owns the fork and the wait for readiness. Must not know how a container is made, or print. Laws: a request that can't
be met is refused before the fork; who waits leaves with 0 when all is ready, else with the code and the errors of the
one that it waits for; what comes to it meanwhile to stop goes on to that one.

The two have a SEQPACKET pair, which is the other's NOTIFY_SOCKET (init/upward.py): READY=1 comes by it, and b"error"
and b"warn" with a text.
"""

import os
import select
import socket
import sys
from _collections_abc import Callable

from pyinit.control.places import container_dir, read_pid
from pyinit.errors import LaunchError, PyinitError, UsageError
from pyinit.init.upward import INHERITED
from pyinit.linux import process
from pyinit.model import RTMIN, Config

Report = Callable[[str], None]
_HUP, _TERM = 1, 15
_STOPS = (_HUP, 2, 3, _TERM, 30, RTMIN + 3, RTMIN + 4)
_MOST_TEXT = 65536


class EndedError(LaunchError):
    """It ended before it was ready."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def run(config: Config, name: str, output: str, work: Callable[[Report], int], report: Report) -> int:
    """Have `work(report)` done by a process of its own; the exit code of either. `output`: a file, or "" for /dev/null.

    In the one that waits: the pid of the init of `name`, negated, once it is ready; UsageError, LaunchError, or
    EndedError with the code that it ended with. A stop that came meanwhile is no error: 0 or more is that code.
    """
    _refuse(config, output)
    fd = _open(output)
    sys.stdout.flush()
    process.block_signals(list(_STOPS))  # the launcher has them blocked, too, and they are not to be lost before
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    parent = str(os.getpid())
    pid, pidfd = process.clone(0)
    if pid == 0:
        ours.close()
        _leave(fd, theirs, parent)
        return _work(work, theirs, report)
    theirs.close()
    os.close(fd)
    try:
        return _Waiter(pidfd, ours, name, output, report).run()
    finally:
        ours.close()
        os.close(pidfd)


def _refuse(config: Config, output: str) -> None:
    """Services whose output would be lost without a word."""
    found = []
    for spec in config.services if not output else ():
        words = f'to = "{spec.log.to}"' if spec.log.to in ("stdout", "inherit") else "echo = true" if spec.log.echo else ""
        if words:
            text = f"services.{spec.name}.log: {words} goes to standard output, which --detach has none of: say --output FILE, or log to a file"
            found.append(f"{spec.log.origin}: {text}")
    if found:
        raise UsageError("\n".join(dict.fromkeys(found)))


def _open(output: str) -> int:
    try:
        return os.open(output or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o600)
    except OSError as error:
        raise LaunchError(f"--output {output}: {error.strerror}; name a file that can be written") from error


def _leave(fd: int, channel: socket.socket, parent: str) -> None:
    """A session of its own, and nothing of where we were started."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for source, number in ((null, 0), (fd, 1), (fd, 2)):
        os.dup2(source, number)
    for one in {null, fd} - {0, 1, 2}:
        os.close(one)
    os.environ["NOTIFY_SOCKET"] = f"{INHERITED}{channel.fileno()}"
    if os.environ.get("LISTEN_PID") == parent:  # the sockets are ours now
        os.environ["LISTEN_PID"] = str(os.getpid())


def _work(work: Callable[[Report], int], channel: socket.socket, report: Report) -> int:
    def warn(text: str) -> None:
        report(text)
        _say(channel, "warn", text)

    try:
        return work(warn)
    except PyinitError as error:
        _say(channel, "error", str(error))
        raise


def _say(channel: socket.socket, kind: str, text: str) -> None:
    try:
        channel.send(f"{kind}\n{text}".encode("utf-8", "replace")[:_MOST_TEXT], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:  # nobody waits any more
        pass


class _Waiter:
    def __init__(self, pidfd: int, channel: socket.socket, name: str, output: str, report: Report) -> None:
        self._pidfd = pidfd
        self._channel = channel
        self._name = name
        self._output = output
        self._report = report
        self._errors: list[str] = []
        self._is_ready = False
        self._told_to_stop = False

    def run(self) -> int:
        signals = process.signalfd(list(_STOPS))
        poll = select.poll()
        for fd in (self._pidfd, self._channel.fileno(), signals):
            poll.register(fd, select.POLLIN)
        try:
            while True:
                ready = [fd for fd, _ in poll.poll()]
                if signals in ready:
                    self._forward(signals)
                if self._channel.fileno() in ready and not self._listen():
                    poll.unregister(self._channel)
                if self._pidfd in ready:
                    return self._ended()
                if self._is_ready and not self._told_to_stop and (pid := read_pid(f"{container_dir(self._name)}/pid")):
                    return -pid
        finally:
            os.close(signals)

    def _forward(self, signals: int) -> None:
        for number in process.read_signals(signals):
            self._told_to_stop = True
            try:
                process.pidfd_send_signal(self._pidfd, _TERM if number == _HUP else number)  # HUP of a container is its reload
            except ProcessLookupError:
                return

    def _listen(self) -> bool:
        """False at the end."""
        try:
            data = self._channel.recv(_MOST_TEXT, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return False
        kind, _, text = data.decode("utf-8", "replace").partition("\n")
        if kind == "error":
            self._errors.append(text)
        elif kind == "warn":
            self._report(text)
        elif kind == "READY=1":
            self._is_ready = True
        return bool(data)

    def _ended(self) -> int:
        while self._listen():
            pass
        found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        assert found is not None
        code = found.si_status if found.si_code == os.CLD_EXITED else 128 + found.si_status
        if code and not self._told_to_stop:
            where = f"; its output is in {self._output}" if self._output else "; --output FILE keeps what it says"
            raise EndedError("\n".join(self._errors) or f"{self._name}: ended before it was ready, with exit code {code}{where}", code)
        return code
