"""`pyinit enter`: into real containers, whatever their PID 1 is doing."""

import os
import pathlib
import resource
import signal
import subprocess
import sys

import pytest
from conftest import REPO, leftovers, make_busybox, verb, wait_until
from seat import Seat, state
from test_container import config

pytestmark = pytest.mark.usefixtures("nothing_left")
HERE = ("-c", "pyinit-test")
MORE = """
hostname = "inside"
rlimits = { core = 0, nofile = 100 }
[container.security]
capabilities = ["CHOWN", "KILL", "SETUID", "SETGID"]
no_new_privileges = true
"""
KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts", "time")


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> pathlib.Path:
    folder = make_busybox(tmp_path_factory.mktemp("image") / "tree")
    for name in ("stty", "tty", "stat", "tr", "cut", "sort", "uniq", "printf"):
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "etc/secret").write_text("the image's\n")
    return folder


@pytest.fixture
def box(bench, image):
    box = bench.start(config(image, "exec sleep 1000", more=MORE))
    box.wait_for("pyinit: app: ready")
    yield box
    os.kill(pid1(), signal.SIGCONT)
    assert box.stop() == 0


def pid1() -> int:
    return int(pathlib.Path("/run/pyinit/pyinit-test/pid").read_text())


def enter(*words: str, **keys) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pyinit", "enter", *HERE, *words], cwd=REPO, capture_output=True, text=True, timeout=60, check=False, **keys)


def test_a_container_that_stands_still_is_entered(box):
    os.kill(pid1(), signal.SIGSTOP)
    with Seat("enter", *HERE, "--", "sh", "-c", "tty; stty size; hostname; id; pwd; cat /etc/secret; exit 7") as seat:
        assert seat.wait() == 7
        assert seat.shown.replace(b"\r\n", b"\n") == b"/dev/pts/0\n30 90\ninside\nuid=0(root) gid=0(root) groups=0(root)\n/\nthe image's\n"
        assert seat.is_as_before()
    done = enter("--", "sh", "-c", "kill -9 $$")
    assert (done.returncode, done.stdout, done.stderr) == (137, "", "")


def test_it_is_in_every_namespace_and_group_of_the_container(box):
    show = "for kind in " + " ".join(KINDS) + "; do readlink /proc/self/ns/$kind; done; cat /proc/self/cgroup"
    done = enter("--", "sh", "-c", show)
    found = done.stdout.splitlines()
    assert found[: len(KINDS)] == [os.readlink(f"/proc/{pid1()}/ns/{kind}") for kind in KINDS]
    with open(f"/proc/{pid1()}/cgroup") as file:
        rows = file.read().splitlines()
    assert found[len(KINDS) :] == ["0::/enter" if row.startswith("0:") else row for row in _as_seen(box, rows)]


def _as_seen(box, rows: list[str]) -> list[str]:
    """As its cgroup namespace shows them: what PID 1 stands in is the root of each hierarchy."""
    done = verb("exec", *HERE, "--", "cat", "/proc/1/cgroup")
    assert len(done.stdout.splitlines()) == len(rows)
    return done.stdout.splitlines()


def test_nothing_of_the_hosts_is_with_it(box, tmp_path):
    """Descriptors, variables, capabilities, limits, groups, the working directory, the umask, ignored signals, the keyring."""
    with open(tmp_path / "open", "w") as file:
        os.set_inheritable(file.fileno(), True)

        def ours() -> None:
            os.umask(0o777)
            os.setgroups([7, 8])
            resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)

        script = "for fd in /proc/$$/fd/*; do echo -n ${fd##*/}' '; done; echo; env | sort; umask; pwd; id -G; ulimit -n; ulimit -Hn; ulimit -s; cat /proc/self/status; cat /proc/keys"
        words = ("-e", "GIVEN=1", "--", "sh", "-c", script)
        done = enter(*words, pass_fds=(file.fileno(),), preexec_fn=ours, env={**os.environ, "HOSTS": "secret"})
    lines = done.stdout.splitlines()
    assert lines[0] == "0 1 2 3 "  # 3 is the folder
    end = lines.index("0022")
    assert lines[1:end] == [
        "GIVEN=1", "HOME=/root", "LOGNAME=root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PWD=/",
        "SHELL=/bin/sh", "SHLVL=1", "USER=root", "container=pyinit",
    ]  # fmt: skip
    assert lines[end + 1 : end + 6] == ["/", "0", "100", "100", "8192"]
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    mask = f"{1 << 0 | 1 << 5 | 1 << 6 | 1 << 7:016x}"
    assert {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "SigBlk", "Seccomp")} == {
        "CapInh": "0" * 16, "CapPrm": mask, "CapEff": mask, "CapBnd": mask, "CapAmb": "0" * 16, "NoNewPrivs": "1", "SigBlk": "0" * 16, "Seccomp": "2",
    }  # fmt: skip


def test_another_user_has_no_capability(box):
    done = enter("-u", "app", "-w", "/tmp", "--", "sh", "-c", "id -G; pwd; echo $HOME; grep CapEff /proc/self/status")
    assert (done.returncode, done.stdout) == (0, "1000 1001\n/tmp\n/\nCapEff:\t0000000000000000\n")
    done = enter("-u", "app:5", "--", "id", "-G")
    assert done.stdout == "5\n"


def test_without_a_command_it_is_the_images_shell(box):
    with Seat("enter", *HERE) as seat:
        seat.wait_for("# ")
        seat.type("echo $0 $((40+2)) $SHELL; sleep 778\r")
        seat.wait_for("42 /bin/sh")
        wait_until(lambda: state("sleep 778") == "S", "sleep")
        seat.type("\x1a")
        seat.wait_for("Stopped")
        seat.resize(11, 22)
        seat.type("stty size; exit 3\r")
        seat.wait_for("You have stopped jobs")
        seat.type("exit 3\r")
        assert seat.wait() == 3
        assert b"11 22" in seat.shown
        assert seat.is_as_before()


def test_its_end_hangs_the_command_up(box):
    for words, end in (((), signal.SIGTERM), ((), signal.SIGKILL), (("-T",), signal.SIGKILL), (("-T", "-u", "app"), signal.SIGKILL)):
        with Seat("enter", *HERE, *words, "--", "sh", "-c", "echo up; exec sleep 779") as seat:
            seat.wait_for("up")
            seat.signal(end)
            assert seat.process.wait(20) == (143 if end == signal.SIGTERM else -end)
        wait_until(lambda: not state("sleep 779"), "the command's end")


def test_it_ends_with_the_container(bench, image):
    box = bench.start(config(image, "exec sleep 1000"))
    box.wait_for("pyinit: app: ready")
    with Seat("enter", *HERE, "--", "sh", "-c", "echo up; exec sleep 1000") as seat:
        seat.wait_for("up")
        assert box.stop() == 0
        assert seat.wait() == 137
        assert seat.is_as_before()


def test_who_enters_is_executed_from_what_cant_be_written(box):
    """runc's CVE-2019-5736: the image has the program be what executes it, which is the host's."""
    with Seat("enter", *HERE, "--", "sh", "-c", "echo up; exec sleep 1000") as seat:
        seat.wait_for("up")
        fd = os.open(f"/proc/{seat.process.pid}/exe", os.O_PATH)
        assert os.fstatvfs(fd).f_flag & os.ST_RDONLY
        os.close(fd)
        seat.type("\x03")
        assert seat.wait() == 130


def test_a_hostile_image_is_just_an_image(bench, image, tmp_path):
    """Its names lead to the host's files, to fifos, to what executes us."""
    tree = tmp_path / "tree"
    subprocess.run(["cp", "-a", image, tree], check=True)
    (tree / "evil").symlink_to("/proc/self/exe")
    (tree / "script").write_text("#!/proc/self/exe -V\n")
    (tree / "script").chmod(0o755)
    box = bench.start(config(tree, "exec sleep 1000"))
    box.wait_for("pyinit: app: ready")
    for name in ("/evil", "/script"):
        done = enter("--", name, "-c", "print(open('/etc/shadow').read())")
        assert (done.returncode != 0, done.stdout) == (True, "")
    assert box.stop() == 0
    (tree / "etc/passwd").unlink()
    os.mkfifo(tree / "etc/passwd")
    box = bench.start(config(tree, "exec sleep 1000"))
    box.wait_for("pyinit: app: ready")
    done = enter("--", "sh", "-c", "echo $HOME")
    assert (done.returncode, done.stdout) == (0, "/root\n")
    assert box.stop() == 0


def test_wrong_words_and_what_cant_be_entered(box, bench, tmp_path):
    for words, code, text in (
        (("-u", "nobody", "--", "id"), 111, "enter: user nobody is not in /etc/passwd: add it to the image, or name another"),
        (("-u", "app:none", "--", "id"), 111, "enter: group none is not in /etc/group: add it to the image, or name another"),
        (("-w", "/none", "--", "id"), 111, "enter: working_directory failed before exec: No such file or directory"),
        (("--", "/none"), 127, "enter: cannot execute /none: No such file or directory; is it in the image?"),
        (("-t", "--", "/none"), 127, "enter: cannot execute /none: No such file or directory; is it in the image?"),
        (("--", "/etc/passwd"), 126, "enter: cannot execute /etc/passwd: Permission denied"),
        (("app", "--", "id"), 2, "enter app: expected a container by -c NAME, and a command behind --"),
        (("--socket", "/x", "--", "id"), 3, "/x: no container runs there; expected the control.sock of one"),
    ):
        done = enter(*words)
        assert (done.returncode, done.stdout, done.stderr) == (code, "", f"pyinit: {text}\n")
    path = pathlib.Path("/run/pyinit/pyinit-test/shell")
    kept = path.read_bytes()
    path.write_bytes(b"other")
    done = enter("--", "id")
    assert (done.returncode, done.stderr) == (1, "pyinit: pyinit-test was started by another pyinit, so what confines its processes is not known: enter it by that one\n")
    path.write_bytes(kept)
    supervisor = bench.start("[init]\n[services.a]\ncommand = ['sleep', '1000']\n", name="plain/services.toml", environment={"PYINIT_TEST": "1"})
    supervisor.wait_for("a: ready")
    name = next(one for one in os.listdir("/run/pyinit") if one.startswith("plain"))
    done = verb("enter", "-c", name, "--", "id")
    assert (done.returncode, done.stderr) == (1, f"pyinit: {name} is a supervisor and no container: `pyinit exec -c {name} -- COMMAND` runs a command in it\n")
    assert supervisor.stop() == 0


def test_a_number_that_is_another_processs_by_now_is_not_entered(box):
    path = pathlib.Path("/run/pyinit/pyinit-test/pid")
    kept = path.read_text()
    with subprocess.Popen(["unshare", "-pf", "--kill-child", "sleep", "1000"]) as other:
        path.write_text(f"{other.pid}\n")
        done = enter("--", "id")
        assert (done.returncode, done.stderr) == (1, f"pyinit: PID 1 of pyinit-test ({other.pid}) is gone; what is left of it ends by itself\n")
        other.kill()
    done = enter("--", "id")
    assert done.stderr == f"pyinit: PID 1 of pyinit-test ({other.pid}) is gone; what is left of it ends by itself\n"
    path.write_text(kept)
    assert enter("--", "true").returncode == 0


def test_an_init_of_the_image_is_entered(bench, image):
    text = f'[container]\nname = "pyinit-test"\nlayers = ["{image}"]\ninit = "/init"\n'
    init = image / "init"
    init.write_text("#!/bin/sh\ntrap 'exit 0' TERM\necho up\nwhile :; do sleep 0.1; done\n")
    init.chmod(0o755)
    box = bench.start(text)
    box.wait_for("up")
    done = enter("--", "sh", "-c", "cat /proc/1/comm; hostname")
    assert (done.returncode, done.stdout) == (0, "init\npyinit-test\n")
    assert box.stop() == 0


def test_twenty_at_once(box):
    words = [sys.executable, "-S", "-m", "pyinit", "enter", *HERE, "--", "sh", "-c"]
    running = [subprocess.Popen([*words, f"echo {n}; exit {n}"], cwd=REPO, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) for n in range(20)]
    for n, one in enumerate(running):
        assert (one.communicate(timeout=60)[0], one.returncode) == (b"%d\n" % n, n)
    assert leftovers()["cgroups"]
