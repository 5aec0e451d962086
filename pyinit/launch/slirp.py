"""slirp4netns: the network of a container whose user can make no link on the host.

Owns how it is started, what it is asked for and its words. Must not know when it is started again (keeper.py). Laws: it lives
outside the container and in the host's network; it ends with the monitor, its parent, which has the other end of its exit fd;
its API socket has no name once the ports are published; what is somebody's already is told before it is started.
Source: slirp4netns(1).
"""

import errno
import os
import select
import time
from _collections_abc import Callable

from pyinit.errors import LaunchError
from pyinit.launch.claim import SLIRP_SOCKET
from pyinit.launch.fuse import Served, identity
from pyinit.launch.onhost import MakeNetwork
from pyinit.linux import mount, namespaces, process
from pyinit.linux import sock as socket
from pyinit.linux.programs import find_program
from pyinit.model import SLIRP, Network, Publish
from pyinit.records import NoReturn

_INSIDE = "host0"
_ANY = "0.0.0.0"  # what a port without an address is published at
_STOPS = (1, 2, 3, 15)
_KILL = 9
_FAILED = 127
_MOST_ANSWER = 4096
_NOISE = ("sent tapfd=", "received tapfd=", "apifd event", "api_handler: ", "WARNING: Support for ")  # it says so however it fares
_REFUSED = {
    errno.EADDRINUSE: "is in use by another program; stop that, or publish another port",
    errno.EADDRNOTAVAIL: "is no address of this host; name one that it has",
}


class Slirp(Served):
    """One container's, through all its lives."""

    timeout_s = 10.0

    def __init__(self, step: MakeNetwork, directory: str, pid: int) -> None:
        """`directory`: the container's; `pid`: of its PID 1, which we have not reaped, so it is nobody else's."""
        super().__init__(SLIRP)
        self._net = step.network
        self._directory = directory
        self._container = pid
        self._ready = -1  # a byte, once host0 is there
        self._stays = -1  # it ends when that is closed

    def words(self, ready: int, exits: int) -> list[str]:
        """Its command line."""
        more = ["--enable-ipv6"] if self._net.ipv6 else []
        return [
            SLIRP, "--configure", f"--mtu={self._net.mtu}", f"--cidr={self._net.pools[0]}", "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp",
            *more, f"--ready-fd={ready}", f"--exit-fd={exits}", f"--api-socket={SLIRP_SOCKET}", str(self._container), _INSIDE,
        ]  # fmt: skip

    def start(self, note: Callable[[str, str], None] = lambda *_: None) -> None:
        """OSError; `note` writes a kind and a value to the journal."""
        path = find_program(SLIRP, os.environ)
        if not path:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))  # doctor says of what
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
        self.close()
        pipes: list[tuple[int, int]] = []
        try:
            pipes.extend(os.pipe() for _ in range(3))  # one by one: those before a failure are in it
            (errors, says), (ready, tells), (exits, stays) = pipes
            words, parent = self.words(tells, exits), os.getpid()
            pid, pidfd = process.clone(0)
            if pid == 0:
                self._exec(path, words, parent, (says, tells, exits))
        except BaseException:
            for pair in pipes:
                for fd in pair:
                    os.close(fd)
            raise
        for fd in (says, tells, exits):
            os.close(fd)
        os.set_blocking(errors, False)
        self.pid, self.pidfd, self.errors, self._ready, self._stays = pid, pidfd, errors, ready, stays
        note("program", identity(pid))

    def _exec(self, path: str, words: list[str], parent: int, fds: tuple[int, int, int]) -> NoReturn:
        """The child: nothing but system calls from here to exec."""
        said, *kept = fds
        try:
            os.setsid()
            process.prctl(process.PR_SET_PDEATHSIG, _KILL)
            if os.getppid() != parent:  # it was gone before we asked
                os._exit(_FAILED)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(said, 1)
            os.dup2(said, 2)
            for fd in kept:
                os.set_inheritable(fd, True)  # noqa: FBT003 - no keywords there
            # Its sandbox takes all mounts away, and makes only / private: of a root's, what is shared would go from the host.
            namespaces.unshare(namespaces.CLONE_FLAGS["mount"])
            mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
            os.chdir(self._directory)  # a socket's path has 107 bytes
            for number in range(1, 65):
                process.reset_signal(number)
            process.set_signal_mask([])
            os.execve(path, words, {})
        except OSError as error:
            os.write(said, f"can't be started: {error.strerror}\n".encode("utf-8", "replace"))
        finally:
            os._exit(_FAILED)

    def connect(self) -> None:
        """Wait for the link, publish the ports; OSError, at a stop signal too, which stays pending."""
        stops = process.signalfd(list(_STOPS))
        try:
            self._connect([stops])
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            self.read()
            raise OSError(errno.ENOTCONN, f"{SLIRP}: {'; '.join(self.last_lines) or 'it ended without a word'}") from error
        finally:
            os.close(stops)
        self.read()  # how it began is nobody's interest

    def connect_aside(self) -> int:
        """pidfd of a child that does the same; it leaves with errno, or 0."""
        pid, pidfd = process.clone(0)
        if pid == 0:
            try:
                process.prctl(process.PR_SET_PDEATHSIG, _KILL)
                os.close(self._stays)
                self._connect([])
                os._exit(0)
            except OSError as error:
                os._exit(min(error.errno or 1, 255))
            finally:
                os._exit(errno.EIO)
        return pidfd

    def _connect(self, stops: list[int]) -> None:
        deadline = time.monotonic() + self.timeout_s
        found = select.select([self._ready, *stops], [], [], self.timeout_s)[0]
        if not found:
            raise OSError(errno.ETIMEDOUT, f"{SLIRP} does not answer within {self.timeout_s:g} s")
        if self._ready not in found:
            raise OSError(errno.ECANCELED, "stopped by a signal")
        if not os.read(self._ready, 1):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))  # it has ended
        for one in self._net.publish:
            for number in range(one.length):
                self._publish(one, number, deadline)
        os.unlink(f"{self._directory}/{SLIRP_SOCKET}")

    def _publish(self, one: Publish, number: int, deadline: float) -> None:
        own = self._net.addresses[0].partition("/")[0]
        where = f'"host_addr": "{one.host or _ANY}", "host_port": {one.port + number}, "guest_addr": "{own}", "guest_port": {one.to + number}'
        answer = self._ask(f'{{"execute": "add_hostfwd", "arguments": {{"proto": "{one.protocol}", {where}}}}}', deadline)
        if '"return"' not in answer:
            raise OSError(errno.EADDRINUSE, f"{SLIRP} can't take {_where(one, number)}: {answer.strip() or 'no answer'}")

    def _ask(self, request: str, deadline: float) -> str:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            folder = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{folder}/{SLIRP_SOCKET}")
            finally:
                os.close(folder)
            connection.sendall(request.encode())
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while data := connection.recv(_MOST_ANSWER):
                answer += data
        return answer.decode("utf-8", "replace")

    def read(self) -> list[str]:
        """What is worth telling."""
        lines = [line for line in super().read() if not line.startswith(_NOISE)]
        self.last_lines = [line for line in self.last_lines if not line.startswith(_NOISE)]
        return lines

    def end(self) -> None:
        """Once the container is no more."""
        if self.pidfd >= 0:
            self.kill()
            if select.select([self.pidfd], [], [], 1.0)[0]:
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        self.close()

    def close(self) -> None:
        for fd in (self._ready, self._stays):
            if fd >= 0:
                os.close(fd)
        self._ready, self._stays = -1, -1
        super().close()


def check_ports(net: Network) -> None:
    """LaunchError if one can't be had. It is given back: the program takes it itself, and says of none why it can't."""
    for one in net.publish:
        for number in range(one.length):
            _check_port(one, number)


def _check_port(one: Publish, number: int) -> None:
    kind = socket.SOCK_STREAM if one.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC) as found:
        if one.protocol == "tcp":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the program has it: what is left of old connections is in nobody's way
        try:
            found.bind((one.host or _ANY, one.port + number))
        except OSError as error:
            why = _privileged(one.port + number) if error.errno == errno.EACCES else _REFUSED.get(error.errno or 0, f"can't be taken: {error.strerror}")
            raise LaunchError(f"{one.origin}: container.network.publish: {_where(one, number)} {why}") from error


def _where(one: Publish, number: int) -> str:
    return f"{one.host or _ANY}:{one.port + number}/{one.protocol}"


def _privileged(port: int) -> str:
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        first = int(file.read())
    return f"is below {first}, the first port that an ordinary user may have; publish another, or `sysctl -w net.ipv4.ip_unprivileged_port_start={port}`"
