"""As dumb-init: each case holds for Debian's own dumb-init and for ours by that name."""

import os
import re
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
    children,
    command,
    for_everyone,
    found_by,
    make,
    state,
    wait_until,
)

STOPS = (20, 21, 22)  # TSTP, TTIN, TTOU
PASSED_ON = sorted(set(range(1, 32)) - {9, 17, 19, *STOPS})
RULES = (
    "Usage: -r option takes <signum>:<signum>, where <signum> is between 1 and 31.\n"
    "This option can be specified multiple times.\nUse --help for full usage.\n"
)


@pytest.fixture(params=BOTH)
def dumb_init(request, tmp_path):
    return make(tmp_path, "dumb-init", request.param)


@pytest.fixture(params=["1", "0"], ids=["session", "no session"])
def setsid(request):
    return {"DUMB_INIT_SETSID": request.param}


@pytest.mark.parametrize("code", [0, 1, 2, 32, 64, 127, 254, 255])
def test_the_exit_code_is_the_command_s(dumb_init, setsid, code):
    assert dumb_init.run("sh", "-c", f"exit {code}", environment=setsid).returncode == code


@pytest.mark.parametrize("number", [1, 3, 6, 9, 11, 15, 34])
def test_a_death_by_signal_is_128_and_its_number(dumb_init, number):
    assert dumb_init.run(*command(f"import os; os.kill(os.getpid(), {number})")).returncode == 128 + number


@pytest.mark.parametrize("options", [(), ("--",), ("-c",), ("--single-child", "--")])
def test_a_command_that_is_not_there(dumb_init, options):
    done = dumb_init.run(*options, "/nonexistent")
    assert (done.returncode, done.stderr) == (2, "[dumb-init] /nonexistent: No such file or directory\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--yolo", "true"), "dumb-init: unrecognized option '--yolo'\n"),
        (("--ver", "true"), "dumb-init: option '--ver' is ambiguous; possibilities: '--verbose' '--version'\n"),
        (("--verbose=1", "true"), "dumb-init: option '--verbose' doesn't allow an argument\n"),
        (("--rewrite",), "dumb-init: option '--rewrite' requires an argument\n"),
        (("-r",), "dumb-init: option requires an argument -- 'r'\n"),
        (("-x", "true"), "dumb-init: invalid option -- 'x'\n"),
        (("-vx", "true"), "dumb-init: invalid option -- 'x'\n"),
        ((), "Usage: dumb-init [option] program [args]\nTry dumb-init --help for full usage.\n"),
        (("-v",), "Usage: dumb-init [option] program [args]\nTry dumb-init --help for full usage.\n"),
    ],
)
def test_words_that_it_does_not_know(dumb_init, words, told):
    done = dumb_init.run(*words)
    assert (done.returncode, done.stdout, dumb_init.plain(done.stderr)) == (1, "", told)


@pytest.mark.parametrize("rule", ["", "herp", "herp:derp", "15", "15::12", "15:derp", "0:1", "1:32", "32:1", "15: ", "-1:3", "15 :3"])
def test_rewriting_that_is_none(dumb_init, rule):
    done = dumb_init.run("-r", rule, "true")
    assert (done.returncode, done.stderr) == (1, RULES)


@pytest.mark.parametrize(("words", "code"), [(("-r", "15:12x", "true"), 0), (("--rewrite=15: 12", "true"), 0), (("--sing", "true"), 0), (("-r", "+15:+2", "true"), 0)])
def test_words_that_it_knows_all_the_same(dumb_init, words, code):
    assert dumb_init.run(*words).returncode == code


def test_options_end_at_the_command(dumb_init):
    assert dumb_init.run("sh", "-c", "exit 3").returncode == 3


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help(dumb_init, word):
    """Its own suite asks for each letter of it."""
    done = dumb_init.run(word)
    lines = dumb_init.plain(done.stderr).splitlines()
    assert (done.returncode, done.stdout, lines[:2]) == (0, "", ["dumb-init v1.2.5", "Usage: dumb-init [option] command [[arg] ...]"])
    theirs = make(dumb_init.path.parent, "dumb-init", "theirs")
    assert dumb_init.plain(done.stderr) == theirs.plain(theirs.run(word).stderr)


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_version(dumb_init, word):
    done = dumb_init.run(word)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "dumb-init v1.2.5\n")


@pytest.mark.parametrize("words", [("-v",), ("--verbose",), ()])
def test_what_it_tells_from_start_to_end(dumb_init, words):
    done = dumb_init.run(*words, "sh", "-c", "exit 3", environment={} if words else {"DUMB_INIT_DEBUG": "1"})
    lines = dumb_init.plain(done.stderr).splitlines()
    own = {"[dumb-init] Unable to attach to controlling tty (errno=25 Inappropriate ioctl for device).", "[dumb-init] setsid complete."}
    assert done.returncode == 3
    assert own <= set(lines)  # the command's process says these, at any time
    assert [line for line in lines if line not in own] == [
        *(() if words else ("[dumb-init] Running in debug mode.",)),
        "[dumb-init] Unable to detach from controlling tty (errno=25 Inappropriate ioctl for device).",
        "[dumb-init] Child spawned with PID N.",
        "[dumb-init] Received signal 17.",
        "[dumb-init] A child with PID N exited with exit status 3.",
        "[dumb-init] Forwarded signal 15 to children.",
        "[dumb-init] Child exited with status 3. Goodbye.",
    ]


def test_what_it_tells_of_a_single_child(dumb_init):
    done = dumb_init.run("-v", "-c", *command("import os; os.kill(os.getpid(), 9)"))
    assert (done.returncode, dumb_init.plain(done.stderr)) == (
        137,
        "[dumb-init] Child spawned with PID N.\n[dumb-init] Received signal 17.\n[dumb-init] A child with PID N was terminated by signal 9.\n"
        "[dumb-init] Forwarded signal 15 to children.\n[dumb-init] Child exited with status 137. Goodbye.\n",
    )
    without = dumb_init.run("-v", "true", environment={"DUMB_INIT_SETSID": "0"})
    assert without.stderr.startswith("[dumb-init] Child spawned") or without.stderr.startswith("[dumb-init] Not running in setsid mode.\n")


def test_every_signal_is_passed_on_faults_too(dumb_init, setsid):
    with dumb_init.started(*command(PRINTS), environment=setsid) as process:
        assert process.stdout.readline().startswith("ready ")
        for number in [*PASSED_ON, 34, 37, 64]:
            process.send_signal(number)
            assert process.stdout.readline() == f"{number}\n"


@pytest.mark.parametrize(
    ("rules", "sent", "got"),
    [
        (["15:2"], [15, 3, 18, 2], [2, 3, 18, 2]), (["15:2", "2:15", "3:3"], [15, 3, 18, 2], [2, 3, 18, 15]), (["1:31", "31:1"], [1, 31], [31, 1]),
        (["15:3", "2:0", "28:0"], [15, 2, 28, 1], [3, 0, 0, 1]),
    ],
)  # fmt: skip
def test_signals_are_rewritten(dumb_init, setsid, rules, sent, got):
    words = [word for rule in rules for word in ("-r", rule)]
    with dumb_init.started(*words, *command(PRINTS), environment=setsid) as process:
        assert process.stdout.readline().startswith("ready ")
        for number, instead in zip(sent, got, strict=True):
            process.send_signal(number)
            if instead:
                assert process.stdout.readline() == f"{instead}\n"
            else:
                wait_until(lambda number=number: not _pending(process.pid) & 1 << (number - 1), "it takes the signal")


def _pending(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("ShdPnd"))


def test_it_stops_with_its_session_and_goes_on_with_it(dumb_init):
    with dumb_init.started(*command(PRINTS)) as process:
        pid = int(process.stdout.readline().split()[1])
        for number in STOPS:
            process.send_signal(number)
            wait_until(lambda: state(process.pid) == state(pid) == "T", "both stop")
            process.send_signal(signal.SIGCONT)
            assert process.stdout.readline() == "18\n"
            wait_until(lambda: state(process.pid) == state(pid) == "S", "both go on")


def test_without_a_session_of_its_own_the_command_is_told_and_it_stops(dumb_init):
    with dumb_init.started("-c", *command(PRINTS)) as process:
        assert process.stdout.readline().startswith("ready ")
        for number in STOPS:
            process.send_signal(number)
            assert process.stdout.readline() == f"{number}\n"
            wait_until(lambda: state(process.pid) == "T", "it stops")
            process.send_signal(signal.SIGCONT)
            assert process.stdout.readline() == "18\n"


def test_other_rules_for_what_stops_are_kept_and_it_stops_itself(dumb_init):
    with dumb_init.started("-r", "21:15", "-r", "22:2", "-r", "20:1", *command(PRINTS)) as process:
        assert process.stdout.readline().startswith("ready ")
        for number, instead in ((21, 15), (22, 2), (20, 1)):
            process.send_signal(number)
            assert process.stdout.readline() == f"{instead}\n"
            wait_until(lambda: state(process.pid) == "T", "it stops")
            process.send_signal(signal.SIGCONT)
            assert process.stdout.readline() == "18\n"


LEAVES_A_CHILD = """\
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {15, 10})
if os.fork() == 0:
    print("left", os.getpid(), flush=True)
    print(int(signal.sigwait({15, 10})), flush=True)
    os._exit(0)
sys.stdin.readline()
"""


def test_what_is_left_of_the_session_gets_term_when_the_command_ends(dumb_init, setsid):
    with dumb_init.started(*command(LEAVES_A_CHILD), environment=setsid, stdin=subprocess.PIPE) as process:
        pid = int(process.stdout.readline().split()[1])
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(10) == 0
        if setsid["DUMB_INIT_SETSID"] == "0":
            os.kill(pid, 10)
        assert process.stdout.readline() == ("15\n" if setsid["DUMB_INIT_SETSID"] == "1" else "10\n")


def test_term_at_the_end_is_rewritten_like_any_other(dumb_init):
    with dumb_init.started("-r", "15:10", *command(LEAVES_A_CHILD), stdin=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith("left ")
        process.stdin.write("\n")
        process.stdin.close()
        assert (process.wait(10), process.stdout.readline()) == (0, "10\n")


def test_it_stands_in_the_root_and_the_command_where_it_was(dumb_init, tmp_path):
    done = dumb_init.run("sh", "-c", "readlink /proc/$PPID/cwd; readlink /proc/$$/cwd", cwd=tmp_path)
    assert done.stdout == f"/\n{tmp_path}\n"


def test_nothing_is_blocked_or_ignored_in_the_command(dumb_init, setsid):
    before = "signal.pthread_sigmask(signal.SIG_BLOCK, {1, 15, 34})\nfor n in (2, 10, 13, 21, 22): signal.signal(n, signal.SIG_IGN)"
    assert dumb_init.run(*MASKS, before=before, environment=setsid).stdout == f"{0:016x}\n" * 2


def test_the_command_leads_a_session_or_stays_in_ours(dumb_init, setsid):
    found = found_by(dumb_init.run(*command(FINDS), environment=setsid))
    alone = setsid["DUMB_INIT_SETSID"] == "1"
    assert (found["leads_group"], found["leads_session"], found["fds"]) == (alone, alone, [0, 1, 2])


def test_not_pid_1_it_is_no_subreaper(dumb_init):
    assert dumb_init.run(*command(ORPHAN)).returncode == 40


def in_terminal(init, *words: str, environment: dict[str, str] | None = None) -> str:
    """What it and its command say on a terminal of their own."""
    done = subprocess.run(
        [*command(TERMINAL), str(init.path), *words], capture_output=True, text=True, check=True, timeout=20, env={**os.environ, **(environment or {})}
    )
    return init.plain(done.stdout)


def test_the_command_s_session_has_the_terminal(dumb_init):
    assert "flags m" in in_terminal(dumb_init, "bash", "-mc", 'case $- in *m*) echo "flags m";; esac; true')
    found = in_terminal(dumb_init, *command(FINDS))
    assert '"foreground": true' in found


def test_what_the_kernel_says_when_the_terminal_is_given_away_is_not_passed_on(dumb_init):
    told = in_terminal(dumb_init, "-v", "sh", "-c", "trap 'exit 4' HUP; echo send HUP; while :; do sleep 0.02; done")
    assert "[dumb-init] Detached from controlling tty, ignoring the first SIGHUP and SIGCONT we receive.\n" in told
    assert "[dumb-init] Ignoring tty hand-off signal 1.\n" in told
    assert "[dumb-init] Ignoring tty hand-off signal 18.\n" in told
    assert "[dumb-init] Forwarded signal 1 to children.\n" in told
    assert "[dumb-init] Forwarded signal 18 to children.\n" not in told


def test_as_pid_1_orphans_are_reaped(dumb_init):
    script = "(sh -c 'exit 0' &) ; n=0; while [ $n -lt 500 ]; do z=$(cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '); [ $z = 0 ] && exit 7; n=$((n+1)); done; exit 1"
    words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", str(dumb_init.path), "sh", "-c", script]
    assert subprocess.run(words, check=False, stdin=subprocess.DEVNULL, timeout=20).returncode == 7


def test_no_other_process_stands_beside_the_command(dumb_init):
    with dumb_init.started(*command(PRINTS)) as process:
        pid = int(process.stdout.readline().split()[1])
        assert children(process.pid) == [pid]
        assert not re.search("python", " ".join(os.listdir(f"/proc/{process.pid}/task")[1:]))


def test_no_room_for_a_process(dumb_init):
    before = "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (0, 0)); os.setgid(65534); os.setuid(65534)"
    with for_everyone(dumb_init) as found:
        done = found.run("true", before=before)
        assert (done.returncode, done.stderr) == (1, "[dumb-init] Unable to fork. Exiting.\n")
