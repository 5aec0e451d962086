"""From a Child to a process: both ways, and every step that may fail before exec."""

import os
import resource

import pytest

from pyinit.init import spawn
from pyinit.linux import process

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
