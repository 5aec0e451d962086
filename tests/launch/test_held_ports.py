"""The sockets at published ports: of many there are as many open files."""

import os
import resource
import socket

import pytest

from pyinit.errors import LaunchError
from pyinit.launch.leases import Taken
from pyinit.model import Network, Origin, Publish

NET = Network("veth", "br0", ("10.1.0.2/24",))
LINE = Origin("services.toml", 9)


@pytest.fixture
def limit():
    """Sets the soft limit of open files, until the test is over."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda soft: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def fds() -> list[int]:
    return sorted(map(int, os.listdir("/proc/self/fd")))


def test_more_ports_than_files_may_be_open_leave_the_low_numbers_to_others(limit):
    """select(2) knows none from 1024 on."""
    limit(1024)
    before = fds()
    taken = Taken(NET)
    try:
        taken.hold((Publish("127.0.0.7", 20000, 80, "tcp", 1000), Publish("", 21000, 80, "udp", 10)))
        assert [fd for fd in fds() if fd >= 1024] == list(range(1024, 2034))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 2034
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.7", 20999))
    finally:
        taken.close()
    assert fds() == before


def test_a_few_ports_change_no_limit(limit):
    limit(1024)
    taken = Taken(NET)
    taken.hold((Publish("127.0.0.7", 20000, 80, "tcp", 100),))
    taken.close()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1024


def test_more_ports_than_files_may_ever_be_open_are_told_with_what_mends_it():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = hard // 1024 + 1
    publish = tuple(Publish(f"127.0.0.{number % 250 + 1}", 1000, 1000, "tcp", 1024, LINE) for number in range(count))
    with pytest.raises(LaunchError) as caught:
        Taken(NET).hold(publish)
    assert str(caught.value) == (
        f"services.toml:9: container.network.publish: {count * 1024} sockets at ports need {count * 1024 + 64} open files, and {hard} are allowed here; "
        f"`ulimit -Hn {count * 1024 + 64}` before (LimitNOFILE= in a unit of systemd), or publish fewer"
    )
