"""What `check` and `plan` print."""

import pytest

from pyinit.cli import check, plan
from pyinit.errors import ConfigError, UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layer").mkdir()
    return tmp_path


def written(folder, text):
    (folder / "services.toml").write_text(text)
    return ["services.toml"]


SERVICES = """\
[services.web]
command = ["/bin/web", "a b", "${HOME}", ""]
requires = ["db"]
wants = ["cache"]
[services.cache]
command = "cache"
enabled = false
[services.db]
command = "db"
"""


def test_check_of_a_good_file(folder, capsys):
    assert check.run(written(folder, '[services.a]\ncommand = "x"\n')) == 0
    assert check.run(written(folder, SERVICES)) == 0
    assert check.run(written(folder, '[container]\nlayers = ["layer"]\n' + SERVICES)) == 0
    found = capsys.readouterr()
    assert found.out == (
        "services.toml: ok, 1 service\nservices.toml: ok, 3 services\nservices.toml: ok, 3 services, a container\n"
    )
    assert found.err == ""


def test_check_tells_every_error_a_line_each(folder, capsys):
    assert check.run(written(folder, '[services.a]\ncommand = "x"\nkill = 1\nusr = "x"\n')) == 100
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err == (
        'services.toml:3: services.a.kill: expected "cgroup", "group" or "process", found 1\n'
        "services.toml:4: services.a.usr: there is no such key; did you mean user?\n"
    )


@pytest.mark.parametrize("verb", [check, plan])
@pytest.mark.parametrize("words", [[], ["a", "b"], ["--json"]])
def test_wrong_words(verb, words):
    with pytest.raises(UsageError) as caught:
        verb.run(words)
    assert str(caught.value) == f"expected one file: `pyinit {verb.__name__.rpartition('.')[2]} services.toml`"


@pytest.mark.parametrize("verb", [check, plan])
def test_help(verb, capsys):
    assert verb.run(["--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: pyinit {verb.__name__.rpartition('.')[2]} FILE\n")


def test_plan_without_a_container_is_the_order_of_the_services(folder, capsys):
    assert plan.run(written(folder, SERVICES)) == 0
    assert capsys.readouterr().out == (
        "services, in the order of their start:\n"
        "    db: db  [services.toml:8]\n"
        "    cache: cache, not enabled  [services.toml:5]\n"
        "    web: /bin/web 'a b' '${HOME}' '', after db, cache (wanted)  [services.toml:1]\n"
    )


def test_plan_without_a_container_says_which_service_has_a_filter(folder, capsys):
    text = '[services.a]\ncommand = "x"\nseccomp = "default"\n[services.b]\ncommand = "x"\nseccomp = "unconfined"\n'
    assert plan.run(written(folder, text)) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["    a: x, seccomp default  [services.toml:1]", "    b: x  [services.toml:4]"]


def test_plan_shows_each_step_its_line_and_what_undoes_it_and_names_for_values(folder, capsys, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    monkeypatch.setenv("WEB", "SECRET")  # a value that is another one's name
    text = """\
[container]
name = "web"
hostname = "h-${SECRET}"
layers = ["layer"]
[[container.mounts]]
type = "bind"
source = "${SECRET}/data"
target = "/${WEB}"
create = true
[services.a]
command = "x"
environment = { A = "${SECRET}" }
"""
    assert plan.run(written(folder, text)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "  1 clone PID 1 into new namespaces: pid mount uts ipc cgroup net  [services.toml:1]",
        "      undo: kill PID 1: all else in its pid namespace goes with it",
        "  2 make cgroup pyinit-web  [services.toml:1]",
        "      undo: kill what is in the group, remove it",
    ]
    assert f"mount bind {folder}/${{SECRET}}/data on /${{WEB}}  [services.toml:5]" in [line[4:] for line in lines]
    assert "set the host name h-${SECRET}  [services.toml:1]" in [line[4:] for line in lines]
    assert lines[-2:] == ["services, in the order of their start:", "    a: x  [services.toml:10]"]
    numbers = [int(line[:3]) for line in lines[:-2] if not line.startswith("      undo: ")]
    assert numbers == list(range(1, len(numbers) + 1))
    assert not any("hunter2" in line for line in lines)


def test_plan_of_a_bad_file(folder):
    with pytest.raises(ConfigError) as caught:
        plan.run(written(folder, "[services.a]\n"))
    assert caught.value.problems == [
        'services.toml:1: services.a: command is missing: expected a list such as ["/usr/sbin/nginx", "-g", "daemon off;"], or a string'
    ]


def test_plan_shows_what_a_service_may_reach(folder, capsys):
    (folder / "services.toml").write_text(
        '[services.a]\ncommand = "x"\n[services.a.landlock]\nro = ["/usr", "-/opt"]\nrw = ["/data"]\ntcp_bind = [80, 81]\ntcp_connect = []\nscope = ["signals"]\n'
    )
    assert plan.run(["services.toml"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "    a: x  [services.toml:1]",
        "        landlock: ro /usr -/opt, rw /data, tcp_bind 80 81, tcp_connect none, scope signals  [services.toml:3]",
    ]
