"""As catatonit: each case holds for Debian's own catatonit and for ours by that name."""

import os
import signal
import subprocess

import pytest
from small_inits import (
    BOTH,
    FINDS,
    MASKS,
    ORPHAN,
    PRINTS,
    TERMINAL,
    below,
    children,
    command,
    found_by,
    make,
    state,
    wait_until,
)

USAGE = "usage: catatonit [-ghLPV] [--] <progname> [<arguments>...]\n"
STOPS = {20, 21, 22}
PASSED_ON = sorted(set(range(1, 65)) - STOPS - {4, 5, 6, 7, 8, 9, 11, 17, 19, 31, 32, 33})


@pytest.fixture(params=BOTH)
def catatonit(request, tmp_path):
    return make(tmp_path, "catatonit", request.param)


@pytest.mark.parametrize("code", [0, 1, 2, 126, 127, 255])
def test_the_exit_code_is_the_command_s(catatonit, code):
    assert catatonit.run("--", "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("number", [1, 9, 11, 15, 34])
def test_a_death_by_signal_is_128_and_its_number(catatonit, number):
    assert catatonit.run("--", *command(f"import os; os.kill(os.getpid(), {number})")).returncode == 128 + number


@pytest.mark.parametrize(("path", "why"), [("/nonexistent", "No such file or directory"), ("/etc/passwd", "Permission denied")])
def test_a_command_that_can_not_be_executed(catatonit, path, why):
    done = catatonit.run("--", path)
    assert (done.returncode, catatonit.plain(done.stderr)) == (1, f"ERROR (catatonit:N): failed to exec pid1: {why}\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-x", "true"), f"catatonit: invalid option -- 'x'\n{USAGE}"),
        (("--foo", "true"), f"catatonit: unrecognized option '--foo'\n{USAGE}"),
        (("--version=1",), f"catatonit: option '--version' doesn't allow an argument\n{USAGE}"),
        (("sh", "-c", "exit 3"), f"catatonit: invalid option -- 'c'\n{USAGE}"),  # getopt(3) looks at all words
        ((), f"ERROR (catatonit:N): missing program name\n{USAGE}"),
        (("-g",), f"ERROR (catatonit:N): missing program name\n{USAGE}"),
    ],
)
def test_words_that_it_does_not_know(catatonit, words, told):
    done = catatonit.run(*words)
    assert (done.returncode, done.stdout, catatonit.plain(done.stderr)) == (1, "", told)


def test_help_version_and_license(catatonit):
    shown = catatonit.run("-h")
    assert (shown.returncode, shown.stdout) == (0, "")
    assert shown.stderr.startswith(f"{USAGE}\noptions:\n  -g              ")
    for word in ("-V", "--version", "--ver"):
        version = catatonit.run(word)
        assert (version.returncode, version.stdout, version.stderr) == (0, "tini version 0.1.7_catatonit\n", "")
    license_ = catatonit.run("-L")
    assert (license_.returncode, license_.stderr) == (0, "")
    assert "icense" in license_.stdout


def test_a_variable_that_is_kept_for_later(catatonit):
    done = catatonit.run("--", "true", environment={"CATATONIT_LOG": "1"})
    assert (done.returncode, catatonit.plain(done.stderr)) == (1, "ERROR (catatonit:N): CATATONIT_LOG is reserved for future use\n")


def test_what_it_tells_with_debug(catatonit):
    wanted = [
        "DEBUG (catatonit:N): got ECHILD: no children left to monitor",
        "DEBUG (catatonit:N): pid1 (N) spawned: sh",
        "DEBUG (catatonit:N): setting foreground process failed: no tty present: Inappropriate ioctl for device",
        "INFO (catatonit:N): using stdin as tty fd: could not open /dev/tty: No such device or address",
    ]

    def told() -> list[str]:
        done = catatonit.run("--", "sh", "-c", "exit 3", environment={"CATATONIT_DEBUG": ""}, start_new_session=True)
        assert done.returncode == 3
        return sorted(catatonit.plain(done.stderr).splitlines())

    # Theirs writes a line piece by piece, and two processes at once: whole lines take some attempts.
    assert told() == wanted if catatonit.is_ours else any(told() == wanted for _ in range(100))


def test_every_signal_but_faults_and_stops_is_passed_on(catatonit):
    with catatonit.started("--", *command(PRINTS)) as process:
        assert process.stdout.readline().startswith("ready ")
        for number in [20, 21, 22, *PASSED_ON]:
            process.send_signal(number)
            if number not in STOPS:
                assert process.stdout.readline() == f"{number}\n"
        wait_until(lambda: state(process.pid) == "S", "it sleeps, and has not been stopped")


def test_signals_to_the_group(catatonit):
    script = "import os, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {10})\nif os.fork() == 0:\n    print('up', flush=True)\n" \
        "    print(int(signal.sigwait({10})), flush=True); os._exit(0)\nos.wait()"  # fmt: skip
    with catatonit.started("-g", "--", *command(script)) as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGUSR1)
        assert (process.stdout.readline(), process.wait(10)) == ("10\n", 0)


@pytest.mark.parametrize("number", [2, 15])
def test_a_pause_ends_at_int_and_term_alone(catatonit, number):
    with catatonit.started("-P") as process:
        wait_until(lambda: _blocks(process.pid, number), "it waits")
        for other in (1, 3, 10, 12, 28, 37):
            process.send_signal(other)
        wait_until(lambda: not _pending(process.pid), "it takes them")
        assert (process.poll(), children(process.pid)) == (None, [])
        process.send_signal(number)
        assert process.wait(10) == 0


def _field(pid: int, name: str) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith(name))


def _blocks(pid: int, number: int) -> bool:
    """Waiting in sigwait(3) unblocks for the kernel's view: the command line tells that it is no shell any more."""
    with open(f"/proc/{pid}/wchan") as file:
        waits = "sig" in file.read()
    return waits or bool(_field(pid, "SigBlk") >> (number - 1) & 1)


def _pending(pid: int) -> int:
    return _field(pid, "ShdPnd") | _field(pid, "SigPnd")


def test_not_pid_1_it_is_a_subreaper(catatonit):
    assert catatonit.run("--", *command(ORPHAN)).returncode == 41


def test_what_the_command_finds(catatonit):
    found = found_by(catatonit.run("--", *command(FINDS), env={"PATH": "/usr/bin:/bin", "A": "b"}, cwd="/tmp"))
    wanted = {"leads_group": True, "leads_session": False, "fds": [0, 1, 2], "cwd": "/tmp", "environment": ["A", "LC_CTYPE", "PATH"]}
    assert {key: found[key] for key in wanted} == wanted  # LC_CTYPE is the finder's own


@pytest.mark.parametrize(("blocked", "ignored"), [((), ()), ((1, 4, 15, 34), (10,)), ((), (13, 25)), ((21,), (20, 21, 22)), ((17,), (2,))])
def test_mask_and_dispositions_are_ours_but_for_the_stops(catatonit, blocked, ignored):
    before = "for n in (13, 25): signal.signal(n, signal.SIG_DFL)\n" + "".join(f"signal.signal({n}, signal.SIG_IGN)\n" for n in ignored)
    before += f"signal.pthread_sigmask(signal.SIG_BLOCK, {set(blocked) or '()'})"
    done = catatonit.run("--", *MASKS, before=before)
    masks = [sum(1 << (n - 1) for n in numbers) for numbers in ({*blocked, *STOPS}, ignored)]
    assert done.stdout == "".join(f"{mask:016x}\n" for mask in masks)


def test_sockets_that_are_handed_to_it_are_the_command_s(catatonit):
    before = "os.environ['LISTEN_PID'] = str(os.getpid())"
    assert found_by(catatonit.run("--", *command(FINDS), before=before))["listen_pid"] is True
    assert catatonit.run("--", "sh", "-c", "echo $LISTEN_PID", environment={"LISTEN_PID": "1"}).stdout == "1\n"


def test_it_keeps_no_fd_of_others_open(catatonit):
    with open(os.devnull) as file, catatonit.started("--", *command(PRINTS), pass_fds=(file.fileno(),)) as process:
        pid = int(process.stdout.readline().split()[1])
        own = os.stat(file.fileno()).st_ino
        held = [os.stat(f"/proc/{process.pid}/fd/{fd}").st_ino for fd in os.listdir(f"/proc/{process.pid}/fd") if int(fd) > 2]
        assert own not in held
        assert str(file.fileno()) in os.listdir(f"/proc/{pid}/fd")
        assert below(process.pid) == [pid]


@pytest.mark.parametrize("redirected", [False, True])
def test_the_command_has_the_foreground_of_the_terminal_wherever_stdin_is(catatonit, redirected):
    script = "import os; fd = os.open('/dev/tty', os.O_RDWR); print(os.tcgetpgrp(fd) == os.getpgrp() == os.getpid())"
    words = [*command(TERMINAL), str(catatonit.path), "--", *command(script)]
    if redirected:
        words = [*command(TERMINAL), "/bin/sh", "-c", 'exec "$@" </dev/null', "sh", *words[len(command(TERMINAL)) :]]
    assert subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout.strip() == "True"


def test_as_podman_runs_it(tmp_path):
    ours = make(tmp_path, "podman-init", "ours")
    assert ours.run("--version").stdout == "tini version 0.1.7_catatonit\n"
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", str(ours.path), "--", "sh", "-c", "exit 8"],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=20,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (8, "", "")
