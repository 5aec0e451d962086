"""`catatonit` and `podman-init`: one command, or a pause, as catatonit 0.1.7 runs it.

Owns its options, variables and messages. Must not know how a process is started (single.py). Laws: every signal but faults
is passed on, those that stop a terminal's background are not; not PID 1, it is a subreaper; no fd but its own three stays
open; a pause ends with 0 at TERM or INT.
Source: its -h, and what the program of Debian 12 does.
"""

import posix
import sys

from pyinit.cli import single

_VERSION = "0.1.7"  # what we stand in for
_WAITED = single.SIGNALS - single.FAULTS
_INT, _TERM = 2, 15
_STOPS = frozenset({single.TSTP, single.TTIN, single.TTOU})
_USAGE = "usage: catatonit [-ghLPV] [--] <progname> [<arguments>...]"
_HELP = f"""\
{_USAGE}

options:
  -g              Send signals to the process group of the program.
  -h              Print this help.
  -L              Print the license.
  -P              Pause: run no program, leave at SIGINT or SIGTERM.
  -V, --version   Print the version.
"""
_LICENSE = "pyinit is free software under the Apache License 2.0: https://www.apache.org/licenses/LICENSE-2.0"
_ERROR, _WARN, _INFO, _DEBUG = "ERROR", "WARN", "INFO", "DEBUG"


class Catatonit:
    """What the words and the variables ask for."""

    def __init__(self) -> None:
        self.group = False
        self.pause = False
        self.debug = b"CATATONIT_DEBUG" in posix.environ
        self.command: list[str] = []

    def tell(self, level: str, text: str) -> None:
        if level == _ERROR or self.debug:
            single.say(2, f"{level} (catatonit:{posix.getpid()}): {text}")


def run(words: list[str], _name: str, inherited: single.Inherited) -> int:
    """The exit code of the command."""
    it = Catatonit()
    if b"CATATONIT_LOG" in posix.environ:
        it.tell(_ERROR, "CATATONIT_LOG is reserved for future use")
        return 1
    single.block(_WAITED)
    done = parse(it, words)
    if done is not None:
        return done
    if posix.getpid() != 1:
        from pyinit.linux import early  # its library takes as long as half of ours

        early.prctl(early.PR_SET_CHILD_SUBREAPER, 1)
    pid = 0
    if not it.pause:
        try:
            pid = _start(it, inherited)
        except OSError as error:
            it.tell(_ERROR, f"failed to fork child: {error.strerror}")
            it.tell(_ERROR, f"failed to spawn pid1: {error.strerror}")
            return 1
        it.tell(_DEBUG, f"pid1 ({pid}) spawned: {it.command[0]}")
    posix.closerange(3, posix.sysconf("SC_OPEN_MAX"))
    return _wait(it, pid)


def parse(it: Catatonit, words: list[str]) -> int | None:
    """The exit code of what only tells, or was refused; None to go on."""
    grammar = single.Grammar(words, "ghLPV", {"version": "V"}, permute=True)
    for letter, value in grammar:
        if letter == "g":
            it.group = True
        elif letter == "P":
            it.pause = True
        elif letter == "h":
            single.say(2, _HELP.removesuffix("\n"))
            return 0
        elif letter == "L":
            single.say(1, _LICENSE)
            return 0
        elif letter == "V":  # Docker and Podman look for tini's name
            single.say(1, f"tini version {_VERSION}_catatonit")
            return 0
        else:
            single.say(2, f"{sys.argv[0]}: {value}\n{_USAGE}")
            return 1
    it.command = grammar.rest
    if it.command or it.pause:
        return None
    it.tell(_ERROR, "missing program name")
    single.say(2, _USAGE)
    return 1


def _start(it: Catatonit, inherited: single.Inherited) -> int:
    birth = single.Birth(it.command, inherited.mask | _STOPS)
    birth.ignored = inherited.ignored
    fd = 0
    try:
        fd = posix.open("/dev/tty", posix.O_RDWR | posix.O_CLOEXEC)
    except OSError as error:
        it.tell(_INFO, f"using stdin as tty fd: could not open /dev/tty: {error.strerror}")
    try:
        posix.tcgetpgrp(fd)
        to_foreground = single.in_foreground(fd)
    except OSError as error:
        it.tell(_DEBUG, f"setting foreground process failed: no tty present: {error.strerror}")
        to_foreground = None

    def failed(error: OSError) -> int:
        it.tell(_ERROR, f"failed to exec pid1: {error.strerror}")
        return 1

    return birth.start(failed, to_foreground)


def _wait(it: Catatonit, pid: int) -> int:
    code: int | None = None
    while code is None:
        number = single.wait(_WAITED)
        if number in _STOPS:
            it.tell(_DEBUG, "ignoring kernel attempting to stop us: tty has TOSTOP set")
        elif number == single.CHLD:
            for one, status, killed_by in single.exits():
                if one == pid:
                    code = 128 + killed_by if killed_by else status
                elif killed_by:
                    it.tell(_DEBUG, f"child process {one} exited due to signal {killed_by}")
                else:
                    it.tell(_DEBUG, f"child process {one} exited with code {status}")
            if single.is_childless():
                it.tell(_DEBUG, "got ECHILD: no children left to monitor")
        elif it.pause:
            if number in (_INT, _TERM):
                return 0
        else:
            _pass_on(it, pid, number)
    return code


def _pass_on(it: Catatonit, pid: int, number: int) -> None:
    target = -pid if it.group else pid
    try:
        posix.kill(target, number)  # not reaped yet: the number can't be another's
    except OSError as error:
        it.tell(_WARN, f"forwarding of signal {number} to pid1 ({target}) failed: {error.strerror}")
