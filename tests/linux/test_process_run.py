"""A helper command: what it is given, how its end is told, and that its time is bounded."""

import os
import select
import signal
import time

import pytest

from pyinit.linux import process

ENV = {"PATH": os.environ["PATH"], "WORD": "moon"}


def sh(script: str, *, timeout_s: float = 20.0, **keys) -> process.Finished:
    return process.run(("sh", "-c", script), env=ENV, timeout_s=timeout_s, **keys)


def output(script: str, **keys) -> list[str]:
    """What it says on standard output, which goes to a file."""
    fd = os.memfd_create("out")
    try:
        assert sh(script, stdout_fd=fd, **keys).code == 0
        return os.pread(fd, 1 << 16, 0).decode().split()
    finally:
        os.close(fd)


@pytest.mark.parametrize(("script", "expected"), [
    ("exit 7", process.Finished(7)),
    ("kill -TERM $$", process.Finished(-1, signal.SIGTERM)),
    ("echo a >&2; printf 'last words \\n\\n' >&2; exit 1", process.Finished(1, stderr=b"a\nlast words \n\n")),
])  # fmt: skip
def test_its_end_is_told(script, expected):
    assert sh(script) == expected


def test_the_last_line_of_its_errors_is_the_last_that_says_something():
    assert process.Finished(1, stderr=b"a\nlast words \n\n").last_line() == "last words"
    assert process.Finished(1).last_line() == ""


def test_of_much_output_the_end_is_kept():
    kept = sh("yes 123456789 | head -n 100000 >&2; echo end >&2").stderr
    assert len(kept) == 8192
    assert kept.endswith(b"123456789\nend\n")


def test_it_gets_its_environment_a_session_default_signals_and_nothing_above_2():
    fd = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(fd, True)
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        words = output(
            "echo $WORD; ps -o sid= -p $$; echo $$; grep -E '^Sig(Blk|Ign)' /proc/self/status; readlink /proc/$$/fd/0; pwd; "
            "for n in $(seq 3 99); do test -e /proc/$$/fd/$n && echo $n; done; exit 0", cwd="/usr",
        )  # fmt: skip
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGUSR1, before)
        os.close(fd)
    assert words[0] == "moon"
    assert words[1] == words[2]
    assert words[3:5] == ["SigBlk:", "0" * 16]
    assert int(words[6], 16) & ~(3 << 31) == 0  # 32 and 33 are the C library's own
    assert words[7:] == ["/dev/null", "/usr"]


def test_its_descriptors_are_those_that_are_given():
    read_end, write_end = os.pipe()
    os.write(write_end, b"in\n")
    os.close(write_end)
    errors = os.memfd_create("errors")
    try:
        assert output("cat; echo oops >&2", stdin_fd=read_end, stderr_fd=errors) == ["in"]
        assert os.pread(errors, 99, 0) == b"oops\n"
    finally:
        os.close(read_end)
        os.close(errors)


def test_at_its_time_it_is_killed_with_its_group():
    read_end, write_end = os.pipe()
    start = time.monotonic()
    found = sh("sleep 1000 & echo up >&2; sleep 1000", timeout_s=1.0, stdout_fd=write_end)
    os.close(write_end)
    assert found == process.Finished(-1, signal.SIGKILL, "timeout", b"up\n")
    assert 1.0 <= time.monotonic() - start < 5
    assert select.select([read_end], [], [], 5)[0]  # the end: nobody of them lives who holds it
    assert os.read(read_end, 1) == b""
    os.close(read_end)


def test_it_is_killed_when_that_is_asked_for_and_the_asking_is_not_read():
    read_end, write_end = os.pipe()
    os.write(write_end, b"x")
    assert sh("sleep 1000", cancel_fd=read_end) == process.Finished(-1, signal.SIGKILL, "cancelled")
    assert os.read(read_end, 1) == b"x"
    os.close(read_end)
    os.close(write_end)


def test_what_it_leaves_in_the_background_holds_up_nothing_and_lives_on(tmp_path):
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    read_end, write_end = os.pipe()
    assert sh(f"(read x < {fifo}; echo late) & exit 0", stdout_fd=write_end) == process.Finished(0)
    fifo.write_text("go\n")
    os.close(write_end)
    assert os.read(read_end, 99) == b"late\n"
    os.close(read_end)


@pytest.mark.parametrize(("argv", "keys", "text"), [
    (("/none/x",), {}, "[Errno 2] /none/x: No such file or directory"),
    (("no-such-program",), {}, "[Errno 2] no-such-program: No such file or directory"),
    (("/usr",), {}, "[Errno 13] /usr: Permission denied"),
    (("true",), {"cwd": "/none"}, "[Errno 2] chdir /none: No such file or directory"),
])  # fmt: skip
def test_what_can_t_be_run_is_an_error(argv, keys, text):
    with pytest.raises(OSError) as caught:
        process.run(argv, env=ENV, timeout_s=20, **keys)
    assert str(caught.value) == text


def test_no_descriptor_is_left():
    before = os.listdir("/proc/self/fd")
    sh("true")
    with pytest.raises(FileNotFoundError):
        process.run(("/none",), env=ENV, timeout_s=20)
    assert os.listdir("/proc/self/fd") == before


def test_a_sibling_is_a_child_of_our_parents():
    read_end, write_end = os.pipe()
    middle = os.fork()
    if middle == 0:
        pid, _ = process.clone(process.CLONE_PARENT)
        if pid == 0:
            os._exit(7)
        os.write(write_end, b"%d" % pid)
        os._exit(0)
    assert os.waitpid(middle, 0)[1] == 0
    sibling = int(os.read(read_end, 20))
    assert os.waitpid(sibling, 0) == (sibling, 7 << 8)
    os.close(read_end)
    os.close(write_end)
