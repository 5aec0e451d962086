"""A pid and a mount namespace by unshare(1) around the small root: nothing is in it but what a test asks for."""

import os
import pathlib
import select
import shlex
import signal
import subprocess
import time

DEADLINE_S = 20.0
CLEAN = {"environment": {}, "user": "", "redirect": "", "before": ""}
MOUNTS = {
    "run": "mount -t tmpfs -o noexec,nosuid,nodev,mode=1777 run run",
    "proc": "mount -t proc proc proc",
    "dev": "mount -t tmpfs -o mode=755 dev dev; mknod -m 666 dev/null c 1 3",
}


class Box:
    """Started at once; everything that it prints is in `.output`."""

    def __init__(self, root: pathlib.Path, words: list[str], mounts: tuple[str, ...] = ("run", "proc", "dev"), **keys) -> None:
        """`keys`: the environment, a user's numbers "UID:GID", a redirection of the shell's, what it runs before, one fd for all streams."""
        keys = {**CLEAN, **keys}
        variables = shlex.join(f"{name}={value}" for name, value in keys["environment"].items())
        user = f"--userspec={keys['user']}" if keys["user"] else ""
        script = "; ".join([
            f"mount --bind {root} {root}", f"mount -o remount,bind,ro {root}", f"cd {root}", *(MOUNTS[name] for name in mounts),
            keys["before"] or ":", f'exec env -i {variables} {keys.get("chroot", "/usr/sbin/chroot")} {user} {root} "$@" {keys["redirect"]}',
        ])  # fmt: skip
        stdio = keys.get("stdio", -1)
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if stdio < 0 else dict.fromkeys(("stdin", "stdout", "stderr"), stdio)
        own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        self.output = ""
        self.process = subprocess.Popen([*own, "/bin/sh", "-euc", script, "sh", *words], **streams)
        if self.process.stdout is not None:
            os.set_blocking(self.process.stdout.fileno(), False)

    def read(self, timeout_s: float) -> bool:
        fd = self.process.stdout.fileno()
        if not select.select([fd], [], [], max(0.0, timeout_s))[0]:
            return False
        data = os.read(fd, 1 << 16)
        self.output += data.decode("utf-8", "replace")
        return bool(data)

    def wait_for(self, *texts: str) -> None:
        until = time.monotonic() + DEADLINE_S
        while not all(text in self.output for text in texts):
            if not self.read(until - time.monotonic()):
                raise AssertionError(f"not all of {texts} in:\n{self.output}")

    def pid(self) -> int:
        """PID 1's number here."""
        return int(pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def wait(self) -> int:
        until = time.monotonic() + DEADLINE_S
        while self.read(until - time.monotonic()):
            pass
        return self.process.wait(max(0.1, until - time.monotonic()))

    def stop(self, number: int = signal.SIGTERM) -> int:
        os.kill(self.pid(), number)
        return self.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()  # and with it PID 1 (--kill-child)
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def wait_until(condition, what: str) -> None:
    """For what tells no one that it is there."""
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {DEADLINE_S} s"
        select.select([], [], [], 0.01)
