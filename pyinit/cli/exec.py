"""`pyinit exec [SERVICE] -- COMMAND`: a command beside a service, or in the container at large.

Owns the words and the request. Must not know how bytes go to and fro (terminal.py). Law: our end ends the command.
"""

import json
import os
from _collections_abc import Callable

from pyinit.cli import options, terminal
from pyinit.control.client import Connection
from pyinit.errors import EXIT_OK, UsageError
from pyinit.linux import sock as socket

_USAGE = """\
usage: pyinit exec [-c NAME | --socket PATH] [OPTION...] [SERVICE] -- COMMAND [ARGUMENT...]

Run a command with the user, environment, cgroup and limits of a service, where the service runs, or, without a
service, as root in the container's own. Its exit code is ours, 128 plus the number of a signal. It ends with us.

  -t, --tty           on a terminal of its own; so it is if standard input and output are terminals
  -T, --no-tty        without one
  -i, --interactive   without a terminal of its own: read from the user's none the less
  -u, --user USER[:GROUP]
  -w, --workdir FOLDER
  -e, --env NAME=VALUE   also several times
"""
LONG = {"--user": "-u", "--workdir": "-w", "--tty": "-t", "--no-tty": "-T", "--interactive": "-i"}
FLAGS = ("-t", "-T", "-i", "-it", "-ti", "--tty", "--no-tty", "--interactive")


class Words:
    """What exec and enter have in common on their command lines."""

    def __init__(self, verb: str, chosen: options.Options, argv: list[str]) -> None:
        self.argv = argv
        self.names = chosen.names
        self.chosen = chosen
        flags = {letter for flag in chosen.flags for letter in LONG.get(flag, flag).removeprefix("-")}
        if {"t", "T"} <= flags:
            raise UsageError(f"{verb}: expected one of -t and -T, found both")
        self.interactive = "i" in flags
        self.tty = {"t"} <= flags or (not {"T"} <= flags and os.isatty(0) and os.isatty(1))
        self.user = self._value("-u", "--user")
        self.directory = self._value("-w", "--workdir")
        self.environment: dict[str, str] = {}
        for pair in chosen.several:
            name, mark, value = pair.partition("=")
            if not name or not mark:
                raise UsageError(f"{verb}: -e {pair}: expected NAME=VALUE")
            self.environment[name] = value
        if self.tty and os.environ.get("TERM"):
            self.environment.setdefault("TERM", os.environ["TERM"])

    def _value(self, short: str, long: str) -> str:
        return self.chosen.values.get(short) or self.chosen.values.get(long) or ""


def parse(verb: str, arguments: list[str], usage: str) -> Words | None:
    """None if help was asked for and has been printed."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    chosen = options.parse(
        arguments[:at], usage=usage, values=("-u", "-w", "--user", "--workdir"), flags=FLAGS, several=("-e", "--env")
    )
    return None if chosen is None else Words(verb, chosen, arguments[at + 1 :])


def run(arguments: list[str]) -> int:
    """The command's exit code."""
    words = parse("exec", arguments, _USAGE)
    if words is None:
        return EXIT_OK
    if len(words.names) > 1 or not words.argv:
        raise UsageError("exec: expected at most one service, and a command: `pyinit exec [SERVICE] -- COMMAND`")
    request: dict[str, object] = {"verb": "exec", "names": words.names, "argv": words.argv}
    request |= {"user": words.user, "directory": words.directory, "environment": words.environment}
    path = words.chosen.socket()
    return _on_terminal(path, request) if words.tty else _on_pipes(path, request, with_input=words.interactive)


def _on_terminal(path: str, request: dict[str, object]) -> int:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    own, spare = terminal.own_pair()
    fds = [theirs.fileno(), spare] if spare >= 0 else [theirs.fileno()]
    with terminal.Streams() as streams, mine:
        try:
            connection = Connection(path, {**request, "tty": True, "size": terminal.window_size()}, fds=tuple(fds))
        finally:
            for fd in (theirs.detach(), *fds[1:]):
                os.close(fd)
        with connection:
            master = terminal.receive_master(mine, own)
            if own not in (master, -1):
                os.close(own)
            if master >= 0:
                streams.add_terminal(master)
                with terminal.Signals(_forwarder(connection), master):
                    streams.run(connection.fileno())
            return int(connection.answer()["code"])


def _on_pipes(path: str, request: dict[str, object], *, with_input: bool) -> int:
    with terminal.Streams() as streams:
        fds = streams.add_pipes(with_input=with_input)
        try:
            connection = Connection(path, request, fds=fds)
        finally:
            for fd in fds:
                if fd > 2:
                    os.close(fd)
        with connection, terminal.Signals(_forwarder(connection)):
            streams.run(connection.fileno())
            return int(connection.answer()["code"])


def _forwarder(connection: Connection) -> Callable[[int], None]:
    return lambda number: connection.send(json.dumps({"signal": number}).encode() + b"\n")
