"""What whoever started us is told, by sd_notify: systemd-nspawn, a runtime that only has a socket, our own launcher's parent."""

import os
import pathlib
import shutil
import signal
import socket
import struct

import pytest
from conftest import REPO, Pyinit, wait_until
from test_container import BASE

pytestmark = pytest.mark.usefixtures("nothing_left")
CGROUPS = pathlib.Path("/sys/fs/cgroup")
HELD = ("systemd/pyinit-nspawn", "unified/pyinit-nspawn")  # nspawn makes its groups below the one that it is in


class Up(socket.socket):
    """NOTIFY_SOCKET's other end."""

    def __init__(self, address: str) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.bind(address)
        self.settimeout(20)

    def told(self) -> tuple[str, int]:
        """(what, by which process)."""
        data, rest, _, _ = self.recvmsg(4096, socket.CMSG_SPACE(12))
        [(_, _, credentials)] = rest
        return data.decode(), struct.unpack("3i", credentials)[0]

    def is_silent(self) -> bool:
        self.setblocking(False)
        try:
            self.recv(1)
        except BlockingIOError:
            return True
        finally:
            self.settimeout(20)
        return False


@pytest.fixture
def up(tmp_path):
    with Up(f"{tmp_path}/up") as found:
        yield found


# Ready when the test says so; it must not see the socket that is its init's.
SERVICE = """
[services.app]
command = ["sh", "-c", "trap 'echo bye; exit' TERM; echo up:$NOTIFY_SOCKET.; while [ ! -e /run/leave ]; do sleep 0.02; done; exit 7"]
ready = { path = "/run/go" }
log = { to = "stdout", timestamp = "none" }
[init]
exit = "when-main-exits"
main = "app"
"""


@pytest.fixture
def nspawn(tmp_path):
    """`nspawn(*options)`: pyinit as the init of a container that systemd-nspawn made of this host's /usr."""
    root, boxes = tmp_path / "root", []
    for name in ("usr", "etc", "opt/pyinit", "run", "tmp", "var/log", "proc", "sys", "dev", "root"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("os-release", "passwd", "group"):
        shutil.copy(f"/etc/{name}", root / "etc")
    (root / "etc/services.toml").write_text(SERVICE)
    for path in HELD:
        (CGROUPS / path).mkdir()

    def start(*options: str) -> Pyinit:
        enter = "; ".join(f"echo 0 > {CGROUPS}/{path}/cgroup.procs" for path in HELD)
        command = [
            "sh", "-c", f'{enter}; exec "$@"', "sh", "systemd-nspawn", "-q", "--register=no", "--keep-unit", "--link-journal=no", "--console=pipe",
            *options, "-D", str(root), "--bind-ro=/usr", f"--bind-ro={REPO}/pyinit:/opt/pyinit", "--setenv=PYTHONPATH=/opt",
            "/usr/bin/python3.11", "-B", "-m", "pyinit",
        ]  # fmt: skip
        boxes.append(Pyinit(pathlib.Path("/etc/services.toml"), command=command, environment={"NOTIFY_SOCKET": str(tmp_path / "up")}))
        return boxes[0]

    yield start
    for box in boxes:
        box.close()
    for path in HELD:
        below = [found for found in (CGROUPS / path).rglob("*") if found.is_dir()]
        for found in [*sorted(below, reverse=True), CGROUPS / path]:
            wait_until(lambda found=found: not (found / "cgroup.procs").read_text(), f"{found} is empty")
            found.rmdir()


def leader(up: Up) -> pathlib.Path:
    """The container's /run, by the pid that nspawn tells first."""
    text, _ = up.told()
    first, _, pid = text.partition("\nX_NSPAWN_LEADER_PID=")
    assert first == "STATUS=Container running."
    return pathlib.Path(f"/proc/{int(pid)}/root/run")


def test_systemd_nspawn_is_told_ready_and_its_rtmin_3_stops_in_order(nspawn, up):
    box = nspawn("--notify-ready=yes", "--kill-signal=SIGRTMIN+3")
    run = leader(up)
    box.wait_for("app: up:.\n")
    assert up.is_silent()
    (run / "go").touch()
    assert up.told()[0] == "READY=1\n"
    assert up.told()[0] == "STATUS=Container running: 1 services"
    assert box.stop() == 0
    assert "app: bye\npyinit: app: stopped: RTMIN+3 received\n" in box.output
    assert up.told()[0] == "STOPPING=1\nSTATUS=Terminating..."


def test_systemd_nspawn_leaves_with_our_exit_code(nspawn, up):
    box = nspawn("--notify-ready=yes")
    run = leader(up)
    (run / "go").touch()
    assert up.told()[0] == "READY=1\n"
    (run / "leave").touch()
    assert box.wait() == 7


@pytest.mark.parametrize("kind", ["path", "abstract", "environment_clear"])
def test_a_runtime_with_a_socket_is_told_all_by_pid_1_itself(runtime, tmp_path, kind):
    """As nspawn's /run/host/notify: it heeds no other sender; EXIT_STATUS is the code that we leave with."""
    address = f"@pyinit-up-{os.getpid()}" if kind == "abstract" else f"{tmp_path}/up"
    clear = f"environment_clear = {str(kind == 'environment_clear').lower()}\n"  # what services inherit is another matter
    with Up(address.replace("@", "\0", 1)) as up:
        services = SERVICE.replace("/run/", f"{tmp_path}/").replace("[init]\n", "")
        first, _, last = services.partition("exit = ")
        box = runtime.start(("unshare", "--pid", "--fork", "--mount-proc"), f"{clear}exit = {last}{first}", environment={"NOTIFY_SOCKET": address})
        box.wait_for("app: up:.\n")
        pid = runtime.pid(box)
        assert up.is_silent()
        (tmp_path / "go").touch()
        assert up.told() == ("READY=1\nSTATUS=1 services", pid)
        (tmp_path / "leave").touch()
        assert up.told() == ("STOPPING=1", pid)
        assert up.told() == ("EXIT_STATUS=7", pid)
        assert box.wait() == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, 37])
def test_the_launcher_relays_what_pid_1_says(bench, busybox, up, tmp_path, number):
    """By itself, as its own MAINPID: systemd knows no other process of its unit."""
    text = BASE.format(image=busybox, more="").partition("[init]")[0] + SERVICE
    box = bench.start(text, environment={"NOTIFY_SOCKET": str(tmp_path / "up")})
    box.wait_for("app: up:.\n")
    assert up.is_silent()
    pathlib.Path(f"/proc/{int(pathlib.Path('/run/pyinit/pyinit-test/pid').read_text())}/root/run/go").touch()
    monitor = box.process.pid
    assert up.told() == (f"READY=1\nSTATUS=1 services\nMAINPID={monitor}", monitor)
    assert box.stop(number) == 0
    assert up.told() == ("STOPPING=1", monitor)
    assert up.told() == ("EXIT_STATUS=0", monitor)
    assert "app: bye" in box.output
