"""From a config to a running container: the choreography of launcher, PID 1 and monitor.

Owns the order of steps and the channel between monitor and PID 1. Must not know what an operation does (apply.py)
or what PID 1 does with its services (init). Laws: one thread at each clone; signals are blocked before anything is
made and queue up meanwhile; whatever fails, what was made is undone and one line says why; the monitor never dies
of its container; nothing is imported that a plain start and end do not need.

Three work at once: PID 1 is born before all else (start.py, clone.py) and starts while we claim the name and make the
groups; a builder, our fork in its namespaces, makes the root there meanwhile; PID 1 pivots into it (inside.py).

The channel is a SEQPACKET pair. We say `Facts`, with fds, and b"go" once the root and the network are there. PID 1 says:
b"built" or an error's text; later b"limits" with the container's new ones
and a pipe, which gets why they were refused, and its end; b"reload" with two fds, a pipe that
the config is to be written to and a file with the instances that it shall hold, and sd_notify's lines, which go on to
our own NOTIFY_SOCKET.
Its end says that the monitor is gone.
"""

import gc
import marshal
import os
import select
from _collections_abc import Callable

from pyinit.control import places
from pyinit.control.listener import bind
from pyinit.errors import LaunchError, PyinitError
from pyinit.launch import apply, cgroups, plan
from pyinit.launch.claim import CONTROL_SOCKET, Claim, claim
from pyinit.launch.clone import Born, flags_of
from pyinit.launch.start import FORWARDED
from pyinit.linux import cgroup, namespaces, process
from pyinit.linux import sock as socket
from pyinit.model import Config
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.init.reload import Reader
    from pyinit.launch.digests import Identity

HUP, _KILL = 1, 9
_PATIENCE_MARGIN_S = 3.0
_MOST_TEXT = 8192
_REBOOT = 128 + HUP  # PID 1 of a pid namespace can die of HUP in one way only: reboot(2)
_DIGESTS = ".digests"  # no name of a container starts with a dot
_LIMITS = b"limits\n"  # as init.updates has it


def launch(config: Config, born: Born, bear: Callable[[], Born], report: Callable[[str], None]) -> int:
    """Run the container of which `born` is PID 1; its exit code. LaunchError; what could not be undone is reported.

    `bear` makes another one, for a container that reboots.
    """
    box = config.container
    assert box is not None
    steps = plan.make(config)
    held = claim(box.name, box.origin, patience_s=config.init.stop_timeout_s + _PATIENCE_MARGIN_S)
    try:
        while (code := _Launch(config, steps, held, born, report).run()) == _REBOOT:
            for problem in held.undo():
                report(problem)
            born = bear()
        return code
    finally:
        problems = held.undo()
        held.release()
        for problem in problems:
            report(problem)


class _Launch:
    def __init__(self, config: Config, steps: plan.Plan, held: Claim, born: Born, report: Callable[[str], None]) -> None:
        assert config.container is not None
        self.config = config
        self.box = config.container
        self.steps = steps
        self.held = held
        self.born = born
        self.folder_fds: list[int] = []
        self.verified: dict[str, Identity] = {}
        self.report = report
        self.groups: list[str] = []
        self.unified = ""
        self.v1_places: dict[str, str] = {}

    def run(self) -> int:
        helper: _NetworkHelper | None = None
        try:
            # 0. The images are those that are meant.
            for step in self.steps.host:
                if isinstance(step, plan.VerifyImage):
                    from pyinit.launch import digests  # for pinned ones

                    self.verified[step.path] = digests.verify(step, f"{places.runtime_dir()}/{_DIGESTS}")
            # 1. An address that is taken is told before anything is made. The network's helper is forked first: it imports pyroute2 while the rest is made.
            networks = [step for step in self.steps.host if isinstance(step, plan.MakeNetwork)]
            for link in networks:
                self.held.take_address(link.network.address.partition("/")[0], link.origin)
            helper = _NetworkHelper(networks[0], self) if networks else None
            self._make(helper)
        except BaseException:
            self.born.end()
            raise
        finally:
            if helper is not None:
                helper.close()
            for fd in self.folder_fds:
                os.close(fd)
        # 5. From here on: the monitor.
        try:
            return _Monitor(self.born.pidfd, self.born.channel, self._read_again, _Limits(self)).run()
        finally:
            self.born.close()

    def leave_to_the_monitor(self) -> None:
        """In a fork of ours: who outlives the monitor must not look like it, to PID 1 and to the next start."""
        self.born.channel.close()
        os.close(self.held.monitor_fd)

    def _make(self, helper: "_NetworkHelper | None") -> None:
        # 2. What stands on the host: journal first, then the thing.
        control_fd = bind(f"{self.held.directory}/{CONTROL_SOCKET}")
        try:
            for step in self.steps.host:
                if isinstance(step, plan.TakeFolder):
                    self.folder_fds.append(self.held.take_folder(step.path, step.origin))
                elif isinstance(step, plan.MakeCgroup):
                    self.groups, self.unified, self.v1_places = cgroups.make(step, self.held.note, self.report)
            # 3. The root is being built, while PID 1 still starts, and we wait for the kernel to move it into its groups.
            builder = _Builder(self)
            try:
                self._move_in(control_fd)
                # 4. The network needs the namespace only.
                if helper is not None:
                    self._connect(helper, self.born.pid)
                builder.wait()
            finally:
                builder.close()
        finally:
            os.close(control_fd)
        try:
            self.born.channel.send(b"go")
        except OSError:  # it is gone: it has said why
            pass
        self._await_built()

    def _move_in(self, control_fd: int) -> None:
        """PID 1 into its groups, and the word to it where that is."""
        self.held.write_pid(self.born.pid)
        try:
            for directory in self.groups:
                cgroup.write(directory, "cgroup.procs", str(self.born.pid))
            facts = (self.held.directory, self.unified, self.v1_places)
            socket.send_fds(self.born.channel, [marshal.dumps(facts)], [self.held.lock_fd, control_fd, *self.folder_fds])
        except (ProcessLookupError, BrokenPipeError, ConnectionResetError):
            self._await_built()

    def _read_again(self, instances: tuple[str, ...]) -> Config:
        """For a reload; in a process of its own."""
        from pyinit.config.load import load

        return load(self.config.path, os.environ, extra=instances)

    def _connect(self, helper: "_NetworkHelper", pid: int) -> None:
        self.held.note("bridge", helper.step.network.bridge)
        self.held.note("link", helper.step.link)
        try:
            helper.make(pid)
        finally:
            helper.close()  # now: it holds pyroute2's memory, and our locks

    def _await_built(self) -> None:
        text = self.born.channel.recv(_MOST_TEXT).decode("utf-8", "replace")
        if text != "built":
            raise LaunchError(text or f"{self.box.origin}: PID 1 ended while it made the container")


class _Builder:
    """A fork of ours in PID 1's namespaces that makes the root; it is PID 1's to kill, too, for it stands below it."""

    def __init__(self, launch: _Launch) -> None:
        self._origin = launch.box.origin
        self._read, write_fd = os.pipe2(os.O_CLOEXEC)
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.enter(launch.born.pidfd, namespaces.CLONE_FLAGS["pid"])  # of our children, not our own
        try:
            # Not born in the container's group: CLONE_INTO_CGROUP kills the child where the two groups' kills differ in number (Linux 6.18).
            self._pid, self._pidfd = process.clone(0, inner_pid=2)
            if self._pid == 0:
                os._exit(_build(launch, write_fd))
        finally:
            namespaces.enter(own, namespaces.CLONE_FLAGS["pid"])
            os.close(own)
            os.close(write_fd)

    def wait(self) -> None:
        """Until it is done; LaunchError."""
        text = b""
        while data := os.read(self._read, _MOST_TEXT):
            text += data
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        if text or status:
            raise LaunchError(text.decode("utf-8", "replace") or f"{self._origin}: the container's builder ended while it made the root")

    def close(self) -> None:
        """End and reap it; once is enough."""
        os.close(self._read)
        if self._pid:
            process.pidfd_send_signal(self._pidfd, _KILL)
            os.waitpid(self._pid, 0)
        os.close(self._pidfd)


def _build(launch: _Launch, write_fd: int) -> int:
    """In the builder: all steps but the last two, which are PID 1's own."""
    box = launch.box
    flags = flags_of(box)
    try:
        launch.leave_to_the_monitor()
        if "cgroup" in box.namespaces:  # the mount of cgroup2 shows what its maker's namespace has as its root
            if launch.unified:
                cgroup.write(launch.unified, "cgroup.procs", "0")
            namespaces.unshare(namespaces.CLONE_FLAGS["cgroup"])
        namespaces.enter(launch.born.pidfd, flags & ~namespaces.CLONE_FLAGS["pid"])
        if flags & namespaces.CLONE_FLAGS["net"]:
            namespaces.loopback_up()
        steps = tuple(step for step in launch.steps.inside if not isinstance(step, plan.Pivot | plan.LimitCapabilities))
        apply.Builder(launch.held.directory, launch.verified).run(steps)
    except BaseException as error:  # noqa: BLE001 - the process's edge: nothing may unwind into the launcher's frames
        text = str(error) if isinstance(error, PyinitError | OSError) else f"internal error: {type(error).__name__}: {error}"
        os.write(write_fd, text.encode("utf-8", "replace")[:_MOST_TEXT])
        return 1
    return 0


class _NetworkHelper:
    """A child that has pyroute2; it makes the network when told of the container's pid."""

    def __init__(self, step: plan.MakeNetwork, launch: _Launch) -> None:
        self.step = step
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            self._channel.close()
            launch.leave_to_the_monitor()
            os._exit(self._child(theirs))
        theirs.close()

    def _child(self, channel: socket.socket) -> int:
        try:
            from pyinit.launch import network  # for those who have one

            network.preload()
            word = channel.recv(64)
            if not word:
                return 0
            fd = os.open(f"/proc/{int(word)}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            network.make(self.step, fd, places.runtime_dir())
            channel.send(b"made")
        except ModuleNotFoundError as error:
            channel.send(
                f"{self.step.origin}: {self.step.describe()}: the Python package {error.name} is missing; "
                "install it (Debian: python3-pyroute2)".encode()
            )
        except (PyinitError, OSError) as error:
            text = str(error) if isinstance(error, PyinitError) else f"{self.step.origin}: {self.step.describe()}: {error}"
            channel.send(text.encode()[:_MOST_TEXT])
        return 0

    def make(self, pid: int) -> None:
        """Make it; LaunchError."""
        self._channel.send(str(pid).encode())
        text = self._channel.recv(_MOST_TEXT).decode("utf-8", "replace")
        if text != "made":
            raise LaunchError(text or f"{self.step.origin}: {self.step.describe()}: its helper process ended")

    def close(self) -> None:
        """End and reap it; once is enough."""
        if self._pid:
            self._channel.close()
            os.waitpid(self._pid, 0)
            self._pid = 0


class _Limits:
    """Of the container, to be changed from the host: inside, its group is a namespace's root, whose limits may be out of reach."""

    def __init__(self, launch: _Launch) -> None:
        self._limits = launch.box.cgroup
        self._groups, self._unified = launch.groups, launch.unified

    def change(self, data: bytes) -> bytes:
        """The answer to PID 1: why it was refused, or nothing."""
        from pyinit.init.limiting import exchange, places
        from pyinit.init.updates import read_limits

        try:
            new = read_limits(data)
            v1_fds = {name: _directory(place) for name, place in cgroups.v1_places(self._groups).items()}
            unified = _directory(self._unified) if self._unified else -1
            try:
                why = exchange(places(unified, v1_fds), self._limits, new)
            finally:
                for fd in {*v1_fds.values(), unified} - {-1}:
                    os.close(fd)
        except (OSError, ValueError) as error:
            return str(error).encode()
        if not why:
            self._limits = new
        return why.encode()


def _directory(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class _Monitor:
    """Forwards signals, waits for PID 1, brings its exit code out."""

    def __init__(self, pidfd: int, channel: socket.socket, read_config: "Reader", limits: "_Limits") -> None:
        self._pidfd = pidfd
        self._channel = channel
        self._read_config = read_config
        self._limits = limits
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
                ready = [fd for fd, _ in poll.poll()]
                for fd in [fd for fd in ready if fd in self._readers]:
                    poll.unregister(fd)
                    os.close(fd)
                    os.waitpid(self._readers.pop(fd), 0)
                if self._channel.fileno() in ready and self._pidfd not in ready and not self._listen(poll):
                    poll.unregister(self._channel)
                if self._signals in ready:
                    self._forward()
                if self._pidfd in ready:
                    return self._exit_code()
        finally:
            for pidfd in self._readers:  # on a file that does not come; not waited for, as it may hang in the kernel
                process.pidfd_send_signal(pidfd, _KILL)
                os.close(pidfd)
            os.close(self._signals)

    def _listen(self, poll: select.poll) -> bool:
        """PID 1 asks for the config, or says how it is; False at the end."""
        data, fds, _, _ = socket.recv_fds(self._channel, _MOST_TEXT, 4)
        if data == b"reload" and len(fds) == 2:
            from pyinit.init.reload import read_names, write_config

            pid, pidfd = process.clone(0)
            if pid == 0:
                try:
                    write_config(fds[0], lambda: self._read_config(read_names(fds[1])))
                finally:
                    os._exit(0)
            self._readers[pidfd] = pid
            poll.register(pidfd, select.POLLIN)
        elif data.startswith(_LIMITS) and len(fds) == 1:
            os.write(fds[0], self._limits.change(data))
        elif data and os.environ.get("NOTIFY_SOCKET"):
            from pyinit.init.upward import relay

            relay(data)
        for fd in fds:
            os.close(fd)
        return bool(data)

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
        return found.si_status if found.si_code == os.CLD_EXITED else 128 + found.si_status


def _fields_of_self() -> list[str]:
    """From field 3 on of proc_pid_stat(5), behind the name's bracket: state ppid pgrp session tty_nr ..."""
    with open("/proc/self/stat") as file:
        return file.read().rpartition(") ")[2].split()
