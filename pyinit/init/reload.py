"""`pyinit reload`: the config is read by another process, checked there, and comes here whole.

Owns the way of a new config into a running init. Must not know TOML. Laws: PID 1 never reads the file; a bad file
changes nothing; what can't change while it runs is refused, by its name.
"""

import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyinit.errors import EXIT_CONFIG, EXIT_FAILED, PyinitError
from pyinit.init.loop import Deadline
from pyinit.linux import process
from pyinit.model import Config, without_places

if TYPE_CHECKING:
    from pyinit.init.pid1 import Init

_PATIENCE_S = 30.0
_MOST_BYTES = 64 << 20
Answer = Callable[[dict[str, object]], None]


def write_config(fd: int, read: Callable[[], Config]) -> None:
    """In the reader's process: the config, or why there is none, to `fd`."""
    import pickle  # once a reload: PID 1 itself has no need of it before

    try:
        data = pickle.dumps(("config", read()))
    except PyinitError as error:
        data = pickle.dumps(("error", str(error)))
    except Exception as error:  # noqa: BLE001 - the process's edge: PID 1 must hear of it
        data = pickle.dumps(("error", f"{type(error).__name__}: {error}"))
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Reload:
    def __init__(self, init: "Init") -> None:
        self._init = init
        self._waiting: list[Answer] = []
        self._fd = -1
        self._data = b""
        self._deadline: Deadline | None = None

    def request(self, answer: Answer) -> None:
        """`answer` gets {"ok": true, "added": [...], ...} or {"error": ...}; who asks meanwhile gets the same."""
        self._waiting.append(answer)
        if self._fd >= 0:
            return
        self._fd, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._data = b""
        try:
            os.set_blocking(write_end, True)
            self._ask(write_end)
        except OSError as error:
            os.close(self._fd)
            self._finish({"error": f"reload: nobody reads the config: {error.strerror}", "exit_code": EXIT_FAILED})
            return
        finally:
            os.close(write_end)
        self._init.loop.add_reader(self._fd, self._read)
        self._deadline = self._init.loop.call_at(time.monotonic() + _PATIENCE_S, self._late)

    def _ask(self, write_end: int) -> None:
        """The monitor, which is on the host, as the file is; without one a child of ours."""
        read = self._init.endpoints.read_config
        if read is None:
            with socket.socket(fileno=os.dup(self._init.endpoints.channel_fd)) as channel:
                socket.send_fds(channel, [b"reload"], [write_end])
            return
        pid, pidfd = process.clone(0)
        if pid:
            os.close(pidfd)
            return
        try:
            write_config(write_end, read)
        finally:
            os._exit(0)

    def _read(self) -> None:
        data = os.read(self._fd, 1 << 16)
        self._data += data
        if not data or len(self._data) > _MOST_BYTES:
            self._end()
            self._finish(self._apply())

    def _late(self) -> None:
        self._end()
        self._finish({"error": f"reload: no config within {_PATIENCE_S:g} s; nothing was changed", "exit_code": EXIT_FAILED})

    def _end(self) -> None:
        self._init.loop.remove_reader(self._fd)
        os.close(self._fd)
        if self._deadline is not None:
            self._deadline.cancel()

    def _finish(self, answer: dict[str, object]) -> None:
        self._fd = -1
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one(answer)

    def _apply(self) -> dict[str, object]:
        import pickle  # see write_config; what comes here was written by our own code, outside any service

        try:
            kind, value = pickle.loads(self._data)
        except (EOFError, pickle.UnpicklingError):
            return {"error": "reload: the reader ended without a config; nothing was changed", "exit_code": EXIT_FAILED}
        if kind == "error":
            return {"error": value, "exit_code": EXIT_CONFIG}
        refusal = self._refusal(value)
        if refusal:
            return {"error": refusal, "exit_code": EXIT_FAILED}
        found = self._init.take_config(value)
        return {"ok": True, **{key: list(names) for key, names in found._asdict().items()}}

    def _refusal(self, new: Config) -> str:
        old = self._init.config
        if self._init.supervisor.stopping:
            return "reload: the init is stopping; nothing was changed"
        if without_places(old.container) != without_places(new.container):
            return "reload: [container] differs, and can't change while it runs: restart the container; nothing was changed"
        for key in ("control_socket", "state_dir", "log_dir", "environment", "environment_clear"):
            if getattr(old.init, key) != getattr(new.init, key):
                return f"reload: [init] {key} differs, and can't change while pyinit runs: restart it; nothing was changed"
        return ""
