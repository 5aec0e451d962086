"""Bytes between the user and a command, without either: raw mode, ends, floods, what is left."""

import os
import pty as standard_pty
import signal
import socket
import termios
import tty

import pytest

from pyinit.cli import terminal
from pyinit.linux import pty


@pytest.fixture
def pair():
    master, slave = pty.open_pair()
    yield master, slave
    for fd in (master, slave):
        try:
            os.close(fd)
        except OSError:  # the test has
            pass


def test_raw_is_what_the_standard_library_makes_of_it(pair):
    _, slave = pair
    before = termios.tcgetattr(slave)
    wanted = terminal.raw(before)
    tty.setraw(slave)
    assert wanted == termios.tcgetattr(slave)
    assert before != wanted  # and is as it was: what is given back


def test_all_that_was_written_before_the_end_is_there(pair):
    """A child that writes a mebibyte and ends: what is in the terminal when its end is seen is read, though somebody has it open."""
    master, slave = pair
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        for _ in range(1 << 8):
            os.write(slave, b"x" * (1 << 12))
        os._exit(0)
    pidfd = os.pidfd_open(pid)
    reader = os.fork()
    if reader == 0:
        os.close(into)
        size = 0
        while data := os.read(out, 1 << 16):
            size += len(data)
        os._exit(size != 1 << 20)
    null = os.open("/dev/null", os.O_RDONLY)
    with terminal.Streams() as streams:
        streams.add_terminal(master, null, into)
        streams.run(pidfd)
    os.close(into)
    assert os.waitpid(reader, 0)[1] == 0
    os.waitpid(pid, 0)
    for fd in (pidfd, null, out):
        os.close(fd)


@pytest.mark.parametrize(("typed", "wanted"), [(b"", b""), (b"line\n", b"line\n"), (b"part", b"part"), (b"x" * 3000 + b"\n", b"x" * 3000 + b"\n")])
def test_the_end_of_input_is_one_for_the_command(pair, typed, wanted):
    master, slave = pair
    source, sink = os.pipe()
    os.write(sink, typed)
    os.close(sink)
    pid = os.fork()
    if pid == 0:
        found = b""
        while data := os.read(slave, 1 << 16):
            found += data
        os._exit(found != wanted)
    pidfd, null = os.pidfd_open(pid), os.open("/dev/null", os.O_WRONLY)
    with terminal.Streams() as streams:
        streams.add_terminal(master, source, null)
        streams.run(pidfd)
    assert os.waitpid(pid, 0)[1] == 0
    for fd in (pidfd, null, source):
        os.close(fd)


def test_only_a_master_is_taken_for_one(pair):
    master, slave = pair
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mine, theirs:
        for data, fds, wanted in ((b"made", [slave], -1), (b"made", [0], -1), (b"made", [], -1), (b"spare", [], 7), (b"spare", [master], 7), (b"what", [master], -1)):
            socket.send_fds(theirs, [data], fds)
            before = os.listdir("/proc/self/fd")
            assert terminal.receive_master(mine, 7) == wanted
            assert os.listdir("/proc/self/fd") == before
        socket.send_fds(theirs, [b"made"], [master])
        found = terminal.receive_master(mine, 7)
        assert pty.is_master(found)
        os.close(found)
        theirs.close()
        assert terminal.receive_master(mine, 7) == -1


def test_each_way_out_gives_the_terminal_back():
    """In a child that has one as its own: an end, an error, TERM in the midst, HUP, KILL of nobody."""
    def wait() -> None:
        signal.pause()

    def fail() -> None:
        raise ValueError

    for act, number, error in ((None, 0, None), (fail, 0, ValueError), (wait, signal.SIGTERM, terminal.LeftError), (wait, signal.SIGHUP, terminal.LeftError)):
        pid, keyboard = standard_pty.fork()
        if pid == 0:
            code = 1
            try:
                before = termios.tcgetattr(0)
                master, _ = pty.open_pair()
                try:
                    with terminal.Signals(lambda _: None, master):
                        assert termios.tcgetattr(0) != before
                        if number:
                            os.kill(os.getpid(), number)
                        if act is not None:
                            act()
                except Exception as found:  # noqa: BLE001 - which one is asked below
                    code = not (type(found) is error and termios.tcgetattr(0) == before)
                else:
                    code = not (error is None and termios.tcgetattr(0) == before)
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0, (act, number)
        os.close(keyboard)


def test_a_size_goes_on_and_a_signal_too():
    pid, keyboard = standard_pty.fork()
    if pid == 0:
        code = 1
        try:
            pty.set_size(0, 11, 22)
            master, slave = pty.open_pair()
            told = []
            with terminal.Signals(told.append, master):
                first = pty.size(slave)
                pty.set_size(0, 12, 23)
                os.kill(os.getpid(), signal.SIGWINCH)
                os.kill(os.getpid(), signal.SIGUSR1)
                os.kill(os.getpid(), signal.SIGINT)
                code = not ((first, pty.size(slave)) == ((11, 22), (12, 23)) and told == [signal.SIGUSR1, signal.SIGINT])
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(keyboard)
