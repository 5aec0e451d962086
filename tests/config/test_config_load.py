"""What a good config becomes: defaults, every key, includes, expansion, roles."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from pyinit import model as m
from pyinit.config.load import load
from pyinit.model import Origin

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory of the test, with an image and a layer's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.squashfs").write_bytes(squashfs())
    (tmp_path / "layer").mkdir()
    return tmp_path


def squashfs(used=96, size=4096):
    head = b"hsqs" + struct.pack("<IIIIHHHHHHQQ", 0, 0, 1 << 17, 0, 1, 17, 0, 0, 4, 0, 0, used)
    return head + bytes(size - len(head))


def loaded(text, environment=None, **role):
    Path("services.toml").write_text(text)
    return load("services.toml", environment or {}, **role)


def test_the_least_of_a_service_gets_the_defaults_of_the_design(folder):
    assert loaded('[services.app]\ncommand = ["/bin/app", "-x"]\n') == m.Config(
        path=f"{folder}/services.toml",
        init=m.InitSpec(
            control_socket="", state_dir="/run/pyinit", log_dir="/var/log/pyinit", stop_timeout_s=9.0, exit="on-signal",
            main="", environment=(), environment_clear=False, stop_signals=(), forward_signals=(),
        ),
        services=(
            m.ServiceSpec(
                name="app", command=("/bin/app", "-x"), kind="service", requires=(), wants=(), after=(), before=(),
                user="root", group="", groups=None, working_directory="/", environment=(), umask=0o022,
                process=m.ProcessSpec(), stop=(m.StopStep(15, 7.0),), kill="cgroup", restart="always",
                restart_delay=m.RestartDelay(0.0, 0.1, 30.0, 2.0, 0.1, 10.0), start_limit=m.StartLimit(10, 60.0, "retry"),
                success_exit_codes=(0,), critical=False, ready=m.Readiness("started"),
                log=m.LogSpec("file", 10 * 1024 * 1024, keep=10, timestamp="iso", echo=False), enabled=True,
                origin=Origin("services.toml", 1), command_origin=Origin("services.toml", 2), user_origin=m.NOWHERE,
            ),
        ),
        container=None,
    )  # fmt: skip


def test_a_oneshot_is_not_restarted(folder):
    assert loaded('[services.a]\nkind = "oneshot"\ncommand = "x"\n').services[0].restart == "never"


def test_the_least_of_a_container_gets_the_defaults_of_the_design(folder):
    box = loaded('[container]\nlayers = ["layer"]\n[services.app]\ncommand = "x"\n').container
    path = f"{folder}/services.toml"
    name = f"{folder.name[:40]}-{zlib.crc32(path.encode()) & 0xFFFFFF:06x}"
    assert box == m.Container(
        name=name, hostname=name.replace("_", "-"), layers=(m.Layer(f"{folder}/layer", Origin("services.toml", 2)),),
        writable="none", writable_size_bytes=0, namespaces=("pid", "mount", "uts", "ipc", "cgroup", "net"), mounts=(),
        cgroup=m.CgroupLimits(), network=m.Network(mode="none"), security=m.Security(seccomp=box.security.seccomp), orphan=False,
        init="", origin=Origin("services.toml", 1),
    )  # fmt: skip
    assert box.security.seccomp[:2] + box.security.seccomp[3:] == ("default", False, m.DEFAULT_CAPABILITIES, Origin("services.toml", 1))


GOOD = """\
[init]
control_socket = "/run/me.sock"
state_dir = "/run/state"
log_dir = "/log"
stop_timeout = "20s"
exit = "when-main-exits"
main = "app"
environment = { TZ = "UTC", N = 5 }
environment_clear = true
stop_signals = ["WINCH", "SIGRTMIN+10", "20"]

[container]
name = "web"
hostname = "web-1.example"
layers = ["base.squashfs", "layer"]
writable = "tmpfs"
writable_size = "64M"
writable_inodes = 1000
writable_paths = ["/var/lib/app/", "/srv"]
namespaces = ["pid", "mount", "uts", "net", "cgroup"]
orphan = true
init = "/sbin/init"

[[container.mounts]]
type = "squashfs"
source = "./base.squashfs"
target = "/app/"

[[container.mounts]]
type = "squashfs"
source = "image:/opt/nested.squashfs"
target = "/nested"

[[container.mounts]]
type = "tmpfs"
target = "/run/config"
size = "16M"
mode = "1750"
uid = 1
gid = 33
read_only = true
files = { "app.env" = "A=1\\n", "sub/b" = { content = "b", mode = "0600" } }

[[container.mounts]]
type = "bind"
source = "../data"
target = "/data"
read_only = true
create = true
mode = "0700"
uid = 2
gid = 3

[container.cgroup]
memory_max = "512M"
memory_high = "448M"
cpu_max = 1.5
cpu_weight = 100
pids_max = 512

[container.network]
mode = "veth"
bridge = "pyinit0"
address = "10.91.0.2/24"
gateway = "10.91.0.1"
dns = ["10.91.0.1", "fd00::1"]
hosts = { "db.internal" = "10.91.0.3", db6 = "fd00::3" }

[container.security]
capabilities = ["SETUID", "CAP_CHOWN"]
seccomp = "unconfined"
seccomp_log = true
masked_paths = ["/proc/kcore"]
devices = ["/dev/loop-control", { path = "/dev/fuse", access = "r", mode = "0640", uid = 1, gid = 2 }]
readonly_paths = "default"

[services.app]
command = "/usr/sbin/app -c 'a b' \\"c\\" $X ${Y}"
kind = "service"
requires = ["migrate"]
wants = ["cache"]
after = ["cache"]
before = ["last"]
user = "www-data"
group = 33
groups = ["adm", "4"]
working_directory = "/app"
environment = { APP_ENV = "prod" }
umask = "0027"
rlimits = { nofile = 65536, core = 0, as = "unlimited", nproc = { soft = 10, hard = "unlimited" } }
no_new_privileges = true
landlock = { ro = ["/usr", "-/lib64"], rw = ["${DATA:-/data}"], tcp_bind = [80, "${PORT:-0}"], tcp_connect = [], scope = ["signals", "abstract_sockets", "signals"] }
stop_signal = "QUIT"
stop_timeout = "1m"
kill = "group"
restart = "on-failure"
restart_delay = { first = "1s", initial = "250ms", max = "1h", factor = 1.5, jitter = 0, reset_after = "2m" }
start_limit = { count = 3, within = "0.5s", then = "exit" }
success_exit_codes = [0, 143]
critical = true
ready = { tcp = "[::1]:9000", timeout = "5s" }
forward_signals = ["USR1", "SIGUSR2"]
log = { to = "file", max_size = "64K", max_age = "24h", keep = 3, total_size = "1M", compress = true, timestamp = "tai64n", stderr = "separate", max_line = "8K", rate = 100, rate_burst = 500, echo = true }
enabled = false

[services.migrate]
command = ["/bin/sh", "-c", "echo ${HOME}"]
kind = "oneshot"

[services.cache]
command = ["x"]
ready = { fd = 4 }
forward_signals = ["USR1"]

[services.last]
command = ["x"]
ready = { notify = true }

[services."a@1"]
command = ["x"]
ready = { path = "/run/x" }
"""


def line(text):
    return Origin("services.toml", GOOD[: GOOD.index(text)].count("\n") + 1)


def test_every_key_of_init(folder):
    assert loaded(GOOD).init == m.InitSpec(
        control_socket="/run/me.sock", state_dir="/run/state", log_dir="/log", stop_timeout_s=20.0, exit="when-main-exits",
        main="app", environment=(("TZ", "UTC"), ("N", "5")), environment_clear=True, stop_signals=(28, 44, 20),
        forward_signals=((10, "app"), (12, "app"), (10, "cache")),
    )  # fmt: skip


def test_who_stands_in_anothers_root_has_no_layers_and_places_of_its_own(folder):
    """But those that it says itself; and not where that other is not, as within another runtime."""
    box = '[container]\nname = "side"\nshare = ["mount:/run/of-db", "pid:7"]\n[services.app]\ncommand = ["x"]\n'
    found = loaded(box)
    assert found.init == m.InitSpec(control_socket="/run/pyinit-side/control.sock", state_dir="/run/pyinit-side", log_dir="/run/pyinit-side/log")
    assert found.container == m.Container(
        name="side", hostname="side", layers=(), namespaces=("uts", "ipc", "cgroup", "net"), origin=Origin("services.toml", 1),
        security=found.container.security,
        share=(m.Shared("mount", "path", "/run/of-db", Origin("services.toml", 3)), m.Shared("pid", "pid", "7", Origin("services.toml", 3))),
    )  # fmt: skip
    assert loaded(f'[init]\nstate_dir = "/run/pyinit"\nlog_dir = "/log"\n{box}').init == m.InitSpec(
        control_socket="/run/pyinit-side/control.sock", state_dir="/run/pyinit", log_dir="/log"
    )
    assert loaded(box, on_host=False).init == m.InitSpec()


def test_every_key_of_a_container(folder):
    mounts = [Origin("services.toml", n) for n, text in enumerate(GOOD.split("\n"), 1) if text == "[[container.mounts]]"]
    assert loaded(GOOD).container == m.Container(
        name="web",
        hostname="web-1.example",
        layers=(
            m.Layer(f"{folder}/base.squashfs", line("layers =")),
            m.Layer(f"{folder}/layer", line("layers =")),
        ),
        writable="tmpfs",
        writable_size_bytes=64 << 20,
        writable_inodes=1000,
        writable_paths=(m.Place("/var/lib/app", line("writable_paths")), m.Place("/srv", line("writable_paths"))),
        writable_origin=line("writable ="),
        namespaces=("pid", "mount", "uts", "net", "cgroup"),
        mounts=(
            m.Mount(
                "squashfs", "/app", f"{folder}/base.squashfs", origin=mounts[0], source_origin=line('source = "./base'),
            ),
            m.Mount(
                "squashfs", "/nested", "image:/opt/nested.squashfs", origin=mounts[1], source_origin=line('source = "image'),
            ),
            m.Mount(
                "tmpfs", "/run/config", read_only=True, size_bytes=16 << 20, mode=0o1750, uid=1, gid=33,
                files=(
                    m.FileSpec("app.env", m.Content("text", "A=1\n", origin=line('"app.env"'))),
                    m.FileSpec("sub/b", m.Content("text", "b", origin=line('"sub/b"')), 0o600),
                ), origin=mounts[2], source_origin=m.NOWHERE,
            ),
            m.Mount(
                "bind", "/data", f"{folder.parent}/data", read_only=True, create=True, mode=0o700, uid=2, gid=3,
                origin=mounts[3], source_origin=line('source = "../data'),
            ),
        ),
        cgroup=m.CgroupLimits(512 << 20, 448 << 20, 1.5, 100, 512, line("[container.cgroup]")),
        network=m.Network(
            "veth", "pyinit0", ("10.91.0.2/24",), ("10.91.0.1",), ("10.91.0.1", "fd00::1"),
            (("db.internal", "10.91.0.3"), ("db6", "fd00::3")), line("[container.network]"),
        ),
        security=m.Security(
            ("CHOWN", "SETUID"), ("/proc/kcore",), m.DEFAULT_READONLY_PATHS, m.Seccomp("unconfined", log=True, origin=line("seccomp =")),
            devices_origin=line("devices ="),
            devices=(m.Device("/dev/loop-control", origin=line("devices =")), m.Device("/dev/fuse", "r", 0o640, 1, 2, line("devices ="))),
        ),
        orphan=True,
        init="/sbin/init",
        origin=line("[container]"),
    )  # fmt: skip


def test_no_new_privileges_of_a_container_are_the_default_of_its_services(folder):
    text = '[container]\nlayers = ["layer"]\n[container.security]\nno_new_privileges = true\n[services.app]\ncommand = "x"\n'
    config = loaded(text + 'instances = 2\n[services.sudo]\ncommand = "x"\nno_new_privileges = false\n')
    assert config.container.security == m.Security(no_new_privileges=True, seccomp=config.container.security.seccomp)
    assert {spec.name: spec.process.no_new_privileges for spec in config.services} == {"app@1": True, "app@2": True, "sudo": False}


def test_every_key_of_a_service(folder):
    app, migrate, cache, last, path = loaded(GOOD).services
    assert app == m.ServiceSpec(
        name="app", command=("/usr/sbin/app", "-c", "a b", "c", "$X", "${Y}"), kind="service", requires=("migrate",),
        wants=("cache",), after=("cache",), before=("last",), user="www-data", group="33", groups=("adm", "4"),
        working_directory="/app", environment=(("APP_ENV", "prod"),), umask=0o027,
        process=m.ProcessSpec(
            rlimits=(("nofile", 65536, 65536), ("core", 0, 0), ("as", -1, -1), ("nproc", 10, -1)), no_new_privileges=True,
            origins=(
                ("rlimits", line("rlimits =")), ("no_new_privileges", line("no_new_privileges")), ("landlock", line("landlock =")),
                ("landlock /usr", line("landlock =")), ("landlock -/lib64", line("landlock =")), ("landlock /data", line("landlock =")),
            ),
            landlock=m.Landlock(("/usr", "-/lib64"), ("/data",), (80, 0), (), ("signals", "abstract_sockets")),
            seccomp=m.Seccomp("unconfined", log=True, origin=line("seccomp =")),
        ),
        stop=(m.StopStep(3, 60.0),), kill="group", restart="on-failure",
        restart_delay=m.RestartDelay(1.0, 0.25, 3600.0, 1.5, 0.0, 120.0), start_limit=m.StartLimit(3, 0.5, "exit"),
        success_exit_codes=(0, 143), critical=True, ready=m.Readiness("probe", m.Probe("tcp", host="::1", port=9000), timeout_s=5.0),
        log=m.LogSpec(
            "file", 64 << 10, 86400.0, 3, 1 << 20, True, "tai64n", stderr="separate", max_line_bytes=8 << 10, rate=100,
            rate_burst=500, echo=True, origin=line("log = {")
        ), enabled=False,
        origin=line("[services.app]"), command_origin=line("command = \"/usr"), user_origin=line("user ="),
    )  # fmt: skip
    assert migrate.command == ("/bin/sh", "-c", "echo ${HOME}")
    assert cache.ready == m.Readiness("fd", fd=4)
    assert last.ready == m.Readiness("notify")
    assert (path.name, path.ready) == ("a@1", m.Readiness("probe", m.Probe("path", path="/run/x")))


def test_the_roles_defaults_give_way_to_what_is_written(folder):
    text = '[services.a]\ncommand = "x"\n[services.b]\ncommand = "x"\nkill = "process"\nlog = { to = "null" }\n'
    services = loaded(text, log_to="stdout", kill="group").services
    assert [(spec.kill, spec.log.to) for spec in services] == [("group", "stdout"), ("process", "null")]


def test_in_a_container_a_service_is_killed_by_its_cgroup(folder):
    text = '[container]\nlayers = ["layer"]\n[services.a]\ncommand = "x"\n[services.b]\ncommand = "x"\nkill = "group"\n'
    assert [spec.kill for spec in loaded(text, kill="group").services] == ["cgroup", "group"]


def test_inside_another_runtimes_container_the_images_are_not_looked_for(folder):
    text = '[container]\nlayers = ["gone"]\n[[container.mounts]]\ntype = "bind"\nsource = "gone"\ntarget = "/x"\n[services.a]\ncommand = "x"\n'
    assert loaded(text, on_host=False).container.layers[0].path == f"{folder}/gone"


def test_a_container_with_an_init_of_its_own_needs_no_service(folder):
    assert loaded('[container]\nlayers = ["layer"]\ninit = "/sbin/init"\n').services == ()


def test_the_name_is_the_folders_made_fit(tmp_path, monkeypatch):
    odd = tmp_path / ".My Web_App (2)"
    (odd / "layer").mkdir(parents=True)
    monkeypatch.chdir(odd)
    box = loaded('[container]\nlayers = ["layer"]\n[services.a]\ncommand = "x"\n').container
    short = f"{zlib.crc32(f'{odd}/services.toml'.encode()) & 0xFFFFFF:06x}"
    assert (box.name, box.hostname) == (f"My-Web_App--2-{short}", f"My-Web-App--2-{short}")


@pytest.mark.parametrize("kept", ["without net", "with net"])
def test_the_hosts_network(folder, kept):
    namespaces = {"without net": 'namespaces = ["pid", "mount"]\n', "with net": ""}[kept]
    text = f'[container]\nlayers = ["layer"]\n{namespaces}network = {{ mode = "host" }}\n[services.a]\ncommand = "x"\n'
    assert loaded(text).container.network.mode == "host"


@pytest.mark.parametrize(
    ("address", "gateway"), [("10.1.2.3/8", "10.9.9.9"), ("10.1.2.3/0", "1.1.1.1"), ("fd00::2/64", "fd00::1"), ("10.0.0.2/31", "10.0.0.3")]
)
def test_a_gateway_within_reach(folder, address, gateway):
    network = f'mode = "veth"\nbridge = "b"\naddress = "{address}"\ngateway = "{gateway}"\n'
    text = f'[container]\nlayers = ["layer"]\n[container.network]\n{network}[services.a]\ncommand = "x"\n'
    assert loaded(text).container.network.gateways == (gateway,)


@pytest.mark.parametrize("address", ["10.0.0.0/31", "10.0.0.1/31", "10.0.0.7/32", "fd00::/127", "fd00::ffff:ffff:ffff:ffff/64"])
def test_an_address_at_the_end_of_a_network_that_has_no_broadcast(folder, address):
    text = f'[container]\nlayers = ["layer"]\n[container.network]\nmode = "veth"\naddress = "{address}"\nmtu = 1280\n[services.a]\ncommand = "x"\n'
    assert loaded(text).container.network.addresses == (address,)


def test_a_network_by_slirp4netns(folder):
    def network(keys: str):
        return loaded(f'[container]\nlayers = ["layer"]\n[container.network]\nmode = "slirp4netns"\n{keys}[services.a]\ncommand = "x"\n').container.network

    found = network("")
    assert (found.addresses, found.gateways, found.dns, found.mtu, found.ipv6) == (("10.0.2.100/24",), ("10.0.2.2",), ("10.0.2.3",), 65520, False)
    found = network('pool = "10.9.0.0/16"\ndns = ["9.9.9.9"]\nmtu = 1400\nipv6 = true\npublish = ["8000-8001:80-81/udp"]\n')
    assert (found.addresses, found.gateways, found.dns, found.mtu, found.ipv6) == (("10.9.0.100/16",), ("10.9.0.2",), ("9.9.9.9",), 1400, True)
    assert [(one.host, one.port, one.to, one.protocol, one.length) for one in found.publish] == [("", 8000, 80, "udp", 2)]


def test_expansion_in_every_form_of_value(folder):
    text = """\
[init]
environment_clear = "${YES}"
stop_timeout = "${T:-3}s"
[container]
name = "${NAME}"
layers = ["${LAYER:-layer}"]
[container.cgroup]
cpu_max = "${CPUS:-1.5}"
pids_max = "${PIDS}"
memory_max = "${MEMORY}"
[container.network]
mode = "${MODE:-host}"
[services.a]
command = ["/bin/sh", "-c", "echo ${NAME}"]
umask = "${UMASK:-0077}"
stop_signal = "${SIGNAL}"
environment = { A = "$ $$ ${NAME}-${EMPTY}-${EMPTY:-b}-${NONE:-}-${NONE:-a:-b}$", B = "${RAW}" }
"""
    environment = {
        "YES": "true", "NAME": "web", "PIDS": "7", "MEMORY": "1G", "EMPTY": "", "RAW": "${NAME}", "SIGNAL": "HUP",
    }  # fmt: skip
    config = loaded(text, environment)
    assert (config.init.environment_clear, config.init.stop_timeout_s) == (True, 3.0)
    assert config.container.name == "web"
    assert config.container.layers[0].path == f"{folder}/layer"
    assert config.container.cgroup == m.CgroupLimits(1 << 30, 0, 1.5, 0, 7, Origin("services.toml", 7))
    assert config.container.network.mode == "host"
    (spec,) = config.services
    assert (spec.command[2], spec.umask, spec.stop[0].signal) == ("echo ${NAME}", 0o077, 1)
    assert spec.environment == (("A", "$ $$ web--b--a:-b$"), ("B", "${NAME}"))


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("5s", 5.0), ("2m", 120.0), ("1h", 3600.0), ("1.5s", 1.5), ("0s", 0.0)]
)
def test_durations(folder, text, seconds):
    assert loaded(f'[services.a]\ncommand = "x"\nstop_timeout = "{text}"\n').services[0].stop[0].wait_s == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("64K", 65536), ("512M", 512 << 20), ("2G", 2 << 30), ("1.5G", 3 << 29), ("1T", 1 << 40)]
)
def test_sizes(folder, text, size):
    assert loaded(f'[services.a]\ncommand = "x"\nlog.max_size = "{text}"\n').services[0].log.max_size_bytes == size


def test_includes_come_first_and_their_paths_are_their_own(folder):
    (folder / "services").mkdir()
    (folder / "services/20-b.toml").write_text('[services.b]\ncommand = "b"\n')
    (folder / "services/10-a.toml").write_text('include = ["../more/box.toml"]\n[services.a]\ncommand = "a"\n')
    (folder / "services/notes.txt").write_text("no TOML")
    (folder / "more").mkdir()
    (folder / "more/layer").mkdir()
    (folder / "more/box.toml").write_text(
        '[container]\nlayers = ["layer"]\n[[container.mounts]]\ntype = "bind"\nsource = "../data"\ntarget = "/x"\ncreate = true\n'
    )
    config = loaded('include = ["services/*.toml", "none/*.toml"]\n[services.c]\ncommand = "c"\n')
    assert [(spec.name, str(spec.origin)) for spec in config.services] == [
        ("a", "services/10-a.toml:2"),
        ("b", "services/20-b.toml:1"),
        ("c", "services.toml:2"),
    ]
    assert config.container.layers == (m.Layer(f"{folder}/more/layer", Origin("more/box.toml", 2)),)
    assert config.container.mounts[0].source == f"{folder}/data"
    assert config.path == f"{folder}/services.toml"


def test_files_are_named_as_the_user_named_the_first(folder, monkeypatch):
    (folder / "conf").mkdir()
    (folder / "conf/a.toml").write_text('[services.a]\ncommand = "a"\n')
    (folder / "conf/main.toml").write_text('include = ["a.toml"]\n[services.b]\ncommand = "b"\n')
    for given, expected in (("conf/main.toml", "conf/a.toml:1"), (f"{folder}/conf/main.toml", f"{folder}/conf/a.toml:1")):
        config = load(given, {})
        assert (config.path, str(config.services[0].origin)) == (f"{folder}/conf/main.toml", expected)


def test_line_ends_of_another_system(folder):
    config = loaded('[services.a]\r\ncommand = [\r\n  "x",\r\n]\r\nuser = "u"\r\nenvironment.A = """b\r\nc"""\r\n')
    assert str(config.services[0].user_origin) == "services.toml:5"
    assert config.services[0].environment == (("A", "b\nc"),)


def test_what_ships_is_a_good_config():
    for name in ("ssh", "nginx"):
        path = ROOT / f"services/{name}.toml"
        text = path.read_text()
        services = load(str(path), {}).services if "wants" not in text else ()
        assert all(str(spec.origin).startswith(f"{path}:") for spec in services)
    config = load(str(ROOT / "examples/web/services.toml"), {}, on_host=False)
    assert [spec.name for spec in config.services] == ["ssh-keys", "ssh", "nginx-folder", "nginx", "app-folder", "app"]


def test_loading_an_ordinary_file_imports_little(folder):
    """Each of these costs the start milliseconds; they are for errors, patterns and strings as commands."""
    Path("services.toml").write_text('[container]\nlayers = ["layer"]\n[services.a]\ncommand = ["x"]\n')
    code = (
        "import sys, os\nfrom pyinit.config.load import load\nload('services.toml', os.environ)\n"
        "print(sorted({'difflib', 'shlex', 'glob', 'ipaddress', 'asyncio', 'dataclasses', 'logging', 'argparse', 'json',"
        " 'pyroute2', 'subprocess', 'socket', 'ctypes'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-S", "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"


def test_limits_of_io_know_their_devices_by_number(folder):
    limits = "memory_swap_max = '0', memory_low = '1M', cpuset = '0-1', io_weight = 50"
    io = "io_max = [{ device = '8:0', read = '50M' }, { device = '/dev/null', write_iops = 7 }, { device = '/dev/gone', write = '1K' }]"
    found = loaded(f'[services.app]\ncommand = "x"\ncgroup = {{ {limits}, {io} }}\n').services[0].cgroup
    assert found == m.CgroupLimits(
        origin=Origin("services.toml", 3), memory_low_bytes=1 << 20, memory_swap_max_bytes=0, cpuset=(0, 1), io_weight=50,
        io_max=(m.IoLimit("8:0", "8:0", 50 << 20), m.IoLimit("/dev/null", write_iops=7), m.IoLimit("/dev/gone", write_bytes=1024)),
    )  # fmt: skip
