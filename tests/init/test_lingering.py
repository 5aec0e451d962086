"""Descriptors whose last close(2) waits, sent to all that receive some: none of them waits."""

import contextlib
import os
import pathlib
import signal
import socket
import struct
import time

import pytest
from turns import Turns

from pyinit.control.server import Server, bind
from pyinit.init import syslog
from pyinit.init.notify import Notify
from pyinit.linux import fds, process, seccomp
from pyinit.model import Readiness, ServiceSpec

LINGER_S = 4
DEADLINE_S = 2.0
SO_PASSRIGHTS = 83


@pytest.fixture
def linger():
    """Connections with bytes that nobody takes, and their own wish to wait for that."""
    with contextlib.ExitStack() as stack:

        def make() -> socket.socket:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            sock = stack.enter_context(socket.create_connection(server.getsockname()))
            stack.callback(server.accept()[0].close)
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.send(bytes(1 << 16))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
            return sock

        yield make


def send(sock: socket.socket, data: bytes, *sent: socket.socket) -> None:
    """And the sender's own copies are closed."""
    socket.send_fds(sock, [data], [one.fileno() for one in sent])
    for one in sent:
        one.close()


@contextlib.contextmanager
def at_once():
    before, began = set(os.listdir("/proc/self/fd")), time.monotonic()
    yield
    assert time.monotonic() - began < DEADLINE_S
    assert set(os.listdir("/proc/self/fd")) <= before


def pair(kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    ours.setblocking(False)
    return ours, theirs


def test_the_attack_is_one(linger):
    sock = linger()
    began = time.monotonic()
    sock.close()
    assert time.monotonic() - began > DEADLINE_S


def test_what_is_discarded_does_not_wait(linger):
    fd = linger().detach()
    with at_once():
        fds.discard(fd)


def no_setsockopt() -> None:
    """From here on it says 0 and does nothing: as if the sender had set its wish again in that very moment, and every time."""
    allow, pretend = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, _ERRNO of 0
    load, if_equal, answer = 0x20, 0x15, 0x06
    number = {"x86_64": 54, "aarch64": 208}[os.uname().machine]
    program = ((load, 0, 0, 0), (if_equal, 0, 1, number), (answer, 0, 0, pretend), (answer, 0, 0, allow))
    ready = seccomp.prepare(b"".join(struct.pack("=HBBI", *one) for one in program))
    process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(ready)


@pytest.mark.parametrize("blocked", [False, True], ids=["", "as in PID 1, which has signals blocked"])
def test_whose_sender_sets_it_again_and_again_does_not_wait_either(linger, blocked):
    kept = [linger().detach(), linger().detach()]
    go, going = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(going)
        os.read(go, 1)
        if blocked:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        no_setsockopt()
        began = time.monotonic()
        for fd in kept:
            fds.discard(fd)
        is_as_before = signal.pthread_sigmask(signal.SIG_BLOCK, ()) == (signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP} if blocked else set())
        os._exit(0 if time.monotonic() - began < DEADLINE_S and is_as_before else 1)
    for fd in (*kept, go, going):
        os.close(fd)  # not the last close: the child has them, and waits for this
    assert os.waitpid(pid, 0)[1] == 0


def test_the_signal_that_ends_a_wait_is_nobodys(linger):
    """As it was before, and no timer goes on; one that was pending is still. In a child, which has one thread, as PID 1."""
    sent = [linger().detach(), linger().detach()]

    def state() -> tuple[tuple[float, float], list[str]]:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return signal.getitimer(signal.ITIMER_REAL), [line for line in lines if line.startswith(("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"))]

    pid = os.fork()
    if pid == 0:
        before = state()
        fds.discard(sent[0])
        is_as_before = state() == before
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        os.kill(os.getpid(), signal.SIGALRM)
        blocked = state()
        fds.discard(sent[1])
        os._exit(0 if is_as_before and state() == blocked and signal.SIGALRM in signal.sigpending() else 1)
    found = os.waitpid(pid, 0)[1]
    for fd in sent:
        fds.discard(fd)
    assert found == 0


def test_a_socket_without_linger_is_left_as_it_is():
    ours, theirs = pair()
    with ours, theirs:
        fds.discard(os.dup(ours.fileno()))
        theirs.send(b"x")
        assert ours.recv(2) == b"x"


def test_what_is_no_socket_is_closed(tmp_path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
    before = set(os.listdir("/proc/self/fd"))
    fds.discard(os.open(tmp_path, os.O_RDONLY))
    fds.discard(os.open(tmp_path / "s", os.O_PATH))  # whose mode is a socket's
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_socket_ends_with_what_is_queued_at_it(linger, kind):
    ours, theirs = pair(kind)
    with theirs:
        if kind == socket.SOCK_DGRAM:
            theirs.send(b"")
        send(theirs, b"x", linger(), linger())
        send(theirs, b"y", linger())
        with at_once():
            fds.close(ours)


def test_descriptors_can_be_refused():
    ours, theirs = pair(socket.SOCK_DGRAM)
    with ours, theirs:
        fds.pass_none(ours)
        try:
            ours.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS)
        except OSError:
            return  # Linux before 6.16: it is tolerated
        with pytest.raises(PermissionError):
            socket.send_fds(theirs, [b"x"], [0])
        theirs.send(b"y")
        assert ours.recv(2) == b"y"


# Who receives


@pytest.fixture
def notify(tmp_path):
    told = Turns()
    notify = Notify(told.loop, str(tmp_path), lambda *_: None)
    yield notify
    notify.close()


@pytest.fixture
def service(notify):
    spec = ServiceSpec("web", ("x",), ready=Readiness("notify"))
    notify.prepare(spec, os.getuid())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(notify.environment(spec)["NOTIFY_SOCKET"])
        yield spec, sock


def test_what_an_earlier_process_of_a_service_sent(linger, notify, service):
    spec, sock = service
    send(sock, b"READY=1", linger())
    with at_once():
        notify.prepare(spec, os.getuid())


def test_what_a_service_sent_that_is_forgotten(linger, notify, service):
    _, sock = service
    send(sock, b"READY=1", linger())
    with at_once():
        notify.forget("web")


def test_a_message_brings_all_that_one_can_hold(tmp_path):
    """What has no room would be closed by the kernel."""
    told = []
    turns = Turns()
    notify = Notify(turns.loop, str(tmp_path), lambda *words: told.append(words))
    spec = ServiceSpec("web", ("x",), fd_store=1)
    notify.prepare(spec, os.getuid())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(notify.environment(spec)["NOTIFY_SOCKET"])
        socket.send_fds(sock, [b"FDSTORE=1"], [0] * 253)
    notify.drain()
    [(_, _, brought)] = told
    assert (len(brought), {os.get_inheritable(fd) for fd in brought}) == (253, {False})
    for fd in brought:
        os.close(fd)
    notify.close()


def test_what_is_sent_to_dev_log(linger, tmp_path):
    """By a kernel that passes it: as a pair, which has not been told to refuse."""
    ours, theirs = pair(socket.SOCK_DGRAM)
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        send(theirs, b"<13>x", linger(), linger())
        with at_once():
            assert syslog.receive(ours) == (b"<13>x", os.getpid())


def test_dev_log_takes_none(tmp_path):
    with syslog.bind(str(tmp_path / "log")) as ours, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs:
        theirs.connect(str(tmp_path / "log"))
        try:
            ours.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS)
        except OSError:
            return  # as above
        with pytest.raises(PermissionError):
            socket.send_fds(theirs, [b"<13>x"], [0])


class Served:
    def __init__(self, folder) -> None:
        self.turns = Turns()
        self.server = Server(self.turns.loop, None, self.turns.answer)  # no request comes so far
        self.path = str(folder / "control.sock")
        self.server.listen(bind(self.path))

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        return sock


@pytest.fixture
def served(tmp_path):
    return Served(tmp_path)


def test_what_a_client_sends_with_a_request_and_behind_it(linger, served):
    with served.connect() as sock:
        send(sock, b'{"verb":', *(linger() for _ in range(4)))
        send(sock, b"nothing}\n", linger())
        send(sock, b"noise", linger())
        with at_once():
            served.turns.run(0.1)
            served.server.close()


def test_what_a_client_sent_that_is_turned_away(linger, served, monkeypatch):
    monkeypatch.setattr("pyinit.control.server._MOST_CLIENTS", 0)
    with served.connect() as sock:
        send(sock, b"x", linger())
        with at_once():
            served.turns.run(0.1)
            served.server.close()


def test_what_clients_sent_that_were_never_served(linger, served):
    with served.connect() as sock:
        send(sock, b"x", linger())
        with at_once():
            served.server.close()
