"""The program: looks at its words, imports what that verb needs and no more.

Owns the choice of the verb and the last line of defence. Must not know what a verb does.
Law: as PID 1, signals are blocked before anything is imported, for a stop sent meanwhile must not be lost.
"""

import os
import sys

if os.getpid() == 1:
    import _signal  # type: ignore[import-not-found]  # built into the interpreter: no file is read, no enum made

    MASK = frozenset(_signal.pthread_sigmask(_signal.SIG_BLOCK, {n for n in range(1, 65) if n not in (32, 33)}))

from pyinit.errors import EXIT_SYSTEM, EXIT_USAGE, PyinitError, lacking

PERSONALITIES = ("tini", "docker-init", "dumb-init", "catatonit", "podman-init")
VERBS = {
    "check": "check", "plan": "plan", "build": "build", "status": "status", "list": "list", "logs": "logs",
    "start": "services", "stop": "services", "restart": "services", "signal": "services", "shutdown": "shutdown",
    "enable": "services", "disable": "services", "wait": "services", "hup": "services", "reload": "reload",
    "events": "events", "ps": "ps", "exec": "exec", "enter": "enter", "doctor": "doctor", "stats": "stats",
    "pause": "pause", "resume": "pause", "update": "update", "seccomp": "seccomp", "import": "import_", "export": "export",
}  # fmt: skip
USAGE = """\
usage: pyinit --config FILE [--launch | --no-launch]   run the container, or the services, of a config
       pyinit --config FILE --detach [--output FILE]   the same, and return when all is ready
       pyinit [TINI OPTIONS] -- COMMAND [ARGUMENT...]  run one command as tini does
       pyinit check FILE | plan FILE | build FILE      look at a config; build images
       pyinit import oci LAYOUT[:TAG]                  take an image that others made
       pyinit export oci | bundle | systemd FILE       for other runtimes
       pyinit doctor [FILE]                            look at what this host can do
       pyinit seccomp show [PROFILE]                   look at what a profile of system calls does
       pyinit status | ps | stats [NAME...] | list     look at what runs
       pyinit logs [NAME...] | events
       pyinit start | stop | restart | hup NAME...     change it
       pyinit enable | disable | wait NAME...
       pyinit pause | resume [NAME...]
       pyinit update [NAME] KEY=VALUE...
       pyinit signal SIGNAL NAME...
       pyinit exec [NAME] -- COMMAND | enter [-- COMMAND]
       pyinit reload | shutdown
       pyinit --version | --help

Every verb has --help. FILE may come from $PYINIT_CONFIG; the default is /etc/pyinit/services.toml.
"""


def main() -> int:
    """The exit code."""
    words = sys.argv[1:]
    try:
        return _dispatch(words)
    except PyinitError as error:
        for line in str(error).split("\n"):
            print(f"pyinit: {_plain(line)}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "pyinit":
            raise
        print(f"pyinit: {lacking(error)}", file=sys.stderr)
        return EXIT_SYSTEM
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `pyinit status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _dispatch(words: list[str]) -> int:
    first = words[0] if words else ""
    if os.path.basename(sys.argv[0]) in PERSONALITIES or ("--" in words and first.startswith("-")):
        from pyinit.cli import single

        return single.run(words, globals().get("MASK"))  # that we were started with, if it is another by now
    if os.path.basename(sys.argv[0]) == "init" and first not in VERBS:
        from pyinit.cli import asinit

        if os.getpid() != 1 and first and not first.startswith("-"):
            return asinit.ask(words)
        if os.getpid() == 1:
            words = asinit.own_words(words)
            first = words[0] if words else ""
    if first in ("--version", "-V"):
        from pyinit import __version__

        print(f"pyinit {__version__}")
        return 0
    if first in ("--help", "-h", "help"):
        print(USAGE, end="")
        return 0
    if first in VERBS:
        verb = __import__(f"pyinit.cli.{VERBS[first]}", fromlist=["run"])
        arguments = words if VERBS[first] in ("services", "pause") else words[1:]
        code: int = verb.run(arguments)
        return code
    if first and not first.startswith("-"):
        return _unknown(first)
    from pyinit.cli import run

    return run.run(words)


def _plain(text: str) -> str:
    """What a container wrote into a message must not steer the terminal."""
    return "".join(char if char.isprintable() or char == "\t" else "?" for char in text)


def _unknown(word: str) -> int:
    import difflib  # on the way out only

    close = difflib.get_close_matches(word, VERBS, 1)
    hint = f"did you mean `{close[0]}`?" if close else "`pyinit --help` lists the verbs"
    print(f"pyinit: {word}: there is no such verb; {hint}", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
