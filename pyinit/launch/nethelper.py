"""The network's helper: a child of the launcher that makes the rules at once, and the links when told of the container's pid.

Owns its life and its words. Must not know netlink or nft (network.py, firewall.py). Laws: it works while the rest is made; it
ends when the launcher does, and begins nothing once that is gone: under the lock, so that what a killed one's successor
finds in the journal is all that there will be.
"""

import os
import select

from pyinit import scopes as contextlib
from pyinit.errors import LaunchError, PyinitError
from pyinit.launch.journals import locked
from pyinit.launch.leases import Taken
from pyinit.launch.onhost import MakeNetwork, MakeRules
from pyinit.linux import sock as socket
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.launch.launcher import Launch

_MOST_TEXT = 8192
_MADE = b"made"


class NetworkHelper:
    """A child with two tasks; the answer to each is `made`, or why not."""

    def __init__(self, rules: MakeRules | None, links: MakeNetwork, taken: Taken, launch: "Launch") -> None:
        self.rules = rules
        self.links = links
        self._taken = taken
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            self._channel.close()
            launch.leave_to_the_monitor()
            taken.close()
            os._exit(self._child(theirs))
        theirs.close()

    def _child(self, channel: socket.socket) -> int:
        step: MakeRules | MakeNetwork = self.rules or self.links
        try:
            if self.rules is not None:
                from pyinit.launch import firewall  # for those who have rules

                firewall.check_host(self.rules, self._taken.addresses)
                with locked():
                    if _is_alone(channel):
                        return 0
                    firewall.make(self.rules, self._taken.addresses, self._taken.servers)
                channel.send(_MADE)
            step = self.links
            word = channel.recv(64)
            if not word:
                return 0
            from pyinit.launch import network

            fd = os.open(f"/proc/{int(word)}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            with locked():
                if _is_alone(channel):
                    return 0
                network.make(self.links, self._taken.net, fd)
            channel.send(_MADE)
        except PyinitError as error:
            _tell(channel, str(error))
        except BaseException as error:  # noqa: BLE001 - as the builder's: the launcher's undoing is not ours
            text = error.strerror if isinstance(error, OSError) else f"internal error: {type(error).__name__}: {error}"
            _tell(channel, f"{step.origin}: {step.describe()}: {text}")
        return 0

    def await_rules(self) -> None:
        """LaunchError."""
        assert self.rules is not None
        self._await(self.rules)

    def make_links(self, pid: int) -> None:
        """In the network of the container's PID 1; LaunchError."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, and said why
            self._channel.send(str(pid).encode())
        self._await(self.links)

    def _await(self, step: MakeRules | MakeNetwork) -> None:
        text = self._channel.recv(_MOST_TEXT)
        if text != _MADE:
            raise LaunchError(text.decode("utf-8", "replace") or f"{step.origin}: {step.describe()}: its helper process ended")

    def close(self) -> None:
        """End and reap it; once is enough."""
        if self._pid:
            with contextlib.suppress(OSError):  # it has ended
                self._channel.shutdown(socket.SHUT_RDWR)  # the builder may have a copy, and wait for us
            self._channel.close()
            os.waitpid(self._pid, 0)
            self._pid = 0


def _is_alone(channel: socket.socket) -> bool:
    """Whether the launcher is gone: our end can be read, to its end, or broken."""
    poll = select.poll()
    poll.register(channel, 0)
    return bool(poll.poll(0))


def _tell(channel: socket.socket, text: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        channel.send(text.encode("utf-8", "replace")[:_MOST_TEXT])
