"""What a service's processes are given: limits, capabilities, files, sockets, a cgroup, a log.

Owns these keys and their forms. Must not know what a service is for (services.py).
"""

from pyinit.config.decode import Table, seconds, show
from pyinit.config.probes import address
from pyinit.config.seccomp import wanted
from pyinit.errors import hint
from pyinit.model import (
    UNCONFINED,
    CgroupLimits,
    IoLimit,
    Landlock,
    LogSpec,
    Origin,
    Pressure,
    ProcessSpec,
    SocketSpec,
)

RLIMITS = (
    "as", "core", "cpu", "data", "fsize", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime",
    "sigpending", "stack",
)  # fmt: skip
PLAIN_LOGS = ("file", "stdout", "syslog", "null", "inherit")
LOGGER = "service:"
_OF_A_FILE = ("max_size", "max_age", "keep", "total_size", "compress")
_OF_LINES = ("timestamp", "format", "stderr", "max_line", "rate", "rate_burst", "echo")
_LONGEST_MAX = 1 << 20
PRESSURES = ("memory", "cpu", "io")
_NO_SWAP = ("0", "0K", "0M", "0G")
_KEYS = (
    "nice", "cpu_affinity", "oom_score_adj", "rlimits", "capabilities", "ambient_capabilities", "chroot",
    "private_tmp", "read_only_paths", "stdin", "tty", "no_new_privileges", "landlock",
)  # fmt: skip
SCOPES = ("signals", "abstract_sockets")
_UNIX_PATH_MAX = 107
_SOCKET_TYPES = ("tcp", "udp", "unix", "unix-datagram")


def process(table: Table, *, strict: bool) -> ProcessSpec:
    """`strict` is the default of the key."""
    rules, places = landlock(table.table("landlock"))
    found = ProcessSpec(
        nice=table.integer("nice", 0, -20, 19) if table.has("nice") else None,
        cpu_affinity=_cpus(table, "cpu_affinity"),
        oom_score_adj=table.integer("oom_score_adj", 0, -1000, 1000) if table.has("oom_score_adj") else None,
        rlimits=rlimits(table.table("rlimits")),
        capabilities=capabilities(table, "capabilities") if table.has("capabilities") else None,
        ambient_capabilities=capabilities(table, "ambient_capabilities"),
        no_new_privileges=table.boolean("no_new_privileges"),
        chroot=table.path_of("chroot"),
        private_tmp=table.boolean("private_tmp"),
        read_only_paths=_paths(table, "read_only_paths"),
        stdin=_stdin(table),
        tty=table.path_of("tty"),
        session=table.choice("session", "own", ("own", "group")),
        strict=table.boolean("strict", default=strict),
        seccomp=wanted(table, UNCONFINED),
        origins=(*((key, table.at(key)) for key in _KEYS if key in table.data), *places),
        landlock=rules,
    )
    if found.tty and table.has("stdin"):
        table.fault("stdin", "the terminal of `tty` is standard input; take one of them out")
    if found.tty and found.session == "group":
        table.fault("session", 'a controlling terminal needs a session: expected "own" beside `tty`, found "group"')
    for name in found.ambient_capabilities:
        if found.capabilities is not None and name not in found.capabilities:
            table.fault("ambient_capabilities", f"{name} is not in `capabilities`, which bounds it; add it there")
    return found


def capabilities(table: Table, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names without CAP_, sorted."""
    names = table.strings(key, default)
    if table.has(key):
        from pyinit.linux.caps import NAMES  # it loads ctypes, which `check` has no other need of

        for number, name in enumerate(names):
            if name.removeprefix("CAP_") not in NAMES:
                text = f'expected a capability such as "NET_BIND_SERVICE", found {show(name)}{hint(name.upper().removeprefix("CAP_"), NAMES)}'
                table.fault(key, text, number)
    return tuple(sorted({name.removeprefix("CAP_") for name in names}))


def landlock(table: Table | None) -> tuple[Landlock | None, list[tuple[str, Origin]]]:
    """The rules, and where each path stands, as "landlock PATH"."""
    if table is None:
        return None, []
    found = Landlock(
        _landlocked(table, "ro"), _landlocked(table, "rw"), _ports(table, "tcp_bind", 0), _ports(table, "tcp_connect", 1),
        tuple(dict.fromkeys(table.strings("scope"))),
    )  # fmt: skip
    for number, word in enumerate(found.scope):
        if word not in SCOPES:
            table.fault("scope", f"expected {' or '.join(map(show, SCOPES))}, found {show(word)}{hint(word, SCOPES)}", number)
    if all(value == [] and key not in ("tcp_bind", "tcp_connect") for key, value in table.data.items()):
        text = 'expected one of ro, rw, tcp_bind, tcp_connect, scope, such as ro = ["/usr", "/etc"], found none'
        table.document.problems.append((table.origin, f"services.{table.path[-2]}.landlock: {text}"))
    table.close()
    keys = (("ro", found.ro), ("rw", found.rw))
    return found, [(f"landlock {path}", table.document.origin((*table.path, key, n))) for key, paths in keys for n, path in enumerate(paths)]


def _landlocked(table: Table, key: str) -> tuple[str, ...]:
    found = table.strings(key)
    for number, path in enumerate(found):
        if not path.removeprefix("-").startswith("/"):
            table.fault(key, f'expected an absolute path, with "-" before it if it may be missing, found {show(path)}', number)
    return found


def _ports(table: Table, key: str, lowest: int) -> tuple[int, ...] | None:
    """None: it is not there. Port 0 to bind(2) is whichever is free."""
    value = table.raw(key)
    if value is None:
        return None
    if not isinstance(value, list):
        table.fault(key, f"expected a list of ports, found {show(value)}")
        return ()
    found = []
    for number, one in enumerate(value):
        word = table.expanded(key, one, number) if isinstance(one, str) else str(one)
        if isinstance(one, bool) or not (word.isascii() and word.isdigit() and len(word) < 6 and lowest <= int(word) <= 65535):
            table.fault(key, f"expected a port from {lowest} to 65535, found {show(one)}", number)
        else:
            found.append(int(word))
    return tuple(found)


def cgroup(table: Table | None, later: tuple[str, ...] = ()) -> CgroupLimits:
    if table is None:
        return CgroupLimits()
    found = CgroupLimits(
        memory_max_bytes=table.size("memory_max"),
        memory_high_bytes=table.size("memory_high"),
        memory_low_bytes=table.size("memory_low"),
        memory_swap_max_bytes=0 if table.raw("memory_swap_max") in _NO_SWAP else table.size("memory_swap_max", -1),
        cpu_max=table.number("cpu_max", 0.0, 0.01, 4096),
        cpu_weight=table.integer("cpu_weight", 0, 1, 10_000),
        cpuset=_cpus(table, "cpuset"),
        pids_max=table.integer("pids_max", 0, 1, 1 << 22),
        io_max=_io_max(table),
        io_weight=table.integer("io_weight", 0, 1, 10_000),
        pressure=_pressure(table.table("pressure")),
        origin=table.origin,
    )
    if found.memory_max_bytes and found.memory_high_bytes > found.memory_max_bytes:
        table.fault("memory_high", "expected memory_high <= memory_max, for what is above that is killed, not slowed")
    if found.memory_max_bytes and found.memory_low_bytes > found.memory_max_bytes:
        table.fault("memory_low", "expected memory_low <= memory_max, for nothing above that is there to be kept")
    table.close(later)
    return found


def _pressure(table: Table | None) -> tuple[Pressure, ...]:
    """`"150ms/1s"` of each."""
    if table is None:
        return ()
    found = []
    for kind in PRESSURES:
        text = table.string(kind)
        if not text and kind not in table.data:
            continue
        stall_s, window_s = (seconds(part) for part in (*text.split("/", 1), "")[:2])
        if stall_s is None or window_s is None or not 0 < stall_s < window_s or not 0.5 <= window_s <= 10:
            table.fault(kind, f'expected a wait and a window of 500ms to 10s, such as "150ms/2s", found {show(table.data[kind])}')
        else:
            found.append(Pressure(kind, round(stall_s * 1e6), round(window_s * 1e6), table.at(kind)))
    table.close()
    return tuple(found)


def _io_max(table: Table) -> tuple[IoLimit, ...]:
    found: list[IoLimit] = []
    for number, one in enumerate(table.tables("io_max")):
        device = one.string("device")
        limit = IoLimit(
            device, "", one.size("read"), one.size("write"),
            one.integer("read_iops", 0, 1, 1 << 31), one.integer("write_iops", 0, 1, 1 << 31),
        )  # fmt: skip
        major, mark, minor = device.partition(":")
        if not device.startswith("/") and not (mark and all(part.isascii() and part.isdigit() for part in (major, minor))):
            what = show(device) if "device" in one.data else "nothing"
            table.fault("io_max", f'expected a device such as "/dev/vda" or "8:0", found {what}', number)
        elif not any(limit[2:6]) and not set(one.data) - {"device"}:
            table.fault("io_max", "expected one of read, write, read_iops, write_iops beside its device", number)
        elif any(device == other.device for other in found):
            table.fault("io_max", f"{device} is there twice; put its limits into one", number)
        found.append(limit)
        one.close()
    return tuple(found)


def _cpus(table: Table, key: str) -> tuple[int, ...]:
    """`[0, 2]`, or `"0-3,6"`."""
    value = table.raw(key)
    if value is None:
        return ()
    found: set[int] = set()
    if isinstance(value, list) and value and all(type(cpu) is int and 0 <= cpu < 4096 for cpu in value):
        return tuple(sorted(set(value)))
    words = table.string(key).split(",") if isinstance(value, str) else [""]
    for word in words:
        low, mark, high = word.strip().partition("-")
        ends = (low, high if mark else low)
        if not all(end.isascii() and end.isdigit() and len(end) < 5 for end in ends) or int(ends[0]) > int(ends[1]) or int(ends[1]) > 4095:
            table.fault(key, f'expected CPUs such as [0, 1] or "0-3,6", found {show(value)}')
            return ()
        found.update(range(int(ends[0]), int(ends[1]) + 1))
    return tuple(sorted(found))


def rlimits(table: Table | None) -> tuple[tuple[str, int, int], ...]:
    """(name, soft, hard) of each, in the file's order."""
    if table is None:
        return ()
    found = []
    for name in table.data:
        if name not in RLIMITS:
            continue
        inner = table.data[name]
        if isinstance(inner, dict):
            pair = table.table(name)
            assert pair is not None
            soft, hard = _limit(pair, "soft"), _limit(pair, "hard")
            pair.close()
        else:
            soft = hard = _limit(table, name)
        if soft is None or hard is None:
            continue
        if hard != -1 and (soft == -1 or soft > hard):
            table.fault(name, f"expected soft <= hard, found {'unlimited' if soft == -1 else soft} and {hard}")
        found.append((name, soft, hard))
    for name in RLIMITS:
        table.has(name)
    table.close()
    return tuple(found)


def _limit(table: Table, key: str) -> int | None:
    """-1 for no limit, None after a fault."""
    value = table.raw(key)
    if value == "unlimited":
        return -1
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        table.fault(key, f'expected a number or "unlimited", found {show(value) if value is not None else "nothing"}')
        return None
    return value


def _paths(table: Table, key: str) -> tuple[str, ...]:
    found = table.strings(key)
    for number, path in enumerate(found):
        if not path.startswith("/"):
            table.fault(key, f"expected an absolute path, found {show(path)}", number)
    return found


def _stdin(table: Table) -> str:
    text = table.string("stdin", "null")
    kind, _, rest = text.partition(":")
    good = text in ("null", "tty") or (kind == "file" and rest.startswith("/")) or (kind == "socket" and rest)
    if not good:
        table.fault("stdin", f'expected "null", "tty", "file:/path" or "socket:NAME", found {show(text)}')
        return "null"
    return text


def sockets(table: Table) -> tuple[SocketSpec, ...]:
    found: list[SocketSpec] = []
    for inner in table.tables("sockets"):
        spec = _socket(inner)
        if spec.name in [other.name for other in found]:
            inner.fault("name", f"expected each name once, found {show(spec.name)} twice")
        found.append(spec)
    return tuple(found)


def _socket(table: Table) -> SocketSpec:
    name = table.string("name")
    if not name or not name.isascii() or not name.isprintable() or ":" in name or " " in name or len(name) > 255:
        if table.has("name"):
            table.fault("name", f"expected a name of letters and digits, without : and blank, found {show(name)}")
        else:
            _missing(table, "name", '"http"')
    if table.has("inherited"):
        spec = SocketSpec(name, "inherited", path=table.string("inherited"), origin=table.origin)
        table.close()
        return spec
    listen = table.string("listen")
    if not table.has("listen"):
        _missing(table, "listen", '"0.0.0.0:80" or "/run/app.sock"')
    local = listen.startswith("/")
    kind = table.choice("type", "unix" if local else "tcp", _SOCKET_TYPES)
    if listen and local != kind.startswith("unix"):
        table.fault("type", f'expected {"unix or unix-datagram" if local else "tcp or udp"} for {show(listen)}, found {show(kind)}')
    spec = SocketSpec(name, kind, backlog=table.integer("backlog", 4096, 1, 65535), origin=table.origin)
    if local:
        spec = _unix(table, spec, listen)
    elif listen:
        host, port = address(table, "listen", listen)
        spec = spec._replace(host=host, port=port, reuseport=table.boolean("reuseport"))
    table.close()
    return spec


def _unix(table: Table, spec: SocketSpec, path: str) -> SocketSpec:
    if len(path.encode()) > _UNIX_PATH_MAX:
        table.fault("listen", f"expected a path of at most {_UNIX_PATH_MAX} bytes (unix(7)), found {len(path.encode())}")
    return spec._replace(
        path=path,
        mode=table.octal("mode", 0o666, 0o777),
        user=table.string("user"),
        group=table.string("group"),
    )


def _missing(table: Table, key: str, example: str) -> None:
    path = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in table.path).lstrip(".")
    table.document.problems.append((table.origin, f"{path}: {key} is missing: expected one such as {example}"))


def log(table: Table | None, log_to: str) -> LogSpec:
    """`log_to` is the role's default of `to`."""
    if table is None:
        return LogSpec(to=log_to)
    base = LogSpec()
    found = LogSpec(
        to=_log_to(table, log_to),
        max_size_bytes=table.size("max_size", base.max_size_bytes),
        max_age_s=table.duration("max_age", base.max_age_s),
        keep=table.integer("keep", base.keep, 1, 10_000),
        total_size_bytes=table.size("total_size"),
        compress=table.boolean("compress"),
        timestamp=table.choice("timestamp", base.timestamp, ("iso", "tai64n", "none")),
        format=table.choice("format", base.format, ("text", "json")),
        stderr=table.choice("stderr", base.stderr, ("joined", "separate")),
        max_line_bytes=table.size("max_line"),
        rate=table.integer("rate", 0, 1, 1_000_000) if table.has("rate") else 0,
        rate_burst=table.integer("rate_burst", 0, 1, 10_000_000) if table.has("rate_burst") else 0,
        echo=table.boolean("echo"),
        origin=table.at("to") if "to" in table.data else table.origin,
    )
    _check_log(table, found)
    table.close()
    return found


def _log_to(table: Table, default: str) -> str:
    text = table.string("to", default)
    if text.startswith(LOGGER) and len(text) > len(LOGGER):
        return text
    return table.choice("to", default, PLAIN_LOGS) if text != LOGGER else table.choice("to", default, (*PLAIN_LOGS, "service:NAME"))


def _check_log(table: Table, spec: LogSpec) -> None:
    """Keys that contradict each other."""
    # Without `to` the role decides, and one file serves several roles: what is of no use in one is no error then.
    for keys, places in ((_OF_A_FILE, ("file", "syslog")), (_OF_LINES, ("file", "syslog", "stdout"))):
        for key in keys:
            if key in table.data and "to" in table.data and spec.to not in places:
                words = " or ".join(f'"{place}"' for place in places)
                table.fault(key, f'is of no use to a log that goes to "{spec.to}": expected to = {words}, or take this out')
    if table.has("max_age") and spec.max_age_s < 1:
        table.fault("max_age", f'expected a time of 1 s or more, found {show(table.data["max_age"])}')
    if spec.max_line_bytes > _LONGEST_MAX:
        table.fault("max_line", f'expected a size of at most "1M", found {show(table.data["max_line"])}')
    if spec.total_size_bytes and spec.total_size_bytes < 2 * spec.max_size_bytes:
        table.fault("total_size", "expected twice max_size or more, for there is always a current file and an older one")
    if spec.rate_burst and not spec.rate:
        table.fault("rate_burst", "belongs to `rate`; add that, or take this out")
    elif spec.rate_burst and spec.rate_burst < spec.rate:
        table.fault("rate_burst", f"expected rate_burst >= rate, found {spec.rate_burst} and {spec.rate}")
    if spec.format == "json" and table.has("timestamp"):
        table.fault("timestamp", 'each object of format = "json" has its time already; take this out')
