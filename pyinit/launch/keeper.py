"""Programs are kept: one that ends is started again, and a new mount of FUSE takes the old one's place.

One that serves an image can't be: files of the container's root are open by it, and no new mount takes a layer's place. What
has lost that is told and stopped in order; PID 1 itself needs no file of it.

Owns the waiting between two lives and the change of the mounts. Must not know how a program is started (fuse.py, slirp.py). Laws:
the monitor never blocks here: who asks a file system, or walks a path of the container, is a child with a deadline; in
the container only a mount that is FUSE's is taken away; no namespace is held, for with it the container would not end.
"""

import errno
import os
import select
import time
from _collections_abc import Callable

from pyinit.errors import LaunchError, fault
from pyinit.launch.fuse import Program, Served
from pyinit.linux import mount, namespaces, process
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.launch.forwarder import Forwarder
    from pyinit.launch.slirp import Slirp

_FIRST_S, _MOST_S, _FACTOR = 0.1, 30.0, 2.0
_HEALTHY_S = 10.0  # a life as long as that counts as none of a row
_ENDING_S = 2.0
_KILL, _TERM = 9, 15


class Keeper:
    """Of one container, whose PID 1 is behind `pidfd`. `report` gets a line for each thing that people should know."""

    def __init__(
        self, programs: list[Program], images: list[Program], slirp: "Slirp | None", forwarder: "Forwarder | None", pidfd: int, report: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._report = report
        self._images = [_Image(program, pidfd, report) for program in images]
        self._kept: list[_Kept] = [*self._images, *(_KeptMount(program, pidfd, report) for program in programs)]
        if slirp is not None:
            self._kept.append(_KeptNetwork(slirp, report))
        if forwarder is not None:
            self._kept.append(_KeptForwarder(forwarder, report))

    @property
    def has_lost_its_files(self) -> bool:
        """So its end is a failure, however it ends."""
        return any(one.is_lost for one in self._images)

    def fds(self) -> list[int]:
        """What to wait for; it changes with every `turn`."""
        return [fd for one in self._kept for fd in one.fds()]

    def wait_s(self, now: float) -> float | None:
        """How long until the next `turn` without any of the fds; None for as long as it takes."""
        dues = [one.due for one in self._kept if one.due is not None]
        return max(0.0, min(dues) - now) if dues else None

    def turn(self, ready: list[int], now: float) -> None:
        """Attend to the fds that are ready and to what is due."""
        for one in list(self._kept):
            try:
                one.turn(ready, now)
            except Exception as error:  # noqa: BLE001 - the loop's edge: the container goes on
                self._report(f"{one.where}: {fault(error)}; it is kept no more")
                self._kept.remove(one)


class _Kept:
    """One program. `due`: when the next life begins, or the placing of what it makes is late."""

    where = ""
    again = ""  # how it is, then
    timeout_s = 0.0

    def __init__(self, program: Served, report: Callable[[str], None]) -> None:
        self._program = program
        self._report = report
        self._placing = -1  # pidfd of the child that waits for what it makes and puts it in place
        self._began = time.monotonic()
        self._row = 0
        self._untold = ""  # of an end that may be the container's: that is known at the first due time
        self.due: float | None = None

    def _say(self, text: str) -> None:
        self._report(f"{self.where}: {self._program.name} {text}")

    def _revive(self) -> int:
        """Start it; the pidfd of who puts what it makes in place, -1 if that needs nobody. OSError."""
        raise NotImplementedError  # of each kind of program

    def fds(self) -> list[int]:
        return [fd for fd in (self._program.pidfd, self._program.errors, self._placing) if fd >= 0]

    def turn(self, ready: list[int], now: float) -> None:
        if self._program.errors in ready:
            for line in self._program.read():
                self._say(f"says: {line}")
        if self._placing in ready:
            self._placed(now)
        if self._program.pidfd in ready:
            self._ended(now)
        if self.due is not None and now >= self.due:
            self.due = None
            if self._untold:
                self._say(self._untold)
                self._untold = ""
                self._wait_on(now)
            elif self._placing >= 0:
                self._say(f"does not answer within {self.timeout_s:g} s; it is ended")
                self._program.kill()
            else:
                self._begin(now)

    def _ended(self, now: float) -> None:
        found = os.waitid(os.P_PIDFD, self._program.pidfd, os.WEXITED)
        self._drop_placing()
        self._program.close()
        assert found is not None
        how = f"ended with exit code {found.si_status}" if found.si_code == os.CLD_EXITED else f"was killed by signal {found.si_status}"
        self._again(how, now)

    def _again(self, how: str, now: float) -> None:
        self._row = 0 if now - self._began >= _HEALTHY_S else self._row
        self.due = now + _FIRST_S
        self._untold = f"{how}; it is started again in {self._pause_s():g} s"

    def _pause_s(self) -> float:
        return min(_MOST_S, _FIRST_S * _FACTOR**self._row)

    def _wait_on(self, now: float) -> None:
        """The rest of the time between two lives."""
        left_s = self._pause_s() - _FIRST_S
        self._row += 1
        if left_s > 0:
            self.due = now + left_s
        else:
            self._begin(now)

    def _begin(self, now: float) -> None:
        self._began = now
        try:
            self._placing = self._revive()
        except OSError as error:
            self._again(f"can't be started: {error.strerror}", now)
            return
        if self._placing < 0:
            self._say(f"is {self.again} again")
        else:
            self.due = now + self.timeout_s

    def _placed(self, now: float) -> None:
        found = os.waitid(os.P_PIDFD, self._placing, os.WEXITED)
        os.close(self._placing)
        self._placing, self.due = -1, None
        assert found is not None
        if found.si_code == os.CLD_EXITED and found.si_status == 0:
            self._say(f"is {self.again} again")
            return
        number = found.si_status if found.si_code == os.CLD_EXITED else errno.EIO
        if number not in (errno.ENOTCONN, errno.ECONNABORTED):  # else it has ended itself, which is told
            self._say(f"can't be {self.again} again: {os.strerror(number)}")
        self._program.kill()

    def _drop_placing(self) -> None:
        if self._placing >= 0:
            process.pidfd_send_signal(self._placing, _KILL)
            if select.select([self._placing], [], [], _ENDING_S)[0]:
                os.waitid(os.P_PIDFD, self._placing, os.WEXITED)
            os.close(self._placing)
            self._placing, self.due = -1, None


class _Image(_Kept):
    """Of a squashfs that squashfuse serves; it has no second life."""

    def __init__(self, program: Program, pidfd: int, report: Callable[[str], None]) -> None:
        super().__init__(program, report)
        self._container = pidfd
        self.where = f"image {program.entry.source}"
        self.is_lost = False

    def _again(self, how: str, now: float) -> None:
        self.due = now + _FIRST_S
        self._untold = f"{how}, and the container has lost its files; it is stopped"

    def _say(self, text: str) -> None:
        if not select.select([self._container], [], [], 0)[0]:  # else the container's end is the program's
            super()._say(text)

    def _wait_on(self, now: float) -> None:
        if not select.select([self._container], [], [], 0)[0]:
            self.is_lost = True
            process.pidfd_send_signal(self._container, _TERM)


class _KeptMount(_Kept):
    again = "mounted"

    def __init__(self, program: Program, pidfd: int, report: Callable[[str], None]) -> None:
        super().__init__(program, report)
        self._mounter = program
        self._container = pidfd
        self.where = f"mount {program.entry.target}"
        self.timeout_s = program.entry.timeout_s

    def _revive(self) -> int:
        tree = self._mounter.start()
        try:
            return place(tree, self._container, self._mounter.entry.target)
        finally:
            os.close(tree)


class _KeptNetwork(_Kept):
    where = "network"
    again = "connected"

    def __init__(self, slirp: "Slirp", report: Callable[[str], None]) -> None:
        super().__init__(slirp, report)
        self._slirp = slirp
        self.timeout_s = slirp.timeout_s

    def _revive(self) -> int:
        self._slirp.start()
        return self._slirp.connect_aside()


class _KeptForwarder(_Kept):
    where = "network"
    again = "there"

    def __init__(self, forwarder: "Forwarder", report: Callable[[str], None]) -> None:
        super().__init__(forwarder, report)
        self._forwarder = forwarder
        self._is_over = False

    def _again(self, how: str, now: float) -> None:
        super()._again(how, now)
        self._is_over = not self._forwarder.has_link()  # so has the container, or somebody has taken it away
        if self._is_over:
            self._untold = "ended with the container's link; what comes to ports at ::1 gets nowhere until it is started again"

    def _wait_on(self, now: float) -> None:
        if not self._is_over:
            super()._wait_on(now)

    def _revive(self) -> int:
        self._forwarder.start()
        return -1


def place(tree: int, container: int, target: str) -> int:
    """pidfd of a child that puts `tree` at `target` of the container once its root answers; it leaves with errno, or 0."""
    pid, pidfd = process.clone(0)
    if pid == 0:
        try:
            _place(tree, container, target)
            os._exit(0)
        except OSError as error:
            os._exit(min(error.errno or 1, 255))
        except LaunchError:
            os._exit(errno.EINVAL)
        finally:
            os._exit(errno.EIO)
    return pidfd


def _place(tree: int, container: int, target: str) -> None:
    own = os.open("/proc/self/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # the container's /proc does not know us
    os.stat(f"/proc/self/fd/{tree}/.")
    namespaces.enter(container, namespaces.CLONE_FLAGS["mount"])
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(own)
    old = mount.open_in_root(root, target)
    fields = mount.mountinfo(old, ".")
    if fields and fields[fields.index("-") + 1].startswith("fuse"):
        mount.umount(f"fd/{old}", mount.MNT_DETACH)
    os.close(old)
    mount.move_mount(tree, mount.open_in_root(root, target))
