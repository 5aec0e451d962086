"""From a config to a running container: the choreography of launcher, PID 1 and monitor.

Owns the order of steps and the channel between monitor and PID 1. Must not know what an operation does (apply.py)
or what PID 1 does with its services (init). Laws: one thread at each clone; signals are blocked before anything is
made and queue up meanwhile; whatever fails, what was made is undone and one line says why; the monitor never dies
of its container.

The channel is a SEQPACKET pair. PID 1 says: b"built" or an error's text; later b"limits" with the container's new ones
and a pipe, which gets why they were refused, and its end; b"reload" with two fds, a pipe that
the config is to be written to and a file with the instances that it shall hold, and sd_notify's lines, which go on to
our own NOTIFY_SOCKET. The monitor says b"linked", where that is waited for, and b"go".
Its end says that the monitor is gone.
"""

import os
import select
import sys
import time
import zlib  # noqa: F401 - its C library is loaded with it: after the pivot that would be the image's, for a log's gzip
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.control import places, server
from pyinit.errors import EXIT_SYSTEM, LaunchError, PyinitError
from pyinit.init.limiting import exchange
from pyinit.init.limiting import places as places_of
from pyinit.init.pid1 import Endpoints, Init
from pyinit.init.reload import Reader, read_names, write_config
from pyinit.init.updates import CHANGE, read_limits
from pyinit.init.upward import relay
from pyinit.launch import apply, cgroups, digests, hooks, network, plan, rlimits
from pyinit.launch.claim import CONTROL_SOCKET, Claim, claim
from pyinit.launch.keeper import Keeper
from pyinit.launch.outside import Outside
from pyinit.launch.parting import Parting
from pyinit.launch.tracing import SILENT, Trace, carried_out, explained
from pyinit.linux import caps, namespaces, process
from pyinit.linux import sock as socket
from pyinit.model import NETWORK_TYPES, RTMIN, Config, Container, Origin

HUP, _KILL = 1, 9
# Stops, and what services may want to be told; not the faults, nor what job control and a broken pipe are for.
FORWARDED = (1, 2, 3, 10, 12, 15, 28, 30, *(RTMIN + n for n in range(16)))
_PATIENCE_MARGIN_S = 3.0
_MOST_TEXT = 8192
_REBOOT = 128 + HUP  # PID 1 of a pid namespace can die of HUP in one way only: reboot(2)
_DIGESTS = ".digests"  # no name of a container starts with a dot
INSIDE_SOCKET = "/run/pyinit/control.sock"


def launch(config: Config, import_path: list[str], report: Callable[[str], None], trace: Trace = SILENT) -> int:
    """Run the container; its exit code. LaunchError; what could not be undone is reported.

    `import_path`: what is left to import from after the pivot. `trace` is told of each operation of the plan.
    """
    box = config.container
    assert box is not None
    steps = plan.make(config)
    _check_privileges(box.origin, veth=box.network.mode == "veth")
    process.block_signals(list(FORWARDED))
    try:
        held = claim(box.name, box.origin, patience_s=config.init.stop_timeout_s + _PATIENCE_MARGIN_S)
    except OSError as error:
        raise LaunchError(_text_of(error, box)) from error
    try:
        held.write_config(config.path)
        _report(held, [], report)  # of the run before, whose monitor was killed
        while (code := _Launch(config, steps, held, import_path, report, trace).run()) == _REBOOT:
            _report(held, held.undo(), report)
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


def _check_privileges(origin: Origin, *, veth: bool) -> None:
    needed = (*plan.NEEDED_CAPABILITIES, "NET_ADMIN") if veth else plan.NEEDED_CAPABILITIES
    missing = [name for name in needed if not caps.has(name)]
    if missing:
        raise LaunchError(
            f"{origin}: a container needs CAP_{' CAP_'.join(missing)}, which this process lacks: run pyinit as root"
        )


class _Launch:
    def __init__(
        self, config: Config, steps: plan.Plan, held: Claim, import_path: list[str], report: Callable[[str], None], trace: Trace
    ) -> None:  # fmt: skip
        assert config.container is not None
        self.config = config
        self.box = config.container
        self.steps = steps
        self.isolate = next(step for step in steps.host if isinstance(step, plan.Isolate))
        self.held = held
        self.import_path = import_path
        self.folder_fds: list[int] = []
        self.verified: dict[str, digests.Identity] = {}
        self.report = report
        self.outside = Outside()
        self.trace = trace
        self.groups: list[str] = []
        self.unified = ""
        self.control_fd = -1
        self.pidfd = -1

    def run(self) -> int:
        # 0. The images are those that are meant.
        for step in self.steps.host:
            if isinstance(step, plan.VerifyImage):
                with carried_out(step, self.trace):
                    self.verified[step.path] = digests.verify(step, f"{places.runtime_dir()}/{_DIGESTS}")
        # 1. An address that is taken is told before anything is made. The network's helper is forked first: it imports pyroute2 while the rest is made.
        networks = [step for step in self.steps.host if isinstance(step, plan.MakeNetwork)]
        for link in networks:
            with explained(link):
                self.held.take_address(link.network.address.partition("/")[0], link.origin)
        helper = None
        for link in networks:
            with explained(link):
                helper = _NetworkHelper(link)
        try:
            return self._run(helper)
        finally:
            if helper is not None:
                helper.close()
            for fd in self.folder_fds:
                os.close(fd)
            self.outside.end()

    def _run(self, helper: "_NetworkHelper | None") -> int:
        # 2. What stands on the host: journal first, then the thing.
        self.control_fd = server.bind(f"{self.held.directory}/{CONTROL_SOCKET}")
        for step in self.steps.host:
            if isinstance(step, plan.TakeFolder):
                with carried_out(step, self.trace):
                    self.folder_fds.append(self.held.take_folder(step.path, step.origin))
            elif isinstance(step, plan.MakeCgroup):
                with carried_out(step, self.trace):
                    self.groups, self.unified = cgroups.make(step, self.held.note, self.report)
            elif isinstance(step, plan.Outside):
                with carried_out(step, self.trace):
                    self.outside.run(step)
        self.outside.finish(self.held.note)
        # 3. PID 1.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        flags = 0
        for name in self.box.namespaces:
            if name != "cgroup":  # after it stands in its group, for that one becomes the namespace's root
                flags |= namespaces.CLONE_FLAGS[name]
        if self.box.network.mode == "host":
            flags &= ~namespaces.CLONE_FLAGS["net"]
        try:
            with carried_out(self.isolate, self.trace):
                pid, self.pidfd = process.clone(flags)
                if pid == 0:
                    ours.close()
                    os._exit(_Child(self, theirs).run())
            theirs.close()
            self.outside.close()
            os.close(self.control_fd)
            self.held.write_pid(pid)
            # 4. The network needs the namespace; the mounts are being made meanwhile.
            if helper is not None:
                self._connect(helper, pid, ours)
                if self.steps.network_first():
                    with contextlib.suppress(BrokenPipeError):  # it has failed meanwhile, and said why
                        ours.send(b"linked")
            self._await_built(ours)
            hooks.prestart(self.steps, self.config, self.held.directory, pid, self.held.note, self.trace)
            with contextlib.suppress(BrokenPipeError):  # it was killed while a hook ran: its exit code says so
                ours.send(b"go")
            # 5. From here on: the monitor.
            keeper = Keeper(self.outside.programs, self.pidfd, self.report)
            parting = Parting(pid, tuple(one.target for one in self.box.mounts if one.type in NETWORK_TYPES))
            try:
                return _Monitor(self.pidfd, ours, self._read_again, _Limits(self), keeper, parting, foreign=bool(self.box.init)).run()
            finally:
                parting.close()
        except (PyinitError, OSError):
            if self.pidfd >= 0:
                process.pidfd_send_signal(self.pidfd, _KILL)
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
            raise
        finally:
            ours.close()
            if self.pidfd >= 0:
                os.close(self.pidfd)

    def _read_again(self, instances: tuple[str, ...]) -> Config:
        """For a reload; in a process of its own."""
        from pyinit.config.load import load  # loaded already, by the command line

        return load(self.config.path, os.environ, extra=instances)

    def _connect(self, helper: "_NetworkHelper", pid: int, channel: socket.socket) -> None:
        try:
            with carried_out(helper.step, self.trace):
                self.held.note("bridge", helper.step.network.bridge)
                self.held.note("link", helper.step.link)
                helper.make(pid)
        except LaunchError:
            if select.select([channel], [], [], 0)[0]:
                self._await_built(channel)  # of a PID 1 that has failed, which is why there was no namespace for it any more
            raise
        finally:
            helper.close()  # now: it holds pyroute2's memory, and our locks

    def _await_built(self, channel: socket.socket) -> None:
        text = channel.recv(_MOST_TEXT).decode("utf-8", "replace")
        if text != "built":
            raise LaunchError(text or f"{self.box.origin}: PID 1 ended while it made the container")


class _NetworkHelper:
    """A child that has pyroute2; it makes the network when told of the container's pid."""

    def __init__(self, step: plan.MakeNetwork) -> None:
        self.step = step
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            self._channel.close()
            os._exit(self._child(theirs))
        theirs.close()

    def _child(self, channel: socket.socket) -> int:
        sys.unraisablehook = lambda _: None  # of a loop that could not be made whole: who makes it says why, too
        try:
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
        except BaseException as error:  # noqa: BLE001 - as PID 1's: the launcher's undoing is not ours
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
                self._channel.shutdown(socket.SHUT_RDWR)  # PID 1 may have a copy, and wait for us
            self._channel.close()
            os.waitpid(self._pid, 0)
            self._pid = 0


def _tell(channel: socket.socket, text: str) -> bool:
    """False if nobody listens any more."""
    try:
        channel.send(text.encode("utf-8", "replace")[:_MOST_TEXT])
    except OSError:
        return False
    return True


def _text_of(error: BaseException, box: Container) -> str:
    if isinstance(error, PyinitError):
        return str(error)
    if not isinstance(error, OSError):
        return f"internal error: {type(error).__name__}: {error}"
    where = f"{error.filename}: " if error.filename else ""
    return f"{box.origin}: container {box.name}: {where}{error.strerror}"


class _Child:
    """PID 1 up to the moment that it is the init."""

    def __init__(self, launch: _Launch, channel: socket.socket) -> None:
        self._launch = launch
        self._channel = channel
        self._is_built = False

    def run(self) -> int:
        """The exit code of the container."""
        try:
            return self._run()
        except BaseException as error:  # noqa: BLE001 - the process's edge: nothing may unwind into the launcher's frames
            text = _text_of(error, self._launch.box)
            if self._is_built or not _tell(self._channel, text):  # the monitor listens for this no more: then to those who read our output
                os.write(2, f"pyinit: {text}\n".encode("utf-8", "replace"))
            return EXIT_SYSTEM

    def _run(self) -> int:
        endpoints = self._build()
        if self._launch.box.init:
            for warning in rlimits.limit_ourselves(self._launch.config):
                self._launch.report(warning)
        self._channel.send(b"built")
        self._is_built = True
        try:
            is_wanted = self._channel.recv(16) == b"go"
        except ConnectionResetError:
            is_wanted = False
        if not is_wanted:
            return EXIT_SYSTEM  # the monitor is gone before there was anything to stop
        process.prctl(process.PR_SET_PDEATHSIG, 0)  # from here on its end is read from the channel, and is an orderly stop
        if self._launch.box.init:
            return self._exec_init()
        return Init(self._launch.config, endpoints).run()

    def _build(self) -> Endpoints:
        launch = self._launch
        with explained(launch.isolate):
            self._die_with_the_monitor()
            os.close(launch.held.monitor_fd)
            os.setsid()
            process.set_name("pyinit")
            process.prctl(process.PR_SET_DUMPABLE, 0)
            if "net" in launch.box.namespaces and launch.box.network.mode != "host":
                namespaces.loopback_up()
        with explained(next((step for step in launch.steps.host if isinstance(step, plan.MakeCgroup)), launch.isolate)):
            places = cgroups.v1_places(launch.groups)
            v1_fds = {name: os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for name, place in places.items()}
            cgroup_fd = self._enter_groups()
        linked = self._await_network if launch.steps.network_first() else lambda: None
        apply.Builder(launch.held.directory, launch.verified, launch.outside, linked, launch.trace).run(launch.steps.inside)
        self._shut_the_host_out({max(cgroup_fd, 0), *v1_fds.values()})
        return Endpoints(
            channel_fd=self._channel.fileno(), cgroup_fd=cgroup_fd, v1_fds=v1_fds, listen_fds=(launch.control_fd,),
            container="pyinit", control_path=launch.config.init.control_socket or INSIDE_SOCKET,
        )  # fmt: skip

    def _await_network(self) -> None:
        if self._channel.recv(16) != b"linked":
            raise LaunchError(f"{self._launch.box.network.origin}: the network was not made")

    def _die_with_the_monitor(self) -> None:
        """While nothing can be stopped yet: a mount that hangs would hold the name."""
        process.prctl(process.PR_SET_PDEATHSIG, _KILL)
        if select.select([self._channel], [], [], 0)[0]:  # it says nothing before we do, so that is its end
            os._exit(EXIT_SYSTEM)

    def _enter_groups(self) -> int:
        """fd of the container's own v2 group, opened while the mount that it is on can be written."""
        launch = self._launch
        cgroups.enter(launch.groups)
        if "cgroup" in launch.box.namespaces:
            namespaces.unshare(namespaces.CLONE_FLAGS["cgroup"])
        if not launch.unified:
            return -1
        cgroups.enter_leaf(launch.unified)
        return os.open(launch.unified, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _shut_the_host_out(self, group_fds: set[int]) -> None:
        """No word, no path and no open file of the host's from here on."""
        launch = self._launch
        process.close_all_but({0, 1, 2, self._channel.fileno(), launch.held.lock_fd, launch.control_fd, *launch.folder_fds, *group_fds})
        os.environ.clear()
        sys.path[:] = self._launch.import_path
        sys.path_importer_cache.clear()
        sys.argv[:] = ["pyinit"]
        os.umask(0o022)
        os.environ["TZ"] = "UTC0"  # else the C library would read the image's /etc/localtime

    def _exec_init(self) -> int:
        """`[container] init`: a program of the image takes over, with what the container may have and no more."""
        path = self._launch.box.init
        if not self._launch.box.orphan:  # it can't see the end of our channel, and may not heed anything but KILL
            process.prctl(process.PR_SET_PDEATHSIG, _KILL)
        process.set_signal_mask([])
        process.close_from(3)
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "container": "pyinit"}
        try:
            os.execve(path, [path], environment)
        except OSError as error:
            self._channel.send(b"failed")
            text = f"{self._launch.box.origin}: init {path} of the image: {error.strerror}"
            print(f"pyinit: {text}", file=sys.stderr)
            return 127 if isinstance(error, FileNotFoundError) else 126


class _Limits:
    """Of the container, to be changed from the host: inside, its group is a namespace's root, whose limits may be out of reach."""

    def __init__(self, launch: _Launch) -> None:
        self._limits = launch.box.cgroup
        self._groups, self._unified = launch.groups, launch.unified

    def change(self, data: bytes) -> bytes:
        """The answer to PID 1: why it was refused, or nothing."""
        try:
            new = read_limits(data)
            places = {name: _directory(place) for name, place in cgroups.v1_places(self._groups).items()}
            unified = _directory(self._unified) if self._unified else -1
            try:
                why = exchange(places_of(unified, places), self._limits, new)
            finally:
                for fd in {*places.values(), unified} - {-1}:
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
        self, pidfd: int, channel: socket.socket, read_config: Reader, limits: "_Limits", keeper: Keeper, parting: Parting, *, foreign: bool
    ) -> None:
        self._pidfd = pidfd
        self._channel = channel
        self._read_config = read_config
        self._limits = limits
        self._keeper = keeper
        self._parting = parting
        self._foreign = foreign  # an init of the image says nothing: it is ready when it runs, which closes the channel
        self._readers: dict[int, int] = {}  # pidfd -> pid, of those at work on a reload
        self._signals = process.signalfd(list(FORWARDED))
        self._on_terminal = _fields_of_self()[4] != "0"  # now: a hangup takes it away before it is told

    def run(self) -> int:
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
        kept, waits = self._keeper.fds(), (self._keeper.wait_s(time.monotonic()), self._parting.wait_s())
        wait_s = min((one for one in waits if one is not None), default=None)
        for fd in kept:
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(None if wait_s is None else wait_s * 1000 + 1)]
        for fd in kept:
            poll.unregister(fd)
        self._keeper.turn(ready, time.monotonic())
        self._parting.turn()
        return [fd for fd in ready if fd not in kept]

    def _listen(self, poll: select.poll) -> bool:
        """PID 1 asks for the config, or says how it is; False at the end."""
        try:
            data, fds, _, _ = socket.recv_fds(self._channel, _MOST_TEXT, 4)
        except ConnectionResetError:  # it was killed before it read our last word
            return False
        if data == b"reload" and len(fds) == 2:
            pid, pidfd = process.clone(0)
            if pid == 0:
                try:
                    write_config(fds[0], lambda: self._read_config(read_names(fds[1])))
                finally:
                    os._exit(0)
            self._readers[pidfd] = pid
            poll.register(pidfd, select.POLLIN)
        elif data.startswith(CHANGE) and len(fds) == 1:
            os.write(fds[0], self._limits.change(data))
        elif data or self._foreign:
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
