"""Instances of a template by verb: made of the file as it is then, kept by a reload, enabled over a restart."""

import json
import os
import pathlib

import pytest
from conftest import verb, wait_until
from test_container import config

from pyinit.cli.roles import supervisor_name

pytestmark = pytest.mark.usefixtures("nothing_left")

APP = '[services.app]\ncommand = "sleep {seconds}"\n'
WORKER = """[services."worker@"]
command = ["sh", "-c", "echo {word} ${{INSTANCE}}; exec sleep 1000"]
requires = ["app", "db@${{INSTANCE}}"]
log = {{ to = "stdout" }}
[services."db@"]
command = "sleep 1000"
"""


class Plain:
    """A plain supervisor whose file changes under it."""

    def __init__(self, bench, tmp_path) -> None:
        self.bench, self.folder = bench, tmp_path
        self.head = f'[init]\nstate_dir = "{tmp_path}/state"\nlog_dir = "{tmp_path}/log"\ncontrol_socket = "{tmp_path}/s"\n'

    def start(self, text: str):
        return self.bench.start(self.head + text)

    def write(self, text: str) -> None:
        self.bench.write(self.head + text)

    def verb(self, *words: str):
        done = verb(words[0], "--socket", f"{self.folder}/s", *words[1:])
        return done.returncode, done.stdout, done.stderr

    def pids(self) -> dict[str, int]:
        return {one["name"]: one["pid"] for one in json.loads(self.verb("status", "--json")[1])["services"]}


@pytest.fixture
def plain(bench, tmp_path):
    return Plain(bench, tmp_path)


def test_an_instance_is_made_of_the_file_as_it_is_and_nothing_else_is_touched(plain):
    box = plain.start(APP.format(seconds=1000) + WORKER.format(word="old"))
    box.wait_for("app: ready")
    assert plain.verb("start", "worker@x") == (0, "", "")
    box.wait_for("worker@x: old x")
    before = plain.pids()
    assert list(before) == ["app", "worker@x", "db@x"]
    plain.write(APP.format(seconds=2000) + WORKER.format(word="new"))
    assert plain.verb("restart", "worker@y") == (0, "", "")
    box.wait_for("worker@y: new y")
    assert plain.verb("wait", "worker@y", "--ready", "--timeout", "5s") == (0, "", "")
    assert plain.verb("status", "worker@y")[0] == 0
    after = plain.pids()
    assert {name: after[name] for name in before} == before
    # A reload keeps them, and brings the rest of the edit.
    assert plain.verb("reload") == (0, "app, worker@x: restarted, for they differ\n", "")
    box.wait_for("worker@x: new x")
    # What was stopped is known up to the next reload.
    assert plain.verb("stop", "worker@x") == (0, "", "")
    assert plain.verb("status", "worker@x")[0] == 3
    assert plain.verb("reload") == (0, "worker@x, db@x: removed\n", "")
    # Without their template they go.
    plain.write(APP.format(seconds=2000))
    code, out, _ = plain.verb("reload")
    assert (code, sorted(out.partition(":")[0].split(", "))) == (0, ["db@y", "worker@y"])
    box.wait_for("worker@y: removed")
    box.wait_for("db@y: removed")
    assert list(plain.pids()) == ["app"]
    assert box.stop() == 0


def test_what_is_no_instance_and_a_file_that_is_bad_meanwhile(plain):
    box = plain.start(APP.format(seconds=1000) + WORKER.format(word="old"))
    box.wait_for("app: ready")
    path = plain.folder / "services.toml"
    assert plain.verb("start", "wroker@x") == (1, "", "pyinit: wroker@x: no such service; did you mean worker@x?\n")
    assert plain.verb("start", "zzz") == (1, "", "pyinit: zzz: no such service; there are: app, worker@, db@\n")
    shape = "worker@ is a template: expected an instance such as worker@1, up to 63 letters, digits, _ . - or @\n"
    for name in ("worker@", "worker@a/b", "worker@" + "x" * 60):
        assert plain.verb("enable", name) == (1, "", f"pyinit: {name}: {shape}")
    plain.write(APP.format(seconds=1000) + "[services.x]\ncomand = 1\n")
    assert plain.verb("start", "worker@x") == (
        100, "",
        f'pyinit: {path}:7: services.x: command is missing: expected a list such as ["/usr/sbin/nginx", "-g", "daemon off;"], or a string\n'
        f"pyinit: {path}:8: services.x.comand: there is no such key; did you mean command?\n",
    )  # fmt: skip
    plain.write(APP.format(seconds=1000))
    assert plain.verb("start", "worker@x") == (1, "", f"pyinit: worker@x: {path} has no template worker@ any more\n")
    plain.write(APP.format(seconds=1000) + '[services.more]\ncommand = "more"\n' + WORKER.format(word="old").replace('"app"', '"more"'))
    assert plain.verb("start", "worker@x") == (1, "", f"pyinit: {path}:9: worker@x requires more, which is new in the file: `pyinit reload` first\n")
    assert list(plain.pids()) == ["app"]
    assert not (plain.folder / "state/enabled").exists()
    assert box.stop() == 0


def test_an_enabled_instance_comes_back_with_pyinit_until_it_is_disabled(plain):
    text = APP.format(seconds=1000) + WORKER.format(word="up") + '[services.last]\ncommand = "sleep 1000"\n'
    box = plain.start(text)
    box.wait_for("last: ready")
    assert plain.verb("enable", "worker@x") == (0, "", "")
    assert plain.verb("start", "worker@y") == (0, "", "")
    assert box.stop() == 0
    box = plain.start(text)
    box.wait_for("worker@x: up x")
    box.wait_for("last: ready")
    assert list(plain.pids()) == ["app", "last", "worker@x", "db@x"]
    assert plain.verb("disable", "worker@x") == (0, "", "")
    assert box.stop() == 0
    box = plain.start(text)
    box.wait_for("last: ready")
    assert list(plain.pids()) == ["app", "last"]
    assert box.stop() == 0


def test_a_stop_while_the_enabled_instances_are_being_read(plain, tmp_path):
    """The included file is a pipe: its second reader is the one that looks for the instances, and it gets nothing."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state/enabled").write_text("+worker@x\n")
    os.mkfifo(tmp_path / "more.toml")
    box = plain.bench.start('include = ["more.toml"]\n' + plain.head + APP.format(seconds=1000))
    (tmp_path / "more.toml").write_text(WORKER.format(word="up"))
    wait_until(pathlib.Path("/run/pyinit", supervisor_name(str(box.config)), "pid").exists, "the end of the first reading")
    with open(tmp_path / "more.toml", "w"):
        assert box.stop() == 0
    assert box.output == ""


def test_in_a_container_the_monitor_reads(bench, busybox, tmp_path):
    (tmp_path / "kept").mkdir()
    more = '[[container.mounts]]\ntype = "bind"\nsource = "kept"\ntarget = "/kept"\n'
    worker = '[services."worker@"]\ncommand = ["/bin/sh", "-c", "echo ${INSTANCE} of $WORD; exec sleep 1000"]\nenvironment = { WORD = "${WORD}" }\nlog = { to = "stdout", timestamp = "none" }\n'
    text = config(busybox, "while :; do sleep 0.05; done", more, worker).replace("[init]", '[init]\nstate_dir = "/kept"')
    box = bench.start(text + '[services."gone@"]\ncommand = "x"\n', environment={"WORD": "moon"})
    box.wait_for("app: ready")
    before = json.loads(verb("status", "--json").stdout)["services"]
    bench.write(text.replace("echo ${INSTANCE}", "echo new ${INSTANCE}").replace("sleep 0.05", "sleep 0.06"))
    assert verb("start", "worker@x").stderr == ""
    box.wait_for("worker@x: new x of moon")
    after = json.loads(verb("status", "--json").stdout)["services"]
    assert [(one["name"], one["pid"]) for one in after[:1]] == [(one["name"], one["pid"]) for one in before]
    names = [f"worker@{'n' * 40}{number}" for number in range(300)]  # more than a packet to the monitor has room for
    assert verb("start", *names, "gone@x").stderr == f"pyinit: gone@x: {box.config} has no template gone@ any more\n"
    assert verb("reload").stdout == "app: restarted, for they differ\n"
    assert verb("enable", "worker@e").returncode == 0
    assert box.stop() == 0
    box = bench.start(text, environment={"WORD": "sun"})
    box.wait_for("worker@e: e of sun")
    assert [one["name"] for one in json.loads(verb("status", "--json").stdout)["services"]] == ["app", "worker@e"]
    assert box.stop() == 0
