"""`${NAME}` and `${NAME:-default}` in values.

Owns the substitution. Must not know which values are expanded. Law: what is not a reference stays as it is,
a lone `$` too; a value from outside is never expanded again.
"""

from _collections_abc import Mapping


class MissingError(Exception):
    """A name that is not set and has no default."""


class SyntaxFaultError(Exception):
    """A `${` without its end, or without a name."""


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Raises MissingError(name), SyntaxFaultError(text from the `${` on)."""
    out, at = "", 0
    while (start := text.find("${", at)) >= 0:
        end = text.find("}", start)
        name, mark, default = text[start + 2 : end].partition(":-") if end >= 0 else ("", "", "")
        if not name.isidentifier():
            raise SyntaxFaultError(text[start : start + 20])
        value = environment.get(name, "")
        if not value:
            if name not in environment and not mark:
                raise MissingError(name)
            value = default
        out += text[at:start] + value
        at = end + 1
    return out + text[at:]
