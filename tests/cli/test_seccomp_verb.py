"""`pyinit seccomp show`: what it prints and refuses."""

import json
import pathlib

import pytest

from pyinit.__main__ import main

PROFILE = """\
base = "none"
default = "ENOSYS"
allow = ["execve", "exit_group", "write", "rt_sigaction", "rt_sigprocmask", "open"]
deny = { ptrace = "kill" }
[[rules]]
calls = ["socket"]
when = ["arg0 == 2", "arg1 & 0xf == 1"]
action = "allow"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("calls.toml").write_text(PROFILE)
    return tmp_path


def run(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["pyinit", "seccomp", *words])
    code = main()
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_profile_in_words(monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "show", "--arch", "aarch64", "calls.toml")
    lines = out.splitlines()
    at = lines.index("kill (1):")
    assert (code, err) == (0, "")
    assert lines[:4] == [
        "profile calls.toml for aarch64, 35 instructions",
        "with the capabilities AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP",
        "    SETGID SETPCAP SETUID SYS_CHROOT",
        "allow (5):",
    ]
    assert lines[4:6] == ["    execve exit_group rt_sigaction rt_sigprocmask write", "ENOSYS (319):"]  # open is of x86_64 only
    assert lines[at:] == [
        "kill (1):",
        "    ptrace",
        "by their arguments:",
        "    socket: arg0 == 0x2 and arg1 & 0xf == 0x1: allow, else ENOSYS",
        "numbers without a name, and the x32 ABI's: ENOSYS",
        "calls of another architecture: kill",
    ]


def test_a_profile_as_json(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "show", "--json", "--bpf", "--arch=x86_64", "calls.toml")
    found = json.loads(out)
    assert code == 0
    assert list(found) == ["profile", "architecture", "log", "capabilities", "calls", "unknown", "foreign", "instructions", "bpf"]
    assert (found["profile"], found["log"], found["unknown"], found["foreign"]) == ("calls.toml", False, "ENOSYS", "kill")
    assert len(found["calls"]) == 385
    assert found["calls"]["open"] == {"number": 2, "action": "allow", "rules": []}
    assert found["calls"]["socket"] == {"number": 41, "action": "ENOSYS", "rules": [{"when": ["arg0 == 0x2", "arg1 & 0xf == 0x1"], "action": "allow"}]}
    assert len(found["bpf"]) == found["instructions"]
    assert found["bpf"][:4] == [
        "   0  load architecture", "   1  if == 0xc000003e go to 3, else 2", "   2  return kill", "   3  load number",
    ]  # fmt: skip


def test_the_default_and_its_program(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "show", "--arch", "x86_64")
    assert code == 0
    assert out.startswith("profile default for x86_64, 180 instructions\n")
    assert "    socket: arg0 == 0x26: EPERM, arg0 == 0x28: EPERM, else allow\n" in out
    longer = run(monkeypatch, capsys, "show", "--arch", "x86_64", "--bpf", "default")[1]
    assert longer == out + longer[len(out) :]
    assert longer[len(out) :].splitlines()[0] == "program:"
    assert len(longer[len(out) :].splitlines()) == 181


def test_of_a_service_of_no_container(monkeypatch, capsys):
    services = '[services.app]\ncommand = "x"\nseccomp = "calls.toml"\nseccomp_log = true\n[services.free]\ncommand = "x"\n'
    pathlib.Path("services.toml").write_text(services)
    code, out, _ = run(monkeypatch, capsys, "show", "--config", "services.toml", "app", "--arch", "x86_64")
    head, rest = out.split("/calls.toml", 1)
    assert (code, head[:9]) == (0, "profile /")
    assert rest.startswith(" for x86_64, 37 instructions, all that it refuses is let through and logged\n")
    assert run(monkeypatch, capsys, "show", "--config", "services.toml", "free") == (0, "unconfined: every system call is let through\n", "")
    assert json.loads(run(monkeypatch, capsys, "show", "--json", "--config", "services.toml", "free", "--arch", "x86_64")[1]) == {
        "profile": "unconfined", "architecture": "x86_64", "calls": {},
    }  # fmt: skip
    assert run(monkeypatch, capsys, "show", "--config", "services.toml") == (
        2, "", "pyinit: services.toml has no [container]: name the service that is meant\n",
    )  # fmt: skip


def test_what_it_refuses(monkeypatch, capsys):
    assert run(monkeypatch, capsys, "shw") == (2, "", "pyinit: shw: expected `pyinit seccomp show`\n")
    assert run(monkeypatch, capsys, "show", "a", "b") == (
        2, "", "pyinit: expected one profile, or one service: `pyinit seccomp show --config services.toml app`\n",
    )  # fmt: skip
    assert run(monkeypatch, capsys, "show", "--arch", "mips") == (2, "", "pyinit: --arch: there is no table of mips; there are: x86_64, aarch64\n")
    assert run(monkeypatch, capsys, "show", "gone.toml") == (
        100, "", "pyinit: gone.toml: No such file or directory; name a profile's file, or \"default\"\n",
    )  # fmt: skip
    pathlib.Path("bad.toml").write_text('allow = ["raed"]\ndeny = 5\n')
    assert run(monkeypatch, capsys, "show", "bad.toml") == (
        100, "",
        'pyinit: bad.toml:1: allow[1]: there is no system call "raed"; did you mean read?\npyinit: bad.toml:2: deny: expected a list of strings, found 5\n',
    )  # fmt: skip
    assert run(monkeypatch, capsys)[1].startswith("usage: pyinit seccomp show ")
