"""`pyinit --config` of an ordinary user: a whole container of a squashfs image, and what he is told that he can't have."""

import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess

import pytest
from conftest import REPO, Pyinit, make_busybox, squash, wait_until

USER = "pyinit-t"
WAIT = '[services.app]\ncommand = ["/bin/sleep", "1000"]\n'
NO_GROUPS = r"pyinit: .*: make cgroup pyinit-mine: no group is delegated to this user; it runs without groups and limits; start pyinit in one, as `systemd-run --user --scope -p Delegate=yes` does"
OWNERS = "cd /data; ls -ln * | awk '{ print $3, $4, $NF }'"


class Ordinary:
    """A user made for the test, with a folder, a runtime folder, a package and an image of his own."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.running: list[Pyinit] = []
        self.uid = int(subprocess.run(["id", "-u", USER], check=True, capture_output=True, text=True).stdout)
        shutil.copytree(REPO / "pyinit", folder / "lib/pyinit")
        tree = make_busybox(folder / "tree")
        (tree / "data").mkdir()
        for name, owner in (("root", 0), ("app", 1000), ("beyond", 300000)):
            (tree / "data" / name).write_text(name)
            os.chown(tree / "data" / name, owner, owner)
        squash(tree, folder / "image.squashfs")
        os.mknod(folder / "fuse", stat.S_IFCHR | 0o666, os.makedev(10, 229))
        os.chmod(folder / "fuse", 0o666)
        for name in ("home", "run"):
            (folder / name).mkdir(mode=0o700)
            os.chown(folder / name, self.uid, self.uid)

    def command(self, fuse: str = "fuse") -> tuple[str, ...]:
        """With a /dev/fuse that he may open, as distributions have it, in a mount namespace of its own; no login is needed."""
        bind = 'mount --bind "$0" /dev/fuse && exec "$@"'
        user = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", "--inh-caps=-all")
        return ("unshare", "-m", "sh", "-c", bind, str(self.folder / fuse), *user, "/usr/bin/python3", "-m", "pyinit")

    def start(self, keys: str, more: str = WAIT, *options: str, environment: dict[str, str] | None = None, layers: str = 'layers = ["image.squashfs"]\n', **keywords) -> Pyinit:
        path = self.folder / "services.toml"
        path.write_text(f'[container]\nname = "mine"\n{layers}{keys}{more}')
        self.running.append(Pyinit(path, *options, command=self.command(), cwd=self.folder / "home", env=self.environment(environment), **keywords))
        return self.running[-1]

    def environment(self, more: dict[str, str] | None = None) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(self.folder / "lib"), "XDG_RUNTIME_DIR": str(self.folder / "run"), **(more or {})}

    def verb(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.command(), *words], cwd=self.folder / "home", env=self.environment(), capture_output=True, text=True, check=False, timeout=60)

    def sh(self, script: str) -> str:
        done = self.verb("exec", "-c", "mine", "app", "--", "/bin/sh", "-c", script)
        return done.stdout + done.stderr

    def pid(self) -> int:
        return int((self.folder / "run/pyinit/mine/pid").read_text())

    def close(self) -> None:
        for box in self.running:
            box.close()


def servers() -> list[str]:
    """Processes of squashfuse of that user."""
    return subprocess.run(["pgrep", "-u", USER, "squashfuse"], capture_output=True, text=True, check=False).stdout.split()


@pytest.fixture
def subids():
    """/etc/subuid and /etc/subgid; as they were afterwards."""
    paths = [pathlib.Path(f"/etc/sub{kind}") for kind in ("uid", "gid")]
    before = {path: path.read_bytes() if path.exists() else None for path in paths}

    def write(text: str) -> None:
        for path in paths:
            path.write_text(text)

    yield write
    for path, data in before.items():
        if data is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(data)


@pytest.fixture
def user(subids, nothing_left, tmp_path):
    yield from made(Ordinary, subids, tmp_path)


def made(kind, subids, tmp_path):
    """A user of that kind, and what may not be left of him."""
    subprocess.run(["useradd", "--no-create-home", "--home-dir", "/nonexistent", USER], check=True)
    subids(f"{USER}:500000:65536\n")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        os.chmod(folder, 0o755)
    ordinary = kind(tmp_path)
    yield ordinary
    ordinary.close()
    wait_until(lambda: servers() == [], "the end of squashfuse")
    assert list((tmp_path / "run/pyinit").iterdir() if (tmp_path / "run/pyinit").exists() else []) == []
    subprocess.run(["userdel", USER], check=True)


def test_an_image_of_squashfs_with_ranges(user):
    """Owners, a kept folder, devices, kernel file systems, a service of another user, signals, the end."""
    (user.folder / "state").mkdir(mode=0o700)
    os.chown(user.folder / "state", user.uid, user.uid)
    more = f"""
[[container.mounts]]
type = "tmpfs"
target = "/run/ram"
uid = 5
files = {{ "text" = "of ram" }}
[[container.mounts]]
type = "squashfs"
source = "image.squashfs"
target = "/again"
[[container.mounts]]
type = "bind"
source = "home"
target = "/home"
[container.secrets]
key = {{ env = "KEY" }}
[services.other]
user = "app"
command = ["/bin/sleep", "1000"]
{WAIT}"""
    box = user.start('writable = "./state"\n', more, environment={"KEY": "secret"})
    box.wait_for("app: ready")
    box.wait_for("other: ready")
    assert len(re.findall(NO_GROUPS, box.output)) == 1, box.output
    assert pathlib.Path(f"/proc/{user.pid()}/uid_map").read_text().split() == ["0", str(user.uid), "1", "1", "500000", "65536"]
    assert [line.split() for line in user.sh(OWNERS).splitlines()] == [["1000", "1000", "app"], ["65534", "65534", "beyond"], ["0", "0", "root"]]
    assert user.sh("id -u; cat /run/ram/text /run/secrets/key /again/data/app; ls -ln /run/ram/text | awk '{ print $3, $4 }'") == "0\nof ramsecretapp5 0\n"
    assert user.sh("echo x > /dev/null; head -c 3 /dev/zero | wc -c; echo $$ > /data/new; echo > /home/made; ls -ln /data/new | awk '{ print $3 }'") == "3\n0\n"
    found = user.sh("mount | awk '{ print $5, $3 }' | grep -E '^(cgroup2|sysfs|devpts|mqueue|proc) ' | grep -v /proc/")
    assert sorted(found.split("\n")) == sorted(["proc /proc", "sysfs /sys", "devpts /dev/pts", "mqueue /dev/mqueue", "cgroup2 /sys/fs/cgroup", ""])
    assert re.search("Permission denied|Operation not permitted", user.sh("cat /proc/1/environ"))
    assert (user.folder / "state/upper/data/new").stat().st_uid == user.uid
    assert (user.folder / "home/made").stat().st_uid == user.uid
    assert len(servers()) == 1
    assert "app" in user.verb("status").stdout
    assert box.stop() == 0


def test_root_alone_without_ranges(user, subids):
    subids("other:1:65536\n")
    box = user.start('writable = "tmpfs"\n')
    box.wait_for("app: ready")
    assert (
        f"root is the only user inside: /etc/subuid has no range of {USER}, expected 65536; add a line such as {USER}:100000:65536 of ids that "
        'nobody has, or write the ranges as `map`; user_namespace = { map = "single" } says that it is meant\n'
    ) in box.output
    assert pathlib.Path(f"/proc/{user.pid()}/uid_map").read_text().split() == ["0", str(user.uid), "1"]
    assert user.sh("id -u; cat /data/app; echo x > /etc/x; cat /etc/x") == "0\nappx\n"
    assert box.stop() == 0
    box = user.start('user_namespace = { map = "single" }\n')
    box.wait_for("app: ready")
    assert "the only user" not in box.output
    assert box.stop() == 0
    box = user.start('user_namespace = { map = "auto" }\n')
    assert box.wait() == 111
    assert box.output.startswith(f"pyinit: {user.folder}/services.toml:4: container.user_namespace: /etc/subuid has no range of {USER}, expected 65536; ")


def test_a_killed_launcher_leaves_nothing(user):
    box = user.start("")
    box.wait_for("app: ready")
    children = pathlib.Path(f"/proc/{box.process.pid}/task/{box.process.pid}/children").read_text().split()
    box.process.kill()
    box.wait()
    assert children
    wait_until(lambda: servers() == [], "the end of squashfuse")
    again = user.start("")
    again.wait_for("app: ready")
    assert again.stop() == 0


def test_what_has_lost_its_squashfuse_is_told_and_stopped(user):
    """The page cache is no root: a service that starts again finds nothing to execute."""
    more = WAIT + "stop_timeout = \"1s\"\n"
    box = user.start("", more)
    box.wait_for("app: ready")
    (server,) = map(int, servers())
    os.kill(server, signal.SIGKILL)
    assert box.wait() == 111
    text = f"pyinit: image {user.folder}/image.squashfs: squashfuse was killed by signal 9, and the container has lost its files; it is stopped\n"
    assert box.output.count("squashfuse") == box.output.count(text) == 1, box.output
    again = user.start("", more)
    again.wait_for("app: ready")
    assert again.stop() == 0
    assert "squashfuse" not in again.output


def test_the_network_of_the_host_and_clocks_of_its_own(user):
    """sysfs is the host's then, read-only."""
    box = user.start('network = { mode = "host" }\ntime_offsets = { boottime = "1h" }\n')
    box.wait_for("app: ready")
    assert os.readlink(f"/proc/{user.pid()}/ns/net") == os.readlink("/proc/self/ns/net")
    assert user.sh("ls -d /sys/class/net/lo; echo > /sys/x") == "/sys/class/net/lo\n/bin/sh: can't create /sys/x: Read-only file system\n"
    assert user.sh("cat /proc/self/timens_offsets").split() == ["monotonic", "0", "0", "boottime", "3600", "0"]
    assert box.stop() == 0


def test_the_exit_code_and_the_plan(user):
    more = '[init]\nexit = "when-main-exits"\nmain = "app"\n[services.app]\ncommand = ["/bin/sh", "-c", "exit 7"]\n'
    assert user.start("", more).wait() == 7
    lines = user.verb("plan", str(user.folder / "services.toml")).stdout.splitlines()
    words = [re.sub(r"^ +\d+ |  \[.*", "", line) for line in lines if not line.startswith("      ")]
    assert words[:4] == [
        f"map the host's ids: uid {user.uid} is 0, uid 500000-565535 is 1-65536, gid {user.uid} is 0, gid 500000-565535 is 1-65536 inside",
        "clone PID 1 into new namespaces: pid mount uts ipc cgroup net",
        f"serve {user.folder}/image.squashfs by squashfuse, if it is an image",
        "make cgroup pyinit-mine",
    ]


ALONE = "a container of an ordinary user has a user namespace of its own, from which nobody else's namespaces can be joined"
REFUSED = {
    'network = { mode = "veth", bridge = "b", address = "10.1.0.2/24" }\n': "4: container.network: an ordinary user can make no veth on a bridge; write mode = \"slirp4netns\", or run pyinit as root",
    'network = { mode = "macvlan", parent = "lo", address = "10.1.0.2/24" }\n': "4: container.network: an ordinary user can make no macvlan; write mode = \"slirp4netns\", or run pyinit as root",
    'network = { mode = "netns", path = "/proc/1/ns/net" }\n': f'4: container.network: {ALONE}; write mode = "slirp4netns", or run pyinit as root',
    'share = [\n"net:db",\n"user:/proc/1/ns/user"]\n': f"5: container.share: {ALONE}; make both services of one container, or run both as root",
    'share = ["user:db"]\n': f"4: container.share: {ALONE}; make both services of one container, or run both as root",
    '[[container.mounts]]\ntype = "squashfs"\nsource = "image:/x"\ntarget = "/x"\n': "4: container.mounts: an ordinary user can mount no nested image; take it out, or run pyinit as root",
    'user_namespace = { map = [{ inside = 0, outside = 1 }] }\n': (
        "4: map the host's ids: uid 1 is 0, gid 1 is 0 inside: newuidmap: newuidmap: uid range [0-1) -> [1-2) not allowed"
    ),
}  # fmt: skip


def test_what_only_root_can_have_is_told(user):
    for keys, said in REFUSED.items():
        box = user.start(keys)
        assert box.wait() == 111
        assert box.output == f"pyinit: {user.folder}/services.toml:{said}\n"
    box = user.start('share = ["mount:db", "pid:db", "user:db"]\n', layers="")
    assert box.wait() == 111
    assert box.output == f"pyinit: {user.folder}/services.toml:3: container.share: {ALONE}; make both services of one container, or run both as root\n"


def test_without_newuidmap_or_a_device_for_fuse_it_is_told(user):
    os.mkdir(user.folder / "bin")
    for name in ("squashfuse", "setpriv", "sh", "mount", "unshare"):
        os.symlink(shutil.which(name), user.folder / "bin" / name)
    box = user.start("user_namespace = {}\n", environment={"PATH": str(user.folder / "bin")})
    assert box.wait() == 111
    assert box.output == (
        f"pyinit: {user.folder}/services.toml:4: map the host's ids: uid {user.uid} is 0, uid 500000-565535 is 1-65536, gid {user.uid} is 0, "
        'gid 500000-565535 is 1-65536 inside: there is no program newuidmap; install it (Debian: uidmap), or write map = "single"\n'
    )
    os.chmod(user.folder / "fuse", 0o600)
    box = user.start("")
    assert box.wait() == 111
    assert box.output.endswith("by squashfuse, if it is an image: Permission denied; fuse: /dev/fuse can't be opened; set its mode to 0666\n")


# What AppArmor does to who is not named in a profile of its own, where this kernel has none: the call is refused, a sysctl says so.
# Or, with Ubuntu's profile unprivileged_userns, what takes a capability in there is, of which mounts are the first.
APPARMOR = """
import ctypes, os, platform, struct, sys
number = {"x86_64": 272, "aarch64": 97}[platform.machine()]
rows = ((0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 16), (0x45, 0, 1, 0x10000000), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000))
if sys.argv.pop(1) == "inside":
    number = {"x86_64": 165, "aarch64": 40}[platform.machine()]
    rows = ((0x20, 0, 0, 0), (0x15, 1, 0, 428), (0x15, 0, 1, number), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000))
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *row) for row in rows))
libc = ctypes.CDLL(None, use_errno=True)
wanted = struct.pack("@HP", len(rows), ctypes.addressof(program))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, wanted, 0, 0):
    raise OSError(ctypes.get_errno(), "prctl")
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_who_forbids_user_namespaces_is_told(user, subids):
    """By a limit, in a user namespace that has one of its own; by AppArmor."""
    subids("root:0:65536\n")  # so that unshare(1) may map the host's own
    (user.folder / "apparmor.py").write_text(APPARMOR)
    (user.folder / "kernel").mkdir()
    (user.folder / "kernel/apparmor_restrict_unprivileged_userns").write_text("1\n")
    *before, python, option, module = user.command()
    inner = ("unshare", "--user", "--map-users=0,0,65536", "--map-groups=0,0,65536", "sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"', "sh")
    bind = ("unshare", "-m", "sh", "-c", f'mount --bind {user.folder}/kernel /proc/sys/kernel && exec "$@"', "sh")
    path = user.folder / "services.toml"
    path.write_text(f'[container]\nname = "mine"\nlayers = ["image.squashfs"]\nuser_namespace = {{ map = "single" }}\n{WAIT}')
    unshare, birth = f"map the host's ids: uid {user.uid} is 0, gid {user.uid} is 0 inside: unshare", "clone PID 1 into new namespaces: pid mount uts ipc cgroup net: a read-only copy of the interpreter: mount /"
    apparmor = (
        "Operation not permitted; userns: kernel.apparmor_restrict_unprivileged_userns = 1; AppArmor takes the capabilities in user namespaces away; "
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    )
    confined = [(*bind, *before, python, str(user.folder / "apparmor.py"), where, python, option, module) for where in ("outside", "inside")]
    for command, line, what, why in (
        ((*inner, *user.command()), 4, unshare, "No space left on device; userns: user.max_user_namespaces = 0; no user namespaces are allowed at all; sysctl -w user.max_user_namespaces=10000"),
        (confined[0], 4, unshare, apparmor),
        (confined[1], 1, birth, apparmor),
    ):  # fmt: skip
        box = Pyinit(path, command=command, cwd=user.folder / "home", env=user.environment())
        user.running.append(box)
        assert (box.wait(), box.output) == (111, f"pyinit: {path}:{line}: {what}: {why}\n")
