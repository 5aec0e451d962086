"""A user before a terminal: a pty of ours, with pyinit as the leader of its session."""

import fcntl
import os
import pathlib
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import Self

from conftest import DEADLINE_S, REPO


def set_size(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


def state(words: str) -> str:
    """Of a process with that command line, by proc_pid_stat(5); "": there is none."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if pathlib.Path(f"/proc/{entry}/cmdline").read_bytes() == words.replace(" ", "\0").encode() + b"\0":
                return pathlib.Path(f"/proc/{entry}/stat").read_text().rpartition(") ")[2][0]
        except OSError:
            continue
    return ""


class Seat:
    """What pyinit wrote to the terminal is in `.shown`; keys are typed by `type()`."""

    def __init__(self, *words: str, rows: int = 30, columns: int = 90, command=(sys.executable, "-m", "pyinit"), environment=None, **keys) -> None:
        """`keys` are Popen's: what of 0, 1 and 2 is not the terminal, another folder."""
        self.keyboard, slave = pty.openpty()
        set_size(self.keyboard, rows, columns)
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        self.shown = b""

        def sit() -> None:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        keys = {"stdin": slave, "stdout": slave, "stderr": slave, "cwd": REPO, **keys}
        environment = {**os.environ, "TERM": "vt220", **(environment or {})}
        self.process = subprocess.Popen([*command, *words], env=environment, preexec_fn=sit, **keys)  # noqa: PLW1509 - one thread

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        for fd in (self.keyboard, self.slave):
            if fd >= 0:
                os.close(fd)

    def type(self, text: str) -> None:
        os.write(self.keyboard, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        set_size(self.keyboard, rows, columns)

    def read(self, timeout_s: float) -> bool:
        if not select.select([self.keyboard], [], [], max(0.0, timeout_s))[0]:
            return False
        self.shown += os.read(self.keyboard, 1 << 16)
        return True

    def wait_for(self, text: str, *, count: int = 1) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while self.shown.count(text.encode()) < count:
            if not self.read(deadline - time.monotonic()):
                raise AssertionError(f"no {text!r} ({count} times) in: {self.shown!r}")

    def wait(self) -> int:
        """The exit code; what was shown before is read."""
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still there, after: {self.shown!r}"
            self.read(0.01)
        while self.read(0):
            pass
        return self.process.returncode

    def is_as_before(self) -> bool:
        """Whether the terminal's modes are those that the user had."""
        return termios.tcgetattr(self.slave) == self.before

    def hang_up(self) -> None:
        """The window is closed."""
        os.close(self.slave)
        os.close(self.keyboard)
        self.slave = self.keyboard = -1

    def signal(self, number: int) -> None:
        self.process.send_signal(signal.Signals(number))
