"""A child on a terminal of its own: who gets the master, what the child has, what keeps it from being."""

import faulthandler
import os
import socket

import pytest

from pyinit.init import spawn
from pyinit.linux import process, pty
from pyinit.linux.fds import receive

ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture(autouse=True)
def one_thread_and_no_open_fds():
    """pytest's watchdog is a thread, which a clone without fork's hooks has not: setgroups(3) would wait for it."""
    faulthandler.cancel_dump_traceback_later()
    process.close_from(3)


def start(script: str, terminal: spawn.Terminal, **keys) -> tuple[int, bytes]:
    """(pid, the report of a failure)."""
    child = spawn.Child(("sh", "-c", script), "/bin/sh", dict(ENV), stdin_fd=0, output_fd=-1, terminal=terminal, **keys)
    spawned = spawn.spawn(child)
    os.set_blocking(spawned.status_fd, True)
    with open(spawned.status_fd, "rb") as file:
        return spawned.pid, file.read()


def shown(master: int) -> bytes:
    """All of it: the other side is closed."""
    os.set_blocking(master, True)
    found = b""
    try:
        while data := os.read(master, 1 << 16):
            found += data
    except OSError:  # EIO, pts(4)
        pass
    os.close(master)
    return found


def test_the_master_goes_to_who_asked_and_the_child_has_the_rest():
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mine, theirs:
        pid, report = start("stty size; test $(tty) = $(tty <&2) && test -w /dev/tty && echo ok; stat -c %u $(tty); ls /proc/$$/fd", spawn.Terminal(theirs.fileno(), -1, 31, 77))
        data, [master] = receive(mine, 16, 1)
        assert (data, report) == (b"made", b"")
        assert os.waitpid(pid, 0)[1] == 0
        assert shown(master).replace(b"\r\n", b"\n").split() == [b"31", b"77", b"ok", b"0", b"0", b"1", b"2"]


def test_it_belongs_to_the_childs_user():
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mine, theirs:
        pid, report = start("stat -c %u $(tty) && echo >$(tty)", spawn.Terminal(theirs.fileno()), uid=65534, gid=65534, groups=(65534,))
        _, [master] = receive(mine, 16, 1)
        assert (os.waitpid(pid, 0)[1], report) == (0, b"")
        assert shown(master) == b"65534\r\n\r\n"


def test_a_socket_that_is_none_or_takes_nothing_is_the_end_of_it():
    with open("/dev/null") as null:
        pid, report = start("true", spawn.Terminal(null.fileno()))
        assert (spawn.read_failure(report), os.waitpid(pid, 0)[1]) == (("tty", 88), 127 << 8)  # ENOTSOCK
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    with mine, theirs:
        with pytest.raises(BlockingIOError):
            while True:
                theirs.send(b"x" * 4096)
        pid, report = start("true", spawn.Terminal(theirs.fileno()))
        assert (spawn.read_failure(report), os.waitpid(pid, 0)[1]) == (("tty", 11), 127 << 8)  # it waits for nobody
        mine.close()
        pid, report = start("true", spawn.Terminal(theirs.fileno()))
        assert (spawn.read_failure(report), os.waitpid(pid, 0)[1]) == (("tty", 104), 127 << 8)  # what was sent has not been read


def test_the_spare_is_taken_where_there_is_no_devpts(monkeypatch):
    master, slave = pty.open_pair()
    monkeypatch.setattr(pty.open_pair, "__defaults__", ("/none",))
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mine, theirs:
        pid, report = start("stty size; test -w /dev/tty && echo ok", spawn.Terminal(theirs.fileno(), slave, 3, 4))
        os.close(slave)
        assert (receive(mine, 16, 1), report, os.waitpid(pid, 0)[1]) == ((b"spare", []), b"", 0)
        assert shown(master) == b"3 4\r\nok\r\n"
        pid, report = start("true", spawn.Terminal(theirs.fileno()))
        assert (spawn.read_failure(report), os.waitpid(pid, 0)[1]) == (("tty", 2), 127 << 8)


def test_its_parents_death_is_a_signal_also_to_another_user():
    read_end, write_end = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.close(read_end)
        child = spawn.Child(
            ("sleep", "1000"), "/bin/sleep", dict(ENV), stdin_fd=0, output_fd=write_end, uid=65534, gid=65534, groups=(65534,), death_signal=1
        )
        spawned = spawn.spawn(child)
        os.set_blocking(spawned.status_fd, True)
        os.read(spawned.status_fd, 9)
        os._exit(0)
    os.close(write_end)
    assert os.waitpid(middle, 0)[1] == 0
    assert os.read(read_end, 9) == b""  # the end of the last who had it
    os.close(read_end)
