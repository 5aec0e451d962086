"""Starts of one config by the real launcher, each told how it shall go wrong: a program that test_each_step.py runs.

A line on standard input is one order, its answer a line on standard output, both JSON. What a start prints is in the
answer to `wait`. This process is the subreaper: what outlives its launcher is a child of ours, and told as `left`, or as
`ended` if it has ended since.
"""

import json
import os
import select
import signal
import sys
import time

from pyinit import bundle
from pyinit.config.load import load
from pyinit.errors import PyinitError
from pyinit.launch import operations, plan, start
from pyinit.launch.tracing import Trace
from pyinit.linux import process

ENDING_S = 1.0
REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Wrong(Trace):
    """What an order wants of its step: `raise` an errno, or `hold` it there until the gate's end."""

    def __init__(self, order: dict, steps: tuple[operations.Operation, ...], told: int, gate: int) -> None:
        self.order = order
        self.step = steps[order["step"]] if "step" in order else None
        self.told = told
        self.gate = gate

    def before(self, operation: operations.Operation) -> None:
        self._at("before", operation)

    def after(self, operation: operations.Operation) -> None:
        self._at("after", operation)
        if isinstance(operation, operations.LimitCapabilities | operations.SetSysctl):
            os.sched_yield()  # a mark in strace's log: this side's building is done

    def _at(self, when: str, operation: operations.Operation) -> None:
        if (type(operation), operation) != (type(self.step), self.step) or when != self.order["when"]:
            return
        if "errno" in self.order:
            raise OSError(self.order["errno"], os.strerror(self.order["errno"]))
        os.write(self.told, b".")
        os.read(self.gate, 1)


class Driver:
    def __init__(self, path: str) -> None:
        self.config = load(path, dict(os.environ), on_host=True)
        self.steps = plan.make(self.config).operations()
        self.code = bundle.get(f"{REPO}/pyinit")
        self.pid = self.gate = self.output = self.of_killed = -1

    def obey(self, order: dict) -> object:
        match order["do"]:
            case "plan":
                return [[str(step.origin), step.describe(), type(step).__name__] for step in self.steps]
            case "start":
                return self.start(order)
            case "release":
                self.release()
            case "kill":
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self.of_killed = self.output
            case "abandon":
                self.abandon()
            case "said by what was killed":
                return os.pread(self.of_killed, 1 << 20, 0).decode()
            case "wait":
                return self.wait()
        return None

    def start(self, order: dict) -> int:
        """The launcher's pid; with `hold` once it is there, with `gated` before it begins."""
        told, tell = os.pipe()
        gate, self.gate = os.pipe()
        os.set_blocking(self.gate, False)
        self.output = os.memfd_create("output")
        self.pid = os.fork()
        if self.pid == 0:
            os.close(told)
            os.close(self.gate)
            self._launch(order, tell, gate)
        os.close(tell)
        os.close(gate)
        if "step" in order and "errno" not in order:
            os.read(told, 1)
        os.close(told)
        return self.pid

    def _launch(self, order: dict, tell: int, gate: int) -> None:
        """As pyinit's own main."""
        code = 1
        try:
            os.dup2(self.output, 1)
            os.dup2(self.output, 2)
            if order.get("gated"):
                os.read(gate, 1)
            config = load(self.config.path, dict(os.environ), on_host=True) if order.get("read_again") else self.config
            code = start.launch(config, self.code, self._say, Wrong(order, self.steps, tell, gate))
        except PyinitError as error:
            self._say(str(error))
            code = error.exit_code
        except BaseException:
            sys.excepthook(*sys.exc_info())
            raise
        finally:
            os._exit(code)

    @staticmethod
    def _say(text: str) -> None:
        for line in text.split("\n"):
            try:
                os.write(2, f"pyinit: {line}\n".encode())
            except OSError:  # the very call that was to fail
                os.write(2, f"pyinit: {line}\n".encode())

    def release(self) -> None:
        if self.gate >= 0:
            os.close(self.gate)
        self.gate = -1

    def abandon(self) -> None:
        """The launcher, wherever it is held; back when all that it made has ended, too."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.release()
        try:
            while True:
                os.waitpid(-1, 0)
        except ChildProcessError:  # the last one
            os.close(self.output)

    def wait(self) -> dict:
        ended, left = [], []
        while (found := os.waitpid(-1, 0))[0] != self.pid:  # as an init would: a pid namespace ends when all in it are reaped
            ended.append(found[0])
        status = found[1]
        deadline = time.monotonic() + ENDING_S
        try:
            while time.monotonic() < deadline:
                found = os.waitpid(-1, os.WNOHANG)
                if found == (0, 0):
                    select.select([], [], [], 0.005)
                else:
                    ended.append(found[0])
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                left = [_named(word) for word in file.read().split()]
        except ChildProcessError:  # the last one has been reaped
            pass
        text = os.pread(self.output, 1 << 20, 0).decode("utf-8", "replace")
        os.close(self.output)
        return {"code": os.waitstatus_to_exitcode(status), "text": text, "left": left, "ended": ended}


def _named(pid: str) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(") ")[0] + ")"


def main() -> None:
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    driver = Driver(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(driver.obey(json.loads(line))), flush=True)


main()
