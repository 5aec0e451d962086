"""The network's helper: a child of the launcher that has pyroute2, and makes the network when told of the container's pid.

Owns its life and its words. Must not know netlink (network.py). Law: it is forked first, for it imports pyroute2 while
the rest is made; it ends when the launcher does.
"""

import os

from pyinit import scopes as contextlib
from pyinit.control import places
from pyinit.errors import LaunchError, PyinitError
from pyinit.launch.operations import MakeNetwork
from pyinit.linux import sock as socket
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.launch.launcher import Launch

_MOST_TEXT = 8192


class NetworkHelper:
    """A child that has pyroute2; it makes the network when told of the container's pid."""

    def __init__(self, step: MakeNetwork, launch: "Launch") -> None:
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
