"""The logger: one process for the logs of all services.

Owns whose turn it is: pipes, the terminal, clients, what is compressed. Must not know services' lives, nor what
becomes of a line (logstream.py). Laws: it leaves when every pipe has ended, or when PID 1 has (the end of the control
socket), after reading what is there; nothing that a disk, a terminal or a client does stops the reading of the others;
killed at any moment it leaves all to its successor: what was said is in the pipes and the spools, which are PID 1's.
"""

import fcntl
import os
import select
import sys
import termios
import time
from _collections_abc import Callable

from pyinit.init import syslog
from pyinit.init.archives import Compressor
from pyinit.init.journal import Journal
from pyinit.init.logclient import Clients
from pyinit.init.logstream import QUIET_S, Sinks, Source, Stream
from pyinit.init.outlet import Outlet
from pyinit.linux import process
from pyinit.linux import sock as socket
from pyinit.records import NamedTuple

_MOST_MESSAGES = 256  # of syslog, a turn
_STANDSTILL_MS = 200  # at the end: a terminal that takes nothing for so long
_MOST_NEWS = 1000
_HEAP_BYTES = 4 << 20  # a few chunks: what was read, what is written
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class Keep(NamedTuple):
    """What PID 1 keeps for all loggers: the journal, the boxes of standard output and error, /dev/log (-1: none)."""

    journal_fd: int
    out_box: int
    err_box: int
    syslog_fd: int = -1


class Logger:
    def __init__(self, sources: list[Source], log_dir: str, control: socket.socket, keep: Keep, watches: dict[str, str]) -> None:
        """`watches`: by service, the pattern of a line that is waited for."""
        self._control = control
        self._epoll = select.epoll()
        self._news: list[str] = []  # for standard error
        self._outlets = {1: Outlet(1, keep.out_box), 2: Outlet(2, keep.err_box)}
        self._compressor = Compressor(self._epoll, self._say)
        journal = Journal(keep.journal_fd)
        sinks = Sinks(self._outlets, self._seen, self._publish, painter([source.name for source in sources]))
        self._streams = {s.fd: Stream(s, log_dir, journal, sinks, self._compressor.add) for s in sources}
        for stream in self._streams.values():
            stream.expect(watches.get(stream.source.name, ""))
        self._stalled: set[int] = set()  # pipes that wait until something has gone out
        self._suppressing: dict[int, float] = {}  # when it is time to say how many lines were suppressed
        self._clients = Clients([*self._streams.values()], log_dir, self._epoll, self._obey)
        self._syslog = socket.socket(fileno=keep.syslog_fd) if keep.syslog_fd >= 0 else None
        self._watched: set[int] = set()  # outlets in epoll
        self._ending = False

    def run(self) -> None:
        """Until every pipe has ended, or PID 1 wants no more of us."""
        for fd in self._streams:
            self._epoll.register(fd, select.EPOLLIN)
        self._epoll.register(self._control.fileno(), select.EPOLLIN)
        if self._syslog is not None:
            self._epoll.register(self._syslog.fileno(), select.EPOLLIN)
        self._hear()  # whose lines are waited for, before the first is read
        self._resume()
        while self._streams and not self._ending and not self._clients.must_make_way:
            ready = self._epoll.poll(self._patience())
            ready.sort(key=lambda pair: pair[0] != self._control.fileno())  # PID 1 asks for a line before it can come
            for fd, mask in ready:
                self._call(fd, mask)
            self._after_a_turn()
        if self._clients.must_make_way:
            self._clients.hand_over(self._control)
        else:
            self._read_to_the_end()
            self._clients.finish()
        self._compressor.close()

    def _resume(self) -> None:
        """What a predecessor was at, and what has come since."""
        for stream in list(self._streams.values()):
            self._advance(stream)
            if stream.source.spec.compress and stream.file is not None:
                self._compressor.take_over(stream.file.folder, stream.source.stream)
        self._after_a_turn()

    def _call(self, fd: int, mask: int) -> None:
        try:
            self._serve(fd, mask)
        except Exception as error:  # noqa: BLE001 - the process's edge: what fails for one is no reason to stop for all
            self._say(f"logger: {type(error).__name__}: {error}")

    def _serve(self, fd: int, mask: int) -> None:
        if fd in self._streams:
            self._pump(self._streams[fd])
        elif fd == self._control.fileno():
            self._hear()
        elif self._syslog is not None and fd == self._syslog.fileno():
            self._collect()
        elif fd == self._compressor.pidfd:
            self._compressor.ended()
        elif fd in [outlet.wait_fd for outlet in self._outlets.values()]:
            pass  # _after_a_turn sends
        else:
            self._clients.serve(fd, mask)

    def _hear(self) -> None:
        try:
            while self._clients.accept(self._control):
                pass
        except EOFError:
            self._ending = True

    def _obey(self, words: list[str]) -> None:
        """watch NAME PATTERN, or unwatch NAME."""
        for stream in self._streams.values():
            if stream.source.name == words[1]:
                stream.expect(words[2] if words[0] == "watch" else "")

    def _seen(self, name: str) -> None:
        self._control.send(b"seen\0" + name.encode())
        for stream in self._streams.values():
            if stream.source.name == name:
                stream.expect("")

    def _publish(self, source: Source, data: bytes, mark: tuple[int, int]) -> None:
        self._clients.publish(source, data, mark)

    # Streams

    def _pump(self, stream: Stream) -> int:
        """One chunk of one pipe, so that a loud service does not starve the others; how many bytes it had."""
        fd = stream.source.fd
        if stream.has_ended:
            return False
        if stream.is_full:
            if fd not in self._stalled:
                self._stalled.add(fd)
                self._epoll.unregister(fd)
            return 0
        try:
            count = stream.spool.fill(fd)
        except BlockingIOError:
            return 0
        if not count:
            stream.has_ended = True
            self._epoll.unregister(fd)
            self._stalled.discard(fd)
        self._advance(stream)
        return count

    def _advance(self, stream: Stream) -> None:
        """As many steps as can be done now."""
        while stream.step():
            self._send()
        fd = stream.source.fd
        if stream.file is not None and stream.file.news:
            self._say(f"log of {stream.source.name}: {stream.file.news}: lines are dropped until that is mended")
            stream.file.news = ""
        if stream.suppressed:
            self._suppressing[fd] = time.monotonic() + QUIET_S
        if fd in self._stalled and not stream.is_full:
            self._stalled.discard(fd)
            self._epoll.register(fd, select.EPOLLIN)
        if stream.has_ended and stream.waits_for is None:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        """Nothing of it is left here: PID 1 may forget it."""
        if stream.lost_bytes:
            self._say(f"log of {stream.source.name}: {stream.lost_bytes} bytes were lost at its end")
        stream.close()
        del self._streams[stream.source.fd]
        self._suppressing.pop(stream.source.fd, None)
        os.close(stream.source.fd)
        os.close(stream.source.spool_fd)
        if not self._ending:
            self._control.send(b"ended\0%d" % stream.source.slot)

    def _after_a_turn(self) -> None:
        """The terminal may have taken something: those who waited for it go on."""
        self._send()
        while waiting := [stream for stream in self._streams.values() if stream.waits_for is not None and stream.waits_for.is_free]:
            for stream in waiting:
                self._advance(stream)
            self._send()
        for fd in [fd for fd, at_s in self._suppressing.items() if at_s <= time.monotonic()]:
            del self._suppressing[fd]
            self._streams[fd].say_suppressed()
        if self._news and self._outlets[2].is_free:
            self._outlets[2].fill("".join(self._news).encode("utf-8", "replace"))
            self._news = []
            self._outlets[2].send()
        self._watch_outlets()

    def _send(self) -> None:
        for outlet in self._outlets.values():
            if not outlet.is_free:
                outlet.send()

    def _watch_outlets(self) -> None:
        for outlet in self._outlets.values():
            if outlet.wait_fd < 0 or outlet.is_free == (outlet.wait_fd not in self._watched):
                continue
            if outlet.is_free:
                self._watched.discard(outlet.wait_fd)
                self._epoll.unregister(outlet.wait_fd)
            else:
                self._watched.add(outlet.wait_fd)
                self._epoll.register(outlet.wait_fd, select.EPOLLOUT)

    def _patience(self) -> float | None:
        if not self._suppressing:
            return None
        return max(0.0, min(self._suppressing.values()) - time.monotonic())

    def _read_to_the_end(self) -> None:
        """What is in the pipes now, then an end, whoever holds or fills them still; the terminal gets the time that PID 1 gives us."""
        self._ending = True
        self._collect()
        left = {fd: _bytes_in(fd) for fd in self._streams}
        while self._streams:
            moved = sum([self._drain(stream, left) for stream in list(self._streams.values())])
            self._after_a_turn()
            if not moved and self._streams and not self._wait_for_outlets():
                for stream in self._streams.values():
                    stream.hurries = True
        while self._news or not all(outlet.is_free for outlet in self._outlets.values()):
            self._after_a_turn()
            self._wait_for_outlets()

    def _drain(self, stream: Stream, left: dict[int, int]) -> bool:
        """One chunk of one pipe; False if it has to wait."""
        fd = stream.source.fd
        count = self._pump(stream) if left[fd] > 0 and not stream.has_ended else 0
        left[fd] -= count
        if not count and not stream.is_full:
            stream.has_ended = True
        if fd in self._streams:
            self._advance(stream)
        return count > 0 or fd not in self._streams

    def _wait_for_outlets(self) -> bool:
        """Until one takes something; False if none does for a while."""
        poll = select.poll()
        for outlet in self._outlets.values():
            if not outlet.is_free and outlet.wait_fd >= 0:
                poll.register(outlet.wait_fd, select.POLLOUT)
        ready = poll.poll(_STANDSTILL_MS)
        self._send()
        return bool(ready)

    # Syslog

    def _collect(self) -> None:
        """Messages go behind what their service said itself, each a line of its own."""
        if self._syslog is None:
            return
        for _ in range(_MOST_MESSAGES):
            try:
                message, pid = syslog.receive(self._syslog)
            except BlockingIOError:
                return
            tag, line = syslog.line(message)
            stream = self._collector(tag, pid)
            if stream is not None:
                stream.spool.put(b"\n" * stream.ends_mid_line + line)
                self._advance(stream)

    def _collector(self, tag: str, pid: int) -> Stream | None:
        them = [s for s in self._streams.values() if s.source.spec.to == "syslog" and s.source.stream == "stdout"]
        name = syslog.service_of(pid, [stream.source.name for stream in them]) if len(them) > 1 else ""
        for stream in them:
            if stream.source.name == name or (not name and tag and tag in (stream.source.name, stream.source.program)):
                return stream
        return them[0] if them else None

    def _say(self, text: str) -> None:
        """On standard error, when it is free; one that takes nothing for long loses the rest."""
        if len(self._news) < _MOST_NEWS:
            self._news.append(f"pyinit: {text}\n")


def painter(names: list[str]) -> Callable[[str], bytes]:
    """The prefix of a service's lines: its name, coloured on a terminal, as wide there as the longest."""
    colour = os.isatty(1) and "NO_COLOR" not in os.environ
    width = max(map(len, names), default=0)
    prefixes = {"": b""}
    for number, name in enumerate(dict.fromkeys(name for name in names if name)):
        text = f"\x1b[{_COLOURS[number % len(_COLOURS)]}m{name:<{width}} |\x1b[0m " if colour else f"{name}: "
        prefixes[name] = text.encode()
    return prefixes.__getitem__


def _bytes_in(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def run(sources: list[Source], log_dir: str, control: socket.socket, keep: Keep, watches: dict[str, str] | None = None) -> None:
    """The whole life of the logger's process, which is a fork of PID 1 with all signals blocked."""
    process.set_name("pyinit-logger")
    process.keep_heap(_HEAP_BYTES)
    Logger(sources, log_dir, control, keep, watches or {}).run()
