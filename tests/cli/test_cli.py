"""What the verbs print and refuse, without a running init; what needs one is in tests/system."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from pyinit.__main__ import main
from pyinit.cli import options, single, status, tini
from pyinit.errors import UsageError

ROWS = [
    {"name": "app", "state": "ready", "pid": 12, "uptime_s": 61.2, "restarts": 0, "reason": ""},
    {"name": "migrate", "state": "done", "pid": None, "uptime_s": None, "restarts": 0, "reason": "exit code 0"},
    {"name": "web", "state": "backoff", "pid": None, "uptime_s": None, "restarts": 12, "reason": "exit code 1; restart in 0.4 s"},
]


def test_the_table_of_status():
    assert status.table(ROWS) == (
        "NAME     STATE    PID  UPTIME  RESTARTS  REASON\n"
        "app      ready    12   1m01s   0\n"
        "migrate  done     -    -       0         exit code 0\n"
        "web      backoff  -    -       12        exit code 1; restart in 0.4 s"
    )


def test_colour_is_around_the_state_and_moves_nothing():
    plain, coloured = status.table(ROWS), status.table(ROWS, colour=True)
    assert "\x1b[32mready  \x1b[0m" in coloured
    assert "\x1b[31mbackoff\x1b[0m" in coloured
    for code in ("\x1b[32m", "\x1b[31m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0s"), (59.9, "59.9s"), (60, "1m00s"), (185, "3m05s"), (7800, "2h10m"), (86400 * 5 + 3 * 3600, "5d03h")],
)
def test_durations_in_two_units(seconds, text):
    assert options.duration(seconds) == text


def parse(*words):
    return options.parse(list(words), usage="usage\n", values=("--timeout", "-n"), flags=("--json",))


def test_options_are_told_from_names():
    found = parse("-c", "web", "app", "--json", "--timeout=5s", "-n", "3", "--", "--odd")
    assert (found.names, found.flags, found.values) == (["app", "--odd"], {"--json"}, {"-c": "web", "--timeout": "5s", "-n": "3"})
    assert (found.timeout_s(), found.integer("-n", 10, 99)) == (5.0, 3)
    assert parse().timeout_s() is None
    assert parse("-n5", "-cweb").values == {"-n": "5", "-c": "web"}
    assert parse("--timeout", "9" * 400 + "h").timeout_s() == 2e6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--jsno",), "--jsno: there is no such option; did you mean --json?"),
        (("-q",), "-q: there is no such option; there are: --json --socket --timeout -c -n"),
        (("--socket",), "--socket needs a value; `--help` tells more"),
    ],
)
def test_options_that_are_none(words, message):
    with pytest.raises(UsageError) as caught:
        parse(*words)
    assert str(caught.value).replace("did you mean -n?", "there are: --json --socket --timeout -c -n") == message


def test_values_that_are_none():
    for text in ("5", "s", ".s", "1.2.3s", "-1s", "²s", ""):
        with pytest.raises(UsageError) as caught:
            parse("--timeout", text).timeout_s()
        assert str(caught.value) == f'--timeout {text}: expected a duration such as "5s" or "2m"'
    for text in ("x", "10", "-1", "²", "9" * 5000, ""):
        with pytest.raises(UsageError) as caught:
            parse("-n", text).integer("-n", 1, 9)
        assert str(caught.value) == f"-n {text}: expected a number up to 9"


def test_help_is_printed(capsys):
    assert parse("--help") is None
    assert capsys.readouterr().out == "usage\n"


def run(*words, **keys):
    return subprocess.run([sys.executable, "-m", "pyinit", *words], capture_output=True, text=True, check=False, **keys)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("statu",), 2, "pyinit: statu: there is no such verb; did you mean `status`?\n"),
        (("check",), 2, "pyinit: expected one file: `pyinit check services.toml`\n"),
        (("--confg", "x"), 2, "pyinit: --confg: there is no such option; `pyinit --help` lists them\n"),
        (("--config",), 2, "pyinit: --config needs a file: `pyinit --config services.toml`\n"),
        (("--config", "/not/there.toml"), 100, "pyinit: /not/there.toml: No such file or directory; name the config with --config FILE\n"),
        (("start",), 2, "pyinit: start: expected at least one service: `pyinit start NAME...`\n"),
        (("signal", "FOO", "app"), 2, "pyinit: signal FOO: expected a signal such as HUP or RTMIN+1, then services\n"),
        (("status", "--socket", "/not/there.sock"), 3, "pyinit: no pyinit listens on /not/there.sock: it does not run\n"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_a_code(monkeypatch, capsys, words, code, text):
    monkeypatch.setattr(sys, "argv", ["pyinit", *words])
    assert (main(), *capsys.readouterr()) == (code, "", text)


@pytest.mark.parametrize("verb", ["check", "plan", "build", "status", "list", "logs", "start", "stop", "restart", "signal", "shutdown"])
def test_every_verb_has_help(monkeypatch, capsys, verb):
    monkeypatch.setattr(sys, "argv", ["pyinit", verb, "--help"])
    assert main() == 0
    out, errors = capsys.readouterr()
    assert (out.startswith(f"usage: pyinit {verb}"), errors) == (True, "")


def test_version_and_help():
    assert run("--version").stdout == "pyinit 0.1.0\n"
    assert run("--help").stdout.startswith("usage: pyinit --config FILE")


# One command, as tini runs it


def test_tini_s_options_are_taken_together_or_apart():
    found = tini.Tini("pyinit")
    assert tini.parse(found, ["-sgv", "-e", "143", "-e7", "-pSIGTERM", "--", "cmd", "-s"]) is None
    assert (found.subreaper, found.group, found.verbosity, found.as_success, found.parent_death) == (True, True, 2, {143, 7}, 15)
    assert found.command == ["cmd", "-s"]
    with pytest.raises(UsageError, match="-e 300: expected an exit code, 0 to 255"):
        tini.parse(found, ["-e", "300", "--", "x"])
    with pytest.raises(UsageError, match="no command"):
        tini.parse(found, ["-s", "--"])


def test_the_start_script_knows_each_personality():
    """It asks for the name itself: to import what knows it would cost what is to be saved."""
    script = (pathlib.Path(single.__file__).parent / "pyinit").read_text()
    assert str(tuple(single.PERSONALITIES)).replace("'", '"') in script


GRAMMAR = [
    (["-ab", "c"], "ab", {}, True, [("a", ""), ("b", "")], ["c"]),
    (["c", "-a", "--", "-b"], "ab", {}, True, [("a", "")], ["c", "-b"]),
    (["c", "-a"], "ab", {}, False, [], ["c", "-a"]),
    (["-vx1", "-", "-x", "2"], "vx:", {}, True, [("v", ""), ("x", "1"), ("x", "2")], ["-"]),
    (["-x"], "x:", {}, True, [("?", "option requires an argument -- 'x'")], []),
    (["-:"], "x:", {}, True, [("?", "invalid option -- ':'")], []),
    (["--long"], "lo", {}, True, [("?", "invalid option -- '-'"), ("l", ""), ("o", ""), ("?", "invalid option -- 'n'"), ("?", "invalid option -- 'g'")], []),
    (["--lo", "--long=3"], "l", {"long": "l"}, True, [("l", ""), ("?", "option '--long' doesn't allow an argument")], []),
    (["--val=3", "--value", "4"], "v:", {"value": "v"}, True, [("v", "3"), ("v", "4")], []),
    (["--val="], "v:", {"value": "v"}, True, [("v", "")], []),
    (["--value"], "v:", {"value": "v"}, True, [("?", "option '--value' requires an argument")], []),
    (["--ver"], "vV", {"verbose": "v", "version": "V"}, True, [("?", "option '--ver' is ambiguous; possibilities: '--verbose' '--version'")], []),
    (["--x=1"], "v", {"verbose": "v"}, True, [("?", "unrecognized option '--x'")], []),
]


@pytest.mark.parametrize(("words", "short", "long", "permute", "options", "rest"), GRAMMAR)
def test_options_are_taken_as_getopt_takes_them(words, short, long, permute, options, rest):
    grammar = single.Grammar(words, short, long, permute=permute)
    assert (list(grammar), grammar.rest) == (options, rest)


@pytest.mark.parametrize(("text", "found"), [("12x", (12, "x")), (" -3", (-3, "")), ("+", (None, "+")), ("", (None, "")), ("\t07:", (7, ":")), ("\u0663", (None, "\u0663"))])
def test_numbers_are_taken_as_strtol_takes_them(text, found):
    assert single.leading_number(text) == found


@pytest.mark.parametrize(
    ("options", "script", "code"),
    [((), "exit 0", 0), ((), "exit 7", 7), (("-e", "7"), "exit 7", 0), ((), "kill -TERM $$", 143), (("-e", "143"), "kill -TERM $$", 0)],
)
def test_exit_codes_of_one_command(options, script, code):
    assert run("-s", *options, "--", "sh", "-c", script).returncode == code


def test_the_command_has_our_mask_and_default_dispositions():
    done = run("-s", "--", "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    assert done.stdout == f"SigBlk:\t{'0' * 16}\nSigIgn:\t{'0' * 16}\n"


def test_signals_are_passed_on_to_the_group_with_g():
    # The outer trap is there before the inner shell says "up"; it is no "", for what is ignored can't be trapped.
    script = 'trap : USR1; sh -c \'trap "echo inner; exit" USR1; echo up; while :; do sleep 0.02; done\' & wait; wait'
    process = subprocess.Popen([sys.executable, "-m", "pyinit", "-s", "-g", "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    os.kill(process.pid, 10)
    assert process.stdout.readline() == "inner\n"
    assert process.wait(10) == 0
    process.stdout.close()


ANSWER = """
import os, socket
listener = socket.socket(fileno=3)
own = os.environ["LISTEN_PID"] == str(os.getpid())
client, _ = listener.accept()
client.send(f"{own} {os.environ['LISTEN_FDS']} {os.environ['LISTEN_FDNAMES']}".encode())
"""


@contextlib.contextmanager
def listening_on_3(listener: socket.socket, pid: str, *command: str):
    """pyinit as whoever activates sockets starts it: the listener is fd 3, LISTEN_PID the process that was started."""
    activate = (
        f"import os, sys; os.dup2({listener.fileno()}, 3); "
        f"os.environ.update(LISTEN_FDS='1', LISTEN_FDNAMES='web', LISTEN_PID=str({pid})); os.execv(sys.argv[1], sys.argv[1:])"
    )
    words = [sys.executable, "-S", "-c", activate, sys.executable, "-m", "pyinit", "-s", "--", *command]
    with subprocess.Popen(words, pass_fds=(listener.fileno(),), stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()  # if the test has failed


def test_sockets_that_are_handed_to_us_are_the_command_s():
    with socket.create_server(("127.0.0.1", 0)) as listener, listening_on_3(listener, "os.getpid()", sys.executable, "-S", "-c", ANSWER) as process:
        with socket.create_connection(listener.getsockname(), timeout=10) as client:
            assert client.recv(100) == b"True 1 web"
        assert process.wait(10) == 0


def test_sockets_that_are_another_s_stay_so():
    with socket.create_server(("127.0.0.1", 0)) as listener, listening_on_3(listener, "1", "sh", "-c", "echo $LISTEN_PID") as process:
        assert (process.stdout.read(), process.wait(10)) == ("1\n", 0)
