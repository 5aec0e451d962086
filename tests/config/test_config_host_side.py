"""`[container]` sysctl, rlimits and hooks: what they mean, and whole messages for what is wrong."""

from pathlib import Path

import pytest

from pyinit.config.load import load
from pyinit.errors import ConfigError
from pyinit.model import HostHook, HostHooks, Origin, Sysctl

ALL = 'namespaces = ["pid", "mount", "uts", "ipc", "cgroup", "net"]'
OWN = "net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and kernel.domainname"
VALUE = "expected a number or a string"
COMMAND = 'expected a command such as ["/usr/bin/logger", "up"], found'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layer").mkdir()


def text(lines: str, services: str = '[services.app]\ncommand = "x"\n') -> str:
    """`lines` from line 3 on."""
    return f'[container]\nlayers = ["layer"]\n{lines}\n{services}'


def config(lines: str, **keys):
    Path("services.toml").write_text(text(lines, **keys))
    return load("services.toml", {})


def problems(lines: str, **keys) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config(lines, **keys)
    return caught.value.problems


def at(line: int) -> Origin:
    return Origin("services.toml", line)


def test_a_sysctl_is_a_path_in_either_notation():
    found = config("""\
[container.sysctl]
"net.ipv4.ip_unprivileged_port_start" = 0
"net/ipv4/conf/eth0.100/forwarding" = 1
"net.ipv4.conf.eth0/101.forwarding" = "1"
"net.ipv4.ping_group_range" = "0 ${LAST:-100}"
"kernel.shm_rmid_forced" = 1
"kernel.msgmax" = 8192
"kernel.sem" = "32000 1024000000 500 32000"
"fs.mqueue.msg_max" = 20
"kernel.domainname" = "example.org\"""").container
    assert found.sysctl == (
        Sysctl("net.ipv4.ip_unprivileged_port_start", "net/ipv4/ip_unprivileged_port_start", "0", at(4)),
        Sysctl("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding", "1", at(5)),
        Sysctl("net.ipv4.conf.eth0/101.forwarding", "net/ipv4/conf/eth0.101/forwarding", "1", at(6)),
        Sysctl("net.ipv4.ping_group_range", "net/ipv4/ping_group_range", "0 100", at(7)),
        Sysctl("kernel.shm_rmid_forced", "kernel/shm_rmid_forced", "1", at(8)),
        Sysctl("kernel.msgmax", "kernel/msgmax", "8192", at(9)),
        Sysctl("kernel.sem", "kernel/sem", "32000 1024000000 500 32000", at(10)),
        Sysctl("fs.mqueue.msg_max", "fs/mqueue/msg_max", "20", at(11)),
        Sysctl("kernel.domainname", "kernel/domainname", "example.org", at(12)),
    )


@pytest.mark.parametrize("name", ["", "net", "net..x", "..", "net/../kernel/core_pattern", "net./x", "/net/x", "net.x.", "net.a b", "net.x\\n", "net.ä", "net.x//y"])
def test_a_sysctls_name(name):
    [found] = problems(f'sysctl = {{ "{name}" = 1 }}')
    assert found.endswith(
        f'expected a name such as "net.ipv4.ip_forward", of letters, digits, _ - . and / without an empty part, found "{name}"'
    )
    assert found.startswith("services.toml:3: container.sysctl.")


SYSCTLS = {
    '"vm.swappiness" = 1': f"vm.swappiness: expected one that a container has of its own ({OWN}), found one of the whole host; set it there",
    '"kernel.core_pattern" = "x"': f"kernel.core_pattern: expected one that a container has of its own ({OWN}), found one of the whole host; set it there",
    '"kernel.sem2" = 1': f"kernel.sem2: expected one that a container has of its own ({OWN}), found one of the whole host; set it there",
    '"kernel/hostname" = "x"': 'kernel/hostname: expected hostname = "..." in [container], found it here; write that instead',
    '"net.x" = true': f"net.x: {VALUE}, found true",
    '"net.x" = 1.5': f"net.x: {VALUE}, found 1.5",
    '"net.x" = [1]': f"net.x: {VALUE}, found a list",
    '"net.x" = "1\\n2"': f'net.x: {VALUE} of one line, found "1\\n2"',
    '"net.x" = " "': f'net.x: {VALUE} of one line, found " "',
    '"net.x" = "\\u0000"': f'net.x: {VALUE} without NUL, found "\\x00"',
    '"net.x" = "${NONE}"': "net.x: ${NONE} is not set in the environment; set it, or write ${NONE:-default}",
    '"net.x" = 1, "net/x" = 2': 'net/x: expected each once, found "net.x" as well; take one out',
}  # fmt: skip


@pytest.mark.parametrize(("entry", "message"), SYSCTLS.items())
def test_a_sysctl_that_is_refused(entry, message):
    assert problems(f"sysctl = {{ {entry} }}") == [f"services.toml:3: container.sysctl.{message}"]


def test_a_name_without_its_quotes():
    assert problems("[container.sysctl]\nvm.swappiness = 1") == [
        "services.toml:4: container.sysctl.vm: expected a value, found a table; a name with a dot stands in quotes",
        'services.toml:4: container.sysctl.vm: expected a name such as "net.ipv4.ip_forward", of letters, digits, _ - . and / '
        'without an empty part, found "vm"',
    ]


@pytest.mark.parametrize(("name", "namespace"), [
    ("net.ipv4.ip_forward", "net"), ("kernel.shmmax", "ipc"), ("kernel.sem", "ipc"), ("fs.mqueue.msg_max", "ipc"), ("kernel.domainname", "uts"),
])  # fmt: skip
def test_a_sysctl_of_a_namespace_that_is_the_hosts(name, namespace):
    kept = ALL.replace(f', "{namespace}"', "")
    more = ' and no [container.network] mode = "host"' if namespace == "net" else ""
    expected = f'expected "{namespace}" among `namespaces`{more}, found none: it would be the host\'s own; add that, or take this out'
    found = problems(f'{kept}\nnetwork.mode = "{"host" if namespace == "net" else "none"}"\nsysctl = {{ "{name}" = 1 }}')
    assert found == [f"services.toml:5: container.sysctl.{name}: {expected}"]


def test_with_the_hosts_network_its_settings_are_the_hosts():
    assert problems('network.mode = "host"\nsysctl = { "net.ipv4.ip_forward" = 1 }') == [
        'services.toml:4: container.sysctl.net.ipv4.ip_forward: expected "net" among `namespaces` and no [container.network] '
        "mode = \"host\", found none: it would be the host's own; add that, or take this out"
    ]


def test_limits_are_the_default_of_every_service_with_their_line():
    services = '[services.a]\ncommand = "x"\n[services.b]\ncommand = "x"\nrlimits = { nofile = 9, nproc = 5 }\n'
    found = config('rlimits = { nofile = 65536, core = { soft = 0, hard = "unlimited" } }', services=services)
    a, b = (spec.process for spec in found.services)
    assert found.container.rlimits == a.rlimits == (("nofile", 65536, 65536), ("core", 0, -1))
    assert a.origins == (("rlimits.nofile", at(3)), ("rlimits.core", at(3)))
    assert b.rlimits == (("nofile", 9, 9), ("nproc", 5, 5), ("core", 0, -1))
    assert b.origins == (("rlimits", at(8)), ("rlimits.core", at(3)))


def test_limits_that_are_none():
    assert problems('rlimits = { nofiel = 1, core = "1k", nproc = { soft = 2, hard = 1 } }') == [
        'services.toml:3: container.rlimits.core: expected a number or "unlimited", found "1k"',
        "services.toml:3: container.rlimits.nproc: expected soft <= hard, found 2 and 1",
        "services.toml:3: container.rlimits.nofiel: there is no such key; did you mean nofile?",
    ]


def test_hooks_are_commands_with_their_lines():
    found = config("""\
[container.hooks]
prestart = [
    ["ip", "route", "add", "${X}"],
    ["/bin/true"],
]
poststop = ["/bin/rm", "-rf", "/srv/x"]
timeout = "5s\"""").container
    assert found.hooks == HostHooks(
        (HostHook(("ip", "route", "add", "${X}"), at(5)), HostHook(("/bin/true",), at(6))), (HostHook(("/bin/rm", "-rf", "/srv/x"), at(8)),), 5.0,
    )  # fmt: skip
    assert config('hooks.prestart = "/bin/echo \'a b\'"').container.hooks == HostHooks((HostHook(("/bin/echo", "a b"), at(3)),))
    assert config("").container.hooks == HostHooks((), (), 30.0)


HOOKS = {
    "prestart = 5": 'prestart: expected a list such as ["/usr/sbin/nginx", "-g", "daemon off;"], or a string, found 5',
    "prestart = []": 'prestart: expected a list such as ["/usr/sbin/nginx", "-g", "daemon off;"], or a string, found nothing',
    'poststop = [["x"], []]': f"poststop[2]: {COMMAND} a list",
    'poststop = [["x"], "y"]': f'poststop[2]: {COMMAND} "y"',
    'poststop = [["x", 1]]': f"poststop[1]: {COMMAND} a list",
    'timeout = "0s"': "timeout: expected a time above 0",
    "timeout = 30": 'timeout: expected a duration such as "250ms", "5s", "2m" or "1h", found 30',
    'poststart = ["x"]': "poststart: there is no such key; did you mean prestart?",
}


@pytest.mark.parametrize(("line", "message"), HOOKS.items())
def test_a_hook_that_is_none(line, message):
    assert problems(f"[container.hooks]\n{line}") == [f"services.toml:4: container.hooks.{message}"]
