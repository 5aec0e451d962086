"""`pyinit -- COMMAND`: one command, as tini runs it.

Owns the options and behaviour of tini 0.19. Must not know configs. Laws: the child's exit code goes out, 128+n for
a signal; every signal but faults is forwarded; every orphan is reaped; the child has our mask and dispositions,
the sockets that we were activated with, and, if there is a terminal, the foreground.
Source: tini(1), and what tini 0.19 does; sd_listen_fds(3).
"""

import os
import sys

from pyinit.errors import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_OK, UsageError
from pyinit.linux import process
from pyinit.model import signal_name, signal_number

_HELP = """\
usage: pyinit [OPTIONS] -- COMMAND [ARGUMENT...]

  -s          register as subreaper (when not PID 1)
  -g          send signals to the child's process group
  -e CODE     take this exit code of the child for 0 (may be repeated)
  -p SIGNAL   have this signal sent to us when our parent dies
  -w          warn when an orphan is reaped
  -v          tell more (up to three times)
  -l          show the license
  --version   show the version
"""
# The faults are ours when we get them; CHLD is how we learn of exits; TTIN and TTOU would stop us.
_NOT_FORWARDED = frozenset({4, 5, 6, 7, 8, 9, 11, 17, 19, 21, 22, 31, 32, 33})
_WAITED = [number for number in range(1, 65) if number not in _NOT_FORWARDED] + [17]
_RESET = (13, 25)  # PIPE, XFSZ: Python ignores them
_TTOU, _TTIN = 22, 21


class Options:
    """What the words ask for."""

    def __init__(self) -> None:
        self.subreaper = "TINI_SUBREAPER" in os.environ
        self.group = "TINI_KILL_PROCESS_GROUP" in os.environ
        self.warn = False
        self.parent_death = 0
        self.as_success: set[int] = set()
        self.verbosity = _verbosity(os.environ.get("TINI_VERBOSITY", "1"))
        self.command: list[str] = []


def _verbosity(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 1


def run(words: list[str]) -> int:
    """The exit code of the command."""
    if words in (["--version"], ["-h"], ["--help"], ["-l"]):
        return _tell(words[0])
    options = parse(words)
    mask = _pending_mask()
    process.block_signals([*_WAITED, _TTOU, _TTIN])
    signals = process.signalfd(_WAITED)
    if options.subreaper and os.getpid() != 1:
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    if options.parent_death:
        process.prctl(process.PR_SET_PDEATHSIG, options.parent_death)
    if os.getpid() != 1 and not options.subreaper and options.verbosity > 0:
        print("pyinit: not PID 1 and no subreaper (-s): orphans go to the real init", file=sys.stderr)
    pid = _start(options.command, mask)
    os.set_blocking(signals, True)
    return _wait(pid, signals, options)


def parse(words: list[str]) -> Options:
    """UsageError for what tini would refuse."""
    options, pending = Options(), list(words)
    while pending:
        word = pending.pop(0)
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            pending.insert(0, word)
            break
        for position, letter in enumerate(word[1:], 2):
            if letter in "pe":
                value = word[position:] or (pending.pop(0) if pending else "")
                _take_value(options, letter, value)
                break
            _take_letter(options, letter, word)
    options.command = pending
    if not options.command:
        raise UsageError("no command: `pyinit -- COMMAND [ARGUMENT...]`")
    return options


def _take_letter(options: Options, letter: str, word: str) -> None:
    if letter == "s":
        options.subreaper = True
    elif letter == "g":
        options.group = True
    elif letter == "w":
        options.warn = True
    elif letter == "v":
        options.verbosity += 1
    else:
        raise UsageError(f"{word}: there is no such option; `pyinit -- COMMAND` knows -s -g -e -p -w -v -l")


def _take_value(options: Options, letter: str, value: str) -> None:
    if letter == "p":
        number = signal_number(value) if not value.isdigit() else None
        if number is None:
            raise UsageError(f"-p {value}: expected a signal's name such as SIGTERM")
        options.parent_death = number
    else:
        if not (value.isascii() and value.isdigit() and int(value) <= 255):
            raise UsageError(f"-e {value}: expected an exit code, 0 to 255")
        options.as_success.add(int(value))


def _tell(word: str) -> int:
    from pyinit import __version__

    if word == "--version":  # runtimes look for the name that they started
        name = os.path.basename(sys.argv[0]) if "tini" in sys.argv[0] else "pyinit"
        print(f"{name} version {__version__}")
    elif word == "-l":
        print("pyinit is free software under the Apache License 2.0: https://www.apache.org/licenses/LICENSE-2.0")
    else:
        print(_HELP, end="")
    return EXIT_OK


def _pending_mask() -> list[int]:
    """The mask that we were started with: the child's. As PID 1 __main__ has blocked all, so there it is empty."""
    if os.getpid() == 1:
        return []
    import _signal  # type: ignore[import-not-found]  # built in; the signal module makes enums that nobody needs here

    return [int(number) for number in _signal.pthread_sigmask(_signal.SIG_BLOCK, ())]


def _start(command: list[str], mask: list[int]) -> int:
    sockets_are_ours = os.environ.get("LISTEN_PID") == str(os.getpid())
    pid, pidfd = process.clone(0)
    if pid == 0:
        if sockets_are_ours:  # then they are meant for the command, which asks for its own pid there
            os.environ["LISTEN_PID"] = str(os.getpid())
        _exec(command, mask)
    os.close(pidfd)
    return pid


def _exec(command: list[str], mask: list[int]) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        _take_terminal()
        for number in _RESET:
            process.reset_signal(number)
        process.reset_signal(2)
        process.set_signal_mask(mask)
        os.execvp(command[0], command)
    except FileNotFoundError as error:
        code = EXIT_NOT_FOUND
        _complain(command[0], error)
    except OSError as error:
        code = EXIT_NOT_EXECUTABLE
        _complain(command[0], error)
    finally:
        os._exit(code)


def _take_terminal() -> None:
    """TTOU is blocked, else a background group that asks for the foreground is stopped."""
    try:
        os.tcsetpgrp(0, os.getpgrp())
    except OSError:  # no terminal (ENOTTY, ENXIO), not ours (EPERM), no stdin (EBADF)
        pass


def _complain(program: str, error: OSError) -> None:
    os.write(2, f"pyinit: {program}: {error.strerror}\n".encode("utf-8", "surrogateescape"))


def _wait(pid: int, signals: int, options: Options) -> int:
    """Until the child has ended: forward what comes, reap what ends."""
    while True:
        for number in process.read_signals(signals):
            if number != 17:
                _forward(pid, number, options)
        code = _reap(pid, options)
        if code is not None:
            return 0 if code in options.as_success else code


def _forward(pid: int, number: int, options: Options) -> None:
    if options.verbosity > 1:
        print(f"pyinit: {signal_name(number)} is passed on", file=sys.stderr)
    try:
        os.kill(-pid if options.group else pid, number)  # not reaped yet: the number can't be another's
    except ProcessLookupError:
        pass  # a group whose leader has not made it yet, or has no member left


def _reap(pid: int, options: Options) -> int | None:
    code = None
    while ended := process.exits(256):
        for one, status, killed_by in ended:
            if one == pid:
                code = 128 + killed_by if killed_by else status
            elif options.warn:
                print(f"pyinit: reaped an orphan, pid {one}", file=sys.stderr)
    return code
