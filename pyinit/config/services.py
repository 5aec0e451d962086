"""`[services.NAME]`: a table becomes a ServiceSpec.

Owns the keys of a service, their defaults and their forms. Must not know the other services (check.py).
"""

from pyinit.config.decode import Table, show
from pyinit.model import LogSpec, Readiness, RestartDelay, ServiceSpec, StartLimit, signal_name

LATER = (
    "nice", "oom_score_adj", "capabilities", "ambient_capabilities", "health", "watchdog", "sockets", "cgroup",
    "instances", "pre_start", "post_start", "pre_stop", "finish", "environment_files", "env_dir", "schedule", "stop",
    "reload_signal", "reload_command", "condition", "cpu_affinity", "chroot", "stdin", "tty", "seccomp",
)  # fmt: skip
RLIMITS = (
    "as", "core", "cpu", "data", "fsize", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime",
    "sigpending", "stack",
)  # fmt: skip
_READY = ("tcp", "fd", "notify", "path")
_READY_LATER = ("http", "exec", "unix", "log")
# What the init itself answers to, and what can't be caught: HUP INT QUIT KILL TERM CHLD STOP PWR RTMIN+3 +4 +5.
_NOT_FORWARDED = frozenset({1, 2, 3, 9, 15, 17, 19, 30, 37, 38, 39})
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.@-")
_MOST_NAME = 63


def is_name(text: str) -> bool:
    """Whether it may name a service or a container: it becomes a folder, a cgroup, a word on the command line."""
    return 0 < len(text) <= _MOST_NAME and set(text) <= _NAME and text[0] not in ".-@"


def service(name: str, table: Table, *, log_to: str, kill: str = "cgroup") -> tuple[ServiceSpec, tuple[int, ...]]:
    """The spec, and the signals of the init that are forwarded to it; `log_to` and `kill` are the role's defaults."""
    if not is_name(name):
        table.document.problems.append((
            table.origin, f"services: expected a name of up to {_MOST_NAME} letters, digits, _ . - or @, found {show(name)}",
        ))  # fmt: skip
    kind = table.choice("kind", "service", ("service", "oneshot"))
    spec = ServiceSpec(
        name=name,
        command=_command(table),
        kind=kind,
        requires=table.strings("requires"),
        wants=table.strings("wants"),
        after=table.strings("after"),
        before=table.strings("before"),
        user=_account(table, "user", "root"),
        group=_account(table, "group", ""),
        groups=_groups(table),
        working_directory=_working_directory(table),
        environment=table.pairs("environment"),
        umask=table.octal("umask", 0o022, 0o777),
        rlimits=_rlimits(table.table("rlimits")),
        no_new_privileges=table.boolean("no_new_privileges"),
        stop_signal=table.signal("stop_signal", 15),
        stop_timeout_s=table.duration("stop_timeout", 7.0),
        kill=table.choice("kill", kill, ("cgroup", "group", "process")),
        restart=table.choice("restart", "never" if kind == "oneshot" else "always", ("always", "on-failure", "never")),
        restart_delay=_restart_delay(table.table("restart_delay")),
        start_limit=_start_limit(table.table("start_limit")),
        success_exit_codes=_exit_codes(table),
        critical=table.boolean("critical"),
        ready=_ready(table.table("ready")),
        log=_log(table.table("log"), log_to),
        enabled=table.boolean("enabled", default=True),
        origin=table.origin,
        command_origin=table.at("command"),
        user_origin=table.at("user"),
    )
    if kind == "oneshot" and spec.restart == "always":
        table.fault("restart", 'a oneshot that is done is not started again: expected "on-failure" or "never", found "always"')
    if kind == "oneshot" and table.has("ready"):
        table.fault("ready", "a oneshot is ready when it exits 0; take this out")
    forwarded = _forwarded(table)
    table.close(LATER)
    return spec, forwarded


def _forwarded(table: Table) -> tuple[int, ...]:
    found = table.signals("forward_signals")
    for number in found:
        if number in _NOT_FORWARDED:
            text = f'{signal_name(number)} is the init\'s own or can\'t be caught; expected others, such as "USR1" or "WINCH"'
            table.fault("forward_signals", text)
    return found


def _command(table: Table) -> tuple[str, ...]:
    value = table.raw("command")
    what = 'expected a list such as ["/usr/sbin/nginx", "-g", "daemon off;"], or a string'
    if value is None:
        table.document.problems.append((table.origin, f"services.{table.path[-1]}: command is missing: {what}"))
    elif isinstance(value, str):
        words = _split(table, value)
        if not words and value.strip() == "":
            table.fault("command", f"{what}, found nothing")
        return words
    elif not isinstance(value, list):
        table.fault("command", f"{what}, found {show(value)}")
    else:
        words = table.strings("command", literal=True)
        if not value or value[0] == "":
            table.fault("command", f"{what}, found nothing")
        return words
    return ()


def _split(table: Table, text: str) -> tuple[str, ...]:
    import shlex  # only for those who write a string

    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        table.fault("command", f"expected words as a shell has them, found {show(text)} ({str(error).lower()})")
        return ()


def _account(table: Table, key: str, default: str) -> str:
    """A name, or a number without sign and space below 2**32 - 1, as a number or in a string."""
    value = table.raw(key)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 - 1:
        return str(value)
    text = table.string(key, default, what=f"a {key}'s name or number")
    number = text.isascii() and text.isdigit()
    bad = number and (int(text) >= 2**32 - 1 or (text[0] == "0" and text != "0"))
    if bad or (not number and set(text) & set(" \t\n:/+,")) or (not number and text[:1] == "-") or (key in table.data and not text):
        table.fault(key, f"expected a {key}'s name or number, found {show(value)}")
        return default
    return text


def _groups(table: Table) -> tuple[str, ...] | None:
    return table.strings("groups") if table.has("groups") else None


def _working_directory(table: Table) -> str:
    text = table.path_of("working_directory", "/")
    if text.startswith("/proc/"):
        table.fault("working_directory", f"expected a folder outside /proc, found {show(text)}")
        return "/"
    return text


def _rlimits(table: Table | None) -> tuple[tuple[str, int, int], ...]:
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


def _exit_codes(table: Table) -> tuple[int, ...]:
    value = table.raw("success_exit_codes")
    if value is None:
        return (0,)
    good = isinstance(value, list) and all(type(code) is int and 0 <= code <= 255 for code in value)
    if not good:
        table.fault("success_exit_codes", f"expected a list of exit codes, 0 to 255, found {show(value)}")
        return (0,)
    assert isinstance(value, list)
    return tuple(value)


def _restart_delay(table: Table | None) -> RestartDelay:
    base = RestartDelay()
    if table is None:
        return base
    found = RestartDelay(
        first_s=table.duration("first", base.first_s),
        initial_s=table.duration("initial", base.initial_s),
        max_s=table.duration("max", base.max_s),
        factor=table.number("factor", base.factor, 1, 100),
        jitter=table.number("jitter", base.jitter, 0, 1),
        reset_after_s=table.duration("reset_after", base.reset_after_s),
    )
    if found.initial_s <= 0 or found.max_s < found.initial_s:
        table.fault("initial", f"expected 0 < initial <= max, found {found.initial_s:g}s and {found.max_s:g}s")
    table.close()
    return found


def _start_limit(table: Table | None) -> StartLimit:
    base = StartLimit()
    if table is None:
        return base
    found = StartLimit(
        count=table.integer("count", base.count, 1, 10_000),
        within_s=table.duration("within", base.within_s),
        then=table.choice("then", base.then, ("retry", "fail", "exit")),
    )
    table.close()
    return found


def _ready(table: Table | None) -> Readiness:
    if table is None:
        return Readiness()
    timeout_s = table.duration("timeout", Readiness().timeout_s)
    kinds = [kind for kind in _READY if table.has(kind)]
    table.close(_READY_LATER)
    if len(kinds) != 1:
        others = [key for key in table.data if key in _READY_LATER]
        if not others:
            path = ".".join(str(part) for part in table.path)
            text = f"{path}: expected one of tcp, fd, notify, path, found {' and '.join(kinds) or 'none'}"
            table.document.problems.append((table.origin, text))
        return Readiness(timeout_s=timeout_s)
    kind = kinds[0]
    if kind == "tcp":
        host, port = _address(table)
        return Readiness("tcp", host=host, port=port, timeout_s=timeout_s)
    if kind == "fd":
        return Readiness("fd", fd=table.integer("fd", 3, 3, 1000), timeout_s=timeout_s)
    if kind == "path":
        return Readiness("path", path=table.path_of("path"), timeout_s=timeout_s)
    if not table.boolean("notify", default=True):
        table.fault("notify", "expected true, found false; take `ready` out, and the service is ready when it runs")
    return Readiness("notify", timeout_s=timeout_s)


def _address(table: Table) -> tuple[str, int]:
    """A numeric address: nothing in PID 1 resolves names."""
    text = table.string("tcp")
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (is_address(host) and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        table.fault("tcp", f'expected a numeric address and a port, such as "127.0.0.1:80" or "[::1]:80", found {show(text)}')
        return "127.0.0.1", 1
    return host, int(port)


def is_address(text: str) -> bool:
    """IPv4 or IPv6, numeric."""
    import socket  # C code that the init loads anyway; ipaddress would cost 5 ms

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return True
    return False


def _log(table: Table | None, log_to: str) -> LogSpec:
    if table is None:
        return LogSpec(to=log_to)
    base = LogSpec()
    found = LogSpec(
        to=table.choice("to", log_to, ("file", "stdout", "null", "inherit")),
        max_size_bytes=table.size("max_size", base.max_size_bytes),
        keep=table.integer("keep", base.keep, 1, 10_000),
        timestamp=table.choice("timestamp", base.timestamp, ("iso", "none")),
        echo=table.boolean("echo"),
    )
    table.close(("compress",))
    return found
