"""services/pyinit@.service: whether systemd takes it, and pyinit as its words start, reload and stop it."""

import configparser
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import REPO, make_busybox, verb, wait_until
from test_upward import CGROUPS, HELD, Up

from pyinit.model import HostHooks, InitSpec

UNIT = REPO / "services/pyinit@.service"
PLACE = pathlib.Path("/etc/pyinit")
NAME = "pyinit-unit"
pytestmark = pytest.mark.usefixtures("nothing_left")
CONTAINER = f"""
[container]
name = "{NAME}"
layers = ["{{image}}"]
hooks.prestart = ["/bin/sh", "-c", "test -z \\"$NOTIFY_SOCKET\\""]
[services.app]
command = ["sh", "-c", "trap exit TERM; echo up:$NOTIFY_SOCKET.; while :; do sleep 0.02; done"]
log = {{{{ echo = true, timestamp = "none" }}}}
ready = {{{{ path = "/run/go" }}}}
"""


def key(name: str) -> str:
    """Of [Service]."""
    unit = configparser.RawConfigParser(strict=True)
    unit.optionxform = str
    unit.read(UNIT)
    return unit["Service"][name]


def words(name: str, **variables: str) -> list[str]:
    """Of a command, as systemd makes them: specifiers and variables for their values."""
    text = key(name).replace("%i", NAME)
    for variable, value in variables.items():
        text = text.replace(f"${variable}", value)
    return text.split()


@pytest.fixture
def bin_folder(tmp_path):
    """A folder with a command `pyinit`, as an installation has it."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/pyinit"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={REPO} exec {sys.executable} -m pyinit "$@"\n')
    program.chmod(0o755)
    return tmp_path / "bin"


def test_systemd_finds_nothing_to_say(bin_folder):
    inside = f"mount --bind {bin_folder} /usr/local/bin && systemd-analyze verify --man=no {UNIT}"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", inside], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Manager:
    """Starts what the unit says as systemd would, and heeds its notifications as the unit says."""

    def __init__(self, folder: pathlib.Path, up: Up) -> None:
        self.up = up
        self.log = folder / "journal"
        self._path = f"{folder}/bin:{os.environ['PATH']}"
        self._address = f"{folder}/up"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        assert (key("Type"), key("NotifyAccess")) == ("notify", "main")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                words("ExecStart"), cwd="/", env={"PATH": self._path, "LANG": "C.UTF-8", "NOTIFY_SOCKET": self._address, "INVOCATION_ID": "0" * 32},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return self.process.pid

    def reload(self) -> None:
        subprocess.run(words("ExecReload", MAINPID=str(self.process.pid)), env={"PATH": self._path}, check=True)

    def stop(self) -> int:
        """KillMode=mixed: the main process alone is told; its time is longer than its own patience."""
        assert (key("KillMode"), key("KillSignal"), key("TimeoutStopSec")) == ("mixed", "SIGTERM", "60s")
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def manager(tmp_path, bin_folder):
    made = not PLACE.exists()
    PLACE.mkdir(exist_ok=True)
    with Up(f"{tmp_path}/up") as up:
        found = Manager(tmp_path, up)
        yield found
        if found.process is not None and found.process.poll() is None:
            found.stop()
    (PLACE / f"{NAME}.toml").unlink(missing_ok=True)
    if made:
        PLACE.rmdir()


def write(text: str) -> None:
    (PLACE / f"{NAME}.toml").write_text(text)


def test_a_container_as_the_unit_starts_reloads_and_stops_it(manager, busybox):
    text = CONTAINER.format(image=busybox)
    write(text)
    main = manager.start()
    wait_until(lambda: b"app: up:.\n" in manager.log.read_bytes(), "the service")
    assert manager.up.is_silent()
    pid = int(pathlib.Path(f"/run/pyinit/{NAME}/pid").read_text())
    pathlib.Path(f"/proc/{pid}/root/run/go").touch()
    assert manager.up.told() == (f"READY=1\nSTATUS=1 services\nMAINPID={main}", main)
    write(text + '[services.more]\ncommand = ["sleep", "1000"]\n')
    manager.reload()
    wait_until(lambda: "more" in verb("status", "-c", NAME).stdout, "the reload")
    assert manager.stop() == 0
    assert [manager.up.told() for _ in range(2)] == [("STOPPING=1", main), ("EXIT_STATUS=0", main)]


def test_a_plain_supervisor_too(manager):
    write('[init]\nlog_dir = "/run/pyinit-unit-log"\n[services.app]\ncommand = ["sleep", "1000"]\nlog = { to = "stdout" }\n')
    main = manager.start()
    assert manager.up.told() == ("READY=1\nSTATUS=1 services", main)
    assert manager.stop() == 0
    assert [manager.up.told() for _ in range(2)] == [("STOPPING=1", main), ("EXIT_STATUS=0", main)]


def test_a_wrong_config_is_not_tried_again(manager):
    write("[container]\n")
    manager.start()
    assert str(manager.process.wait(60)) in key("RestartPreventExitStatus").split()
    assert b"/etc/pyinit/pyinit-unit.toml:1: container.layers: expected a list" in manager.log.read_bytes()
    assert manager.up.is_silent()


def test_its_time_to_stop_is_longer_than_pyinits_own():
    assert float(key("TimeoutStopSec").removesuffix("s")) > InitSpec().stop_timeout_s + HostHooks().timeout_s


# What a user would type, by the first unit of a machine that has no others.
DRIVER = """#!/bin/sh
exec > /out 2>/err
for unit in plain box wrong; do
    systemctl start pyinit@$unit
    echo $unit start $? $(systemctl show -P ActiveState pyinit@$unit) $(systemctl show -P StatusText pyinit@$unit)
    pyinit list | sed 1d | while read name pid state uptime config; do echo $state $config; done
    systemctl reload pyinit@$unit; echo reload $?
    systemctl stop pyinit@$unit
    echo stop $? $(systemctl show -P ActiveState pyinit@$unit) $(systemctl show -P Result pyinit@$unit) $(systemctl show -P NRestarts pyinit@$unit)
done
systemctl exit 0
"""
FILES = {
    "etc/systemd/system/default.target": "[Unit]\nDescription=all\nWants=driver.service\n",
    "etc/systemd/system/driver.service": "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/driver\n",
    "etc/pyinit/plain.toml": '[services.app]\ncommand = ["sleep", "1000"]\n',
    "etc/pyinit/box.toml": '[container]\nlayers = ["/layer"]\nhooks.prestart = ["/bin/true"]\n[services.app]\ncommand = ["sleep", "1000"]\n',
    "etc/pyinit/wrong.toml": "[container]\n",
    "etc/machine-id": "",
    "driver": DRIVER,
    "bin_/pyinit": '#!/bin/sh\nPYTHONPATH=/opt exec /usr/bin/python3.11 -B -m pyinit "$@"\n',
}


@pytest.fixture
def machine(tmp_path):
    """A root for systemd-nspawn whose PID 1 is this host's systemd, and the groups that it is started in."""
    root = tmp_path / "root"
    for name in ("usr", "etc/systemd/system", "etc/pyinit", "opt/pyinit", "run", "tmp", "var/log", "proc", "sys", "dev", "root", "bin_"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("os-release", "passwd", "group"):
        shutil.copy(f"/etc/{name}", root / "etc")
    for name, text in FILES.items():
        (root / name).write_text(text)
    for name in ("driver", "bin_/pyinit"):
        (root / name).chmod(0o755)
    shutil.copy(UNIT, root / "etc/systemd/system")
    make_busybox(root / "layer")
    for path in HELD:
        (CGROUPS / path).mkdir()
    yield root
    for path in HELD:
        below = sorted((found for found in (CGROUPS / path).rglob("*") if found.is_dir()), reverse=True)
        for found in [*below, CGROUPS / path]:
            wait_until(lambda found=found: not (found / "cgroup.procs").read_text(), f"{found} is empty")
            found.rmdir()


def test_systemd_itself_starts_reloads_and_stops_them_and_gives_up_what_is_wrong(machine):
    enter = "; ".join(f"echo 0 > {CGROUPS}/{path}/cgroup.procs" for path in HELD)
    command = [
        "sh", "-c", f'{enter}; exec "$@"', "sh", "systemd-nspawn", "-q", "--register=no", "--keep-unit", "--link-journal=no", "--console=pipe",
        "--capability=all", "--private-network", "-b", "-D", str(machine), "--bind-ro=/usr", f"--bind-ro={machine}/bin_:/usr/local/bin",
        f"--bind-ro={REPO}/pyinit:/opt/pyinit",
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as nspawn:
        try:
            said, _ = nspawn.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            for _ in range(2):  # the second ends it at once
                nspawn.terminate()
            said, _ = nspawn.communicate()
    assert (machine / "out").read_text().splitlines() == [
        "plain start 0 active 1 services", "running /etc/pyinit/plain.toml", "reload 0", "stop 0 inactive success 0",
        "box start 0 active 1 services", "running /etc/pyinit/box.toml", "reload 0", "stop 0 inactive success 0",
        "wrong start 1 failed", "reload 1", "stop 0 failed exit-code 0",
    ], said + (machine / "err").read_text()  # fmt: skip
