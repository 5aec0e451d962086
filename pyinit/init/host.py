"""What the control socket may ask of the init.

Owns the answers of `status` and the way a request becomes an event. Must not know sockets.
"""

import os
import time
from typing import TYPE_CHECKING

from pyinit import __version__
from pyinit.core import events as e
from pyinit.core.supervisor import ServiceView
from pyinit.errors import ControlError

if TYPE_CHECKING:
    from pyinit.init.pid1 import Init

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


class Host:
    """The init as its control server sees it."""

    def __init__(self, init: "Init") -> None:
        self._init = init
        self._since = time.monotonic()

    def names(self) -> tuple[str, ...]:
        return self._init.supervisor.names

    def view(self, name: str) -> ServiceView:
        return self._init.supervisor.view(name)

    def status(self) -> dict[str, object]:
        now = time.monotonic()
        state = "stopping" if self._init.supervisor.stopping else "running"
        own = {"pid": os.getpid(), "version": __version__, "uptime_s": round(now - self._since, 3), "state": state}
        return {"init": own, "services": [self._service(name, now) for name in self.names()]}

    def _service(self, name: str, now: float) -> dict[str, object]:
        view = self.view(name)
        memory, cpu = self._usage(name) if view.pid else (0, 0.0)
        return {
            "name": view.name, "state": view.state.value, "target": view.target, "pid": view.pid or None,
            "ready": view.ready, "uptime_s": round(now - view.since_s, 3) if view.pid else None,
            "restarts": view.restarts, "exit": {"code": view.exit_code, "signal": view.exit_signal},
            "reason": view.reason, "memory_bytes": memory, "cpu_s": cpu,
        }  # fmt: skip

    def _usage(self, name: str) -> tuple[int, float]:
        """Resident bytes and CPU seconds of all its live processes (proc_pid_stat(5))."""
        memory, ticks = 0, 0
        for pid in self._init.groups.members(name):
            try:
                with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
                    fields = file.read(1024).rpartition(b")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            ticks += int(fields[11]) + int(fields[12])
            memory += int(fields[21]) * _PAGE
        return memory, round(ticks / _TICKS, 2)

    def start(self, name: str) -> None:
        self._refuse_while_stopping(name)
        self._init.tell(e.StartRequested(name))

    def stop(self, name: str) -> None:
        self._init.tell(e.StopRequested(name))

    def restart(self, name: str) -> None:
        self._refuse_while_stopping(name)
        self._init.tell(e.RestartRequested(name))

    def signal(self, name: str, number: int) -> None:
        if not self.view(name).pid:
            raise ControlError(f"{name}: is {self.view(name).state.value}: there is no process to signal")
        self._init.signal(name, number)

    def shutdown(self, exit_code: int | None) -> None:
        self._init.tell(e.ShutdownRequested("shutdown requested", exit_code))

    def logs(self, request: bytes, client_fd: int) -> None:
        self._init.output.logs(request, client_fd)

    def _refuse_while_stopping(self, name: str) -> None:
        if self._init.supervisor.stopping:
            raise ControlError(f"{name}: the init is stopping: nothing is started any more")
