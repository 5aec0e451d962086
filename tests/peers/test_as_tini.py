"""As tini: each case holds for Debian's own tini and for ours by that name."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from small_inits import (
    BOTH,
    FINDS,
    MASKS,
    PRINTS,
    REPO,
    TERMINAL,
    below,
    children,
    command,
    for_everyone,
    found_by,
    make,
    state,
    wait_until,
)

from pyinit import __version__

NOT_PASSED_ON = {4, 5, 6, 7, 8, 9, 11, 17, 19, 21, 22, 31, 32, 33}
WARNING = (
    "[WARN  tini (N)] Tini is not running as PID 1 and isn't registered as a child subreaper.\n"
    "Zombie processes will not be re-parented to Tini, so zombie reaping won't work.\n"
    "To fix the problem, use the -s option or set the environment variable TINI_SUBREAPER to register Tini as a child subreaper, "
    "or run Tini as PID 1.\n"
)


@pytest.fixture(params=BOTH)
def tini(request, tmp_path):
    return make(tmp_path, "tini", request.param)


@pytest.mark.parametrize("code", [0, 1, 2, 7, 126, 127, 128, 254, 255])
def test_the_exit_code_is_the_command_s(tini, code):
    assert tini.run("-s", "--", "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("number", [1, 2, 3, 6, 9, 11, 14, 15, 34, 64])
def test_a_death_by_signal_is_128_and_its_number(tini, number):
    assert tini.run("-s", "--", *command(f"import os; os.kill(os.getpid(), {number})")).returncode == 128 + number


@pytest.mark.parametrize(
    ("options", "code", "left"),
    [
        (("-e", "3"), 3, 0), (("-e3",), 3, 0), (("-e", "4"), 3, 3), (("-e", "3", "-e", "4"), 4, 0), (("-e", "143"), 143, 0), (("-e", "0"), 0, 0),
        (("-e", " 3"), 3, 0), (("-e", "+3"), 3, 0), (("-e", "03"), 3, 0), (("-e", ""), 3, 3), (("-s", "-e", "255", "-w"), 255, 0),
    ],
)  # fmt: skip
def test_exit_codes_that_are_taken_for_0(tini, options, code, left):
    assert tini.run("-s", *options, "--", "sh", "-c", f"exit {code}").returncode == left


def test_a_command_that_is_not_there_is_taken_for_0_like_any_other(tini):
    done = tini.run("-s", "-e", "127", "--", "/nonexistent")
    assert (done.returncode, tini.plain(done.stderr)) == (0, "[FATAL tini (N)] exec /nonexistent failed: No such file or directory\n")


@pytest.mark.parametrize("value", ["256", "-1", "x", "3x", " ", "99999999999999999999"])
def test_exit_codes_that_are_none(tini, value):
    done = tini.run("-s", "-e", value, "--", "true")
    assert (done.returncode, tini.plain(done.stderr)) == (1, f"[FATAL tini (N)] Not a valid option for -e: {value}\n")


@pytest.mark.parametrize("value", ["TERM", "sigterm", "15", "SIGPWR", "SIGRTMIN", "SIG"])
def test_signals_that_are_none(tini, value):
    done = tini.run("-s", "-p", value, "--", "true")
    assert (done.returncode, tini.plain(done.stderr)) == (1, f"[FATAL tini (N)] Not a valid option for -p: {value}\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-x", "true"), "tini: invalid option -- 'x'\n"),
        (("-sx", "true"), "tini: invalid option -- 'x'\n"),
        (("-p",), "tini: option requires an argument -- 'p'\n"),
        (("-e",), "tini: option requires an argument -- 'e'\n"),
        (("--version", "x"), "tini: invalid option -- '-'\n"),
        (("--help",), "tini: invalid option -- '-'\n"),
        (("sh", "-c", "exit 3"), "tini: invalid option -- 'c'\n"),  # getopt(3) looks at all words
        ((), ""),
        (("-s",), ""),
        (("--",), ""),
    ],
)
def test_words_that_it_does_not_know(tini, words, told):
    done = tini.run(*words)
    text = tini.plain(done.stderr)
    assert (done.returncode, done.stdout) == (1, "")
    assert text.startswith(f"{told}tini (tini version 0.19.0)\nUsage: tini [OPTIONS] PROGRAM -- [ARGS] | --version\n")


def test_options_may_stand_behind_the_command_but_for_posix(tini):
    assert tini.run("sh", "-s", "-e", "3", "--", "-c", "exit 3").returncode == 0
    assert tini.run("-s", "sh", "-c", "exit 3", environment={"POSIXLY_CORRECT": "1"}).returncode == 3


def test_help_version_and_license_go_to_stdout(tini):
    shown = tini.run("-h")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert tini.plain(shown.stdout).startswith("tini (tini version 0.19.0)\nUsage: tini [OPTIONS] PROGRAM -- [ARGS] | --version\n")
    for option in ("-h", "-s", "-p SIGNAL", "-v", "-w", "-g", "-e EXIT_CODE", "-l", "TINI_SUBREAPER", "TINI_VERBOSITY", "TINI_KILL_PROCESS_GROUP"):
        assert f"  {option}: " in shown.stdout
    version = tini.run("--version")
    assert (version.returncode, version.stdout, version.stderr) == (0, "tini version 0.19.0\n", "")
    license_ = tini.run("-l")
    assert (license_.returncode, license_.stderr) == (0, "")
    assert "icense" in license_.stdout


def test_what_it_tells_from_start_to_end(tini):
    done = tini.run("-s", "-vvv", "--", "sh", "-c", "exit 3")
    assert (done.returncode, done.stderr) == (3, "")
    assert tini.plain(done.stdout).splitlines()[0] == "[TRACE tini (N)] Registered as child subreaper"
    # The child's end may come before its first wait, or after: then it has looked once in vain.
    assert [line for line in tini.plain(done.stdout).splitlines()[1:] if "No child to reap" not in line] == [
        "[INFO  tini (N)] Spawned child process 'sh' with pid 'N'",
        "[DEBUG tini (N)] Received SIGCHLD",
        "[DEBUG tini (N)] Reaped child with pid: 'N'",
        "[INFO  tini (N)] Main child exited normally (with status '3')",
        "[TRACE tini (N)] No child to wait",
        "[TRACE tini (N)] Exiting: child has exited",
    ]
    killed = tini.run("-s", "-v", "--", "sh", "-c", "kill -TERM $$")
    assert tini.plain(killed.stdout) == (
        "[INFO  tini (N)] Spawned child process 'sh' with pid 'N'\n[INFO  tini (N)] Main child exited with signal (with signal 'Terminated')\n"
    )


@pytest.mark.parametrize(
    ("options", "environment", "told"),
    [
        ((), {}, WARNING), ((), {"TINI_VERBOSITY": "0"}, ""), ((), {"TINI_VERBOSITY": "x"}, ""), ((), {"TINI_VERBOSITY": "1x"}, WARNING),
        (("-v",), {"TINI_VERBOSITY": "0"}, ""), (("-s",), {}, ""), ((), {"TINI_SUBREAPER": ""}, ""), ((), {"TINI_SUBREAPER": "0"}, ""),
    ],
)  # fmt: skip
def test_not_pid_1_it_warns_unless_it_is_a_subreaper(tini, options, environment, told):
    done = tini.run(*options, "--", "true", environment=environment)
    assert (done.returncode, done.stdout, tini.plain(done.stderr)) == (0, "", told)


def test_a_subreaper_by_inheritance_does_not_warn(tini):
    before = "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)"
    assert tini.run("--", "true", before=before).stderr == ""


def test_every_signal_but_faults_and_the_terminal_s_is_passed_on(tini):
    with tini.started("-s", "--", *command(PRINTS)) as process:
        assert process.stdout.readline().startswith("ready ")
        for number in sorted(set(range(1, 65)) - NOT_PASSED_ON):
            process.send_signal(number)
            assert process.stdout.readline() == f"{number}\n"
        for number in (21, 22):  # TTIN, TTOU: ignored
            process.send_signal(number)
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "10\n"


GROUP = """\
import os, signal, sys
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
if os.fork() == 0:
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    print("up", flush=True)
    signal.sigwait({signal.SIGUSR1})
    print("grandchild", flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize(("options", "environment"), [(("-g",), {}), ((), {"TINI_KILL_PROCESS_GROUP": ""})])
def test_signals_to_the_group(tini, options, environment):
    with tini.started("-s", *options, "--", *command(GROUP), environment=environment) as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGUSR1)
        assert (process.stdout.readline(), process.wait(10)) == ("grandchild\n", 0)


ORPHANS = """\
import os, signal, sys, time
for _ in range(3):
    if os.fork() == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
for _ in range(3): os.wait()
init = os.getppid()
deadline = time.monotonic() + 10
while open(f"/proc/{init}/task/{init}/children").read().split() != [str(os.getpid())]:
    if time.monotonic() > deadline: sys.exit(1)
    time.sleep(0.01)
"""


@pytest.mark.parametrize("options", [("-s",), ("-s", "-w")])
def test_orphans_are_reaped_and_told_of_with_w(tini, options):
    done = tini.run(*options, "--", *command(ORPHANS))
    line = "[WARN  tini (N)] Reaped zombie process with pid=N\n"
    assert (done.returncode, tini.plain(done.stderr)) == (0, line * 3 if "-w" in options else "")


def test_our_parent_s_death_is_told_by_the_signal_that_p_names(tini, tmp_path):
    out = tmp_path / "out"
    parent = f"import os, subprocess, sys; p = subprocess.Popen(sys.argv[1:], stdout=open({str(out)!r}, 'w')); input(); os._exit(0)"
    words = [*command(parent), str(tini.path), "-s", "-p", "SIGUSR1", "--", *command(PRINTS)]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        wait_until(lambda: out.exists() and out.read_text().endswith("\n"), "the command")
        pid = int(out.read_text().split()[1])
        process.stdin.close()
        process.wait(10)
    wait_until(lambda: "\n10\n" in out.read_text(), "the signal")
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("ignored", [1, 2, 10, 13, 21, 22, 25, 11, 34, 64])
def test_what_was_ignored_is_so_in_the_command(tini, ignored):
    before = f"import signal\nfor n in (13, 25): signal.signal(n, signal.SIG_DFL)\nsignal.signal({ignored}, signal.SIG_IGN)"
    assert tini.run("-s", "--", *MASKS, before=before).stdout == f"{0:016x}\n{1 << (ignored - 1):016x}\n"


@pytest.mark.parametrize("blocked", [1, 2, 4, 13, 15, 17, 21, 34, 64])
def test_what_was_blocked_is_so_in_the_command(tini, blocked):
    before = f"for n in (13, 25): signal.signal(n, signal.SIG_DFL)\nsignal.pthread_sigmask(signal.SIG_BLOCK, {{{blocked}}})"
    assert tini.run("-s", "--", *MASKS, before=before).stdout == f"{1 << (blocked - 1):016x}\n{0:016x}\n"


def test_the_command_finds_what_it_would_find_without_an_init(tini):
    alone = found_by(subprocess.run(command(FINDS), env={"PATH": "/usr/bin:/bin", "A": "b"}, capture_output=True, text=True, check=True, cwd="/tmp"))
    found = found_by(tini.run("-s", "--", *command(FINDS), env={"PATH": "/usr/bin:/bin", "A": "b"}, cwd="/tmp"))
    assert {**found, "pid": 0, "ppid": 0} == {**alone, "pid": 0, "ppid": 0, "leads_group": True, "leads_session": False}


def test_a_locale_of_the_environment_stays_as_it_is(tini):
    done = tini.run("-s", "--", "sh", "-c", 'echo "$LC_CTYPE"', env={"PATH": "/usr/bin:/bin", "LC_CTYPE": "C"})
    assert done.stdout == "C\n"


def test_no_other_process_stands_beside_the_command(tini):
    with tini.started("-s", "--", *command(PRINTS)) as process:
        pid = int(process.stdout.readline().split()[1])
        assert children(process.pid) == below(process.pid) == [pid]
        assert len(os.listdir(f"/proc/{process.pid}/task")) == 1


def test_words_that_are_no_utf8_reach_the_command_whole(tini):
    words = [os.fsencode(tini.path), b"-s", b"--", b"printf", b"%s", b"a\xff\xfeb"]
    assert subprocess.run(words, capture_output=True, check=True, stdin=subprocess.DEVNULL).stdout == b"a\xff\xfeb"


@pytest.mark.parametrize(("mode", "content", "code", "why"), [(0o644, "", 126, "Permission denied"), (0o755, "#!/nonexistent\n", 127, "No such file or directory")])
def test_files_that_can_not_be_executed(tini, tmp_path, mode, content, code, why):
    path = tmp_path / "file"
    path.write_text(content)
    path.chmod(mode)
    done = tini.run("-s", "--", str(path))
    assert (done.returncode, tini.plain(done.stderr)) == (code, f"[FATAL tini (N)] exec {path} failed: {why}\n")


def test_a_script_that_names_no_interpreter_is_the_shell_s(tini, tmp_path):
    path = tmp_path / "file"
    path.write_text('echo "$1"; exit 5\n')
    path.chmod(0o755)
    done = tini.run("-s", "--", str(path), "word")
    assert (done.returncode, done.stdout) == (5, "word\n")


def test_the_first_of_the_path_that_can_be_executed_is_taken(tini, tmp_path):
    for name, mode in (("first", 0o644), ("second", 0o755)):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "tool"
        file.write_text(f"#!/bin/sh\necho {name}\n")
        file.chmod(mode)
    path = f"{tmp_path}/none:{tmp_path}/first:{tmp_path}/second:/bin:/usr/bin"
    assert tini.run("-s", "--", "tool", environment={"PATH": path}).stdout == "second\n"
    lacking = tini.run("-s", "--", "tool", environment={"PATH": f"{tmp_path}/first:/bin:/usr/bin"})
    assert (lacking.returncode, tini.plain(lacking.stderr)) == (126, "[FATAL tini (N)] exec tool failed: Permission denied\n")


def test_without_stdin_it_says_so_and_leaves(tini):
    done = tini.run("-s", "--", "true", before="os.close(0)")
    assert (done.returncode, tini.plain(done.stderr)) == (1, "[FATAL tini (N)] tcsetpgrp failed: Bad file descriptor\n")


def test_no_room_for_a_process(tini):
    before = "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (0, 0)); os.setgid(65534); os.setuid(65534)"
    with for_everyone(tini) as found:
        done = found.run("-s", "--", "true", before=before)
        assert (done.returncode, found.plain(done.stderr)) == (1, f"[FATAL tini (N)] fork failed: {os.strerror(errno.EAGAIN)}\n")


def pid_1(tini, *words: str) -> list[str]:
    return ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", str(tini.path), *words]


def test_as_pid_1_it_does_not_warn_and_leaves_with_the_code(tini):
    done = subprocess.run(pid_1(tini, "--", "sh", "-c", "exit 9"), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (9, "", "")


def test_as_pid_1_it_passes_signals_on_and_reaps(tini):
    words = pid_1(tini, "--", *command(ORPHANS + PRINTS))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as process:
        try:
            assert process.stdout.readline().startswith("ready ")
            init = children(process.pid)[0]
            for number in (15, 1, 10, 37):
                os.kill(init, number)
                assert process.stdout.readline() == f"{number}\n"
            wait_until(lambda: [state(pid) for pid in below(init)] == ["S"], "the command is all that is left")
        finally:
            process.kill()  # of unshare, whose child goes with it: that it sees its child killed is not sure


def test_the_command_has_the_foreground_of_the_terminal(tini):
    done = subprocess.run([*command(TERMINAL), str(tini.path), "-s", "--", *command(FINDS)], capture_output=True, text=True, check=True, timeout=20)
    found = found_by(done)
    assert (found["foreground"], found["leads_group"], found["leads_session"]) == (True, True, False)


def test_where_the_terminal_stops_who_writes_from_the_background_it_still_tells(tini):
    script = "stty tostop; kill -USR1 $PPID; exit 0"
    done = subprocess.run([*command(TERMINAL), str(tini.path), "-s", "-vvv", "--", "sh", "-c", f"trap : USR1; {script}"], capture_output=True, text=True, check=True, timeout=20)
    assert tini.plain(done.stdout).endswith("[TRACE tini (N)] Exiting: child has exited\n")


# By our own names, and what is better than in the original


def test_docker_s_name_for_it(tmp_path):
    ours = make(tmp_path, "docker-init", "ours")
    assert ours.run("--version").stdout == "tini version 0.19.0\n"  # `docker info` looks for these words
    assert ours.run("-s", "--", "sh", "-c", "exit 4").returncode == 4


def test_an_ignored_sigchld_loses_no_exit(tmp_path):
    """The original waits for ever. The shell of our start script has it no longer ignored; the module alone hands it on."""
    ours = make(tmp_path, "tini", "ours")
    before = "for n in (13, 25): signal.signal(n, signal.SIG_DFL)\nsignal.signal(17, signal.SIG_IGN)"
    assert ours.run("-s", "--", "sh", "-c", "exit 6", before=before).returncode == 6
    words = [*command(f"import os, sys, signal\n{before}\nos.execv(sys.argv[1], sys.argv[1:])"), sys.executable, "-m", "pyinit", "-s", "--"]
    done = subprocess.run([*words, "sed", "-n", "s/^SigIgn://p", "/proc/self/status"], cwd=REPO, capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.strip() == f"{1 << 16:016x}"


def test_by_our_own_name_words_are_told_in_our_own_way(tmp_path):
    ours = make(tmp_path, "pyinit", "ours")
    assert ours.run("-s", "-e", "300", "--", "x").stderr == "pyinit: -e 300: expected an exit code, 0 to 255\n"
    assert ours.run("-p", "TERM", "--", "x").stderr == "pyinit: -p TERM: expected a signal's name such as SIGTERM\n"
    assert ours.run("-s", "--").stderr == "pyinit: no command: `pyinit -- COMMAND [ARGUMENT...]`\n"
    unknown = ours.run("-x", "--", "true")
    assert (unknown.returncode, unknown.stderr) == (2, "pyinit: invalid option -- 'x'; `pyinit -- COMMAND` knows -s -g -e -p -w -v -l\n")
    missing = ours.run("-s", "--", "/nonexistent")
    assert (missing.returncode, missing.stderr) == (127, "pyinit: /nonexistent: No such file or directory\n")
    assert ours.run("--", "true", before="os.close(0)").stderr == "pyinit: not PID 1 and no subreaper (-s): orphans go to the real init\n"
    assert ours.run("--version").stdout == f"pyinit {__version__}\n"


def test_the_module_runs_a_command_too():
    words = [sys.executable, "-m", "pyinit", "-s", "--", "sh", "-c", "exit 3"]
    assert subprocess.run(words, check=False, cwd=REPO, stdin=subprocess.DEVNULL, timeout=20).returncode == 3
