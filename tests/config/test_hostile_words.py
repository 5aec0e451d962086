"""Words that one reader takes for one thing and the next for another: refused at their line, by whole messages."""

from pathlib import Path

import pytest

from pyinit.config.load import load
from pyinit.errors import ConfigError

NINES = "9" * 5000  # int() of it raises, for Python bounds what it turns into a number
NO_ID = ("1000:", "0:0", "+0", "-0", "-1", " 0", "0 ", "0\n", "0x0", "0o7", "1_000", "007", "00", "4294967295", NINES, "", "\u0661", "a\rb", "..", "a,b", "a\u00a0b")
CONTAINER = '[container]\nlayers = ["layer"]\n'
SERVICE = '[services.app]\ncommand = ["x"]\n'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layer").mkdir()


def quoted(word: str) -> str:
    """As a TOML string."""
    return '"' + "".join(char if char.isprintable() and char not in '"\\' else f"\\u{ord(char):04x}" for char in word) + '"'


def shown(word: str) -> str:
    """As a message has it."""
    text = '"' + "".join(char if char.isprintable() else repr(char)[1:-1] for char in word) + '"'
    return text if len(text) <= 60 else text[:57] + '..."'


def problems(text: str, environment=None) -> list[str]:
    Path("services.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load("services.toml", environment or {})
    return caught.value.problems


@pytest.mark.parametrize("key", ["user", "group"])
@pytest.mark.parametrize("word", NO_ID)
def test_a_user_and_a_group(key, word):
    assert problems(f"{SERVICE}{key} = {quoted(word)}\n") == [
        f"services.toml:3: services.app.{key}: expected a {key}'s name or number, found {shown(word)}"
    ]


def test_groups_each_at_its_own_line():
    lines = "\n".join(f"{quoted(word)}," for word in NO_ID)
    assert problems(f"{SERVICE}groups = [\n{lines}\n]\n") == [
        f"services.toml:{number + 4}: services.app.groups[{number + 1}]: expected a group's name or number, found {shown(word)}"
        for number, word in enumerate(NO_ID)
    ]


@pytest.mark.parametrize("key", ["user", "group"])
def test_who_owns_a_socket(key):
    tables = "".join(f'[[services.app.sockets]]\nname = "s{number}"\nlisten = "/run/s{number}"\n{key} = {quoted(word)}\n' for number, word in enumerate(NO_ID))
    assert problems(SERVICE + tables) == [
        f"services.toml:{4 * number + 6}: services.app.sockets[{number + 1}].{key}: expected a {key}'s name or number, found {shown(word)}"
        for number, word in enumerate(NO_ID)
    ]


def test_what_is_a_user_and_a_group():
    words = ["0", "33", "www-data", "_apt", "3proxy", "user.name", "Debian-exim", "j\u00fcrgen", "svc$", "4294967294"]
    for word in words:
        Path("services.toml").write_text(f"{SERVICE}user = {quoted(word)}\ngroup = {quoted(word)}\ngroups = [{quoted(word)}]\n")
        spec = load("services.toml", {}).services[0]
        assert (spec.user, spec.group, spec.groups) == (word, word, (word,))


@pytest.mark.parametrize("word", ["+", " 5", "5 ", "010", "\u0665", "0x5", "five", "", NINES, "1__0", "_5"])
def test_a_number_from_the_environment_is_read_as_toml_reads_it(word):
    mount = '[[container.mounts]]\ntype = "tmpfs"\ntarget = "/x"\nuid = "${ID:-}"\n'
    found = word if word != NINES else "inf"
    text = f'"{found}"' if found != "inf" else "inf"
    assert problems(CONTAINER + mount + SERVICE, {"ID": word}) == [
        f"services.toml:6: container.mounts[1].uid: expected an integer from 0 to 4294967294, found {text}"
    ]


def test_names_of_variables():
    lines = ('"A=B" = 1', '"A\\u0000" = 1', '"" = 1', '"A=C" = "x"', '"" = "x"')
    names = ("A=B", "A\\x00", "", "A=C", "")
    for head, path in (("[init.environment]", "init.environment"), (f"{SERVICE}[services.app.environment]", "services.app.environment")):
        for line, name in zip(lines, names, strict=True):
            text = f"{head}\n{line}\n" + (SERVICE if "init" in head else "")
            at = head.count("\n") + 2
            assert problems(text) == [f"services.toml:{at}: {path}.{name}: expected a name without = and NUL"]


def test_hosts():
    line = "expected a host name of letters, digits, . and -"
    address = "expected a numeric address, found"
    for entry, message in {
        '"a\\nb" = "10.0.0.1"': f"hosts.a\\nb: {line}",
        '"a b" = "10.0.0.1"': f"hosts.a b: {line}",
        '"a#" = "10.0.0.1"': f"hosts.a#: {line}",
        '".." = "10.0.0.1"': f"hosts...: {line}",
        'a = "10.0.0.1\\n10.0.0.2 login"': f'hosts.a: {address} "10.0.0.1\\n10.0.0.2 login"',
        'a = "10.0.0.1 b"': f'hosts.a: {address} "10.0.0.1 b"',
        'a = "::1%lo"': f'hosts.a: {address} "::1%lo"',
        'a = "0x7f.1"': f'hosts.a: {address} "0x7f.1"',
        'a = "010.0.0.1"': f'hosts.a: {address} "010.0.0.1"',
        'a = "\\u0661.0.0.1"': f'hosts.a: {address} "\u0661.0.0.1"',
    }.items():
        assert problems(f"{CONTAINER}[container.network.hosts]\n{entry}\n{SERVICE}") == [f"services.toml:4: container.network.{message}"]


@pytest.mark.parametrize("word", ["a\nb", "a\0b", "a b", "../x", "..", "-x", "a/b", "x" * 64, "\u0661"])
def test_a_hostname_and_a_name(word):
    nul = " without NUL" if "\0" in word else ""
    for key, what in (("hostname", "up to 63 letters, digits, . or -"), ("name", "up to 63 letters, digits, _ . or -")):
        if nul:
            what = "a string"
        assert problems(f"{CONTAINER}{key} = {quoted(word)}\n{SERVICE}") == [
            f"services.toml:3: container.{key}: expected {what}{nul}, found {shown(word)}"
        ]


@pytest.mark.parametrize("word", [f"10.0.0.1/{NINES}", "10.0.0.1/+8", "10.0.0.1/ 8", "10.0.0.1/\u0668", "10.0.0.1/33", "10.0.0.1/0008"])
def test_an_address_and_its_prefix(word):
    text = f'{CONTAINER}[container.network]\nmode = "veth"\nbridge = "b0"\naddress = {quoted(word)}\n{SERVICE}'
    assert problems(text) == [f'services.toml:6: container.network.address: expected an address with its prefix, such as "10.91.0.2/24", found {shown(word)}']


@pytest.mark.parametrize("word", [f"127.0.0.1:{NINES}", "127.0.0.1:+80", "127.0.0.1: 80", "127.0.0.1:\u0668\u0660", "127.0.0.1:000080"])
def test_a_port(word):
    expected = 'expected a numeric address and a port, such as "127.0.0.1:80" or "[::1]:80", found'
    text = f'{SERVICE}[services.app.ready]\ntcp = {quoted(word)}\n[[services.app.sockets]]\nname = "x"\nlisten = {quoted(word)}\n'
    assert problems(text) == [
        f"services.toml:4: services.app.ready.tcp: {expected} {shown(word)}",
        f"services.toml:7: services.app.sockets[1].listen: {expected} {shown(word)}",
    ]


@pytest.mark.parametrize("word", ["/x/../y", "/..", "/x/..", "/proc", "/proc/1/root", "//proc", "/x/../proc/self/fd/3", "/./dev", "x", ""])
def test_a_target(word):
    wanted = "an absolute path" if not word.startswith("/") else "a place of its own below the root, without .."
    text = f'{CONTAINER}[[container.mounts]]\ntype = "tmpfs"\ntarget = {quoted(word)}\n{SERVICE}'
    assert problems(text) == [f"services.toml:5: container.mounts[1].target: expected {wanted}, found {shown(word)}"]


@pytest.mark.parametrize("word", ["/proc/1/root", "//proc/self/fd/7", "/./proc/self/fd/7", "/x/../proc/self/fd/7", "/proc", "/proc/"])
def test_a_working_directory_in_proc_by_any_spelling(word):
    assert problems(f"{SERVICE}working_directory = {quoted(word)}\n") == [
        f"services.toml:3: services.app.working_directory: expected a folder outside /proc, found {shown(word)}"
    ]


def test_files_and_secrets():
    name = "expected a name below the target, without .."
    secret = "expected a file's name of letters, digits, _ . and -, for /run/secrets, found "
    mount = f'{CONTAINER}[[container.mounts]]\ntype = "tmpfs"\ntarget = "/x"\n[container.mounts.files]\n'
    for word in ("../x", "/etc/x", "a/../b", "x/", "", "a\0"):
        assert problems(f'{mount}{quoted(word)} = "x"\n{SERVICE}') == [f"services.toml:7: container.mounts[1].files.{shown(word)[1:-1]}: {name}"]
    for word in ("../x", "a/b", ".", "..", "a\nb", "a\0"):
        assert problems(f'{CONTAINER}[container.secrets]\n{quoted(word)} = {{ env = "S" }}\n{SERVICE}', {"S": "x"}) == [
            f"services.toml:4: container.secrets.{shown(word)[1:-1]}: {secret}{shown(word)}"
        ]


@pytest.mark.parametrize("word", ["/a:b", "/a,b", "/a\\b", "/a/../b", "a", "/"])
def test_a_writable_path(word):
    text = f'{CONTAINER}writable = "tmpfs"\nwritable_paths = [{quoted(word)}]\n{SERVICE}'
    assert problems(text) == [
        f"services.toml:4: container.writable_paths[1]: expected an absolute path below the root, without .. : , and \\, found {shown(word)}"
    ]


@pytest.mark.parametrize("key", ["source", "target", "layers", "writable", "name", "hostname", "init"])
def test_nul(key):
    """Where a path or name of C ends, and Python's does not."""
    value = '["layer", "a\\u0000b"]' if key == "layers" else '"/a\\u0000b"'
    head, line, path = CONTAINER, 3, "container"
    if key in ("source", "target"):
        other = 'target = "/x"' if key == "source" else 'source = "/"'
        head, line, path = f'{CONTAINER}[[container.mounts]]\ntype = "bind"\n{other}\n', 6, "container.mounts[1]"
    elif key == "layers":
        head, line = "[container]\n", 2
    found = problems(f"{head}{key} = {value}\n{SERVICE}")
    what = {"writable": '"none", "tmpfs" or a folder with a / in its path', "init": "an absolute path", "target": "an absolute path"}.get(key, "a string")
    told = 'container.layers[2]: expected a string, found "a\\x00b"' if key == "layers" else f'{path}.{key}: expected {what} without NUL, found "/a\\x00b"'
    assert found == [f"services.toml:{line}: {told}"]


def test_layers_and_instances_that_name_nothing():
    assert problems(f'[container]\nlayers = [\n"layer",\n""]\n{SERVICE}') == [
        "services.toml:4: container.layers[2]: expected a squashfs file or a folder, found nothing"
    ]
    assert problems(f'{SERVICE}instances = ["a", ""]\n') == [
        'services.toml:3: services.app.instances: expected a number from 1 to 1000, or names such as ["eu", "us"], found a list'
    ]


def test_a_capability_misspelt():
    text = f'{CONTAINER}[container.security]\ncapabilities = [\n"CHOWN",\n"NET_BIND_SERVCE",\n"cap_sys_admin",\n"SYS_ADMIN\\u0000"]\n{SERVICE}capabilities = ["KIL"]\n'
    expected = 'expected a capability such as "NET_BIND_SERVICE", found'
    assert problems(text) == [
        f'services.toml:6: container.security.capabilities[2]: {expected} "NET_BIND_SERVCE"; did you mean NET_BIND_SERVICE?',
        f'services.toml:7: container.security.capabilities[3]: {expected} "cap_sys_admin"; did you mean SYS_ADMIN?',
        'services.toml:8: container.security.capabilities[4]: expected a string, found "SYS_ADMIN\\x00"',
        f'services.toml:11: services.app.capabilities[1]: {expected} "KIL"; did you mean KILL?',
    ]
