"""`pyinit exec` and `pyinit enter`, on a terminal, into containers of each kind of namespace: made, shared, joined by pid and by path."""

import os
import pathlib

import netlab
import pytest
from entered import check
from test_network import BOTH, MACVLAN, host, lab  # noqa: F401 - fixtures

KINDS = ("pid", "mnt", "uts", "ipc", "cgroup", "net", "user", "time")
MAP = "user_namespace = { map = [{ inside = 0, outside = 200000, count = 70000 }] }\n"
SINGLE = 'user_namespace = { map = "single", user = "daemon" }\n'
CLOCKS = 'time_offsets = { monotonic = "-1s", boottime = "24h" }\n'
# What the container has of its own -> keys of [container], of its network.
MADE = {
    "pid mnt uts ipc cgroup net user time": (f'hostname = "inside"\n{MAP}{CLOCKS}', 'mode = "none"\n'),
    "pid mnt": ('namespaces = ["pid", "mount"]\n', 'mode = "host"\n'),
    "pid mnt uts ipc cgroup net user": (SINGLE, BOTH),
    "pid mnt uts net time": (f'namespaces = ["pid", "mount", "uts", "net", "time"]\n{CLOCKS}', MACVLAN),
    "pid mnt uts ipc cgroup net": ("", f'mode = "netns"\npath = "/run/netns/{netlab.OUTSIDE}"\n'),
}


def start(lab, keys: str, network: str = "", name: str = "web"):  # noqa: F811
    network = f"[container.network]\n{network}" if network else ""
    layers = "" if "mount:" in keys else f'layers = ["{lab.busybox}"]\n'
    text = f'[container]\nname = "pyinit-{name}"\n{layers}{keys}{network}[services.app]\ncommand = ["/bin/sleep", "1000"]\n'
    box = lab.launch(text, name)
    box.wait_for("app: ready")
    return box


def pid_of(name: str = "web") -> int:
    return int(pathlib.Path(f"/run/pyinit/pyinit-{name}/pid").read_text())


def differing(one: int, other: int) -> list[str]:
    return [kind for kind in KINDS if os.readlink(f"/proc/{one}/ns/{kind}") != os.readlink(f"/proc/{other}/ns/{kind}")]


def check_all(name: str = "web") -> None:
    for words in (("exec", "-t", "app"), ("exec",), ("enter",)):
        check(pid_of(name), *words[:1], "-c", f"pyinit-{name}", *words[1:])


@pytest.mark.parametrize(("kinds", "keys"), MADE.items(), ids=[kinds.replace(" ", "-") for kinds in MADE])
def test_where_they_are_made(lab, kinds, keys):  # noqa: F811
    box = start(lab, *keys)
    assert differing(pid_of(), box.process.pid) == kinds.split()
    check_all()
    assert box.stop() == 0


def test_where_they_are_anothers(lab):  # noqa: F811
    """A pod; all that can be shared, by the other's name, its pid, its files."""
    db = start(lab, f"{MAP}{CLOCKS}", 'mode = "none"\n', "db")
    pid = pid_of("db")
    shared = [kind for kind in KINDS if kind != "mnt"]
    for share, others in (
        ([f"{kind}:pyinit-db" for kind in shared], ["mnt"]),
        ([f"{kind}:{pid}" for kind in shared], ["mnt"]),
        ([f"{kind}:/proc/{pid}/ns/{kind}" for kind in shared], ["mnt"]),
        (["mount:pyinit-db", *(f"{kind}:pyinit-db" for kind in shared)], []),
        ([f"mount:{pid}", f"pid:{pid}", f"user:{pid}"], ["uts", "ipc", "cgroup", "net", "time"]),
        ([f"mount:/proc/{pid}/ns/mnt", f"pid:/proc/{pid}/ns/pid", "user:pyinit-db"], ["uts", "ipc", "cgroup", "net", "time"]),
        (["net:pyinit-db"], [kind for kind in KINDS if kind != "net"]),
        (["net:pyinit-db", f"uts:{pid}", f"time:/proc/{pid}/ns/time"], ["pid", "mnt", "ipc", "cgroup", "user"]),
    ):
        box = start(lab, f"share = {share}\n")
        assert differing(pid_of(), pid) == others
        check_all()
        assert box.stop() == 0
    box = start(lab, 'share = ["mount:pyinit-db", "pid:pyinit-db", "user:pyinit-db"]\n', BOTH)  # in its root, on a bridge of its own
    assert differing(pid_of(), pid) == ["uts", "ipc", "cgroup", "net", "time"]
    assert len(lab.addresses("web")) == 2
    check_all()
    assert box.stop() == 0
    check_all("db")
    assert db.stop() == 0
