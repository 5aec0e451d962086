"""sd_notify over the real socket."""

import contextlib
import os
import resource
import socket
import stat
import types

import pytest
from just_before import just_before
from turns import Turns

from pyinit.init.notify import Notify, wants
from pyinit.init.privileges import RefusedError
from pyinit.init.words import Words
from pyinit.model import Origin, Readiness, ServiceSpec
from pyinit.protocol.notify import Message

SPEC = ServiceSpec("web", ("x",), ready=Readiness("notify"), watchdog_s=1.5)


@contextlib.contextmanager
def no_descriptor_left():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def turns():
    return Turns()


@pytest.fixture
def notify(turns, tmp_path):
    notify = Notify(turns.loop, str(tmp_path), turns.answer)
    yield notify
    notify.close()
    assert os.listdir(tmp_path) == []


@pytest.fixture
def sender(notify):
    notify.prepare(SPEC, os.getuid())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(notify.environment(SPEC)["NOTIFY_SOCKET"])
        yield sock


def test_who_gets_a_socket(notify):
    plain = ServiceSpec("plain", ("x",))
    assert (wants(SPEC), wants(plain), wants(plain._replace(fd_store=1)), wants(plain._replace(watchdog_s=1.0))) == (True, False, True, True)
    notify.prepare(plain, 0)
    assert notify.environment(plain) == {}


def test_the_socket_is_its_users_alone(notify, tmp_path, sender):
    path = f"{tmp_path}/notify/web"
    assert notify.environment(SPEC) == {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1500000"}
    assert (os.stat(path).st_mode & 0o777, os.stat(path).st_uid) == (0o600, os.getuid())


def test_messages_are_told_in_order(turns, sender):
    sender.send(b"STATUS=warming")
    sender.send(b"READY=1")
    assert turns.run(0.05) == [("web", Message(status="warming"), []), ("web", Message(ready=True), [])]


def test_what_an_earlier_process_said_is_dropped(turns, notify, sender):
    sender.send(b"READY=1")
    notify.prepare(SPEC, os.getuid())
    assert turns.run(0.03) == []


def test_a_message_is_read_before_a_reap(turns, notify, sender):
    sender.send(b"READY=1")
    notify.drain()
    assert turns.answers == [("web", Message(ready=True), [])]


def test_descriptors_come_along(turns, sender):
    read_end, write_end = os.pipe()
    socket.send_fds(sender, [b"FDSTORE=1\nFDNAME=p"], [read_end])
    [(name, message, fds)] = turns.run()
    assert (name, message, len(fds), os.get_inheritable(fds[0])) == ("web", Message(fdstore=True, fdname="p"), 1, False)
    os.write(write_end, b"x")
    assert os.read(fds[0], 1) == b"x"
    for fd in (read_end, write_end, *fds):
        os.close(fd)


def test_a_flood_does_not_starve_the_others(turns, notify, sender):
    sender.setblocking(False)
    sent = 0
    try:
        while sent < 500:
            sender.send(b"WATCHDOG=1")
            sent += 1
    except BlockingIOError:
        pass
    notify._read("web")
    assert 0 < len(turns.answers) <= 64


@pytest.fixture
def elsewhere(tmp_path_factory):
    """A folder that we have open, as PID 1 has the host's: what a link of root inside leads to."""
    folder = tmp_path_factory.mktemp("elsewhere")
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    yield folder, f"/proc/self/fd/{fd}"
    os.close(fd)


def test_a_link_in_the_socket_s_place_is_not_followed(notify, tmp_path, elsewhere):
    folder, _ = elsewhere
    (folder / "file").write_text("mine")
    before = os.stat(folder / "file")
    notify.prepare(SPEC, os.getuid())
    path = tmp_path / "notify/web"
    path.unlink()
    path.symlink_to(folder / "file")
    with pytest.raises(OSError) as caught:
        notify.prepare(SPEC, os.getuid())
    assert str(caught.value) == f"[Errno 17] another file took its place: '{path}'"
    assert os.stat(folder / "file") == before  # its time of change, too


def test_a_link_that_lies_there_before_is_replaced(notify, tmp_path, elsewhere):
    folder, _ = elsewhere
    (folder / "file").write_text("mine")
    (tmp_path / "notify").mkdir()
    (tmp_path / "notify/web").symlink_to(folder / "file")
    notify.prepare(SPEC, os.getuid())
    assert (stat.S_ISSOCK(os.lstat(tmp_path / "notify/web").st_mode), (folder / "file").read_text()) == (True, "mine")


def test_a_folder_that_is_a_link_to_what_we_have_open_is_not_entered(tmp_path, turns, elsewhere):
    folder, place = elsewhere
    (folder / "web").write_text("mine")
    (tmp_path / "notify").symlink_to(place)
    notify = Notify(turns.loop, str(tmp_path), turns.answer)
    with pytest.raises(OSError) as caught:
        notify.prepare(SPEC, os.getuid())
    notify.close()
    assert str(caught.value) == f"[Errno 40] Too many levels of symbolic links: '{tmp_path}/notify'"
    assert (os.listdir(folder), (folder / "web").read_text()) == (["web"], "mine")


def test_nothing_is_removed_behind_such_a_link(tmp_path, turns, elsewhere):
    folder, place = elsewhere
    (folder / "web").write_text("mine")
    notify = Notify(turns.loop, str(tmp_path), turns.answer)
    notify.prepare(SPEC, os.getuid())
    os.rename(tmp_path / "notify", tmp_path / "moved")
    (tmp_path / "notify").symlink_to(place)
    notify.close()
    assert (os.listdir(folder), (folder / "web").read_text()) == (["web"], "mine")


def test_a_folder_that_becomes_such_a_link_while_the_socket_is_made_gets_none(tmp_path, turns, elsewhere):
    folder, place = elsewhere

    def replace() -> None:
        os.rename(tmp_path / "notify", tmp_path / "moved")
        (tmp_path / "notify").symlink_to(place)

    notify = Notify(turns.loop, str(tmp_path), turns.answer)
    with just_before("socket.bind", replace), pytest.raises(OSError) as caught:
        notify.prepare(SPEC, os.getuid())
    notify.close()
    assert str(caught.value) == f"[Errno 40] Too many levels of symbolic links: '{tmp_path}/notify'"
    assert (os.listdir(folder), os.listdir(tmp_path / "moved")) == ([], ["web"])


def test_who_makes_a_socket_stands_where_it_stood(notify, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    notify.prepare(SPEC, os.getuid())
    assert os.getcwd() == str(tmp_path / "mine")
    monkeypatch.chdir("/")
    (tmp_path / "mine").rmdir()


def test_what_keeps_a_service_from_its_socket_is_told_with_its_line(turns, tmp_path):
    """It was told as if the command could not be executed."""
    spec, path = SPEC._replace(origin=Origin("s.toml", 7)), tmp_path / "notify/web"
    words = Words(types.SimpleNamespace(loop=turns.loop), str(tmp_path))
    words.prepare(spec, os.getuid())
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(RefusedError) as caught:
        words.prepare(spec, os.getuid())
    assert (caught.value.stage, caught.value.number) == ("files", 17)
    assert str(caught.value) == f"s.toml:7: NOTIFY_SOCKET: {path}: another file took its place; it is pyinit's: remove what is there"
    words.close()


def test_having_no_descriptor_left_is_no_fault_of_the_socket(turns, tmp_path):
    words = Words(types.SimpleNamespace(loop=turns.loop), str(tmp_path))
    with no_descriptor_left(), pytest.raises(OSError, match="Too many open files"):
        words.prepare(SPEC, os.getuid())
    words.close()
