"""The words of the control socket: one request a connection, JSON in lines.

Owns the shapes and their checks. Must not know sockets.

A request is one line: {"verb": V, "names": [...], "version": 1, ...}, where names and version may be left out, with
    status                                     -> {"ok": true, "init": {...}, "services": [...]}
    start | stop | restart, "wait": bool       -> {"progress": {"name", "state", "reason"}}*, then {"ok": true}
                                                  start, restart and enable make instances of templates that are not there
    wait                                       -> as start, without starting anything
    hup                                        -> {"ok": true} once each service's reload is done
    enable | disable                           -> as start and stop, and kept over restarts of pyinit
    signal, "signal": number                   -> {"ok": true}
    events, "lines": n, "follow": bool         -> {"ok": true}, then {"event": {"t", "name", "state", "reason", "pid"}}*,
                                                  of these services, or of all
    exec, "names": [one] or [], "argv": [...], "user": text, "directory": path, "environment": {name: text}, all but argv as the
    service's without, with three fds (SCM_RIGHTS): standard input, output and error of the command
                                               -> {"ok": true, "code": n} at its end; meanwhile lines {"signal": n} go to it
    exec, "tty": true, "size": [rows, columns] -> the same with a terminal, whose master comes as init.spawn.Terminal has it
                                                  through a unix socket, the first of one or two fds; the second is its spare
    ps                                         -> {"ok": true, "services": [{"name", "state", "processes": [...]}]}
    stats                                      -> {"ok": true, "t_s": monotonic, "container": {...} or null, "services": [{...}]};
                                                  numbers that can't be known are null
    pause | resume                             -> {"ok": true, "left": [text]}, of all those that run if none is named
    update, "names": [one] or [], "limits": {field of model.CgroupLimits: value}
                                               -> {"ok": true}; without a name those of the container
    reload                                     -> {"ok": true, "added": [], "removed": [], "restarted": [], "changed": []}
    logs, "follow": bool                       -> {"ok": true, "logs": [...]} and the log folder's fd, then frames (init/logclient.py)
    shutdown, "exit_code": n or null           -> {"ok": true}, then the end of the connection when all is down
What was refused answers {"error": text, "exit_code": n}.
"""

import json

from pyinit.records import Any, NamedTuple

MOST_REQUEST_BYTES = 64 * 1024
VERSION = 1
VERBS = (
    "status", "start", "stop", "restart", "wait", "hup", "enable", "disable", "signal", "logs", "events", "ps", "exec", "reload", "shutdown", "stats",
    "pause", "resume", "update",
)  # fmt: skip


class Request(NamedTuple):
    verb: str
    names: tuple[str, ...] = ()
    wait: bool = True
    signal: int = 0
    exit_code: int | None = None
    lines: int = 0
    follow: bool = False
    argv: tuple[str, ...] = ()
    limits: dict[str, object] = {}  # noqa: RUF012 - read only
    tty: bool = False
    size: tuple[int, int] = (0, 0)
    user: str = ""
    directory: str = ""
    environment: dict[str, str] = {}  # noqa: RUF012 - as above


class BadRequestError(Exception):
    """What came is no request; the text says why."""


def decode(line: bytes) -> Request:
    """BadRequestError for what is none."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise BadRequestError("expected one line of JSON") from None
    if not isinstance(data, dict) or data.get("verb") not in VERBS:
        raise BadRequestError(f'expected {{"verb": one of {", ".join(VERBS)}}}')
    names = data.get("names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadRequestError('expected "names" to be a list of strings')
    number, code = data.get("signal", 0), data.get("exit_code")
    if type(number) is not int or not 0 <= number <= 64 or (data["verb"] == "signal" and not number):
        raise BadRequestError('expected "signal" to be a number from 1 to 64')
    if code is not None and (type(code) is not int or not 0 <= code <= 255):
        raise BadRequestError('expected "exit_code" to be a number from 0 to 255')
    lines = data.get("lines", 0)
    if type(lines) is not int or lines < 0:
        raise BadRequestError('expected "lines" to be a number from 0 up')
    if data.get("version", VERSION) != VERSION:
        raise BadRequestError(f'expected "version": {VERSION}; this is another pyinit than its client')
    argv = data.get("argv", [])
    if not isinstance(argv, list) or not all(isinstance(word, str) and "\0" not in word for word in argv):
        raise BadRequestError('expected "argv" to be a list of strings')
    if data["verb"] == "exec" and (not argv or not argv[0] or len(names) > 1):
        raise BadRequestError('expected at most one name, and a command in "argv"')
    limits = data.get("limits", {})
    if data["verb"] == "update" and (not isinstance(limits, dict) or not limits or len(names) > 1):
        raise BadRequestError('expected at most one name, and limits in "limits"')
    wait, follow = data.get("wait") is not False, data.get("follow") is True
    found = Request(data["verb"], tuple(dict.fromkeys(names)), wait, number, code, lines, follow, tuple(argv), limits)
    return _with_wishes(found, data) if found.verb == "exec" else found


def _with_wishes(found: Request, data: dict[str, Any]) -> Request:
    user, directory, environment, size = data.get("user", ""), data.get("directory", ""), data.get("environment", {}), data.get("size", [0, 0])
    if not isinstance(user, str) or not isinstance(directory, str) or "\0" in user + directory:
        raise BadRequestError('expected "user" and "directory" to be strings')
    texts = [*environment, *environment.values()] if isinstance(environment, dict) else [None]
    if not all(isinstance(text, str) and "\0" not in text for text in texts) or any(not name or "=" in name for name in environment):
        raise BadRequestError('expected "environment" to be strings by names')
    if not isinstance(size, list) or len(size) != 2 or not all(type(one) is int and 0 <= one < 1 << 16 for one in size):
        raise BadRequestError('expected "size" to be rows and columns')
    return found._replace(tty=data.get("tty") is True, size=(size[0], size[1]), user=user, directory=directory, environment=environment)


def decode_signal(line: bytes) -> int:
    """Of `{"signal": n}`; 0 for anything else."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return 0
    number = data.get("signal") if isinstance(data, dict) else 0
    return number if type(number) is int and 1 <= number <= 64 else 0


def encode(message: dict[str, object]) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
