"""From a Child to a process: both ways, and every step that may fail before exec."""

import errno
import marshal
import os
import re
import resource

import pytest

from pyinit.core import seccomp
from pyinit.init import spawn
from pyinit.init.children import explain
from pyinit.linux import process
from pyinit.model import Origin, ProcessSpec, Seccomp, ServiceSpec

ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture(autouse=True)
def no_open_fds():
    """As the init does at its start: what our caller left open is nobody's."""
    process.close_from(3)


def run(*argv: str, **keys) -> tuple[spawn.Spawned, bytes, bytes]:
    """(what was spawned, its output, the report of a failure)."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    child = spawn.Child(
        argv=argv, path=spawn.find_program(argv[0], ENV["PATH"]), environment=dict(ENV), stdin_fd=null, output_fd=write_end, **keys
    )
    try:
        spawned = spawn.spawn(child)
    except OSError:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
        os.close(null)
    report = b""
    if spawned.status_fd >= 0:
        os.set_blocking(spawned.status_fd, True)
        report = os.read(spawned.status_fd, 64)
        os.close(spawned.status_fd)
    output = b""
    while data := os.read(read_end, 4096):
        output += data
    os.close(read_end)
    os.waitpid(spawned.pid, 0)
    return spawned, output, report


def run_alone(*argv: str, **keys) -> tuple[bytes, bytes]:
    """(output, report), from a process with one thread, as PID 1 has: the C library tells new ids to each that it knows of."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write_end, marshal.dumps(run(*argv, **keys)[1:]))
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        output, report = marshal.loads(pipe.read())
    os.waitpid(pid, 0)
    return output, report


PLAIN: dict = {}
FULL: dict = {"umask": 0o077, "rlimits": ((resource.RLIMIT_CORE, 0, 0),), "working_directory": "/usr", "no_new_privileges": True}


@pytest.mark.parametrize("keys", [PLAIN, FULL], ids=["posix_spawn", "clone3"])
def test_a_child_has_a_session_an_empty_mask_and_default_signals(keys):
    script = "ps -o sid= -p $$; echo $$; grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/$$/fd"
    spawned, output, report = run("sh", "-c", script, **keys)
    words = output.split()
    assert report == b""
    assert words[0] == words[1] == str(spawned.pid).encode()
    assert words[2:4] == [b"SigBlk:", b"0" * 16]
    assert int(words[5], 16) & ~(3 << 31) == 0  # 32 and 33 are the C library's own: its posix_spawn ignores them
    assert words[6:] == [b"0", b"1", b"2"]


def test_the_full_way_sets_what_was_asked_for():
    _, output, report = run("sh", "-c", "umask; pwd; ulimit -c; grep NoNewPrivs /proc/self/status", **FULL)
    assert (output, report) == (b"0077\n/usr\n0\nNoNewPrivs:\t1\n", b"")


@pytest.mark.parametrize(
    ("argv", "keys", "stage", "number"),
    [
        (("sh",), {"working_directory": "/not/there"}, "working_directory", 2),
        (("/not/there",), {"umask": 0o077}, "exec", 2),
        (("/etc",), {"umask": 0o077}, "exec", 13),
        (("sh",), {"rlimits": ((resource.RLIMIT_NOFILE, 9, 8),)}, "rlimits", 22),
    ],
)
def test_a_failed_step_is_reported_with_its_errno(argv, keys, stage, number):
    _, output, report = run(*argv, **keys)
    assert (output, spawn.read_failure(report)) == (b"", (stage, number))


FILTER = seccomp.program(seccomp.default(()), os.uname().machine)
DROPPED = {"uid": 65534, "gid": 65534, "groups": (65534,), "dropped": tuple(range(20, 41)), "ambient": (10,)}
STATUS = "grep -E '^(CapAmb|CapBnd|NoNewPrivs|Seccomp|Seccomp_filters):' /proc/self/status; id -u"


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_a_filter_is_there_and_the_ids_and_capabilities_are_dropped(no_new_privileges):
    """Without no_new_privileges it must come before them: it lets them through."""
    output, report = run_alone("sh", "-c", STATUS, filter=FILTER, no_new_privileges=no_new_privileges, **DROPPED)
    bounding = int(re.search(rb"CapBnd:\t(\w+)", output)[1], 16)
    assert (re.sub(rb"CapBnd:.*\n", b"", output), report) == (
        b"CapAmb:\t0000000000000400\nNoNewPrivs:\t%d\nSeccomp:\t2\nSeccomp_filters:\t1\n65534\n" % no_new_privileges, b"",
    )  # fmt: skip
    assert bounding >> 20 == 0


def refusing(*names: str) -> bytes:
    calls = {name: seccomp.Decision(seccomp.EPERM) for name in names}
    return seccomp.program(seccomp.Profile(calls), os.uname().machine)


@pytest.mark.parametrize(
    ("program", "keys", "stage", "number"),
    [
        (b"\0" * 8, {}, "seccomp", errno.EINVAL),
        (b"\0" * 8, {"no_new_privileges": True}, "seccomp", errno.EINVAL),
        (refusing("setgroups"), DROPPED, "user", errno.EPERM),
        (refusing("prctl"), DROPPED, "capabilities", errno.EPERM),
        (refusing("capset"), DROPPED, "capabilities", errno.EPERM),
        (refusing("execve"), {}, "exec", errno.EPERM),
    ],
)
def test_a_filter_that_fails_and_what_one_refuses(program, keys, stage, number):
    output, report = run_alone("sh", "-c", "echo", filter=program, **keys)
    assert (output, spawn.read_failure(report)) == (b"", (stage, number))


def test_no_new_privileges_puts_the_filter_last():
    program = refusing("setgroups", "capset", "prctl", "setresuid", "setresgid")
    output, report = run_alone("sh", "-c", "id -u", filter=program, no_new_privileges=True, **DROPPED)
    assert (output, report) == (b"65534\n", b"")


def test_what_a_failure_of_the_filter_says():
    origin = Origin("s.toml", 3)
    spec = ServiceSpec("app", ("x",), process=ProcessSpec(seccomp=Seccomp("default", origin=origin)), origin=Origin("s.toml", 9))
    assert explain(spec, "x", "seccomp", errno.EINVAL) == "s.toml:3: seccomp failed before exec: Invalid argument"


def test_the_fast_way_says_at_once_that_there_is_no_program():
    with pytest.raises(FileNotFoundError):
        run("/not/there")


def test_a_notification_fd_arrives_under_its_number():
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    _, _, report = run("sh", "-c", "echo ready >&7", passed_fds=((write_end, 7),))
    os.close(write_end)
    assert (os.read(read_end, 64), report) == (b"ready\n", b"")
    os.close(read_end)


def test_programs_are_found_on_the_path_of_the_service(tmp_path):
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "sh").mkdir()  # a folder is no program
    assert spawn.find_program("tool", f"/nowhere:{tmp_path}") == f"{tmp_path}/tool"
    assert spawn.find_program("sh", f"{tmp_path}:/bin") == "/bin/sh"
    assert spawn.find_program("./sh", "/bin") == "./sh"
    assert spawn.find_program("none", "/bin") == "none"
