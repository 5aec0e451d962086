"""`dumb-init`: one command as dumb-init 1.2 runs it.

Owns its options, variables and messages. Must not know how a process is started (single.py). Laws: every signal is passed
on, faults too, to the whole session's group, as it is rewritten; what a terminal stops, stops us too; when the command has
ended, TERM goes to what is left of its group, and we leave; the command starts with no signal blocked or ignored.
Source: its --help, and what the program of Debian 12 does.
"""

import _signal  # type: ignore[import-not-found]  # as single.py
import fcntl
import posix
import sys

from pyinit.cli import single

_VERSION = "1.2.5"  # what we stand in for
_MOST = 31  # no realtime signal is rewritten
_HUP, _TERM, _CONT = 1, 15, 18
_TIOCNOTTY, _TIOCSCTTY = 0x5422, 0x540E
_STOPS = (single.TSTP, single.TTOU, single.TTIN)
_CANT_EXEC = 2
_LONG = {"help": "h", "single-child": "c", "rewrite": "r", "verbose": "v", "version": "V"}
_HELP = """\
dumb-init v{version}
Usage: {name} [option] command [[arg] ...]

dumb-init is a simple process supervisor that forwards signals to children.
It is designed to run as PID1 in minimal container environments.

Optional arguments:
   -c, --single-child   Run in single-child mode.
                        In this mode, signals are only proxied to the
                        direct child and not any of its descendants.
   -r, --rewrite s:r    Rewrite received signal s to new signal r before proxying.
                        To ignore (not proxy) a signal, rewrite it to 0.
                        This option can be specified multiple times.
   -v, --verbose        Print debugging information to stderr.
   -h, --help           Print this help message and exit.
   -V, --version        Print the current version and exit.

Full help is available online at https://github.com/Yelp/dumb-init"""  # as it is: its own suite asks for each letter of it


class DumbInit:
    """What the words and the variables ask for, and what is known of the command."""

    def __init__(self) -> None:
        self.debug = False
        self.setsid = True
        self.rewritten: dict[int, int] = {}
        self.command: list[str] = []
        self.ignored_once: set[int] = set()  # what the terminal says when it is given away
        self.pid = 0

    def tell(self, text: str) -> None:
        if self.debug:
            single.say(2, f"[dumb-init] {text}")


def run(words: list[str], _name: str, _inherited: single.Inherited) -> int:
    """The exit code of the command."""
    it = DumbInit()
    done = parse(it, words)
    if done is not None:
        return done
    single.block(single.SIGNALS)
    for number in range(1, _MOST + 1):  # a signal that is ignored would be so in the command
        if number not in (9, single.STOP):
            _signal.signal(number, _signal.SIG_DFL)
    if it.setsid:
        _leave_terminal(it)

    birth = single.Birth(it.command, frozenset(), session=it.setsid, group=False)

    def in_process() -> None:
        if it.setsid:
            _take_terminal(it)
            it.tell("setsid complete.")

    def failed(error: OSError) -> int:
        single.say(2, f"[dumb-init] {it.command[0]}: {error.strerror}")
        return _CANT_EXEC

    try:
        it.pid = birth.start(failed, in_process)
    except OSError:
        single.say(2, "[dumb-init] Unable to fork. Exiting.")
        return 1
    it.tell(f"Child spawned with PID {it.pid}.")
    try:
        posix.chdir("/")  # what we stand in can be unmounted
    except OSError as error:
        it.tell(f'Unable to chdir("/") (errno={error.errno} {error.strerror})')
    code: int | None = None
    while code is None:
        code = _handle(it, single.wait(single.SIGNALS))
    return code


def parse(it: DumbInit, words: list[str]) -> int | None:
    """The exit code of what only tells, or was refused; None to go on."""
    grammar = single.Grammar(words, "hvVcr:", _LONG, permute=False)
    for letter, value in grammar:
        if letter == "h":
            single.say(2, _HELP.format(version=_VERSION, name=sys.argv[0]))
            return 0
        if letter == "V":
            single.say(2, f"dumb-init v{_VERSION}")
            return 0
        if letter == "?":
            single.say(2, f"{sys.argv[0]}: {value}")
            return 1
        if letter == "v":
            it.debug = True
        elif letter == "c":
            it.setsid = False
        elif not _rewrite(it, value):
            single.say(
                2,
                f"Usage: -r option takes <signum>:<signum>, where <signum> is between 1 and {_MOST}.\n"
                "This option can be specified multiple times.\nUse --help for full usage.",
            )
            return 1
    it.command = grammar.rest
    if not it.command:
        single.say(2, f"Usage: {sys.argv[0]} [option] program [args]\nTry {sys.argv[0]} --help for full usage.")
        return 1
    if posix.environ.get(b"DUMB_INIT_DEBUG") == b"1":
        it.debug = True
        it.tell("Running in debug mode.")
    if posix.environ.get(b"DUMB_INIT_SETSID") == b"0":
        it.setsid = False
        it.tell("Not running in setsid mode.")
    if it.setsid:  # a process of another session that TSTP is sent to would not stop: its group is an orphan
        for number in _STOPS:
            it.rewritten.setdefault(number, single.STOP)
    return None


def _rewrite(it: DumbInit, text: str) -> bool:
    """Two numbers as scanf's "%d:%d" takes them; what stands behind is nobody's."""
    number, behind = single.leading_number(text)
    instead, _ = single.leading_number(behind[1:])
    if number is None or instead is None or behind[:1] != ":" or not (1 <= number <= _MOST and 0 <= instead <= _MOST):
        return False
    it.rewritten[number] = instead
    return True


def _leave_terminal(it: DumbInit) -> None:
    """So that the command's session can have it."""
    try:
        fcntl.ioctl(0, _TIOCNOTTY)
    except OSError as error:
        it.tell(f"Unable to detach from controlling tty (errno={error.errno} {error.strerror}).")
        return
    if posix.getsid(0) == posix.getpid():  # then the kernel sends these to us
        it.tell("Detached from controlling tty, ignoring the first SIGHUP and SIGCONT we receive.")
        it.ignored_once = {_HUP, _CONT}
    else:
        it.tell("Detached from controlling tty, but was not session leader.")


def _take_terminal(it: DumbInit) -> None:
    try:
        fcntl.ioctl(0, _TIOCSCTTY, 0)
    except OSError as error:
        it.tell(f"Unable to attach to controlling tty (errno={error.errno} {error.strerror}).")


def _handle(it: DumbInit, number: int) -> int | None:
    """The exit code, once the command has ended."""
    it.tell(f"Received signal {number}.")
    if number in it.ignored_once:
        it.tell(f"Ignoring tty hand-off signal {number}.")
        it.ignored_once.discard(number)
    elif number == single.CHLD:
        return _reap(it)
    else:
        _pass_on(it, number)
        if number in _STOPS:
            it.tell("Suspending self due to TTY signal.")
            posix.kill(posix.getpid(), single.STOP)
    return None


def _reap(it: DumbInit) -> int | None:
    for pid, status, killed_by in single.exits():
        if killed_by:
            it.tell(f"A child with PID {pid} was terminated by signal {killed_by}.")
        else:
            it.tell(f"A child with PID {pid} exited with exit status {status}.")
        if pid == it.pid:
            code = 128 + killed_by if killed_by else status
            _pass_on(it, _TERM)  # to what is left of its group
            it.tell(f"Child exited with status {code}. Goodbye.")
            return code
    return None


def _pass_on(it: DumbInit, number: int) -> None:
    instead = it.rewritten.get(number)
    if instead is not None:
        it.tell(f"Translating signal {number} to {instead}.")
        number = instead
    if number == 0:
        it.tell(f"Not forwarding signal {number} to children (ignored).")
        return
    try:
        posix.kill(-it.pid if it.setsid else it.pid, number)
    except OSError:  # it has gone, or is not its group's leader yet
        pass
    it.tell(f"Forwarded signal {number} to children.")
