"""The process that carries what comes to ::1: it is in the journal before it does anything, and what fails leaves nothing."""

import os
import pathlib
import resource
import select
import signal
import socket
import traceback

import pytest

from pyinit.launch.forwarder import Forwarder
from pyinit.launch.fuse import identity
from pyinit.launch.leases import Held, Taken
from pyinit.launch.onhost import ForwardLoopback
from pyinit.model import Network, Origin

DEADLINE_S = 20.0


def in_one_thread(action) -> None:
    """As the monitor has it, which a clone needs: pytest's own deadline is a thread."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(int(DEADLINE_S))
            action()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - pytest goes on in its parent only
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def made(note, link="lo", port: socket.socket | None = None, to: int = 1) -> Forwarder:
    taken = Taken(Network("veth", addresses=("127.0.0.1/8",)))
    if port is not None:
        taken.held.append(Held(port.fileno(), "::1", "tcp", to))
    return Forwarder(ForwardLoopback(taken.net, link, Origin("box.toml", 3)), taken, note)


def files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def listening(address: str) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    found.settimeout(DEADLINE_S)
    found.bind((address, 0))
    found.listen()
    return found


def test_it_carries_once_the_journal_has_it():
    noted = []

    def note(kind: str, value: str) -> None:
        pid = int(value.split(maxsplit=1)[0])
        assert value == identity(pid)
        wchan = pathlib.Path(f"/proc/{pid}/wchan")
        deadline = 2000
        while "pipe" not in wchan.read_text() and deadline:  # it waits for our word
            select.select([], [], [], 0.005)
            deadline -= 1
        assert deadline
        noted.append(kind)

    def carry() -> None:
        with listening("127.0.0.1") as server, listening("::1") as port:
            forwarder = made(note, port=port, to=server.getsockname()[1])
            forwarder.start()
            assert noted == ["forwarder"]
            with socket.create_connection(port.getsockname()[:2], DEADLINE_S) as near:
                far, _ = server.accept()
                with far:
                    far.settimeout(DEADLINE_S)
                    near.sendall(b"ping")
                    assert far.recv(16) == b"ping"
            forwarder.kill()
            forwarder.bury(os.WEXITED)

    in_one_thread(carry)


def test_one_that_the_journal_has_no_room_for_is_none():
    def note(kind: str, value: str) -> None:
        raise OSError(28, os.strerror(28))

    before = files()
    with pytest.raises(OSError, match="No space left"):
        made(note).start()
    assert files() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("more", range(1, 6))
def test_without_files_it_does_not_start_and_leaves_none(more):
    forwarder = made(lambda *_: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = files()
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            forwarder.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert files() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_one_whose_link_has_gone_ends_by_itself():
    def start() -> None:
        forwarder = made(lambda *_: None, "pyinit-no-link")
        assert not forwarder.has_link()
        forwarder.start()
        found = os.waitid(os.P_PIDFD, forwarder.pidfd, os.WEXITED | os.WNOWAIT)
        assert (found.si_code, found.si_status, forwarder.read()) == (os.CLD_EXITED, 0, [])
        forwarder.bury()

    in_one_thread(start)
