"""The init without a launcher of ours: PID 1 of another runtime's container, or a plain supervisor.

Owns what these roles find or make around themselves. Must not know services. Law: what a runtime does not grant
(a cgroup, a writable folder) is one warning, never an end.
"""

import errno
import os
import stat
import sys
import zlib
from _collections_abc import Callable

from pyinit.core.limits import controllers, tracker
from pyinit.errors import LaunchError
from pyinit.init import sockets
from pyinit.init.pid1 import HANDLED, Endpoints, Init
from pyinit.init.reload import Reader
from pyinit.launch.claim import CONTROL_SOCKET, claim
from pyinit.linux import caps, cgroup, namespaces, process
from pyinit.model import SECRETS, Config, FileSpec, InitSpec, Mount, Origin, ServiceSpec

_DEFAULTS = InitSpec()
_PATIENCE_S = 3.0
INSIDE_SOCKET = "/run/pyinit/control.sock"


def as_init(config: Config, report: Callable[[str], None], read: Reader) -> int:
    """PID 1 of a container that another runtime made; the exit code. `read` reads the config again, for a reload."""
    wanted = read
    process.block_signals(HANDLED)
    _check_null()
    _open_standard()
    if os.geteuid() != 0:
        config, read = _as_we_are(config), lambda names: _as_we_are(wanted(names))
    if os.geteuid() == 0:  # services that are root, too, have no business in our memory and files; those of another user could not anyway
        process.prctl(process.PR_SET_DUMPABLE, 0)
    caps.clear_inheritable()  # systemd-nspawn gives all that it has
    if os.getsid(0) == 0 or os.getpgrp() != os.getpid():
        _own_session()
    os.chdir("/")
    process.close_all_but({0, 1, 2, *sockets.inherited(dict(os.environ), os.getpid()).values()})  # else a mount stays busy
    _write_files(config, report)
    unified, v1_fds = _own_groups(report)
    endpoints = Endpoints(
        cgroup_fd=unified,
        v1_fds=v1_fds,
        container=os.environ.get("container", ""),  # noqa: SIM112 - the container interface's own spelling
        given=dict(os.environ),
        inherited={} if config.init.environment_clear else dict(os.environ),
        control_path=config.init.control_socket or INSIDE_SOCKET,
        read_config=read,
    )
    return Init(config, endpoints).run()


def _check_null() -> None:
    """What every service has as its input; all else that a runtime may not give can be done without."""
    try:
        is_there = stat.S_ISCHR(os.stat("/dev/null").st_mode) and os.access("/dev/null", os.R_OK | os.W_OK)
    except OSError:
        is_there = False
    if not is_there:
        raise LaunchError("no device /dev/null that can be read and written is here: let the runtime mount a /dev with the usual devices")


def _open_standard() -> None:
    """Those of 0, 1 and 2 that a runtime has closed: else what is opened next is written to as if it were one of them."""
    while (fd := os.open("/dev/null", os.O_RDWR)) <= 2:  # the lowest that is free
        os.set_inheritable(fd, True)  # noqa: FBT003 - no keywords there
    os.close(fd)


def _own_session() -> None:
    try:
        os.setsid()
    except PermissionError:  # a group's leader has one, or its runtime's
        pass


def _write_files(config: Config, report: Callable[[str], None]) -> None:
    """The RAM disks' files, where the runtime has mounted something writable in their place."""
    skipped: list[str] = []
    for entry in config.container.mounts if config.container else ():
        for file in entry.files:
            path = os.path.join(entry.target, file.name)
            try:
                _write(entry, path, file)
            except OSError as error:
                skipped.append(f"{path} ({error.strerror})")
    if config.container is not None:
        skipped += [f"{SECRETS}/{file.name} (secrets are brought in by a launcher)" for file in config.container.secrets]
    if skipped:
        report(f"these files of [[container.mounts]] can't be written here: {', '.join(skipped)}")


def _write(entry: Mount, path: str, file: FileSpec) -> None:
    kind = file.content.kind
    if kind not in ("text", "env"):
        raise OSError(errno.ENOENT, f"its {kind} is the host's")
    text = file.content.text if kind == "text" else os.environ[file.content.text]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path + ".new", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as stream:
        if os.geteuid() == 0:
            os.fchown(fd, entry.uid if file.uid < 0 else file.uid, entry.gid if file.gid < 0 else file.gid)
        os.fchmod(fd, file.mode)
        stream.write(text)
    os.rename(path + ".new", path)


def _own_groups(report: Callable[[str], None]) -> tuple[int, dict[str, int]]:
    """(fd of our v2 group or -1, fds of those of v1 by controller): what was given to us and can be written."""
    unified = -1
    v1_fds: dict[str, int] = {}
    if not os.path.exists("/proc/self/stat"):
        report("no /proc: what a service leaves behind is not found; let the runtime mount it")
        return unified, v1_fds
    for found in cgroup.hierarchies():
        if not _is_given(found) or not os.access(found.directory, os.W_OK):
            continue
        try:
            if found.version == 2:
                _enter_leaf(found.directory)
            fd = os.open(found.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        if found.version == 2:
            unified = fd
        else:
            v1_fds.update(dict.fromkeys(found.controllers, fd))
    if unified < 0 and not tracker(v1_fds):
        report("no writable cgroup: what a service leaves behind is found by its session and environment")
    return unified, v1_fds


def _enter_leaf(directory: str) -> None:
    """v2 hands controllers down only from a group without processes."""
    leaf = f"{directory}/init"
    os.makedirs(leaf, exist_ok=True)
    cgroup.write(leaf, "cgroup.procs", "0")


def _is_given(found: cgroup.Hierarchy) -> bool:
    """Whether the group is a container's: all that its mount shows, and not the machine's own, unless we are its init."""
    return found.is_root and (not cgroup.is_machines_root(found) or namespaces.is_first_pid_namespace())


def _groups_of_services(config: Config, directory: str, note: Callable[[str, str], None], report: Callable[[str], None]) -> int:
    """fd of a group of v2 for those of the services, which have limits; -1 without: where none is ours alone, that is told."""
    wanted = {name for spec in config.services for name in controllers(spec.cgroup)}
    found = next((one for one in cgroup.hierarchies() if one.version == 2), None) if wanted else None
    if found is None or cgroup.is_machines_root(found):
        return -1
    with open(f"{found.directory}/cgroup.controllers") as file:
        here = wanted & set(file.read().split())
    if not here:
        return -1
    from pyinit.launch import delegation  # for those who have limits

    why = delegation.hand_down(found.directory, here, note)
    if why:
        report(f"no group holds the limits of services: {why}; start pyinit in a group of its own, as `systemd-run --scope -p Delegate=yes` does")
        return -1
    place = f"{found.directory}/pyinit-{os.path.basename(directory)}"
    note("services", place)
    os.makedirs(place, exist_ok=True)
    return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def as_supervisor(config: Config, report: Callable[[str], None], read: Reader) -> int:
    """Neither PID 1 nor a container: services of this machine, with or without root; the exit code."""
    process.block_signals(HANDLED)
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    caps.clear_inheritable()
    os.chdir("/")  # config.path is absolute; a service's folder is not to depend on ours, which posix_spawn hands on
    held = claim(supervisor_name(config.path), Origin(config.path, 1), patience_s=config.init.stop_timeout_s + _PATIENCE_S)
    try:
        held.write_config(config.path)
        held.write_pid(os.getpid())
        config = _settled(config, held.directory)
        init = config.init
        endpoints = Endpoints(
            cgroup_fd=_groups_of_services(config, held.directory, held.note, report),
            given=dict(os.environ),
            inherited={} if init.environment_clear else dict(os.environ),
            control_path=init.control_socket or f"{held.directory}/{CONTROL_SOCKET}",
            read_config=lambda names: _settled(read(names), held.directory),
        )
        return Init(config, endpoints).run()
    finally:
        for problem in (*held.undo(), *held.release()):
            print(f"pyinit: {problem}", file=sys.stderr)


def _settled(config: Config, directory: str) -> Config:
    """With the places and the user that this role has by default."""
    init = config.init
    if init.state_dir == _DEFAULTS.state_dir:
        init = init._replace(state_dir=directory)
    if init.log_dir == _DEFAULTS.log_dir and os.geteuid() != 0:
        state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        init = init._replace(log_dir=f"{state}/pyinit/{os.path.basename(directory)}")
    config = config._replace(init=init)
    return config if os.geteuid() == 0 else _as_we_are(config)


def _as_we_are(config: Config) -> Config:
    return config._replace(services=tuple(_unprivileged(spec) for spec in config.services))


def _unprivileged(spec: ServiceSpec) -> ServiceSpec:
    """Without root "user root", if nobody wrote it, means the user that we are."""
    return spec if spec.user_origin.line else spec._replace(user="")


def supervisor_name(path: str) -> str:
    """The config's folder name and a short sum of its path: as the default name of a container."""
    real = os.path.abspath(path)
    return f"{os.path.basename(os.path.dirname(real)) or 'root'}-{zlib.crc32(os.fsencode(real)) & 0xFFFFFF:06x}"
