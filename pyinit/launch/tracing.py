"""What is told of each operation of the plan while it is carried out, and what its failure becomes.

Owns the calls around an operation. Must not know what one does. Law: an OSError from inside, the trace's own too,
leaves as LaunchError with the operation's line and words.
"""

import contextlib
from collections.abc import Iterator

from pyinit.errors import LaunchError
from pyinit.launch import plan as p
from pyinit.launch.explain import explain


class Trace:
    """Told of each operation, in the process that carries it out; what it raises is the operation's failure."""

    def before(self, operation: p.Operation) -> None:
        """It is about to be done."""

    def after(self, operation: p.Operation) -> None:
        """It is done; on the host: by the launcher's side."""


SILENT = Trace()


@contextlib.contextmanager
def explained(operation: p.Operation) -> Iterator[None]:
    """What is done for `operation`; LaunchError."""
    try:
        yield
    except OSError as error:
        raise LaunchError(explain(operation, error)) from error


@contextlib.contextmanager
def carried_out(operation: p.Operation, trace: Trace) -> Iterator[None]:
    """`operation` itself; LaunchError."""
    with explained(operation):
        trace.before(operation)
        yield
        trace.after(operation)
