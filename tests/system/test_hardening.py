"""Our own processes in a container, PID 1, logger and what is about to become a service: closed to a service that is root."""

import json
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import REPO, make_busybox, verb, wait_until
from test_container import config, said

from pyinit.linux.caps import NAMES

pytestmark = pytest.mark.usefixtures("nothing_left")

# All that a process of ours could be robbed by, and what it could be made to do: a line for each that works.
ATTACK = """
reads() { (exec < $1) 2>/dev/null && dd if=$1 of=/dev/null bs=16 count=1 2>/dev/null && echo $2 reads $1; }
attack() {
    p=$1
    name=$(cat /proc/$p/comm)
    echo $name
    for f in exe cwd root $(cd /proc/$p; echo fd/* map_files/* ns/*); do readlink /proc/$p/$f >/dev/null && echo $name follows $f; done
    for f in cwd root fdinfo map_files task/$p/cwd; do ls /proc/$p/$f/ 2>/dev/null | grep -q . && echo $name lists $f; done
    for f in exe environ mem maps smaps auxv syscall stack pagemap personality io root/etc/passwd fd/0 task/$p/mem task/$p/environ; do reads /proc/$p/$f $name; done
    for f in exe mem fd/0 task/$p/mem; do (exec >> /proc/$p/$f) 2>/dev/null && echo $name writes $f; done
}
for p in $(cd /proc; echo [0-9]*); do case $(cat /proc/$p/comm 2>/dev/null) in pyinit*) attack $p; esac; done
"""


def robbed(box, security: str) -> list[str]:
    return [line for line in said(box) if not (security and SEEN_BY_ADMIN.fullmatch(line))]


def mounted(script: str) -> str:
    """/attack/run: not in the command line, which TOML and the shell would read first."""
    return f"[[container.mounts]]\ntype = \"tmpfs\"\ntarget = \"/attack\"\nfiles = {{ run = '''{script}''' }}\n"


# Newer kernels let CAP_PERFMON, and so CAP_SYS_ADMIN, see these of anyone (may_access_mm() in kernel/fork.c): addresses, and our
# environment, in which nothing of the host is. Without either of them nothing at all is seen: the first way says so.
SEEN_BY_ADMIN = re.compile(r"pyinit\S* (lists map_files|reads /proc/\d+/(task/\d+/)?(environ|maps|smaps|auxv|pagemap))")
AS_EVER = ("", (sys.executable, "-m", "pyinit"))
# The service has all that PID 1 has: only that this can't be dumped keeps it closed.
AS_MIGHTY = (
    f"[container.security]\ncapabilities = {json.dumps([name for name in NAMES if name != 'SYS_PTRACE'])}\n",
    ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-all", sys.executable, "-m", "pyinit"),
)  # fmt: skip


@pytest.mark.parametrize(("security", "command"), [AS_EVER, AS_MIGHTY], ids=["as ever", "as mighty as PID 1"])
def test_pid_1_and_the_logger_are_closed_to_root(bench, busybox, security, command):
    box = bench.start(config(busybox, ". /attack/run; echo end", mounted(ATTACK) + security), command=command)
    assert box.wait() == 0
    assert robbed(box, security) == ["pyinit", "pyinit-logger", "end"]


QUIET = '[services.quiet]\ncommand = ["/bin/sleep", "1000"]\n'


@pytest.mark.parametrize(("security", "command"), [AS_EVER, AS_MIGHTY], ids=["as ever", "as mighty as PID 1"])
def test_between_fork_and_exec_a_child_is_as_closed_as_pid_1(bench, busybox, security, command):
    """It has PID 1's memory and rights there: one is held at that point, by its group's freezer."""
    wait = "touch /run/up; while [ ! -e /run/go ]; do sleep 0.05; done; . /attack/run; echo end; sleep 1000"
    box = bench.start(config(busybox, wait, 'writable = "tmpfs"\n' + mounted(ATTACK) + security, QUIET), command=command)
    box.wait_for("quiet: ready")
    [group] = pathlib.Path("/sys/fs/cgroup/unified").glob("**/pyinit-pyinit-test/svc-quiet")
    (group / "cgroup.freeze").write_text("1")
    child = subprocess.Popen([sys.executable, "-m", "pyinit", "exec", "-c", "pyinit-test", "quiet", "--", "/bin/true"], cwd=REPO)
    try:
        wait_until(lambda: len((group / "cgroup.procs").read_text().split()) == 2, "the child")
        assert verb("exec", "-c", "pyinit-test", "app", "--", "/bin/touch", "/run/go").returncode == 0
        box.wait_for("app: end")
        assert robbed(box, security) == ["pyinit", "pyinit-logger", "pyinit", "end"]
    finally:
        (group / "cgroup.freeze").write_text("0")
    assert child.wait(20) == 0
    assert box.stop() == 0


def test_a_service_that_may_trace_has_all_of_pid_1(bench, busybox):
    """As the man page says: CAP_SYS_PTRACE is all capabilities."""
    box = bench.start(config(busybox, "[ -r /proc/1/environ ] && (exec 3>>/proc/1/mem) && readlink /proc/1/cwd", '[container.security]\ncapabilities = ["SYS_PTRACE"]\n'))
    assert box.wait() == 0
    assert said(box) == ["/"]


NO_NEW_PRIVILEGES = "[container.security]\nno_new_privileges = true\n"
OTHER = """
[services.sudo]
command = ["/bin/grep", "NoNewPrivs", "/proc/self/status"]
no_new_privileges = false
log = { to = "stdout", timestamp = "none" }
kind = "oneshot"
[services.hook]
command = ["/bin/true"]
kind = "oneshot"
pre_start = ["/bin/grep", "NoNewPrivs", "/proc/self/status"]
log = { to = "stdout", timestamp = "none" }
"""


def test_no_new_privileges_for_all_services_but_those_that_say_otherwise(bench, busybox):
    service = 'requires = ["sudo", "hook"]\n' + OTHER
    box = bench.start(config(busybox, "grep NoNewPrivs /proc/self/status; grep NoNewPrivs /proc/1/status", NO_NEW_PRIVILEGES, service))
    assert box.wait() == 0
    assert [said(box, name) for name in ("app", "sudo", "hook")] == [["NoNewPrivs:\t1", "NoNewPrivs:\t0"], ["NoNewPrivs:\t0"], ["NoNewPrivs:\t1"]]


def test_an_init_of_the_image_gets_no_new_privileges_either(bench, tmp_path):
    tree = make_busybox(tmp_path / "tree")
    (tree / "init").write_text("#!/bin/sh\ngrep NoNewPrivs /proc/self/status\n")
    (tree / "init").chmod(0o755)
    box = bench.start(f'[container]\nname = "pyinit-test"\nlayers = ["{tree}"]\ninit = "/init"\n{NO_NEW_PRIVILEGES}')
    assert box.wait() == 0
    assert box.output == "NoNewPrivs:\t1\n"


# A session keyring with a key that only its possessor sees, and then pyinit.
WITH_KEY = """
import ctypes, os, sys
call, (keyctl, add_key) = ctypes.CDLL(None, use_errno=True).syscall, {"x86_64": (250, 248)}.get(os.uname().machine, (219, 217))
assert call(keyctl, 1, None) > 0  # KEYCTL_JOIN_SESSION_KEYRING
key = call(add_key, b"user", b"pyinit-canary", b"x", 1, -3)  # into KEY_SPEC_SESSION_KEYRING
assert call(keyctl, 5, key, 0x3F000000) == 0  # KEYCTL_SETPERM
assert "pyinit-canary" in open("/proc/keys").read()
os.execv(sys.executable, [sys.executable, "-m", "pyinit", *sys.argv[1:]])
"""


def test_services_possess_no_key_of_the_hosts(bench, busybox):
    more = "[container.security]\nmasked_paths = []\n"
    box = bench.start(config(busybox, "cat /proc/keys", more), command=(sys.executable, "-c", WITH_KEY))
    assert box.wait() == 0
    assert ": empty" in box.output  # it could be read
    assert "pyinit-canary" not in box.output
