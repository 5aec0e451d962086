"""Sockets that services inherit: bound once, kept, replaced when nobody listens."""

import contextlib
import os
import random
import socket
import stat

import pytest
from just_before import just_before

from pyinit.init.privileges import RefusedError
from pyinit.init.sockets import Sockets, inherited, variables
from pyinit.model import Origin, ServiceSpec, SocketSpec

AT = Origin("s.toml", 5)


def nobody(_one):
    return -1, -1


@pytest.fixture
def sockets():
    sockets = Sockets({})
    yield sockets
    sockets.close()


def service(*ones):
    return ServiceSpec("web", ("x",), sockets=ones)


def free_port(kind=socket.SOCK_STREAM):
    """None of those that connections are given (ip_local_port_range), of which the tests beside us take some."""
    while True:
        with socket.socket(type=kind) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(20000, 30000)))
            return probe.getsockname()[1]


def test_tcp_and_udp_are_bound_once_and_kept(sockets):
    spec = service(
        SocketSpec("http", host="127.0.0.1", port=free_port(), origin=AT),
        SocketSpec("dns", "udp", "127.0.0.1", free_port(socket.SOCK_DGRAM), origin=AT),
    )
    found = sockets.bind(spec, nobody)
    assert [name for name, _ in found] == ["http", "dns"]
    assert [os.get_blocking(fd) for _, fd in found] == [True, True]
    assert sockets.bind(spec, nobody) == found
    with socket.create_connection(("127.0.0.1", spec.sockets[0].port), timeout=5):
        pass  # the backlog takes it: nobody accepts


def test_a_unix_socket_has_its_mode_and_goes_with_its_service(sockets, tmp_path):
    path = f"{tmp_path}/run/a.sock"
    sockets.bind(service(SocketSpec("a", "unix", path=path, mode=0o640)), nobody)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    sockets.forget("web")
    assert not os.path.exists(path)


def test_a_socket_that_nobody_listens_on_is_replaced(sockets, tmp_path):
    path = str(tmp_path / "a.sock")
    spec = service(SocketSpec("a", "unix", path=path, origin=AT))
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(path)
        old.listen()
        with pytest.raises(RefusedError) as caught:
            sockets.bind(spec, nobody)
        assert str(caught.value) == (
            f"s.toml:5: socket a: {path}: Address already in use; another process listens there; stop it, or choose another address"
        )
    assert [name for name, _ in sockets.bind(spec, nobody)] == ["a"]


def test_what_is_no_socket_stays(sockets, tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(RefusedError) as caught:
        sockets.bind(service(SocketSpec("a", "unix", path=f"{tmp_path}/a", origin=AT)), nobody)
    assert str(caught.value) == f"s.toml:5: socket a: {tmp_path}/a: it is in the way and is no socket: remove it"
    assert (tmp_path / "a").read_text() == "mine"


def test_after_a_reload_the_same_stay_and_the_others_are_closed(sockets):
    kept = SocketSpec("http", host="127.0.0.1", port=free_port())
    gone = SocketSpec("old", host="127.0.0.1", port=free_port())
    before = dict(sockets.bind(service(kept, gone), nobody))
    after = dict(sockets.bind(service(kept._replace(origin=Origin("s.toml", 9))), nobody))
    assert after == {"http": before["http"]}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", gone.port), timeout=5)


def test_what_the_init_was_given(tmp_path):
    environment = {"LISTEN_FDS": "2", "LISTEN_PID": "7", "LISTEN_FDNAMES": "a:"}
    assert inherited(environment, 7) == {"a": 3, "unknown": 4}
    assert inherited(environment, 8) == {}
    assert inherited({"LISTEN_FDS": "x", "LISTEN_PID": "7"}, 7) == {}
    with open(tmp_path / "f", "w") as file:
        sockets = Sockets({"a": file.fileno()})
        [(name, fd)] = sockets.bind(service(SocketSpec("mine", "inherited", path="a")), nobody)
        assert (name, os.path.sameopenfile(fd, file.fileno())) == ("mine", True)
        with pytest.raises(RefusedError) as caught:
            sockets.bind(service(SocketSpec("x", "inherited", path="b", origin=AT)), nobody)
        assert str(caught.value) == "s.toml:5: no socket b was handed to pyinit; there are: a"
        sockets.close()


def test_the_variables_of_a_service():
    assert variables([]) == {}
    assert variables(["http", "a-b"]) == {
        "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:a-b", "PYINIT_FD_HTTP": "3", "PYINIT_FD_A_B": "4",
    }  # fmt: skip


def test_nothing_is_removed_behind_a_link_to_what_we_have_open(sockets, tmp_path):
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    (elsewhere / "a.sock").write_text("mine")
    fd = os.open(elsewhere, os.O_PATH | os.O_DIRECTORY)
    sockets.bind(service(SocketSpec("a", "unix", path=f"{run}/a.sock")), nobody)
    os.rename(run, tmp_path / "moved")
    run.symlink_to(f"/proc/self/fd/{fd}")
    sockets.forget("web")
    os.close(fd)
    assert os.listdir(elsewhere) == ["a.sock"]


def test_a_link_does_not_make_a_socket_seem_that_nobody_listens_on(sockets, tmp_path):
    """It takes the folder's place while the one in there is asked, which somebody listens on."""
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    run.mkdir()

    def replace() -> None:
        os.rename(run, tmp_path / "moved")
        run.symlink_to(elsewhere)

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{run}/a.sock")
        other.listen()
        with just_before("socket.connect", replace), pytest.raises(RefusedError) as caught:
            sockets.bind(service(SocketSpec("a", "unix", path=f"{run}/a.sock", origin=AT)), nobody)
    assert str(caught.value) == f"s.toml:5: socket a: {run}/a.sock: Address already in use; another process listens there; stop it, or choose another address"
    assert os.listdir(tmp_path / "moved") == ["a.sock"]
