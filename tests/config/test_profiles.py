"""Profiles of system calls: their files, who has which, and every error with its place."""

import os
import pathlib
import re

import pytest

import pyinit
from pyinit import kept
from pyinit.config import cache
from pyinit.config.load import load, profile_of
from pyinit.config.profiles import Profiles, profile
from pyinit.core import seccomp
from pyinit.core.seccomp import ALLOW, EPERM, KILL, LOG, Check, Decision, Rule, refusal
from pyinit.errors import ConfigError
from pyinit.model import DEFAULT_CAPABILITIES, Origin, Seccomp

BOX = '[container]\nlayers = ["layer"]\n'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layer").mkdir()
    return tmp_path


def written(text: str):
    pathlib.Path("calls.toml").write_text(text)
    return profile_of("calls.toml", {})


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        written(text)
    return caught.value.problems


def config(text: str, **keys):
    pathlib.Path("services.toml").write_text(text)
    return load("services.toml", {}, **keys)


def default_program(capabilities=DEFAULT_CAPABILITIES, *, log=False) -> bytes:
    return seccomp.program(seccomp.default(capabilities), os.uname().machine, log=log)


FULL = """\
allow = ["io_uring_setup", "clone"]
deny = { ptrace = "EACCES", acct = "kill" }
log = ["chroot"]

[[rules]]
calls = ["socket", "socketpair"]
when = ["arg0 == 17", "arg1 & 0xf != 3"]
action = "EPERM"

[[rules]]
calls = ["ptrace"]
when = ["long3 > 0x100000000"]
action = "allow"

[[rules]]
calls = ["socket"]
when = ["arg0 == -1"]
action = "log"
"""


def test_a_profile_over_the_default():
    """Lists replace what the default says of a call, rules come before it."""
    found = profile(written(FULL), DEFAULT_CAPABILITIES)
    base = seccomp.default(DEFAULT_CAPABILITIES)
    packet = Rule((Check(0, "==", 17), Check(1, "!=", 3, 0xF)), EPERM)
    assert found.other == ALLOW
    assert {name: one for name, one in found.calls.items() if base.calls.get(name) != one} == {
        "io_uring_setup": Decision(ALLOW),
        "clone": Decision(ALLOW),
        "ptrace": Decision(refusal(13), (Rule((Check(3, ">", 1 << 32, wide=True),), ALLOW),)),
        "acct": Decision(KILL),
        "chroot": Decision(LOG),
        "socket": Decision(ALLOW, (packet, Rule((Check(0, "==", 0xFFFFFFFF),), LOG), *base.calls["socket"].rules)),
        "socketpair": Decision(ALLOW, (packet,)),
    }


def test_a_profile_from_nothing():
    found = profile(written('base = "none"\nallow = ["read"]\n[[rules]]\ncalls = ["write"]\nwhen = ["arg0 <= 2"]\naction = "allow"\n'), ())
    assert found == seccomp.Profile({"read": Decision(ALLOW), "write": Decision(EPERM, (Rule((Check(0, "<=", 2),), ALLOW),))}, EPERM)
    assert profile(written('base = "none"\ndefault = "kill"\n'), ()) == seccomp.Profile({}, KILL)
    assert profile(written('base = "none"\ndefault = "allow"\ndeny = ["mount"]\n'), ()) == seccomp.Profile({"mount": Decision(EPERM)}, ALLOW)


def test_an_errno_has_all_its_names():
    found = written('deny = { mount = "EOPNOTSUPP", read = "ENOTSUP", chdir = "EWOULDBLOCK", write = "trap" }').calls
    assert found == {"mount": refusal(95), "read": refusal(95), "chdir": refusal(11), "write": seccomp.TRAP}


def test_the_page_has_a_good_profile():
    page = (pathlib.Path(pyinit.__file__).parent / "man/pyinit.toml.5.md").read_text()
    [text] = re.findall(r"^```toml profile\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    keys = {"base", "allow", "deny", "log", "rules"}
    assert {line.split(" ")[0].strip("[]") for line in text.splitlines() if line} - keys == {"calls", "when", "action"}
    assert written(text).rules


def test_a_call_of_another_architecture_only_is_no_error():
    assert set(written('deny = ["arch_prctl", "open", "openat"]').calls) == {"arch_prctl", "open", "openat"}


def test_all_errors_at_once():
    assert problems("""\
base = "dfault"
allow = ["ptrac", "read", 5]
deny = ["read", "mount"]
log = "mount"
alow = []
[[rules]]
calls = ["sokcet"]
when = ["arg6 == 1", "arg0 = 1", "arg0 == x", "arg0 == 0x100000000", "arg1 & 1 == 2", "arg0", "long0 == 0x10000000000000000", "arg0 & 1 1"]
action = "EPRM"
[[rules]]
action = "deny"
wen = []
[[rules]]
calls = []
when = []
""") == [
        'calls.toml:1: base: expected "default" or "none", found "dfault"; did you mean default?',
        'calls.toml:2: allow[3]: expected a string, found 5',
        'calls.toml:2: allow[1]: there is no system call "ptrac"; did you mean ptrace?',
        "calls.toml:3: deny[1]: read has its action already, at calls.toml:2; take one out",
        'calls.toml:4: log: expected a list of strings, found "mount"',
        "calls.toml:5: alow: there is no such key; did you mean allow?",
        'calls.toml:7: rules[1].calls[1]: there is no system call "sokcet"; did you mean socket?',
        *(f"calls.toml:8: rules[1].when[{number}]: {text}" for number, text in (
            (1, f'{CHECK}, found "arg6 == 1"'),
            (2, f'{CHECK}, found "arg0 = 1"'),
            (3, 'expected numbers such as 16 or 0x10, found "arg0 == x"'),
            (4, 'expected numbers of 32 bits, found "arg0 == 0x100000000"; long0 compares 64'),
            (5, 'expected a value within the mask, found "arg1 & 1 == 2", which is always or never so'),
            (6, f'{CHECK}, found "arg0"'),
            (7, 'expected numbers of 64 bits, found "long0 == 0x10000000000000000"'),
            (8, f'{CHECK}, found "arg0 & 1 1"'),
        )),
        'calls.toml:9: rules[1].action: expected "allow", "log", "kill", "trap" or an errno such as "EPERM", found "EPRM"; did you mean EPERM?',
        f"calls.toml:10: rules: calls is missing: expected {CALLS}",
        f"calls.toml:10: rules: when is missing: expected {WHEN}",
        'calls.toml:11: rules[2].action: expected "allow", "log", "kill", "trap" or an errno such as "EPERM", found "deny"',
        "calls.toml:12: rules[2].wen: there is no such key; did you mean when?",
        f"calls.toml:13: rules: calls is missing: expected {CALLS}",
        f"calls.toml:13: rules: when is missing: expected {WHEN}",
        'calls.toml:13: rules: action is missing: expected "allow", "log", "kill", "trap" or an errno such as "EPERM"',
    ]  # fmt: skip


EXAMPLES = 'such as "arg0 == 16", "arg1 & 0x3 != 0" or "long2 > 0xffffffff"'
CHECK = f"expected an argument, 0 to 5, and a value, {EXAMPLES}"
CALLS = 'the calls that it is for, such as ["socket"]'
WHEN = f"what their arguments are, {EXAMPLES}"
ERRORS = {
    'default = "EPERM"': '1: default: base = "default" decides each call; write base = "none" beside it, or take it out',
    'base = "none"\ndefault = 1': '2: default: expected "allow", "log", "kill", "trap" or an errno such as "EPERM", found 1',
    'deny = { read = "allow" }': '1: deny.read: expected "kill", "trap" or an errno such as "EPERM", found "allow"',
    'deny = { raed = "EPERM" }': '1: deny.raed: there is no system call "raed"; did you mean read?',
    'deny = { read = "kil" }': '1: deny.read: expected "kill", "trap" or an errno such as "EPERM", found "kil"; did you mean kill?',
    "deny = 1": "1: deny: expected a list of strings, found 1",
    "rules = {}": "1: rules: expected an array of tables, [[rules]], found a table",
    'log = ["read"]\nallow = ["read"]': "1: log[1]: read has its action already, at calls.toml:2; take one out",
    "x = [": "1: no valid TOML at its end: invalid value",
}


@pytest.mark.parametrize(("text", "message"), ERRORS.items())
def test_an_error_of_a_profile(text, message):
    assert problems(text) == [f"calls.toml:{message}"]


def test_too_many_checks_and_too_many_instructions():
    checks = ", ".join(['"long0 != 5"'] * 37)
    assert problems(f'[[rules]]\ncalls = ["read"]\nwhen = [{checks}]\naction = "EPERM"') == [
        "calls.toml:3: rules[1].when: expected at most 36 of them, found 37"
    ]
    rule = '[[rules]]\ncalls = ["read"]\nwhen = ["long0 == 5", "long1 == 7"]\naction = "EPERM"\n'
    pathlib.Path("calls.toml").write_text(rule * 500)
    with pytest.raises(ConfigError) as caught:
        config(f'{BOX}security.seccomp = "./calls.toml"\n[services.app]\ncommand = "x"\n')
    found = re.fullmatch(r"calls\.toml:1: it comes to (\d+) instructions, and the kernel takes 4096; write fewer rules", str(caught.value))
    assert int(found[1]) > 4096


def test_who_has_which():
    found = config(f"""{BOX}
security.capabilities = ["CHOWN", "SYS_ADMIN"]
[services.plain]
command = "x"
[services.fewer]
command = "x"
capabilities = ["CHOWN", "SYS_CHROOT"]
[services.none]
command = "x"
seccomp = "unconfined"
[services.logs]
command = "x"
seccomp_log = true
""")
    box = found.container.security.seccomp
    plain, fewer, none, logs = (spec.process.seccomp for spec in found.services)
    assert box == plain == Seccomp("default", False, default_program(("CHOWN", "SYS_ADMIN")), ("CHOWN", "SYS_ADMIN"), at(1))
    assert fewer == Seccomp("default", False, default_program(("CHOWN",)), ("CHOWN",), at(1))  # it can't have what the container lacks
    assert none == Seccomp(origin=at(12))
    assert logs == Seccomp("default", True, default_program(("CHOWN", "SYS_ADMIN"), log=True), ("CHOWN", "SYS_ADMIN"), at(15))


def at(line: int, file: str = "services.toml") -> Origin:
    return Origin(file, line)


def test_the_containers_log_mode_is_the_services_default():
    found = config(f'{BOX}security.seccomp_log = true\n[services.a]\ncommand = "x"\nseccomp = "default"\n[services.b]\ncommand = "x"\nseccomp_log = false\n')
    a, b = (spec.process.seccomp for spec in found.services)
    assert (a.log, a.program, b.log, b.program) == (True, default_program(log=True), False, default_program())


def test_without_a_container_of_ours_only_what_a_service_says_itself():
    services = '[services.a]\ncommand = "x"\n[services.b]\ncommand = "x"\nseccomp = "default"\n'
    for text, keys in ((services, {}), (f'{BOX}security.capabilities = ["SYS_ADMIN"]\n{services}', {"on_host": False})):
        a, b = (spec.process.seccomp for spec in config(text, **keys).services)
        assert (a, b.name, b.program) == (Seccomp(), "default", default_program())


def test_a_profile_is_found_from_its_configs_folder(folder):
    (folder / "more").mkdir()
    (folder / "more/one.toml").write_text('[services.one]\ncommand = "x"\nseccomp = "../calls.toml"\n')
    (folder / "calls.toml").write_text('deny = ["chroot"]\n')
    found = config(f'include = ["more/*.toml"]\n{BOX}security.seccomp = "calls.toml"\n[services.app]\ncommand = "x"\n')
    expected = seccomp.default(DEFAULT_CAPABILITIES)
    expected = seccomp.program(expected._replace(calls={**expected.calls, "chroot": Decision(EPERM)}), os.uname().machine)
    names = {spec.name: spec.process.seccomp for spec in found.services}
    assert names == {
        "app": Seccomp(f"{folder}/calls.toml", False, expected, DEFAULT_CAPABILITIES, at(4)),
        "one": Seccomp(f"{folder}/calls.toml", False, expected, DEFAULT_CAPABILITIES, at(3, "more/one.toml")),
    }


def test_errors_of_a_profile_stand_among_the_configs_own():
    pathlib.Path("calls.toml").write_text('deny = ["chrot"]\n')
    with pytest.raises(ConfigError) as caught:
        config(f'{BOX}securty = 1\nsecurity.seccomp = "calls.toml"\n[services.a]\ncommand = "x"\nseccomp = "gone.toml"\n[services.b]\ncommand = "x"\nseccomp = "calls.toml"\n')
    assert caught.value.problems == [
        "services.toml:3: container.securty: there is no such key; did you mean security?",
        "services.toml:7: seccomp: gone.toml: No such file or directory; mend the path, which starts at this file's folder",
        'calls.toml:1: deny[1]: there is no system call "chrot"; did you mean chroot?',
    ]


NEEDED = "which pyinit has to call once the filter is there: let it through"


def test_a_profile_must_let_through_what_is_still_to_be_done():
    """With no_new_privileges it comes last: then little is."""
    pathlib.Path("none.toml").write_text('base = "none"\nallow = ["read"]\n')
    pathlib.Path("ids.toml").write_text('deny = ["ptrace",\n"setgroups", "capset"]\n')
    pathlib.Path("when.toml").write_text('[[rules]]\ncalls = ["write"]\nwhen = ["arg0 == 1"]\naction = "kill"\n')
    services = '[services.a]\ncommand = "x"\nseccomp = "./{}"\n{}\n'
    last = "no_new_privileges = true"
    ids = f"{NEEDED}, or write no_new_privileges = true for who has this profile: it comes last then"
    for name, more, expected in (
        ("ids.toml", "", [f"ids.toml:2: it refuses capset, setgroups, {ids}"]),
        ("ids.toml", last, []),
        ("ids.toml", "seccomp_log = true", []),
        ("when.toml", last, [f"when.toml:1: it refuses write, {NEEDED}"]),
        ("none.toml", last, [f"none.toml:1: it refuses execve, rt_sigaction, rt_sigprocmask, write, exit_group, {NEEDED}"]),
        (
            "none.toml", "",
            [
                f"none.toml:1: it refuses execve, rt_sigaction, rt_sigprocmask, write, exit_group, {NEEDED}",
                f"none.toml:1: it refuses prctl, capset, setgroups, setresgid, setresuid, {ids}",
            ],
        ),
    ):  # fmt: skip
        try:
            config(services.format(name, more))
            found = []
        except ConfigError as error:
            found = error.problems
        assert found == expected, (name, more)


def test_a_machine_without_a_table():
    noted = []
    profiles = Profiles("riscv64", lambda _: None, lambda origin, text: noted.append(f"{origin}: {text}"))
    assert profiles.compiled(Seccomp("default", origin=at(7)), (), comes_last=False).program == b""
    assert profiles.compiled(Seccomp(origin=at(8)), (), comes_last=False).program == b""
    assert noted == ['services.toml:7: seccomp: pyinit has no table of the system calls of riscv64; write seccomp = "unconfined"']


def test_what_is_kept_is_true_as_long_as_the_profile_is(folder, monkeypatch):
    """PID 1 gets the finished program with it."""
    monkeypatch.setattr(kept, "FOLDER", str(folder / "run/.kept"))
    (folder / "run").mkdir(mode=0o700)
    path = folder / "services.toml"
    path.write_text(f'{BOX}security.seccomp = "calls.toml"\n[services.app]\ncommand = "x"\n')
    (folder / "calls.toml").write_text('deny = ["chroot"]\n')
    keys = {"kill": "group", "code": ["ours"]}
    read = cache.load(str(path), {}, **keys, born=lambda _: ())
    found = cache.take(cache.find(str(path), {}, **keys).packed)
    assert found == read
    assert found.services[0].process.seccomp.program == read.container.security.seccomp.program != default_program()
    (folder / "calls.toml").write_text('deny = ["chdir"]\n')
    assert cache.find(str(path), {}, **keys) is None
    (folder / "calls.toml").unlink()
    assert cache.find(str(path), {}, **keys) is None
