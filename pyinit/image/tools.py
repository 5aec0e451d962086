"""The helper programs of a build: found, run in a process group of their own, ended with us.

Owns their processes. Must not know what they are asked for. Laws: none outlives the build, whatever ends it; what a
program said is shown only if it fails, for its progress is not the user's business.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from _collections_abc import Callable, Sequence
from typing import IO, Any

from pyinit.image.spec import BuildError

_PACKAGES = {"mmdebstrap": "mmdebstrap", "mksquashfs": "squashfs-tools", "tar2sqfs": "squashfs-tools-ng", "zstd": "zstd"}
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"  # mmdebstrap wants chroot and ldconfig, users' PATHs lack them
_TAIL_LINES = 15
_END_S = 10.0
_PIECE = 1 << 20


def find(name: str) -> str:
    """The program's path; BuildError says which Debian package has it."""
    path = shutil.which(name, path=_path())
    if path is None:
        raise BuildError(f"{name} is missing: apt-get install {_PACKAGES.get(name, name)}")
    return path


def version(name: str, flag: str) -> str:
    """The first line that `NAME FLAG` prints."""
    done = subprocess.run([find(name), flag], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).partition("\n")[0].strip()


def run(argv: Sequence[str], *, epoch: int, lock_fd: int, on_line: Callable[[str], None]) -> None:
    """Run a program to its end; each line of its output goes to `on_line`; BuildError with its last lines if it fails.

    It inherits `lock_fd`: should we be killed, the lock is held for as long as the program goes on.
    """
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PATH": _path(), "SOURCE_DATE_EPOCH": str(epoch)}
    tail: list[str] = []
    interrupt = _Interrupt()
    try:
        child = subprocess.Popen(
            [find(argv[0]), *argv[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment, pass_fds=(lock_fd,), process_group=0, text=True, errors="replace",
        )  # fmt: skip
    except BaseException:
        interrupt.end()
        raise
    with child:
        try:
            interrupt.end()
            assert child.stdout is not None
            for line in child.stdout:
                on_line(line.rstrip())
                if not line.startswith("I: "):  # mmdebstrap's steps say nothing of a failure
                    tail = [*tail[1 - _TAIL_LINES :], line.rstrip()]
            code = child.wait()
        except BaseException:  # KeyboardInterrupt above all
            _end(child)
            raise
    if code:
        raise BuildError(_failure(argv[0], code, tail))


def feed(argv: Sequence[str], write: Callable[[IO[bytes]], None], *, lock_fd: int) -> None:
    """Run a program that reads what `write(its input)` gives it; BuildError with its last lines if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"} | {"LC_ALL": "C.UTF-8", "PATH": _path()}
    with tempfile.TemporaryFile() as said:  # not a pipe, which it would wait at while we wait for it
        interrupt = _Interrupt()
        try:
            child = subprocess.Popen(
                [find(argv[0]), *argv[1:]], stdin=subprocess.PIPE, stdout=said, stderr=said, env=environment, pass_fds=(lock_fd,), process_group=0,
            )  # fmt: skip
        except BaseException:
            interrupt.end()
            raise
        try:
            interrupt.end()
            assert child.stdin is not None
            try:
                write(child.stdin)
                child.stdin.close()
            except BrokenPipeError:  # it has ended, and says why
                pass
            code = child.wait()
        except BaseException:
            _end(child)
            raise
        finally:
            _close(child)
        if code:
            said.seek(0)
            raise BuildError(_failure(argv[0], code, said.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]))


def drain(argv: Sequence[str], source: IO[bytes], take: Callable[[bytes], None]) -> None:
    """Run a program that reads a file, and hand on what it writes; BuildError with its last lines if it fails."""
    with tempfile.TemporaryFile() as said:
        interrupt = _Interrupt()
        try:
            environment = {**os.environ, "LC_ALL": "C.UTF-8", "PATH": _path()}
            child = subprocess.Popen([find(argv[0]), *argv[1:]], stdin=source, stdout=subprocess.PIPE, stderr=said, env=environment, process_group=0)
        except BaseException:
            interrupt.end()
            raise
        with child:
            try:
                interrupt.end()
                assert child.stdout is not None
                while data := child.stdout.read(_PIECE):
                    take(data)
                code = child.wait()
            except BaseException:
                _end(child)
                raise
        if code:
            said.seek(0)
            raise BuildError(_failure(argv[0], code, said.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]))


def _close(child: subprocess.Popen[bytes]) -> None:
    try:
        if child.stdin is not None:
            child.stdin.close()
    except BrokenPipeError:
        pass


def _failure(name: str, code: int, tail: Sequence[str]) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
    return "\n".join([f"{name} {how}; it said last:", *(f"    {line}" for line in tail)])


class _Interrupt:
    """One that comes while a program is being started is held back: it would end us before we know whom to end."""

    def __init__(self) -> None:
        self._came = False
        self._before = signal.signal(signal.SIGINT, self._note)

    def _note(self, *_: object) -> None:
        self._came = True

    def end(self) -> None:
        """From here on it has its way; KeyboardInterrupt if it has come."""
        signal.signal(signal.SIGINT, self._before)
        if self._came and self._before is not signal.SIG_IGN:
            raise KeyboardInterrupt


def _end(child: subprocess.Popen[Any]) -> None:
    """TERM to the group, so that mmdebstrap takes down what it mounted; then KILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            pass
        try:
            child.wait(_END_S)
            return
        except subprocess.TimeoutExpired:
            continue


def _path() -> str:
    return os.environ.get("PATH", os.defpath) + ":" + _SYSTEM_FOLDERS
