"""Files of the kernel's: those that are written, and those of PID 1's that are read."""

import payload_files as payload
import pytest
from harness import Defence, Row, expected, names

pytestmark = pytest.mark.usefixtures("nothing_left")

READ_ONLY = Defence("read-only paths", keys=(("readonly_paths", "[]"),))

ROWS = (
    Row(
        "core-pattern", "core_pattern", "/proc/sys/kernel/core_pattern, a program of the host's for each crash, is opened for writing",
        (READ_ONLY,), "EROFS", "opened", payload.core_pattern,
    ),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
