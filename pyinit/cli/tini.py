"""`tini`, `docker-init`, and `pyinit -- COMMAND`: one command as tini 0.19 runs it.

Owns tini's options, variables and messages. Must not know how a process is started (single.py). Laws: the command's exit
code goes out, 128+n for a signal; every signal but faults is passed on; every orphan is reaped; the command is a group of
its own and, where there is a terminal, its foreground. By our own name the messages are the same, behind our name.
Source: tini(1), and what the program of Debian 12 does.
"""

import _signal  # type: ignore[import-not-found]  # as single.py
import posix
import sys

from pyinit.cli import single

_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_VERSION = "0.19.0"  # what we stand in for: Docker shows it
_WAITED = single.SIGNALS - single.FAULTS - {9, single.STOP, single.TTIN, single.TTOU}
_NAMES = (
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "", "CHLD",
    "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "", "", "SYS",
)  # fmt: skip
_FATAL, _WARNING, _INFO, _DEBUG, _TRACE = range(5)
_LABELS = ("FATAL", "WARN ", "INFO ", "DEBUG", "TRACE")
_EXPECTED = {"e": "an exit code, 0 to 255", "p": "a signal's name such as SIGTERM"}
_NO_TERMINAL = (single.ENOTTY, single.ENXIO)
_USAGE = """\
{name} (tini version {version})
Usage: {name} [OPTIONS] PROGRAM -- [ARGS] | --version

Run a program as its init: signals go to it, orphans are reaped, its exit code goes out

Command line options:

  --version: Show the version.
  -h: Show this help.
  -s: Register as a subreaper, where this is not PID 1.
  -p SIGNAL: Have SIGNAL sent to us when our parent dies, for example -p SIGKILL.
  -v: Tell more, up to three times.
  -w: Warn when an orphan is reaped.
  -g: Send signals to the program's process group.
  -e EXIT_CODE: Take this exit code (0 to 255) for 0; may be repeated.
  -l: Show the license.

Environment variables:

  TINI_SUBREAPER: Register as a subreaper.
  TINI_VERBOSITY: Set how much is told (default: 1).
  TINI_KILL_PROCESS_GROUP: Send signals to the program's process group.

"""
_LICENSE = "pyinit is free software under the Apache License 2.0: https://www.apache.org/licenses/LICENSE-2.0"


class Tini:
    """What the words and the variables ask for, and where it is told."""

    def __init__(self, name: str) -> None:
        self.is_ours = name == "pyinit"
        self.subreaper = False
        self.group = False
        self.warn = False
        self.parent_death = 0
        self.as_success: set[int] = set()
        self.verbosity = 1
        self.command: list[str] = []

    def tell(self, level: int, text: str, ours: str = "") -> None:
        """`ours`: the same by our own name, where that can say it better."""
        if level > self.verbosity:
            return
        text = ours if ours and self.is_ours else text
        head = "pyinit: " if self.is_ours else f"[{_LABELS[level]} tini ({posix.getpid()})] "
        single.say(1 if level >= _INFO and not self.is_ours else 2, head + text)


def run(words: list[str], name: str, inherited: single.Inherited) -> int:
    """The exit code of the command."""
    it = Tini(name)
    done = parse(it, words)
    if done is not None:
        return done
    read_environment(it)
    single.block(_WAITED)
    # The command's group has the terminal: with TOSTOP on it, writing there would stop us.
    before = [(number, _signal.getsignal(number)) for number in (single.TTIN, single.TTOU)]
    for number, _ in before:
        _signal.signal(number, _signal.SIG_IGN)
    if it.parent_death or it.subreaper:
        _register(it)

    birth = single.Birth(it.command, inherited.mask)
    birth.ignored = inherited.ignored
    birth.defaults |= {number for number, handler in before if handler == _signal.SIG_DFL}
    try:
        posix.tcgetpgrp(0)
        to_foreground = single.in_foreground(0)
    except OSError as error:
        if error.errno not in (*_NO_TERMINAL, *((single.EBADF,) if it.is_ours else ())):
            it.tell(_FATAL, f"tcsetpgrp failed: {error.strerror}")
            return 1
        to_foreground = None

    def failed(error: OSError) -> int:
        it.tell(_FATAL, f"exec {it.command[0]} failed: {error.strerror}", f"{it.command[0]}: {error.strerror}")
        return {single.ENOENT: _NOT_FOUND, single.EACCES: _NOT_EXECUTABLE}.get(error.errno or 0, 1)

    try:
        pid = birth.start(failed, to_foreground)
    except OSError as error:
        it.tell(_FATAL, f"fork failed: {error.strerror}")
        return 1
    if posix.getpid() != 1 and not it.subreaper and it.verbosity >= _WARNING:
        _warn(it)  # now: to know takes longer than the command's start
    it.tell(_INFO, f"Spawned child process '{it.command[0]}' with pid '{pid}'")
    return _wait(it, pid)


def _register(it: Tini) -> None:
    from pyinit.linux import early  # its library takes as long as half of ours

    if it.parent_death:
        early.prctl(early.PR_SET_PDEATHSIG, it.parent_death)
    if it.subreaper:
        early.prctl(early.PR_SET_CHILD_SUBREAPER, 1)
        it.tell(_TRACE, "Registered as child subreaper")


def _warn(it: Tini) -> None:
    from pyinit.linux import early  # as above

    if early.is_subreaper():  # whoever started us has made us one
        return
    it.tell(
        _WARNING,
        "Tini is not running as PID 1 and isn't registered as a child subreaper.\n"
        "Zombie processes will not be re-parented to Tini, so zombie reaping won't work.\n"
        "To fix the problem, use the -s option or set the environment variable TINI_SUBREAPER to register Tini as a child subreaper, or run Tini as PID 1.",
        "not PID 1 and no subreaper (-s): orphans go to the real init",
    )


def parse(it: Tini, words: list[str]) -> int | None:
    """The exit code of what only tells, or was refused; None to go on."""
    if words == ["--version"]:
        from pyinit import __version__

        single.say(1, f"pyinit version {__version__}" if it.is_ours else f"tini version {_VERSION}")
        return 0
    grammar = single.Grammar(words, "p:hvwgle:s", permute=not it.is_ours)
    for letter, value in grammar:
        if letter == "h":
            return _usage(1, it, 0)
        if letter == "l":
            single.say(1, _LICENSE)
            return 0
        if letter == "?":
            return _refuse(it, value)
        if not _take(it, letter, value):
            if it.is_ours:
                from pyinit.errors import UsageError  # by our own name it is there

                raise UsageError(f"-{letter} {value}: expected {_EXPECTED[letter]}")
            it.tell(_FATAL, f"Not a valid option for -{letter}: {value}")
            return 1
    it.command = grammar.rest
    return None if it.command else _refuse(it, "")


def _refuse(it: Tini, text: str) -> int:
    """`text` "": no command."""
    if it.is_ours:
        from pyinit.errors import UsageError  # as above

        raise UsageError(f"{text}; `pyinit -- COMMAND` knows -s -g -e -p -w -v -l" if text else "no command: `pyinit -- COMMAND [ARGUMENT...]`")
    if text:
        single.say(2, f"{sys.argv[0]}: {text}")
    return _usage(2, it, 1)


def _take(it: Tini, letter: str, value: str) -> bool:
    if letter == "s":
        it.subreaper = True
    elif letter == "g":
        it.group = True
    elif letter == "w":
        it.warn = True
    elif letter == "v":
        it.verbosity += 1
    elif letter == "p":
        name = value.removeprefix("SIG")
        it.parent_death = _NAMES.index(name) + 1 if name and name != value and name in _NAMES else 0
        return bool(it.parent_death)
    else:
        code, behind = single.leading_number(value)
        it.as_success.add(code or 0)  # "" is 0
        return not behind and 0 <= (code or 0) <= 255
    return True


def read_environment(it: Tini) -> None:
    """After the words: TINI_VERBOSITY has the last one."""
    it.subreaper |= b"TINI_SUBREAPER" in posix.environ
    it.group |= b"TINI_KILL_PROCESS_GROUP" in posix.environ
    text = posix.environ.get(b"TINI_VERBOSITY")
    if text is not None:
        it.verbosity = single.leading_number(text.decode("ascii", "replace"))[0] or 0


def _usage(fd: int, it: Tini, code: int) -> int:
    name = "pyinit" if it.is_ours else single.name()
    single.say(fd, _USAGE.format(name=name, version=_VERSION).removesuffix("\n"))
    return code


def _wait(it: Tini, pid: int) -> int:
    """Until the command has ended: pass on what comes, reap what ends."""
    code: int | None = None
    while code is None:
        number = single.wait(_WAITED)
        if number == single.CHLD:
            it.tell(_DEBUG, "Received SIGCHLD")
        else:
            _pass_on(it, pid, number)
        for one, status, killed_by in single.exits():
            it.tell(_DEBUG, f"Reaped child with pid: '{one}'")
            if one == pid:
                code = _ended(it, status, killed_by)
            elif it.warn:
                it.tell(_WARNING, f"Reaped zombie process with pid={one}", f"reaped an orphan, pid {one}")
        it.tell(_TRACE, "No child to wait" if single.is_childless() else "No child to reap")
    it.tell(_TRACE, "Exiting: child has exited")
    return code


def _ended(it: Tini, status: int, killed_by: int) -> int:
    if killed_by:
        it.tell(_INFO, f"Main child exited with signal (with signal '{_signal.strsignal(killed_by)}')")
    else:
        it.tell(_INFO, f"Main child exited normally (with status '{status}')")
    code = 128 + killed_by if killed_by else status
    return 0 if code in it.as_success else code


def _pass_on(it: Tini, pid: int, number: int) -> None:
    it.tell(_DEBUG, f"Passing signal: '{_signal.strsignal(number)}'")
    try:
        posix.kill(-pid if it.group else pid, number)  # not reaped yet: the number can't be another's
    except ProcessLookupError:  # a group whose leader has not made it yet
        it.tell(_WARNING, "Child was dead when forwarding signal")
