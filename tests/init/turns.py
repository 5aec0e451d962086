"""A real loop, run until something was answered."""

import time

from pyinit.init.loop import Loop

DEADLINE_S = 5.0


class Turns:
    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.loop = Loop(self.errors.append)
        self.answers: list = []

    def answer(self, *words) -> None:
        self.answers.append(words[0] if len(words) == 1 else words)
        self.loop.stop()

    def run(self, limit_s: float = DEADLINE_S) -> list:
        """What was answered in this run."""
        limit = self.loop.call_at(time.monotonic() + limit_s, self.loop.stop)
        self.loop.run()
        limit.cancel()
        assert self.errors == []
        found, self.answers = self.answers, []
        return found
