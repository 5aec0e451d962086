"""What is told of each operation of the plan while it is carried out, and what its failure becomes.

Owns the calls around an operation. Must not know what one does. Law: an OSError from inside, the trace's own too,
leaves as LaunchError with the operation's line and words.
"""

from pyinit.errors import LaunchError
from pyinit.launch import operations as p


class Trace:
    """Told of each operation, in the process that carries it out; what it raises is the operation's failure."""

    def before(self, operation: p.Operation) -> None:
        """It is about to be done."""

    def after(self, operation: p.Operation) -> None:
        """It is done; on the host: by the launcher's side."""


SILENT = Trace()


class explained:  # noqa: N801 - it is read as a word of the `with` that it stands in
    """What is done for `operation`; LaunchError."""

    def __init__(self, operation: p.Operation) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, OSError):
            raise _explained(self._operation, error) from error


class carried_out(explained):  # noqa: N801 - as above
    """`operation` itself; LaunchError."""

    def __init__(self, operation: p.Operation, trace: Trace) -> None:
        super().__init__(operation)
        self._trace = trace

    def __enter__(self) -> None:
        try:
            self._trace.before(self._operation)
        except OSError as error:
            raise _explained(self._operation, error) from error

    def __exit__(self, kind: object, error: BaseException | None, place: object) -> None:
        if error is None:
            try:
                self._trace.after(self._operation)
            except OSError as raised:
                error = raised
        super().__exit__(kind, error, place)


def _explained(operation: p.Operation, error: OSError) -> LaunchError:
    from pyinit.launch.explain import explain  # on the way out only

    return LaunchError(explain(operation, error))
