"""What the inside needs of the host and can't get there: contents of files, id maps, shared folders, file systems that are elsewhere.

Owns how each becomes an fd before PID 1 is cloned, which inherits it. Must not know where it goes (declared.py). Laws:
who serves a file system is waited for with a deadline, all of them at once; a stop signal ends the wait; what is secret
goes from its source into memory that has no name, and through no string of ours but an option's or a variable's own.
"""

import errno
import os
import select
import stat
import time
from _collections_abc import Callable

from pyinit.errors import LaunchError
from pyinit.launch import netfs
from pyinit.launch.declared import make_source
from pyinit.launch.explain import explain
from pyinit.launch.fuse import Program, await_root, identity
from pyinit.launch.onhost import OPTION, ConnectMount, MapIds, OpenTree, TakeContent
from pyinit.launch.onhost import Outside as Step
from pyinit.launch.root import Ids, write_all
from pyinit.linux import mount, namespaces, process
from pyinit.linux import sock as socket
from pyinit.model import FUSE, Content, Mount

_COMMAND_S = 30.0
_STOPS = (1, 2, 3, 15)
_KILL = 9
_MOST_TEXT = 8192
_ALL = [(0, 0, 2**32 - 1)]
_PROPAGATION = {"slave": mount.MS_SLAVE, "shared": mount.MS_SHARED}


class Outside:
    """The fds of one launch, by what they are for; each is taken once."""

    def __init__(self, hidden: frozenset[str], ids: Ids) -> None:
        """`hidden`: variables that what is started here does not get, for they are somebody's content. `ids`: the container's."""
        self._hidden = hidden
        self._ids = ids
        self._contents: dict[tuple[str, str, str], int] = {}
        self._maps: dict[str, int] = {}
        self._trees: dict[str, int] = {}
        self._waiting: list[_Connection | _Start] = []
        self._images: dict[str, int] = {}
        self.programs: list[Program] = []  # that live as long as their mounts, kept by the monitor
        self.servers: list[Program] = []  # of images: what has lost its layers is beyond repair, so nobody starts them again

    def run(self, step: Step) -> None:
        """Carry out one step; of what has to be waited for, only begin it. OSError."""
        match step:
            case TakeContent():
                self._contents[step.target, step.use, step.name] = content(step.content)
            case MapIds():
                rows = {kind: [(r.source, self._ids.outside(kind, r.inside, r.length), r.length) for r in step.ranges if r.kind == kind] for kind in ("uid", "gid")}
                # Without ranges all ids of a kind stay as they are: a map without any is refused (mount_setattr(2)).
                self._maps[step.target] = namespaces.user_namespace(rows["uid"] or _ALL, rows["gid"] or _ALL)
            case OpenTree():
                self._trees[step.mount.target] = _tree(step.mount, self._ids)
            case ConnectMount():
                self._connect(step)

    def finish(self, note: Callable[[str, str], None]) -> None:
        """Wait for what was begun; LaunchError. `note` writes a kind and a value to the journal."""
        if not self._waiting:
            return
        for program in (*self.programs, *self.servers):
            note("program", identity(program.pid))
        stops = process.signalfd(list(_STOPS))
        try:
            while self._waiting:
                one = self._waiting.pop(0)
                try:
                    place = self._images if one.step.is_image else self._trees
                    place[one.step.mount.target] = one.wait(stops)
                except OSError as error:
                    raise LaunchError(explain(one.step, error)) from error
                finally:
                    one.close()
        finally:
            os.close(stops)

    def take_content(self, target: str, use: str, name: str) -> int:
        """fd of what a file or an option shall hold; the caller's from now on."""
        return self._contents.pop((target, use, name))

    def take_map(self, target: str) -> int:
        """fd of the user namespace whose map a mount shall have; -1 if it is to have none."""
        return self._maps.pop(target, -1)

    def take_tree(self, target: str) -> int:
        """fd of a detached mount."""
        return self._trees.pop(target)

    def image(self, path: str) -> int:
        """fd of a detached copy of an image's mount that a program serves; -1 if the kernel is to mount it."""
        return mount.open_tree("", recursive=False, dir_fd=self._images[path]) if path in self._images else -1

    def close(self) -> None:
        """In the launcher, once PID 1 has them all, or when the start has failed."""
        for one in self._waiting:
            one.close()
        for fds in (self._contents, self._maps, self._trees, self._images):
            for fd in fds.values():
                os.close(fd)
            fds.clear()
        self._waiting.clear()

    def end(self) -> None:
        """Once the container is no more: what serves it ends, too."""
        self.close()
        for program in (*self.programs, *self.servers):
            if program.pidfd >= 0:
                program.kill()
                if select.select([program.pidfd], [], [], 1.0)[0]:
                    os.waitid(os.P_PIDFD, program.pidfd, os.WEXITED)
                program.close()

    def _connect(self, step: ConnectMount) -> None:
        entry = step.mount
        if step.is_image and os.path.isdir(entry.source):
            return
        if entry.type.startswith(FUSE):
            program = Program(entry, self._hidden)
            (self.servers if step.is_image else self.programs).append(program)
            self._waiting.append(_Start(step, program))
            return
        secret = {name: self.take_content(entry.target, OPTION, name) for name, _ in entry.secret_options}
        self._waiting.append(_Connection(step, secret))


def content(source: Content) -> int:
    """fd of a file without a name, in memory, that holds it; OSError in words."""
    memory = os.memfd_create("pyinit-content", os.MFD_CLOEXEC)
    try:
        if source.kind == "env":
            write_all(memory, os.environb[os.fsencode(source.text)])
            process.hide_variable(source.text)
        elif source.kind == "file":
            _copy(source.text, memory)
        else:
            _run(source.command, memory)
    except BaseException:
        os.close(memory)
        raise
    return memory


def _copy(path: str, memory: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, f"{path} is no regular file")
        while os.sendfile(memory, fd, None, 1 << 24):
            pass
    finally:
        os.close(fd)


def _run(command: tuple[str, ...], memory: int) -> None:
    stops = process.signalfd(list(_STOPS))
    try:
        ended = process.run(command, env=os.environ, timeout_s=_COMMAND_S, stdout_fd=memory, cancel_fd=stops)
    finally:
        os.close(stops)
    if ended.why_killed:
        why = f"it took longer than {_COMMAND_S:g} s" if ended.why_killed == "timeout" else "it was stopped by a signal"
    elif ended.signal:
        why = f"it was killed by signal {ended.signal}"
    elif ended.code:
        why = f"it left with exit code {ended.code}"
    else:
        return
    said = f": {ended.last_line()}" if ended.last_line() else ""
    raise OSError(errno.EIO, f"{command[0]}: {why}{said}")


def _tree(entry: Mount, ids: Ids) -> int:
    """The folder with what is mounted in it, and what will be, as the host's mounts are told to each other."""
    make_source(entry, ids)
    _check_shared(entry)
    tree = mount.open_tree(entry.source)
    try:
        mount.mount_setattr(tree, propagation=_PROPAGATION[entry.propagation])
    except BaseException:
        os.close(tree)
        raise
    return tree


def _check_shared(entry: Mount) -> None:
    """OSError if the mount that the folder is on is told to nobody: the container would be told of nothing, without a word."""
    fd = os.open(entry.source, os.O_PATH | os.O_CLOEXEC)
    try:
        fields = mount.mountinfo(fd)
    finally:
        os.close(fd)
    if not any(word.startswith("shared:") for word in fields[6 : fields.index("-")]):
        raise OSError(errno.EINVAL, f"the mount on {fields[4]} is not shared on this host; `mount --make-shared {fields[4]}` makes it so")


class _Connection:
    """A network file system of the kernel, made by a child, for a server that does not answer holds up whoever asks."""

    def __init__(self, step: ConnectMount, secret: dict[str, int]) -> None:
        self.step = step
        self._deadline = time.monotonic() + step.mount.timeout_s
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        pid, self._pidfd = process.clone(0)
        if pid == 0:
            self._child(theirs, secret)
        theirs.close()
        for fd in secret.values():
            os.close(fd)

    def _child(self, channel: socket.socket, secret: dict[str, int]) -> None:
        entry = self.step.mount
        try:
            options = dict(entry.options)
            options.update({name: os.pread(fd, _MOST_TEXT, 0).decode("utf-8", "surrogateescape").removesuffix("\n") for name, fd in secret.items()})
            socket.send_fds(channel, [b"made"], [netfs.connect(entry.type, entry.source, options, 0)])
        except OSError as error:
            channel.send(f"{error.errno or errno.EIO} {error.strerror or error}".encode("utf-8", "replace")[:_MOST_TEXT])
        except BaseException as error:  # noqa: BLE001 - the process's edge: nothing may unwind into the launcher's frames
            channel.send(f"{errno.EIO} internal error: {type(error).__name__}: {error}".encode("utf-8", "replace")[:_MOST_TEXT])
        finally:
            os._exit(0)

    def wait(self, stops: int) -> int:
        """fd of the mount; OSError."""
        await_fd(self._channel.fileno(), self._deadline, stops, self.step.mount)
        data, fds, _, _ = socket.recv_fds(self._channel, _MOST_TEXT, 1)
        if fds:
            return fds[0]
        number, _, text = data.decode("utf-8", "replace").partition(" ")
        raise OSError(int(number or errno.EIO), text or "the process that connects it was killed")

    def close(self) -> None:
        """Not waited for without end: it may hang in the kernel."""
        self._channel.close()
        if self._pidfd >= 0:
            end(self._pidfd)
            self._pidfd = -1


class _Start:
    """A FUSE program that has been started, until its root answers."""

    def __init__(self, step: ConnectMount, program: Program) -> None:
        self.step = step
        self._program = program
        self._deadline = time.monotonic() + step.mount.timeout_s
        self._tree = program.start()
        self._pidfd = await_root(self._tree)

    def wait(self, stops: int) -> int:
        await_fd(self._pidfd, self._deadline, stops, self.step.mount)
        found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1
        if found is None or found.si_status:
            self._program.read()
            said = "; ".join(self._program.last_lines) or "its root does not answer"
            raise OSError(errno.EIO, f"{self._program.name}: {said}")
        tree, self._tree = self._tree, -1
        return tree

    def close(self) -> None:
        if self._pidfd >= 0:
            end(self._pidfd)
            self._pidfd = -1
        if self._tree >= 0:
            os.close(self._tree)
            self._tree = -1


def await_fd(fd: int, deadline: float, stops: int, entry: Mount) -> None:
    """Until `fd` can be read; OSError ETIMEDOUT, or ECANCELED at a stop signal, which stays pending."""
    left_s = max(0.0, deadline - time.monotonic())
    ready = select.select([fd, stops], [], [], left_s)[0]
    if fd in ready:
        return
    if stops in ready:
        raise OSError(errno.ECANCELED, "stopped by a signal")
    raise OSError(errno.ETIMEDOUT, f"{entry.source} does not answer within {entry.timeout_s:g} s; is it up, and reachable from this host?")


def end(pidfd: int) -> None:
    """Kill and reap; its fd is closed."""
    try:
        process.pidfd_send_signal(pidfd, _KILL)
    except ProcessLookupError:
        pass
    if select.select([pidfd], [], [], 1.0)[0]:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
