"""What a config means, as frozen values: the one vocabulary of launcher, init and clients.

Owns the shapes. Must not know TOML, syscalls or time.
Laws: a value here is complete (every default is filled in) and checked; units stand in names
(`_s` seconds, `_bytes`); signals are plain ints 1-64, for `signal.Signals` refuses real-time ones.
NamedTuples rather than dataclasses: PID 1 pays for each import, and dataclasses cost 17 ms.
"""

from _collections_abc import Iterable

from pyinit.records import Any, NamedTuple

SIGNAL_NUMBERS = {
    "HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "BUS": 7, "FPE": 8, "KILL": 9,
    "USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "STKFLT": 16, "CHLD": 17,
    "CONT": 18, "STOP": 19, "TSTP": 20, "TTIN": 21, "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25,
    "VTALRM": 26, "PROF": 27, "WINCH": 28, "IO": 29, "PWR": 30, "SYS": 31,
}  # fmt: skip
RTMIN, RTMAX = 34, 64  # glibc keeps 32 and 33 for its threads
MOST_NAME = 63
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.@-")


def is_name(text: str) -> bool:
    """Whether it may name a service or a container: it becomes a folder, a cgroup, a word on the command line."""
    return 0 < len(text) <= MOST_NAME and set(text) <= _NAME and text[0] not in ".-@"


def signal_number(name: str) -> int | None:
    """The number of `TERM`, `SIGTERM`, `15` or `RTMIN+3`; None if it is no signal."""
    word = name.upper().removeprefix("SIG")
    if word.isascii() and word.isdigit() and len(word) <= 2:
        return int(word) if 1 <= int(word) <= RTMAX else None
    if word in SIGNAL_NUMBERS:
        return SIGNAL_NUMBERS[word]
    for base, start, sign in (("RTMIN", RTMIN, 1), ("RTMAX", RTMAX, -1)):
        rest = word.removeprefix(base)
        if rest == word:
            continue
        mark = "+" if sign > 0 else "-"
        if not rest:
            return start
        if rest[0] == mark and rest[1:].isascii() and rest[1:].isdigit() and len(rest) <= 3:
            number = start + sign * int(rest[1:])
            return number if RTMIN <= number <= RTMAX else None
    return None


def signal_name(number: int) -> str:
    """`TERM` for 15, `RTMIN+3` for 37."""
    for name, value in SIGNAL_NUMBERS.items():
        if value == number:
            return name
    return f"RTMIN+{number - RTMIN}" if number >= RTMIN else str(number)


class Origin(NamedTuple):
    """Where in the config a thing stands, for messages: `services.toml:12`."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


NOWHERE = Origin("(default)", 0)


class RestartDelay(NamedTuple):
    """The wait before a restart: `first_s`, then `initial_s * factor**n` up to `max_s`, +-`jitter`."""

    first_s: float = 0.0
    initial_s: float = 0.1
    max_s: float = 30.0
    factor: float = 2.0
    jitter: float = 0.1
    reset_after_s: float = 10.0


class StartLimit(NamedTuple):
    """More than `count` starts within `within_s`: `then` is "retry" (at the longest delay), "fail" or "exit"."""

    count: int = 10  # type: ignore[assignment]  # hides tuple.count, which nobody calls on a limit
    within_s: float = 60.0
    then: str = "retry"


class Probe(NamedTuple):
    """One question whether something works: `kind` is "tcp", "unix", "http", "exec" or "path"."""

    kind: str
    host: str = ""  # tcp, http: a numeric address
    port: int = 0
    path: str = ""  # path, unix: in the file system; http: the request's target
    name: str = ""  # http: the Host header
    status: tuple[int, int] = (200, 399)  # http: lowest and highest that are good
    body: str = ""  # http: a regular expression that the body must match; "" asks for none
    command: tuple[str, ...] = ()  # exec: exit code 0 is good


class Readiness(NamedTuple):
    """How a service says that it is ready: `kind` is "started" (exec succeeded), "probe", "fd", "notify" or "log"."""

    kind: str = "started"
    probe: Probe | None = None
    fd: int = -1  # s6's notification fd: its number in the service
    pattern: str = ""  # log: a regular expression that a line of the output must match
    timeout_s: float = 30.0


class Health(NamedTuple):
    """`failures` bad answers in a row, and `action` follows: "restart", "stop" or "exit" (of the whole)."""

    probe: Probe
    interval_s: float = 10.0
    timeout_s: float = 2.0
    failures: int = 3
    start_period_s: float = 0.0  # after readiness; a bad answer in it does not count before the first good one
    action: str = "restart"


class StopStep(NamedTuple):
    """One signal of a stop, and how long it has; signal 0 is the end of the input of a service that others log to."""

    signal: int
    wait_s: float


class Hooks(NamedTuple):
    """Commands around a service's process, each with the time that one command has."""

    pre_start: tuple[tuple[str, ...], ...] = ()
    post_start: tuple[tuple[str, ...], ...] = ()
    pre_stop: tuple[tuple[str, ...], ...] = ()
    finish: tuple[tuple[str, ...], ...] = ()  # at most one, runsv's: $1 exit code or -1, $2 status byte
    pre_start_timeout_s: float = 30.0
    post_start_timeout_s: float = 30.0
    pre_stop_timeout_s: float = 5.0
    finish_timeout_s: float = 5.0  # s6's


class Schedule(NamedTuple):
    """When a task runs: a cron expression of five fields (UTC), or an interval after the start of the last run."""

    cron: str = ""
    interval_s: float = 0.0


class Condition(NamedTuple):
    """What must be so for a start; if it is not, the service is done without having run."""

    path_exists: tuple[str, ...] = ()
    path_missing: tuple[str, ...] = ()
    env: tuple[str, ...] = ()  # "NAME" (set and not empty) or "NAME=value", in the service's environment
    origin: Origin = NOWHERE


class SocketSpec(NamedTuple):
    """A socket that PID 1 binds and a service inherits: `type` is "tcp", "udp", "unix", "unix-datagram" or "inherited"."""

    name: str
    type: str = "tcp"
    host: str = ""  # tcp, udp: a numeric address
    port: int = 0
    path: str = ""  # unix
    mode: int = 0o666  # unix
    user: str = ""  # unix: who owns it; "" is PID 1's user
    group: str = ""
    backlog: int = 4096
    reuseport: bool = False
    origin: Origin = NOWHERE


class LogSpec(NamedTuple):
    """Where a service's output goes; `to` is "file", "stdout", "null", "inherit", "syslog" or "service:NAME"."""

    to: str = "file"
    max_size_bytes: int = 10 * 1024 * 1024
    max_age_s: float = 0.0  # 0: a file is never too old
    keep: int = 10
    total_size_bytes: int = 0  # of a service's archives and its current file; 0: as many as `keep`
    compress: bool = False
    timestamp: str = "iso"  # or "tai64n", "none"
    format: str = "text"  # or "json": a JSON object a line
    stderr: str = "joined"  # or "separate": its own file, current.err
    max_line_bytes: int = 0  # longer lines are split; 0: never
    rate: int = 0  # lines a second, what is more is dropped and counted; 0: no limit
    rate_burst: int = 0  # lines that may come at once; 0: as `rate`
    echo: bool = False
    origin: Origin = NOWHERE


class IoLimit(NamedTuple):
    """Of one block device: bytes and operations a second; 0 means none, -1 that one is lifted."""

    device: str  # as the config has it: a path, or "8:0"
    number: str = ""  # "8:0"; "": there is no such device
    read_bytes: int = 0
    write_bytes: int = 0
    read_iops: int = 0
    write_iops: int = 0


class Pressure(NamedTuple):
    """Tell when some of a group waited `stall_us` or more within `window_us`; `kind` is "memory", "cpu" or "io"."""

    kind: str
    stall_us: int
    window_us: int
    origin: Origin = NOWHERE


class CgroupLimits(NamedTuple):
    """Limits of a cgroup; 0 means none, but of swap, where it is -1. `cpu_max` in cores, weights 1-10000."""

    memory_max_bytes: int = 0
    memory_high_bytes: int = 0
    cpu_max: float = 0.0
    cpu_weight: int = 0
    pids_max: int = 0
    origin: Origin = NOWHERE
    memory_low_bytes: int = 0
    memory_swap_max_bytes: int = -1
    cpuset: tuple[int, ...] = ()
    io_max: tuple[IoLimit, ...] = ()
    io_weight: int = 0
    pressure: tuple[Pressure, ...] = ()  # what is told, and limits nothing


UNCONFINED, DEFAULT_PROFILE = "unconfined", "default"


class Seccomp(NamedTuple):
    """Which system calls are let through: `program` is the kernel's, b"" for all; `log`: refuse none, but tell."""

    name: str = UNCONFINED  # or DEFAULT_PROFILE, or the absolute path of a profile
    log: bool = False
    program: bytes = b""
    capabilities: tuple[str, ...] = ()  # that the profile was made for
    origin: Origin = NOWHERE


class Landlock(NamedTuple):
    """What a service's processes may reach: paths ("-" before one that may be missing), TCP ports (None: all).

    With a path in `ro` (read and execute) or `rw` (everything) all others are refused. `scope`: "signals" and
    "abstract_sockets" go to its own processes only.
    """

    ro: tuple[str, ...] = ()
    rw: tuple[str, ...] = ()
    tcp_bind: tuple[int, ...] | None = None
    tcp_connect: tuple[int, ...] | None = None
    scope: tuple[str, ...] = ()


class ProcessSpec(NamedTuple):
    """What a service's processes are given, beside their user, folder and environment."""

    nice: int | None = None
    cpu_affinity: tuple[int, ...] = ()
    oom_score_adj: int | None = None
    rlimits: tuple[tuple[str, int, int], ...] = ()  # (name, soft, hard); -1 is infinity
    capabilities: tuple[str, ...] | None = None  # the bounding set; None: PID 1's own for services
    ambient_capabilities: tuple[str, ...] = ()
    no_new_privileges: bool = False
    chroot: str = ""
    private_tmp: bool = False
    read_only_paths: tuple[str, ...] = ()
    stdin: str = "null"  # or "tty", "file:/path", "socket:NAME"; "logs" of a service that others log to
    tty: str = ""  # a terminal that becomes the controlling one, and stdin, stdout and stderr
    session: str = "own"  # or "group": a process group in the session of PID 1
    strict: bool = False  # what can't be granted is an error, and not a warning
    origins: tuple[tuple[str, Origin], ...] = ()  # of the keys, for messages; of a path in landlock: "landlock PATH"
    seccomp: Seccomp = Seccomp()
    landlock: Landlock | None = None


class ServiceSpec(NamedTuple):
    """One `[services.NAME]`, complete; `command` is argv, never empty."""

    name: str
    command: tuple[str, ...]
    kind: str = "service"  # or "oneshot", "task"
    requires: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    user: str = "root"  # a name or a number; "" leaves the ids as they are
    group: str = ""  # "" is the user's primary group
    groups: tuple[str, ...] | None = None  # None: the groups that list the user
    working_directory: str = "/"
    environment: tuple[tuple[str, str], ...] = ()
    environment_files: tuple[str, ...] = ()  # "-" before a path: it may be missing
    env_dir: str = ""
    environment_clear: bool = False
    umask: int = 0o022
    process: ProcessSpec = ProcessSpec()
    cgroup: CgroupLimits = CgroupLimits()
    stop: tuple[StopStep, ...] = (StopStep(15, 7.0),)  # then KILL
    drain_s: float = 0.0  # from "stopping" to the first signal
    kill: str = "cgroup"  # or "group", "process"
    restart: str = "always"  # or "on-failure", "never"
    restart_delay: RestartDelay = RestartDelay()
    start_limit: StartLimit = StartLimit()
    success_exit_codes: tuple[int, ...] = (0,)
    critical: bool = False  # its final failure ends the init with its exit code
    ready: Readiness = Readiness()
    health: Health | None = None
    watchdog_s: float = 0.0  # sd_notify's WATCHDOG=1 must come within; 0: no watchdog
    fd_store: int = 0  # fds that the service may leave with PID 1 (FDSTORE=1)
    hooks: Hooks = Hooks()
    reload_signal: int = 1  # of `pyinit hup`; 0: a command does it
    reload_command: tuple[str, ...] = ()
    schedule: Schedule | None = None  # of a task
    timeout_s: float = 0.0  # of one run of a oneshot or task; 0: it may take for ever
    condition: Condition = Condition()
    sockets: tuple[SocketSpec, ...] = ()
    log: LogSpec = LogSpec()
    enabled: bool = True
    template: str = ""  # "worker@" of a service that was made from it
    origin: Origin = NOWHERE  # of the table
    command_origin: Origin = NOWHERE
    user_origin: Origin = NOWHERE


class InitSpec(NamedTuple):
    """The `[init]` table; `exit` is "on-signal", "when-all-exited" or "when-main-exits"."""

    control_socket: str = ""  # "": the default of the role
    state_dir: str = "/run/pyinit"
    log_dir: str = "/var/log/pyinit"
    stop_timeout_s: float = 9.0
    exit: str = "on-signal"
    main: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    environment_clear: bool = False
    strict: bool = False  # the default of every service's `strict`
    stop_signals: tuple[int, ...] = ()
    forward_signals: tuple[tuple[int, str], ...] = ()  # (signal, service)


IMAGES = ("squashfs", "erofs")


class Layer(NamedTuple):
    """One layer of the root, lowest first: an absolute path of a squashfs or EROFS file, or a directory.

    `oci`: `path` is an OCI layout, whose image `tag` ("": the only one) has one or more layers, which the launcher finds.
    """

    path: str
    origin: Origin = NOWHERE
    sha256: str = ""  # the digest that it is pinned to, in lower case; of an image in a layout: its manifest's
    oci: bool = False
    tag: str = ""


class Content(NamedTuple):
    """What a file shall hold: `kind` is "text", or "file" (of the host), "env" (of the launcher) or "command" (on the host)."""

    kind: str
    text: str = ""  # the text itself, the file's path, the variable's name
    command: tuple[str, ...] = ()
    origin: Origin = NOWHERE


class FileSpec(NamedTuple):
    """A file that is written into a RAM disk before any service starts; ids of -1 are the mount's."""

    name: str  # below the mount's target
    content: Content
    mode: int = 0o644
    uid: int = -1
    gid: int = -1


class IdRange(NamedTuple):
    """`length` ids from `source` on the file system are seen as those from `inside` on; `kind` is "uid" or "gid"."""

    kind: str
    source: int
    inside: int
    length: int = 1


class UserNamespace(NamedTuple):
    """Whose the container's ids are on the host: `map` is "auto" (ranges of /etc/subuid), "single" (root alone) or "ranges".

    `user`: whose ranges, or whose id. `ranges` have the host's ids as their `source`; found at the launch but of "ranges".
    """

    map: str = "auto"
    user: str = ""
    ranges: tuple[IdRange, ...] = ()
    origin: Origin = NOWHERE


class Shared(NamedTuple):
    """A namespace of somebody else: `by` is "container", "path" or "pid", and `what` its name, its path, its number."""

    kind: str
    by: str
    what: str
    origin: Origin = NOWHERE


NETWORK_TYPES = ("nfs", "nfs4", "cifs", "9p")
FUSE = "fuse."  # before the program's name


class Mount(NamedTuple):
    """One `[[container.mounts]]`: `type` is "squashfs", "erofs", "tmpfs", "bind", "overlay", one of NETWORK_TYPES or "fuse.PROGRAM".

    `source` is absolute, "" for tmpfs and overlay, of what is elsewhere as its type has it. An image's `source` that
    starts with "image:" is a file inside the root (a nested image). `mode`, `uid`, `gid` are of a RAM disk, of a source
    that is made, and else of the mount point, where that is made.
    """

    type: str
    target: str
    source: str = ""
    read_only: bool = False
    size_bytes: int = 0
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    create: bool = False  # bind: make a missing source directory
    files: tuple[FileSpec, ...] = ()  # tmpfs
    origin: Origin = NOWHERE
    source_origin: Origin = NOWHERE
    sha256: str = ""  # as a layer's
    flags: tuple[str, ...] = ("nosuid", "nodev")  # of every mount, as mount(8) calls them, beside read_only
    options: tuple[tuple[str, str | None], ...] = ()  # of the file system; None: a word without a value
    secret_options: tuple[tuple[str, Content], ...] = ()
    idmap: tuple[IdRange, ...] = ()  # bind
    propagation: str = "private"  # bind; or "slave", "shared"
    layers: tuple["Layer", ...] = ()  # overlay, lowest first
    writable: str = "none"  # overlay; as the container's
    timeout_s: float = 30.0  # for what is elsewhere, to be there
    secret: bool = False  # the RAM disk never goes to swap


LINKED = ("veth", "macvlan")  # modes of a network with a link of its own
SLIRP = "slirp4netns"  # the mode whose link a program has, which is its name


class NetRoute(NamedTuple):
    """To `to`, an address with its prefix, by the router `via`."""

    to: str
    via: str


class Publish(NamedTuple):
    """`length` ports of the host from `port` on lead to those of the container from `to` on; `host`: its address, "" for any."""

    host: str
    port: int
    to: int
    protocol: str  # "tcp" or "udp"
    length: int = 1
    origin: Origin = NOWHERE


class Outbound(NamedTuple):
    """What the container may connect to: `to` is "10.0.0.0/8", "" for anything, `protocol` "tcp", "udp", "icmp", or "" for any."""

    to: str = ""
    ports: tuple[tuple[int, int], ...] = ()  # from, to; none: all
    protocol: str = ""


class Network(NamedTuple):
    """`mode` is "none" (loopback only), "host", "veth", "macvlan", "slirp4netns" or "netns"; addresses are "10.91.0.2/24", at most one a family."""

    mode: str = "none"
    bridge: str = ""
    addresses: tuple[str, ...] = ()  # none, but pools: one of each is taken at the start
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    origin: Origin = NOWHERE
    pools: tuple[str, ...] = ()  # "10.91.0.0/16"
    parent: str = ""  # macvlan
    submode: str = "bridge"  # macvlan
    path: str = ""  # netns
    routes: tuple[NetRoute, ...] = ()
    mtu: int = 0
    mac: str = ""
    nat: bool = False
    publish: tuple[Publish, ...] = ()
    outbound: tuple[Outbound, ...] | None = None  # None: anything
    outbound_log: bool = False
    forwarding: bool = False  # the host's may be turned on
    dns_of_host: bool = False
    ipv6: bool = False  # slirp4netns: it has one too, which tells its address itself


DEFAULT_CAPABILITIES = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE",
    "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip
DEFAULT_MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
    "/sys/devices/virtual/powercap", "/sys/fs/selinux", "/sys/dev/block",
    "/sys/devices/system/cpu/cpu*/thermal_throttle",
)  # fmt: skip
DEFAULT_READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class Device(NamedTuple):
    """A device of the host, at the same path below /dev; -1: as the host has it. `access`: some of "rwm"."""

    path: str
    access: str = "rwm"
    mode: int = -1
    uid: int = -1
    gid: int = -1
    origin: Origin = NOWHERE


class Security(NamedTuple):
    """The container's bounding set, hidden paths and filter. User namespaces will stand here.

    `no_new_privileges` is the default of its services, and of an init of the image.
    """

    capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES
    masked_paths: tuple[str, ...] = DEFAULT_MASKED_PATHS
    readonly_paths: tuple[str, ...] = DEFAULT_READONLY_PATHS
    seccomp: Seccomp = Seccomp()  # of an init of the image, and of each service that has none of its own
    no_new_privileges: bool = False
    devices: tuple[Device, ...] = ()
    devices_origin: Origin = NOWHERE


class Place(NamedTuple):
    """A path of the container, and where it is asked for."""

    path: str
    origin: Origin = NOWHERE


SECRETS = "/run/secrets"
RESERVED = ("/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")  # what every container has there is ours


class Sysctl(NamedTuple):
    """One setting of the kernel's, of a namespace that is the container's own; `path` is below /proc/sys."""

    name: str  # as the config has it
    path: str
    value: str
    origin: Origin = NOWHERE


class HostHook(NamedTuple):
    """A command that the launcher runs on the host."""

    command: tuple[str, ...]
    origin: Origin = NOWHERE


class HostHooks(NamedTuple):
    """`prestart`: before the services start; `poststop`: after all else is undone; each command has `timeout_s`."""

    prestart: tuple[HostHook, ...] = ()
    poststop: tuple[HostHook, ...] = ()
    timeout_s: float = 30.0


class Container(NamedTuple):
    """The `[container]` table; `writable` is "none", "tmpfs" (with its size and inodes) or an absolute folder of the host.

    Changes go there; with `writable_paths` only those below them, and the rest of the root is read-only.
    """

    name: str
    hostname: str
    layers: tuple[Layer, ...]
    writable: str = "none"
    writable_size_bytes: int = 0
    namespaces: tuple[str, ...] = ("pid", "mount", "uts", "ipc", "cgroup", "net")
    mounts: tuple[Mount, ...] = ()
    cgroup: CgroupLimits = CgroupLimits()
    network: Network = Network()
    security: Security = Security()
    orphan: bool = False  # the container outlives its monitor
    init: str = ""  # exec this program of the image instead of the fork
    origin: Origin = NOWHERE
    writable_inodes: int = 0
    writable_paths: tuple[Place, ...] = ()
    writable_origin: Origin = NOWHERE
    secrets: tuple[FileSpec, ...] = ()  # in SECRETS
    secrets_origin: Origin = NOWHERE
    sysctl: tuple[Sysctl, ...] = ()
    rlimits: tuple[tuple[str, int, int], ...] = ()  # as a service's, whose default they are; not PID 1's own
    rlimits_origin: Origin = NOWHERE
    hooks: HostHooks = HostHooks()
    share: tuple[Shared, ...] = ()
    user_namespace: UserNamespace = UserNamespace()  # with "user" among namespaces
    time_offsets: tuple[tuple[str, int], ...] = ()  # (monotonic or boottime, nanoseconds)
    time_origin: Origin = NOWHERE
    rootless: bool = False  # of an ordinary user's: not of a file, but of who starts it


def root_of(box: Container) -> Shared | None:
    """Whose root the container stands in; None if it has one of its own."""
    return next((one for one in box.share if one.kind == "mount"), None)


def guest_folder(name: str) -> str:
    """What is the container's in another's root: its control socket, its state and its logs, unless the config names others."""
    return f"/run/pyinit-{name}"


class Config(NamedTuple):
    """A whole checked config: services in the file's order; `path` is absolute."""

    path: str
    init: InitSpec
    services: tuple[ServiceSpec, ...]
    container: Container | None = None
    templates: tuple[str, ...] = ()  # names that end in "@"


def meant(names: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Each name once; one that is no service's own stands for its instances: `db` for db@1 and db@2."""
    own: set[str] = set()
    instances: dict[str, list[str]] = {}
    for name in known:
        own.add(name)
        instances.setdefault(name.partition("@")[0], []).append(name)
    found = [one for name in names for one in ((name,) if name in own else instances.get(name, (name,)))]
    return tuple(dict.fromkeys(found))


def without_places(value: Any) -> Any:
    """The same value as if it stood nowhere: what only moved to another line is equal then."""
    if isinstance(value, Origin):
        return NOWHERE
    if not isinstance(value, tuple):
        return value
    inner = [without_places(one) for one in value]
    return type(value)(*inner) if hasattr(value, "_fields") else tuple(inner)
