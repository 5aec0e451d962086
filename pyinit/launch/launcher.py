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

import marshal
import os
import select
import sys
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.bundle import LATER, Bundle
from pyinit.control import places
from pyinit.control.listener import bind
from pyinit.errors import LaunchError
from pyinit.importer import Importer
from pyinit.init import shell
from pyinit.launch import cgroups, onhost, operations, plan
from pyinit.launch.builder import Builder, NoBuilder, begin, text_of
from pyinit.launch.claim import CONTROL_SOCKET, Claim, claim
from pyinit.launch.clone import Born
from pyinit.launch.monitor import HUP, Limits, Monitor
from pyinit.launch.root import Ids
from pyinit.launch.tracing import SILENT, Trace, carried_out, explained
from pyinit.linux import cgroup
from pyinit.linux import sock as socket
from pyinit.model import NETWORK_TYPES, SLIRP, Config
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.launch.digests import Identity
    from pyinit.launch.forwarder import Forwarder
    from pyinit.launch.keeper import Keeper
    from pyinit.launch.leases import Taken
    from pyinit.launch.nethelper import NetworkHelper
    from pyinit.launch.outside import Outside
    from pyinit.launch.parting import Parting
    from pyinit.launch.slirp import Slirp

_PATIENCE_MARGIN_S = 3.0
_MOST_TEXT = 8192
_REBOOT = 128 + HUP  # PID 1 of a pid namespace can die of HUP in one way only: reboot(2)
_DIGESTS = ".digests"  # no name of a container starts with a dot
_KILLED = 128 + 9
_ENDING_S = 0.5  # who has a pid namespace may kill all in it before it ends itself


def launch(config: Config, code: Bundle, born: Born, bear: Callable[[], Born], report: Callable[[str], None], trace: Trace = SILENT) -> int:
    """Run the container of which `born` is PID 1; its exit code. LaunchError; what could not be undone is reported.

    From here on imports are of `code`, whatever becomes of the package on the host meanwhile. `bear` makes another one, for a container that reboots. `trace` is told of each operation of the plan but the birth.
    """
    sys.meta_path.insert(0, Importer(code.fd, code.later(LATER)))
    box = config.container
    assert box is not None
    steps = plan.make(config)
    try:
        held = claim(box.name, box.origin, patience_s=config.init.stop_timeout_s + _PATIENCE_MARGIN_S)
    except OSError as error:
        raise LaunchError(text_of(error, box)) from error
    one: Launch | None = None
    try:
        held.write_config(config.path)
        held.write_shell(shell.packed(config))
        _report(held, [], report)  # of the run before, whose monitor was killed
        while True:
            one = Launch(config, steps, held, born, report, trace)
            exit_code = one.run()
            if exit_code != _REBOOT:
                return exit_code
            held.undo_for_another(box.origin)
            _report(held, [], report)
            one.bury()
            born = bear()
    except ModuleNotFoundError:  # of a Python that is not whole, which its entry has words for
        raise
    except (OSError, ImportError) as error:
        raise LaunchError(text_of(error, box)) from error
    finally:
        problems = held.undo()
        if one is not None:
            one.bury()  # not by whoever is init: that may take its time
        _report(held, [*problems, *held.release()], report)


def _report(held: Claim, problems: list[str], report: Callable[[str], None]) -> None:
    for text in (*problems, *held.failed_hooks):
        report(text)
    held.failed_hooks.clear()


class Launch:
    """One run of one container, up to its end."""

    def __init__(self, config: Config, steps: plan.Plan, held: Claim, born: Born, report: Callable[[str], None], trace: Trace) -> None:
        assert config.container is not None
        self.config = config
        self.box = config.container
        self.steps = steps
        self.isolate = next(step for step in steps.host if isinstance(step, onhost.Isolate))
        self.held = held
        self.born = born
        self.folder_fds: list[int] = []
        self.verified: dict[str, Identity] = {}
        self.report = report
        self.trace = trace
        self.outside: Outside | None = None
        self.slirp: Slirp | None = None
        self.forwarder: Forwarder | None = None
        self.taken: Taken | None = None
        self.ids: Ids = born.ids or self._ids()
        self.groups: list[str] = []
        self.unified = ""
        self.v1_places: dict[str, str] = {}

    def run(self) -> int:
        helper: NetworkHelper | None = None
        parting: Parting | None = None
        try:
            # 0. The images are those that are meant, and a shared network is one that stays.
            for step in self.steps.host:
                if isinstance(step, onhost.VerifyImage):
                    from pyinit.launch import digests  # for pinned ones

                    with carried_out(step, self.trace):
                        self.verified[step.path] = digests.verify(step, f"{places.runtime_dir()}/{_DIGESTS}")
                elif isinstance(step, onhost.JoinNamespace) and (step.shared.kind, step.shared.by) == ("net", "container"):
                    from pyinit.launch import pods  # for those who have the network of another

                    with explained(step):
                        pods.join(step.shared.what, self.box.name, self.born.pid, self.held.note)
            # 1. What is taken by others is told before anything is made. The network's helper is forked first: nft waits for the kernel.
            for take in self.steps.host:
                if isinstance(take, onhost.TakeAddress):
                    from pyinit.launch import leases  # for those who have a network

                    with carried_out(take, self.trace):
                        self.taken = leases.take(take, self.box, self.held.note, self.report)
                        helper = self._help(self.taken)
            self._make(helper)
            # 5. The monitor is there before the container runs, which ends for nothing of ours that can't be had.
            keeper, parting = self._keeper(), self._parting()
            limits = Limits(self.box.cgroup, self.groups, self.unified)
            monitor = Monitor(self.born, self._read_again, limits, keeper, parting, self.report, foreign=bool(self.box.init))
            self._finish()
            code = monitor.run()
            if code == _KILLED and (why := self._end_of_the_other(patience_s=_ENDING_S) or (monitor.was_killed and self._lack_of_memory())):
                self.report(why)
            return code
        except BaseException as error:
            why = self._end_of_the_other() if isinstance(error, LaunchError) else ""
            self.born.end()
            if why:
                raise LaunchError(why) from error
            raise
        finally:
            if parting is not None:
                parting.close()
            if helper is not None:
                helper.close()
            for fd in self.folder_fds:
                os.close(fd)
            self.folder_fds.clear()
            if self.taken is not None:
                self.taken.close()
            self.born.close()
            if self.outside is not None:
                self.outside.end()
            if self.slirp is not None:
                self.slirp.end()

    def bury(self) -> None:
        """What the undoing of the journal has ended."""
        if self.forwarder is not None:
            self.forwarder.bury()

    def _end_of_the_other(self, *, patience_s: float = 0.0) -> str:
        """In words, if it has ended in whose pid namespace the container is: that takes along whoever is in it."""
        if self.born.pid_space < 0:
            return ""
        from pyinit.launch import guests  # for those who are in one

        if not guests.has_ended(self.born.pid_space, patience_s):
            return ""
        one = next(one for one in self.box.share if one.kind == "pid")
        whose = {"container": f"container {one.what}", "pid": f"the process {one.what}"}.get(one.by, one.what)
        return f"{one.origin}: the pid namespace of {whose} has ended, and this container, which is in it by share, with it"

    def _lack_of_memory(self) -> str:
        """In words, if the kernel has killed processes of the container for it: PID 1 may have been one of them."""
        killed = 0
        for directory in self.groups:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError), open(f"{directory}/{name}", "rb", buffering=0) as file:
                    killed += cgroup.oom_kills(file.read())
        if not killed:
            return ""
        limits, many = self.box.cgroup, "process" if killed == 1 else "processes"
        at, which = (limits.origin, "memory_max") if limits.memory_max_bytes else (self.box.origin, "the limit of a group that it is in")
        return (
            f"{at}: container {self.box.name}: its PID 1 was killed: the kernel has killed {killed} {many} of it for {which}; "
            "raise that, or limit its RAM disks, shared memory and services below it"
        )

    def _ids(self) -> Ids:
        if not self.box.rootless:
            return Ids()
        from pyinit.launch import rootless  # for ordinary users

        return rootless.Ours()

    def _delegated(self, step: onhost.MakeCgroup) -> "list[cgroup.Hierarchy] | None":
        if not self.box.rootless:
            return None
        from pyinit.launch import rootless  # for ordinary users

        return rootless.delegated(step, self.report)

    def _help(self, taken: "Taken") -> "NetworkHelper":
        from pyinit.launch.nethelper import NetworkHelper  # for those who have a network

        rules = next((step for step in self.steps.host if isinstance(step, onhost.MakeRules)), None)
        links = next(step for step in self.steps.host if isinstance(step, onhost.MakeNetwork))
        if links.network.mode == "veth":
            self.held.note("bridge", links.network.bridge)
            self.held.note("link", f"{links.link} {links.name}")
        return NetworkHelper(rules, links, taken, self)

    def _keeper(self) -> "Keeper | None":
        programs = self.outside.programs if self.outside is not None else []
        images = self.outside.servers if self.outside is not None else []
        if not programs and not images and self.slirp is None and self.forwarder is None:
            return None
        from pyinit.launch.keeper import Keeper  # for those who have FUSE, slirp4netns or ports at ::1

        return Keeper(programs, images, self.slirp, self.forwarder, self.born.pidfd, self.report)

    def _parting(self) -> "Parting | None":
        targets = tuple(one.target for one in self.box.mounts if one.type in NETWORK_TYPES)
        if not targets:
            return None
        from pyinit.launch.parting import Parting  # for those who have servers

        try:
            return Parting(self.born.pid, targets)
        except FileNotFoundError:  # it is gone, and has said why
            return None

    def leave_to_the_monitor(self) -> None:
        """In a fork of ours: who outlives the monitor must not look like it, to PID 1 and to the next start."""
        self.born.channel.close()
        os.close(self.held.monitor_fd)

    def _make(self, helper: "NetworkHelper | None") -> None:
        # 2. What stands on the host, and in the root of another: journal first, then the thing.
        if self.born.root_fd >= 0:
            from pyinit.launch import guests  # for those who stand there

            guests.note(self.born.root_fd, self.box.name, self.held.note)
        control_fd = bind(f"{self.held.directory}/{CONTROL_SOCKET}")
        try:
            for step in self.steps.host:
                if isinstance(step, onhost.TakeFolder):
                    with carried_out(step, self.trace):
                        self.folder_fds.append(self.held.take_folder(step.path, step.origin))
                elif isinstance(step, onhost.Outside):
                    if self.outside is None:
                        from pyinit.launch.outside import Outside  # for those who need more of the host

                        taken = [one.content for one in self.steps.host if isinstance(one, onhost.TakeContent)]
                        self.outside = Outside(frozenset(one.text for one in taken if one.kind == "env"), self.ids)
                    with carried_out(step, self.trace):
                        self.outside.run(step)
                elif isinstance(step, onhost.MakeCgroup):
                    with carried_out(step, self.trace):
                        places = self._delegated(step)
                        if places == []:
                            continue
                        self.groups, self.unified, self.v1_places = cgroups.make(step, self.held.note, self.report, places)
                        if self.born.ids is not None:
                            self.born.ids.take_groups(self.groups)
                elif isinstance(step, onhost.LimitDevices):
                    from pyinit.launch import devices  # for those who have some

                    with carried_out(step, self.trace):
                        devices.limit(step, self.v1_places.pop("devices", ""), self.unified, self.report)
            if self.outside is not None:
                self.outside.finish(self.held.note)
            # 3. The root is being built, while PID 1 still starts, and we wait for the kernel to move it into its groups.
            with explained(self.isolate):
                builder = begin(self)
            try:
                if self.outside is not None:
                    self.outside.close()  # the builder has it all
                self._move_in(control_fd)
                # 4. The network needs the namespace only.
                if helper is not None:
                    self._connect(helper, builder)
                    self._forward()
                elif self.box.network.mode == SLIRP:
                    self._serve(builder)
                builder.wait()
            finally:
                builder.close()
        finally:
            os.close(control_fd)

    def _finish(self) -> None:
        self._let_go(self.steps.own)
        if self.steps.built:
            from pyinit.launch import hooks  # for those who have any

            hooks.prestart(self.steps, self.config, self.held.directory, self.born.pid, self.held.note, self.trace)
            self._say_go()

    def _let_go(self, steps: tuple[operations.Own, ...]) -> None:
        """PID 1 does its own steps, all at one word."""
        if steps:
            with carried_out(steps[0], self.trace):
                self._let_go(steps[1:])
            return
        if self.born.root_fd >= 0:
            self._say_go([self.born.root_fd])
            self.born.let_root_go()
        elif self.born.ids is None:
            self._say_go()
        else:
            self._show_root()
        self._await_built()

    def _say_go(self, fds: list[int] | None = None) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is gone: it has said why, or its exit code does
            if fds:
                socket.send_fds(self.born.channel, [b"go"], fds)
            else:
                self.born.channel.send(b"go")

    def _show_root(self) -> None:
        """b"go" to a PID 1 that may not enter our folder: with the new root, as its own mount namespace has it."""
        with explained(self.steps.own[0]):
            try:
                root = os.open(f"/proc/{self.born.pid}/root{self.held.directory}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:  # it is gone
                self._say_go()
                return
            try:
                self._say_go([root])
            finally:
                os.close(root)

    def _move_in(self, control_fd: int) -> None:
        """PID 1 into its groups, and the word to it where that is."""
        self.held.write_pid(self.born.pid)
        group = next((step for step in self.steps.host if isinstance(step, onhost.MakeCgroup)), self.isolate)
        with explained(group):
            self._tell_where(control_fd)

    def _tell_where(self, control_fd: int) -> None:
        try:
            for directory in self.groups:
                cgroup.write(directory, "cgroup.procs", str(self.born.pid))
            facts = (self.held.directory, self.unified, self.v1_places, plan.shows_groups(self.box), bool(self.steps.built))
            socket.send_fds(self.born.channel, [marshal.dumps(facts)], [self.held.lock_fd, control_fd, *self.folder_fds])
        except (ProcessLookupError, BrokenPipeError, ConnectionResetError):
            self._await_built()

    def _read_again(self, instances: tuple[str, ...]) -> Config:
        """For a reload; in a process of its own."""
        from pyinit.config.load import load

        config = load(self.config.path, os.environ, extra=instances)
        if config.container is None or not any(layer.oci for layer in config.container.layers):
            return config
        from pyinit.launch import stores  # for those who have an image of a layout

        return stores.resolved(config)

    def _connect(self, helper: "NetworkHelper", builder: Builder | NoBuilder) -> None:
        try:
            if helper.rules is not None:
                with carried_out(helper.rules, self.trace):
                    helper.await_rules()
            with carried_out(helper.links, self.trace):
                helper.make_links(self.born.pid)
            builder.linked()
        except LaunchError:
            if select.select([self.born.channel], [], [], 0)[0]:
                self._await_built()  # of a PID 1 that has failed, which is why there was no namespace for it any more
            raise
        finally:
            helper.close()  # now: it holds our locks

    def _forward(self) -> None:
        for step in self.steps.host:
            if isinstance(step, onhost.ForwardLoopback):
                from pyinit.launch import forwarder  # for those who have ports at ::1

                assert self.taken is not None
                with carried_out(step, self.trace):
                    self.forwarder = forwarder.Forwarder(step, self.taken, self.held.note_anew)
                    self.forwarder.start()

    def _serve(self, builder: Builder | NoBuilder) -> None:
        from pyinit.launch import slirp  # for those who have it

        step = next(step for step in self.steps.host if isinstance(step, onhost.MakeNetwork))
        slirp.check_ports(step.network)
        self.slirp = slirp.Slirp(step, self.held.directory, self.born.pid)
        try:
            with carried_out(step, self.trace):
                self.slirp.start(self.held.note)
                self.slirp.connect()
            builder.linked()
        except LaunchError:
            if select.select([self.born.pidfd], [], [], 0)[0]:
                self._await_built()  # of a PID 1 that has failed, which is why there was no namespace for it any more
            raise

    def _await_built(self) -> None:
        text = self.born.channel.recv(_MOST_TEXT).decode("utf-8", "replace")
        if text.startswith("!"):
            text = f"{self.isolate.origin}: {self.isolate.describe()}: {text[1:]}"
        if text != "built":
            raise LaunchError(text or f"{self.box.origin}: PID 1 ended while it made the container")
