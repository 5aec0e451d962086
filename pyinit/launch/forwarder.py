"""The forwarder: a process of ours on the host that carries to a container what comes to its ports at ::1.

Owns its life. Must not know how it carries (relay.py), nor when it is started again (keeper.py). Laws: it has the ports'
sockets and nothing else of the launcher's, no privilege and no file to open; it ends when the container's link does, which
others of a pod may have for longer than the container is there. The signals that stop a launcher stay blocked, as it has
them: systemd sends them to all of a unit at once, and what is served until the container's own end is served by way of this.
"""

import gc
import os
import resource
import select
from _collections_abc import Callable

from pyinit.launch.fuse import Served, identity
from pyinit.launch.leases import Taken
from pyinit.launch.onhost import LOOPBACK6, ForwardLoopback
from pyinit.launch.relay import Port, Relay
from pyinit.linux import process
from pyinit.linux import sock as socket
from pyinit.linux.addresses import bits_of
from pyinit.linux.netlink import index_of
from pyinit.records import NoReturn

KIND = "forwarder"  # in the journal
_NOBODY = 65534
_RTMGRP_LINK = 1
_FAILED = 1
_GO = b"!"


class Forwarder(Served):
    """One container's, through all its lives."""

    def __init__(self, step: ForwardLoopback, taken: Taken, note: Callable[[str, str], None]) -> None:
        """`taken`: its sockets stay open for as long as this is; `note` has a kind's only value in the journal from then on."""
        super().__init__("the forwarder of [::1]")
        self._link = step.link
        own = sorted(taken.addresses, key=bits_of)[-1]  # by IPv6, if it has that
        self._ports = [Port(one.fd, one.protocol, own, one.to) for one in taken.held if one.host in LOOPBACK6]
        self._note = note

    def start(self) -> None:
        """OSError."""
        self.close()
        link = index_of(self._link)
        fds: list[int] = []
        try:
            fds += os.pipe()
            fds += os.pipe()  # a line of its own: those before a failure are in it
            self.errors, says, waits, word = fds
            fds.remove(self.errors)
            os.set_blocking(self.errors, False)
            self.pid, self.pidfd = process.clone(0)
            if self.pid == 0:
                self._run(link, says, waits, word)
            self._note(KIND, identity(self.pid))
            os.write(word, _GO)
        except BaseException:
            self.kill()  # the journal may not have it
            self.bury(os.WEXITED)
            raise
        finally:
            for fd in fds:
                os.close(fd)

    def has_link(self) -> bool:
        """Else there is nothing to forward to, for good."""
        return index_of(self._link) != 0

    def bury(self, how: int = os.WEXITED | os.WNOHANG) -> None:
        """Once the journal has ended it."""
        if self.pidfd >= 0:
            os.waitid(os.P_PIDFD, self.pidfd, how)
        self.close()

    def _run(self, link: int, says: int, waits: int, word: int) -> NoReturn:
        """The child, to its end."""
        try:
            os.close(word)
            if os.read(waits, 1) != _GO:  # the journal does not have it
                os._exit(_FAILED)
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(0, 1)
            os.dup2(says, 2)
            os.chdir("/")
            process.close_all_but({0, 1, 2, *(port.fd for port in self._ports)}, imports=False)
            gc.enable()
            process.set_name("pyinit-forward")
            _raise_limit()
            _give_up_privileges()
            relay = Relay(self._ports)
            end = _Link(link)
            relay.watch(end.socket.fileno(), select.EPOLLIN, end.turn)
            end.turn(0)
            relay.run()
        except BaseException as error:  # noqa: BLE001 - a fork of the launcher: nothing of that is to run on
            os.write(2, f"{type(error).__name__}: {error}\n".encode("utf-8", "replace"))
        finally:
            os._exit(_FAILED)


class _Link:
    """The container's, which is told of when it goes (rtnetlink(7))."""

    def __init__(self, index: int) -> None:
        self._index = index
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self.socket.settimeout(0)
        self.socket.bind((0, _RTMGRP_LINK))

    def turn(self, _: int) -> None:
        """Something has become of some link, or of more than there was room for; what, is looked up."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except OSError:  # that was all, or ENOBUFS
            pass
        try:
            socket.if_indextoname(self._index)  # a number is never given twice
        except OSError:
            os._exit(0)


def _raise_limit() -> None:
    """Two files a connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _give_up_privileges() -> None:
    """Of root; with the ids the capabilities go, too, and whose memory it is."""
    process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    process.prctl(process.PR_SET_DUMPABLE, 0)
