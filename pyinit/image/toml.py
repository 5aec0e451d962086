"""TOML, written: what a config says, as values, becomes a text again.

Owns the format. Must not know what a key means. Law: what a TOML parser makes of the text is the value that it was given.
Source: toml.io, version 1.0.
"""

from _collections_abc import Mapping

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def text(data: Mapping[str, object]) -> str:
    """Of a whole file."""
    return "\n".join(_table((), data)).lstrip("\n") + "\n"


def _table(path: tuple[str, ...], data: Mapping[str, object]) -> list[str]:
    """Plain values first: what follows a header belongs to that."""
    lines = [f"{_key(key)} = {_value(value)}" for key, value in data.items() if not _has_header(value)]
    for key, value in data.items():
        inner = (*path, key)
        name = ".".join(map(_key, inner))
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]", *_table(inner, value)]
        elif _has_header(value):
            assert isinstance(value, list)
            for row in value:
                lines += ["", f"[[{name}]]", *_table(inner, row)]
    return lines


def _has_header(value: object) -> bool:
    if isinstance(value, Mapping):
        return True
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(key)} = {_value(one)}' for key, one in value.items())} }}"
    return str(value).lower() if isinstance(value, float) else str(value)


def _key(key: str) -> str:
    return key if key and set(key) <= _BARE else _string(key)


def _string(value: str) -> str:
    out = (_ESCAPES.get(char) or (f"\\u{ord(char):04x}" if char < " " or char == "\x7f" else char) for char in value)
    return f'"{"".join(out)}"'
