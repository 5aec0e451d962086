"""From a ServiceSpec to all that a child process needs: numbers for names, files, descriptors, variables.

Owns the look-ups before a fork. Must not know states or when a child is started. Laws: what can't be had is a
RefusedError with stage and place, before there is a process; a command beside the service (a hook, a probe) gets
the service's user, environment and cgroup, and none of its sockets.
"""

import errno
import os
import resource
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.core.limits import controllers
from pyinit.init import spawn, users
from pyinit.init.environment import DEFAULT_PATH, EnvironmentFileError, read_file, read_folder
from pyinit.init.groups import Groups
from pyinit.init.output import Output
from pyinit.init.privileges import Have, RefusedError, fit, read_have
from pyinit.linux import caps, namespaces
from pyinit.model import InitSpec, Origin, ProcessSpec, ServiceSpec, SocketSpec
from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinit.init import confinement

_OURS = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID")


class Base:
    """What every service's environment begins with."""

    def __init__(self, inherited: dict[str, str], container: str, init: InitSpec) -> None:
        self.inherited = inherited
        self.container = container
        self.init = init


class Children:
    """`report` gets each warning once."""

    def __init__(self, base: Base, groups: Groups, output: Output, report: Callable[[str], None]) -> None:
        self.base = base
        self._groups = groups
        self._output = output
        self._report = report
        self._reported: set[str] = set()
        self._have: Have | None = None
        self.null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def user(self, spec: ServiceSpec) -> users.User | None:
        """None if the ids are left as they are."""
        user = users.find_user(spec.user) if spec.user else None
        if spec.user and user is None:
            text = f"{_place(spec.user_origin)}: user {spec.user} is not in /etc/passwd: add it to the image, or name another"
            raise RefusedError("user", errno.ENOENT, text)
        if user is not None:
            self._check_mapped(spec, "uid", user.uid)
            self._check_mapped(spec, "gid", user.gid)
        return user

    @staticmethod
    def _check_mapped(spec: ServiceSpec, kind: str, number: int) -> None:
        if not namespaces.has_id(kind, number):
            text = f"{_place(spec.user_origin)}: there is no {kind} {number} in this user namespace (/proc/self/{kind}_map): name another, or give it a larger map"
            raise RefusedError("user", errno.EINVAL, text)

    def gid(self, spec: ServiceSpec, name: str) -> int:
        gid = users.find_group(name)
        if gid is None:
            text = f"{_place(spec.user_origin if name == spec.group else spec.origin)}: group {name} is not in /etc/group: add it to the image, or name another"
            raise RefusedError("user", errno.ENOENT, text)
        self._check_mapped(spec, "gid", gid)
        return gid

    def ids_of(self, one: SocketSpec) -> tuple[int, int]:
        """Who owns a unix socket; -1 leaves it."""
        uid = gid = -1
        if one.user:
            user = users.find_user(one.user)
            if user is None:
                text = f"{one.origin}: user {one.user} is not in /etc/passwd: add it to the image, or name another"
                raise RefusedError("sockets", errno.ENOENT, text)
            uid = user.uid
        if one.group:
            found = users.find_group(one.group)
            if found is None:
                text = f"{one.origin}: group {one.group} is not in /etc/group: add it to the image, or name another"
                raise RefusedError("sockets", errno.ENOENT, text)
            gid = found
        return uid, gid

    def uid_for_files(self, spec: ServiceSpec) -> int:
        """Who owns what the service is to reach; -1: nobody in particular."""
        user = self.user(spec)
        return user.uid if user else -1

    def environment(self, spec: ServiceSpec, user: users.User | None) -> dict[str, str]:
        """All but what is made for one process; RefusedError for a file that can't be read."""
        found = {} if spec.environment_clear else dict(self.base.inherited)
        found.setdefault("PATH", DEFAULT_PATH)
        if user is not None:
            found.update(HOME=user.home, USER=user.name, LOGNAME=user.name, SHELL=user.shell)
        if self.base.container:
            found["container"] = self.base.container
        if not spec.environment_clear:
            found.update(self.base.init.environment)
        try:
            if spec.env_dir:
                for name, value in read_folder(spec.env_dir).items():
                    found.pop(name, None)
                    if value is not None:
                        found[name] = value
            for path in spec.environment_files:
                found.update(read_file(path))
        except EnvironmentFileError as error:
            raise RefusedError("environment", errno.EINVAL, f"{spec.origin}: {error}") from error
        found.update(spec.environment)
        for name in _OURS:
            found.pop(name, None)
        found.update(self._groups.environment(spec.name))
        return found

    def unmet(self, spec: ServiceSpec) -> str:
        """What of the service's condition is not so; "" if all is."""
        wanted = spec.condition
        for path in wanted.path_exists:
            if not os.path.exists(path):
                return f"condition: {path} is not there"
        for path in wanted.path_missing:
            if os.path.lexists(path):
                return f"condition: {path} is there"
        environment = self.environment(spec, self.user(spec)) if wanted.env else {}
        for text in wanted.env:
            name, mark, value = text.partition("=")
            if environment.get(name, "") != value if mark else not environment.get(name):
                return f"condition: {name} is {'not ' + value if mark else 'not set'}"
        return ""

    def main(
        self, spec: ServiceSpec, *, passed: tuple[tuple[int, int], ...], pid_variables: tuple[str, ...],
        variables: dict[str, str], stdin_fd: int = -1,
    ) -> spawn.Child:  # fmt: skip
        """The service's own process."""
        user = self.user(spec)
        environment = self.environment(spec, user)
        environment.update(variables)
        child = self._child(spec, user, spec.command, environment)
        return child._replace(
            stdin_fd=stdin_fd if stdin_fd >= 0 else self._stdin(spec),
            passed_fds=tuple(pair for pair in passed if pair[0] >= 0),
            pid_variables=pid_variables,
            tty=spec.process.tty,
        )

    def beside(
        self, spec: ServiceSpec, argv: tuple[str, ...], variables: dict[str, str], stdio: tuple[int, int, int] | spawn.Terminal | None = None
    ) -> spawn.Child:
        """A command for the service: in a session of its own, so that it can be killed alone."""
        user = self.user(spec)
        environment = self.environment(spec, user)
        environment.update(variables)
        if stdio is None:
            return self._child(spec, user, argv, environment)._replace(new_session=True)
        if isinstance(stdio, spawn.Terminal):
            return self._child(spec, user, argv, environment, (-1, -1))._replace(new_session=True, terminal=stdio)
        return self._child(spec, user, argv, environment, stdio[1:])._replace(new_session=True, stdin_fd=stdio[0])

    def _child(
        self, spec: ServiceSpec, user: users.User | None, argv: tuple[str, ...], environment: dict[str, str],
        given: tuple[int, int] | None = None,
    ) -> spawn.Child:  # fmt: skip
        """`given`: standard output and error; None: its log's."""
        process, warnings = fit(spec, self._have_for(spec))
        for text in warnings:
            self._warn(text)
        gid, groups = self._groups_of(spec, user)
        owner = user.uid if user and groups is not None else -1
        procs = self._cgroup_fds(spec)
        if given is None:
            given = (-1, -1) if process.tty else (self._output.pipe_for(spec, owner), self._output.error_pipe_for(spec, owner))
        return spawn.Child(
            argv=argv,
            path=spawn.find_program(argv[0], environment["PATH"], process.chroot),
            environment=environment,
            stdin_fd=self.null_fd,
            output_fd=given[0],
            error_fd=given[1],
            cgroup_fds=procs,
            born_in_fd=self._groups.birthplace(spec.name) if procs else -1,
            uid=user.uid if user else 0,
            gid=gid,
            groups=groups,
            umask=spec.umask,
            working_directory=spec.working_directory,
            rlimits=tuple((getattr(resource, "RLIMIT_" + name.upper()), soft, hard) for name, soft, hard in process.rlimits),
            nice=process.nice,
            cpus=process.cpu_affinity,
            oom_score_adj=process.oom_score_adj,
            dropped=self._dropped(process.capabilities),
            ambient=tuple(caps.NAMES.index(name) for name in process.ambient_capabilities),
            no_new_privileges=process.no_new_privileges,
            chroot=process.chroot,
            private_tmp=process.private_tmp,
            read_only_paths=process.read_only_paths,
            new_session=process.session == "own",
            filter=process.seccomp.program,
            landlock=self._rules(process),
        )

    def _cgroup_fds(self, spec: ServiceSpec) -> tuple[int, ...]:
        limited = controllers(spec.cgroup)
        if spec.kill != "cgroup" and not limited:
            return ()
        fds, lacks = self._groups.procs_for(spec)
        for lack in lacks:
            text = f"{spec.cgroup.origin}: cgroup: {lack}"
            if spec.process.strict:
                raise RefusedError("cgroup", errno.ENOENT, text)
            self._warn(f"{text}; it runs without")
        return fds

    def limit_again(self, spec: ServiceSpec) -> None:
        """The limits differ, and its processes run: they hold from now on."""
        try:
            for lack in self._groups.limit_again(spec):
                self._report(f"{spec.cgroup.origin}: cgroup: {lack}")
        except OSError as error:
            self._report(f"{spec.cgroup.origin}: cgroup: {error}")

    def _warn(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            self._report(text)

    def _groups_of(self, spec: ServiceSpec, user: users.User | None) -> tuple[int, tuple[int, ...] | None]:
        changes = (user is not None and (user.uid, user.gid) != (os.geteuid(), os.getegid())) or bool(spec.group or spec.groups)
        if not changes or user is None:
            return (user.gid if user else 0), None
        gid = self.gid(spec, spec.group) if spec.group else user.gid
        extra = users.groups_of(user) if spec.groups is None else [self.gid(spec, name) for name in spec.groups]
        return gid, tuple(sorted({gid, *extra}))

    def _dropped(self, kept: tuple[str, ...] | None) -> tuple[int, ...]:
        if kept is None:
            return ()
        bounding = (self._have or self._read_have()).bounding
        return tuple(number for number, name in enumerate(caps.NAMES) if name in bounding and name not in kept)

    def _have_for(self, spec: ServiceSpec) -> Have:
        have = self._have or self._read_have()
        if spec.process.landlock is not None and have.landlock_abi < 0:
            from pyinit.linux import landlock  # for those who have it

            self._have = have = have._replace(landlock_abi=landlock.abi())
        return have

    def _rules(self, process: ProcessSpec) -> "confinement.Rules | None":
        if process.landlock is None:
            return None
        from pyinit.init import confinement  # as above

        assert self._have is not None
        return confinement.rules(process.landlock, self._have.landlock_abi)

    def _read_have(self) -> Have:
        self._have = read_have()
        return self._have

    def _stdin(self, spec: ServiceSpec) -> int:
        """A file is opened anew for each process; its descriptor is the caller's to close (see `release`)."""
        kind, _, path = spec.process.stdin.partition(":")
        if kind == "tty":
            return 0
        if kind == "logs":
            return self._output.feed_for(spec.name)
        if kind != "file":
            return self.null_fd
        from pyinit.linux import mount  # for those who have one

        try:
            fd = mount.open_plainly(path, os.O_RDONLY | os.O_NONBLOCK)
            os.set_blocking(fd, True)  # only the opening of a FIFO must not stop us
            return fd
        except OSError as error:
            raise RefusedError("files", error.errno or 0, f"{spec.origin}: stdin: {path}: {error.strerror}") from error

    def release(self, spec: ServiceSpec, child: spawn.Child) -> None:
        """After the fork."""
        if spec.process.stdin.startswith("file:"):
            with contextlib.suppress(OSError):
                os.close(child.stdin_fd)


def explain(spec: ServiceSpec, command: str, stage: str, number: int) -> str:
    """One line for people: the config's line, the stage, why."""
    if stage == "exec":
        what = f"cannot execute {command}: {os.strerror(number)}"
        forbidden = _forbidden(spec, command) if number == errno.EACCES and spec.process.landlock is not None else ""
        if forbidden:
            return f"{dict(spec.process.origins)['landlock']}: {forbidden}"
        hint = "; is it in the image?" if number == errno.ENOENT else ""
        return f"{_place(spec.command_origin if command == spec.command[0] else spec.origin)}: {what}{hint}"
    origins = {"seccomp": spec.process.seccomp.origin, **dict(spec.process.origins)}
    if stage == "tty":
        return f"{_place(spec.origin)}: no terminal can be had at /dev/pts: {os.strerror(number)}"
    if stage == "landlock":
        return _not_restricted(spec, number)
    key = {"rlimits": "rlimits", "chroot": "chroot", "capabilities": "capabilities", "seccomp": "seccomp"}.get(stage, "")
    return f"{_place(origins.get(key, spec.origin))}: {stage} failed before exec: {os.strerror(number)}"


def _place(origin: Origin) -> str:
    """A line of the config, or what was said on the command line."""
    return str(origin) if origin.line else origin.file


def _forbidden(spec: ServiceSpec, command: str) -> str:
    """That an execution was Landlock's to refuse: if the program could be executed but for that."""
    wanted, root = spec.process.landlock, spec.process.chroot
    if wanted is None or not (wanted.ro or wanted.rw) or ("/" in command and not os.access(root + command, os.X_OK)):
        return ""
    allowed = [os.path.realpath(root + path.removeprefix("-")) for path in (*wanted.ro, *wanted.rw)]
    real = os.path.realpath(root + command)
    if "/" in command and any(real == path or real.startswith(path.rstrip("/") + "/") for path in allowed):
        return f"landlock allows no execution of what runs {command}, its loader or the program in its first line: add that to ro"
    return f"landlock allows no execution of {command}: add it to ro"


def _not_restricted(spec: ServiceSpec, number: int) -> str:
    """With the path that it is about: the first that we can't open for that reason either."""
    wanted, origins = spec.process.landlock, dict(spec.process.origins)
    assert wanted is not None
    for path in (*wanted.ro, *wanted.rw):
        try:
            os.stat(spec.process.chroot + path)
        except OSError as error:
            if error.errno == number and not path.startswith("-"):
                hint = '; make it, or write "-" before it if it may be missing' if number == errno.ENOENT else ""
                return f"{origins[f'landlock {path}']}: landlock: {path}: {os.strerror(number)}{hint}"
    return f"{origins['landlock']}: landlock failed before exec: {os.strerror(number)}"
