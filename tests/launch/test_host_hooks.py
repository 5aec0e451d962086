"""Hooks on the host: real commands, what they are given, how they fail, and how the journal keeps them."""

import os
import pathlib
import signal

import pytest

from pyinit.errors import LaunchError
from pyinit.launch import hooks
from pyinit.launch.claim import Claim
from pyinit.launch.onhost import NoteHook, RunHook
from pyinit.launch.plan import Plan
from pyinit.model import Config, Container, InitSpec, Origin

POST, PRE = Origin("s.toml", 9), Origin("s.toml", 7)


def config(folder: pathlib.Path) -> Config:
    return Config(f"{folder}/s.toml", InitSpec(), (), Container("web", "web", ()))


def sh(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


@pytest.fixture
def held(tmp_path):
    (tmp_path / "held").mkdir()
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
    yield Claim(f"{tmp_path}/held", *fds)
    for fd in fds:
        os.close(fd)


def run(held, *commands, post=(), timeout_s=20.0):
    steps = [NoteHook(sh(script), timeout_s, POST) for script in post] + [RunHook(sh(script), timeout_s, PRE) for script in commands]
    folder = pathlib.Path(held.directory).parent
    hooks.prestart(Plan((), (), (), tuple(steps)), config(folder), held.directory, 4711, held.note)


def test_a_hook_knows_the_container_and_the_launchers_environment(held, tmp_path, monkeypatch):
    monkeypatch.setenv("OURS", "yes")
    monkeypatch.setenv("NOTIFY_SOCKET", "/not/for/hooks")
    words = "$NOTIFY_SOCKET$PYINIT_NAME $PYINIT_PID. $PYINIT_CONFIG $PYINIT_DIRECTORY $OURS"
    run(held, f"echo {words} > pre; pwd >> pre", post=(f"echo {words} > post",))
    known = f"{tmp_path}/s.toml {tmp_path}/held yes\n"
    assert (tmp_path / "pre").read_text() == f"web 4711. {known}{tmp_path}\n"
    monkeypatch.setenv("PYINIT_PID", "1")  # of a pyinit that this one runs in
    assert held.undo() == []
    assert (tmp_path / "post").read_text() == f"web . {known}"
    assert held.failed_hooks == []


WHERE = "s.toml:7: container.hooks.prestart: "
FAILURES = {
    "exit 3": "sh -c exit 3: exit code 3",
    "echo no such thing >&2; exit 1": "sh -c echo no such thing >&2; exit 1: exit code 1: no such thing",
    "kill -9 $$": "sh -c kill -9 $$: killed by KILL",
    "echo up >&2; sleep 100": "sh -c echo up >&2; sleep 100: killed, for it took longer than 1 s: up",
}


@pytest.mark.parametrize(("script", "text"), FAILURES.items())
def test_the_first_that_fails_is_the_last_that_runs(held, tmp_path, script, text):
    with pytest.raises(LaunchError) as caught:
        run(held, "touch first", script, "touch third", timeout_s=1.0 if "sleep" in script else 20.0)
    assert str(caught.value) == WHERE + text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "held"]


def test_a_command_that_is_not_there(held, tmp_path):
    steps = Plan((), (), (), (RunHook(("/none/x", "y"), 9.0, PRE),))
    with pytest.raises(LaunchError) as caught:
        hooks.prestart(steps, config(tmp_path), held.directory, 1, held.note)
    assert str(caught.value) == f"{WHERE}/none/x y: /none/x: No such file or directory"


def test_a_stop_ends_a_hook_and_is_left_to_be_read(held):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with pytest.raises(hooks.StoppedError) as caught:
            run(held, f"kill -TERM {os.getpid()}; sleep 100")
        assert str(caught.value) == f"{WHERE}sh -c kill -TERM {os.getpid()}; sleep 100: stopped while it ran"
        assert caught.value.exit_code == 0
        assert signal.sigpending() == {signal.SIGTERM}
    finally:
        signal.sigtimedwait({signal.SIGTERM}, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def test_poststop_hooks_run_in_their_order_when_all_else_is_undone_and_once(held, tmp_path):
    held.note("address", "10.0.0.1")
    run(held, "cp held/journal seen", post=("echo a\t >> order", "echo b >> order"))
    held.note("folder", "/none")
    assert [line.partition("\t")[0] for line in (tmp_path / "seen").read_text().splitlines()] == ["address", "poststop", "poststop"]
    assert held.undo() == []
    assert held.undo() == []
    assert (tmp_path / "order").read_text() == "a\nb\n"
    assert os.listdir(held.directory) == []


def test_a_poststop_hook_that_fails_is_told_and_holds_up_nothing(held, tmp_path):
    run(held, post=("echo oh >&2; exit 4", "touch second"))
    assert held.undo() == []
    assert held.failed_hooks == ["s.toml:9: container.hooks.poststop: sh -c echo oh >&2; exit 4: exit code 4: oh"]
    assert (tmp_path / "second").exists()
    assert os.listdir(held.directory) == []


def test_what_can_t_be_undone_stays_in_the_journal_without_the_hooks_that_have_run(held, tmp_path):
    held.note("strange", "thing")
    run(held, post=("echo x >> runs",))
    for _ in range(2):
        assert held.undo() == ["strange thing is left behind: 'strange'"]
    assert (tmp_path / "runs").read_text() == "x\n"
    assert pathlib.Path(held.directory, "journal").read_text() == "strange\tthing\n"


def test_a_journal_that_can_t_be_written_anew_is_told_where_it_is_kept(held, tmp_path):
    """And is no matter where there is nothing left to undo."""
    pathlib.Path(held.directory, "journal.new").mkdir()
    run(held, post=("echo x >> runs", "echo y >> runs"))
    assert held.undo() == []
    run(held, post=("echo z >> runs",))
    held.note("strange", "thing")
    assert held.undo() == [
        "strange thing is left behind: 'strange'",
        "a journal that names hooks that have run, or what is undone, is left behind: "
        f"[Errno 21] Is a directory: '{held.directory}/journal.new'",
    ]  # fmt: skip
    assert (tmp_path / "runs").read_text() == "x\ny\nz\n"


def test_a_hook_in_the_journal_that_is_none(held):
    held.note("poststop", "{")
    assert held.undo() == []
    assert held.failed_hooks == [
        "a poststop hook in the journal can't be read: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    ]


def test_the_config_s_folder_may_be_gone(held, tmp_path):
    (tmp_path / "conf").mkdir()
    step = NoteHook(sh(f"pwd > {tmp_path}/where"), 9.0, POST)
    hooks.prestart(Plan((), (), (), (step,)), config(tmp_path / "conf"), held.directory, 1, held.note)
    (tmp_path / "conf").rmdir()
    assert held.undo() == []
    assert (tmp_path / "where").read_text() == "/\n"
