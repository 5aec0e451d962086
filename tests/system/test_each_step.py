"""Every operation of the plan fails in turn, and its launcher is killed there: one line says so, nothing stays behind."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import signal
import subprocess
import sys
import time
import typing
from collections.abc import Iterator

import pytest
from conftest import REPO, Pyinit, erofs, leftovers, make_busybox, squash, wait_until
from test_images import no_digests_left  # noqa: F401 - a fixture

from pyinit.launch import onhost, operations

pytestmark = pytest.mark.usefixtures("nothing_left", "no_digests_left")

CONFIG = """
[init]
exit = "when-main-exits"
main = "app"
stop_timeout = "1s"
[container]
name = "pyinit-test"
hostname = "every-step"
layers = ["base.squashfs@sha256:{base}", "folder", "upper.squashfs"]
writable = "./state"
writable_paths = ["/data", "/new/place"]
share = ["ipc:/proc/self/ns/ipc"]
user_namespace = {{ map = [{{ inside = 0, outside = 200000, count = 65536 }}] }}
time_offsets = {{ boottime = "1h" }}
[[container.mounts]]
type = "squashfs"
source = "upper.squashfs@sha256:{upper}"
target = "/again"
[[container.mounts]]
type = "squashfs"
source = "image:/inner.squashfs"
target = "/inner"
[[container.mounts]]
type = "erofs"
source = "app.erofs"
target = "/app"
[[container.mounts]]
type = "tmpfs"
target = "/run/config"
size = "1M"
read_only = true
files = {{ "sub/word" = "of the file\\n" }}
[[container.mounts]]
type = "bind"
source = "folder"
target = "/bound"
read_only = true
[[container.mounts]]
type = "bind"
source = "shared"
target = "/shared"
propagation = "slave"
idmap = {{ uid = ["0:7"] }}
[[container.mounts]]
type = "overlay"
target = "/over"
layers = ["folder", "upper.squashfs"]
writable = "./over"
[[container.mounts]]
type = "fuse.squashfuse"
source = "{folder}/upper.squashfs"
target = "/fused"
read_only = true
[container.secrets]
of-file = {{ file = "services.toml" }}
of-command = {{ command = ["/bin/echo", "hidden"] }}
of-variable = {{ env = "PATH" }}
[container.sysctl]
"net.ipv4.ip_unprivileged_port_start" = 79
[container.security]
devices = ["/dev/fuse"]
[container.hooks]
prestart = [["/bin/true"]]
poststop = [["/bin/true", "after all"]]
[container.cgroup]
memory_max = "256M"
pids_max = 100
[container.network]
mode = "veth"
bridge = "pyinit-t0"
address = "10.92.7.2/24"
gateway = "10.92.7.1"
publish = ["127.0.0.1:18080:80", "[::1]:18080:80"]
outbound = [{{ to = "10.92.7.0/24", ports = [80] }}]
dns = ["10.92.7.1"]
[services.app]
log = {{ to = "stdout", timestamp = "none" }}
command = ["/bin/sh", "/bin/inventory"]
"""
OTHERS = 6  # calls of each side, besides the first of each kind
HOST, INSIDE, BUILT = ([kind.__name__ for kind in typing.get_args(kinds)] for kinds in (onhost.OnHost, operations.Inside | operations.Own, onhost.WhenBuilt))
INSIDE.remove("JoinNamespace")  # it is PID 1's in the root of another only: see `guest`
ERRNOS = (errno.EPERM, errno.ENOSPC, errno.EBUSY, errno.ENOENT)
# All that a start makes, as the container sees it; without numbers that differ at each.
INVENTORY = """
awk '{ print $4, $5, $6, $(NF - 2) }' /proc/self/mountinfo
ls -ln /dev | awk '{ print $1, $3, $4, $NF }'
hostname; cat /etc/hosts /etc/hostname /run/config/sub/word /again/word /inner/word /app/word /bound/word /shared/word /over/word /over/data/word /fused/word /run/secrets/of-command /data/word
ip -4 -o addr show host0 | awk '{ print $4 }'; ip -4 -o addr show lo | awk '{ print $4 }'; ip route
for name in kcore keys timer_list; do ls -ln /proc/$name | awk '{ print $1, $5, $6 }'; done
grep -E "Cap|NoNewPrivs" /proc/self/status
cat /proc/self/uid_map /proc/self/gid_map /proc/self/timens_offsets; readlink /proc/self/ns/ipc; ls -lnd / /data /new/place /app/word /again/word /over/word /bound/word /shared/word | awk '{ print $3, $4, $9 }'
echo > /new/place/x && rm /new/place/x && echo > /data/x && rm /data/x && echo writable
echo whole
"""


class Driver:
    """each_step.py over one config; `steps` are the operations of its plan: (origin, words, class)."""

    def __init__(self, path: pathlib.Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, REPO / "tests/system/each_step.py", path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(REPO)},
        )  # fmt: skip
        self.is_at_one = False  # a start that nobody has waited for yet
        self.steps: list[tuple[str, str, str]] = [tuple(row) for row in self.do("plan")]

    def do(self, order: str, **keys):
        self.is_at_one = order != "wait" if order in ("start", "wait") else self.is_at_one
        self.process.stdin.write(json.dumps({"do": order, **keys}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def run(self, **keys) -> dict:
        self.do("start", **keys)
        self.do("release")
        return self.do("wait")

    def settle(self) -> None:
        """After a test that failed in the midst of a start: that ends, and the next one undoes what it left."""
        if self.is_at_one:
            self.do("abandon")
            self.run()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    base, upper = make_busybox(folder / "base"), folder / "upper"
    (base / "bin/inventory").write_text(INVENTORY)
    for name in ("inner", "upper", "app", "folder"):
        (folder / name).mkdir()
        (folder / name / "word").write_text(f"of {name}\n")
    (upper / "data").mkdir()
    (upper / "data/word").write_text("of data\n")
    squash(folder / "inner", base / "inner.squashfs")
    erofs(folder / "app", folder / "app.erofs")
    digests = {path.stem: hashlib.sha256(squash(path, path.with_suffix(".squashfs")).read_bytes()).hexdigest() for path in (base, upper)}
    (folder / "services.toml").write_text(CONFIG.format(**digests, folder=folder))
    (folder / "shared").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "shared", folder / "shared"], check=True)
    subprocess.run(["mount", "--make-shared", folder / "shared"], check=True)
    (folder / "shared/word").write_text("of what is shared\n")
    yield folder / "services.toml"
    subprocess.run(["umount", folder / "shared"], check=True)


@pytest.fixture(scope="module")
def one_driver(config):
    driver = Driver(config)
    yield driver
    driver.close()


@pytest.fixture
def driver(one_driver):
    yield one_driver
    one_driver.settle()


def seen() -> dict[str, list[str]]:
    found = leftovers()
    return {**found, "run": [name for name in found["run"] if not name.endswith("/.digests")]}


def same_as(before: dict[str, list[str]], what: str) -> None:
    """A namespace's links and loops go a moment after its last process."""
    deadline = time.monotonic() + 1.0
    while (now := seen()) != before and time.monotonic() < deadline:
        pass
    assert now == before, what


def run_whole(driver: Driver, what: str = "") -> list[str]:
    """The inventory of a start as it should be."""
    done = driver.run()
    assert (done["code"], done["left"], "app: whole\n" in done["text"]) == (0, [], True), f"{what}: {done}"
    return [line for line in done["text"].splitlines() if line.startswith("app: ")]


def test_the_config_has_every_kind_of_operation(driver):
    assert {*HOST, *INSIDE, *BUILT} == {kind for _, _, kind in driver.steps}
    assert len(run_whole(driver)) > 60


def test_each_operation_fails_in_turn(driver):
    """Before and after it, by what the kernel says most: the words, the undoing, and a new start."""
    whole = run_whole(driver)
    before = seen()
    for number, (origin, words, _) in enumerate(driver.steps):
        for when in ("before", "after"):
            for code in ERRNOS if when == "before" else (ERRNOS[number % len(ERRNOS)],):
                done = driver.run(step=number, when=when, errno=code)
                what = f"{when} step {number}, {words}, {errno.errorcode[code]}: {done}"
                start, _, hint = done["text"].rstrip("\n").partition(f"{origin}: {words}: {os.strerror(code)}")
                assert (done["code"], start, hint[:2] in ("", "; "), done["text"].count("\n")) == (111, "pyinit: ", True, 1), what
                assert done["left"] + done["ended"] == [], what
                same_as(before, what)
        if number % 3 == 0:
            assert run_whole(driver, f"after a failed {words}") == whole
    same_as(before, "at the end")


def test_kill_9_of_the_monitor_at_each_operation_then_a_new_start(driver):
    """At once, while what it left may still hang where it was; each new start is whole, and undoes it all."""
    whole = run_whole(driver)
    before = seen()
    for number, (_, words, kind) in enumerate(driver.steps):
        for when in ("before", "after") if kind in (*HOST, *BUILT, "Pivot", "LimitCapabilities") else ("before",):  # elsewhere it is the next's before
            driver.do("start", step=number, when=when)
            driver.do("kill")
            assert run_whole(driver, f"killed {when} step {number}, {words}") == whole
            same_as(before, f"killed {when} step {number}, {words}")


def test_kill_9_of_the_monitor_in_the_midst_of_its_network(driver, tmp_path):
    """Whoever makes it is stopped where the bridge is there and the addresses are not; it ends when it may go on."""
    whole = run_whole(driver)
    before = seen()
    pid = Side("network helper", "MakeCgroup", 0).begin(driver)
    log = tmp_path / "log"
    with traced(pid, log, "-e", "trace=setns", "-e", "inject=setns:signal=STOP:when=1"):
        driver.do("release")
        wait_until(lambda: "stopped by SIGSTOP" in log.read_text(), "the helper's stop")
        driver.do("kill")
    driver.do("start")
    os.kill(pid, signal.SIGCONT)
    done = driver.do("wait")
    assert (done["code"], done["left"], [line for line in done["text"].splitlines() if line.startswith("app: ")]) == (0, [], whole), done
    assert driver.do("said by what was killed") == ""
    same_as(before, "at the end")


def test_what_a_case_leaves_that_fails_in_the_midst_of_a_start_is_gone_before_the_next(driver):
    before = seen()
    for side in (SIDES[0], *SIDES[-2:]):
        with pytest.raises(ZeroDivisionError), traced(side.begin(driver), pathlib.Path(os.devnull)):
            raise ZeroDivisionError
        driver.settle()
        same_as(before, side.name)
    assert run_whole(driver)


def test_a_link_of_another_program_by_that_name_stays(driver):
    name = "ve-pyinit-test"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    try:
        done = driver.run()
        origin, words, _ = next(step for step in driver.steps if step[2] == "MakeNetwork")
        assert done["text"] == (
            f"pyinit: {origin}: {words}: File exists; a link {name} is there already: another program's, remove it or name the container otherwise\n"
        )
        assert name in os.listdir("/sys/class/net")
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)


GUEST = """
[init]
exit = "when-main-exits"
main = "app"
[container]
name = "pyinit-guest"
share = ["mount:pyinit-other", "pid:pyinit-other"]
[container.sysctl]
"net.ipv4.ip_unprivileged_port_start" = 79
[container.hooks]
prestart = [["/bin/true"]]
[services.app]
log = { to = "stdout", timestamp = "none" }
command = ["/bin/sh", "-c", "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo whole"]
[services.logged]
command = ["/bin/sleep", "1000"]
"""


@pytest.fixture
def other(bench, busybox):
    """Starts one, in whose root another may stand."""

    def start() -> Pyinit:
        box = bench.start(f'[container]\nname = "pyinit-other"\nlayers = ["{busybox}"]\n[services.app]\ncommand = ["/bin/sleep", "1000"]\n', name="other.toml")
        box.wait_for("app: ready")
        return box

    return start


@pytest.fixture
def guest(bench, other):
    """A driver of such a one."""
    other()
    driver = Driver(bench.write(GUEST))
    yield driver
    driver.close()


def in_other() -> list[str]:
    """What is in that root's /run and mounted there."""
    pid = pathlib.Path("/run/pyinit/pyinit-other/pid").read_text().strip()
    return [*sorted(os.listdir(f"/proc/{pid}/root/run")), *pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]


def test_each_operation_in_the_root_of_another_fails_in_turn_and_is_where_its_monitor_is_killed(guest):
    before, inside = seen(), in_other()
    whole = run_whole(guest)
    assert [kind for _, _, kind in guest.steps] == [
        "JoinNamespace", "Isolate", "MakeCgroup", "SetHostname", "SetSysctl", "JoinKeyring", "JoinNamespace", "LimitCapabilities", "FilterCalls", "RunHook",
    ]  # fmt: skip
    for number, (origin, words, kind) in enumerate(guest.steps):
        for when in ("before", "after"):
            code = ERRNOS[number % len(ERRNOS)]
            done = guest.run(step=number, when=when, errno=code)
            what = f"{when} step {number}, {words}: {done}"
            start, _, hint = done["text"].rstrip("\n").partition(f"{origin}: {words}: {os.strerror(code)}")
            assert (done["code"], start, hint[:2] in ("", "; "), done["text"].count("\n")) == (111, "pyinit: ", True, 1), what
            assert done["left"] + done["ended"] == [], what
            assert (seen(), in_other()) == (before, inside), what
            if when == "before" or kind == "JoinNamespace":
                guest.do("start", step=number, when=when)
                guest.do("kill")
                assert run_whole(guest, f"killed {what}") == whole
                assert (seen(), in_other()) == (before, inside), f"killed {what}"


def test_the_other_ends_while_it_is_made(guest, bench, other):
    before = seen()
    over = "the pid namespace of container pyinit-other has ended, and this container, which is in it by share, with it"
    unborn = "clone PID 1 into new namespaces: uts ipc cgroup net: the pid namespace that it joins has just ended (pid_namespaces(7)); start whose it is first"
    for step, said in (("Isolate", f"5: {unborn}"), ("MakeCgroup", f"7: {over}"), ("LimitCapabilities", f"7: {over}")):
        pid = guest.do("start", step=next(number for number, (_, _, kind) in enumerate(guest.steps) if kind == step), when="before")
        bench.running[-1].process.terminate()
        if step == "Isolate":  # else the other's end waits for that of ours to be reaped
            assert bench.running[-1].wait() == 0
        for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            wait_until(lambda: "State:\tZ" in pathlib.Path(f"/proc/{child}/status").read_text(), "its end")  # noqa: B023 - it is called here
        guest.do("release")
        done = guest.do("wait")
        assert bench.running[-1].wait() == 0
        assert (done["code"], done["text"], done["left"]) == (111, f"pyinit: {bench.folder}/services.toml:{said}\n", []), step
        other()
        same_as(before, step)


def test_each_system_call_of_who_joins_the_root_of_another_fails_in_turn(guest, tmp_path):
    whole = run_whole(guest)
    before, inside = seen(), in_other()
    config = guest.steps[0][0].rpartition(":")[0]
    side = InOther("PID 1", "JoinNamespace", 1)
    calls = [one for one in calls_of(guest, side, tmp_path / "log") if one[1] == 1]
    assert {"setns", "openat", "keyctl", "prctl"} <= {call for call, _ in calls}
    for call, number in calls:
        done = run_traced(guest, side, tmp_path / "log", "-e", f"trace={call}", "-e", f"inject={call}:error=EPERM:when={number}")
        what = f"{call} {number}: {done}"
        lacks = [line for line in whole if line not in done["text"].splitlines()]
        assert done["code"] == 111 or not lacks, what
        assert done["code"] == 0 or re.fullmatch(rf"(pyinit: .* is left behind: .*\n)*pyinit: ({config}:\d+|{WHEN_BUILT}): .*\n", done["text"]), what
        assert done["left"] + done["ended"] == [], what
        same_as(before, what)
        assert in_other() == inside, what


@pytest.mark.parametrize("how", ["--verbose", "PYINIT_VERBOSE"])
def test_verbose_tells_each_operation_with_its_line_as_it_is_carried_out(bench, driver, config, how):
    box = Pyinit(config, *([how] if how[0] == "-" else []), environment={"PYINIT_VERBOSE": "1"} if how[0] != "-" else {})
    bench.running.append(box)
    assert box.wait() == 0
    rows = re.findall(r"^pyinit: \+(\d+\.\d) ms  (.*)  \[(.*)\]$", box.output, re.M)
    told = [(origin, words) for _, words, origin in rows]
    host, inside, built = ([(origin, words) for origin, words, kind in driver.steps if kind in kinds] for kinds in (HOST, INSIDE, BUILT))
    assert sorted(told) == sorted(host + inside + built)
    assert [row for row in told if row in host] == host
    assert [row for row in told if row not in host] == inside + built  # PID 1 makes them while the launcher makes the network
    times = [float(passed_ms) for passed_ms, _, _ in rows]
    assert 0 < times[0] < times[-1] < 20_000


def test_a_library_of_a_module_that_can_t_be_loaded_is_told(driver, tmp_path):
    """One that only those with a network have."""
    whole = run_whole(driver)
    before = seen()
    path = resource.__file__
    done = run_traced(driver, SIDES[0], tmp_path / "log", "-e", "trace=openat", "-P", path, "-e", "inject=openat:error=EMFILE")
    origin = f"{driver.steps[0][0].rpartition(':')[0]}:6"
    assert done["text"] == f"pyinit: {origin}: container pyinit-test: {path}: cannot open shared object file: Too many open files\n"
    assert (done["code"], done["left"] + done["ended"]) == (111, [])
    same_as(before, "at the end")
    assert run_whole(driver) == whole


CALLS = (
    "mount", "umount2", "fsopen", "fsconfig", "fsmount", "move_mount", "open_tree", "mount_setattr", "pivot_root", "mknod", "mknodat", "symlink",
    "symlinkat", "mkdir", "mkdirat", "openat", "openat2", "sethostname", "clone", "clone3", "ioctl", "chown", "fchown", "chmod", "fchmod", "fchmodat",
    "unshare", "setns", "prctl", "capset", "getxattr", "lgetxattr", "chdir", "fchdir", "write", "rename", "flock", "fcntl", "socket", "socketpair",
    "bind", "sendto", "sendmsg", "setsid", "pipe2", "keyctl",
)  # fmt: skip
MARKS: tuple[str, ...] = ("sched_yield", "execve")
WHEN_BUILT = "the init can't start"  # what PID 1 says of itself, once the launcher listens no more
SECRETS = "app: / /run/secrets ro,nosuid,nodev,noexec,relatime {}"  # of tmpfs, or of ramfs where noswap is refused: neither reaches the swap
LOOKUPS = ("openat", "openat2")  # of which ENOENT is no failure but the answer that there is no such thing


class Side(typing.NamedTuple):
    """A process of the launch, from the moment that its launcher, or it, is held before `step`.

    `step` is the first of its class, "" the very beginning; `inner_pid` is the process's number in the container, 0 for the
    network's helper, which has none there; -1 for the launcher itself.
    """

    name: str
    step: str
    inner_pid: int = -1
    options: tuple[str, ...] = ()
    does: str = "execve"  # with options that follow children: the call by which the process is known

    def begin(self, driver: Driver) -> int:
        if not self.step:
            return driver.do("start", gated=True)
        number = next(number for number, (_, _, kind) in enumerate(driver.steps) if kind == self.step)
        pid = driver.do("start", step=number, when="before")
        if "State:\tZ" in pathlib.Path(f"/proc/{pid}/status").read_text():
            raise AssertionError(f"it ended before {self.step}: {driver.do('wait')}")
        if self.inner_pid < 0:
            return pid
        found = {}
        for one in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            status = pathlib.Path(f"/proc/{one}/status").read_text()
            numbers = re.findall(r"^NSpid:(.*)$", status, re.M)[0].split()
            found.setdefault(int(numbers[1]) if len(numbers) > 1 else 0, int(one))  # the helper is the first of those outside
        return found[self.inner_pid]


class InOther(Side):
    """PID 1 of such a one, whose number in the other's pid namespace may be any: the only child that its launcher has then."""

    def begin(self, driver: Driver) -> int:
        pid = driver.do("start", step=max(number for number, (_, _, kind) in enumerate(driver.steps) if kind == self.step), when="before")
        [child] = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        own = os.readlink(f"/proc/{pid}/ns/cgroup")
        wait_until(lambda: os.readlink(f"/proc/{child}/ns/cgroup") != own, "the last that it does before it is let go")
        return int(child)


SIDES = (
    Side("launcher", ""), Side("network helper", "MakeCgroup", 0), Side("PID 1's birth", "Isolate", options=("-f",)),
    Side("midwife", "Isolate", options=("-f",), does="setns"), Side("clocks", "SetClocks", options=("-f",), does="unshare"),
    Side("builder", "Stage", 2), Side("PID 1", "Pivot", 1),
)  # fmt: skip


@contextlib.contextmanager
def traced(pid: int, log: pathlib.Path, *options: str) -> Iterator[subprocess.Popen]:
    """By strace, which is gone at the end."""
    tracer = subprocess.Popen(["strace", "-qq", "-o", log, "-p", str(pid), *options])
    status = pathlib.Path(f"/proc/{pid}/status")

    def is_attached() -> bool:
        if tracer.poll() is not None:  # the network's helper goes on meanwhile, and the call that fails may be its end before we look
            assert tracer.returncode == 0, f"strace left with {tracer.returncode}: {_of_process(pid)}"
            return True
        return "TracerPid:\t0\n" not in status.read_text()

    try:
        try:
            wait_until(is_attached, "strace")
        except AssertionError as error:
            raise AssertionError(f"{error}: {_of_process(tracer.pid)}{_of_process(pid)}") from None
        yield tracer
    finally:
        tracer.terminate()
        tracer.wait(10)


def _of_process(pid: int) -> str:
    """What it is and what it waits for, in the kernel."""
    told = ""
    for name in ("cmdline", "status", "wchan", "stack", "syscall"):
        with contextlib.suppress(OSError):  # it is gone
            told += f"{name} of {pid}: {pathlib.Path(f'/proc/{pid}/{name}').read_text()}\n"
    return told


def run_traced(driver: Driver, side: Side, log: pathlib.Path, *options: str) -> dict:
    with traced(side.begin(driver), log, *side.options, *options) as tracer:
        driver.do("release")
        done = driver.do("wait")
        tracer.wait(10)
    return done


def calls_of(driver: Driver, side: Side, log: pathlib.Path) -> list[tuple[str, int]]:
    """(call, which of its kind) of all that one side does to build, the launcher also to undo; a sched_yield of the driver's marks the end."""
    done = run_traced(driver, side, log, "-e", f"trace={','.join(CALLS)},sched_yield,execve")
    assert done["code"] == 0, done
    rows = re.findall(r"^(\d+ +)?(\w+)\(", log.read_text(), re.M)
    if side.options:  # with the children: what the one does that is meant
        born = next(row[0] for row in rows if row[1] == side.does)
        rows = [row for row in rows if row[0] == born]
    ends = MARKS
    calls = [call for _, call in rows]
    if not side.step:  # to its very end, with the undoing
        ends = ()
    if side.inner_pid == 1:  # its last word to the launcher
        calls = calls[: calls.index("sendto") + 1]
    calls = calls[: next((number for number, call in enumerate(calls) if call in ends), len(calls))]
    calls = [call for call in calls if call not in MARKS]
    return [(call, calls[: number + 1].count(call)) for number, call in enumerate(calls)]


def test_each_system_call_fails_in_turn(driver, tmp_path):
    """The first of each kind, and others by chance: an error in words, or a whole container; nothing behind."""
    whole = run_whole(driver)
    before = seen()
    seed = random.randrange(1000)
    choose = random.Random(seed)
    config = driver.steps[0][0].rpartition(":")[0]
    for side in SIDES:
        calls = calls_of(driver, side, tmp_path / "log")
        assert len(calls) > (2 if side.options else 5), side
        first = [one for one in calls if one[1] == 1 or one[0] in ("sendto", "setns")]
        others = [one for one in calls if one not in first]
        for call, number in first + choose.sample(others, min(len(others), OTHERS)):
            code = choose.choice(("EPERM", "EBUSY", "ENOSPC", *(() if call in LOOKUPS else ("ENOENT",))))
            done = run_traced(driver, side, tmp_path / "log", "-e", f"trace={call}", "-e", f"inject={call}:error={code}:when={number}")
            what = f"seed {seed}, {side.name}, {call} {number}, {code}: {done}"
            lines = done["text"].splitlines()
            if done["code"] == 0:
                lacks = [line for line in whole if line not in lines]
                if code == "EPERM" and SECRETS.format("ramfs") in lines:
                    lacks = [line for line in lacks if line != SECRETS.format("tmpfs")]
                assert not lacks or re.search("^pyinit: (?!app: )", done["text"], re.M), f"{lacks} without a word: {what}"
            else:
                assert done["code"] == 111, what
                assert re.fullmatch(rf"(pyinit: .* is left behind: .*\n)*pyinit: ({config}:\d+|the control socket .*|{WHEN_BUILT}): .*\n", done["text"]), what
            assert done["left"] == [], what
            assert done["ended"] == [] or "left behind" in done["text"], what  # a moment later, as what it served had
            if "left behind" in done["text"] or call in ("flock", "fcntl"):  # who can't lock a file can't know whose it is
                assert run_whole(driver, what) == whole
            same_as(before, what)
