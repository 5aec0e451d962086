"""What tests of PID 1's parts share."""

import signal

import pytest

DEADLINE_S = 5


@pytest.fixture
def deadline():
    """The test dies where PID 1 would wait for ever."""

    def late(number, frame):
        raise TimeoutError(f"it waits after {DEADLINE_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(DEADLINE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
