"""User and time namespaces, and those that are shared: what is inside, whose it is on the host, and what is refused."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from conftest import make_busybox, squash, verb, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left")

WAIT = '[services.app]\ncommand = ["/bin/sleep", "1000"]\n'
MAP = "user_namespace = { map = [{ inside = 0, outside = 200000, count = 70000 }] }\n"
ROOT = 200000  # on the host


def config(image, keys: str, more: str = WAIT, name: str = "spaces") -> str:
    return f'[container]\nname = "{name}"\nlayers = ["{image}"]\n{keys}{more}'


def start(bench, image, keys: str, more: str = WAIT, name: str = "spaces", **options):
    box = bench.start(config(image, keys, more, name), name=f"{name}.toml", **options)
    box.wait_for("app: ready")
    return box


def refused(bench, image, keys: str, more: str = WAIT, **options) -> str:
    """The one line, without the file's name."""
    box = bench.start(config(image, keys, more), name="spaces.toml", **options)
    assert box.wait() == 111, box.output
    assert box.output.count("\n") == 1, box.output
    return box.output.removeprefix(f"pyinit: {bench.folder}/spaces.toml:").rstrip("\n")


def sh(script: str, name: str = "spaces") -> str:
    done = verb("exec", "-c", name, "app", "--", "/bin/sh", "-c", script)
    return done.stdout + done.stderr


def pid_of(name: str = "spaces") -> int:
    return int(pathlib.Path(f"/run/pyinit/{name}/pid").read_text())


def namespace(kind: str, pid: "int | str" = "self") -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def status(pid: int, key: str) -> list[str]:
    return re.findall(rf"^{key}:(.*)$", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)[0].split()


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> pathlib.Path:
    """With files of several owners."""
    folder = tmp_path_factory.mktemp("owners")
    tree = make_busybox(folder / "tree")
    (tree / "data").mkdir()
    for name, owner in (("root", 0), ("app", 1000), ("nobody", 65534), ("beyond", 300000)):
        (tree / "data" / name).write_text(name)
        os.chown(tree / "data" / name, owner, owner)
    return squash(tree, folder / "owners.squashfs")


OWNERS = "cd /data; ls -ln * | awk '{ print $3, $4, $NF }'"


# User namespaces


def test_root_inside_is_an_ordinary_user_and_the_image_is_its_own(bench, image):
    start(bench, image, MAP, f'[services.other]\nuser = "app"\ncommand = ["/bin/sleep", "1000"]\n{WAIT}')
    pid = pid_of()
    assert status(pid, "Uid") == [str(ROOT)] * 4
    assert status(pid, "Gid") == [str(ROOT), str(ROOT), str(ROOT + 65534), str(ROOT)]  # the saved one is nobody's: no root inside is as it
    assert status(pid, "Groups") == []
    assert pathlib.Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(ROOT), "70000"]
    assert pathlib.Path(f"/proc/{pid}/gid_map").read_text().split() == ["0", str(ROOT), "70000"]
    assert sh("id -u; id -g") == "0\n0\n"
    assert [line.split()[:3] for line in sh(OWNERS).splitlines() if line] == [
        ["1000", "1000", "app"], ["65534", "65534", "beyond"], ["65534", "65534", "nobody"], ["0", "0", "root"],
    ]  # fmt: skip
    for kind in ("user", "pid", "mnt", "uts", "ipc", "net"):
        assert namespace(kind, pid) != namespace(kind)
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert {status(int(child), "Uid")[0] for child in children} >= {str(ROOT), str(ROOT + 1000)}


def test_what_the_container_is_given_belongs_to_its_ids(bench, image):
    (bench.folder / "mine").mkdir()
    os.chown(bench.folder / "mine", 1234, 1234)
    more = f"""
[[container.mounts]]
type = "tmpfs"
target = "/run/ram"
uid = 5
gid = 6
files = {{ "text" = "x", "owned" = {{ content = "y", uid = 7, mode = "0600" }} }}
[[container.mounts]]
type = "bind"
source = "made"
target = "/made"
create = true
uid = 33
gid = 34
[[container.mounts]]
type = "bind"
source = "mine"
target = "/mine"
idmap = {{ uid = ["1234:8", "77:0"], gid = ["1234:9", "78:0"] }}
[[container.mounts]]
type = "bind"
source = "mine"
target = "/as-it-is"
[[container.mounts]]
type = "squashfs"
source = "{image}"
target = "/again"
[[container.mounts]]
type = "overlay"
target = "/over"
layers = ["{image}"]
writable = "tmpfs"
[container.secrets]
key = {{ env = "KEY", uid = 1000 }}
{WAIT}"""
    start(bench, image, MAP + 'writable = "tmpfs"\n', more, environment={"KEY": "secret"})
    script = "echo > /mine/file; echo > /over/data/new; ls -lnd /run/ram /run/ram/text /run/ram/owned /made /mine /mine/file /as-it-is /again/data/app /over/data/app /over/data/new /run/secrets/key"
    rows = [line.split() for line in sh(script + "; cat /run/secrets/key").splitlines()]
    assert rows.pop() == ["secret"]
    assert {row[8]: (row[2], row[3]) for row in rows} == {
        "/run/ram": ("5", "6"), "/run/ram/text": ("5", "6"), "/run/ram/owned": ("7", "6"), "/made": ("33", "34"), "/mine": ("8", "9"),
        "/mine/file": ("0", "0"), "/as-it-is": ("65534", "65534"), "/again/data/app": ("1000", "1000"), "/over/data/app": ("1000", "1000"),
        "/over/data/new": ("0", "0"), "/run/secrets/key": ("1000", "0"),
    }  # fmt: skip
    made = os.stat(bench.folder / "mine/file")
    assert (made.st_uid, made.st_gid) == (77, 78)


def test_a_kept_folder_keeps_the_ids_of_the_inside_whatever_the_map(bench, image):
    for base, before in ((200000, "missing"), (400000, "1000 0 of root"), (None, "1000 0 of root")):
        keys = f"user_namespace = {{ map = [{{ inside = 0, outside = {base}, count = 65536 }}] }}\n" if base else ""
        box = start(bench, image, f'{keys}writable = "./state"\n')
        assert sh("cd /data; if [ -e new ]; then echo $(ls -ln new | awk '{ print $3, $4 }') $(cat new); else echo missing; fi").strip() == before
        sh("echo of root > /data/new; echo of root > /root/x")
        if before == "missing":
            subprocess.run(["chown", "1000", bench.folder / "state/upper/data/new"], check=True)
        assert box.stop() == 0
    kept = os.stat(bench.folder / "state/upper/root/x")
    assert (kept.st_uid, kept.st_gid) == (0, 0)


def test_it_has_its_groups_devices_terminals_and_file_systems(bench, image):
    limits = 'cgroup = { memory_max = "64M", pids_max = 50 }\n'
    start(bench, image, MAP, f'[services.other]\nuser = "app"\n{limits}command = ["/bin/sleep", "1000"]\n{WAIT}{limits}')
    pid = pid_of()
    for path in pathlib.Path("/sys/fs/cgroup").glob("*/pyinit-spaces"):
        owners = {one.name: (one.stat().st_uid, one.stat().st_gid) for one in (path, path / "cgroup.procs")}
        assert set(owners.values()) == {(ROOT, ROOT)}, path
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    groups = "".join(pathlib.Path(f"/proc/{child}/cgroup").read_text() for child in children)
    assert all(re.search(rf"^\d+:{kind}:.*/pyinit-spaces/svc-app$", groups, re.M) for kind in ("", "memory", "pids")), groups
    found = sh("mount | awk '$5 != \"overlay\" { print $5, $3 }' | grep -E 'cgroup2|sysfs|devpts|mqueue|^proc /proc$'")
    assert sorted(found.split("\n")) == sorted(["proc /proc", "sysfs /sys", "devpts /dev/pts", "mqueue /dev/mqueue", "cgroup2 /sys/fs/cgroup", ""])
    assert sh("echo x > /dev/null && head -c 3 /dev/zero | wc -c; ls -ln /dev/pts/ptmx | awk '{ print $1, $3, $4 }'") == "3\ncrw-rw-rw- 0 0\n"
    assert sh("echo > /sys/x; echo 1 > /proc/sys/kernel/panic; mount -t tmpfs x /tmp; hostname other; echo $?").count("\n") == 5
    assert verb("stats", "-c", "spaces").returncode == 0


def test_the_init_is_out_of_reach_in_it_too(bench, image):
    start(bench, image, MAP)
    for name in ("environ", "mem", "root/etc/passwd", "fd/0", "exe"):
        assert re.search("Permission denied|Operation not permitted", sh(f"cat /proc/1/{name} > /dev/null")), name
    assert "Permission denied" in sh("echo > /proc/1/exe")
    assert status(pid_of(), "Seccomp") is not None


def test_services_are_told_of_limits_signals_and_notify_sockets(bench, image):
    """Log files, limits, a restart, a reload, a stop in order."""
    more = """
[services.app]
user = "app"
command = ["/bin/sh", "-c", "ulimit -n; echo $NOTIFY_SOCKET; while :; do sleep 0.1; done"]
rlimits = { nofile = 100 }
watchdog = "1h"
log = { to = "file", timestamp = "none" }
"""
    box = start(bench, image, MAP, more)
    wait_until(lambda: verb("logs", "-c", "spaces", "app").stdout.startswith("100\n/"), "the log")
    root = pathlib.Path(f"/proc/{pid_of()}/root")
    assert (root / "var/log/pyinit/app/current").stat().st_uid == ROOT
    assert (root / verb("logs", "-c", "spaces", "app").stdout.split()[1].lstrip("/")).stat().st_uid == ROOT + 1000
    assert verb("restart", "-c", "spaces", "app").returncode == 0
    assert verb("reload", "-c", "spaces").returncode == 0
    assert box.stop() == 0


def test_a_service_of_a_user_that_the_map_has_not_is_told_so(bench, image):
    more = '[init]\nexit = "when-all-exited"\n[services.app]\nuser = "1000"\nrestart = "never"\ncommand = ["/bin/true"]\n'
    box = bench.start(config(image, "user_namespace = { map = [{ inside = 0, outside = 200000 }] }\n", more), name="spaces.toml")
    box.wait()
    assert "app: failed" in box.output
    assert "user" in box.output


@pytest.fixture
def subids(tmp_path):
    """/etc/subuid and /etc/subgid, to be written; as they were afterwards."""
    paths = [pathlib.Path(f"/etc/sub{kind}") for kind in ("uid", "gid")]
    before = [path.read_bytes() if path.exists() else None for path in paths]

    def write(text: str | None, gid_text: str | None = "") -> None:
        for path, one in zip(paths, (text, text if gid_text == "" else gid_text), strict=True):
            if one is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(one)

    yield write
    for path, data in zip(paths, before, strict=True):
        if data is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(data)


def test_a_map_of_etc_subuid(bench, image, subids):
    subids("# ours\nroot:700000:1000\nother:1:2\n0:800000:65536\n")
    assert "map the host's ids: uid 700000-700999 is 0-999, uid 800000-865535 is 1000-66535, gid 700000-700999 is 0-999," in verb(
        "plan", str(bench.write(config(image, "user_namespace = {}\n")))
    ).stdout
    start(bench, image, "user_namespace = {}\n")
    assert pathlib.Path(f"/proc/{pid_of()}/uid_map").read_text().split() == ["0", "700000", "1000", "1000", "800000", "65536"]
    assert next(line.split()[:3] for line in sh(OWNERS).splitlines() if line) == ["1000", "1000", "app"]


def test_a_map_of_etc_subuid_of_its_own_user_goes_first(bench, image, subids):
    subids("root:700000:65536\npyinit:900000:65536\n")
    start(bench, image, 'namespaces = ["pid", "mount", "net", "user"]\n')
    assert status(pid_of(), "Uid")[0] == "900000"


def test_ranges_that_are_missing_or_too_small_are_told(bench, image, subids):
    fix = "add a line such as root:100000:65536 of ids that nobody has, or write the ranges as `map`"
    subids(None)
    assert refused(bench, image, "user_namespace = {}\n") == f"4: container.user_namespace: /etc/subuid has no range of root, expected 65536; {fix}"
    subids("root:100000:65536\n", "root:100000:999\n")
    assert refused(bench, image, "user_namespace = {}\n") == f"4: container.user_namespace: /etc/subgid has 999 ids of root, expected 65536; {fix}"
    subids("joe:100000:65536\n")
    assert refused(bench, image, 'user_namespace = { user = "jim" }\n') == (
        f"4: container.user_namespace: /etc/subuid has no range of jim, expected 65536; {fix.replace('root', 'jim')}"
    )
    plan = verb("plan", str(bench.write(config(image, "user_namespace = {}\n"))))
    assert "map the host's ids: the ranges of pyinit, or of root, in /etc/subuid and /etc/subgid are 0 and up inside" in plan.stdout


def test_root_alone_is_one_user(bench, image):
    start(bench, image, 'user_namespace = { map = "single", user = "daemon" }\n')
    assert pathlib.Path(f"/proc/{pid_of()}/uid_map").read_text().split() == ["0", "1", "1"]
    assert sh("id -u; cat /data/app; touch /tmp/x; ls -ln /tmp/x | awk '{ print $3 }'") == "0\napp0\n"


def test_root_alone_of_nobody_that_there_is(bench, image):
    assert refused(bench, image, 'user_namespace = { map = "single" }\n') == (
        '4: container.user_namespace: map = "single": there is no user pyinit on this host; name one beside it: user = "..."'
    )


def test_too_many_user_namespaces_are_told_and_undone(bench, image):
    """In a user namespace that has a limit of its own; with its own /run."""
    limit = 'mount -t tmpfs run /run; echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    command = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", limit, "sh", sys.executable, "-m", "pyinit")
    assert refused(bench, image, MAP, command=command) == (
        "4: map the host's ids: uid 200000-269999 is 0-69999, gid 200000-269999 is 0-69999 inside: unshare: No space left on device; "
        "namespace user: user.max_user_namespaces is reached; raise it by sysctl"
    )


def test_ids_that_are_not_ours_to_give_are_told(bench, image):
    command = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs run /run; exec "$@"', "sh", sys.executable, "-m", "pyinit")
    assert refused(bench, image, MAP, command=command) == (
        "4: map the host's ids: uid 200000-269999 is 0-69999, gid 200000-269999 is 0-69999 inside: the kernel refuses this map of uids: "
        "this host's own ids have none such (/proc/self/uid_map); choose others"
    )


def test_a_namespace_beyond_our_own_user_namespace_is_told(bench, image):
    """Of a process that may not be looked at, and one that we may not enter."""
    command = ("setpriv", "--bounding-set=-sys_ptrace", sys.executable, "-m", "pyinit")
    assert refused(bench, image, 'share = ["net:1"]\n', command=command) == (
        "4: join the net namespace of pid 1: the process 1 may not be looked at: it takes CAP_SYS_PTRACE in the user namespace that it runs in: "
        "run pyinit where that is, or as root"
    )
    command = ("strace", "-f", "-o", "/dev/null", "-e", "trace=setns", "-e", "inject=setns:error=EPERM:when=1", sys.executable, "-m", "pyinit")
    assert refused(bench, image, 'share = ["net:/proc/self/ns/net"]\n', command=command) == (
        "1: clone PID 1 into new namespaces: pid mount uts ipc cgroup: the net namespace can't be joined: "
        "it takes CAP_SYS_ADMIN in the user namespace that it belongs to: run pyinit where that is, or as root"
    )


def test_an_image_whose_file_system_can_map_no_ids_is_told(bench, image):
    """An overlay of the host as a layer."""
    for name in ("lower", "upper", "work", "merged"):
        (bench.folder / name).mkdir()
    shutil.copytree("/etc/apt", bench.folder / "lower/apt")
    subprocess.run(["mount", "-t", "overlay", "-o", "lowerdir=lower,upperdir=upper,workdir=work", "x", "merged"], check=True, cwd=bench.folder)
    try:
        said = refused(bench, bench.folder / "merged", MAP)
    finally:
        subprocess.run(["umount", bench.folder / "merged"], check=True)
    assert said == (
        f"3: mount layer 0, {bench.folder}/merged, read-only: the file system of {bench.folder}/merged can't map ids "
        "(squashfs can since Linux 6.2, tmpfs since 6.3); use a newer kernel, or take the user namespace out"
    )


# Time namespaces


def test_clocks_of_its_own(bench, image):
    """Timers of the init are absolute: a restart's delay, a schedule and a stop's patience are as long as ever."""
    more = """
[services.beat]
kind = "task"
interval = "300ms"
command = ["/bin/echo", "beat"]
log = { to = "stdout", timestamp = "none" }
[services.again]
command = ["/bin/sh", "-c", "echo again; exit 1"]
restart_delay = { first = "200ms", initial = "200ms" }
log = { to = "stdout", timestamp = "none" }
"""
    box = start(bench, image, 'time_offsets = { monotonic = "1000h", boottime = "24h" }\n', more + WAIT)
    uptime_s, here_s = float(sh("cat /proc/uptime").split()[0]), float(pathlib.Path("/proc/uptime").read_text().split()[0])
    assert 24 * 3600 - 5 < uptime_s - here_s < 24 * 3600 + 5
    assert pathlib.Path(f"/proc/{pid_of()}/timens_offsets").read_text().split() == ["monotonic", "3600000", "0", "boottime", "86400", "0"]
    box.wait_for("beat", count=3)
    box.wait_for("again: again", count=3)
    shown = verb("status", "-c", "spaces", "--json").stdout
    assert all(float(found) < 60 for found in re.findall(r'"uptime_s": ([\d.]+)', shown)), shown
    listed = verb("list").stdout
    assert re.search(r"^spaces .*", listed, re.M), listed
    assert box.stop() == 0


def test_a_clock_before_its_beginning_is_told(bench, image):
    assert refused(bench, image, 'time_offsets = { boottime = "-876000h" }\n') == (
        "4: make a time namespace: boottime -3153600000 s: a clock would stand before 0, or beyond 146 years; choose a smaller offset"
    )


def test_user_and_time_together_and_a_clock_set_back(bench, image):
    start(bench, image, MAP + 'time_offsets = { monotonic = "-1s" }\n')
    pid = pid_of()
    assert pathlib.Path(f"/proc/{pid}/timens_offsets").read_text().split() == ["monotonic", "-1", "0", "boottime", "0", "0"]
    assert status(pid, "Uid")[0] == str(ROOT)


# Shared ones


DB = '[services.app]\ncommand = ["/bin/nc", "-ll", "-p", "5432", "-e", "/bin/echo", "of db"]\nready = { tcp = "127.0.0.1:5432" }\n'
ASK = "nc 127.0.0.1 5432 < /dev/null"


def test_a_pod_talks_by_loopback_and_outlives_its_first(bench, image):
    db = start(bench, image, "", DB, "db")
    web = start(bench, image, 'share = ["net:db"]\n', DB.replace("5432", "80").replace("of db", "of web"), "web")
    assert sh(ASK, "web") == "of db\n"
    assert sh("nc 127.0.0.1 80 < /dev/null", "db") == "of web\n"
    assert namespace("net", pid_of("web")) == namespace("net", pid_of("db"))
    assert namespace("uts", pid_of("web")) != namespace("uts", pid_of("db"))
    assert db.stop() == 0
    assert sh("nc 127.0.0.1 80 < /dev/null", "web") == "of web\n"
    assert web.stop() == 0


def test_a_pod_of_containers_with_their_own_ids(bench, image):
    start(bench, image, "", DB, "db")
    start(bench, image, f'share = ["net:db", "ipc:db"]\n{MAP}', WAIT, "web")
    assert sh(f"{ASK}; ls /sys/class/net", "web") == "of db\nlo\n"
    assert namespace("ipc", pid_of("web")) == namespace("ipc", pid_of("db"))
    assert status(pid_of("web"), "Uid")[0] == str(ROOT)


def test_each_kind_is_shared_with_a_container_a_process_and_a_file(bench, image):
    """Of one that has all kinds of its own, users and clocks too."""
    start(bench, image, f'hostname = "of-db"\n{MAP}time_offsets = {{ boottime = "1h" }}\n', WAIT, "db")
    pid = pid_of("db")
    for number, how in enumerate(("db", str(pid), None)):
        for kind, name in (("uts", "uts"), ("ipc", "ipc"), ("net", "net"), ("time", "time"), ("user", "user"), ("cgroup", "cgroup"), ("pid", "pid")):
            text = f"{kind}:{how or f'/proc/{pid}/ns/{name}'}"
            web = start(bench, image, f'share = ["{text}"]\n', WAIT, f"web{number}")
            assert namespace(name, pid_of(f"web{number}")) == namespace(name, pid), text
            assert sh("hostname", f"web{number}") == ("of-db\n" if kind == "uts" else f"web{number}\n")
            assert web.stop() == 0
    share = ", ".join(f'"{kind}:db"' for kind in ("uts", "ipc", "net", "time", "user", "cgroup", "pid"))
    web = start(bench, image, f"share = [{share}]\n", WAIT, "web")
    assert [namespace(name, pid_of("web")) == namespace(name, pid) for name in ("uts", "ipc", "net", "time", "user", "cgroup", "pid", "mnt")] == [True] * 7 + [False]
    assert next(line.split()[:3] for line in sh(OWNERS, "web").splitlines() if line) == ["1000", "1000", "app"]
    assert web.stop() == 0
    for how in ("db", str(pid), None):  # the root, too: tests of their own are in test_other_root.py
        texts = [f"{kind}:{how or f'/proc/{pid}/ns/{name}'}" for kind, name in (("mount", "mnt"), ("pid", "pid"), ("user", "user"))]
        web = bench.start(f'[container]\nname = "web"\nshare = {texts}\n{WAIT}', name="web.toml")
        web.wait_for("app: ready")
        assert [namespace(name, pid_of("web")) == namespace(name, pid) for name in ("mnt", "pid", "user", "uts", "ipc", "net")] == [True] * 3 + [False] * 3
        assert next(line.split()[:3] for line in sh(OWNERS, "web").splitlines() if line) == ["1000", "1000", "app"]
        assert web.stop() == 0


def test_no_group_of_the_hosts_root_goes_along_where_setgroups_is_denied(bench, image):
    """In a user namespace that unshare(1) made; nor into the container by `enter`."""
    pyinit = ("setpriv", "--groups", "4242", sys.executable, "-m", "pyinit")
    made = subprocess.Popen(("unshare", "--user", "--map-root-user", "sh", "-c", "echo up; exec sleep 1000"), stdout=subprocess.PIPE, text=True)
    with made as other:
        try:
            assert other.stdout.readline() == "up\n"
            assert pathlib.Path(f"/proc/{other.pid}/setgroups").read_text() == "deny\n"
            box = start(bench, image, f'share = ["user:{other.pid}"]\n', command=pyinit)
            assert status(pid_of(), "Groups") == []
            done = subprocess.run((*pyinit, "enter", "-c", "spaces", "--", "cat", "/proc/self/status"), capture_output=True, text=True, timeout=60, check=False)
            assert (done.returncode, re.findall(r"^Groups:[ \t]*(.*)$", done.stdout, re.M), done.stderr) == (0, [""], "")
            assert box.stop() == 0
        finally:
            other.kill()


def test_in_a_shared_pid_namespace_it_is_a_subreaper_and_takes_its_own_along(bench, image):
    start(bench, image, "", WAIT, "db")
    more = """
[services.app]
command = ["/bin/sh", "-c", "setsid sh -c 'sleep 987 & exec sleep 986' & sleep 0.2; echo forked; exec sleep 985"]
log = { to = "stdout", timestamp = "none" }
"""
    web = start(bench, image, 'share = ["pid:db"]\n', more, "web")
    web.wait_for("app: forked")
    inner = status(pid_of("web"), "NSpid")
    assert inner[1] != "1"
    seen = sh("ps -o pid,args", "db")
    assert all(f"sleep {number}" in seen for number in (985, 986, 987, 1000))
    assert web.stop() == 0
    seen = sh("ps -o pid,args", "db")
    assert [f"sleep {number}" in seen for number in (985, 986, 987, 1000)] == [False, False, False, True]


def test_a_killed_monitor_of_one_in_a_shared_pid_namespace_leaves_nothing(bench, image):
    start(bench, image, "", WAIT, "db")
    web = start(bench, image, 'share = ["pid:db"]\n', WAIT.replace("1000", "984"), "web")
    web.process.kill()
    web.wait()
    web = start(bench, image, 'share = ["pid:db"]\n', WAIT.replace("1000", "983"), "web")
    seen = sh("ps -o pid,args", "db")
    assert ["sleep 984" in seen, "sleep 983" in seen] == [False, True]


def test_whose_namespace_it_is_must_run(bench, image):
    assert refused(bench, image, 'share = ["net:db"]\n') == "4: join the net namespace of container db: container db does not run; start it first"
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    assert refused(bench, image, f'share = ["uts:{gone.pid}"]\n') == (
        f"4: join the uts namespace of pid {gone.pid}: the process {gone.pid} does not run; start it first"
    )


def test_what_is_no_such_namespace_is_told(bench, image):
    assert refused(bench, image, 'share = ["net:/proc/self/ns/uts"]\n') == (
        "4: join the net namespace of /proc/self/ns/uts: /proc/self/ns/uts is a uts namespace; give a net one, or write uts:/proc/self/ns/uts"
    )
    assert refused(bench, image, 'share = ["net:/etc/passwd"]\n') == (
        "4: join the net namespace of /etc/passwd: /etc/passwd is no namespace; give one, such as /proc/PID/ns/net or a bind of it"
    )
    assert refused(bench, image, 'share = ["net:/no/such"]\n').startswith("4: join the net namespace of /no/such: No such file or directory")
    assert refused(bench, image, 'share = ["user:/proc/self/ns/user"]\n') == (
        "1: clone PID 1 into new namespaces: pid mount uts ipc cgroup net: the user namespace can't be joined: "
        "it is ours already, or, of pid, not below our own: take it out of share"
    )


def test_a_bind_of_a_namespace_is_one(bench, image):
    place = bench.folder / "net"
    place.touch()
    subprocess.run(["unshare", f"--net={place}", "true"], check=True)
    try:
        start(bench, image, f'share = ["net:{place}"]\n')
        assert namespace("net", pid_of()) != namespace("net")
        assert sh("ip link show lo").split()[1] == "lo:"
        bench.close()
    finally:
        subprocess.run(["umount", place], check=True)
