"""An image that wants to be run by PID 1: nothing of it is opened but passwd and group, and no library is loaded.

The truth is asked of the kernel: strace writes down every file that PID 1 and its logger open after the pivot.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from conftest import REPO, make_busybox, squash, verb
from test_container import config

pytestmark = pytest.mark.usefixtures("nothing_left")

# Of the kernel's, of our own making, and the two files that are read by our own reader.
ALLOWED = re.compile(r"/proc(/.*)?|/dev/null|/etc/(passwd|group)|/run/pyinit(/.*)?|/var/log/pyinit(/.*)?|(cgroup|memory)\.\w+|svc-\w+|\.")
# Besides: what is only walked through, and a log by its folder's descriptor.
WALKED = re.compile(r'open\w*\([^"]*"/(run)?", [^"]*\bO_PATH\b[^"]*\bO_DIRECTORY\b|open\w*\([^"]*"/(run)?", [^"]*\bO_DIRECTORY\b[^"]*\bO_PATH\b|openat2?\(\d+, "current"')
TRAPS = (
    "etc/nsswitch.conf", "etc/ld.so.cache", "etc/ld.so.preload", "etc/localtime", "etc/resolv.conf", "etc/host.conf",
    "usr/lib/python3.11/traceback.py", "usr/lib/python3.11/os.py", "usr/lib/python3.11/json/__init__.py",
    "usr/lib/python3.11/encodings/idna.py", "usr/lib/python3/dist-packages/pyinit.py",
    "usr/lib/x86_64-linux-gnu/gconv/gconv-modules", "usr/lib/locale/locale-archive",
    "lib/x86_64-linux-gnu/libnss_files.so.2", "lib/x86_64-linux-gnu/libnss_evil.so.2", "lib/x86_64-linux-gnu/libgcc_s.so.1",
    "lib64/ld-linux-x86-64.so.2",
)  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> pathlib.Path:
    """Where a library or Python would look: FIFOs, which whoever opens them hangs on."""
    folder = make_busybox(tmp_path_factory.mktemp("hostile") / "tree")
    for name in TRAPS:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)
    (folder / "etc/nsswitch.conf").unlink()
    (folder / "etc/nsswitch.conf").write_text("passwd: evil\ngroup: evil\nhosts: evil\n")
    return squash(folder, folder.parent / "hostile.squashfs")


SERVICES = """
[services.stranger]
command = ["/bin/true"]
user = "nobody-of-this-image"
restart_delay = { first = "10s" }
[services.missing]
command = ["/bin/not-there"]
restart_delay = { first = "10s" }
[services.quick]
command = ["/bin/sh", "-c", "sleep 0.1"]
restart_delay = { first = "50ms" }
"""


def test_pid_1_opens_nothing_of_a_hostile_image(bench, hostile, tmp_path):
    text = config(hostile, "echo up; while :; do sleep 0.1; done", service='user = "app"\n' + SERVICES)
    trace = tmp_path / "trace"
    calls = "trace=openat,open,openat2,execve,pivot_root,clone3"
    box = bench.start(text, command=("strace", "-f", "-o", str(trace), "-e", calls, sys.executable, "-m", "pyinit"))
    box.wait_for("app: up")
    for words in (("status", "--json"), ("logs", "-n", "3", "quick"), ("restart", "quick"), ("signal", "WINCH", "app"), ("stop", "quick")):
        done = verb(*words)
        assert (words, done.returncode, done.stderr) == (words, 0, "")
    box.wait_for("quick: stopped")
    assert verb("shutdown").returncode == 0
    assert box.wait() == 0
    opened = opened_after_pivot(trace.read_text())
    assert "/etc/passwd" in opened
    assert sorted(path for path in opened if not ALLOWED.fullmatch(path)) == []


def opened_after_pivot(text: str) -> set[str]:
    """Paths that PID 1 and its forks (up to their exec) ask for."""
    ours, opened = set(), set()
    for line in text.splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.startswith("pivot_root("):
            ours.add(pid)
        elif pid in ours and call.startswith("clone3(") and (found := re.search(r"=> \{.*\} = (\d+)$|= (\d+)$", call)):
            ours.add(found[1] or found[2])
        elif pid in ours and call.startswith("<... clone3 resumed>") and (found := re.search(r"= (\d+)$", call)):
            ours.add(found[1])
        elif pid in ours and call.startswith("execve(") and "= 0" in call:
            ours.discard(pid)
        elif pid in ours and call.startswith("open") and not WALKED.match(call):
            opened |= set(re.findall(r'^open\w*\([^"]*"([^"]*)"', call))
    return opened


def test_what_is_wrong_with_a_service_is_said_with_its_line(bench, busybox):
    box = bench.start(config(busybox, "sleep 0.3", service=SERVICES))
    assert box.wait() == 0
    path = f"{bench.folder}/services.toml"
    lines = (bench.folder / "services.toml").read_text().splitlines()
    user = lines.index('user = "nobody-of-this-image"') + 1
    command = lines.index('command = ["/bin/not-there"]') + 1
    told = box.output.splitlines()
    assert any(
        line.startswith(f"pyinit: stranger: backoff: {path}:{user}: user nobody-of-this-image is not in /etc/passwd: add it to the image, or name another; restart in 10.0 s")
        for line in told
    ), box.output  # fmt: skip
    assert any(
        line.startswith(f"pyinit: missing: backoff: {path}:{command}: cannot execute /bin/not-there: No such file or directory; is it in the image?; restart in 10.0 s")
        for line in told
    ), box.output  # fmt: skip


def test_a_missing_command_makes_no_busy_loop(bench, busybox):
    service = '[services.missing]\ncommand = ["/bin/not-there"]\nstart_limit = { count = 3, within = "60s", then = "fail" }\n'
    box = bench.start(config(busybox, "while [ ! -e /run/end ]; do sleep 0.1; done", service=service))
    box.wait_for("missing: failed: start limit of 3 within 60 s")
    told = [line.split(": ")[2] for line in box.output.splitlines() if line.startswith("pyinit: missing: ")]
    assert told == ["starting", "backoff", "starting", "failed"]  # three starts, the second of them at once
    assert box.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("link", ["/etc-of-host", "../../../../etc-of-host"])
def test_a_target_that_leads_out_of_the_root_is_refused(bench, tmp_path, link):
    folder = make_busybox(tmp_path / "tree")
    outside = tmp_path / "etc-of-host"
    outside.mkdir()
    (folder / "data").symlink_to(link.replace("/etc-of-host", str(outside)) if link.startswith("/") else link)
    more = '[[container.mounts]]\ntype = "tmpfs"\ntarget = "/data"\nfiles = { x = "written" }\n'
    box = bench.start(config(folder, "true", more))
    assert box.wait() == 111
    assert box.output.startswith(f"pyinit: {bench.folder}/services.toml:")
    assert "/data is a symlink to" in box.output
    assert box.output.count("\n") == 1
    assert list(outside.iterdir()) == []


def test_root_without_its_capabilities_says_which_are_missing(bench, busybox):
    """An ordinary user's container is another matter: test_rootless.py."""
    path = bench.write(config(busybox, "true"))
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-m", "pyinit", "--config", str(path)],
        cwd=REPO, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 111
    assert done.stderr == (
        f"pyinit: {path}:2: a container needs CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_MKNOD CAP_CHOWN CAP_DAC_OVERRIDE CAP_SETUID "
        "CAP_SETGID CAP_SETPCAP CAP_KILL, which this process lacks: run pyinit as root\n"
    )
