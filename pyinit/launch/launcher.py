"""From a config to a running container: the choreography of launcher, PID 1 and monitor.

Owns the order of steps and the channel between monitor and PID 1. Must not know what an operation does (apply.py)
or what PID 1 does with its services (init). Laws: one thread at each clone; signals are blocked before anything is
made and queue up meanwhile; whatever fails, what was made is undone and one line says why; the monitor never dies
of its container; nothing is imported that a plain start and end do not need.

Three work at once: PID 1 is born before all else (start.py, clone.py) and starts while we claim the name and make the
groups; a builder, our fork in its namespaces, makes the root there meanwhile; PID 1 pivots into it (inside.py).

The channel is a SEQPACKET pair. We say `Facts`, with fds, and b"go" once the root and the network are there. PID 1 says:
b"built", which waits for another b"go" where hooks come between, or an error's text; later b"limits" with the container's new ones
and a pipe, which gets why they were refused, and its end; b"reload" with two fds, a pipe that
the config is to be written to and a file with the instances that it shall hold, and sd_notify's lines, which go on to
our own NOTIFY_SOCKET.
Its end says that the monitor is gone.
"""

import gc
import marshal
import os
import select
import time
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.control import places
from pyinit.control.listener import bind
from pyinit.errors import LaunchError, PyinitError
from pyinit.launch import apply, cgroups, plan
from pyinit.launch.claim import CONTROL_SOCKET, Claim, claim
from pyinit.launch.clone import Born, flags_of
from pyinit.launch.start import FORWARDED
from pyinit.launch.tracing import SILENT, Trace, carried_out, explained
from pyinit.linux import cgroup, namespaces, process
from pyinit.linux import sock as socket
from pyinit.model import NETWORK_TYPES, Config, Container
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.init.reload import Reader
    from pyinit.launch.digests import Identity
    from pyinit.launch.keeper import Keeper
    from pyinit.launch.outside import Outside
    from pyinit.launch.parting import Parting

HUP, _KILL = 1, 9
_PATIENCE_MARGIN_S = 3.0
_MOST_TEXT = 8192
_REBOOT = 128 + HUP  # PID 1 of a pid namespace can die of HUP in one way only: reboot(2)
_DIGESTS = ".digests"  # no name of a container starts with a dot
_LIMITS = b"limits\n"  # as init.updates has it


def launch(config: Config, born: Born, bear: Callable[[], Born], report: Callable[[str], None], trace: Trace = SILENT) -> int:
    """Run the container of which `born` is PID 1; its exit code. LaunchError; what could not be undone is reported.

    `bear` makes another one, for a container that reboots. `trace` is told of each operation of the plan but the birth.
    """
    box = config.container
    assert box is not None
    steps = plan.make(config)
    try:
        held = claim(box.name, box.origin, patience_s=config.init.stop_timeout_s + _PATIENCE_MARGIN_S)
    except OSError as error:
        raise LaunchError(_text_of(error, box)) from error
    try:
        held.write_config(config.path)
        _report(held, [], report)  # of the run before, whose monitor was killed
        while (code := _Launch(config, steps, held, born, report, trace).run()) == _REBOOT:
            _report(held, held.undo(), report)
            born = bear()
        return code
    except OSError as error:
        raise LaunchError(_text_of(error, box)) from error
    finally:
        problems = held.undo()
        _report(held, [*problems, *held.release()], report)


def _report(held: Claim, problems: list[str], report: Callable[[str], None]) -> None:
    for text in (*problems, *held.failed_hooks):
        report(text)
    held.failed_hooks.clear()


class _Launch:
    def __init__(self, config: Config, steps: plan.Plan, held: Claim, born: Born, report: Callable[[str], None], trace: Trace) -> None:
        assert config.container is not None
        self.config = config
        self.box = config.container
        self.steps = steps
        self.isolate = next(step for step in steps.host if isinstance(step, plan.Isolate))
        self.held = held
        self.born = born
        self.folder_fds: list[int] = []
        self.verified: dict[str, Identity] = {}
        self.report = report
        self.trace = trace
        self.outside: Outside | None = None
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

                    with carried_out(step, self.trace):
                        self.verified[step.path] = digests.verify(step, f"{places.runtime_dir()}/{_DIGESTS}")
            # 1. An address that is taken is told before anything is made. The network's helper is forked first: it imports pyroute2 while the rest is made.
            networks = [step for step in self.steps.host if isinstance(step, plan.MakeNetwork)]
            for link in networks:
                with explained(link):
                    self.held.take_address(link.network.address.partition("/")[0], link.origin)
            for link in networks:
                with explained(link):
                    helper = _NetworkHelper(link, self)
            self._make(helper)
            # 5. From here on: the monitor.
            with explained(self.isolate):
                keeper, parting = self._keeper(), self._parting()
            try:
                return _Monitor(self.born, self._read_again, _Limits(self), keeper, parting, foreign=bool(self.box.init)).run()
            finally:
                if parting is not None:
                    parting.close()
        except BaseException:
            self.born.end()
            raise
        finally:
            if helper is not None:
                helper.close()
            for fd in self.folder_fds:
                os.close(fd)
            self.folder_fds.clear()
            self.born.close()
            if self.outside is not None:
                self.outside.end()

    def _keeper(self) -> "Keeper | None":
        if self.outside is None or not self.outside.programs:
            return None
        from pyinit.launch.keeper import Keeper  # for those who have FUSE

        return Keeper(self.outside.programs, self.born.pidfd, self.report)

    def _parting(self) -> "Parting | None":
        targets = tuple(one.target for one in self.box.mounts if one.type in NETWORK_TYPES)
        if not targets:
            return None
        from pyinit.launch.parting import Parting  # for those who have servers

        return Parting(self.born.pid, targets)

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
                    with carried_out(step, self.trace):
                        self.folder_fds.append(self.held.take_folder(step.path, step.origin))
                elif isinstance(step, plan.Outside):
                    if self.outside is None:
                        from pyinit.launch.outside import Outside  # for those who need more of the host

                        taken = [one.content for one in self.steps.host if isinstance(one, plan.TakeContent)]
                        self.outside = Outside(frozenset(one.text for one in taken if one.kind == "env"))
                    with carried_out(step, self.trace):
                        self.outside.run(step)
                elif isinstance(step, plan.MakeCgroup):
                    with carried_out(step, self.trace):
                        self.groups, self.unified, self.v1_places = cgroups.make(step, self.held.note, self.report)
            if self.outside is not None:
                self.outside.finish(self.held.note)
            # 3. The root is being built, while PID 1 still starts, and we wait for the kernel to move it into its groups.
            with explained(self.isolate):
                builder = _Builder(self)
            try:
                if self.outside is not None:
                    self.outside.close()  # the builder has it all
                self._move_in(control_fd)
                # 4. The network needs the namespace only.
                if helper is not None:
                    self._connect(helper, builder)
                builder.wait()
            finally:
                builder.close()
        finally:
            os.close(control_fd)
        pivot, limit = self.steps.inside[-2:]
        with carried_out(pivot, self.trace), carried_out(limit, self.trace):  # PID 1 does both
            self._say_go()
            self._await_built()
        if self.steps.built:
            from pyinit.launch import hooks  # for those who have any

            hooks.prestart(self.steps, self.config, self.held.directory, self.born.pid, self.held.note, self.trace)
            self._say_go()

    def _say_go(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is gone: it has said why, or its exit code does
            self.born.channel.send(b"go")

    def _move_in(self, control_fd: int) -> None:
        """PID 1 into its groups, and the word to it where that is."""
        self.held.write_pid(self.born.pid)
        group = next((step for step in self.steps.host if isinstance(step, plan.MakeCgroup)), self.isolate)
        with explained(group):
            self._tell_where(control_fd)

    def _tell_where(self, control_fd: int) -> None:
        try:
            for directory in self.groups:
                cgroup.write(directory, "cgroup.procs", str(self.born.pid))
            facts = (self.held.directory, self.unified, self.v1_places, bool(self.steps.built))
            socket.send_fds(self.born.channel, [marshal.dumps(facts)], [self.held.lock_fd, control_fd, *self.folder_fds])
        except (ProcessLookupError, BrokenPipeError, ConnectionResetError):
            self._await_built()

    def _read_again(self, instances: tuple[str, ...]) -> Config:
        """For a reload; in a process of its own."""
        from pyinit.config.load import load

        return load(self.config.path, os.environ, extra=instances)

    def _connect(self, helper: "_NetworkHelper", builder: "_Builder") -> None:
        try:
            with carried_out(helper.step, self.trace):
                self.held.note("bridge", helper.step.network.bridge)
                self.held.note("link", helper.step.link)
                helper.make(self.born.pid)
            builder.linked()
        except LaunchError:
            if select.select([self.born.channel], [], [], 0)[0]:
                self._await_built()  # of a PID 1 that has failed, which is why there was no namespace for it any more
            raise
        finally:
            helper.close()  # now: it holds pyroute2's memory, and our locks

    def _await_built(self) -> None:
        text = self.born.channel.recv(_MOST_TEXT).decode("utf-8", "replace")
        if text.startswith("!"):
            text = f"{self.isolate.origin}: {self.isolate.describe()}: {text[1:]}"
        if text != "built":
            raise LaunchError(text or f"{self.box.origin}: PID 1 ended while it made the container")


class _Builder:
    """A fork of ours in PID 1's namespaces that makes the root; it is PID 1's to kill, too, for it stands below it."""

    def __init__(self, launch: _Launch) -> None:
        self._origin = launch.box.origin
        self._read, write_fd = os.pipe2(os.O_CLOEXEC)
        linked, self._linked = os.pipe2(os.O_CLOEXEC)
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.enter(launch.born.pidfd, namespaces.CLONE_FLAGS["pid"])  # of our children, not our own
        try:
            # Not born in the container's group: CLONE_INTO_CGROUP kills the child where the two groups' kills differ in number (Linux 6.18).
            self._pid, self._pidfd = process.clone(0, inner_pid=2)
            if self._pid == 0:
                os.close(self._linked)
                os._exit(_build(launch, write_fd, linked))
        finally:
            namespaces.enter(own, namespaces.CLONE_FLAGS["pid"])
            for fd in (own, write_fd, linked):
                os.close(fd)

    def linked(self) -> None:
        """The network is there."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, and says why
            os.write(self._linked, b".")

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
        os.close(self._linked)
        if self._pid:
            process.pidfd_send_signal(self._pidfd, _KILL)
            os.waitpid(self._pid, 0)
        os.close(self._pidfd)


def _build(launch: _Launch, write_fd: int, linked: int) -> int:
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

        def await_network() -> None:
            if os.read(linked, 1) != b".":
                raise LaunchError(f"{box.network.origin}: the network was not made")

        await_it = await_network if launch.steps.network_first() else lambda: None
        builder = apply.Builder(launch.held.directory, launch.verified, launch.outside, await_it, launch.trace)
        builder.run(launch.steps.inside[:-2])  # the last two are PID 1's own
    except BaseException as error:  # noqa: BLE001 - the process's edge: nothing may unwind into the launcher's frames
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(write_fd, _text_of(error, box).encode("utf-8", "replace")[:_MOST_TEXT])
        return 1
    return 0


def _text_of(error: BaseException, box: Container) -> str:
    if isinstance(error, PyinitError):
        return str(error)
    if not isinstance(error, OSError):
        return f"internal error: {type(error).__name__}: {error}"
    where = f"{error.filename}: " if error.filename else ""
    return f"{box.origin}: container {box.name}: {where}{error.strerror}"


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
        import sys  # to be quiet

        sys.unraisablehook = lambda _: None  # of a loop that could not be made whole: who makes it says why, too
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
        except PyinitError as error:
            _tell(channel, str(error))
        except BaseException as error:  # noqa: BLE001 - as the builder's: the launcher's undoing is not ours
            text = error.strerror if isinstance(error, OSError) else f"internal error: {type(error).__name__}: {error}"
            _tell(channel, f"{self.step.origin}: {self.step.describe()}: {text}")
        return 0

    def make(self, pid: int) -> None:
        """Make it; LaunchError."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, and said why
            self._channel.send(str(pid).encode())
        text = self._channel.recv(_MOST_TEXT).decode("utf-8", "replace")
        if text != "made":
            raise LaunchError(text or f"{self.step.origin}: {self.step.describe()}: its helper process ended")

    def close(self) -> None:
        """End and reap it; once is enough."""
        if self._pid:
            with contextlib.suppress(OSError):  # it has ended
                self._channel.shutdown(socket.SHUT_RDWR)  # the builder may have a copy, and wait for us
            self._channel.close()
            os.waitpid(self._pid, 0)
            self._pid = 0


def _tell(channel: socket.socket, text: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        channel.send(text.encode("utf-8", "replace")[:_MOST_TEXT])


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

    def __init__(
        self, born: Born, read_config: "Reader", limits: "_Limits", keeper: "Keeper | None", parting: "Parting | None", *, foreign: bool
    ) -> None:  # fmt: skip
        self._pidfd = born.pidfd
        self._channel = born.channel
        self._read_config = read_config
        self._limits = limits
        self._keeper = keeper
        self._parting = parting
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
        elif data == b"failed":
            self._foreign = False
        elif (data or self._foreign) and os.environ.get("NOTIFY_SOCKET"):
            from pyinit.init.upward import relay

            self._foreign = False
            relay(data or b"READY=1")
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
