"""The monitor: what the launcher is once its container runs.

Owns the forwarding of signals, the wait for PID 1 and what that asks for meanwhile. Must not know how the container was
made. Laws: it never dies of its container, and never waits for anything but in one poll.
"""

import gc
import os
import select
import time
from _collections_abc import Callable

from pyinit.errors import EXIT_SYSTEM, PyinitError, fault
from pyinit.launch import cgroups
from pyinit.launch.clone import Born
from pyinit.launch.start import FORWARDED
from pyinit.linux import process
from pyinit.linux import sock as socket
from pyinit.model import CgroupLimits, Config
from pyinit.records import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pyinit.init.reload import Reader
    from pyinit.launch.keeper import Keeper
    from pyinit.launch.parting import Parting

HUP, _KILL = 1, 9
_MOST_TEXT = 8192
_LINE = b"\n"
_MOST_UNHEARD = 1000  # in a row; then we go on without its words
_LIMITS = b"limits\n"  # as init.updates has it


class Limits:
    """Of the container, to be changed from the host: inside, its group is a namespace's root, whose limits may be out of reach."""

    def __init__(self, limits: CgroupLimits, groups: list[str], unified: str) -> None:
        """`groups`: all directories of the container's; `unified`: the v2 one, or ""."""
        self._limits = limits
        self._groups, self._unified = groups, unified

    def change(self, data: bytes) -> bytes:
        """The answer to PID 1: why it was refused, or nothing."""
        try:
            from pyinit.init.limiting import exchange, places
            from pyinit.init.updates import read_limits

            new = read_limits(data)
            v1_fds = {name: _directory(place) for name, place in cgroups.v1_places(self._groups).items()}
            unified = _directory(self._unified) if self._unified else -1
            try:
                why = exchange(places(unified, v1_fds), self._limits, new)
            finally:
                for fd in {*v1_fds.values(), unified} - {-1}:
                    os.close(fd)
        except (OSError, ValueError, ImportError) as error:
            return str(error).encode()
        except Exception as error:  # noqa: BLE001 - whatever it is, they don't hold
            return fault(error).encode()
        if not why:
            self._limits = new
        return why.encode()


def _directory(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class Monitor:
    """Forwards signals, waits for PID 1, brings its exit code out."""

    def __init__(
        self, born: Born, read_config: "Reader", limits: Limits, keeper: "Keeper | None", parting: "Parting | None", report: Callable[[str], None], *, foreign: bool
    ) -> None:  # fmt: skip
        self._pidfd = born.pidfd
        self._channel = born.channel
        self._read_config = read_config
        self._limits = limits
        self._keeper = keeper
        self._parting = parting
        self._report = report
        self._unheard = 0
        self.was_killed = False  # PID 1 itself, and not a main service that it gives the exit code of
        self._foreign = foreign  # an init of the image says nothing: it is ready when it runs, which closes the channel
        self._readers: dict[int, int] = {}  # pidfd -> pid, of those at work on a reload
        self._signals = process.signalfd(list(FORWARDED))
        self._on_terminal = _fields_of_self()[4] != "0"  # now: a hangup takes it away before it is told

    def run(self) -> int:
        gc.enable()
        gc.freeze()
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.register(self._signals, select.POLLIN)
        poll.register(self._channel, select.POLLIN)
        try:
            while True:
                ready = self._wait(poll)
                for fd in [fd for fd in ready if fd in self._readers]:
                    poll.unregister(fd)
                    os.close(fd)
                    os.waitpid(self._readers.pop(fd), 0)
                if self._channel.fileno() in ready and self._pidfd not in ready and not self._listen(poll):
                    poll.unregister(self._channel)
                    if self._parting is not None:
                        self._parting.begin()
                if self._signals in ready:
                    self._forward()
                if self._pidfd in ready:
                    return self._exit_code()
        finally:
            for pidfd in self._readers:  # on a file that does not come; not waited for, as it may hang in the kernel
                process.pidfd_send_signal(pidfd, _KILL)
                os.close(pidfd)
            os.close(self._signals)

    def _wait(self, poll: select.poll) -> list[int]:
        """What can be read; what is kept beside the container has been attended to."""
        keeper, parting = self._keeper, self._parting
        kept = keeper.fds() if keeper is not None else []
        waits = (keeper.wait_s(time.monotonic()) if keeper is not None else None, parting.wait_s() if parting is not None else None)
        wait_s = min((one for one in waits if one is not None), default=None)
        for fd in kept:
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(None if wait_s is None else wait_s * 1000 + 1)]
        for fd in kept:
            poll.unregister(fd)
        if keeper is not None:
            keeper.turn(ready, time.monotonic())
        if parting is not None:
            parting.turn()
        return [fd for fd in ready if fd not in kept]

    def _listen(self, poll: select.poll) -> bool:
        """PID 1 asks for the config, or says how it is; False at the end."""
        try:
            data, fds, _, _ = socket.recv_fds(self._channel, _MOST_TEXT, 4)
        except ConnectionResetError:  # it was killed before it read our last word
            return False
        except OSError as error:  # no memory for it now
            self._unheard += 1
            if self._unheard == 1:
                self._report(f"container: what it says is heard at the next try: {_why(error)}")
            return self._unheard < _MOST_UNHEARD
        self._unheard = 0
        try:
            self._attend(data, fds, poll)
        except Exception as error:  # noqa: BLE001 - the loop's edge: the container goes on, and its question has an end
            self._report(f"container: {data.partition(_LINE)[0].decode('ascii', 'replace')}: {_why(error)}")
        finally:
            for fd in fds:
                os.close(fd)
        return bool(data)

    def _attend(self, data: bytes, fds: list[int], poll: select.poll) -> None:
        if data == b"reload" and len(fds) == 2:
            try:
                pid, pidfd = process.clone(0)
            except OSError as error:
                _refuse(fds[0], f"nobody reads the config: {error.strerror}")
                return
            if pid == 0:
                self._read_for(*fds)
            self._readers[pidfd] = pid
            poll.register(pidfd, select.POLLIN)
        elif data.startswith(_LIMITS) and len(fds) == 1:
            os.write(fds[0], self._limits.change(data))  # nothing said means that they hold
        elif data == b"failed":
            self._foreign = False
        elif (data or self._foreign) and os.environ.get("NOTIFY_SOCKET"):
            from pyinit.init.upward import relay

            self._foreign = False
            relay(data or b"READY=1")

    def _read_for(self, answer_fd: int, names_fd: int) -> NoReturn:
        """In a process of its own."""

        def read() -> Config:
            try:
                return self._read_config(read_names(names_fd))
            except ImportError as error:
                raise PyinitError(f"reload: {_why(error)}; nothing was changed") from error

        try:
            from pyinit.init.reload import read_names, write_config

            write_config(answer_fd, read)
        except Exception as error:  # noqa: BLE001 - the process's edge
            _refuse(answer_fd, _why(error))
        finally:
            os._exit(0)

    def _forward(self) -> None:
        for number in process.read_signals(self._signals):
            # A terminal that goes away means the end of what runs on it; HUP of a container is its reload.
            sent = 15 if number == HUP and self._on_terminal else number
            try:
                process.pidfd_send_signal(self._pidfd, sent)
            except ProcessLookupError:
                return

    def _exit_code(self) -> int:
        found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        assert found is not None
        code = found.si_status if found.si_code == os.CLD_EXITED else 128 + found.si_status
        self.was_killed = found.si_code != os.CLD_EXITED and found.si_status == _KILL
        is_lost = self._keeper is not None and self._keeper.has_lost_its_files
        return EXIT_SYSTEM if is_lost and code == 0 else code


def _refuse(answer_fd: int, why: str) -> None:
    """As init.reload reads it."""
    import pickle  # once a reload

    os.write(answer_fd, pickle.dumps(("failed", f"reload: {why}; nothing was changed")))


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) if isinstance(error, ImportError) else fault(error)  # of Python's, which may be another by now


def _fields_of_self() -> list[str]:
    """From field 3 on of proc_pid_stat(5), behind the name's bracket: state ppid pgrp session tty_nr ..."""
    with open("/proc/self/stat") as file:
        return file.read().rpartition(") ")[2].split()
