"""What lies between the user's terminal, pipes and files, and a command elsewhere.

Owns the bytes on their way, the raw mode and the window's size. Must not know where the command runs. Laws: the user's own
terminal never goes where the command is: that has one of its own, or pipes; whatever ends us but KILL, the terminal is
as it was; what the command wrote before its end is whole.
"""

import errno
import os
import select
import signal
import termios
from _collections_abc import Callable, Iterable
from types import FrameType

from pyinit.errors import ControlError
from pyinit.linux import pty
from pyinit.linux import sock as socket
from pyinit.linux.fds import receive

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
_ENDING = (signal.SIGTERM, signal.SIGHUP)
_PIECE, _WORD = 1 << 16, 16
_MOST_LEFT = 1 << 21  # of what comes after the command's end, from whom it left behind: more than a terminal and a pipe hold
_LFLAG, _CC = 3, 6
_NO_WINDOW = (24, 80)  # what a VT100 has


class LeftError(ControlError):
    """A signal ended us, and not the command."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}; the command is hung up on", exit_code=128 + number)


class Stream:
    """Bytes from one descriptor to another; `at_end` is called when all of them are there."""

    def __init__(self, source: int, sink: int, at_end: Callable[["Stream"], None] = lambda _: None, *, is_output: bool) -> None:
        self.source, self.sink = source, sink
        self.pending = b""
        self.last = b"\n"  # byte that was read
        self.ended = False  # nothing more comes
        self.is_output = is_output  # ours to write, which may block; else it is the command's to read, which may take its time
        self._at_end = at_end

    def read(self) -> bool:
        """Take some; False for nothing there."""
        try:
            data = os.read(self.source, _PIECE)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # of a terminal that nobody has open on its other side
                raise
            data = b""
        self.pending += data
        self.last = data[-1:] or self.last
        if not data:
            self.ended = True
            if not self.pending:
                self._at_end(self)
        return bool(data)

    def write(self) -> None:
        try:
            while self.pending:
                self.pending = self.pending[os.write(self.sink, self.pending) :]
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO) or self.is_output:
                raise
            self.ended, self.pending = True, b""  # nobody reads what we bring
            return
        if self.ended:
            self._at_end(self)


    def drain(self) -> None:
        """What is there now: nothing, once who wrote it has ended and we have read it."""
        left = _MOST_LEFT
        while True:
            while self.pending:
                select.select([], [self.sink], [])
                self.write()
            if left <= 0 or not self.read():
                return
            left -= len(self.pending)


class Streams:
    """All of them, until `ends` can be read: a pidfd, a connection."""

    def __init__(self) -> None:
        self._streams: list[Stream] = []
        self._owned: list[int] = []

    def __enter__(self) -> "Streams":  # noqa: PYI034 - typing costs 9 ms, and nobody inherits
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._owned:
            os.close(fd)

    def add_terminal(self, master: int, stdin: int = 0, stdout: int = 1) -> None:
        """The user sits before `master`, which becomes ours."""
        os.set_blocking(master, False)
        self._owned.append(master)
        self._streams += [Stream(stdin, master, _end_of_input, is_output=False), Stream(master, stdout, is_output=True)]

    def add_pipes(self, *, with_input: bool) -> tuple[int, int, int]:
        """What the command may have for our 0, 1 and 2: in place of a terminal a pipe. Those above 2 are the caller's to close.

        Without `with_input` nothing is read from a terminal: somebody else may be reading there, as in `... | less`.
        """
        found = [0, 1, 2]
        if os.isatty(0) and not with_input:
            found[0] = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        elif os.isatty(0):
            found[0], sink = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(sink, False)
            self._streams.append(Stream(0, sink, self._close_sink, is_output=False))
            self._owned.append(sink)
        for fd in (1, 2):
            if os.isatty(fd):
                source, found[fd] = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(source, False)
                self._streams.append(Stream(source, fd, is_output=True))
                self._owned.append(source)
        return found[0], found[1], found[2]

    def _close_sink(self, stream: Stream) -> None:
        self._owned.remove(stream.sink)
        os.close(stream.sink)

    def run(self, ends: int) -> None:
        """Until the command has ended and what it wrote is out."""
        poll = select.poll()
        poll.register(ends, select.POLLIN)
        while True:
            ready = self._wait(poll)
            if ends in ready:
                break
            for stream in self._streams:
                if stream.source in ready and not stream.ended and not stream.pending:
                    stream.read()
                if stream.pending and (stream.is_output or stream.sink in ready):
                    stream.write()
        for stream in [one for one in self._streams if one.is_output]:
            stream.drain()

    def _wait(self, poll: select.poll) -> set[int]:
        """What can be read, or written to; each is looked at only while it is waited for."""
        waited = [(one.sink, select.POLLOUT) if one.pending else (one.source, select.POLLIN) for one in self._streams if one.pending or not one.ended]
        masks: dict[int, int] = {}
        for fd, mask in waited:
            masks[fd] = masks.get(fd, 0) | mask
        for fd, mask in masks.items():
            poll.register(fd, mask)
        try:
            return {fd for fd, _ in poll.poll()}
        finally:
            for fd in masks:
                poll.unregister(fd)


def _end_of_input(stream: Stream) -> None:
    """What a user would type: once for the end of a line that has none, and once for the end."""
    found = termios.tcgetattr(stream.sink)
    if found[_LFLAG] & termios.ICANON:
        mark = found[_CC][termios.VEOF]
        with_block = mark if stream.last == b"\n" else mark * 2
        try:
            os.write(stream.sink, with_block)
        except BlockingIOError:  # nobody reads: there is no room for a line's end either
            pass


def receive_master(mine: socket.socket, spare: int) -> int:
    """The master that comes through `mine`, or `spare`, whichever it is; -1 if there is to be none, for the command has failed."""
    data, fds = receive(mine, _WORD, 1)
    for fd in fds:
        if data == pty.MADE and pty.is_master(fd):
            return fd
        os.close(fd)
    return spare if data == pty.SPARE else -1


class Signals:
    """While it is entered: signals go to `forward`; before a terminal TERM and HUP end us, by LeftError."""

    def __init__(self, forward: Callable[[int], None], master: int = -1) -> None:
        self._forward = forward
        self._master = master
        self._saved: list[object] | None = None
        self._leaving = False

    def __enter__(self) -> None:
        try:
            self._begin()
        except BaseException:
            self._restore()
            raise

    def _begin(self) -> None:
        for number in FORWARDED:
            signal.signal(number, self._came)
        if self._master >= 0:
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # or we could not give a terminal back that we are in the background of
            signal.signal(signal.SIGCONT, self._came)
            if os.isatty(0):
                self._saved = termios.tcgetattr(0)
                self._make_raw()
            self._resize()

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        self._leaving = True
        if self._saved is not None:
            try:
                termios.tcsetattr(0, termios.TCSANOW, self._saved)  # type: ignore[arg-type]
            except termios.error:  # it has been hung up
                pass

    def _came(self, number: int, _frame: FrameType | None) -> None:
        if self._leaving:
            return
        if self._master < 0:
            self._forward(number)
        elif number in _ENDING:
            self._restore()  # here: there is no telling where this is raised, which may be in the midst of __exit__
            raise LeftError(number)
        elif number == signal.SIGCONT:  # a shell has used it meanwhile
            self._make_raw()
            self._resize()
        elif number == signal.SIGWINCH:
            self._resize()
        else:
            self._forward(number)

    def _make_raw(self) -> None:
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSANOW, raw(self._saved))  # type: ignore[arg-type]

    def _resize(self) -> None:
        pty.set_size(self._master, *window_size())


def raw(attributes: Iterable[object]) -> list[object]:
    """As cfmakeraw(3) has it: each key goes to the other side as it is, and what comes from there has been formatted there."""
    iflag, oflag, cflag, lflag, ispeed, ospeed, cc = attributes
    assert isinstance(iflag, int) and isinstance(oflag, int) and isinstance(cflag, int) and isinstance(lflag, int) and isinstance(cc, list)
    t = termios
    iflag &= ~(t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON)
    lflag &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
    keys = list(cc)
    keys[t.VMIN], keys[t.VTIME] = 1, 0
    return [iflag, oflag & ~t.OPOST, cflag & ~(t.CSIZE | t.PARENB) | t.CS8, lflag, ispeed, ospeed, keys]


def window_size() -> tuple[int, int]:
    """(rows, columns) of the user's terminal, or what a command may expect where there is none."""
    return next((found for fd in (0, 1, 2) if (found := pty.size(fd)) is not None), _NO_WINDOW)


def is_wanted() -> bool:
    """Whether a user sits there."""
    return os.isatty(0) and os.isatty(1)


def own_pair() -> tuple[int, int]:
    """(master, slave) of where we are; (-1, -1) if there are none."""
    try:
        return pty.open_pair()
    except OSError:
        return -1, -1
