"""A command on a terminal in a container, whichever way it came there: where it stands, what it sits before, how it ends."""

import os
import re

from seat import Seat

_SCRIPT = (
    "B=/bin/busybox; for kind in /proc/$$/ns/*; do $B readlink $kind; done; test -t 0 && test -t 1 && test -t 2 && $B tty; $B stty size; "
    'trap "$B stty size" WINCH; trap "exit 7" INT; echo begun; while :; do sleep 0.02; done'
)


def namespaces(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in sorted(os.listdir(f"/proc/{pid}/ns"))]


def check(pid: int, *words: str, **keys) -> None:
    """`pyinit WORDS -- COMMAND` is in each namespace of `pid`, before a terminal of there, whose size follows and whose keys signal; `keys` are Seat's."""
    with Seat(*words, "--", "/bin/sh", "-c", _SCRIPT, **keys) as seat:
        seat.wait_for("begun")
        seat.resize(41, 101)
        seat.wait_for("41 101")
        seat.type("\x03")
        code = seat.wait()
        lines = [re.sub(r"^/dev/pts/\d+$", "/dev/pts/N", line) for line in seat.shown.decode().splitlines()]
        expected = [*namespaces(pid), "/dev/pts/N", "30 90", "begun", "41 101", "^C"]
        assert (code, lines) == (7, expected), f"{words}: expected 7 and {expected}, found {code} and {lines}"
        assert seat.is_as_before()
