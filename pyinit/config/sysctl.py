"""`[container] sysctl`: names of the kernel's own settings become paths below /proc/sys.

Owns which of them are a container's: those that a namespace of its own has. Must not know how they are written.
"""

from pyinit.config.decode import Table, show
from pyinit.model import Sysctl

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./")
# What a name begins with, and the namespace that it belongs to (namespaces(7), ipc_namespaces(7), uts_namespaces(7)).
_OF_NAMESPACE = (
    ("net/", "net"), ("kernel/shm", "ipc"), ("kernel/msg", "ipc"), ("fs/mqueue/", "ipc"),
)  # fmt: skip
_WHOLE = {"kernel/sem": "ipc", "kernel/domainname": "uts"}
_ALLOWED = "net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and kernel.domainname"


def sysctl(table: Table | None, namespaces: tuple[str, ...], network_mode: str) -> tuple[Sysctl, ...]:
    """In the file's order; `namespaces` are the container's."""
    if table is None:
        return ()
    own = tuple(name for name in namespaces if name != "net" or network_mode != "host")
    found: list[Sysctl] = []
    for name in table.data:
        path = _path(name)
        value = _value(table, name)
        if not path:
            text = f'expected a name such as "net.ipv4.ip_forward", of letters, digits, _ - . and / without an empty part, found {show(name)}'
            table.fault(name, text)
        elif _is_allowed(table, name, path, own):
            there = next((one.name for one in found if one.path == path), "")
            if there:
                table.fault(name, f"expected each once, found {show(there)} as well; take one out")
            found.append(Sysctl(name, path, value, table.at(name)))
    return tuple(found)


def _path(name: str) -> str:
    """As sysctl(8) reads it: the sign that comes first parts the name, the other one is a part's own; "" if it is none."""
    head = name.partition("/")[0]
    path = name.translate({ord("."): "/", ord("/"): "."}) if "." in head or head == name else name
    parts = name.replace(".", "/").split("/")  # none is empty, so none is `..`
    return path if set(name) <= _NAME and len(parts) > 1 and all(parts) else ""


def _is_allowed(table: Table, name: str, path: str, own: tuple[str, ...]) -> bool:
    if path == "kernel/hostname":
        table.fault(name, 'expected hostname = "..." in [container], found it here; write that instead')
        return False
    namespace = _WHOLE.get(path) or next((space for start, space in _OF_NAMESPACE if path.startswith(start)), "")
    if not namespace:
        table.fault(name, f"expected one that a container has of its own ({_ALLOWED}), found one of the whole host; set it there")
    elif namespace not in own:
        more = ' and no [container.network] mode = "host"' if namespace == "net" else ""
        table.fault(name, f'expected "{namespace}" among `namespaces`{more}, found none: it would be the host\'s own; add that, or take this out')
    return namespace in own


def _value(table: Table, name: str) -> str:
    value = table.raw(name)
    if isinstance(value, dict):
        table.fault(name, "expected a value, found a table; a name with a dot stands in quotes")
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    text = table.string(name, what="a number or a string")
    if isinstance(value, str) and "\0" not in value and ("\n" in text or not text.strip()):
        table.fault(name, f"expected a number or a string of one line, found {show(text)}")
    return text
