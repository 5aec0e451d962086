"""Real containers: an image of busybox, a running pyinit, and what must not be left behind."""

import contextlib
import fcntl
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest

REPO = pathlib.Path(__file__).parents[2]
DEADLINE_S = 20.0
LAST = ("test_network_files", "test_cgroup2")  # each has a guest, and they boot at the same time
APPLETS = [
    "awk", "sh", "cat", "ls", "ps", "sleep", "env", "id", "hostname", "mount", "echo", "kill", "true", "false", "touch", "readlink", "dd", "wc", "head", "grep", "nc", "ip", "seq", "yes", "setsid"]


def pytest_collection_modifyitems(items):
    for item in items:
        if "system" in item.path.parts and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="containers need root: run tests/run as root"))
    items.sort(key=lambda item: (bool({"system", "runtimes"} & set(item.path.parts)), LAST.index(item.path.stem) if item.path.stem in LAST else -1))  # fast ones first


def make_busybox(folder: pathlib.Path) -> pathlib.Path:
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "run", "root"):
        (folder / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", folder / "bin/busybox")
    for name in APPLETS:
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\napp:x:1000:\nextra:x:1001:app\n")
    return folder


def squash(folder: pathlib.Path, image: pathlib.Path, *options: str) -> pathlib.Path:
    subprocess.run(["mksquashfs", folder, image, "-quiet", "-no-progress", "-noappend", *options], check=True, capture_output=True)
    return image


def erofs(folder: pathlib.Path, image: pathlib.Path, *options: str) -> pathlib.Path:
    subprocess.run(["mkfs.erofs", *options, image, folder], check=True, capture_output=True)
    return image


@pytest.fixture(scope="session")
def busybox(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("image")
    return squash(make_busybox(folder / "tree"), folder / "busybox.squashfs")


@pytest.fixture(scope="session")
def web_images() -> pathlib.Path:
    """Built once for this checkout, perhaps by tests/run at this moment; the example uses the same."""
    folder = REPO / "examples/web/images"
    folder.mkdir(exist_ok=True)
    with (folder / ".build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    subprocess.run(
        [shutil.which("python3", path="/usr/bin") or "python3", "-m", "pyinit", "build", "examples/web/build.toml"],
        cwd=REPO, check=True, capture_output=True, timeout=600,
    )  # fmt: skip
    return folder


class Pyinit:
    """One running `pyinit --config`; everything that it prints is in `.output`."""

    def __init__(self, config: pathlib.Path, *options: str, command=(sys.executable, "-m", "pyinit"), **keys) -> None:
        """`command`: how pyinit is started; `keys` are Popen's, but for `environment`, which is added to ours."""
        self.config = config
        self.output = ""
        environment = {**os.environ, **keys.pop("environment", {})}
        self.process = subprocess.Popen(
            [*command, "--config", str(config), *options],
            **{"cwd": REPO, "env": environment, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **keys},
        )
        os.set_blocking(self.process.stdout.fileno(), False)

    def read(self, timeout_s: float) -> bool:
        """Read on; False at the end of the output or the timeout."""
        fd = self.process.stdout.fileno()
        if not select.select([fd], [], [], max(0.0, timeout_s))[0]:
            return False
        data = os.read(fd, 1 << 16)
        self.output += data.decode("utf-8", "replace")
        return bool(data)

    def wait_for(self, text: str, *, count: int = 1, timeout_s: float = DEADLINE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while self.output.count(text) < count:
            if not self.read(deadline - time.monotonic()):
                raise AssertionError(f"no {text!r} ({count} times) in:\n{self.output}")

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """The exit code, after the output's end."""
        deadline = time.monotonic() + timeout_s
        while self.read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()


def open_files(pid: int) -> list[str]:
    """What each of its descriptors is; one may be closed while we look."""
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
    return found


def wait_until(condition, what: str, timeout_s: float = DEADLINE_S) -> None:
    """For what tells no one that it is there: a file that grows, a process of another namespace."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        select.select([], [], [], 0.01)


def read(path: pathlib.Path) -> bytes:
    """b"" for what is not there, as a log is for a moment while it is rotated."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def verb(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyinit", *words], cwd=REPO, capture_output=True, text=True, timeout=60, check=False
    )


class Bench:
    """Writes configs, starts them, and knows what a container may leave behind."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.running: list[Pyinit] = []

    def write(self, text: str, name: str = "services.toml") -> pathlib.Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def start(self, text: str, *options: str, name: str = "services.toml", **keys) -> Pyinit:
        found = Pyinit(self.write(text, name), *options, **keys)
        self.running.append(found)
        return found

    def close(self) -> None:
        for one in self.running:
            one.close()


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.close()


class Runtime:
    """PID 1 of a container that a program of somebody else's made."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.running: list[Pyinit] = []

    def start(self, command: tuple[str, ...], services: str, state_dir: str = "", **keys) -> Pyinit:
        """`command`: the other program and its options, of the kind that runs the words that follow in a pid namespace."""
        state = state_dir or f"{self.folder}/state"
        head = f'[init]\ncontrol_socket = "{self.folder}/s"\nstate_dir = "{state}"\nlog_dir = "{self.folder}/log"\nstop_timeout = "4s"\n'
        (self.folder / "services.toml").write_text(head + services)
        self.running.append(Pyinit(self.folder / "services.toml", command=(*command, sys.executable, "-m", "pyinit"), **keys))
        return self.running[-1]

    def verb(self, *words: str) -> subprocess.CompletedProcess[str]:
        return verb(words[0], "--socket", f"{self.folder}/s", *words[1:])

    def pid(self, box: Pyinit) -> int:
        """PID 1's number here; its parent forwards no signal."""
        children = pathlib.Path(f"/proc/{box.process.pid}/task/{box.process.pid}/children")
        wait_until(children.read_text, "PID 1")
        return int(children.read_text())

    def close(self) -> None:
        for box in self.running:
            if box.process.poll() is None:
                os.kill(self.pid(box), signal.SIGTERM)
                box.wait()
            box.close()


@pytest.fixture
def runtime(tmp_path):
    runtime = Runtime(tmp_path)
    yield runtime
    runtime.close()


@pytest.fixture(scope="session")
def cgroup2_guest(request, tmp_path_factory):
    """The guest of test_cgroup2.py, which needs nothing of this host: it is at work while the other one waits for servers. None if nobody will ask."""
    import test_cgroup2

    wanted = any(item.path.stem == test_cgroup2.__name__ for item in request.session.items)
    guest = test_cgroup2.boot(tmp_path_factory.mktemp("guest")) if wanted else None
    yield guest
    if guest is not None:
        guest.close()


@pytest.fixture(scope="session")
def arena(request, tmp_path_factory):
    """Where the rows of tests/system/attacks are performed; what each gave stays in pytest's cache."""
    import harness  # of that folder, which has no conftest.py: there can't be two of the name

    def note(row, result):
        found = request.config.cache.get(harness.CACHE, {})
        found[row.id] = {"with": result.refused, "without": result.succeeds, "alone": result.alone}
        request.config.cache.set(harness.CACHE, found)

    return harness.Arena(tmp_path_factory.mktemp("attacks"), note)


def leftovers() -> dict[str, list[str]]:
    """What there is of ours on this host now, by kind."""
    mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    loops = []
    for path in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            loops.append(path.read_text().strip())
        except OSError:
            continue
    groups = [str(path) for path in pathlib.Path("/sys/fs/cgroup").glob("**/pyinit-*") if path.is_dir()]
    links = [name for name in os.listdir("/sys/class/net") if name.startswith(("ve-", "pyinit"))]
    places = sorted(str(path) for path in pathlib.Path("/run/pyinit").glob("*") if path.name != ".kept")  # between starts, by intent
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {"tables": tables, "mounts": mounts, "loops": sorted(loops), "cgroups": sorted(groups), "links": sorted(links), "run": places}


@pytest.fixture
def nothing_left():
    """The host looks afterwards as it did before; a namespace's links and loops go a moment after its last process."""
    before = leftovers()
    yield
    deadline = time.monotonic() + 5.0
    while leftovers() != before and time.monotonic() < deadline:
        select.select([], [], [], 0.01)
    assert leftovers() == before  # whose difference pytest shows
