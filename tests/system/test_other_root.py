"""A container that stands in the root of another: what they have in common, what is each one's own, and how either ends."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
from conftest import leftovers, open_files, verb, wait_until
from test_hardening import ATTACK, mounted
from test_namespaces import MAP, WAIT, namespace, pid_of, sh, status

pytestmark = pytest.mark.usefixtures("nothing_left")

BOTH = 'share = ["mount:db", "pid:db"]\n'
OVER = "the pid namespace of container db has ended, and this container, which is in it by share, with it"


def start(bench, keys: str, more: str = WAIT, name: str = "side", **options):
    box = launch(bench, keys, more, name, **options)
    box.wait_for("app: ready")
    return box


def launch(bench, keys: str, more: str = WAIT, name: str = "side", **options):
    return bench.start(f'[container]\nname = "{name}"\n{keys}{more}', name=f"{name}.toml", **options)


@pytest.fixture
def db(bench, busybox):
    return start(bench, f'layers = ["{busybox}"]\nhostname = "of-db"\n', name="db")


def refused(bench, keys: str, more: str = WAIT, **options) -> str:
    """The one line, without the file's name."""
    box = launch(bench, keys, more, **options)
    assert box.wait() == 111, box.output
    assert box.output.count("\n") == 1, box.output
    return box.output.removeprefix(f"pyinit: {bench.folder}/side.toml:").rstrip("\n")


def root_of(name: str) -> pathlib.Path:
    return pathlib.Path(f"/proc/{pid_of(name)}/root")


def files_of(name: str) -> list[str]:
    root = root_of(name)
    return sorted(os.path.join(place, one) for top in ("run", "tmp", "dev", "etc") for place, folders, files in os.walk(root / top) for one in (*folders, *files))


def mounts_of(name: str) -> list[str]:
    return pathlib.Path(f"/proc/{pid_of(name)}/mountinfo").read_text().splitlines()


LOGS = """
[services.app]
command = ["/bin/sh", "-c", "echo said; exec sleep 1000"]
[services.notified]
user = "app"
command = ["/bin/sh", "-c", "[ -S $NOTIFY_SOCKET ] && echo at $NOTIFY_SOCKET; sleep 1000"]
watchdog = "1h"
log = { to = "stdout", timestamp = "none" }
"""


def test_what_they_have_in_common_and_what_is_its_own(bench, db):
    files, mounts = files_of("db"), mounts_of("db")
    more = f"cgroup = {{ pids_max = 20 }}\nsysctl = {{ 'net.ipv4.ip_unprivileged_port_start' = 79 }}\n{LOGS}"
    side = start(bench, BOTH + 'hostname = "of-side"\n', more)
    side.wait_for("notified: at /run/pyinit-side/notify/notified")
    own, other = pid_of("side"), pid_of("db")
    assert {kind: namespace(kind, own) == namespace(kind, other) for kind in ("mnt", "pid", "uts", "ipc", "net", "cgroup", "user")} == {
        "mnt": True, "pid": True, "uts": False, "ipc": False, "net": False, "cgroup": False, "user": True,
    }  # fmt: skip
    assert sh("echo by db > /tmp/one; hostname", "db") == "of-db\n"
    assert sh("cat /tmp/one; echo by side > /tmp/two; hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "side") == "by db\nof-side\n79\n"
    assert sh("cat /tmp/two; rm /tmp/one /tmp/two; cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "db") == "by side\n1024\n"
    assert "pids.max" in subprocess.run(["grep", "-rl", "^20$", *map(str, pathlib.Path("/sys/fs/cgroup").glob("*/pyinit-side/pids.max"))], capture_output=True, text=True, check=False).stdout
    # Each one's socket, state and log; by its name from the host.
    for name, folder in (("db", "run/pyinit"), ("side", "run/pyinit-side")):
        inside = verb("status", "--socket", str(root_of(name) / folder / "control.sock"))
        assert inside.returncode == 0
        assert [line.split()[0] for line in inside.stdout.splitlines()] == [line.split()[0] for line in verb("status", "-c", name).stdout.splitlines()]
        assert ("notified" in inside.stdout) == (name == "side")
    wait_until(lambda: verb("logs", "-c", "side", "app").stdout.endswith(" said\n"), "the log")
    assert sh("ls /run/pyinit-side/log/app", "db") == "current\n"
    done = verb("enter", "-c", "side", "--", "/bin/sh", "-c", "hostname; cat /proc/self/status")
    assert (done.stdout.splitlines()[0], done.returncode) == ("of-side", 0)
    assert mounts_of("db") == mounts
    # Its end is the other's business in nothing.
    (bench.folder / "side.toml").write_text((bench.folder / "side.toml").read_text().replace("echo said", "echo said again"))
    assert verb("reload", "-c", "side").stdout.count("app") == 1
    assert side.stop() == 0
    assert (files_of("db"), mounts_of("db")) == (files, mounts)
    assert verb("status", "-c", "db").returncode == 0
    assert db.stop() == 0


def test_by_the_pid_and_by_the_path(bench, db):
    pid = pid_of("db")
    for share in ([f"mount:{pid}", f"pid:{pid}"], [f"mount:/proc/{pid}/ns/mnt", f"pid:/proc/{pid}/ns/pid"]):
        side = start(bench, f"share = {share}\n")
        assert [namespace(kind, pid_of("side")) for kind in ("mnt", "pid")] == [namespace(kind, pid) for kind in ("mnt", "pid")]
        assert sh("echo $$ > /tmp/x", "side") == ""
        assert side.stop() == 0
    assert sh("ls /run/", "db").split() == ["pyinit"]


def test_another_network_and_all_that_can_be_shared(bench, db):
    share = ", ".join(f'"{kind}:db"' for kind in ("mount", "pid", "uts", "ipc", "net", "cgroup"))
    side = start(bench, f"share = [{share}]\n")
    assert mounts_of("side") == mounts_of("db")
    assert sh("hostname", "side") == "of-db\n"
    assert side.stop() == 0
    side = start(bench, BOTH, f'network = {{ mode = "host" }}\n{WAIT}')
    assert namespace("net", pid_of("side")) == namespace("net")
    assert side.stop() == 0
    side = launch(bench, f'{BOTH}init = "/bin/hostname"\n', "")
    assert (side.wait(), side.output) == (0, "side\n")


def test_the_other_ends_first(bench, db):
    """In order; by a kill of its monitor; in a hurry, when it kills all in its pid namespace before it ends itself."""
    side = start(bench, BOTH)
    assert db.stop() == 0
    assert side.wait() == 137
    assert side.output.splitlines()[-1] == f"pyinit: {bench.folder}/side.toml:3: {OVER}"
    stubborn = '[init]\nstop_timeout = "1200ms"\n[services.app]\ncommand = ["/bin/sh", "-c", "trap : TERM; while :; do sleep 0.05; done"]\n'
    for more, end in ((WAIT, lambda box: box.process.kill()), (stubborn, lambda box: box.process.terminate())):
        db = start(bench, db.config.read_text().split("\n")[2] + "\n", more, "db")
        side = start(bench, BOTH)
        end(db)
        assert side.wait() == 137
        assert side.output.splitlines()[-1] == f"pyinit: {bench.folder}/side.toml:3: {OVER}"
        db.wait()
    db = start(bench, db.config.read_text().split("\n")[2] + "\n", WAIT, "db")  # undoes what the killed one left
    assert db.stop() == 0


def test_it_is_killed(bench, db):
    """Its PID 1; its monitor, whose next start undoes all."""
    files = files_of("db")
    side = start(bench, BOTH, LOGS)
    os.kill(pid_of("side"), signal.SIGKILL)
    assert side.wait() == 137
    assert OVER not in side.output
    assert (files_of("db"), "sleep" in sh("ps -o args | grep 'slee[p] 1000' | wc -l", "db")) == (files, False)
    side = start(bench, BOTH, LOGS)
    side.process.kill()
    side.wait()
    side = start(bench, BOTH)
    assert sh("ls /run/pyinit-side/", "db").split() == ["control.sock"]
    assert side.stop() == 0
    assert files_of("db") == files


def test_what_is_in_the_way_of_its_end_is_no_way_out(bench, db, tmp_path):
    """A link in the place of its folder is removed, and what that leads to is not."""
    side = start(bench, BOTH)
    sh("mkdir=/bin/busybox; $mkdir mkdir /tmp/kept; touch /tmp/kept/file; $mkdir mv /run/pyinit-side /tmp/moved; $mkdir ln -s /tmp/kept /run/pyinit-side", "db")
    assert side.stop() == 0
    assert sh("ls /run /tmp/kept", "db") == "/run:\npyinit\n\n/tmp/kept:\nfile\n"


def test_neither_ones_own_processes_are_open_to_the_others_services(bench, busybox):
    start(bench, f'layers = ["{busybox}"]\n', mounted(ATTACK) + WAIT, "db")
    start(bench, BOTH)
    for name in ("db", "side"):
        wait_until(lambda: sh("cat /proc/[0-9]*/comm | grep pyinit", name).split().count("pyinit-logger") == 2, "two loggers")  # noqa: B023 - it is called here
        assert sorted(sh(". /attack/run 2> /dev/null; echo end", name).split()) == ["end", "pyinit", "pyinit", "pyinit-logger", "pyinit-logger"]
    own, other = pid_of("side"), pid_of("db")
    assert [os.readlink(f"/proc/{own}/{link}") for link in ("cwd", "root")] == ["/", "/"]
    assert {os.stat(f"/proc/{own}/{link}").st_dev for link in ("cwd", "root")} == {os.stat(f"/proc/{other}/root").st_dev}
    assert [path for path in open_files(own) if path.startswith(str(bench.folder)) or "mnt:" in path] == []


# A user namespace


def test_in_a_user_namespace_which_has_to_be_shared_too(bench, busybox):
    start(bench, f'layers = ["{busybox}"]\n{MAP}', name="db")
    side = start(bench, 'share = ["mount:db", "pid:db", "user:db"]\n')
    assert status(pid_of("side"), "Uid") == ["200000"] * 4
    assert sh("id -u; ls -ln /run/pyinit-side/ | awk '{ print $3 }'", "side").split() == ["0", "0"]
    assert verb("enter", "-c", "side", "--", "/bin/id", "-u").stdout == "0\n"
    assert side.stop() == 0
    assert sh("ls /run", "db") == "pyinit\n"
    whose = "that root belongs to a user namespace of its own, and so must who stands in it"
    assert refused(bench, BOTH) == f'3: join the mount namespace of container db, and stand in its root: {whose}: add "user:db" to share'
    pid = pid_of("db")
    assert refused(bench, f'share = ["mount:/proc/{pid}/ns/mnt", "pid:db"]\n') == (
        f"3: join the mount namespace of /proc/{pid}/ns/mnt, and stand in its root: {whose}: add the user namespace of the same one to share"
    )


def test_from_a_user_namespace_that_it_does_not_belong_to(bench, db):
    """As its root, with its own /run, and as one who may not look; of a root of the host's."""
    pid = pid_of("db")
    made = subprocess.Popen(("unshare", "--user", "--map-root-user", "sh", "-c", "echo up; exec sleep 1000"), stdout=subprocess.PIPE, text=True)
    with made as other:
        try:
            assert other.stdout.readline() == "up\n"
            assert refused(bench, f'share = ["mount:db", "pid:db", "user:{other.pid}"]\n') == (
                "3: join the mount namespace of container db, and stand in its root: that root belongs to another user namespace than the one in share; "
                "share that of the same one, or take user out if it has none"
            )
        finally:
            other.kill()
    share = f'share = ["mount:/proc/{pid}/ns/mnt", "pid:/proc/self/ns/pid"]\n'
    command = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs run /run; exec "$@"', "sh", sys.executable, "-m", "pyinit")
    assert refused(bench, share, command=command) == (
        "3: container.share: a container of root of a user namespace has a user namespace of its own, from which nobody else's namespaces can be joined; "
        "make both services of one container, or run both outside of that"
    )
    assert refused(bench, share, command=("setpriv", "--bounding-set=-sys_ptrace", sys.executable, "-m", "pyinit")) == (
        f"3: join the mount namespace of /proc/{pid}/ns/mnt, and stand in its root: Permission denied"
    )


# What is refused at the launch


def test_the_other_must_run(bench):
    assert refused(bench, BOTH) == "3: join the pid namespace of container db: container db does not run; start it first"
    assert refused(bench, f'share = ["mount:db", "pid:{os.getpid()}"]\n') == (
        "3: join the mount namespace of container db, and stand in its root: container db does not run; start it first"
    )


def test_a_pid_namespace_that_is_not_the_roots(bench, db, busybox):
    start(bench, f'layers = ["{busybox}"]\n', name="other")
    files, before = files_of("db"), leftovers()
    assert refused(bench, f'share = ["mount:db", "pid:{pid_of("other")}"]\n') == (
        "3: join the mount namespace of container db, and stand in its root: /proc there is not that of the pid namespace in share: "
        "share the pid namespace of the same one"
    )
    assert (files_of("db"), leftovers()) == (files, before)


def test_what_is_no_mount_namespace_or_our_own(bench):
    assert refused(bench, f'share = ["mount:/proc/self/ns/uts", "pid:{os.getpid()}"]\n') == (
        "3: join the mount namespace of /proc/self/ns/uts, and stand in its root: /proc/self/ns/uts is a uts namespace; "
        "give a mount one, or write uts:/proc/self/ns/uts"
    )
    assert refused(bench, f'share = ["mount:{os.getpid()}", "pid:{os.getpid()}"]\n') == (
        f"3: join the mount namespace of pid {os.getpid()}, and stand in its root: it is ours already, this host's own; "
        "take [container] out for services that are to stand in that root"
    )

