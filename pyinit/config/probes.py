"""`ready` and `health`: how a service is asked whether it works.

Owns the keys of a probe and their forms. Must not know services. Law: an address is numeric, for nothing in PID 1
resolves names.
"""

from pyinit.config.decode import Table, show
from pyinit.model import Health, Probe, Readiness

PROBES = ("tcp", "unix", "http", "exec", "path")
_OF_HTTP = ("status", "body")
_PORT_DIGITS = 5


def ready(table: Table | None) -> Readiness:
    """The default, which is "once it has been executed", without the table."""
    if table is None:
        return Readiness()
    timeout_s = table.duration("timeout", Readiness().timeout_s)
    kind = _only(table, (*PROBES, "fd", "notify", "log"))
    if kind == "fd":
        found = Readiness("fd", fd=table.integer("fd", 3, 3, 1000), timeout_s=timeout_s)
    elif kind == "log":
        found = Readiness("log", pattern=pattern(table, "log"), timeout_s=timeout_s)
    elif kind == "notify":
        if not table.boolean("notify", default=True):
            table.fault("notify", "expected true, found false; take `ready` out, and the service is ready when it runs")
        found = Readiness("notify", timeout_s=timeout_s)
    elif kind:
        found = Readiness("probe", probe=_probe(table, kind), timeout_s=timeout_s)
    else:
        found = Readiness(timeout_s=timeout_s)
    _close(table, kind)
    return found


def health(table: Table | None) -> Health | None:
    if table is None:
        return None
    kind = _only(table, PROBES)
    base = Health(Probe("path", path="/"))
    found = Health(
        probe=_probe(table, kind) if kind else base.probe,
        interval_s=table.duration("interval", base.interval_s),
        timeout_s=table.duration("timeout", base.timeout_s),
        failures=table.integer("failures", base.failures, 1, 1000),
        start_period_s=table.duration("start_period", base.start_period_s),
        action=table.choice("action", base.action, ("restart", "stop", "exit")),
    )
    for key, value in (("interval", found.interval_s), ("timeout", found.timeout_s)):
        if table.has(key) and value <= 0:
            table.fault(key, "expected a time above 0")
    _close(table, kind)
    return found


def _close(table: Table, kind: str) -> None:
    for key in _OF_HTTP:
        if table.has(key) and kind and kind != "http":
            table.fault(key, f"belongs to http, and this asks by {kind}; take one of them out")
    table.close()


def _only(table: Table, kinds: tuple[str, ...]) -> str:
    found = [kind for kind in kinds if table.has(kind)]
    if len(found) == 1:
        return found[0]
    if found or not set(table.data) - {"timeout"} - set(kinds):  # else a slip of the pen is told by close()
        path = ".".join(str(part) for part in table.path)
        text = f"{path}: expected one of {', '.join(kinds)}, found {' and '.join(found) or 'none'}"
        table.document.problems.append((table.origin, text))
    return ""


def _probe(table: Table, kind: str) -> Probe:
    if kind == "tcp":
        host, port = address(table, "tcp", table.string("tcp"))
        return Probe("tcp", host=host, port=port)
    if kind == "http":
        return _http(table)
    if kind == "exec":
        return Probe("exec", command=command(table, "exec"))
    return Probe(kind, path=table.path_of(kind))


def _http(table: Table) -> Probe:
    text = table.string("http")
    rest = text.removeprefix("http://")
    authority, _, target = rest.partition("/")
    if rest == text or not authority or not target.isprintable() or " " in target or not target.isascii():
        table.fault("http", f'expected a URL such as "http://127.0.0.1:8080/health", found {show(text)}')
        return Probe("http", "127.0.0.1", 80, "/")
    bare = authority.rpartition("]")[2] if authority.startswith("[") else authority
    host, port = address(table, "http", authority if ":" in bare else f"{authority}:80")
    return Probe("http", host, port, "/" + target, authority, _status(table), pattern(table, "body"))


def _status(table: Table) -> tuple[int, int]:
    """`200`, or `"200-299"`."""
    value = table.raw("status")
    if value is None:
        return Probe("http").status
    words = str(value).split("-") if isinstance(value, int | str) and not isinstance(value, bool) else []
    if 1 <= len(words) <= 2 and all(len(word) == 3 and word.isascii() and word.isdigit() for word in words):
        low, high = int(words[0]), int(words[-1])
        if 100 <= low <= high <= 599:
            return low, high
    table.fault("status", f'expected a status such as 200, or a range such as "200-299", found {show(value)}')
    return Probe("http").status


def pattern(table: Table, key: str) -> str:
    """A regular expression of Python's re."""
    text = table.string(key, what="a regular expression")
    if text:
        import re  # only for those who write one

        try:
            re.compile(text)
        except (re.error, OverflowError, RecursionError) as error:
            table.fault(key, f"expected a regular expression, found {show(text)} ({error})")
            return ""
    elif key in table.data:
        table.fault(key, "expected a regular expression, found nothing")
    return text


def command(table: Table, key: str) -> tuple[str, ...]:
    """A list of words, or a string that is split as a shell splits words; () after a fault."""
    value = table.raw(key)
    what = 'expected a list such as ["/usr/sbin/nginx", "-g", "daemon off;"], or a string'
    if isinstance(value, str):
        words = _split(table, key, value)
        if not words and value.strip() == "":
            table.fault(key, f"{what}, found nothing")
        return words
    if not isinstance(value, list):
        table.fault(key, f"{what}, found {show(value)}")
        return ()
    words = table.strings(key, literal=True)
    if not value or value[0] == "":
        table.fault(key, f"{what}, found nothing")
        return ()
    return words


def _split(table: Table, key: str, text: str) -> tuple[str, ...]:
    import shlex  # only for those who write a string

    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        table.fault(key, f"expected words as a shell has them, found {show(text)} ({str(error).lower()})")
        return ()
    if "\0" in text:
        table.fault(key, f"expected words without NUL, found {show(text)}")
        return ()
    return words


def address(table: Table, key: str, text: str) -> tuple[str, int]:
    """A numeric address and a port of `text`, which `key` holds."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (is_address(host) and port.isascii() and port.isdigit() and len(port) <= _PORT_DIGITS and 0 < int(port) < 65536):
        text = f'expected a numeric address and a port, such as "127.0.0.1:80" or "[::1]:80", found {show(text)}'
        table.fault(key, text)
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
