"""From and to other runtimes: what is exported is run by podman, runc and nspawn; what umoci and skopeo write is imported, and run by us."""

import configparser
import filecmp
import hashlib
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tempfile

import pytest
from conftest import REPO, make_busybox, squash, wait_until
from test_upward import CGROUPS, HELD

sys.path += [f"{REPO}/tests/peers/runtimes", f"{REPO}/tests/image"]
import smallroot
from layouts import Layout, archive, entry

pytestmark = pytest.mark.usefixtures("nothing_left")
STORE = pathlib.Path("/var/cache/pyinit/oci")
SECRET = "of-this-host-alone"  # the value of a variable
SCRIPT = 'cat /opt/app/version /etc/base /run/config/app.env; test -e /etc/gone || echo gone; id -u; grep -ac /usr/bin/pyinit /proc/1/cmdline; exit 7'
CONFIG = """
include = ["more.toml"]
[container]
name = "pyinit-export"
hostname = "exported"
layers = ["base.squashfs", "upper"]
[[container.mounts]]
type = "squashfs"
source = "app.squashfs"
target = "/opt/app"
[[container.mounts]]
type = "tmpfs"
target = "/run/config"
mode = "0750"
files = { "app.env" = "token=${EXPORT_TOKEN}, ${EXPORT_UNSAID:-unsaid}\\n" }
[container.cgroup]
pids_max = 100
[container.secrets]
db = { env = "EXPORT_TOKEN" }
[services.app]
command = ["/bin/sh", "-c", '''SCRIPT''']
requires = ["first"]
restart = "never"
log = { to = "stdout", timestamp = "none" }
""".replace("SCRIPT", SCRIPT)
MORE = """
[init]
exit = "when-main-exits"
main = "app"
stop_timeout = "4s"
[services.first]
command = ["/bin/sh", "-c", "echo $WHO"]
kind = "oneshot"
environment = { WHO = "${EXPORT_TOKEN}" }
log = { to = "stdout", timestamp = "none" }
"""
SHOWN = [f"first: {SECRET}", "app: 1.0", "app: base", f"app: token={SECRET}, unsaid", "app: gone", "app: 0", "app: 1"]
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")


def run(*words, code=0, **keys):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120, check=False, **keys)
    assert done.returncode == code, f"{done.returncode} of {' '.join(map(str, words))}:\n{done.stdout}{done.stderr}"
    return done


def pyinit(*words, code=0):
    return run(sys.executable, "-m", "pyinit", *words, code=code, cwd=REPO, env={**os.environ, "EXPORT_TOKEN": SECRET})


class Exported:
    """The config, and what came of it: `oci`, `bundle`, `machine`, with what was said of each on stderr."""

    def __init__(self, place: pathlib.Path) -> None:
        self.config = place / "services.toml"
        self.config.write_text(CONFIG)
        (place / "more.toml").write_text(MORE)
        root = smallroot.lay(place / "base")
        (root / "usr/bin/pyinit").unlink()
        shutil.rmtree(root / "etc/pyinit")
        shutil.copy("/bin/busybox", root / "usr/bin/busybox")
        for name in ("cat", "id", "grep", "test"):
            (root / "usr/bin" / name).symlink_to("busybox")
        (root / "etc/base").write_text("base\n")
        (root / "etc/gone").touch()
        os.link(root / "etc/base", root / "etc/linked")
        (root / "usr/bin/su").write_text("su")
        (root / "usr/bin/su").chmod(0o4755)
        os.setxattr(root / "usr/bin/su", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
        run("mksquashfs", root, place / "base.squashfs", "-comp", "lz4", "-quiet", "-no-progress")
        (place / "upper/etc").mkdir(parents=True)
        (place / "upper/etc/m\u00fcll").touch()
        os.mknod(place / "upper/etc/gone", stat.S_IFCHR)
        (place / "app").mkdir()
        (place / "app/version").write_text("1.0\n")
        squash(place / "app", place / "app.squashfs")
        self.place = place
        self.said: dict[str, list[str]] = {}
        for kind in ("oci", "bundle", "systemd"):
            done = pyinit("export", kind, "--output", place / f"out.{kind}", self.config)
            self.said[kind] = [line.replace(f"{place}/", "") for line in done.stderr.splitlines() if line.startswith(f"{self.config}")]
        self.oci, self.bundle, self.machine = (place / f"out.{kind}" for kind in ("oci", "bundle", "systemd"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return Exported(tmp_path_factory.mktemp("exported"))


def tree(root: pathlib.Path):
    """All that two tools may differ in."""
    found = {}
    for place, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = f"{place}/{name}"
            seen = os.lstat(path)
            content = os.readlink(path) if stat.S_ISLNK(seen.st_mode) else ""
            if stat.S_ISREG(seen.st_mode):
                content = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
            xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)}
            xattrs.pop("user.overlay.opaque", None)  # a layer's mark for ordinary users' overlays, which root's shows
            found[path[len(str(root)) :]] = (oct(seen.st_mode), seen.st_uid, seen.st_gid, int(seen.st_mtime), content, xattrs, 0 if name in folders else seen.st_nlink)
    return found


def test_what_an_export_lacks_is_told_and_no_value_of_the_host_is_in_one(exported):
    secret = "services.toml:18: container.secrets.db: a secret is in no export: "
    token = ["services.toml: ${EXPORT_TOKEN}: ", "services.toml: ${EXPORT_UNSAID}: "]
    token = [f"{one}its value is not in the export: give it to what runs that, as a variable" for one in token]
    assert exported.said == {
        "oci": [
            "services.toml:5: container.hostname: no image has one: --hostname of the runtime",
            "services.toml:11: container.mounts[2]: no image mounts: --tmpfs /run/config of the runtime",
            "services.toml:17: container.cgroup.pids_max: no image has limits: the runtime's options do (--memory, --cpus, --pids-limit)",
            f"{secret.replace('18', '19')}--secret of the runtime, at /run/secrets", *token,
        ],
        "bundle": [
            f"{secret.replace('18', '19')}mount it at /run/secrets", *token,
            'services.toml:3: container.security.seccomp = "default": a profile of pyinit\'s is none of the runtime\'s: add linux.seccomp to config.json; services keep their own',
        ],
        "systemd": [f"{secret.replace('18', '19')}LoadCredential= of the unit, or BindReadOnly= at /run/secrets", *token],
    }  # fmt: skip
    for kind in (exported.oci, exported.bundle, exported.machine):
        assert subprocess.run(["grep", "-rlaF", SECRET, kind], capture_output=True, check=False).stdout == b""
    assert b"".join(subprocess.run(["gzip", "-dc", one], capture_output=True, check=False).stdout for one in (exported.oci / "blobs/sha256").iterdir()).find(SECRET.encode()) < 0


def test_the_same_images_make_the_same_bytes(exported, tmp_path):
    pyinit("export", "oci", "--output", tmp_path / "again", exported.config)
    compared = filecmp.dircmp(exported.oci / "blobs/sha256", tmp_path / "again/blobs/sha256")
    assert (compared.left_only, compared.right_only, len(compared.same_files)) == ([], [], 6)
    assert (exported.oci / "index.json").read_bytes() == (tmp_path / "again/index.json").read_bytes()
    assert f"{tmp_path}/again is there already" in pyinit("export", "oci", "--output", tmp_path / "again", exported.config, code=111).stderr


def test_skopeo_takes_the_layout_and_umoci_unpacks_what_the_bundle_has(exported, tmp_path):
    inspected = json.loads(run("skopeo", "inspect", "--config", f"oci:{exported.oci}:latest").stdout)
    assert inspected["config"] == {
        "Entrypoint": ["/usr/bin/pyinit", "--config", "/etc/pyinit/services.toml"], "StopSignal": "SIGTERM", "WorkingDir": "/",
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    }  # fmt: skip
    run("skopeo", "--insecure-policy", "copy", f"oci:{exported.oci}:latest", f"oci:{tmp_path}/copy:latest")  # verifies each digest
    run("umoci", "unpack", "--image", f"{exported.oci}:latest", tmp_path / "unpacked")
    theirs, ours = tree(tmp_path / "unpacked/rootfs"), tree(exported.bundle / "rootfs")
    assert {path: (row, theirs.get(path)) for path, row in ours.items() if row != theirs.get(path)} == {}
    assert set(theirs) == set(ours)


@pytest.fixture
def podman(tmp_path):
    short = tempfile.mkdtemp(prefix="pyinit-")  # podman takes no runroot of over 50 characters
    yield (
        "unshare", "-m", "podman", "--root", tmp_path / "store", "--runroot", short, "--tmpdir", tmp_path / "tmp", "--storage-driver", "vfs",
        "--runtime", "runc", "--cgroup-manager=cgroupfs", "--events-backend=none",
    )  # fmt: skip
    shutil.rmtree(short, ignore_errors=True)


def test_podman_loads_and_runs_it(exported, podman):
    image = run(*podman, "load", "-q", "-i", exported.oci).stdout.split()[-1]
    done = run(
        *podman, "run", "--rm", "--network=none", *LIMITS, "--read-only", "--tmpfs", "/run/config", "--env", f"EXPORT_TOKEN={SECRET}", image, code=7,
    )  # fmt: skip
    assert done.stdout.splitlines() == SHOWN


def with_token(bundle: pathlib.Path) -> None:
    """What an export tells: the variable is for who runs it to give."""
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["env"].append(f"EXPORT_TOKEN={SECRET}")
    (bundle / "config.json").write_text(json.dumps(config))


def test_runc_runs_the_bundle(exported, tmp_path):
    run("cp", "-a", exported.bundle, tmp_path / "bundle")
    with_token(tmp_path / "bundle")
    done = run("runc", "--root", tmp_path / "runc", "run", "--bundle", tmp_path / "bundle", f"pyinit-export-{os.getpid()}", code=7)
    assert done.stdout.splitlines() == SHOWN


def test_systemd_takes_the_unit(exported):
    done = run("systemd-analyze", "verify", "--man=no", exported.machine / "pyinit-export.service")
    assert done.stdout + done.stderr == ""


def test_nspawn_runs_the_machine(exported, tmp_path):
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read(exported.machine / "pyinit-export.service")
    words = unit["Service"]["ExecStart"].split()
    for path in HELD:
        (CGROUPS / path).mkdir()
    enter = "; ".join(f"echo 0 > {CGROUPS}/{path}/cgroup.procs" for path in HELD)
    (tmp_path / "machines").mkdir()
    settings = (exported.machine / "pyinit-export.nspawn").read_text()
    (tmp_path / "pyinit-export.nspawn").write_text(settings.replace("[Exec]\n", f"[Exec]\nEnvironment=EXPORT_TOKEN={SECRET}\n"))
    os.rename(exported.machine / "pyinit-export", tmp_path / "machines/pyinit-export")
    script = f"{enter}; mount -t tmpfs x /run/systemd; mount -t tmpfs x /etc/systemd; mkdir /etc/systemd/nspawn; cp {tmp_path}/pyinit-export.nspawn /etc/systemd/nspawn; "
    script += f'mount --bind {tmp_path}/machines /var/lib/machines; exec "$@"'
    try:
        done = run("unshare", "-m", "sh", "-c", script, "sh", words[0], "--register=no", "--console=pipe", *words[1:], code=7)
        assert done.stdout.splitlines() == SHOWN
    finally:
        os.rename(tmp_path / "machines/pyinit-export", exported.machine / "pyinit-export")
        for path in HELD:
            below = [found for found in (CGROUPS / path).rglob("*") if found.is_dir()]
            for found in [*sorted(below, reverse=True), CGROUPS / path]:
                wait_until(lambda found=found: not (found / "cgroup.procs").read_text(), f"{found} is empty")
                found.rmdir()


@pytest.fixture
def store():
    """Where our launcher has what it imports; afterwards as it was."""
    before = set(STORE.glob("*")) if STORE.exists() else None
    yield STORE
    for path in set(STORE.glob("*")) - (before or set()):
        path.unlink()
    if before is None and STORE.exists():
        STORE.rmdir()
        for above in (STORE.parent, STORE.parent.parent):
            if above.name == "pyinit" and not any(above.iterdir()):
                above.rmdir()


def busybox_layout(place: pathlib.Path) -> Layout:
    root = make_busybox(place / "tree")
    for name in ("opt/app", "usr/lib/email"):
        (root / name).mkdir(parents=True)
        (root / name / "old").write_text("old")
    tarred = subprocess.run(["tar", "-C", root, "-c", "."], capture_output=True, check=True).stdout
    layout = Layout(place / "layout")
    for tag, version in (("v1", b"one\n"), ("v2", b"two\n")):
        layout.image(tarred, archive(entry("etc/version", data=version), entry("root/.wh..wh..opq")), tag=tag)
    return layout


def test_what_umoci_wrote_is_what_our_layers_show(tmp_path):
    image = f"{busybox_layout(tmp_path).path}:v1"
    run("umoci", "unpack", "--image", image, tmp_path / "first")
    root = tmp_path / "first/rootfs"
    shutil.rmtree(root / "usr/lib/email")
    (root / "usr/lib/email").mkdir()
    (root / "usr/lib/email/new").write_text("new")
    (root / "etc/passwd").unlink()
    (root / "etc/group").unlink()
    (root / "etc/group").mkdir(mode=0o700)
    shutil.rmtree(root / "opt")
    (root / "opt").symlink_to("/nowhere")
    os.link(root / "etc/version", root / "etc/version2")
    run("umoci", "repack", "--image", image, tmp_path / "first")
    run("umoci", "unpack", "--image", image, tmp_path / "second")
    lines = pyinit("import", "oci", "--output", tmp_path / "store", image).stdout.splitlines()
    paths = [line.split("  ")[1] for line in lines]
    assert [line.split("  ")[0] for line in lines] == [hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest() for path in paths]
    script = "".join(f"mkdir {tmp_path}/m{number}; mount -t squashfs -o loop,ro {path} {tmp_path}/m{number}; " for number, path in enumerate(paths))
    lower = ":".join(f"{tmp_path}/m{number}" for number in reversed(range(len(paths))))
    script += f"mkdir {tmp_path}/m {tmp_path}/out; mount -t overlay -o lowerdir={lower} x {tmp_path}/m && cp -a {tmp_path}/m/. {tmp_path}/out"
    run("unshare", "-m", "sh", "-c", script)
    ours, theirs = tree(tmp_path / "out"), tree(tmp_path / "second/rootfs")
    assert {path: (row, theirs.get(path)) for path, row in ours.items() if row != theirs.get(path)} == {}
    assert set(ours) == set(theirs)


BOX = """
[container]
name = "{name}"
layers = ["oci:layout:v1"]
[services.app]
command = ["sh", "-c", "cat /etc/version; exec sleep 1000"]
log = {{ echo = true, timestamp = "none" }}
"""


def test_a_container_of_a_layout_is_imported_once_and_again_when_it_is_another(bench, store, tmp_path):
    layout = busybox_layout(tmp_path)
    boxes = [bench.start(BOX.format(name=f"pyinit-oci{number}"), name=f"{number}.toml") for number in range(3)]
    for box in boxes:
        box.wait_for("app: one")
    files = sorted(path.name for path in store.glob("*.squashfs"))
    assert [box.stop() for box in boxes] == [0, 0, 0]
    assert (len(files), len(list(store.glob("*.layers")))) == (2, 1)
    with open(store / files[0], "r+b") as file:  # what was damaged since is not mounted, but made again
        file.seek(200)
        file.write(b"damaged")
    again = bench.start(BOX.format(name="pyinit-oci0"), name="0.toml")
    again.wait_for("app: one")
    assert again.stop() == 0
    layout.rows = [row for row in layout.rows if row["annotations"]["org.opencontainers.image.ref.name"] == "v2"]
    layout.name(layout.rows.pop(), "v1")
    other = bench.start(BOX.format(name="pyinit-oci0"), name="0.toml")
    other.wait_for("app: two")
    assert other.stop() == 0
    assert set(files) < {path.name for path in store.glob("*.squashfs")}


def test_a_blob_that_is_another_starts_nothing(bench, store, tmp_path):
    layout = busybox_layout(tmp_path)
    blob = max((layout.path / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    box = bench.start(BOX.format(name="pyinit-oci0"))
    assert box.wait() == 111
    found = hashlib.sha256(blob.read_bytes()).hexdigest()
    assert box.output == (
        f"pyinit: {tmp_path}/services.toml:4: container.layers: {layout.path}: sha256:{blob.name}: "
        f"its content has the digest sha256:{found}; copy the image again\n"
    )
