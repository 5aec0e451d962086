"""`pyinit exec` in real containers, as a user before a terminal sees it."""

import contextlib
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys

import pytest
from conftest import DEADLINE_S, REPO, make_busybox, open_files, verb, wait_until
from seat import Seat, state
from test_container import config

from pyinit.control import wire

pytestmark = pytest.mark.usefixtures("nothing_left")
HERE = ("-c", "pyinit-test")
NAMES = ("stty", "tty", "stat", "grep", "cut", "tr", "head", "md5sum", "sort", "uniq", "tail", "umount")
SERVICE = '[services.web]\ncommand = ["/bin/sleep", "1000"]\nuser = "app"\nenvironment = { COLOUR = "red" }\nworking_directory = "/tmp"\n'
ID = "id -un; pwd; echo $COLOUR-$TERM-$container-$HOME; cut -d: -f3- /proc/self/cgroup | sort | uniq | tail -1"


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> pathlib.Path:
    folder = make_busybox(tmp_path_factory.mktemp("image") / "tree")
    for name in NAMES:
        if not (folder / "bin" / name).exists():
            (folder / "bin" / name).symlink_to("busybox")
    return folder


@pytest.fixture
def box(bench, image):
    box = bench.start(config(image, "exec sleep 1000", service=SERVICE))
    box.wait_for("pyinit: web: ready")
    yield box
    assert box.stop() == 0


def pid1() -> int:
    return int(pathlib.Path("/run/pyinit/pyinit-test/pid").read_text())


def count(name: str) -> int:
    """Processes of that name in the container."""
    mine = os.stat(f"/proc/{pid1()}/ns/pid").st_ino
    found = 0
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{entry}/ns/pid").st_ino == mine and pathlib.Path(f"/proc/{entry}/comm").read_text().strip() == name:
                found += 1
        except OSError:
            continue
    return found


def test_a_terminal_is_one_of_the_container_and_knows_its_size(box):
    with Seat("exec", *HERE, "--", "sh", "-c", "tty; stty size; tty <&2; stat -c %u:%a $(tty); cd /proc/$$/fd; echo *; exit 7") as seat:
        assert (seat.wait(), seat.shown) == (7, b"/dev/pts/0\r\n30 90\r\n/dev/pts/0\r\n0:620\r\n0 1 2 3\r\n")  # 3 is the folder
        assert seat.is_as_before()
    with Seat("exec", *HERE, "-T", "--", "sh", "-c", "tty; tty <&1") as seat:  # none, and nothing of the user's either
        assert (seat.wait(), seat.shown) == (1, b"not a tty\r\nnot a tty\r\n")


def test_without_a_service_it_is_the_containers_root_and_with_one_as_that(box):
    with Seat("exec", *HERE, "--", "sh", "-c", ID) as seat:
        assert (seat.wait(), seat.shown) == (0, b"root\r\n/\r\n-vt220-pyinit-/root\r\n/exec\r\n")
    with Seat("exec", *HERE, "web", "--", "sh", "-c", f"{ID}; stat -c %u $(tty); echo >$(tty)") as seat:
        assert (seat.wait(), seat.shown) == (0, b"app\r\n/tmp\r\nred-vt220-pyinit-/\r\n/svc-web\r\n1000\r\n\r\n")
    words = ("-u", "app", "-w", "/etc", "-e", "COLOUR=a=b", "-eTERM=x")
    done = verb("exec", *HERE, *words, "--", "sh", "-c", f"{ID}; id -G")
    assert (done.returncode, done.stdout, done.stderr) == (0, "app\n/etc\na=b-x-pyinit-/\n/exec\n1000 1001\n", "")
    done = verb("exec", *HERE, "-u", "1000:5", "web", "--", "id", "-G")
    assert (done.returncode, done.stdout) == (0, "5\n")


def test_it_is_held_by_the_containers_filter(box):
    done = verb("exec", *HERE, "--", "grep", "Seccomp:", "/proc/self/status")
    assert (done.returncode, done.stdout) == (0, "Seccomp:\t2\n")


def test_wrong_words_are_told(box):
    for words, code, text in (
        (("-u", "nobody", "--", "id"), 111, "exec: user nobody is not in /etc/passwd: add it to the image, or name another"),
        (("-u", "app:none", "--", "id"), 111, "exec: group none is not in /etc/group: add it to the image, or name another"),
        (("-w", "/none", "--", "id"), 111, "exec: working_directory failed before exec: No such file or directory"),
        (("--", "/none"), 127, "exec: cannot execute /none: No such file or directory; is it in the image?"),
        (("--", "/etc/passwd"), 126, "exec: cannot execute /etc/passwd: Permission denied"),
        (("-t", "--", "/none"), 127, "exec: cannot execute /none: No such file or directory; is it in the image?"),
        (("nobody", "--", "id"), 1, "nobody: no such service; there are: app, web"),
        (("web", "app", "--", "id"), 2, "exec: expected at most one service, and a command: `pyinit exec [SERVICE] -- COMMAND`"),
        (("web",), 2, "exec: expected at most one service, and a command: `pyinit exec [SERVICE] -- COMMAND`"),
        (("-e", "COLOUR", "--", "id"), 2, "exec: -e COLOUR: expected NAME=VALUE"),
        (("-tT", "--", "id"), 2, "-tT: there is no such option; did you mean -t?"),
        (("-t", "-T", "--", "id"), 2, "exec: expected one of -t and -T, found both"),
    ):
        done = verb("exec", *HERE, *words)
        assert (done.returncode, done.stdout, done.stderr) == (code, "", f"pyinit: {text}\n")


def test_a_shell_has_job_control(box):
    with Seat("exec", *HERE, "--", "sh", "-i") as seat:
        seat.wait_for("# ")
        seat.type("sleep 777; echo code=$?\r")
        wait_until(lambda: state("sleep 777") == "S", "sleep")
        seat.type("\x1a")
        seat.wait_for("code=1")  # 128 + TSTP
        seat.type("jobs\r")
        seat.wait_for("Stopped")
        seat.type("fg\r")
        wait_until(lambda: state("sleep 777") == "S", "sleep")
        seat.type("\x03")
        seat.wait_for("# ", count=4)
        seat.type("stty size; echo s-$((1+1))\r")
        seat.wait_for("s-2")
        assert b"30 90" in seat.shown
        seat.resize(41, 101)
        seat.type("stty size; echo s-$((2+2))\r")
        seat.wait_for("s-4")
        assert b"41 101" in seat.shown
        assert not seat.is_as_before()
        seat.type("exit 9\r")
        assert seat.wait() == 9
        assert seat.is_as_before()
        assert count("sleep") == 2


def test_a_resize_tells_the_foreground(box):
    with Seat("exec", *HERE, "--", "sh", "-c", 'trap "stty size; exit 4" WINCH; echo up; while :; do sleep 0.02; done') as seat:
        seat.wait_for("up")
        seat.resize(10, 20)
        assert (seat.wait(), seat.shown) == (4, b"up\r\n10 20\r\n")


def test_keys_signal_the_command_and_its_death_is_the_exit_code(box):
    for key, code in (("\x03", 130), ("\x1c", 131)):
        with Seat("exec", *HERE, "--", "sh", "-c", "echo up; exec sleep 776") as seat:
            seat.wait_for("up")
            wait_until(lambda: state("sleep 776") == "S", "sleep")  # busybox's shell ignores QUIT until it executes that
            seat.type(key)
            assert seat.wait() == code
            assert seat.is_as_before()
    with Seat("exec", *HERE, "--", "sh", "-c", "kill -9 $$") as seat:
        assert seat.wait() == 137


def test_a_signal_that_ends_us_gives_the_terminal_back_and_hangs_up(box):
    for number in (signal.SIGTERM, signal.SIGHUP):
        with Seat("exec", *HERE, "--", "sh", "-c", 'trap "echo bye >/run/bye; exit" HUP; echo up; while :; do sleep 0.02; done') as seat:
            seat.wait_for("up")
            assert not seat.is_as_before()
            seat.signal(number)
            assert seat.wait() == 128 + number
            assert seat.is_as_before()
            bye = pathlib.Path(f"/proc/{pid1()}/root/run/bye")
            wait_until(bye.exists, "the command's last word")
            bye.unlink()
            wait_until(lambda: count("sh") == 0, "the command's end")
    with Seat("exec", *HERE, "--", "sh", "-c", 'trap "echo usr1; exit 3" USR1; echo up; while :; do sleep 0.02; done') as seat:
        seat.wait_for("up")
        seat.signal(signal.SIGUSR1)
        assert seat.wait() == 3


def test_what_ignores_the_hangup_is_killed(box):
    with Seat("exec", *HERE, "--", "sh", "-c", 'trap "" HUP TERM; echo up; while :; do sleep 0.5; done') as seat:
        seat.wait_for("up")
        seat.process.kill()
        wait_until(lambda: count("sh") == 0, "the command's end")


def test_a_window_that_is_closed_ends_the_command(box):
    with Seat("exec", *HERE, "--", "sh", "-i") as seat:
        seat.wait_for("# ")
        seat.hang_up()
        wait_until(lambda: count("sh") == 0, "the shell's end")
        seat.process.wait(20)


def test_the_death_of_pid_1_gives_the_terminal_back(bench, image):
    box = bench.start(config(image, "exec sleep 1000", service=SERVICE))
    box.wait_for("pyinit: web: ready")
    with Seat("exec", *HERE, "--", "sh", "-c", "echo up; exec sleep 1000") as seat:
        seat.wait_for("up")
        os.kill(pid1(), signal.SIGKILL)
        assert seat.wait() == 1
        assert seat.is_as_before()
        assert seat.shown.endswith(b"pyinit: pyinit ended before it answered\r\n")
    assert box.wait() == 137


def test_a_mebibyte_is_whole(box):
    script = "dd if=/dev/zero bs=65536 count=16 2>/dev/null | tr '\\0' x"
    for words in (("exec", *HERE, "--", "sh", "-c", script), ("exec", *HERE, "-t", "web", "--", "sh", "-c", f"{script}; sleep 99 & echo -n END; exit 3")):
        with Seat(*words) as seat:
            code = seat.wait()
            assert (code, seat.shown.removesuffix(b"END")) == (3 if b"END" in seat.shown else 0, b"x" * (1 << 20))


def test_pid_1_carries_no_byte(box):
    """It stands still meanwhile."""
    with Seat("exec", *HERE, "--", "sh", "-c", "stty -echo; echo up; read x; dd if=/dev/zero bs=65536 count=16 2>/dev/null | tr '\\0' x; echo $x; exit 3") as seat:
        seat.wait_for("up")
        os.kill(pid1(), signal.SIGSTOP)
        seat.resize(5, 6)
        seat.type("typed\r")
        seat.wait_for("typed")
        os.kill(pid1(), signal.SIGCONT)
        assert (seat.wait(), seat.shown) == (3, b"up\r\n" + b"x" * (1 << 20) + b"typed\r\n")


def test_without_a_terminal_of_the_user_there_may_be_one_all_the_same(box):
    done = subprocess.run(
        [sys.executable, "-m", "pyinit", "exec", *HERE, "-t", "--", "sh", "-c", "tty; cat | md5sum; stty size"],
        cwd=REPO, input=b"hello", capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.replace(b"hello", b"", 1).splitlines() == [b"/dev/pts/0", b"5d41402abc4b2a76b9719d911017c592  -", b"24 80"]


def test_the_users_terminal_stays_outside(box):
    """Standard output is a file, so there is no terminal: what of ours is one is a pipe in there, and what is typed stays ours."""
    with Seat("exec", *HERE, "--", "sh", "-c", "tty; tty <&2; cat; echo err >&2; exit 5", stdout=subprocess.PIPE) as seat:
        assert (seat.process.stdout.read(), seat.wait(), seat.shown) == (b"not a tty\nnot a tty\n", 5, b"err\r\n")
    with Seat("exec", *HERE, "-i", "--", "cat", stdout=subprocess.PIPE) as seat:
        seat.type("hello\r\x04")
        assert (seat.process.stdout.read(), seat.wait()) == (b"hello\n", 0)


def test_a_hundred_at_once(box):
    words = [sys.executable, "-S", "-m", "pyinit", "exec", *HERE]
    limit = 50  # 64 clients are served
    for _ in range(2):
        running = [
            subprocess.Popen([*words, *(["-t"] if n % 2 else []), "--", "sh", "-c", f"echo {n}; exit {n}"], cwd=REPO, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            for n in range(limit)
        ]
        for n, one in enumerate(running):
            assert (one.communicate(timeout=60)[0].strip(), one.returncode) == (b"%d" % n, n)
    pid = pid1()
    fds = open_files(pid)
    assert verb("exec", *HERE, "-t", "--", "true").returncode == 0
    wait_until(lambda: len(open_files(pid)) <= len(fds), "what it had for that is closed")


FEW = 80
SOCKET = "/run/pyinit/pyinit-test/control.sock"


def sockets(pid: int) -> set[str]:
    return {name for name in open_files(pid) if name.startswith("socket:")}


@pytest.fixture
def few(bench, image):
    """One of few descriptors; from outside nobody could change that without CAP_SYS_RESOURCE."""
    few = bench.start(config(image, "exec sleep 1000"), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW)))
    few.wait_for("pyinit: app: ready")
    yield few
    assert few.stop() == 0


@pytest.mark.parametrize("left", [3, 4, 6, 8, 10, 14])
def test_pid_1_without_descriptors_says_so(few, left):
    """Others hold what it has: they follow its events."""
    pid = pid1()
    taken: set[str] = set()
    with contextlib.ExitStack() as stack:
        while len(open_files(pid)) < FEW - left:
            before = sockets(pid)
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.settimeout(DEADLINE_S)
            one.connect(SOCKET)
            one.sendall(wire.encode({"verb": "events", "follow": True}))
            assert one.recv(100) == b'{"ok":true}\n'
            taken |= sockets(pid) - before
        done = verb("exec", *HERE, "-t", "--", "true")
        if done.returncode != 0:
            assert (done.returncode, "Too many open files" in done.stderr) == (111, True), done
    wait_until(lambda: not taken & sockets(pid), "they are let go")
    assert verb("exec", *HERE, "-t", "--", "true").returncode == 0


def test_who_asks_for_nothing_takes_no_last_descriptor(few):
    with contextlib.ExitStack() as idle:
        for _ in range(FEW):
            idle.enter_context(socket.socket(socket.AF_UNIX)).connect(SOCKET)
        done = verb("exec", *HERE, "-t", "--", "true")
        assert (done.returncode, done.stderr) == (0, "")


def test_a_hostile_devpts_is_not_taken(bench, image, tmp_path):
    """Root of a container that may mount: links, files and another devpts where ours was."""
    more = '[container.security]\ncapabilities = ["SYS_ADMIN", "CHOWN", "DAC_OVERRIDE", "SETUID", "SETGID", "MKNOD", "KILL"]\n'
    box = bench.start(config(image, "exec sleep 1000", more=more))
    box.wait_for("pyinit: app: ready")
    other = "mount -t tmpfs none /tmp; mkdir /tmp/a; mount -t devpts -o newinstance,ptmxmode=666 none /tmp/a; mount --bind /tmp/a/ptmx /dev/pts/ptmx"
    for script, undo in (
        ("mount -t tmpfs none /dev/pts; ln -s /dev/zero /dev/pts/ptmx", "umount /dev/pts"),
        ("mount -t tmpfs none /dev/pts; mkdir /dev/pts/ptmx", "umount /dev/pts"),
        (other, "umount /dev/pts/ptmx; umount /tmp/a; umount /tmp"),
        ("mount --bind /dev/zero /dev/pts/ptmx", "umount /dev/pts/ptmx"),
        ("mount -t tmpfs none /dev", "umount /dev"),
    ):
        assert verb("exec", *HERE, "--", "sh", "-c", script).returncode == 0
        with Seat("exec", *HERE, "--", "sh", "-c", "tty; exec stty size") as seat:  # the user's own spare
            assert (seat.wait(), seat.shown.splitlines()[-1]) == (0, b"30 90"), script
            assert seat.is_as_before()
        assert verb("exec", *HERE, "--", "sh", "-c", undo).returncode == 0
    assert box.stop() == 0


def test_a_plain_supervisor_has_terminals_of_the_host(bench, tmp_path):
    init = f'[init]\nstate_dir = "{tmp_path}/state"\nlog_dir = "{tmp_path}/log"\ncontrol_socket = "{tmp_path}/s"\n'
    box = bench.start(f'{init}[services.app]\ncommand = ["sleep", "1000"]\nuser = "nobody"\n')
    box.wait_for("app: ready")
    for names, user in (((), b"root"), (("app",), b"nobody")):
        with Seat("exec", "--socket", f"{tmp_path}/s", *names, "--", "sh", "-c", "id -un; stty size; test -O $(tty) && echo mine; exit 3") as seat:
            assert (seat.wait(), seat.shown.split()) == (3, [user, b"30", b"90", b"mine"])
            assert seat.is_as_before()
    assert box.stop() == 0
