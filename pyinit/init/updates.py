"""`pyinit update`: other limits for what runs, up to the next reload.

Owns what the limits are by now, and the question to the monitor. Must not know files of groups (limiting.py). Laws: an
update holds whole, or changes nothing; the container's own limits are written by the monitor, where there is one: to a
process inside, its group is the root of a cgroup namespace, which may not be limited from within (nsdelegate,
cgroup-v2.rst); one at a time.
"""

import os
import time
from _collections_abc import Callable

from pyinit.core.limits import updated, words
from pyinit.errors import EXIT_FAILED, ControlError
from pyinit.init.loop import Deadline
from pyinit.linux import sock as socket
from pyinit.model import CgroupLimits
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.init.pid1 import Init

CHANGE = b"limits\n"
WHOLE = "(container)"  # no service can have that name
_PATIENCE_S = 30.0  # memory may have to be given back first
_MOST_TEXT = 8192
_NO_LIMITS = ("origin", "pressure")
Answer = Callable[[dict[str, object]], None]


def write_limits(limits: CgroupLimits) -> bytes:
    """What the monitor is told."""
    import json  # once an update

    return CHANGE + json.dumps({key: value for key, value in limits._asdict().items() if key not in _NO_LIMITS}).encode()


def read_limits(data: bytes) -> CgroupLimits:
    """In the monitor; ValueError."""
    import json

    return updated(CgroupLimits(), json.loads(data.removeprefix(CHANGE)))


class Updates:
    def __init__(self, init: "Init") -> None:
        self._init = init
        box = init.config.container
        self._whole = box.cgroup if box is not None and init.endpoints.read_config is None else CgroupLimits()
        self._fd = -1  # of the question to the monitor that is under way
        self._deadline: Deadline | None = None

    def update(self, name: str, said: dict[str, object], answer: Answer) -> None:
        """`answer` gets {"ok": true} or {"error": ...}; ControlError."""
        old = self._init.supervisor.spec(name).cgroup if name else self._whole
        try:
            new = updated(old, said)
        except ValueError as error:
            raise ControlError(f"{name or WHOLE}: {error}; nothing was changed") from error

        def done(why: str) -> None:
            if why:
                answer({"error": f"{name or WHOLE}: {why}; nothing was changed", "exit_code": EXIT_FAILED})
                return
            if name:
                self._init.supervisor.amend(name, new)
            else:
                self._whole = new
            self._init.happened(name or WHOLE, "updated", " ".join(words(new)) or "no limits")
            answer({"ok": True})

        if name:
            done(self._init.groups.exchange(name, old, new))
        else:
            self._exchange_whole(old, new, done)

    def restore(self) -> None:
        """The config was read again: its limits of the container hold; those of services are the reload's."""
        box = self._init.config.container
        said = box.cgroup if box is not None and self._init.endpoints.read_config is None else CgroupLimits()
        if said._replace(origin=self._whole.origin) != self._whole:
            fields = {key: value for key, value in said._asdict().items() if key not in _NO_LIMITS}

            def done(answer: dict[str, object]) -> None:
                if "error" in answer:
                    self._init.log(f"reload: {answer['error']}")

            try:
                self.update("", fields, done)
            except ControlError as error:
                self._init.log(f"reload: {error}")

    def close(self) -> None:
        if self._fd >= 0:
            self._end()

    def _exchange_whole(self, old: CgroupLimits, new: CgroupLimits, done: Callable[[str], None]) -> None:
        if self._fd >= 0:
            raise ControlError("another update is under way: try again")
        if self._init.endpoints.read_config is not None:
            done(self._init.groups.exchange_whole(old, new))
            return
        self._fd, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            with socket.socket(fileno=os.dup(self._init.endpoints.channel_fd)) as channel:
                socket.send_fds(channel, [write_limits(new)], [write_end])
        except OSError:  # the monitor is gone, and we go on without it
            os.close(self._fd)
            self._fd = -1
            done(self._init.groups.exchange_whole(old, new))
            return
        finally:
            os.close(write_end)
        os.set_blocking(self._fd, False)
        text: list[bytes] = []

        def read() -> None:
            data = os.read(self._fd, _MOST_TEXT)
            text.append(data)
            if not data:
                self._end()
                done(b"".join(text).decode("utf-8", "replace"))

        def late() -> None:
            self._end()
            done(f"no answer of the monitor within {_PATIENCE_S:g} s")

        self._init.loop.add_reader(self._fd, read)
        self._deadline = self._init.loop.call_at(time.monotonic() + _PATIENCE_S, late)

    def _end(self) -> None:
        self._init.loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        if self._deadline is not None:
            self._deadline.cancel()
