"""The end of a container whose server is gone: what its processes still wait for is made to fail.

Owns the mount namespace of a container that has network file systems, and their forced unmounting. Must not know
servers, or why a container ends. Laws: nothing is forced while PID 1 lives; who may hang in the kernel is a child, which
is waited for with a deadline.

A process that has written to a hard NFS mount waits for the server when it closes its files, and no signal ends that;
PID 1's own end waits for that process. umount2(2) with MNT_FORCE makes what the mount waits for now fail with EIO, and
has to be said again for what that process asks next. It needs the namespace, which is held here from the start: of one
that is on its way out nobody can get hold any more.
"""

import os
import select
import time

from pyinit.linux import mount, namespaces, process

_FIRST_S, _AGAIN_S, _MOST_S = 1.0, 0.5, 2.0
_KILL = 9


class Parting:
    """Of one container, whose PID 1 is `pid`; `targets` are its network file systems."""

    def __init__(self, pid: int, targets: tuple[str, ...]) -> None:
        self._pid = pid
        self._targets = targets
        self._due: float | None = None
        self._namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC) if targets else -1

    def begin(self) -> None:
        """PID 1 has closed its files, as it does when it ends."""
        if self._targets:
            self._due = time.monotonic() + _FIRST_S

    def wait_s(self) -> float | None:
        """How long until the next `turn`; None for as long as it takes."""
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def turn(self) -> None:
        """Force, if it is time."""
        if self._due is not None and time.monotonic() >= self._due:
            self._due = None
            if self._is_ending():
                self._force(last=False)
                self._due = time.monotonic() + _AGAIN_S

    def close(self) -> None:
        """PID 1 is no more. The file systems end with the namespace, and some of them tell their server."""
        if self._namespace >= 0:
            self._force(last=True)

    def _is_ending(self) -> bool:
        """Of a process without memory the kernel has no command line."""
        try:
            with open(f"/proc/{self._pid}/cmdline", "rb") as file:
                return not file.read(1)
        except OSError:
            return False

    def _force(self, *, last: bool) -> None:
        try:
            pid, pidfd = process.clone(0)
        except OSError:  # too many processes: the next turn is another try, and the end of the namespace ends them, too
            pidfd = -1
        else:
            if pid == 0:
                self._child(last=last)
        if last:
            os.close(self._namespace)
            self._namespace = -1
        if pidfd < 0:
            return
        if not select.select([pidfd], [], [], _MOST_S)[0]:
            process.pidfd_send_signal(pidfd, _KILL)  # and is left behind, if it hangs in the kernel
        if select.select([pidfd], [], [], 0.0)[0]:
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)

    def _child(self, *, last: bool) -> None:
        try:
            namespaces.enter(self._namespace, namespaces.CLONE_FLAGS["mount"])
            for target in self._targets:
                try:
                    mount.umount(target, (mount.MNT_DETACH if last else mount.MNT_FORCE) | mount.UMOUNT_NOFOLLOW)
                except OSError:  # it is in use still, or gone
                    continue
        finally:
            os._exit(0)
