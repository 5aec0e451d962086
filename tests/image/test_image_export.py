"""Exports of folders that are layers: what goes in, what is told, what never leaves the host."""

import gzip
import io
import json
import os
import stat
import tarfile

import pytest

from pyinit.config.load import load
from pyinit.errors import LaunchError
from pyinit.image import export, nspawn, oci, runc
from pyinit.image.spec import BuildError
from pyinit.model import without_places

ENVIRONMENT = {"SECRET": "hush-hush", "HOST": "host-of-mine", "PORT": "8123", "SIZE": "123456K", "TARGET": "/of/mine"}
CONFIG = """\
[init]
stop_timeout = "5s"
environment = {{ KEY = "${{SECRET}}" }}
[container]
name = "box"
hostname = "${{HOST}}"
layers = ["base", "upper"]
writable = "tmpfs"
namespaces = ["pid", "mount", "uts", "cgroup", "net", "time"]
rlimits = {{ nofile = 1024 }}
share = ["ipc:/proc/self/ns/ipc"]
hooks.prestart = ["true"]
[container.security]
no_new_privileges = true
capabilities = ["CHOWN", "NET_ADMIN", "SYS_TIME"]
devices = [{{ path = "/dev/fuse", access = "r" }}]
masked_paths = ["/proc/kcore", "/sys/devices/cpu*"]
[container.network]
mode = "veth"
bridge = "${{HOST}}"
address = "10.91.0.2/24"
publish = ["127.0.0.1:${{PORT}}:80/tcp", "53-54:53-54/udp"]
[container.cgroup]
memory_max = "${{SIZE}}"
memory_high = "64M"
memory_low = "16M"
cpu_max = 1.5
cpu_weight = 10000
pids_max = 64
[container.sysctl]
"net.ipv4.ip_forward" = 1
[container.secrets]
key = {{ env = "SECRET" }}
[[container.mounts]]
type = "tmpfs"
target = "/run/config"
size = "1M"
read_only = true
mode = "0700"
files = {{ "app.env" = "K=${{SECRET}}", "host" = {{ file = "base/etc/hello" }}, "own" = {{ env = "SECRET" }} }}
[[container.mounts]]
type = "bind"
source = "base"
target = "/base"
read_only = true
[[container.mounts]]
type = "bind"
source = "base"
target = "${{TARGET}}"
[[container.mounts]]
type = "fuse.sh"
source = "x"
target = "/fused"
[services.app]
command = ["/bin/app", "it's", "${{INSTANCE}}"]
seccomp = "profiles/app.toml"
environment = {{ SECRET = "${{SECRET}}", PLAIN = "${{UNSET:-plain}}" }}
ready = {{ tcp = "127.0.0.1:${{PORT}}" }}
[services."worker@"]
command = ["/bin/worker"]
[services.needs]
command = ["/bin/needs"]
requires = ["worker@1"]
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for name in ("base/etc", "base/usr/bin", "base/var", "upper/var", "profiles"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "base/usr/bin/python3").write_text("python")
    (tmp_path / "base/etc/hello").write_text("hello")
    (tmp_path / "base/bin").symlink_to("usr/bin")
    (tmp_path / "upper/new").write_text("new")
    (tmp_path / "profiles/app.toml").write_text('base = "default"\nallow = ["ptrace"]\n')
    return tmp_path


def ask(place, text=CONFIG, environment=None):
    (place / "services.toml").write_text(text.format())
    return export.ask(str(place / "services.toml"), ENVIRONMENT if environment is None else environment)


def told(place, lines):
    return [line.replace(f"{place}/", "") for line in lines]


def plain(layout):
    """Every blob as it is without compression."""
    found = []
    for path in (layout / "blobs/sha256").iterdir():
        data = path.read_bytes()
        found.append(gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data)
    return found


def layers(layout):
    """The archives, lowest first, and the image's config."""
    def blob(row):
        return (layout / "blobs/sha256" / row["digest"][7:]).read_bytes()

    manifest = json.loads(blob(json.loads((layout / "index.json").read_text())["manifests"][0]))
    return [tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob(row)))) for row in manifest["layers"]], json.loads(blob(manifest["config"]))


def test_services_inside_are_what_they_were(place):
    asked = ask(place)
    (place / "inside").mkdir()
    (place / "inside/services.toml").write_text(export.inner_config(asked))
    (place / "profiles").rename(place / "inside/profiles")
    inside = load(str(place / "inside/services.toml"), ENVIRONMENT, log_to="stdout", on_host=False)
    (place / "inside/profiles").rename(place / "profiles")
    outside = load(str(place / "services.toml"), ENVIRONMENT, log_to="stdout", on_host=False)

    def services(config):
        return str(without_places(config.services)).replace(f"{place}/inside", f"{place}")

    assert services(inside) == services(outside)
    assert (inside.init, inside.templates) == (outside.init, outside.templates)
    assert [(one.target, [file.name for file in one.files]) for one in inside.container.mounts] == [("/run/config", ["app.env", "own"])]
    assert "hush-hush" not in export.inner_config(asked)


def test_no_value_of_the_environment_is_in_an_export(place):
    asked = ask(place)
    oci.write(asked, f"{place}/out", "v1", {}, lambda _: None)
    for data in (*plain(place / "out"), json.dumps(runc._config(asked)).encode(), nspawn._settings(asked).encode(), nspawn._unit(asked).encode()):
        assert [name for name, value in ENVIRONMENT.items() if value.encode() in data] == []
    assert b"126418944" not in b"".join(plain(place / "out"))  # SIZE in bytes


def test_what_an_image_lacks_is_told(place):
    head = "services.toml"
    assert told(place, oci.lost(ask(place))) == [
        f"{head}:6: container.hostname: no image has one: --hostname of the runtime",
        f"{head}:8: container.writable: no image says it: --read-only of the runtime, and volumes, decide",
        f"{head}:9: container.namespaces: no image can say it: the runtime's own holds",
        f"{head}:11: container.share: no image can say it: the runtime's own holds",
        f"{head}:12: container.hooks.prestart: a command of this host: run it around the runtime",
        f"{head}:15: container.security.capabilities: no image has them: --cap-add and --cap-drop of the runtime",
        f"{head}:16: container.security.devices: no image has devices: --device of the runtime",
        f"{head}:17: container.security.masked_paths: no image has it: the runtime's own holds",
        f"{head}:19: container.network.mode: no image has a network: the runtime gives one",
        f"{head}:20: container.network.bridge: no image has a network: the runtime gives one",
        f"{head}:21: container.network.address: no image has a network: the runtime gives one",
        f"{head}:22: container.network.publish: the image tells the ports inside; -p of the runtime publishes them",
        *(
            f"{head}:{line}: container.cgroup.{key}: no image has limits: the runtime's options do (--memory, --cpus, --pids-limit)"
            for line, key in enumerate(("memory_max", "memory_high", "memory_low", "cpu_max", "cpu_weight", "pids_max"), 24)
        ),
        f"{head}:31: container.sysctl.net.ipv4.ip_forward: no image has settings of the kernel: --sysctl of the runtime",
        f"{head}:33: container.secrets.key: a secret is in no export: --secret of the runtime, at /run/secrets",
        f"{head}:34: container.mounts[1]: no image mounts: --tmpfs /run/config of the runtime; host of it is what this host has: put it there yourself",
        f"{head}:41: container.mounts[2]: a bind mount is no part of an image: -v or --mount of the runtime, at /base",
        f"{head}:46: container.mounts[3]: a bind mount is no part of an image: -v or --mount of the runtime, at ${{TARGET}}",
        f"{head}:50: container.mounts[4]: a fuse.sh mount is no part of an image: -v or --mount of the runtime, at /fused",
        f"{head}: ${{PORT}}: its value is not in the export: give it to what runs that, as a variable",
        f"{head}: ${{SECRET}}: its value is not in the export: give it to what runs that, as a variable",
        f"{head}: ${{UNSET}}: its value is not in the export: give it to what runs that, as a variable",
    ]


def test_each_key_of_the_container_is_in_a_bundle_or_told(place):
    asked = ask(place)
    lines = told(place, runc.lost(asked))
    assert [line for line in lines if "${" not in line.partition(": ")[2][:2]] == [
        "services.toml:6: container.hostname: has ${NAME}: its value here is no export's",
        "services.toml:8: container.writable: the root is the folder rootfs, and changes stay in it",
        "services.toml:9: container.namespaces: time: ids are this host's: add linux.uidMappings and gidMappings to config.json",
        "services.toml:11: container.share: a namespace of somebody else's: add its path to linux.namespaces of config.json",
        "services.toml:12: container.hooks.prestart: a command of this host: run it around the runtime, or add it to config.json",
        "services.toml:17: container.security.masked_paths: /sys/devices/cpu*: a bundle has no patterns",
        "services.toml:19: container.network.mode: the runtime makes no network: add it by a hook, or from outside",
        "services.toml:20: container.network.bridge: the runtime makes no network: add it by a hook, or from outside",
        "services.toml:21: container.network.address: the runtime makes no network: add it by a hook, or from outside",
        "services.toml:22: container.network.publish: the runtime makes no network: add it by a hook, or from outside",
        "services.toml:24: container.cgroup.memory_max: has ${NAME}: its value here is no export's",
        "services.toml:25: container.cgroup.memory_high: a bundle has no word for it",
        "services.toml:33: container.secrets.key: a secret is in no export: mount it at /run/secrets",
        "services.toml:34: container.mounts[1]: host of it is what this host has: put it there yourself",
        "services.toml:46: container.mounts[3]: has ${NAME}: its value here is no export's",
        "services.toml:50: container.mounts[4]: a fuse.sh mount is no bundle's: mount it on the host, and bind it",
        'services.toml:4: container.security.seccomp = "default": a profile of pyinit\'s is none of the runtime\'s: add linux.seccomp to config.json; services keep their own',
    ]
    config = runc._config(asked)
    assert config["linux"]["resources"] == {
        "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "r"}],
        "memory": {"reservation": 16 << 20}, "cpu": {"quota": 150_000, "period": 100_000, "shares": 262144}, "pids": {"limit": 64},
    }  # fmt: skip
    assert config["process"]["capabilities"]["bounding"] == ["CAP_CHOWN", "CAP_NET_ADMIN", "CAP_SYS_TIME"]
    assert (config["root"], config["hostname"]) == ({"path": "rootfs", "readonly": False}, "pyinit")
    assert [one["type"] for one in config["linux"]["namespaces"]] == ["pid", "mount", "uts", "cgroup", "network"]
    assert config["linux"]["sysctl"] == {"net.ipv4.ip_forward": "1"}
    assert {one["destination"]: (one["source"], one["options"]) for one in config["mounts"] if one["destination"] in ("/run/config", "/base")} == {
        "/run/config": ("tmpfs", ["nosuid", "nodev", "mode=0700", "size=1048576"]),  # the init writes into it
        "/base": (f"{place}/base", ["rbind", "rprivate", "nosuid", "nodev", "ro"]),
    }


def test_files_of_logs_have_a_place_on_a_read_only_root(place):
    text = '[init]\nlog_dir = "/var/log/x"\n[container]\nlayers = ["base"]\nWRITABLE\n[services.a]\ncommand = ["a"]\nlog = {{ to = "file" }}\n'
    asked = ask(place, text.replace("WRITABLE", ""))
    assert [one["destination"] for one in runc._config(asked)["mounts"]][-3:] == ["/run", "/tmp", "/var/log/x"]
    assert "ReadOnly=yes\nTemporaryFileSystem=/var/log/x:mode=0755,nosuid,nodev\n" in nspawn._settings(asked)
    asked = ask(place, text.replace("WRITABLE", 'writable = "tmpfs"'))
    assert [one["destination"] for one in runc._config(asked)["mounts"]][-2:] == ["/run", "/tmp"]
    assert "ReadOnly=no\n\n" in nspawn._settings(asked)


def test_the_files_of_nspawn_and_systemd(place):
    asked = ask(place)
    assert nspawn._settings(asked) == (
        "[Exec]\nBoot=no\nProcessTwo=no\nParameters=/usr/bin/pyinit --config /etc/pyinit/services.toml\n"
        "Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPrivateUsers=no\nKillSignal=SIGTERM\nNotifyReady=yes\n"
        "Capability=CAP_SYS_TIME\nDropCapability=CAP_AUDIT_CONTROL CAP_AUDIT_WRITE CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID "
        "CAP_IPC_OWNER CAP_KILL CAP_LEASE CAP_LINUX_IMMUTABLE CAP_MKNOD CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_RAW CAP_SETFCAP CAP_SETGID "
        "CAP_SETPCAP CAP_SETUID CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_CHROOT CAP_SYS_NICE CAP_SYS_PTRACE CAP_SYS_RESOURCE CAP_SYS_TTY_CONFIG\n"
        "LinkJournal=no\nResolvConf=off\n\n[Files]\nReadOnly=no\n"
        f"TemporaryFileSystem=/run/config:mode=0700,size=1048576,nosuid,nodev\nBindReadOnly={place}/base:/base:rbind\n\n"
        "[Network]\nPrivate=yes\nVirtualEthernet=yes\n"
    )
    unit = nspawn._unit(asked)
    assert "TimeoutStopSec=15s\n" in unit
    assert unit[unit.index("DeviceAllow=char-pts rw\n") + 24 : unit.index("\n[Install]")] == (
        "MemoryHigh=67108864\nMemoryLow=16777216\nTasksMax=64\nCPUWeight=10000\nCPUQuota=150%\n"
    )


def test_an_image_with_whiteouts_links_and_its_own_times(place):
    asked = ask(place)
    os.mknod(place / "upper/var/gone", stat.S_IFCHR)  # which anyone may
    os.link(place / "base/etc/hello", place / "base/a-link")
    (place / "base/usr/bin/python3").chmod(0o4755)
    os.utime(place / "base/etc/hello", (5, 5))
    oci.write(asked, f"{place}/out", "v1", {}, lambda _: None)
    (base, upper, own), config = layers(place / "out")
    found = {one.name: (one.type, oct(one.mode), one.linkname) for one in base}
    assert found["a-link"][0] == tarfile.REGTYPE
    assert found["etc/hello"][0::2] == (tarfile.LNKTYPE, "a-link")
    assert found["usr/bin/python3"][1] == "0o4755"
    assert base.getmember("a-link").mtime == 5
    assert max(one.mtime for one in base) <= 1735689600  # a checkout of today is no other image
    assert "var/.wh.gone" in upper.getnames()
    assert own.getnames()[-1] == "usr/bin/pyinit"
    assert own.extractfile("etc/pyinit/profiles/app.toml").read() == (place / "profiles/app.toml").read_bytes()
    assert config["config"]["Entrypoint"] == ["/usr/bin/pyinit", "--config", "/etc/pyinit/services.toml"]
    assert config["created"] == "2025-01-01T00:00:00Z"


def test_what_can_not_be_exported(place):
    said = "the image has no /usr/bin/python3, which /usr/bin/pyinit needs: add python3-minimal and libpython3.11-stdlib to it"
    asked = ask(place)
    (place / "base/usr/bin/python3").unlink()
    with pytest.raises(BuildError) as caught:
        oci.write(asked, f"{place}/out", "v1", {}, lambda _: None)
    assert str(caught.value) == f"{place}/services.toml:4: {said}"
    assert not (place / "out").exists()
    assert not (place / "out.new").exists()
    (place / "base/usr/bin/python3").touch()
    (place / "upper/etc").symlink_to("/etc")
    with pytest.raises(BuildError) as caught:
        oci.write(asked, f"{place}/out", "v1", {}, lambda _: None)
    assert str(caught.value) == "/etc of the image is a symlink to /etc, and not the folder that an export puts something into"


def test_a_pinned_image_that_is_another_is_not_exported(place, monkeypatch):
    (place / "image").write_bytes(b"hsqs" + bytes(2000))
    asked = ask(place)
    pinned = asked.box.layers[0]._replace(path=f"{place}/image", sha256="0" * 64)
    asked = asked._replace(box=asked.box._replace(layers=(pinned,)))
    with pytest.raises(LaunchError) as caught:
        oci.write(asked, f"{place}/out", "v1", {}, lambda _: None)
    assert str(caught.value).startswith(f"{place}/services.toml:7: {place}/image is not the image that is pinned: expected sha256:{'0' * 64}, found ")


def test_profiles_of_included_files_and_of_templates_go_along(place):
    (place / "sub").mkdir()
    (place / "sub/p.toml").write_text('base = "default"\n')
    (place / "sub/more.toml").write_text('[services."w@"]\ncommand = ["w"]\nseccomp = "p.toml"\n[services.x]\ncommand = ["x"]\nrequires = ["w@1"]\n')
    asked = ask(place, 'include = ["sub/more.toml"]\n[container]\nlayers = ["base"]\n')
    oci.write(asked, f"{place}/out", "v1", {}, lambda _: None)
    assert layers(place / "out")[0][1].extractfile("etc/pyinit/p.toml").read() == b'base = "default"\n'


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("/etc/profile.toml", "/etc/profile.toml lies elsewhere than the config: put it beside that"),
        ("../p.toml", "../p.toml lies elsewhere than the config: put it beside that"),
    ],
)
def test_a_profile_that_lies_elsewhere(place, said, why):
    asked = ask(place)
    asked.written["services"]["app"]["seccomp"] = said
    with pytest.raises(BuildError) as caught:
        oci.write(asked, f"{place}/out", "v1", {}, lambda _: None)
    assert str(caught.value) == f"{place}/services.toml: services.app.seccomp: {why}"


def test_an_init_of_the_image_is_the_entry_point(place):
    asked = ask(place, '[container]\nlayers = ["upper"]\ninit = "/sbin/init"\n')
    oci.write(asked, f"{place}/out", "v1", {}, lambda _: None)
    archives, config = layers(place / "out")
    assert config["config"]["Entrypoint"] == ["/sbin/init"]
    assert archives[1].getnames() == [".", "dev", "etc", "proc", "run", "sys", "tmp"]
    assert oci.lost(asked) == []
