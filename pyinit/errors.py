"""What can go wrong, as exceptions, and the exit code that each leaves with.

Owns the family of errors and the exit codes. Must not know any other module of pyinit.
Law: a message is one line a user can act on: where, what was expected, what was found, what to do.
"""

from _collections_abc import Iterable

EXIT_OK = 0
EXIT_FAILED = 1  # the thing asked for failed
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3  # `status` of something that does not run
EXIT_CONFIG = 100  # the user's error, as in s6 and the execline family
EXIT_SYSTEM = 111  # a system call failed
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


class PyinitError(Exception):
    """A failure that a user is told about; `exit_code` is what the program leaves with."""

    exit_code = EXIT_FAILED


class UsageError(PyinitError):
    """The command line is wrong."""

    exit_code = EXIT_USAGE


class ConfigError(PyinitError):
    """A config file is wrong; `problems` holds every one of its errors, each `file:line: text`."""

    exit_code = EXIT_CONFIG

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class LaunchError(PyinitError):
    """The system refused a step of the launch."""

    exit_code = EXIT_SYSTEM


class ControlError(PyinitError):
    """A running pyinit refused a request, or none answers; `exit_code` may be 3 for "not running"."""

    def __init__(self, text: str, *, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def no_such_service(name: str, known: Iterable[str], templates: Iterable[str] = ()) -> ControlError:
    """With what may have been meant, or all that there is; of `templates` ("worker@") an instance may be meant."""
    known, templates, instance = list(known), list(templates), name.partition("@")[2] or "1"
    near = hint(name, [*known, *(template + instance for template in templates)])
    return ControlError(f"{name}: no such service{near or '; there are: ' + ', '.join([*known, *templates])}")


def fault(error: Exception) -> str:
    """A fault of our own: type, text and place; no traceback, which would read source files."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    at = f" at {place.tb_frame.f_code.co_filename.rpartition('/')[2].rstrip('>')}:{place.tb_lineno}" if place else ""
    return f"{type(error).__name__}: {error}{at}"


def lacking(error: ModuleNotFoundError) -> str:
    """Of a Python that is not whole, as python3-minimal alone; it has no traceback to show, either."""
    return f"this Python has no module {error.name}, which is of its standard library: install that (Debian: libpython3-stdlib), or a whole python3"


def hint(word: object, known: Iterable[str]) -> str:
    """`; did you mean NAME?`, or nothing."""
    if not isinstance(word, str):
        return ""
    import difflib  # once there is an error: it costs 8 ms

    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""
