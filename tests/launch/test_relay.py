"""What is carried from a port at ::1: connections to the byte, their ends as they were, datagrams by who talks to whom."""

import contextlib
import errno
import os
import pathlib
import random
import resource
import select
import signal
import socket
import struct
import time
import traceback

import pytest

from pyinit.launch.relay import MOST_TALKS, Port, Relay

DEADLINE_S = 20.0
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM


def opened(address: str, kind: int, port: int = 0) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    found.settimeout(DEADLINE_S)
    found.bind((address, port))
    if kind == TCP:
        found.listen(16)
    return found


class Carried:
    """A relay in a process of its own, from a port at `host` to one at `address`."""

    def __init__(self, address: str = "::1", host: str = "::1", files: int = 0) -> None:
        self.server = opened(address, TCP)
        self._port = opened(host, TCP)
        self.at = ("::1", self._port.getsockname()[1])
        self.pid = os.fork()
        if self.pid == 0:
            try:
                if files:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
                to = self.server.getsockname()[1]
                self.server.close()
                Relay([Port(self._port.fileno(), "tcp", address, to)]).run()
            except BaseException:  # noqa: BLE001 - pytest goes on in its parent only
                traceback.print_exc()
            finally:
                os._exit(1)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.at, DEADLINE_S)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        near = self.connect()
        far, _ = self.server.accept()
        far.settimeout(DEADLINE_S)
        return near, far

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_ticks(self) -> int:
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return int(fields[11]) + int(fields[12])

    def leaves_unread(self, near: socket.socket) -> bool:
        """What has come from there, for a fifth of a second (proc(5), net/tcp: the second queue)."""
        ends = [f"{port:04X}" for port in (self.at[1], near.getsockname()[1])]
        for _ in range(20):
            rows = [row.split() for row in pathlib.Path("/proc/net/tcp6").read_text().splitlines()[1:]]
            if next(row[4] for row in rows if [end.rpartition(":")[2] for end in row[1:3]] == ends).endswith(":00000000"):
                return False
            select.select([], [], [], 0.01)
        return True

    def close(self) -> None:
        self.server.close()
        self._port.close()
        os.kill(self.pid, signal.SIGKILL)
        assert os.waitpid(self.pid, 0)[1] == signal.SIGKILL  # it had not ended by itself


@pytest.fixture
def carried():
    made = []

    def start(*words, **keys):
        made.append(Carried(*words, **keys))
        return made[-1]

    yield start
    for one in made:
        one.close()


def wait_until(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        select.select([], [], [], 0.005)


def read_all(end: socket.socket) -> bytes:
    found = b""
    while data := end.recv(1 << 16):
        found += data
    return found


def exchange(ways: list[tuple[socket.socket, socket.socket, bytes]]) -> list[bytes]:
    """What each receiver got, all at once: of (sender, receiver, data). A sender's end follows its data."""
    left = {sender: memoryview(data) for sender, _, data in ways}
    got = {receiver: bytearray() for _, receiver, _ in ways}
    reading, writing = set(got), set(left)
    for one in reading | writing:
        one.setblocking(False)
    while reading or writing:
        can_read, can_write, _ = select.select(reading, writing, [], DEADLINE_S)
        assert can_read or can_write, {one: len(data) for one, data in got.items()}
        for one in can_write:
            left[one] = left[one][one.send(left[one][: 1 << 16]) :]
            if not left[one]:
                one.shutdown(socket.SHUT_WR)
                writing.discard(one)
        for one in can_read:
            data = one.recv(1 << 16)
            got[one] += data
            if not data:
                reading.discard(one)
    return [bytes(got[receiver]) for _, receiver, _ in ways]


@pytest.mark.parametrize("address", ["::1", "127.0.0.1"])
@pytest.mark.parametrize("host", ["::1", "::"])
def test_megabytes_go_both_ways_at_once_and_each_end_is_one(carried, address, host):
    relay = carried(address, host)
    near, far = relay.pair()
    before = relay.files()
    there, back = random.Random(7).randbytes(9_000_001), random.Random(8).randbytes(7_000_003)
    with near, far:
        assert exchange([(near, far, there), (far, near, back)]) == [there, back]
    wait_until(lambda: relay.files() == before - 2, "the end of the connection")


def test_many_connections_are_carried_side_by_side(carried):
    relay = carried()
    pairs = [relay.pair()]
    before = relay.files() - 2  # now that it has begun: it had not its poll before
    pairs += [relay.pair() for _ in range(59)]
    ways = []
    for number, (near, far) in enumerate(pairs):
        ways += [(near, far, b"%d " % number * 20_000), (far, near, b"-%d " % number * 20_000)]
    assert exchange(ways) == [data for _, _, data in ways]
    for near, far in pairs:
        near.close()
        far.close()
    wait_until(lambda: relay.files() == before, "the end of all")


def test_one_half_is_closed_the_other_one_goes_on(carried):
    near, far = carried().pair()
    with near, far:
        near.sendall(b"a question")
        near.shutdown(socket.SHUT_WR)
        assert read_all(far) == b"a question"
        for _ in range(3):
            far.sendall(b"an answer ")
            assert near.recv(64) == b"an answer "
        far.close()
        assert read_all(near) == b""


def test_what_was_sent_before_the_end_comes_also_to_who_reads_late(carried):
    """More than goes into the sockets' buffers, and the sender has gone meanwhile. Nothing turns in circles for it."""
    relay = carried()
    near, far = relay.pair()
    data = bytes(3_000_000)
    near.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < len(data):
            sent += near.send(data[sent:])
    near.close()
    ticks = relay.cpu_ticks()
    select.select([], [], [], 0.3)  # the time in which it must do nothing
    assert relay.cpu_ticks() - ticks <= 5
    with far:
        assert len(read_all(far)) == sent


def test_one_that_has_ended_both_ways_is_not_asked_again_while_the_other_does_not_read(carried):
    """The far end says no more and reads nothing; the near one's last words and its end are in the relay's socket."""
    relay = carried()
    near, far = relay.pair()
    far.shutdown(socket.SHUT_WR)
    assert near.recv(16) == b""
    sent = 0
    while not relay.leaves_unread(near):
        near.sendall(bytes(1 << 16))
        sent += 1 << 16
    near.close()
    ticks = relay.cpu_ticks()
    select.select([], [], [], 0.5)  # the time in which it must do nothing
    assert relay.cpu_ticks() - ticks <= 5
    with far:
        assert len(read_all(far)) == sent


@pytest.mark.parametrize("who", ["near", "far"])
def test_what_was_said_before_a_reset_is_heard(carried, who):
    """As of a server that answers early and leaves the question unread: close(2) makes a reset of that."""
    relay = carried()
    near, far = relay.pair()
    one, other = (near, far) if who == "near" else (far, near)
    other.sendall(b"a question")
    assert select.select([one], [], [], DEADLINE_S)[0]
    os.kill(relay.pid, signal.SIGSTOP)  # so that it sees both at once
    one.sendall(b"an answer")
    one.close()
    os.kill(relay.pid, signal.SIGCONT)
    with other:
        assert other.recv(16) == b"an answer"
        with pytest.raises(ConnectionResetError):
            other.recv(16)


@pytest.mark.parametrize("who", ["near", "far"])
def test_a_reset_is_a_reset_at_the_other_end(carried, who):
    near, far = carried().pair()
    one, other = (near, far) if who == "near" else (far, near)
    one.sendall(b"x")
    assert other.recv(16) == b"x"
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    one.close()
    with other, pytest.raises(ConnectionResetError):
        other.recv(16)


def test_what_came_to_another_address_of_the_host_is_not_carried(carried):
    """As it would if somebody took the host's rules away, which have it elsewhere: the container is not told who that is."""
    relay = carried(host="::")
    with pytest.raises(ConnectionResetError), socket.create_connection(("127.0.0.1", relay.at[1]), DEADLINE_S) as near:
        near.recv(16)
    near, far = relay.pair()
    with near, far:
        near.sendall(b"here")
        assert far.recv(16) == b"here"


def test_who_finds_nobody_there_is_reset_and_the_next_one_is_not(carried):
    relay = carried()
    port = relay.server.getsockname()[1]
    relay.server.close()
    with pytest.raises(ConnectionResetError), relay.connect() as near:  # it may be so soon that connect(2) says it
        near.recv(16)
    relay.server = opened("::1", TCP, port)
    near, far = relay.pair()
    with near, far:
        near.sendall(b"now")
        assert far.recv(16) == b"now"


@pytest.mark.parametrize("files", [16, 17])
def test_without_files_those_who_come_wait_until_there_are_some(carried, files):
    """And it does not turn in circles meanwhile; one file is none, for a connection needs two."""
    relay = carried(files=max(map(int, os.listdir("/proc/self/fd"))) + files)
    pairs = []
    with contextlib.suppress(TimeoutError):
        while True:
            near = relay.connect()
            relay.server.settimeout(0.5)
            pairs.append((near, None))
            pairs[-1] = (near, relay.server.accept()[0])
    assert pairs[-1][1] is None and len(pairs) > 3  # it is connected, by the kernel, and waits
    ticks = relay.cpu_ticks()
    select.select([], [], [], 0.5)
    assert relay.cpu_ticks() - ticks <= 5
    for near, far in pairs[:3]:
        near.close()
        far.close()
    relay.server.settimeout(DEADLINE_S)
    far, _ = relay.server.accept()
    waiting = pairs[-1][0]
    waiting.sendall(b"at last")
    assert far.recv(16) == b"at last"
    for one in (waiting, far, *(end for pair in pairs[3:-1] for end in pair)):
        one.close()


def test_a_connection_that_epoll_has_no_room_for_is_reset_and_others_go_on():
    """Of the watches that a user may have (fs.epoll.max_user_watches), or memory: it is told of those only."""

    class Full(Relay):
        is_full = False

        def watch(self, fd, events, turn):
            if self.is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().watch(fd, events, turn)

    with opened("::1", TCP) as server, opened("::1", TCP) as port:
        relay = Full([Port(os.dup(port.fileno()), "tcp", "::1", server.getsockname()[1])])
        before = len(os.listdir("/proc/self/fd"))
        for relay.is_full in (True, False):
            with socket.create_connection(port.getsockname()[:2], DEADLINE_S) as near:
                relay.turn()
                far, _ = server.accept()
                with far:
                    if relay.is_full:
                        with pytest.raises(ConnectionResetError):
                            near.recv(16)
                        assert len(os.listdir("/proc/self/fd")) == before + 2
                        continue
                    relay.turn()  # the connection to there stands
                    near.sendall(b"now")
                    relay.turn()
                    assert far.recv(16) == b"now"
        relay.turn()
        relay.close()


class Talks:
    """A relay of datagrams, turned by the test, by a clock of its own."""

    def __init__(self, host: str = "::1") -> None:
        self.now = 1000.0
        self._opened: list[socket.socket] = []
        self.server = self.open()
        port = opened(host, UDP)
        self.at = ("::1", port.getsockname()[1])
        self.relay = Relay([Port(port.detach(), "udp", "::1", self.server.getsockname()[1])], lambda: self.now)

    def open(self, port: int = 0) -> socket.socket:
        self._opened.append(opened("::1", UDP, port))
        return self._opened[-1]

    def close(self) -> None:
        self.relay.close()
        for one in self._opened:
            one.close()

    def hears(self, sender: socket.socket, word: bytes) -> tuple[bytes, tuple]:
        sender.sendto(word, self.at)
        self.relay.turn()
        return self.server.recvfrom(64)

    def files(self) -> int:
        return len(os.listdir("/proc/self/fd"))


@pytest.fixture(params=["::1", "::"])
def talks(request):
    found = Talks(request.param)
    yield found
    found.close()


def test_each_who_talks_is_somebody_else_over_there_and_gets_his_own_answers(talks):
    one, other = talks.open(), talks.open()
    (word, first), (word2, second) = talks.hears(one, b"one"), talks.hears(other, b"other")
    assert (word, word2, first != second) == (b"one", b"other", True)
    assert talks.hears(one, b"again") == (b"again", first)
    for peer, receiver in ((second, other), (first, one)):
        talks.server.sendto(b"answer", peer)
        talks.relay.turn()
        word, sender = receiver.recvfrom(64)
        assert (word, sender[:2]) == (b"answer", talks.at)
    talks.server.sendto(b"", first)
    talks.relay.turn()
    assert one.recv(16) == b""


def test_a_datagram_to_another_address_of_the_host_is_not_carried():
    talks = Talks("::")
    with socket.socket(socket.AF_INET, UDP) as sender:
        sender.sendto(b"stray", ("127.0.0.1", talks.at[1]))
        talks.relay.turn()
    assert talks.hears(talks.open(), b"to you")[0] == b"to you"
    talks.close()


def test_a_talk_ends_when_nobody_has_said_anything_for_two_minutes(talks):
    before = talks.files()
    sender, keeps = talks.open(), talks.open()
    first = talks.hears(sender, b"1")[1]
    kept = talks.hears(keeps, b"1")[1]
    talks.now += 119
    assert talks.hears(keeps, b"2") == (b"2", kept)
    talks.now += 2
    assert talks.hears(keeps, b"3") == (b"3", kept)
    assert talks.files() == before + 3
    assert talks.hears(sender, b"2")[1] != first
    talks.now += 121
    talks.relay.turn()
    assert talks.files() == before + 2


def test_nobody_is_at_the_port_until_there_is(talks):
    sender = talks.open()
    port = talks.server.getsockname()[1]
    talks.server.close()
    for _ in range(3):
        sender.sendto(b"to nobody", talks.at)
        talks.relay.turn()
    talks.server = talks.open(port)
    for _ in range(2):  # the first one may be told of the last refusal
        sender.sendto(b"to you", talks.at)
        talks.relay.turn()
    assert talks.server.recv(16) == b"to you"


def test_of_too_many_talks_the_one_that_is_silent_for_longest_makes_room(talks):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        senders = [talks.open() for _ in range(MOST_TALKS + 1)]
        before = talks.files()
        first, *others = [talks.hears(sender, b"hello")[1] for sender in senders[:-1]]
        assert talks.hears(senders[0], b"again") == (b"again", first)
        last = talks.hears(senders[-1], b"one more")[1]
        assert talks.files() == before + MOST_TALKS
        assert talks.hears(senders[0], b"still") == (b"still", first)
        assert talks.hears(senders[1], b"anew")[1] not in (first, *others, last)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_talks_leave_half_of_the_files_to_connections(talks):
    talks.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 2 * max(map(int, os.listdir("/proc/self/fd"))) + 64  # pytest has some, too
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        talks = Talks()
        before = talks.files()
        seen = []
        for _ in range(limit):
            with opened("::1", UDP) as sender:
                seen.append(talks.hears(sender, b"hello"))
        assert {word for word, _ in seen} == {b"hello"}
        assert talks.files() == before + limit // 2
        talks.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_files_a_datagram_is_lost_and_the_talks_go_on(talks):
    sender, other = talks.open(), talks.open()
    peer = talks.hears(sender, b"1")[1]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0), hard))
    try:
        with pytest.raises(OSError, match="Too many open files") as error:
            os.dup(0)
        assert error.value.errno == errno.EMFILE
        other.sendto(b"lost", talks.at)
        talks.relay.turn()
        assert talks.hears(sender, b"2") == (b"2", peer)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert talks.hears(other, b"heard")[0] == b"heard"
