"""`[services.NAME]`: a table becomes a ServiceSpec.

Owns the keys of a service's life, their defaults and their forms. Must not know the other services (check.py), nor
what its processes are given (processes.py) and asked (probes.py).
"""

from pyinit.config import processes
from pyinit.config.decode import Document, Table, show
from pyinit.config.probes import command, health, ready
from pyinit.core.cron import CronError
from pyinit.core.cron import parse as parse_cron
from pyinit.model import (
    MOST_NAME,
    Condition,
    Hooks,
    InitSpec,
    RestartDelay,
    Schedule,
    ServiceSpec,
    StartLimit,
    StopStep,
    is_name,
    signal_name,
)  # fmt: skip

_HOOKS = ("pre_start", "post_start", "pre_stop", "finish")
# What the init itself answers to, and what can't be caught: HUP INT QUIT KILL TERM CHLD STOP PWR RTMIN+3 +4 +5.
_NOT_FORWARDED = frozenset({1, 2, 3, 9, 15, 17, 19, 30, 37, 38, 39})
_MOST_INSTANCES = 1000
_INSTANCE = "${INSTANCE}"


class Defaults:
    """What a role and `[init]` say for every service."""

    def __init__(self, log_to: str, kill: str) -> None:
        self.log_to = log_to
        self.kill = kill
        self.strict = InitSpec().strict


def instances(name: str, table: Table) -> list[str]:
    """The names that `instances` makes of one table: `app@1`, `app@2`, ...; the name itself without it."""
    value = table.raw("instances")
    if value is None:
        return [name]
    if "@" in name:
        table.fault("instances", f"{show(name)} is a template or an instance already: expected a name without @")
    elif type(value) is int and 1 <= value <= _MOST_INSTANCES:
        return [f"{name}@{number}" for number in range(1, value + 1)]
    elif isinstance(value, list) and value and all(isinstance(one, str) and is_name("x" + one) and "@" not in one for one in value):
        return [f"{name}@{one}" for one in dict.fromkeys(value)]
    else:
        table.fault("instances", f'expected a number from 1 to {_MOST_INSTANCES}, or names such as ["eu", "us"], found {show(value)}')
    return [name]


def service(name: str, table: Table, defaults: Defaults) -> tuple[ServiceSpec, tuple[int, ...]]:
    """The spec, and the signals of the init that are forwarded to it. `name@i` knows `${INSTANCE}`."""
    base, mark, instance = name.partition("@")
    if not is_name(base) or not is_name(name if instance else name + "x"):
        table.document.problems.append((
            table.origin, f"services: expected a name of up to {MOST_NAME} letters, digits, _ . - or @, found {show(name)}",
        ))  # fmt: skip
    if mark:
        table = _with_instance(table, instance)
    table.raw("instances")
    spec = _life(name, table, defaults)
    spec = spec._replace(
        template=f"{base}@" if mark else "",
        process=processes.process(table, strict=defaults.strict),
        cgroup=processes.cgroup(table.table("cgroup")),
        sockets=processes.sockets(table),
        log=processes.log(table.table("log"), defaults.log_to),
        command_origin=table.at("command"),
        user_origin=table.at("user"),
    )
    if mark:
        spec = _filled(spec, instance)
    _check_kind(table, spec)
    _check_files(table, spec)
    forwarded = _forwarded(table)
    table.close()
    return spec, forwarded


def _with_instance(table: Table, instance: str) -> Table:
    old = table.document
    environment = {**old.environment, "INSTANCE": instance}
    document = Document(old.file, old.lines, old.problems, environment)
    document.unexpanded = old.unexpanded
    return Table(document, table.path, table.data)


def _filled(spec: ServiceSpec, instance: str) -> ServiceSpec:
    """Commands are taken literally, but for ${INSTANCE}."""

    def fill(words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(word.replace(_INSTANCE, instance) for word in words)

    hooks = spec.hooks._replace(
        pre_start=tuple(map(fill, spec.hooks.pre_start)), post_start=tuple(map(fill, spec.hooks.post_start)),
        pre_stop=tuple(map(fill, spec.hooks.pre_stop)), finish=tuple(map(fill, spec.hooks.finish)),
    )  # fmt: skip
    ready_, health_ = spec.ready, spec.health
    if ready_.probe is not None:
        ready_ = ready_._replace(probe=ready_.probe._replace(command=fill(ready_.probe.command)))
    if health_ is not None:
        health_ = health_._replace(probe=health_.probe._replace(command=fill(health_.probe.command)))
    return spec._replace(
        command=fill(spec.command), reload_command=fill(spec.reload_command), hooks=hooks, ready=ready_, health=health_
    )


def _life(name: str, table: Table, defaults: Defaults) -> ServiceSpec:
    timed = table.has("schedule") or table.has("interval")
    kind = table.choice("kind", "task" if timed else "service", ("service", "oneshot", "task"))
    return ServiceSpec(
        name=name,
        command=_command(table),
        kind=kind,
        requires=table.strings("requires"),
        wants=table.strings("wants"),
        after=table.strings("after"),
        before=table.strings("before"),
        user=_account(table, "user", "root"),
        group=_account(table, "group", ""),
        groups=table.strings("groups") if table.has("groups") else None,
        working_directory=_working_directory(table),
        environment=table.pairs("environment"),
        environment_files=_environment_files(table),
        env_dir=table.path_of("env_dir"),
        environment_clear=table.boolean("environment_clear"),
        umask=table.octal("umask", 0o022, 0o777),
        stop=_stop(table),
        drain_s=table.duration("drain", 0.0),
        kill=table.choice("kill", defaults.kill, ("cgroup", "group", "process")),
        restart=table.choice("restart", "always" if kind == "service" else "never", ("always", "on-failure", "never")),
        restart_delay=_restart_delay(table.table("restart_delay")),
        start_limit=_start_limit(table.table("start_limit")),
        success_exit_codes=_exit_codes(table),
        critical=table.boolean("critical"),
        ready=ready(table.table("ready")),
        health=health(table.table("health")),
        watchdog_s=table.duration("watchdog", 0.0),
        fd_store=table.integer("fd_store", 0, 1, 1024) if table.has("fd_store") else 0,
        hooks=_hooks(table),
        reload_signal=0 if table.has("reload_command") else table.signal("reload_signal", 1),
        reload_command=command(table, "reload_command") if table.has("reload_command") else (),
        schedule=_schedule(table, kind),
        timeout_s=table.duration("timeout", 0.0),
        condition=_condition(table.table("condition")),
        enabled=table.boolean("enabled", default=True),
        origin=table.origin,
    )


def _check_kind(table: Table, spec: ServiceSpec) -> None:
    """Keys that contradict the kind, or each other."""
    short = spec.kind != "service"
    if short and spec.restart == "always":
        table.fault("restart", f'a {spec.kind} that is done is not started again: expected "on-failure" or "never", found "always"')
    if spec.kind == "oneshot" and table.has("ready"):
        table.fault("ready", "a oneshot is ready when it exits 0; take this out")
    for key in ("ready", "health", "watchdog", "reload_signal", "reload_command", "drain"):
        if short and table.has(key) and (spec.kind, key) != ("oneshot", "ready"):
            table.fault(key, f"belongs to a service, and this is a {spec.kind}; take it out")
    if not short and table.has("timeout"):
        table.fault("timeout", "a service may run for ever; this belongs to a oneshot or a task (ready and health have their own)")
    if table.has("watchdog") and spec.watchdog_s <= 0:
        table.fault("watchdog", "expected a time above 0")
    if table.has("reload_signal") and table.has("reload_command"):
        table.fault("reload_signal", "expected one of reload_signal and reload_command, found both")
    if spec.kind == "task" and spec.start_limit.then == "exit":
        table.fault("start_limit", 'a task that fails runs again at its next time: expected then = "retry" or "fail", found "exit"')
    if spec.kind == "task" and spec.critical:
        table.fault("critical", "a task that fails runs again at its next time; take this out")


def _check_files(table: Table, spec: ServiceSpec) -> None:
    """Keys that want the same descriptor, or what nobody hands out."""
    kind, _, name = spec.process.stdin.partition(":")
    if kind == "socket" and name not in [socket.name for socket in spec.sockets]:
        table.fault("stdin", f"there is no socket {name} among this service's `sockets`")
    if spec.ready.kind == "fd" and spec.ready.fd < 3 + len(spec.sockets) + spec.fd_store:
        taken = 2 + len(spec.sockets) + spec.fd_store
        if spec.sockets or spec.fd_store:
            table.fault("ready", f"the fds 3 to {taken} are the sockets' and the fd store's: expected fd = {taken + 1} or more")
    if spec.ready.kind == "log" and spec.log.to not in ("file", "stdout", "syslog"):
        table.fault("ready", f'lines of a log that goes to "{spec.log.to}" are not seen here: expected log.to = "file", "syslog" or "stdout"')


def _forwarded(table: Table) -> tuple[int, ...]:
    found = table.signals("forward_signals")
    for number in found:
        if number in _NOT_FORWARDED:
            text = f'{signal_name(number)} is the init\'s own or can\'t be caught; expected others, such as "USR1" or "WINCH"'
            table.fault("forward_signals", text)
    return found


def _command(table: Table) -> tuple[str, ...]:
    if table.raw("command") is None:
        text = 'expected a list such as ["/usr/sbin/nginx", "-g", "daemon off;"], or a string'
        table.document.problems.append((table.origin, f"services.{table.path[-1]}: command is missing: {text}"))
        return ()
    return command(table, "command")


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


def _working_directory(table: Table) -> str:
    text = table.path_of("working_directory", "/")
    if text.startswith("/proc/"):
        table.fault("working_directory", f"expected a folder outside /proc, found {show(text)}")
        return "/"
    return text


def _stop(table: Table) -> tuple[StopStep, ...]:
    """`stop_signal` and `stop_timeout`, or a sequence."""
    if not table.has("stop"):
        return (StopStep(table.signal("stop_signal", 15), table.duration("stop_timeout", 7.0)),)
    for key in ("stop_signal", "stop_timeout"):
        if table.has(key):
            table.fault(key, "`stop` says it already; take one of them out")
    found = []
    for inner in table.tables("stop"):
        found.append(StopStep(inner.signal("signal", 15), inner.duration("wait", 7.0)))
        inner.close()
    if not found and isinstance(table.data["stop"], list):
        table.fault("stop", 'expected steps such as [{ signal = "QUIT", wait = "5s" }], found none')
    return tuple(found) or (StopStep(15, 7.0),)


def _hooks(table: Table) -> Hooks:
    """Each a list of commands, or one command."""
    base = Hooks()
    limits = table.table("hook_timeout")
    times = {}
    for key in _HOOKS:
        default: float = getattr(base, f"{key}_timeout_s")
        times[key] = limits.duration(key, default) if limits is not None else default
        if limits is not None and key in limits.data and times[key] <= 0:
            limits.fault(key, "expected a time above 0")
    if limits is not None:
        limits.close()
    finish = _commands(table, "finish")
    if len(finish) > 1:
        table.fault("finish", "expected one command, found a list of commands")
    return Hooks(
        _commands(table, "pre_start"), _commands(table, "post_start"), _commands(table, "pre_stop"), finish,
        times["pre_start"], times["post_start"], times["pre_stop"], times["finish"],
    )  # fmt: skip


def _commands(table: Table, key: str) -> tuple[tuple[str, ...], ...]:
    value = table.raw(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not value or not isinstance(value[0], list):
        return (command(table, key),)
    found = []
    for number, words in enumerate(value):
        if not isinstance(words, list) or not words or not all(isinstance(w, str) and "\0" not in w for w in words) or not words[0]:
            table.fault(key, f'expected a command such as ["/bin/mkdir", "-p", "/run/app"], found {show(words)}', number)
        else:
            found.append(tuple(words))
    return tuple(found)


def _schedule(table: Table, kind: str) -> Schedule | None:
    timed = [key for key in ("schedule", "interval") if table.has(key)]
    cron, interval_s = table.string("schedule"), table.duration("interval", 0.0)
    if kind != "task":
        for key in timed:
            table.fault(key, f"belongs to a task, and this is a {kind}; take it out")
        return None
    if len(timed) != 1:
        text = f'services.{table.path[-1]}: a task needs schedule = "*/5 * * * *" or interval = "10m", found {"both" if timed else "none"}'
        table.document.problems.append((table.origin, text))
        return Schedule(interval_s=3600.0)
    if timed == ["interval"]:
        if interval_s <= 0:
            table.fault("interval", "expected a time above 0")
        return Schedule(interval_s=max(interval_s, 0.001))
    try:
        parse_cron(cron)
    except CronError as error:
        table.fault("schedule", f"{error}")
        return Schedule(interval_s=3600.0)
    return Schedule(cron=cron)


def _condition(table: Table | None) -> Condition:
    if table is None:
        return Condition()
    found = Condition(_words(table, "path_exists"), _words(table, "path_missing"), _words(table, "env"), table.origin)
    for key in ("path_exists", "path_missing"):
        for path in getattr(found, key):
            if not path.startswith("/"):
                table.fault(key, f"expected an absolute path, found {show(path)}")
    for text in found.env:
        if not text.partition("=")[0]:
            table.fault("env", f'expected "NAME" or "NAME=value", found {show(text)}')
    table.close()
    return found


def _words(table: Table, key: str) -> tuple[str, ...]:
    """A string, or a list of them."""
    if isinstance(table.raw(key), str):
        return (table.string(key),)
    return table.strings(key)


def _environment_files(table: Table) -> tuple[str, ...]:
    found = table.strings("environment_files")
    for number, path in enumerate(found):
        if not path.removeprefix("-").startswith("/"):
            table.fault("environment_files", f'expected an absolute path, with "-" before it if it may be missing, found {show(path)}', number)
    return found


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
