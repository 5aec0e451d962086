"""The runtimes that people have, each behind the same few words: start, its own stop, the way to its init.

Owns their command lines. Must not know what is looked at. Laws: all of them take the one small root, read-only; what a
runtime mounts, it mounts in a mount namespace of this file's own, and every group that it makes is gone when it is closed.
"""

import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import smallroot

REPO = pathlib.Path(__file__).parents[3]
DEADLINE_S = 30.0
GROUP = "peers"  # begins the names of all cgroups that are made here
CGROUPS = pathlib.Path("/sys/fs/cgroup")
BASE = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "HOST_SAYS": "hello"}
PRIVATE = ("unshare", "--mount", "--propagation", "private")
INIT = smallroot.INIT


class Running:
    """One container; everything that comes out of it is in `.output`."""

    def __init__(self, command: list[str], environment: dict[str, str], *, on_terminal: bool = False) -> None:
        self._said = ""
        self.up: Up | None = None  # is read on, too: crun waits for that, 30 s
        keys = {"env": environment, "start_new_session": True}
        if on_terminal:
            self._fd, theirs = pty.openpty()
            self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, **keys)
            os.close(theirs)
        else:
            self._fd, theirs = os.pipe()
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, **keys)
            os.close(theirs)
        os.set_blocking(self._fd, False)

    def read(self, timeout_s: float) -> bool:
        """Read on; False at the end of the output or the timeout."""
        until = time.monotonic() + timeout_s
        while True:
            ready = select.select([self._fd, *([self.up] if self.up else [])], [], [], max(0.0, until - time.monotonic()))[0]
            if not ready:
                return False
            if self.up in ready:
                self.up.collect()
            if self._fd in ready:
                break
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError:  # a terminal's end
            return False
        self._said += data.decode("utf-8", "replace")
        return bool(data)

    @property
    def output(self) -> str:
        """As a pipe would have had it: without the colours and columns of a terminal."""
        text = re.sub(r"\x1b\[\d*m", "", self._said).replace("\r\n", "\n")
        return re.sub(r"^(\w+) *\| ?", r"\1: ", text, flags=re.MULTILINE)

    def wait_for(self, *texts: str) -> None:
        until = time.monotonic() + DEADLINE_S
        while not all(text in self.output for text in texts):
            if not self.read(until - time.monotonic()):
                raise AssertionError(f"not all of {texts} in:\n{self.output}")

    def ends_before(self, text: str, count: int) -> bool:
        """False once the text has been there so many times."""
        until = time.monotonic() + DEADLINE_S
        while self.output.count(text) < count:
            if not self.read(until - time.monotonic()):
                return True
        return False

    def wait(self) -> int:
        """The runtime's exit code, after the output's end."""
        until = time.monotonic() + DEADLINE_S
        while self.read(until - time.monotonic()):
            pass
        code = self.process.wait(max(0.1, until - time.monotonic()))
        return code if code >= 0 else 128 - code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # most clean up then
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                pass
        if self.process.poll() is None:
            for pid in [*reversed(below(self.process.pid)), self.process.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.process.wait()
        os.close(self._fd)


def below(pid: int) -> list[int]:
    """Descendants, parents first."""
    try:
        children = [int(one) for one in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return children + [found for child in children for found in below(child)]


def inner_pid(pid: int) -> int:
    """Its number in the innermost pid namespace; 0 if it is gone."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    [line] = [line for line in lines if line.startswith("NSpid:")]
    numbers = line.split()[1:]
    return int(numbers[-1]) if len(numbers) > len(own_numbers()) else 0


def own_numbers() -> list[str]:
    [line] = [line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("NSpid:")]
    return line.split()[1:]


class Runtime:
    """`pid`: what our init's number is inside; `grace`: what the stop is called."""

    name = ""
    pid = 1
    listens = False  # for READY, at NOTIFY_SOCKET
    stop_words = "TERM to PID 1"
    on_terminal = False
    is_for_all = False  # its stop goes to all processes at once

    def __init__(self, root: pathlib.Path, folder: pathlib.Path) -> None:
        self.root = root
        self.folder = folder
        self.container = f"{GROUP}-{self.name}"
        self.prepare()

    def prepare(self) -> None:
        """Once, before the first start."""

    def command(self, words: list[str]) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return dict(BASE)

    def start(self, config: str, *, notify: str = "") -> Running:
        words = [INIT, "--config", f"/etc/pyinit/{config}.toml"]
        return Running(self.command(words), {**self.environment(), **({"NOTIFY_SOCKET": notify} if notify else {})}, on_terminal=self.on_terminal)

    def init(self, running: Running) -> int:
        """The host's number of our init."""
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until:
            for pid in below(running.process.pid):
                if inner_pid(pid) == self.pid:
                    return pid
            select.select([], [], [], 0.01)
        raise AssertionError(f"{self.name}: no init below {running.process.pid}:\n{running.output}")

    def stop(self, running: Running) -> None:
        os.kill(self.init(running), signal.SIGTERM)

    def run(self, *words: str) -> str:
        """A verb of the runtime's own."""
        done = subprocess.run(words, env=self.environment(), capture_output=True, text=True, check=False, timeout=DEADLINE_S)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def clean(self) -> None:
        """Groups that the runtime leaves."""
        for path in sorted(CGROUPS.glob(f"*/{self.container}*/**/"), reverse=True):
            until = time.monotonic() + DEADLINE_S
            while (path / "cgroup.procs").read_text() and time.monotonic() < until:
                select.select([], [], [], 0.01)
            path.rmdir()


def script(*lines: str) -> list[str]:
    """The last one is executed; in a mount namespace of its own."""
    return [*PRIVATE, "sh", "-euc", "; ".join(lines)]


class Unshare(Runtime):
    name = "unshare"

    def command(self, words):
        return script(*self.mounts(), f"exec unshare --pid --fork --kill-child --mount-proc={self.root}/proc chroot {self.root} {' '.join(words)}")

    def mounts(self) -> list[str]:
        root = self.root
        return [
            f"mount --rbind {root} {root}", f"mount -o remount,bind,ro {root}", f"mount -t tmpfs -o mode=755,noexec run {root}/run",
            f"mount -t tmpfs dev {root}/dev", *(f"mknod -m 666 {root}/dev/{node}" for node in ("null c 1 3", "zero c 1 5", "random c 1 8", "urandom c 1 9")),
        ]  # fmt: skip


class Chroot(Unshare):
    name = "chroot"
    pid = 0
    stop_words = "TERM to pyinit"

    def command(self, words):
        return script(*self.mounts(), f"mount --rbind /proc {self.root}/proc", f"exec chroot {self.root} {' '.join(words)} --no-launch")

    def init(self, running):
        return running.process.pid


class Bwrap(Runtime):
    name = "bwrap"

    def command(self, words):
        return ["bwrap", "--unshare-all", "--as-pid-1", "--ro-bind", str(self.root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/run", *words]


class Runc(Runtime):
    name = "runc"
    listens = True
    stop_words = "runc kill ID TERM"

    def prepare(self):
        self.bundle = self.folder / "bundle"
        self.bundle.mkdir()
        self.run("runc", "spec", "--bundle", str(self.bundle))

    def command(self, words):
        return [*self.before(), *self.own("run", "--bundle", str(self.spec(words)), self.container)]

    def before(self) -> list[str]:
        return []

    def own(self, *words: str) -> list[str]:
        return [self.name, "--root", str(self.folder / "state"), *words]

    def init(self, running):
        return int(json.loads(self.run(*self.own("state", self.container)))["pid"])

    def clean(self):
        subprocess.run(self.own("delete", "--force", self.container), env=self.environment(), capture_output=True, check=False)
        super().clean()

    def spec(self, words) -> pathlib.Path:
        found = json.loads((self.bundle / "config.json").read_text())
        found["process"] |= {"terminal": False, "args": words}
        found["root"] = {"path": str(self.root), "readonly": True}
        found["hostname"] = "small"
        found["linux"]["cgroupsPath"] = f"/{self.container}"
        found["mounts"] = [one for one in found["mounts"] if one["destination"] != "/run"]
        found["mounts"].insert(0, {"destination": "/run", "type": "tmpfs", "source": "run", "options": ["nosuid", "noexec", "nodev", "mode=755"]})
        (self.bundle / "config.json").write_text(json.dumps(found))
        return self.bundle

    def stop(self, running):
        self.run(*self.own("kill", self.container, "TERM"))


class Crun(Runc):
    """On a hybrid machine it wants to see cgroup v2 alone."""

    name = "crun"
    stop_words = "crun kill ID TERM"

    def own(self, *words):
        return ["crun", "--cgroup-manager=disabled", "--root", str(self.folder / "state"), *words]  # a device filter needs CAP_SYS_RESOURCE

    def before(self):
        return [*PRIVATE, "sh", "-euc", 'mount -t cgroup2 none /sys/fs/cgroup; exec "$@"', "sh"]


class Nspawn(Runtime):
    name = "nspawn"
    listens = True
    options: tuple[str, ...] = ("--kill-signal=SIGTERM",)
    stop_words = "TERM to systemd-nspawn"
    before: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    held = ("systemd", "unified")  # it makes its groups below the one that it is in

    def where(self) -> list[str]:
        return ["-D", str(self.root)]

    def command(self, words):
        places = [CGROUPS / name / self.container for name in self.held]
        for place in places:
            place.mkdir(exist_ok=True)
        enter = [*(f"echo 0 > {place}/cgroup.procs" for place in places), "mount -t tmpfs -o mode=755 run /run", *self.before]
        own = ["systemd-nspawn", "-q", "--register=no", "--keep-unit", "--link-journal=no", "--console=pipe", "--private-network", "--read-only", "--notify-ready=yes", "--timezone=off", "--resolv-conf=off"]
        return [*script(*enter, 'exec "$@"'), "sh", *self.behind, *own, *self.options, *self.where(), *self.inner(words)]

    def inner(self, words) -> list[str]:
        return list(words)

    def stop(self, running):
        os.kill(self.own(running), signal.SIGTERM)

    def own(self, running) -> int:
        return running.process.pid  # the shell became it


class NspawnPid2(Nspawn):
    name = "nspawn-as-pid2"
    pid = 2
    options = ("--as-pid2", "--kill-signal=SIGRTMIN+3")  # its own PID 1 knows no TERM, and sends one


class NspawnBoot(Nspawn):
    name = "nspawn-boot"
    options = ("--boot",)

    def inner(self, words):
        return ["--", *words[1:]]  # it finds its init itself


class NspawnImage(Nspawn):
    """It wants to know a udev, and asks it nothing of an image without partitions."""

    name = "nspawn-image"
    before = ("mkdir /run/udev",)
    behind = (sys.executable, "-c", (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.bind('/run/udev/control'); s.listen(); "
        "s.set_inheritable(True); os.execvp(sys.argv[1], sys.argv[1:])"
    ))  # fmt: skip

    def prepare(self):
        self.image = self.folder / "small.squashfs"
        subprocess.run(["mksquashfs", self.root, self.image, "-quiet", "-no-progress", "-comp", "lz4"], check=True, capture_output=True)

    def where(self):
        return [f"--image={self.image}"]


class Lxc(Runtime):
    name = "lxc-start"
    stop_words = "lxc-stop"
    on_terminal = True

    def prepare(self):
        config = [
            f"lxc.rootfs.path = dir:{self.root}", "lxc.rootfs.options = ro", "lxc.net.0.type = empty", "lxc.mount.auto = proc:mixed sys:ro", "lxc.autodev = 1",
            "lxc.mount.entry = run run tmpfs nosuid,nodev,noexec,mode=755 0 0", "lxc.uts.name = small", "lxc.console.path = none", "lxc.tty.max = 0",
            "lxc.apparmor.profile = unconfined", f"lxc.cgroup.dir.monitor = {self.container}/monitor", f"lxc.cgroup.dir.container = {self.container}/inner",
            f"lxc.cgroup.dir.monitor.pivot = {self.container}/pivot",
        ]  # fmt: skip
        (self.folder / "config").write_text("\n".join(config) + "\n")

    def command(self, words):
        return ["lxc-start", "-F", "-n", self.container, "-P", str(self.folder), "-f", str(self.folder / "config"), "-o", str(self.folder / "log"), "--", *words]

    def stop(self, running):
        self.run("lxc-stop", "-n", self.container, "-P", str(self.folder), "--nokill", "-t", "20")


class LxcExecute(Lxc):
    name = "lxc-execute"
    pid = 2
    is_for_all = True

    def command(self, words):
        return ["lxc-execute", "-n", self.container, "-P", str(self.folder), "-f", str(self.folder / "config"), "-o", str(self.folder / "log"), "--", *words]


class Podman(Runtime):
    name = "podman"
    stop_words = "podman stop"
    options: tuple[str, ...] = ()

    def prepare(self):
        self.short = tempfile.mkdtemp(prefix="pyinit-")  # podman takes no runroot of over 50 characters
        (self.folder / "containers.conf").write_text(
            '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )

    def environment(self):
        return {**BASE, "CONTAINERS_CONF": str(self.folder / "containers.conf"), "XDG_RUNTIME_DIR": str(self.folder)}

    def podman(self) -> list[str]:
        return ["podman", "--root", str(self.folder / "r"), "--runroot", self.short, "--tmpdir", str(self.folder / "t"), "--storage-driver=vfs"]

    def command(self, words):
        own = ["run", "--rm", "--name", self.container, "--network=none", "--read-only", "--cgroup-parent", f"/{self.container}", "--log-driver=none"]
        return [*self.podman(), *own, *self.options, "--rootfs", str(self.root), *words]

    def init(self, running):
        running.wait_for("up\n")
        return int(self.run(*self.podman(), "inspect", "--format", "{{.State.Pid}}", self.container))

    def stop(self, running):
        self.run(*self.podman(), "stop", "-t", "8", self.container)

    def clean(self):
        super().clean()
        shutil.rmtree(self.short, ignore_errors=True)


class PodmanInit(Podman):
    """Its own init's place taken: one command, by catatonit's words."""

    name = "podman-init"

    def prepare(self):
        super().prepare()
        self.options = ("--init", f"--init-path={self.root}{INIT}")

    def start(self, config, *, notify=""):
        words = {"services": ["all"], "leaves": ["exit", "7"], "one": ["stand", "base"]}[config]
        return Running(self.command(["/usr/bin/python3", "-IS", "/usr/lib/probe.py", *words]), self.environment())


class Nested(Runtime):
    name = "pyinit"
    listens = True
    stop_words = "TERM to pyinit"

    def command(self, words):
        text = f'[container]\nname = "{self.container}"\nlayers = ["{self.root}"]\ninit = "/usr/lib/init-{self.config}"\n'
        path = self.folder / "box.toml"
        path.write_text(text)
        return [str(REPO / "pyinit/cli/pyinit"), "--config", str(path)]

    def start(self, config, *, notify=""):
        self.config = config
        return super().start(config, notify=notify)

    def stop(self, running):
        running.process.send_signal(signal.SIGTERM)


ALL = (Unshare, Chroot, Bwrap, Runc, Crun, Nspawn, NspawnPid2, NspawnBoot, NspawnImage, Lxc, LxcExecute, Podman, PodmanInit, Nested)


class Up(socket.socket):
    """Where a runtime tells that it is ready."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.bind(str(path))
        self.setblocking(False)
        self.told: list[str] = []  # all lines

    def collect(self) -> None:
        """As far as they have come; what a BARRIER=1 brings is closed by not being taken."""
        while True:
            try:
                self.told += self.recv(4096).decode().splitlines()
            except BlockingIOError:
                return
