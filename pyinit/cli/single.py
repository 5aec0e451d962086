"""One command and its orphans: what the personalities of the small inits have in common.

Owns the choice among them, their options' grammar (getopt(3)), and a command's birth. Must not know configs, or what any of
the personalities does with a signal. Laws: no second process beside the command; nothing is imported that the one in question
does not need (ctypes is a tenth of a start, os a fifth; posix is built in); the command has the mask, the dispositions and
the variables that we were started with, save what its personality changes.

Python itself changes three things before our first line: it ignores PIPE and XFSZ, catches INT, and sets LC_CTYPE where there
is no locale. What they were before is told by the start script (`-X ignored=`, a mask) and /proc/self/environ.
"""

import _signal  # type: ignore[import-not-found]  # built in; the signal module makes enums that nobody needs here
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PERSONALITIES = {
    "tini": "tini", "docker-init": "tini", "dumb-init": "dumb_init", "catatonit": "catatonit", "podman-init": "catatonit",
}  # fmt: skip
SIGNALS = frozenset({n for n in range(1, 65) if n not in (32, 33)})  # the C library keeps two for itself
FAULTS = frozenset({4, 5, 6, 7, 8, 11, 31})  # ILL TRAP ABRT BUS FPE SEGV SYS: ours when we get them
CHLD, STOP, TSTP, TTIN, TTOU = 17, 19, 20, 21, 22
_ENCODING = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()  # of words and paths
_PYTHON_S = (13, 25)  # PIPE, XFSZ
_SHELL = "/bin/sh"
ENOENT, ENXIO, ENOEXEC, EBADF, EACCES, ENODEV, ENOTDIR, ENOTTY, ETIMEDOUT, ESTALE = 2, 6, 8, 9, 13, 19, 20, 25, 110, 116  # errno is 0.1 ms
_NEXT_FOLDER = (ENOENT, ENOTDIR, EACCES, ESTALE, ENODEV, ETIMEDOUT)  # after these execvp(3) goes on with the next one


def name() -> str:
    """That we were called by."""
    return sys.argv[0].rpartition("/")[2]


def main() -> int:
    """The program, for who comes with one of the names or with `--`. As PID 1 too, signals are blocked before anything more is imported."""
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, SIGNALS - FAULTS)
    try:
        return run(sys.argv[1:], frozenset(mask))
    except Exception as found:  # which one is asked below: their classes are loaded on the way out only
        from pyinit import errors  # on the way out only

        if isinstance(found, errors.PyinitError):
            say(2, f"pyinit: {found}")
            return found.exit_code
        if not isinstance(found, ModuleNotFoundError):
            raise
        say(2, f"{name()}: {errors.lacking(found)}")
        return errors.EXIT_SYSTEM


def run(words: list[str], mask: frozenset[int] | None = None) -> int:
    """The exit code of the command. `mask`: of our start, if it has been changed since."""
    called = name()
    module = __import__(f"pyinit.cli.{PERSONALITIES.get(called, 'tini')}", fromlist=["run"])
    code: int = module.run(words, called if called in PERSONALITIES else "pyinit", Inherited(mask))
    return code


class Inherited:
    """What the command shall find as we found it: the mask, and which of the signals that we change were ignored."""

    def __init__(self, mask: frozenset[int] | None = None) -> None:
        self.mask = frozenset(_signal.pthread_sigmask(_signal.SIG_BLOCK, ())) if mask is None else mask
        ignored = int(sys._xoptions.get("ignored", "0"))
        self.ignored = {number for number in _PYTHON_S if ignored >> (number - 1) & 1}
        # Else nobody is told of a child that has ended: the kernel throws it away at once.
        if _signal.getsignal(CHLD) == _signal.SIG_IGN:
            self.ignored.add(CHLD)
            _signal.signal(CHLD, _signal.SIG_DFL)


class Grammar:
    """Options as getopt_long(3) takes them: iterate over (letter or long name's letter, value), then read `rest`.

    `short` as for getopt; `long` name -> letter, of those that take a value as in `short`; ("?", text) for what it refuses.
    """

    def __init__(self, words: list[str], short: str, long: dict[str, str] | None = None, *, permute: bool) -> None:
        self._pending = list(words)
        self._short = short
        self._long = long or {}
        self._permute = permute and b"POSIXLY_CORRECT" not in posix.environ
        self.rest: list[str] = []

    def __iter__(self) -> "Iterator[tuple[str, str]]":
        while self._pending:
            word = self._pending.pop(0)
            if word == "--":
                break
            if word.startswith("--") and self._long:
                yield self._named(word)
            elif word.startswith("-") and word != "-":
                yield from self._letters(word)
            elif self._permute:
                self.rest.append(word)
            else:
                self._pending.insert(0, word)
                break
        self.rest += self._pending

    def _takes_value(self, letter: str) -> bool:
        return f"{letter}:" in self._short

    def _letters(self, word: str) -> "Iterator[tuple[str, str]]":
        for position, letter in enumerate(word[1:], 2):
            if letter == ":" or letter not in self._short:
                yield "?", f"invalid option -- '{letter}'"
            elif not self._takes_value(letter):
                yield letter, ""
            elif word[position:] or self._pending:
                yield letter, word[position:] or self._pending.pop(0)
                return
            else:
                yield "?", f"option requires an argument -- '{letter}'"

    def _named(self, word: str) -> tuple[str, str]:
        name, mark, value = word[2:].partition("=")
        found = [name] if name in self._long else [one for one in self._long if one.startswith(name)]
        if not found:
            return "?", f"unrecognized option '{word if not mark else '--' + name}'"
        if len(found) > 1:
            return "?", f"option '{word}' is ambiguous; possibilities:" + "".join(f" '--{one}'" for one in found)
        letter = self._long[found[0]]
        if not self._takes_value(letter):
            return ("?", f"option '--{found[0]}' doesn't allow an argument") if mark else (letter, "")
        if not mark and not self._pending:
            return "?", f"option '--{found[0]}' requires an argument"
        return letter, value if mark else self._pending.pop(0)


def leading_number(text: str) -> tuple[int | None, str]:
    """(number, what stands behind it) as strtol(3) finds it; (None, text) if there is none."""
    bare = text.lstrip(" \t\n\v\f\r")
    end = start = 1 if bare[:1] in ("+", "-") else 0
    while end < len(bare) and bare[end] in "0123456789":
        end += 1
    return (int(bare[:end]), bare[end:]) if end > start else (None, text)


def say(fd: int, text: str) -> None:
    """One line; who reads it may have gone."""
    try:
        posix.write(fd, f"{text}\n".encode("utf-8", "surrogateescape"))
    except OSError:
        pass


def wait(numbers: frozenset[int]) -> int:
    """The next signal; all of them are blocked."""
    return int(_signal.sigwait(numbers))


def block(numbers: frozenset[int]) -> None:
    """These and no others."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, numbers)


class Birth:
    """A command that is to be started: in a group of its own, or in a session, or in ours."""

    def __init__(self, command: list[str], mask: frozenset[int], *, group: bool = True, session: bool = False) -> None:
        self._command = command
        self._mask = mask
        self._group = group
        self._session = session
        self._environment = _environment()
        self.defaults: set[int] = {*_PYTHON_S, CHLD}  # signals that are their defaults there; the rest is as we have it
        self.ignored: set[int] = set()  # that are ignored there

    def start(self, failed: "Callable[[OSError], int]", in_process: "Callable[[], None] | None" = None) -> int:
        """Its pid; OSError if there can be no process. `failed` tells why it is not what was meant, and says what it leaves with.

        `in_process` runs in it, just before the command is executed. It is a fork, for posix_spawn(3) ignores two signals in
        a child, 32 and 33, that were not; by posix.fork(), for we have one thread and clone(2) would need ctypes.
        """
        parent = posix.getpid()
        pid = posix.fork()
        if pid == 0:
            self._become(parent, failed, in_process)
        return pid

    def _become(self, parent: int, failed: "Callable[[OSError], int]", in_process: "Callable[[], None] | None") -> None:
        code = 1
        try:
            # Sockets that we were activated with are meant for the command, which looks for its own pid (sd_listen_fds(3)).
            if self._environment.get(b"LISTEN_PID", b"").strip() == str(parent).encode():
                self._environment[b"LISTEN_PID"] = str(posix.getpid()).encode()
            if self._session:
                posix.setsid()
            elif self._group:
                posix.setpgid(0, 0)
            if in_process is not None:
                in_process()
            for number in self.defaults:
                _signal.signal(number, _signal.SIG_IGN if number in self.ignored else _signal.SIG_DFL)
            block(self._mask)
            self._execute()
        except OSError as error:
            code = failed(error)
        finally:
            posix._exit(code)

    def _execute(self) -> None:
        """As execvp(3): the first that can be had."""
        name = self._command[0].encode(*_ENCODING)
        if b"/" in name or not name:
            paths = [name]
        else:
            paths = [folder + b"/" + name if folder else name for folder in self._environment.get(b"PATH", b"/bin:/usr/bin").split(b":")]
        told: OSError | None = None
        for path in paths:
            try:
                self._execute_file(path)
            except OSError as error:
                if error.errno not in _NEXT_FOLDER:
                    raise
                if told is None or told.errno != EACCES:
                    told = error
        assert told is not None
        raise told

    def _execute_file(self, path: bytes) -> None:
        try:
            posix.execve(path, self._command, self._environment)
        except OSError as error:
            if error.errno != ENOEXEC:
                raise
            posix.execve(_SHELL, [_SHELL, path.decode(*_ENCODING), *self._command[1:]], self._environment)  # a script that names no interpreter


def _environment() -> dict[bytes, bytes]:
    """Ours, as it was given to us."""
    found = dict(posix.environ)
    if found.get(b"LC_CTYPE") == b"C.UTF-8":
        try:
            with open("/proc/self/environ", "rb", buffering=0) as file:
                given = dict(entry.partition(b"=")[::2] for entry in file.readall().split(b"\0"))
        except OSError:  # no /proc: who gives a locale gives more than this one
            given = {}
        if b"LC_CTYPE" in given:
            found[b"LC_CTYPE"] = given[b"LC_CTYPE"]
        else:
            del found[b"LC_CTYPE"]
    return found


def exits() -> "Iterator[tuple[int, int, int]]":
    """(pid, exit code, 0) or (pid, 0, signal) of each child that has ended, which is reaped."""
    while True:
        try:
            pid, status = posix.waitpid(-1, posix.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield (pid, 0, posix.WTERMSIG(status)) if posix.WIFSIGNALED(status) else (pid, posix.WEXITSTATUS(status), 0)


def is_childless() -> bool:
    """Nobody is left to be waited for."""
    try:
        posix.waitid(posix.P_ALL, 0, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def in_foreground(fd: int) -> "Callable[[], None]":
    """For a birth: its group becomes the foreground of the terminal at `fd`. TTOU must be blocked or ignored."""
    return lambda: posix.tcsetpgrp(fd, posix.getpgrp())
