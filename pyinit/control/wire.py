"""The words of the control socket: one request a connection, JSON in lines.

Owns the shapes and their checks. Must not know sockets.

A request is one line: {"verb": V, "names": [...], ...} with
    status                                     -> {"ok": true, "init": {...}, "services": [...]}
    start | stop | restart, "wait": bool       -> {"progress": {"name", "state", "reason"}}*, then {"ok": true}
    signal, "signal": number                   -> {"ok": true}
    logs, "lines": n, "follow": bool           -> {"ok": true}, then the log's bytes up to the end of the connection
    shutdown, "exit_code": n or null           -> {"ok": true}, then the end of the connection when all is down
What was refused answers {"error": text, "exit_code": n}.
"""

import json
from typing import NamedTuple

MOST_REQUEST_BYTES = 64 * 1024
VERBS = ("status", "start", "stop", "restart", "signal", "logs", "shutdown")


class Request(NamedTuple):
    verb: str
    names: tuple[str, ...] = ()
    wait: bool = True
    signal: int = 0
    exit_code: int | None = None


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
    return Request(data["verb"], tuple(dict.fromkeys(names)), data.get("wait") is not False, number, code)


def encode(message: dict[str, object]) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
