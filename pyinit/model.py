"""What a config means, as frozen values: the one vocabulary of launcher, init and clients.

Owns the shapes. Must not know TOML, syscalls or time.
Laws: a value here is complete (every default is filled in) and checked; units stand in names
(`_s` seconds, `_bytes`); signals are plain ints 1-64, for `signal.Signals` refuses real-time ones.
NamedTuples rather than dataclasses: PID 1 pays for each import, and dataclasses cost 17 ms.
"""

from typing import NamedTuple

SIGNAL_NUMBERS = {
    "HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "BUS": 7, "FPE": 8, "KILL": 9,
    "USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "STKFLT": 16, "CHLD": 17,
    "CONT": 18, "STOP": 19, "TSTP": 20, "TTIN": 21, "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25,
    "VTALRM": 26, "PROF": 27, "WINCH": 28, "IO": 29, "PWR": 30, "SYS": 31,
}  # fmt: skip
RTMIN, RTMAX = 34, 64  # glibc keeps 32 and 33 for its threads


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


class Readiness(NamedTuple):
    """How a service says that it is ready: `kind` is "exec" (exec succeeded), "tcp", "fd", "notify" or "path"."""

    kind: str = "exec"
    host: str = ""  # tcp: a numeric address
    port: int = 0
    fd: int = -1
    path: str = ""
    timeout_s: float = 30.0


class LogSpec(NamedTuple):
    """Where a service's output goes; `to` is "file", "stdout", "null" or "inherit"."""

    to: str = "file"
    max_size_bytes: int = 10 * 1024 * 1024
    keep: int = 10
    timestamp: str = "iso"  # or "none"
    echo: bool = False


class ServiceSpec(NamedTuple):
    """One `[services.NAME]`, complete; `command` is argv, never empty."""

    name: str
    command: tuple[str, ...]
    kind: str = "service"  # or "oneshot"
    requires: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    user: str = "root"  # a name or a number; "" leaves the ids as they are
    group: str = ""  # "" is the user's primary group
    groups: tuple[str, ...] | None = None  # None: the groups that list the user
    working_directory: str = "/"
    environment: tuple[tuple[str, str], ...] = ()
    umask: int = 0o022
    rlimits: tuple[tuple[str, int, int], ...] = ()  # (name, soft, hard); -1 is infinity
    no_new_privileges: bool = False
    stop_signal: int = 15
    stop_timeout_s: float = 7.0
    kill: str = "cgroup"  # or "group", "process"
    restart: str = "always"  # or "on-failure", "never"
    restart_delay: RestartDelay = RestartDelay()
    start_limit: StartLimit = StartLimit()
    success_exit_codes: tuple[int, ...] = (0,)
    critical: bool = False  # its final failure ends the init with its exit code
    ready: Readiness = Readiness()
    log: LogSpec = LogSpec()
    enabled: bool = True
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
    stop_signals: tuple[int, ...] = ()
    forward_signals: tuple[tuple[int, str], ...] = ()  # (signal, service)


class Layer(NamedTuple):
    """One layer of the root, lowest first: an absolute path of a squashfs file or a directory."""

    path: str
    origin: Origin = NOWHERE


class Mount(NamedTuple):
    """One `[[container.mounts]]`: `type` is "squashfs", "tmpfs" or "bind"; `source` is absolute, "" for tmpfs.

    A squashfs `source` that starts with "image:" is a file inside the root (a nested image).
    `files` are (path relative to the target, content, mode, owner uid, owner gid), written before any service starts.
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
    files: tuple[tuple[str, str, int], ...] = ()
    origin: Origin = NOWHERE
    source_origin: Origin = NOWHERE


class CgroupLimits(NamedTuple):
    """Limits of a cgroup; 0 means none. `cpu_max` in cores, `cpu_weight` 1-10000."""

    memory_max_bytes: int = 0
    memory_high_bytes: int = 0
    cpu_max: float = 0.0
    cpu_weight: int = 0
    pids_max: int = 0
    origin: Origin = NOWHERE


class Network(NamedTuple):
    """`mode` is "none" (loopback only), "host" or "veth"; addresses are "10.91.0.2/24"."""

    mode: str = "none"
    bridge: str = ""
    address: str = ""
    gateway: str = ""
    dns: tuple[str, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    origin: Origin = NOWHERE


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


class Security(NamedTuple):
    """The container's bounding set and hidden paths. Seccomp and user namespaces will stand here."""

    capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES
    masked_paths: tuple[str, ...] = DEFAULT_MASKED_PATHS
    readonly_paths: tuple[str, ...] = DEFAULT_READONLY_PATHS


class Container(NamedTuple):
    """The `[container]` table; `writable` is "none" or "tmpfs" (with `writable_size_bytes`)."""

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


class Config(NamedTuple):
    """A whole checked config: services in the file's order; `path` is absolute."""

    path: str
    init: InitSpec
    services: tuple[ServiceSpec, ...]
    container: Container | None = None
