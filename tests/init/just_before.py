"""What somebody else does in the very moment of a call: an audit event is told before what it tells of (PEP 578)."""

import contextlib
import sys

_planned = []  # (event, of which first argument, what is done)


def _hook(event: str, arguments: tuple) -> None:
    for number, (wanted, is_it, call) in enumerate(_planned):
        if event == wanted and is_it(arguments[0]):
            del _planned[number]
            call()
            return


sys.addaudithook(_hook)  # once, for there is no way to take one away


@contextlib.contextmanager
def just_before(event: str, call, is_it=lambda _: True):
    """`call()` once, at the first such event, which there must be."""
    _planned.append((event, is_it, call))
    try:
        yield
        assert _planned == [], f"{event} was not told"
    finally:
        _planned.clear()
