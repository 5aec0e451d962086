"""What contextlib has, as far as the start-up path needs it: that module brings five others, and 5 ms.

Owns `suppress`. Must not know what is suppressed. It is imported under contextlib's name.
"""

# ruff: noqa: PLC0414 - what is meant for others says so

from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import suppress as suppress
else:

    class suppress:  # noqa: N801 - contextlib's name
        """A block that the given errors end, and no more."""

        __slots__ = ("_errors",)

        def __init__(self, *errors):
            self._errors = errors

        def __enter__(self):
            return None

        def __exit__(self, kind, error, trace):
            return kind is not None and issubclass(kind, self._errors)
