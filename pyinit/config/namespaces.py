"""Of `[container]`: namespaces, share, user_namespace, time_offsets.

Owns which namespaces a container makes, which it has of somebody else, what it can't have where that is the root, and whose
its ids are. Must not know how they are made, nor what /etc/subuid says (launch/users.py).
"""

from pyinit.config.decode import Table, seconds, show
from pyinit.errors import hint
from pyinit.model import IdRange, Shared, UserNamespace, is_name

NAMESPACES = ("pid", "mount", "uts", "ipc", "cgroup", "net", "user", "time")
DEFAULT = ("pid", "mount", "uts", "ipc", "cgroup", "net")
# What makes a root, or changes it: keys of [container], and of its tables.
_OF_A_ROOT = ("layers", "writable", "writable_size", "writable_inodes", "writable_paths", "mounts", "secrets")
_OF_A_ROOT_IN = {"security": ("masked_paths", "readonly_paths", "devices"), "network": ("dns", "hosts")}
_CLOCKS = ("monotonic", "boottime")
_MOST_ID = 2**32 - 2  # 2**32 - 1 is "no id"
_MOST_RANGES = 340  # user_namespaces(7)
_LONGEST_S = 100 * 365 * 86400.0


def namespaces(table: Table, shared: tuple[Shared, ...]) -> tuple[str, ...]:
    """Those that the container makes; what it shares is none of them."""
    kinds = {one.kind for one in shared}
    told = table.has("namespaces")
    asked = tuple(name for name, key in (("user", "user_namespace"), ("time", "time_offsets")) if table.has(key))
    found = table.strings("namespaces", tuple(name for name in (*DEFAULT, *asked) if name not in kinds))
    for position, name in enumerate(found):
        if name not in NAMESPACES:
            table.fault("namespaces", f"expected one of {', '.join(NAMESPACES)}, found {show(name)}{hint(name, NAMESPACES)}", position)
        elif name in kinds:
            table.fault("namespaces", f'"{name}" is in share as well: it is made, or shared; take one out', position)
    for name in ("pid", "mount"):
        if told and name not in found and name not in kinds:
            table.fault("namespaces", f'expected "{name}" among them: there is no container without it')
    for name, key in (("user", "user_namespace"), ("time", "time_offsets")):
        if table.has(key) and name in kinds:
            table.fault(key, f"the {name} namespace is shared, so it is the other's to say; take this, or that, out")
        elif table.has(key) and name not in found:
            table.fault(key, f'expected "{name}" among `namespaces`, found none; add that, or take this out')
    return tuple(dict.fromkeys(found))


def share(table: Table) -> tuple[Shared, ...]:
    """`kind:NAME` of a container, `kind:/path`, `kind:PID`."""
    found: list[Shared] = []
    root = -1
    for position, text in enumerate(table.strings("share")):
        kind, mark, what = text.partition(":")
        if kind not in NAMESPACES or not mark:
            table.fault("share", f'expected a namespace and whose, such as "net:db", "ipc:/path" or "uts:4321", found {show(text)}', position)
        elif any(one.kind == kind for one in found):
            table.fault("share", f"{kind} is there twice; a process is in one of each kind: take one out", position)
        else:
            by = "path" if what.startswith("/") else "pid" if what.isascii() and what.isdigit() and 0 < int(what) < 1 << 22 else "container"
            if by == "container" and (not is_name(what) or what.isdigit()):
                table.fault("share", f"expected a container's name, an absolute path or a pid behind {kind}:, found {show(what)}", position)
            found.append(Shared(kind, by, what, table.document.origin((*table.path, "share", position))))
            if kind == "mount":
                root = position
    if root >= 0:
        _check_processes(table, found, root)
    return tuple(found)


def _check_processes(table: Table, found: list[Shared], position: int) -> None:
    """A root's /proc is of one pid namespace: elsewhere PID 1 would not find itself. Whether another's fits is seen at the launch."""
    root = next(one for one in found if one.kind == "mount")
    pid = next((one for one in found if one.kind == "pid"), None)
    if pid is not None and (pid.what == root.what or not pid.by == root.by == "container"):
        return
    wanted = f'"pid:{root.what}"' if root.by != "path" else "the pid namespace of the same one"
    if root.by == "path" and root.what.endswith("/ns/mnt"):
        wanted = f'"pid:{root.what.removesuffix("mnt")}pid"'
    text = f"expected {wanted} beside it, found {show(f'pid:{pid.what}') if pid else 'none'}: /proc in that root is of its pid namespace; "
    table.fault("share", text + ("write that" if pid else "add that"), position)


def refuse_of_a_root(table: Table, shared: tuple[Shared, ...], made: tuple[str, ...]) -> None:
    """Note what has no place in the container because its root is another's; `made`: the namespaces that are its own."""
    root = next((one for one in shared if one.kind == "mount"), None)
    if root is None:
        return
    whose = {"container": f"container {root.what}'s", "pid": f"that of the process {root.what}"}.get(root.by, f"another's, of {root.what}")
    advice = "take this out, or write it there" if root.by == "container" else "take this out"
    rows = [(table, key) for key in _OF_A_ROOT]
    for name, keys in _OF_A_ROOT_IN.items():
        inner = table.data.get(name)
        rows += [(Table(table.document, (*table.path, name), inner), key) for key in keys if isinstance(inner, dict)]
    for one, key in rows:
        if one.has(key):
            one.fault(key, f"the root is {whose}; {advice}")
    if "user" in made:
        user = f'share "user:{root.what}" as well' if root.by != "path" else "share that one's"
        key = "user_namespace" if table.has("user_namespace") else "namespaces"
        table.fault(key, f"the root is {whose}, which nobody in a user namespace of this container's own may join; take user out, and if the other has one, {user}")


def time_offsets(table: Table | None) -> tuple[tuple[str, int], ...]:
    """(clock, nanoseconds); a minus sign before the duration sets it back."""
    if table is None:
        return ()
    found = []
    for clock in _CLOCKS:
        text = table.string(clock, "0s")
        offset = seconds(text.removeprefix("-"))
        if offset is None or offset > _LONGEST_S:
            table.fault(clock, f'expected a duration such as "1h", or "-5m" to set it back, found {show(text)}')
        elif offset:
            found.append((clock, int(offset * 1e9) * (-1 if text.startswith("-") else 1)))
    table.close()
    return tuple(found)


def user_namespace(table: Table | None) -> UserNamespace:
    if table is None:
        return UserNamespace()
    value = table.raw("map")
    ranges: tuple[IdRange, ...] = ()
    if isinstance(value, list):
        kind, ranges = "ranges", _ranges(table)
    else:
        kind = table.choice("map", "auto", ("auto", "single"))
    user = table.string("user")
    if kind == "ranges" and user:
        table.fault("user", "a map of ranges says itself whose the ids are; take this out")
    table.close()
    return UserNamespace(kind, user, ranges, table.origin)


def _ranges(table: Table) -> tuple[IdRange, ...]:
    """Each for users and groups alike."""
    found: list[IdRange] = []
    rows = table.tables("map")
    for position, row in enumerate(rows):
        inside, outside = row.integer("inside", 0, 0, _MOST_ID), row.integer("outside", -1, 0, _MOST_ID)
        count = row.integer("count", 1, 1, _MOST_ID + 1)
        if outside < 0 and "outside" not in row.data:
            table.fault("map", "expected outside = N: the first id of this host that the range stands for", position)
        row.close()
        over = next((n for n, one in enumerate(found) if _overlap(one.inside, one.length, inside, count) or _overlap(one.source, one.length, outside, count)), None)
        if over is not None:
            table.fault("map", f"it overlaps with map[{over + 1}]: each id, inside and outside, stands for one; mend the ranges", position)
        if max(inside, outside) + count > _MOST_ID + 1:
            table.fault("map", f"it goes beyond the highest id, {_MOST_ID}; make count smaller", position)
        found.append(IdRange("uid", outside, inside, count))
    if len(found) > _MOST_RANGES or not table.data["map"]:
        table.fault("map", f"expected 1 to {_MOST_RANGES} ranges, found {len(found)}")
    elif found and not any(one.inside == 0 for one in found):
        table.fault("map", "expected a range with inside = 0: PID 1 is root in its container")
    return tuple(one._replace(kind=kind) for kind in ("uid", "gid") for one in found)


def _overlap(one: int, length: int, other: int, count: int) -> bool:
    return one < other + count and other < one + length
