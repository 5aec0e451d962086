"""The small inits as they are installed, ours under their names, and commands that tell what they were started with."""

import contextlib
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

REPO = pathlib.Path(__file__).parents[2]
DEADLINE_S = 20.0
BOTH = ("theirs", "ours")
# What a command finds: prints one line of JSON.
FINDS = """\
import json, os, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
def foreground():
    try: return os.tcgetpgrp(0)
    except OSError as error: return -error.errno
print(json.dumps({
    "pid": os.getpid(), "ppid": os.getppid(), "leads_group": os.getpgrp() == os.getpid(), "leads_session": os.getsid(0) == os.getpid(),
    "blocked": status["SigBlk"].strip(), "ignored": status["SigIgn"].strip(), "environment": sorted(os.environ), "cwd": os.getcwd(),
    "fds": sorted(int(n) for n in os.listdir("/proc/self/fd"))[:-1], "foreground": foreground() == os.getpgrp(),
    "listen_pid": os.environ.get("LISTEN_PID") == str(os.getpid())}), flush=True)
"""
MASKS = ["sed", "-n", "s/^Sig\\(Blk\\|Ign\\):[[:space:]]*//p", "/proc/self/status"]  # what is blocked, what is ignored: no shell, no Python changes it
# Prints each signal that it gets; KILL ends it.
PRINTS = """\
import os, signal, sys
numbers = {n for n in range(1, 65) if n not in (9, 17, 19, 32, 33)}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("ready", os.getpid(), flush=True)
while True:
    print(int(signal.sigwait(numbers)), flush=True)
"""

# Leaves an orphan: 41 if it became its init's child, 40 if another's.
ORPHAN = """\
import os, time
init = os.getppid()
read_fd, write_fd = os.pipe()
if os.fork() == 0:
    middle = os.getpid()
    if os.fork() == 0:
        while os.getppid() == middle: time.sleep(0.005)  # nobody tells who is adopted
        os.write(write_fd, b"%d" % (os.getppid() == init))
        os._exit(0)
    os._exit(0)
os.wait()
os._exit(40 + int(os.read(read_fd, 9)))
"""
# Runs the words that follow on a terminal of their own, and says what they said there; HUP, once, to who asks for it.
TERMINAL = """\
import os, pty, signal, sys
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
out = b""
while True:
    try: data = os.read(fd, 4096)
    except OSError: break
    if not data: break
    out += data
    if b"send HUP" in out and b"Ignoring" in out and b"sent" not in out:
        os.kill(pid, signal.SIGHUP); out += b"sent\\n"
os.waitpid(pid, 0)
sys.stdout.write(out.decode().replace("\\r\\n", "\\n"))
"""


def command(text: str) -> list[str]:
    """To run a Python text, without what changes what it would find."""
    return [sys.executable, "-I", "-S", "-c", text]


class Init:
    """One of the programs; `path` is what is executed."""

    def __init__(self, path: pathlib.Path, kind: str) -> None:
        self.path = path
        self.is_ours = kind == "ours"

    def run(self, *words: str, before: str = "", **keys) -> subprocess.CompletedProcess[str]:
        """`before`: Python that runs in the process that becomes it; `environment` is added to ours."""
        keys = self._keys(keys)
        return subprocess.run(self._words(words, before), check=False, **{"capture_output": True, "text": True, "timeout": DEADLINE_S, **keys})

    @contextlib.contextmanager
    def started(self, *words: str, before: str = "", **keys):
        """It is killed in the end, with all below it."""
        keys = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True, **self._keys(keys)}
        with subprocess.Popen(self._words(words, before), **keys) as process:
            try:
                yield process
            finally:
                for pid in reversed(below(process.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.kill()

    def _words(self, words: tuple[str, ...], before: str) -> list[str]:
        if not before:
            return [str(self.path), *words]
        return [*command(f"import os, sys, signal\n{before}\nos.execv(sys.argv[1], sys.argv[1:])"), str(self.path), *words]

    @staticmethod
    def _keys(keys: dict) -> dict:
        added = keys.pop("environment", {})
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("TINI_", "DUMB_INIT", "CATATONIT"))}
        return {"stdin": subprocess.DEVNULL, "env": {**clean, **added}, **keys}

    def plain(self, text: str) -> str:
        """Without what differs from run to run: its place, and numbers of processes."""
        text = text.replace(str(self.path), self.path.name)
        text = re.sub(r"(\((?:catatonit:)?)\d+(\))", r"\1N\2", text)
        return re.sub(r"((?:pid|PID)[ =:]*'?)\d{2,}", r"\1N", text)


def make(folder: pathlib.Path, name: str, kind: str) -> Init:
    if kind == "theirs":
        found = next(path for path in (pathlib.Path(f"/usr/bin/{name}"),) if path.exists())
        return Init(found, kind)
    link = folder / name
    link.symlink_to(REPO / "pyinit/cli/pyinit")
    return Init(link, kind)


@contextlib.contextmanager
def for_everyone(init: Init):
    """The same, where any user can execute it: a checkout and pytest's folders may be root's alone."""
    if not init.is_ours:
        yield init
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        shutil.copytree(REPO / "pyinit", folder / "pyinit")
        (folder / init.path.name).symlink_to(folder / "pyinit/cli/pyinit")
        yield Init(folder / init.path.name, "ours")


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def below(pid: int) -> list[int]:
    found = children(pid)
    for child in list(found):
        found += below(child)
    return found


def state(pid: int) -> str:
    """R, S, T, Z ... ; "" if it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S} s"
        select.select([], [], [], 0.005)


def found_by(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
