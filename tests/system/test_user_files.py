"""User files of a real sshfs server that lives in a network namespace of its own, over a link that goes down and up."""

import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest
from conftest import DEADLINE_S, read, verb, wait_until

LINK, SPACE = "ve-pyinit-f", "pyinit-files"
SERVER = "10.93.7.2"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Server:
    """A real sshd behind a veth."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.files.mkdir()
        (self.files / "greeting").write_text("hello from the server\n")
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        shutil.copy(folder / "user.pub", folder / "authorized")
        (folder / "sshd").write_text(
            f"Port 22\nListenAddress {SERVER}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nStrictModes no\n"
            "UsePAM no\nPidFile none\nSubsystem sftp internal-sftp\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        pathlib.Path("/run/sshd").mkdir(exist_ok=True)  # where sshd(8) keeps privileges apart
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", SPACE, "/usr/sbin/sshd", "-D", "-e", "-f", self.folder / "sshd"], stderr=subprocess.PIPE
        )
        line = b""
        while b"listening" not in line:
            line = self.process.stderr.readline()
            assert line, "sshd did not start"

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(DEADLINE_S)
            self.process.stderr.close()
            self.process = None

    def connection(self) -> int:
        """pid of the ssh(1) that sshfs has started, as nobody's child."""
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            if read(path / "comm") == b"ssh\n" and f"{self.folder}/user".encode() in read(path / "cmdline"):
                return int(path.name)
        raise AssertionError("there is no ssh")

    def mount(self, more: str = "") -> str:
        """`more`: further options, each in quotes."""
        key = f'"IdentityFile={self.folder}/user", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"'
        return (
            f'[[container.mounts]]\ntype = "fuse.sshfs"\nsource = "root@{SERVER}:{self.files}"\ntarget = "/user-files"\ntimeout = "10s"\n'
            f'options = [{key}, "ServerAliveInterval=1", "ServerAliveCountMax=2", "ConnectTimeout=3"{more}]\n'
        )


@pytest.fixture
def space():
    """Around everything, for the first one makes /run/netns a mount, which stays."""
    ip("netns", "add", SPACE)
    yield
    ip("netns", "del", SPACE)


@pytest.fixture
def server(tmp_path, space, nothing_left):
    server = Server(tmp_path)
    try:
        ip("link", "add", LINK, "type", "veth", "peer", "name", "files0", "netns", SPACE)
        ip("addr", "add", "10.93.7.1/24", "dev", LINK)
        ip("link", "set", LINK, "up")
        ip("-n", SPACE, "addr", "add", f"{SERVER}/24", "dev", "files0")
        ip("-n", SPACE, "link", "set", "files0", "up")
        ip("-n", SPACE, "link", "set", "lo", "up")
        server.start()
        yield server
    finally:
        server.stop()
        subprocess.run(["ip", "link", "del", LINK], capture_output=True, check=False)


APP = """
[services.app]
command = ["/bin/sh", "-c", "cat /user-files/greeting; echo $$ > /user-files/started; exec sleep 1000"]
log = { to = "stdout", timestamp = "none" }
"""


def config(busybox, mounts: str, services: str = APP) -> str:
    return f'[container]\nname = "user-files"\nlayers = ["{busybox}"]\n{mounts}{services}'


def children(pid: int) -> list[int]:
    return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def sshfs_of(box) -> int:
    """pid of the program, the monitor's child."""
    return next((pid for pid in children(box.process.pid) if read(pathlib.Path(f"/proc/{pid}/comm")) == b"sshfs\n"), 0)


def inside(*words: str) -> str:
    return verb("exec", "-c", "user-files", "app", "--", *words).stdout


def test_files_are_there_before_the_first_service_and_survive_a_link_that_goes_down_and_up(server, bench, busybox):
    box = bench.start(config(busybox, server.mount()))
    box.wait_for("app: hello from the server")
    wait_until(lambda: read(server.files / "started"), "what the service wrote, at the server")
    assert "fuse.sshfs" in inside("/bin/grep", "/user-files", "/proc/self/mountinfo")
    ssh = server.connection()
    ip("link", "set", LINK, "down")
    wait_until(lambda: not pathlib.Path(f"/proc/{ssh}").exists(), "ssh(1), which gives the connection up")
    (server.files / "later").write_text("written while the link was down\n")
    ip("link", "set", LINK, "up")
    assert inside("/bin/sh", "-c", "until cat /user-files/later; do sleep 0.2; done") == "written while the link was down\n"
    assert "mount /user-files" not in box.output  # it is one and the same sshfs, connected again
    assert box.stop() == 0


def test_a_program_that_dies_is_started_again_and_its_mount_takes_the_old_ones_place(server, bench, busybox):
    box = bench.start(config(busybox, server.mount()))
    box.wait_for("app: hello from the server")
    for count in (1, 2):
        os.kill(sshfs_of(box), signal.SIGKILL)
        box.wait_for("mount /user-files: sshfs is mounted again", count=count)
        assert inside("/bin/cat", "/user-files/greeting") == "hello from the server\n"
    mounts = inside("/bin/grep", "/user-files", "/proc/self/mountinfo")
    assert mounts.count("fuse.sshfs") == 1
    said = [line for line in box.output.splitlines() if "mount /user-files" in line]
    again = "pyinit: mount /user-files: sshfs was killed by signal 9; it is started again in"
    assert said == [f"{again} 0.1 s", "pyinit: mount /user-files: sshfs is mounted again", f"{again} 0.2 s", "pyinit: mount /user-files: sshfs is mounted again"]
    assert box.stop() == 0


def test_a_server_that_is_away_when_the_program_dies_is_tried_until_it_is_back(server, bench, busybox):
    box = bench.start(config(busybox, server.mount()))
    box.wait_for("app: hello from the server")
    server.stop()
    os.kill(sshfs_of(box), signal.SIGKILL)
    box.wait_for("mount /user-files: sshfs ended with exit code 1; it is started again in")
    assert re.search(r"mount /user-files: sshfs says: .*", box.output)
    server.start()
    box.wait_for("mount /user-files: sshfs is mounted again")
    assert inside("/bin/cat", "/user-files/greeting") == "hello from the server\n"
    assert box.stop() == 0


def test_the_program_ends_with_its_container_even_if_the_monitor_was_killed(server, bench, busybox):
    box = bench.start(config(busybox, server.mount()))
    box.wait_for("app: hello from the server")
    program = sshfs_of(box)
    box.process.kill()
    wait_until(lambda: not pathlib.Path(f"/proc/{program}").exists(), "the end of sshfs")
    again = bench.start(config(busybox, server.mount()))
    again.wait_for("app: hello from the server")
    assert again.stop() == 0


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("/files", "/no-such-folder", r"sshfs: .*No such file or directory"),
        ("/user\"", "/host\"", r"sshfs: .*(reset by peer|Permission denied).*"),
        (SERVER, "10.93.7.9", r"sshfs: .*|root@10.93.7.9:.* does not answer within 10 s; .*"),
    ],
    ids=["folder", "key", "host"],
)
def test_what_is_wrong_is_said_in_the_programs_words(server, bench, busybox, old, new, expected):
    box = bench.start(config(busybox, server.mount().replace(old, new)))
    assert box.wait() == 111
    where = re.escape(f"pyinit: {bench.folder}/services.toml:4: connect fuse.sshfs ")
    assert re.fullmatch(f"{where}root@[^ ]* for /user-files: ({expected})\n", box.output), box.output


def test_a_stop_signal_ends_the_wait_for_a_server(server, bench, busybox):
    server.process.send_signal(signal.SIGSTOP)  # it takes connections, and says nothing
    try:
        box = bench.start(config(busybox, server.mount()))
        wait_until(lambda: sshfs_of(box), "sshfs")
        assert box.stop() == 111
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert box.output.endswith("for /user-files: stopped by a signal\n")
