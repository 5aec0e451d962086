"""`[container.hooks]`: commands on the host, before a container's services start and after its end.

Owns what a hook is given and what its failure says. Must not know when they are due (launcher.py, claim.py). Laws: a
hook has a deadline; poststop hooks stand in the journal before the first prestart hook runs; a failed one of them is
told and holds up nothing.
"""

import os
from _collections_abc import Callable

from pyinit.errors import EXIT_OK, LaunchError
from pyinit.launch.onhost import NoteHook, RunHook
from pyinit.launch.plan import Plan
from pyinit.launch.tracing import SILENT, Trace, carried_out
from pyinit.linux import process
from pyinit.model import RTMIN, Config, signal_name

_STOPS = (1, 2, 3, 15, 30, RTMIN + 3, RTMIN + 4)  # of the monitor: it is not to wait for a hook
_KIND = "poststop"


class StoppedError(LaunchError):
    """A stop came before there was anything to stop in order."""

    exit_code = EXIT_OK


def prestart(steps: Plan, config: Config, directory: str, pid: int, note: Callable[[str, str], None], trace: Trace = SILENT) -> None:
    """Note the poststop hooks by `note(kind, value)`, run the others; LaunchError for the first that fails. `pid`: PID 1's.

    Signals that stop must be blocked; one that comes ends the hook, and is left to be read. StoppedError then.
    """
    if not steps.built:
        return
    environment = _environment(config, directory)
    for step in steps.built:
        if isinstance(step, NoteHook):
            with carried_out(step, trace):
                note(_KIND, _encode(step, environment))
    stops = process.signalfd(list(_STOPS))
    try:
        for step in steps.built:
            if isinstance(step, RunHook):
                with carried_out(step, trace):
                    _prestart(step, {**os.environ, **environment, "PYINIT_PID": str(pid)}, stops)
    finally:
        os.close(stops)


def _prestart(step: RunHook, environment: dict[str, str], stops: int) -> None:
    what = f"{step.origin}: container.hooks.prestart: {' '.join(step.command)}"
    try:
        ended = _run(step.command, step.timeout_s, environment, stops)
    except OSError as error:
        raise LaunchError(f"{what}: {error.strerror}") from error
    if ended.why_killed == "cancelled":
        raise StoppedError(f"{what}: stopped while it ran")
    if why := failure(ended, step.timeout_s):
        raise LaunchError(f"{what}: {why}")


def poststop(value: str) -> str:
    """Run what the journal says; why it failed, or nothing."""
    try:
        import json  # of the few that have hooks

        said = json.loads(value)
        what = f"{said['origin']}: container.hooks.poststop: {' '.join(said['command'])}"
        environment = {key: word for key, word in os.environ.items() if key != "PYINIT_PID"}
        ended = _run(tuple(said["command"]), said["timeout_s"], {**environment, **said["environment"]}, -1)
    except (ValueError, KeyError, TypeError, ImportError) as error:  # a line that is none, or a Python that is gone
        return f"a poststop hook in the journal can't be read: {error}"
    except OSError as error:
        return f"{what}: {error.strerror}"
    why = failure(ended, said["timeout_s"])
    return f"{what}: {why}" if why else ""


def failure(ended: process.Finished, timeout_s: float) -> str:
    """In words, with the last that it said as an error; "" for exit code 0."""
    if ended.why_killed:
        why = f"killed, for it took longer than {timeout_s:g} s"
    elif ended.signal:
        why = f"killed by {signal_name(ended.signal)}"
    elif ended.code:
        why = f"exit code {ended.code}"
    else:
        return ""
    last = ended.last_line()
    return f"{why}: {last}" if last else why


def _run(command: tuple[str, ...], timeout_s: float, environment: dict[str, str], stops: int) -> process.Finished:
    """In the config's folder. Its output is ours; what it says as an error is passed on when it has ended."""
    environment = {name: value for name, value in environment.items() if name != "NOTIFY_SOCKET"}  # ours: no READY=1 but our own
    folder = os.path.dirname(environment["PYINIT_CONFIG"])
    folder = folder if os.path.isdir(folder) else "/"  # a poststop's may have gone
    ended = process.run(command, env=environment, timeout_s=timeout_s, stdout_fd=1, cwd=folder, cancel_fd=stops)
    if ended.stderr:
        try:
            os.write(2, ended.stderr)
        except OSError:  # nobody reads us any more
            pass
    return ended


def _environment(config: Config, directory: str) -> dict[str, str]:
    assert config.container is not None
    return {"PYINIT_NAME": config.container.name, "PYINIT_CONFIG": config.path, "PYINIT_DIRECTORY": directory}


def _encode(step: NoteHook, environment: dict[str, str]) -> str:
    """One line without a tab, which is what the journal has."""
    import json  # of the few that have hooks

    said = {"command": step.command, "timeout_s": step.timeout_s, "origin": str(step.origin), "environment": environment}
    return json.dumps(said)
