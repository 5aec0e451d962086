"""An image that wants to be run by PID 1, or to be taken for another: what of it is opened, by whom, and what is said of a bad one.

Launcher, builder and PID 1 tell themselves what they open, by audit hooks in a copy of the package; what the C library
would open besides is seen by inotify on the image's files, as they lie on the host up to the pivot, and as the container has
them from then on. tests/system/test_hostile.py asks the kernel, by strace.
"""

import contextlib
import ctypes
import fcntl
import os
import pathlib
import random
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import time

import pytest
from conftest import REPO, make_busybox, squash, wait_until
from harness import Defence, Mutant, Row, expected, inside_pid, names
from payload import LIBC

pytestmark = pytest.mark.usefixtures("nothing_left")

NAME = "attack"
CONTAINER = '[container]\nname = "attack"\nlayers = ["{layer}"]\n'
HAPPENED = ("the logger died and is started again", "RuntimeError: a fault of ours at host.py")
NO_DESCRIPTORS_S, A_MOMENT_S = 0.5, 0.05  # for as long as a life's next requests take, and not even up to the next one
MOST_TOLD = 1 << 20  # bytes that wait in the pipe of what is said, while nobody reads it: none is dropped
NO_DESCRIPTOR = "by: can't be paused: Too many open files"
ASKING_S = 5.0
NOTHING = "nothing but passwd and group"
IN_OPEN = 0x20
# Of the kernel's, of the copies that PID 1 runs from, of our own making, and the two files that are read by our own reader.
ALLOWED = re.compile(
    r"/proc/(self|\d+)/(?!root|cwd|exe).*|/proc/?|/dev/null|/etc/(passwd|group)|/run/pyinit(/.*)?|/var/log/pyinit(/.*)?|(cgroup|memory|pids|tasks|freezer|cpu\w*|io|blkio)\.\S+|svc-\S+|current|\.|/"
)
# Where Python and the C library look.
TRAPS = (
    "etc/nsswitch.conf", "etc/ld.so.cache", "etc/ld.so.preload", "etc/localtime", "etc/resolv.conf", "etc/host.conf", "etc/hosts", "etc/services",
    *(f"usr/lib/python3.11/{name}.py" for name in ("os", "traceback", "linecache", "json/__init__", "json/decoder", "encodings/__init__", "encodings/idna", "re/__init__", "gzip", "difflib", "glob")),
    "usr/lib/python3.11/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so", "usr/lib/python3/dist-packages/pyinit.py", "sitecustomize.py", "json.py", "pyinit.py",
    "usr/lib/x86_64-linux-gnu/gconv/gconv-modules", "usr/lib/locale/locale-archive", "usr/share/zoneinfo/UTC",
    *(f"lib/x86_64-linux-gnu/{name}" for name in ("libnss_files.so.2", "libnss_evil.so.2", "libgcc_s.so.1", "libz.so.1", "libc.so.6")),
    "lib64/ld-linux-x86-64.so.2",
)  # fmt: skip
PROBE = 'raise ImportError("code of the image ran")\n'
# On the host: the image's folder, and what is mounted of it. Names without a folder are those of the builder's own staging, where it makes things.
IN_IMAGE = re.compile(r"/run/pyinit/attack/(root|view|\d+)/.+")
OF_BUILDER = re.compile(r"\.|0|view|root|generated/.*|ptmx|ns|(cgroup|memory|pids|cpu\w*|io|freezer|devices|tasks)(\.\S+)?")

EVENTS = ("open", "import", "ctypes.dlopen", "os.listdir", "os.scandir", "os.chdir", "os.exec", "os.posix_spawn")
# What the audited copy has besides: a hook at the launcher's first line, which its forks have, too, one at PID 1's, a fault of ours in a request, and one that leaves no descriptor for a while.
HOST_HOOK = f'''
import posix

posix_told = posix.open(TOLD, posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC, 0o600)
posix_root = posix.stat("/")[1:3]


def posix_tell(event, arguments):
    if event in {EVENTS}:
        where = "host" if posix.stat("/")[1:3] == posix_root else "image"
        posix.write(posix_told, f"{{where}} {{event}} {{arguments[0]!r}}\\n".encode("utf-8", "replace"))


sys.addaudithook(posix_tell)
'''
HOOK = f'''
    def tell(event, arguments):
        if event in {EVENTS} or event.startswith("socket.get"):
            posix.write(2, f"AUDIT {{event}} {{arguments[0]!r}}\\n".encode("utf-8", "replace"))

    sys.addaudithook(tell)
    bundle.load("inside")
'''
FAULT = '        raise RuntimeError("a fault of ours")\n'
SHORT = '''
        import resource, time
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        self._init.loop.call_at(time.monotonic() + FOR_S, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits))
        pauses = self._init.pauses
'''
INSTRUMENTS = (
    Mutant("bundle.py", '\n    bundle.load("inside")\n', HOOK),
    Mutant("init/host.py", "        view, spec = self.view(name), self._init.supervisor.spec(name)\n", FAULT),
    Mutant("init/host.py", "        pauses = self._init.pauses\n", SHORT),
)
SERVICES = """
[services.by]
command = ["/bin/sh", "-c", "while :; do sleep 0.1; done"]
user = "app"
[services.stranger]
command = ["/bin/true"]
user = "nobody-of-this-image"
restart_delay = { first = "10s" }
[services.missing]
command = ["/bin/not-there"]
restart_delay = { first = "10s" }
[services.quick]
command = ["/bin/sh", "-c", "sleep 0.1"]
user = "app"
restart_delay = { first = "50ms", initial = "50ms", max = "100ms" }
[services.timed]
schedule = "* * * * *"
command = ["/bin/true"]
"""


def hostile(folder: pathlib.Path, package: pathlib.Path) -> pathlib.Path:
    """Where a library or Python would look, and at the very paths of the host's own sources, each a file that says who ran it."""
    tree = make_busybox(folder)
    sources = [str(path).lstrip("/") for path in (package / "pyinit").rglob("*.py")]
    for name in (*TRAPS, *sources):
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PROBE)
    (tree / "etc/nsswitch.conf").write_text("passwd: evil files\ngroup: evil files\nhosts: evil\n")
    return tree


class Watch:
    """Who opens one of the traps as PID 1's container has them is noticed, whoever it is."""

    def __init__(self, root: pathlib.Path, tree: pathlib.Path) -> None:
        self._fd = LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._names: dict[int, str] = {}
        self._found: set[str] = set()
        for path in (path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()):
            name = str(path.relative_to(tree))
            if name.startswith("bin/") or name in ("etc/passwd", "etc/group") or (root / name).is_char_device():  # that is none of the image's
                continue
            number = LIBC.inotify_add_watch(self._fd, os.fsencode(root / name), ctypes.c_uint32(IN_OPEN))
            if number >= 0:  # else a mount of ours lies over it
                self._names[number] = f"/{name}"

    def look(self) -> set[str]:
        """What has been up to now."""
        while select.select([self._fd], [], [], 0)[0]:
            data = os.read(self._fd, 65536)
            while data:
                number, _, _, length = struct.unpack_from("iIII", data)
                self._found.add(self._names[number])
                data = data[16 + length :]
        return self._found

    def opened(self) -> set[str]:
        """In all; it watches no longer."""
        found = self.look()
        os.close(self._fd)
        return found


def haunted(stage) -> str:
    """A life of a container whose image is hostile: what of the image our own processes opened."""
    box, package, watch, pid, of_host = _born(stage)
    _perhaps(box, "quick: ready")
    _perhaps(box, "by: ready")
    had_none_left = _live(box, pid, watch)
    opened = watch.opened()
    assert box.stop(signal.SIGTERM) is not None
    _, pivoted, told = box.output.partition("AUDIT os.chdir '/'\n")
    assert pivoted, box.output
    found = _words(opened | _asked_for(told), of_host, package)
    if found == NOTHING:  # then all of that life has been
        assert had_none_left
        assert [text for text in HAPPENED if text not in box.output] == [], box.output
    return found


def moments(stage) -> str:
    """The same in three moments by themselves, in which what is missing would have to be fetched."""
    box, package, watch, pid, of_host = _born(stage, A_MOMENT_S)
    box.wait_for("by: ready")
    _ask("status")  # which brings what a first request brings
    _catch_up(box)
    found, seen, at = [], set(watch.look()), len(box.output)
    for when, provoke, sign in (
        ("in want of a descriptor", lambda: _ask("pause", "by"), NO_DESCRIPTOR),
        ("at a fault in a callback", lambda: _ask("hup", "by"), HAPPENED[1]),
        ("at the logger's death", lambda: kill_logger(pid), HAPPENED[0]),
    ):
        said = provoke()
        if sign not in (said or ""):
            box.wait_for(sign)
        _ask("status")  # whatever it was at is done then
        _catch_up(box)
        opened = (watch.look() - seen) | _asked_for(box.output[at:])
        found += [f"{_words(opened, set(), package)} {when}"] if opened else []
        seen, at = seen | opened, len(box.output)
    watch.opened()
    box.stop()
    assert not of_host, of_host
    return "; ".join(found) or NOTHING


def _catch_up(box) -> None:
    """With what has been said up to now."""
    while box.read(0):
        pass


def _asked_for(told: str) -> set[str]:
    """What PID 1 says that it opens, and may not."""
    paths = re.findall(r"^AUDIT (?:open|ctypes\.dlopen|os\.listdir|os\.scandir) b?'(.*)'$", told, re.MULTILINE)
    return {path for path in paths if not ALLOWED.fullmatch(path)} | set(re.findall(r"^AUDIT (socket\.get\w+) ", told, re.MULTILINE))


def begun(stage) -> str:
    """The same up to where PID 1 stands in its root: by launcher and builder."""
    box, package, watch, _, of_host = _born(stage)
    _perhaps(box, "by: ready")
    watch.opened()
    box.stop(signal.SIGTERM)
    return _words(set(), of_host, package)


def _words(opened: set[str], of_host: set[str], package: pathlib.Path) -> str:
    short = sorted({_short(path, package) for path in opened} | {f"{_short(path, package)} on the host" for path in of_host})
    return f"opened: {' '.join(short)}" if short else NOTHING


def _born(stage, no_descriptors_s: float = NO_DESCRIPTORS_S):
    """(the container, which goes on; the copy; who watches the image in there; PID 1's number; what was opened up to there)."""
    package = stage.folder / "audited"
    shutil.copytree(stage.package / "pyinit", package / "pyinit")
    for mutant in INSTRUMENTS:
        path = package / "pyinit" / mutant.file
        text = path.read_text()
        assert text.count(mutant.old) >= 1, mutant
        path.write_text(text.replace(mutant.old, mutant.new.replace("FOR_S", str(no_descriptors_s))))
    started = package / "pyinit/__main__.py"
    head, begun, rest = started.read_text().partition("import os\nimport sys\n")
    assert begun
    started.write_text(head + begun + HOST_HOOK.replace("TOLD", repr(f"{stage.folder}/host")) + rest)
    tree = hostile(stage.folder / "tree", package)
    before = Watch(tree, tree)
    told, go = stage.folder / "told", stage.folder / "go"
    hook = f"echo $PYINIT_PID > {told}.new; mv {told}.new {told}; while [ ! -e {go} ]; do sleep 0.02; done"
    box = stage.start(CONTAINER.format(layer=tree) + f'[container.hooks]\nprestart = ["/bin/sh", "-c", "{hook}"]\n' + SERVICES, cwd=package)
    fcntl.fcntl(box.process.stdout, fcntl.F_SETPIPE_SZ, MOST_TOLD)
    wait_until(told.exists, "the hook, when PID 1 stands in its root and nothing runs there yet")
    pid = int(told.read_text())
    watch = Watch(pathlib.Path(f"/proc/{pid}/root"), tree)
    of_host = before.opened() | _of_image((stage.folder / "host").read_text(), tree)
    go.touch()
    return box, package, watch, pid, of_host


def _of_image(told: str, tree: pathlib.Path) -> set[str]:
    """What launcher and builder opened, imported and executed of it."""
    found = set()
    rows = re.findall(r"^(host|image) (\S+) b?'(.*)'$", told, re.MULTILINE)
    assert {"open", "import", "os.chdir"} <= {event for _, event, _ in rows}, told
    for root, event, path in rows:
        if event == "import":  # a name; its file is opened
            continue
        is_inside = path.startswith(f"{tree}/") or IN_IMAGE.fullmatch(path) or not (path.startswith("/") or OF_BUILDER.fullmatch(path))
        found |= {path} if root == "image" or is_inside else set()
    return found


def _short(path: str, package: pathlib.Path) -> str:
    if path.startswith("/usr/lib/python3.11") or "/tree/usr/lib/python3.11" in path:
        return "/usr/lib/python3.11"
    return "what lies at the paths of our sources" if path.startswith(str(package)) else path


def _live(box, pid: int, watch: Watch) -> bool:
    """Users, late imports, faults, execs, no descriptor left, another logger. What is asked may fail: what it makes PID 1 open counts.

    Whether there was no descriptor left at some time. It ends once the image has been opened and PID 1 sleeps: no more is to be seen.
    """
    asked = (("status", "--json"), ("logs", "-n", "3", "quick"), ("events", "--json"), ("ps",), ("stats",), ("exec", "by", "--", "/bin/true"), ("exec", "by", "--", "/no/such"), ("reload",))
    for words in asked:
        _ask(*words, watch=watch)
        if watch.look():
            wait_until(lambda: _sleeps(pid), "PID 1 has done what it was at")
            return False
    kill_logger(pid)
    _perhaps(box, HAPPENED[0])
    _ask("hup", "by", watch=watch)
    if watch.look():
        wait_until(lambda: _sleeps(pid), "PID 1 has done what it was at")
        return False
    _perhaps(box, HAPPENED[1])
    short = _ask("pause", "by")
    _ask("restart", "--no-wait", "quick")
    _ask("status")
    return NO_DESCRIPTOR in short


def kill_logger(pid: int) -> None:
    """Of that PID 1."""
    children = [int(one) for one in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    for child in children:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a service's process, which lives for a moment
            if pathlib.Path(f"/proc/{child}/comm").read_text() == "pyinit-logger\n":
                os.kill(child, signal.SIGKILL)


def _sleeps(pid: int) -> bool:
    """As it does between two turns of its loop, and not while it imports."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def _ask(verb: str, *words: str, watch: Watch | None = None) -> str:
    """Of the host's own pyinit; an answer may never come, and is not waited for once the image has been opened. What it complains of."""
    deadline = time.monotonic() + ASKING_S
    with subprocess.Popen([sys.executable, "-m", "pyinit", verb, "-c", NAME, *words], cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as asked:
        while asked.poll() is None and time.monotonic() < deadline and not (watch is not None and watch.look()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                asked.wait(0.02)
        asked.kill()
        return asked.stderr.read()


def _perhaps(box, text: str) -> None:
    with contextlib.suppress(AssertionError):
        box.wait_for(text, timeout_s=ASKING_S)


def fifos(stage) -> str:
    """passwd, group, hosts and what Python looks for are pipes, on which whoever opens them waits."""
    tree = make_busybox(stage.folder / "tree")
    for name in ("etc/passwd", "etc/group", *TRAPS):
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    box = stage.start(CONTAINER.format(layer=tree) + '[services.by]\ncommand = ["/bin/sleep", "1000"]\n[services.other]\ncommand = ["/bin/true"]\nuser = "app"\nrestart_delay = { first = "10s" }\n')
    place = pathlib.Path(f"/run/pyinit/{NAME}/pid")

    def is_decided() -> bool:
        box.read(0.02)
        return has_looked() or (place.exists() and bool(place.read_text()) and waits_in_open(inside_pid(NAME)))

    def has_looked() -> bool:
        return "by: ready" in box.output and "user app is not in /etc/passwd" in box.output

    wait_until(is_decided, "users are looked up, or waited for")
    if has_looked():
        return f"exit {box.stop()}"
    os.kill(inside_pid(NAME), signal.SIGKILL)
    box.wait()
    return "PID 1 waits"


def waits_in_open(pid: int) -> bool:
    """Of a pipe's other end: proc_pid_syscall(5), proc_pid_stat(5)."""
    with contextlib.suppress(OSError):
        place = pathlib.Path(f"/proc/{pid}")
        number = {"x86_64": "257", "aarch64": "56"}[os.uname().machine]  # openat(2)
        return (place / "syscall").read_text().split()[0] == number and (place / "stat").read_text().rpartition(")")[2].split()[0] == "S"
    return False


def _start_of(stage, image: pathlib.Path) -> str:
    """What is said of it, without its path, or what it is."""
    box = stage.start(CONTAINER.format(layer=image) + '[init]\nexit = "when-all-exited"\n[services.app]\nkind = "oneshot"\ncommand = ["/bin/true"]\n')
    code = box.wait()
    told = box.output.partition(f"{image} ")[2].strip() or box.output.partition(f"{image}")[2].strip(": \n")
    return f"exit {code}: {told.partition(';')[0].partition(':')[0] if code == 100 else 'refused by the kernel'}" if code else "a container"


def good_image(stage) -> bytes:
    folder = stage.once("squashfs", lambda folder: squash(make_busybox(folder / "tree"), folder / "image.squashfs"))
    return (folder / "image.squashfs").read_bytes()


def truncated(stage) -> str:
    image = stage.folder / "image.squashfs"
    image.write_bytes(good_image(stage)[:5000])
    return _start_of(stage, image)


def other_compressor(stage) -> str:
    content = bytearray(good_image(stage))
    content[20] = 2  # lzma, which Linux does not read
    image = stage.folder / "image.squashfs"
    image.write_bytes(content)
    return _start_of(stage, image)


FUZZED = 6
SUPERBLOCK, TABLES = 96, 4096  # bytes of its beginning and end


def fuzzed(stage) -> str:
    """Wrong bits, in turn in the tables, which the kernel reads, and in the superblock: each is told of in one line, or is a container; what is left."""
    good = good_image(stage)
    for seed in range(FUZZED):
        choose, content = random.Random(seed), bytearray(good)
        for _ in range(8):
            content[choose.randrange(SUPERBLOCK) if seed % 2 else -choose.randrange(1, TABLES)] ^= 1 << choose.randrange(8)
        image = stage.folder / f"{seed}.squashfs"
        image.write_bytes(content)
        box = stage.start(CONTAINER.format(layer=image) + '[init]\nexit = "when-all-exited"\n[services.app]\nkind = "oneshot"\ncommand = ["/bin/true"]\n', name=f"{seed}.toml")
        if box.wait() in (100, 111):
            assert re.fullmatch(r"pyinit: \S+\.toml:\d+: .*\n", box.output), box.output
        else:
            assert "pyinit: app: " in box.output, box.output
    return _without_loops(stage.folder)


def _without_loops(folder: pathlib.Path) -> str:
    """That no device has a file of that folder; those that have are given back."""
    places = [path.parent.parent.name for path in pathlib.Path("/sys/block").glob("loop*/loop/backing_file") if _read_if(path).startswith(f"{folder}/")]
    for name in places:
        subprocess.run(["losetup", "-d", f"/dev/{name}"], check=True)
    return "loop devices are left" if places else "words or a container, no loop device left"


def _read_if(path: pathlib.Path) -> str:
    """ "" of one that goes away."""
    try:
        return path.read_text()
    except OSError:
        return ""


STARTS = 8


def parallel_starts(stage) -> str:
    """Of two images of one size at once."""
    images = []
    for word in ("red", "dim"):
        tree = make_busybox(stage.folder / word)
        (tree / "word").write_text(word)
        images.append(squash(tree, stage.folder / f"{word}.squashfs"))
    size = max(image.stat().st_size for image in images)
    for image in images:
        os.truncate(image, -(-size // 4096) * 4096)
    boxes = []
    for number in range(STARTS):
        text = CONTAINER.replace("attack", f"attack-{number}").format(layer=images[number % 2])
        text += '[init]\nexit = "when-all-exited"\n[services.app]\nkind = "oneshot"\ncommand = ["/bin/cat", "/word"]\nlog = { to = "stdout", timestamp = "none" }\n'
        boxes.append(stage.start(text, name=f"{number}.toml"))
    codes = [box.wait(60) for box in boxes]
    wrong = [box for number, box in enumerate(boxes) if f"app: {('red', 'dim')[number % 2]}\n" not in box.output]
    return "each its own image" if not wrong and not any(codes) else "the wrong image"


def written_over(stage) -> str:
    """In place, while a container runs of it: the next start gets what the file holds now."""
    contents = []
    for word in ("old", "new"):
        tree = make_busybox(stage.folder / word)
        (tree / "word").write_text(f"{word}\n")
        contents.append(squash(tree, stage.folder / f"{word}.squashfs").read_bytes())
    size = max(map(len, contents))
    image = stage.folder / "image.squashfs"
    image.write_bytes(contents[0].ljust(size, b"\0"))
    said = []
    for number in range(2):
        text = CONTAINER.replace("attack", f"attack-{number}").format(layer=image)
        box = stage.start(text + '[services.app]\ncommand = ["/bin/sh", "-c", "cat /word; sleep 1000"]\nlog = { to = "stdout", timestamp = "none" }\n', name=f"{number}.toml")
        box.wait_for("app: ready")
        box.wait_for("app: ", count=2)
        said.append(re.findall(r"^app: (old|new)$", box.output, re.MULTILINE))
        with image.open("r+b") as file:
            file.write(contents[1].ljust(size, b"\0"))
    for box in stage.bench.running:
        box.stop()
    return " ".join(word for words in said for word in words)


def off(name: str, *mutants: Mutant) -> tuple[Defence, ...]:
    return (Defence(name, mutants=mutants),)


def by_folder(stage) -> str:
    """Who starts it stands in the image's folder, and has said that Python may look there."""
    tree = hostile(stage.folder / "tree", stage.package)
    (tree / "pyinit.py").write_text(f"open({str(stage.folder / 'ran')!r}, 'w')\n{PROBE}")
    path = stage.bench.write(CONTAINER.format(layer=tree) + '[services.app]\ncommand = ["/bin/true"]\n')
    subprocess.run([stage.package / "pyinit/cli/pyinit", "plan", path], cwd=tree, env={**os.environ, "PYTHONPATH": "."}, capture_output=True, timeout=60, check=False)
    return "code of the image ran" if (stage.folder / "ran").exists() else "no code of the image ran"


NO_WAIT = Defence(
    "only a regular file is read, without waiting",
    mutants=(Mutant("init/users.py", "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC", "os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC"),),
)
IMPORT = "import difflib\n"
# Of what each request needs PID 1 has json by then, as after any request before.
COPIES = Defence(
    "imports come from a copy that only PID 1 has",
    mutants=(Mutant("launch/inside.py", "    sys.path_importer_cache.clear()\n", '    sys.path_importer_cache.clear()\n    import json\n    sys.path[:] = ["/usr/lib/python3.11"]\n'),),
)


def moment_row(name: str, title: str, attack: str, what: str, when: str, mutant: Mutant) -> Row:
    """By `mutant` an import is left to that very moment."""
    return Row(
        name, f"CVE-2019-14271, {title}", f"a hostile /usr/lib/python3.11, when {attack}", (COPIES, Defence(what, mutants=(mutant,))),
        NOTHING, f"opened: /usr/lib/python3.11 {when}", outside=moments, alone=(NOTHING, NOTHING),
    )  # fmt: skip


LIFE = "through starts, verbs, an exec, a fault in a callback, no descriptor left, another logger"
ROWS = (
    Row(
        "image-nss", "CVE-2019-14271", f"a hostile nsswitch.conf and libnss in the image, {LIFE}",
        off("users come from our own reader", Mutant("init/users.py", "    wanted = _number(name)\n    for row", "    import pwd\n\n    _ = [one for one in [name] if pwd.getpwall()]\n    wanted = _number(name)\n    for row")),
        NOTHING, "opened: /etc/ld.so.cache /etc/nsswitch.conf /lib/x86_64-linux-gnu/libnss_evil.so.2", outside=haunted,
    ),
    Row(
        "image-python", "CVE-2019-14271, of Python", f"a hostile /usr/lib/python3.11, {LIFE}",
        off("imports come from a copy that only PID 1 has", Mutant("launch/inside.py", "    sys.path_importer_cache.clear()\n", '    sys.path_importer_cache.clear()\n    sys.path[:] = ["/usr/lib/python3.11"]\n')),
        NOTHING, "opened: /usr/lib/python3.11", outside=haunted,
    ),
    Row(
        "image-traceback", "CVE-2019-14271, of tracebacks", f"a file of the image where a traceback would look for PID 1's own source, {LIFE}",
        off(
            "no traceback; no name of a file in PID 1's code",
            Mutant("errors.py", "    place = error.__traceback__\n", '    __import__("traceback").format_exception(error)\n    place = error.__traceback__\n'),
            Mutant("bundling.py", '    label = f"<pyinit/{inner}>" if inner != path else f"<{name}>"', '    label = "/sitecustomize.py"'),
        ),
        NOTHING, "opened: /sitecustomize.py", outside=haunted,
    ),
    moment_row(
        "image-emfile", "of EMFILE", "PID 1 has no descriptor left, and says so", "that is said without an import", "in want of a descriptor",
        Mutant(
            "init/pauses.py", '            raise ControlError(f"{name}: can\'t be paused: {error.strerror}") from error\n',  # with a descriptor that it takes from itself
            f'            __import__("os").close(0)\n            try:\n                {IMPORT}            except ImportError:\n                pass\n'
            '            raise ControlError(f"{name}: can\'t be paused: {error.strerror}") from error\n',
        ),
    ),
    moment_row(
        "image-exception", "of a fault", "a callback of PID 1's raises an exception, which is told", "that is told without an import", "at a fault in a callback",
        Mutant("errors.py", "    place = error.__traceback__\n", f"    try:\n        {IMPORT}    except ImportError:\n        pass\n    place = error.__traceback__\n"),
    ),
    moment_row(
        "image-logger", "of the logger", "it is killed, and another one is forked", "the next one has all that the first one had", "at the logger's death",
        Mutant(
            "init/logkeeper.py", '        self._say("the logger died and is started again")\n',
            f'        with contextlib.suppress(ImportError):\n            {IMPORT}        self._say("the logger died and is started again")\n',
        ),
    ),
    Row(
        "image-builder", "CVE-2019-14271, of the builder", "a hostile image, whose root the builder enters once it is made",
        off(
            "into the root only fds lead",
            Mutant(
                "launch/builder.py", "        builder.run(launch.steps.inside)\n",
                '        builder.run(launch.steps.inside)\n        os.chroot(f"{launch.held.directory}/root")\n        with contextlib.suppress(ImportError):\n            import difflib\n',
            ),
        ),
        NOTHING, "opened: /usr/lib/python3.11 on the host what lies at the paths of our sources on the host", outside=begun,
    ),
    Row(
        "image-launcher", "CVE-2019-14271, of the launcher", "a hostile image, where the launcher looks for Python's modules",
        off(
            "its import path is the host's",
            Mutant(
                "launch/launcher.py", "    box = config.container\n    assert box is not None\n    steps = plan.make(config)\n",
                "    box = config.container\n    assert box is not None\n    __import__('sys').path.insert(0, box.layers[0].path + '/usr/lib/python3.11')\n"
                "    with contextlib.suppress(ImportError):\n        import difflib\n    steps = plan.make(config)\n",
            ),
        ),
        NOTHING, "opened: /usr/lib/python3.11 on the host", outside=begun,
    ),
    Row(
        "image-folder", "CVE-2019-14271, of the program", "it is started in the image's folder, with PYTHONPATH=.",
        off("`python -I`", Mutant("cli/pyinit", 'exec "$python" -IS ', 'exec "$python" -S ')),
        "no code of the image ran", "code of the image ran", outside=by_folder,
    ),
    Row(
        "image-fifos", "pipes in the image", "passwd, group, hosts, Python's modules and libnss are FIFOs",
        (NO_WAIT,),
        "exit 0", "PID 1 waits", outside=fifos,
    ),
    Row(
        "squashfs-truncated", "squashfs truncated", "an image that ends in its midst (many more: tests/system/test_fuzzed_starts.py)",
        off("the superblock is read first", Mutant("config/images.py", "    if size_bytes is not None and used > size_bytes:", "    if False:")),
        "exit 100: is truncated", "exit 111: refused by the kernel", outside=truncated,
    ),
    Row(
        "squashfs-compressor", "squashfs, wrong compressor", "an image that says it is of lzma",
        off("the superblock is read first", Mutant("config/images.py", '    return "" if erofs else _squashfs_fault(_squashfs(head))', '    return ""')),
        "exit 100: is compressed with lzma, which Linux does not read", "exit 111: refused by the kernel", outside=other_compressor,
    ),
    Row(
        "squashfs-fuzzed", "squashfs, fuzzed", f"{FUZZED} images with wrong bits (240 more: tests/system/test_fuzzed_starts.py)",
        off("a loop device ends with its last user", Mutant("linux/loop.py", "        wanted = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | flags\n", "        wanted = LO_FLAGS_READ_ONLY | flags\n")),
        "words or a container, no loop device left", "loop devices are left", outside=fuzzed,
    ),
    Row(
        "parallel-starts", "parallel starts", f"{STARTS} at once of two images of one size (50 of one: tests/system/test_images.py)",
        off("a loop device is known by device and inode", Mutant("linux/loop.py", "    same = (device, inode, offset, limit, label.rstrip(b\"\\0\")) == (seen.st_dev, seen.st_ino, 0, 0, name.encode())", "    same = True")),
        "each its own image", "the wrong image", outside=parallel_starts,
    ),
    Row(
        "image-written-over", "an image that is another", "it is written over in place while a container runs of it",
        off("a loop device is known by its file's times", Mutant("linux/loop.py", '    head = f"pyinit {seen.st_mtime_ns:x} {seen.st_ctime_ns:x} "', '    head = "pyinit "')),
        "old new", "old old", outside=written_over,
    ),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
