"""Whether services that are ready still work.

Owns the timers of health checks and what the last answers were. Must not know what bad health leads to.
Laws: checks of one service never overlap; a service without `health` costs nothing; `unhealthy` is called once.
"""

import time
from _collections_abc import Callable

from pyinit.init.loop import Deadline, Loop
from pyinit.init.probe import Answered, Attempt, Running
from pyinit.model import Health as HealthSpec

_FIRST_CHECK_S = 1.0
RunFor = Callable[[str, tuple[str, ...], float, Answered], Running]


class _Patient:
    def __init__(self, name: str, pid: int, spec: HealthSpec, now: float) -> None:
        self.name = name
        self.pid = pid
        self.spec = spec
        self.since_s = now
        self.bad = 0
        self.ever_good = False
        self.text = ""
        self.state = "starting"
        self.deadline: Deadline | None = None
        self.attempt: Attempt | None = None


class Health:
    """`unhealthy(name, pid, text)` is called from the loop; `random` spreads the first checks."""

    def __init__(self, loop: Loop, unhealthy: Callable[[str, int, str], None], run: RunFor, random: Callable[[], float]) -> None:
        self._loop = loop
        self._unhealthy = unhealthy
        self._run = run
        self._random = random
        self._patients: dict[str, _Patient] = {}

    def started(self, name: str, pid: int, spec: HealthSpec | None) -> None:
        """The service became ready."""
        self.stopped(name)
        if spec is None:
            return
        patient = self._patients[name] = _Patient(name, pid, spec, time.monotonic())
        first_s = min(spec.interval_s, _FIRST_CHECK_S) * (0.5 + 0.5 * self._random())
        patient.deadline = self._loop.call_at(patient.since_s + first_s, lambda: self._check(patient))

    def stopped(self, name: str) -> None:
        """It is no longer ready; none is fine."""
        patient = self._patients.pop(name, None)
        if patient is not None:
            if patient.deadline is not None:
                patient.deadline.cancel()
            if patient.attempt is not None:
                patient.attempt.cancel()

    def state(self, name: str) -> tuple[str, str]:
        """("", ""), or "starting", "healthy" or "unhealthy" and what the last bad answer was."""
        patient = self._patients.get(name)
        return (patient.state, patient.text) if patient else ("", "")

    def _check(self, patient: _Patient) -> None:
        begun_s = time.monotonic()

        def run(argv: tuple[str, ...], timeout_s: float, done: Answered) -> Running:
            return self._run(patient.name, argv, timeout_s, done)

        def answered(text: str) -> None:
            self._answered(patient, text, begun_s)

        patient.attempt = Attempt(self._loop, patient.spec.probe, patient.spec.timeout_s, answered, run)

    def _answered(self, patient: _Patient, text: str, begun_s: float) -> None:
        patient.attempt = None
        if self._patients.get(patient.name) is not patient:
            return
        now = time.monotonic()
        excused = not patient.ever_good and now < patient.since_s + patient.spec.start_period_s
        if not text:
            patient.bad, patient.ever_good, patient.state, patient.text = 0, True, "healthy", ""
        elif not excused:
            patient.bad, patient.text = patient.bad + 1, text
        if patient.bad >= patient.spec.failures:
            patient.state = "unhealthy"
            times = f" ({patient.bad} times)" if patient.bad > 1 else ""
            self._unhealthy(patient.name, patient.pid, f"health: {text}{times}")
            return
        at_s = max(now, begun_s + patient.spec.interval_s)
        patient.deadline = self._loop.call_at(at_s, lambda: self._check(patient))
