"""PID 1's event loop: epoll and a heap of deadlines.

Owns waiting. Must not know what it waits for. asyncio would cost 40 ms at the start and 6-8 MiB for good.
Laws: without a due deadline it sleeps for ever; a callback's exception is reported and the loop goes on;
an fd is removed before it is closed. The reader and writer methods are named as asyncio's are.
"""

import _heapq as heapq  # its core: the module itself is Python
import select
import time
from _collections_abc import Callable

Callback = Callable[[], None]


class Deadline:
    """A callback due at `at_s` (monotonic); `cancel()` is final."""

    __slots__ = ("at_s", "callback")

    def __init__(self, at_s: float, callback: Callback) -> None:
        self.at_s = at_s
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None

    def __lt__(self, other: "Deadline") -> bool:
        return self.at_s < other.at_s


class Loop:
    """Run callbacks for fds, deadlines and `call_soon` until `stop()`."""

    def __init__(self, report: Callable[[Exception], None]) -> None:
        self._report = report
        self._epoll = select.epoll()
        self._readers: dict[int, tuple[Callback, int]] = {}
        self._writers: dict[int, Callback] = {}
        self._deadlines: list[Deadline] = []
        self._soon: list[Callback] = []
        self._running = False
        self._new: set[int] = set()  # that were registered in this turn

    def add_reader(self, fd: int, callback: Callback, *, priority: bool = False) -> None:
        """Call when `fd` is readable; `priority` waits for POLLPRI instead (cgroup.events)."""
        self._readers[fd] = (callback, select.EPOLLPRI if priority else select.EPOLLIN)
        self._update(fd)

    def add_hangup(self, fd: int, callback: Callback) -> None:
        """Call when the other end of `fd` is gone; PermissionError for a regular file. `remove_reader` ends it."""
        self._readers[fd] = (callback, select.EPOLLERR)
        try:
            self._update(fd)
        except PermissionError:
            del self._readers[fd]
            raise

    def remove_reader(self, fd: int) -> None:
        if self._readers.pop(fd, None) is not None:
            self._update(fd)

    def add_writer(self, fd: int, callback: Callback) -> None:
        self._writers[fd] = callback
        self._update(fd)

    def remove_writer(self, fd: int) -> None:
        if self._writers.pop(fd, None) is not None:
            self._update(fd)

    def call_at(self, at_s: float, callback: Callback) -> Deadline:
        """Call at monotonic `at_s`."""
        deadline = Deadline(at_s, callback)
        heapq.heappush(self._deadlines, deadline)
        return deadline

    def call_soon(self, callback: Callback) -> None:
        """Call in the next turn."""
        self._soon.append(callback)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        """Until `stop()`."""
        self._running = True
        while self._running:
            ready = self._epoll.poll(self._timeout())
            self._new.clear()
            for fd, mask in ready:
                if fd in self._new:  # it was told of one that had this number before; of this one we are told again
                    continue
                reader = self._readers.get(fd)
                if reader is not None and mask & (reader[1] | select.EPOLLHUP | select.EPOLLERR):
                    self._call(reader[0])
                writer = self._writers.get(fd)
                if writer is not None and mask & (select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR):
                    self._call(writer)
            self._run_due()

    def _run_due(self) -> None:
        soon, self._soon = self._soon, []
        for callback in soon:
            self._call(callback)
        now = time.monotonic()
        while self._deadlines and (self._deadlines[0].at_s <= now or self._deadlines[0].callback is None):
            due = heapq.heappop(self._deadlines).callback
            if due is not None:
                self._call(due)

    def call(self, callback: Callback) -> None:
        """Call now; an error goes no further."""
        self._call(callback)

    def _call(self, callback: Callback) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - the loop's edge: PID 1 does not die of a callback
            self._report(error)

    def _timeout(self) -> float | None:
        if self._soon:
            return 0
        while self._deadlines and self._deadlines[0].callback is None:
            heapq.heappop(self._deadlines)
        if not self._deadlines:
            return None
        return max(0.0, self._deadlines[0].at_s - time.monotonic())

    def _update(self, fd: int) -> None:
        reader = self._readers.get(fd)
        mask = (reader[1] if reader else 0) | (select.EPOLLOUT if fd in self._writers else 0)
        if not mask:
            self._epoll.unregister(fd)
            return
        try:
            self._epoll.register(fd, mask)
            self._new.add(fd)
        except FileExistsError:
            self._epoll.modify(fd, mask)
