"""`pyinit enter [-c NAME] [-- COMMAND]`: a shell in a container whose PID 1 is not asked.

Owns the words, and where we are executed from. Must not know the way in (launch/enter.py). Law: who is in a container, and
is to execute what the image says, was itself executed from a read-only mount, or as an ordinary user from sealed memory:
there is no writing to /proc/PID/exe then.
"""

import os
import sys

from pyinit.errors import EXIT_OK, UsageError
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.cli.exec import Words
    from pyinit.init.shell import Wishes
    from pyinit.launch.enter import Target

_USAGE = """\
usage: pyinit enter [-c NAME | --socket PATH] [OPTION...] [-- COMMAND [ARGUMENT...]]

Run a command, or root's shell of the image, inside all namespaces of a container, under its limits, capabilities and
filters, without asking its PID 1: that may be stuck. Its exit code is ours, 128 plus the number of a signal.

  -t, --tty           on a terminal of its own; so it is if standard input and output are terminals
  -T, --no-tty        without one
  -i, --interactive   without a terminal of its own: read from the user's none the less
  -u, --user USER[:GROUP]
  -w, --workdir FOLDER
  -e, --env NAME=VALUE   also several times
"""
_MARK = "pyinit-enter"


def run(arguments: list[str]) -> int:
    """The command's exit code."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if _MARK not in sys._xoptions and not {"-h", "--help"} & set(own):
        _go_on_from_a_copy()  # before anything is imported: it will be once more
    from pyinit.cli import exec as exec_

    words = exec_.parse("enter", arguments, _USAGE)
    if words is None:
        return EXIT_OK
    if words.names:
        raise UsageError(f"enter {words.names[0]}: expected a container by -c NAME, and a command behind --")
    os.close(int(str(sys._xoptions[_MARK])))  # the mount lasts as long as something is executed from it
    from pyinit.control import places
    from pyinit.init.shell import Wishes
    from pyinit.launch import enter

    socket = words.chosen.values.get("--socket")
    target = enter.find(places.at(socket) if socket else places.find(words.chosen.values.get("-c")))
    wishes = Wishes(words.user, words.directory, tuple(words.environment.items()))
    return _on_terminal(target, words, wishes) if words.tty else _on_pipes(target, words, wishes)


def _go_on_from_a_copy() -> None:
    from pyinit.linux import mount  # as above

    program = os.path.realpath(sys.executable)
    attributes = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
    try:
        fd = mount.detached_copy(os.path.dirname(program), attributes)
        path = f"/proc/self/fd/{fd}/{os.path.basename(program)}"
    except PermissionError:  # an ordinary user makes no mount here, and root in his container would be whose the program may be
        fd = _sealed(program)
        path = f"/proc/self/fd/{fd}"
    os.set_inheritable(fd, True)  # noqa: FBT003 - no keywords there
    own, *rest = sys.orig_argv
    os.execve(path, [own, "-X", f"{_MARK}={fd}", *rest], os.environ)


def _sealed(path: str) -> int:
    """A copy in memory that nobody can write to."""
    from pyinit.launch import clone  # as above

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return clone.sealed(fd, "pyinit-enter")
    finally:
        os.close(fd)


def _on_terminal(target: "Target", words: "Words", wishes: "Wishes") -> int:
    from pyinit.cli import terminal  # see run()
    from pyinit.init import spawn
    from pyinit.launch import enter
    from pyinit.linux import sock as socket

    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    own, spare = terminal.own_pair()
    argv = tuple(words.argv)
    with terminal.Streams() as streams, mine:
        inside = enter.start(target, argv, wishes, spawn.Terminal(theirs.fileno(), spare, *terminal.window_size()))
        theirs.close()
        if spare >= 0:
            os.close(spare)
        master = terminal.receive_master(mine, own)
        if own not in (master, -1):
            os.close(own)
        if master >= 0:
            streams.add_terminal(master)
        enter.await_exec(inside, argv)
        try:
            with terminal.Signals(enter.forwarder(inside), master):
                streams.run(inside.pidfd)
        except BaseException:
            enter.hang_up(inside)
            raise
        return enter.exit_code(inside)


def _on_pipes(target: "Target", words: "Words", wishes: "Wishes") -> int:
    from pyinit.cli import terminal  # see run()
    from pyinit.launch import enter

    argv = tuple(words.argv)
    with terminal.Streams() as streams:
        fds = streams.add_pipes(with_input=words.interactive)
        inside = enter.start(target, argv, wishes, fds)
        for fd in fds:
            if fd > 2:
                os.close(fd)
        enter.await_exec(inside, argv)
        try:
            with terminal.Signals(enter.forwarder(inside)):
                streams.run(inside.pidfd)
        except BaseException:
            enter.hang_up(inside)
            raise
        return enter.exit_code(inside)
