"""`[[container.mounts]]` and `[container.secrets]`: tables become Mount and FileSpec.

Owns their keys, which type of mount has which, and their defaults. Must not know how anything is mounted, or look at
the host (check.py does). Law: what a key can't mean for a type is an error, for it would be ignored without a word.
"""

import os

from pyinit.config import netsources, sources
from pyinit.config.decode import Table, show
from pyinit.config.probes import command
from pyinit.errors import hint
from pyinit.model import FUSE, IMAGES, NETWORK_TYPES, RESERVED, SECRETS, Content, FileSpec, IdRange, Mount, is_name

_TYPES = (*IMAGES, "tmpfs", "bind", "overlay", *NETWORK_TYPES)
_ANY_TYPE = f'{", ".join(show(one) for one in _TYPES)} or "{FUSE}PROGRAM"'
_KEYS_OF_ALL = ("type", "target", "read_only", "options", "mode", "uid", "gid")
_KEYS = {
    "squashfs": ("source",),
    "erofs": ("source",),
    "tmpfs": ("size", "files"),
    "bind": ("source", "create", "idmap", "propagation"),
    "overlay": ("layers", "writable", "writable_size"),
    **dict.fromkeys(NETWORK_TYPES, ("source", "secret_options", "timeout")),
    "fuse": ("source", "timeout"),
}
_OPPOSITES = {"suid": "nosuid", "dev": "nodev", "exec": "noexec", "diratime": "nodiratime", "symfollow": "nosymfollow"}
_ATIMES = ("relatime", "noatime", "strictatime")
_WITHOUT_OPTIONS = (*IMAGES, "bind", "overlay")
_OF_KEYS = {"tmpfs": ("size", "mode", "uid", "gid")}
_OURS = {"fuse": ("fd", "rootmode", "user_id", "group_id", "subtype", "fsname")}
_CONTENTS = ("content", "file", "env", "command")
_MOST_IDS = 2**32 - 1
_TIMEOUT_S = 30.0


def mount(table: Table) -> Mount:
    """One `[[container.mounts]]`."""
    kind = table.string("type")
    family = _family(kind)
    if family not in _KEYS:
        missing_or_wrong(table, "type", _ANY_TYPE, hint(kind, _TYPES))
    source, sha256 = _source(table, kind)
    if family in _KEYS:
        _check_keys(table, kind)
    read_only, flags, options = _options(table, kind)
    overlay = kind == "overlay"
    found = Mount(
        type=kind if family in _KEYS else "",
        target=_target(table),
        source=source,
        read_only=read_only,
        size_bytes=table.size("writable_size" if overlay else "size"),
        mode=table.octal("mode", 0o755, 0o7777),
        uid=_id(table, "uid", 0),
        gid=_id(table, "gid", 0),
        create=table.boolean("create"),
        files=_files(table.table("files")),
        origin=table.origin,
        source_origin=table.at("source"),
        sha256=sha256,
        flags=flags,
        options=options,
        secret_options=_secret_options(table.table("secret_options")),
        idmap=_idmap(table.table("idmap")),
        propagation=table.choice("propagation", "private", ("private", "slave", "shared")),
        layers=sources.layers(table) if overlay else (),
        writable=sources.writable(table, ("writable_size",)) if overlay else "none",
        timeout_s=table.duration("timeout", _TIMEOUT_S),
    )
    if found.read_only and found.writable != "none":
        table.fault("read_only", 'writable = "none" makes it read-only; take one out')
    table.close()
    return found


def secrets(table: Table | None) -> tuple[FileSpec, ...]:
    """`[container.secrets]`: names of files in /run/secrets."""
    if table is None:
        return ()
    found = []
    for name in table.data:
        if not is_name(name):
            table.fault(name, f"expected a file's name of letters, digits, _ . and -, for {SECRETS}, found {show(name)}")
        inner = table.table(name) if isinstance(table.data[name], dict) else None
        if inner is None or "content" in inner.data:
            what = "expected file, env or command, such as { file = \"db-password\", uid = 33 }: a secret does not stand in a config"
            table.fault(name, what)
            continue
        found.append(_file(inner, name, 0o400, _CONTENTS[1:]))
    return tuple(found)


def _family(kind: str) -> str:
    """The type, as _KEYS has it."""
    program = kind.removeprefix(FUSE)
    return "fuse" if program != kind and is_name(program) else kind if kind != "fuse" else ""


def _source(table: Table, kind: str) -> tuple[str, str]:
    source, sha256 = sources.pinned(table, "source", table.string("source"))
    nested = kind in IMAGES and source.startswith("image:")
    if sha256 and (kind not in IMAGES or nested):
        what = "an image inside an image, which is pinned with that one" if kind in IMAGES else "no image"
        table.fault("source", f"a digest pins an image on the host, and this is {what}; take @sha256:... out")
    here = kind in (*IMAGES, "bind")
    if here and not source:
        missing_or_wrong(table, "source", "a path on the host")
    elif not source and (kind in NETWORK_TYPES or _family(kind) == "fuse"):
        missing_or_wrong(table, "source", "what is mounted, as mount(8) or the program has it, such as \"server:/path\"")
    elif kind in NETWORK_TYPES and (why := netsources.fault(kind, source)):
        table.fault("source", why)
    return sources.absolute(table, source) if source and here and not nested else source, sha256


def _target(table: Table) -> str:
    text = table.path_of("target")
    target = os.path.normpath(text).replace("//", "/")  # POSIX keeps two slashes at the start
    if not table.has("target"):
        missing_or_wrong(table, "target", "an absolute path in the container")
    elif text and (".." in text.split("/") or target in RESERVED or target.startswith("/proc/")):
        table.fault("target", f"expected a place of its own below the root, without .., found {show(text)}")
    return target


def _check_keys(table: Table, kind: str) -> None:
    own = (*_KEYS_OF_ALL, *_KEYS[_family(kind)])
    for key in table.data:
        if key not in own and any(key in keys for keys in _KEYS.values()):
            table.fault(key, f"{_a(kind)} has no such key; its keys are: {', '.join(own)}")
    if kind in IMAGES and not table.boolean("read_only", default=True):
        table.fault("read_only", f"{_a(kind)} is always read-only; take it out")


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "eon" else f"a {kind}"


def missing_or_wrong(table: Table, key: str, what: str, near: str = "") -> None:
    """Note that a key that must be there is not, or has no such value."""
    value = table.raw(key)
    if value is None:
        where = ".".join(str(part) for part in table.path if not isinstance(part, int))
        table.document.problems.append((table.origin, f"{where}: {key} is missing: expected {what}"))
    else:
        table.fault(key, f"expected {what}, found {show(value)}{near}")


def _id(table: Table, key: str, default: int) -> int:
    return table.integer(key, default, 0, _MOST_IDS - 1)


def _options(table: Table, kind: str) -> tuple[bool, tuple[str, ...], tuple[tuple[str, str | None], ...]]:
    """(read-only, what every mount may have, what this file system has), of words as mount(8) has them."""
    read_only = table.boolean("read_only")
    flags, own = ["nosuid", "nodev"], []
    for number, word in enumerate(table.strings("options")):
        name, mark, value = word.partition("=")
        if word in ("ro", "rw"):
            read_only = word == "ro"
        elif word in _OPPOSITES:
            flags = [one for one in flags if one != _OPPOSITES[word]]
        elif word in _OPPOSITES.values():
            flags = list(dict.fromkeys([*flags, word]))
        elif word in _ATIMES:
            flags = [*(one for one in flags if one not in _ATIMES), word]
        elif why := _no_option(_family(kind), name, word):
            # What an option of a network file system says may be a password.
            table.fault("options", f"{why}, found {show(name if kind in NETWORK_TYPES else word)}", number)
        else:
            own.append((name, value if mark else None))
    return read_only, tuple(flags), tuple(own)


def _no_option(family: str, name: str, word: str) -> str:
    if not name or "," in word:
        return 'expected one option a string, such as ["noexec", "noatime"]'
    if family in _WITHOUT_OPTIONS:
        return f"expected nosuid, nodev, noexec, an atime or nosymfollow, for {_a(family)} has no options of its own"
    if name in _OF_KEYS.get(family, ()):
        return f"expected the key `{name}` for it"
    if name in _OURS.get(family, ()):
        return f"pyinit sets {name} itself; take it out"
    return netsources.option_fault(family, name)


def _idmap(table: Table | None) -> tuple[IdRange, ...]:
    """`{ uid = ["1000:33"], gid = ["1000:33:10"] }`: SOURCE:INSIDE[:COUNT]."""
    if table is None:
        return ()
    found = []
    for kind in ("uid", "gid"):
        for number, text in enumerate(table.strings(kind)):
            words = text.split(":")
            plain = len(words) in (2, 3) and all(word.isascii() and word.isdigit() and len(word) <= 10 for word in words)
            ids = [int(word) for word in words] if plain else []
            if not plain or max(ids[:2]) + ([*ids, 1][2] or _MOST_IDS) > _MOST_IDS:
                table.fault(kind, f'expected "SOURCE:INSIDE" or "SOURCE:INSIDE:COUNT" in numbers, found {show(text)}', number)
                continue
            found.append(IdRange(kind, *ids))
    if set(table.data) <= {"uid", "gid"} and not any(table.data.values()):
        table.fault("uid", 'expected uid = ["SOURCE:INSIDE"], gid = ["SOURCE:INSIDE"] or both, found nothing')
    table.close()
    return tuple(found)


def _files(table: Table | None) -> tuple[FileSpec, ...]:
    """Names relative to the target: text, or a table of content, file, env or command, with mode and owner."""
    if table is None:
        return ()
    found = []
    for name, value in table.data.items():
        if not name or name.startswith("/") or ".." in name.split("/") or name.endswith("/") or "\0" in name:
            table.fault(name, "expected a name below the target, without ..")
        if isinstance(value, dict):
            inner = table.table(name)
            assert inner is not None
            found.append(_file(inner, name, 0o644, _CONTENTS))
        else:
            at = table.document.origin((*table.path, name))
            found.append(FileSpec(name, Content("text", table.string(name), origin=at)))
    return tuple(found)


def _file(table: Table, name: str, mode: int, kinds: tuple[str, ...]) -> FileSpec:
    content = _content(table, kinds)
    found = FileSpec(name, content, table.octal("mode", mode, 0o7777), _id(table, "uid", -1), _id(table, "gid", -1))
    if set(table.data) & set(kinds):  # else it is told already that this is no table of a file
        table.close()
    return found


def _secret_options(table: Table | None) -> tuple[tuple[str, Content], ...]:
    if table is None:
        return ()
    found = []
    for name in table.data:
        inner = table.table(name) if isinstance(table.data[name], dict) else None
        if inner is None or "content" in inner.data:
            table.fault(name, 'expected file, env or command, such as { file = "share-password" }: a secret does not stand in a config')
            continue
        found.append((name, _content(inner, _CONTENTS[1:])))
        inner.close()
    return tuple(found)


def _content(table: Table, kinds: tuple[str, ...]) -> Content:
    """Of a table that has just one of `kinds`."""
    said = [kind for kind in kinds if table.has(kind)]
    if len(said) != 1:
        words = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        found = f"{' and '.join(said)}" if said else "none of them"
        tail = "; a name with a dot stands in quotes" if not said and "content" in kinds else ""
        path = table.path
        Table(table.document, path[:-1], {str(path[-1]): table.data}).fault(str(path[-1]), f"expected one of {words}, found {found}{tail}")
        return Content("text", origin=table.origin)
    kind = said[0]
    if kind == "command":
        return Content(kind, command=command(table, kind), origin=table.origin)
    text = table.string(kind)
    if kind == "content":
        return Content("text", text, origin=table.origin)
    if not text:
        table.fault(kind, "expected a path on the host, found nothing" if kind == "file" else "expected a variable's name, found nothing")
    elif kind == "env":
        _check_variable(table, text)
    return Content(kind, sources.absolute(table, text) if kind == "file" else text, origin=table.origin)


def _check_variable(table: Table, name: str) -> None:
    if "=" in name:
        table.fault("env", f"expected a variable's name, found {show(name)}; a file's name with a dot stands in quotes")
        return
    try:
        table.document.environment[name]
    except KeyError:
        table.fault("env", f"{name} is not set in the environment; set it before pyinit starts")
