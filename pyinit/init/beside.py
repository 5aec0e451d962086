"""Commands beside a service's process: hooks, exec probes, reload commands, what `pyinit exec` brings.

Owns which hook of which service runs. Must not know when one is due. Law: they get the service's user, environment,
limits and cgroup, and their end is told from the loop.
"""

import errno
import os
import time
from _collections_abc import Callable

from pyinit.core import actions as a
from pyinit.core import events as e
from pyinit.errors import fault
from pyinit.init.children import explain
from pyinit.init.jobs import Ended, Job, Jobs, no_process
from pyinit.init.loop import Loop
from pyinit.init.privileges import RefusedError
from pyinit.init.probe import Answered
from pyinit.init.spawn import Terminal
from pyinit.model import ServiceSpec
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.init.pid1 import Init
    from pyinit.init.shell import Wishes

_HUP, _CONT = 1, 18
_AFTER_HANGUP_S = 5.0
NO_ROOM = (errno.ENFILE, errno.EMFILE, errno.ENOMEM)  # of ours, for whatever was to be opened before


class Beside:
    def __init__(self, init: "Init") -> None:
        self._init = init
        self.jobs = Jobs(init.loop)
        self._hooks: dict[str, Job] = {}

    def run(
        self, name: str, argv: tuple[str, ...], timeout_s: float, done: Callable[[Ended], None],
        variables: dict[str, str] | None = None,
    ) -> Job:  # fmt: skip
        """A command with the service's user, environment and cgroup; 0 s: no limit."""
        return self._run(self._init.supervisor.spec(name), argv, timeout_s, done, variables, None)

    def run_for_client(
        self, name: str, argv: tuple[str, ...], wishes: "Wishes", stdio: tuple[int, int, int] | Terminal, done: Callable[[Ended], None]
    ) -> "Held":
        """A command of `pyinit exec`; of no service without a name."""
        from pyinit.init import shell  # nobody may ever ask

        kill = "cgroup" if os.getpid() == 1 else "group"
        spec = self._init.supervisor.spec(name) if name else shell.nameless(shell.basis(self._init.config), kill=kill)
        return Held(self._run(shell.wished(spec, wishes), argv, 0, done, None, stdio), self._init.loop)

    def _run(
        self, spec: ServiceSpec, argv: tuple[str, ...], timeout_s: float, done: Callable[[Ended], None],
        variables: dict[str, str] | None, stdio: tuple[int, int, int] | Terminal | None,
    ) -> Job:  # fmt: skip
        def why(error: Exception | tuple[str, int]) -> Ended:
            if isinstance(error, tuple):
                return no_process(*error, explain(spec, argv[0], *error))
            if not isinstance(error, OSError | RefusedError):
                return no_process("fork", 0, fault(error))
            fact = failure(spec, error, argv[0])
            return no_process(fact.stage, fact.errno, fact.message)

        return self.jobs.run(lambda: self._init.children.beside(spec, argv, variables or {}, stdio), timeout_s, why, done)

    def probe(self, name: str, argv: tuple[str, ...], timeout_s: float, done: Answered) -> Job:
        """An exec probe; `done("")` for exit code 0."""
        return self.run(name, argv, timeout_s, lambda how: done(how.text()))

    def run_hook(self, order: a.RunHook) -> None:
        name = order.name
        spec = self._init.supervisor.spec(name)
        if order.hook == "pre_start" and order.number == 0:
            fact = self._obstacle(spec, order.run)
            if fact is not None:
                self._init.loop.call_soon(lambda: self._init.tell(fact))
                return

        def done(how: Ended) -> None:
            self._hooks.pop(name, None)
            if how.text() and order.hook in ("pre_stop", "finish"):
                self._init.log(f"{name}: {order.hook}: {how.text()}")
            self._init.tell(e.HookEnded(name, order.run, how.code, how.signal, how.message))

        argv = (*getattr(spec.hooks, order.hook)[order.number], *order.arguments)
        variables = {"PYINIT_HOOK": order.hook}
        if order.hook in ("post_start", "pre_stop"):
            variables["MAINPID"] = str(self._init.current.get(name, 0))
        self._hooks[name] = self.run(name, argv, 0, done, variables)

    def _obstacle(self, spec: ServiceSpec, run: int) -> e.Event | None:
        """What keeps the service from being started at all: its condition, or that this can't be found out."""
        try:
            unmet = self._init.children.unmet(spec)
        except RefusedError as error:
            return e.HookEnded(spec.name, run, -1, 0, str(error))
        return e.ConditionUnmet(spec.name, unmet) if unmet else None

    def kill_hook(self, name: str) -> None:
        job = self._hooks.pop(name, None)
        if job is not None:
            job.cancel()


class Held:
    """A job that belongs to a client: when that leaves, it is hung up on as by a terminal, and killed if it does not go."""

    def __init__(self, job: Job, loop: Loop) -> None:
        self._job = job
        self._loop = loop

    def signal(self, number: int) -> None:
        self._job.signal(number)

    def cancel(self) -> None:
        if not self._job.pid:
            self._job.cancel()
            return
        for number in (_HUP, _CONT):  # a stopped process would not hear it
            self._job.signal(number)
        self._job.outlive(lambda: self._loop.call_at(time.monotonic() + _AFTER_HANGUP_S, self._job.cancel))


def failure(spec: ServiceSpec, error: OSError | RefusedError, command: str) -> e.ExecFailed:
    """What kept a process, the service's own or one beside it, from being there at all."""
    if isinstance(error, RefusedError):
        return e.ExecFailed(spec.name, 0, error.stage, error.number, str(error))
    number = error.errno or 0
    stage = "exec" if error.filename and number not in NO_ROOM else "fork"
    return e.ExecFailed(spec.name, 0, stage, number, explain(spec, command, stage, number))
