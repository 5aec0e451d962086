"""Records and enums as typing and enum have them, at a tenth of their price.

Owns the stand-ins. Must not know what is kept in them. Laws: the type checker sees the originals; importing this reads
no other file, and a class costs microseconds: typing, enum and what they bring are 20 ms of each start, and a
NamedTuple of theirs compiles its constructor.
"""

# ruff: noqa: PLC0414 - what is meant for others says so

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque as deque
    from enum import Enum as Enum
    from typing import Any as Any
    from typing import NamedTuple as NamedTuple
    from typing import NoReturn as NoReturn
    from typing import Protocol as Protocol
    from typing import TypedDict as TypedDict
    from typing import Unpack as Unpack
    from typing import assert_never as assert_never
else:
    from _collections import _tuplegetter
    from _collections import deque as deque

    Any = NoReturn = object
    FunctionType = type(lambda: 0)  # types would read a file
    _tuple_new = tuple.__new__

    class Protocol:
        """Nothing at run time."""

    class TypedDict:
        """Nothing at run time."""

    class Unpack:
        """Nothing at run time."""

        def __class_getitem__(cls, inner):
            return inner

    def assert_never(value):
        """All cases stand above it."""
        raise AssertionError(f"no case for {value!r}")

    # The constructors of records of up to eleven fields: one of these, with its variables named as the fields are.
    _CONSTRUCTORS = (
        lambda c: _tuple_new(c, ()),
        lambda c, a: _tuple_new(c, (a,)),
        lambda c, a, b: _tuple_new(c, (a, b)),
        lambda c, a, b, d: _tuple_new(c, (a, b, d)),
        lambda c, a, b, d, e: _tuple_new(c, (a, b, d, e)),
        lambda c, a, b, d, e, f: _tuple_new(c, (a, b, d, e, f)),
        lambda c, a, b, d, e, f, g: _tuple_new(c, (a, b, d, e, f, g)),
        lambda c, a, b, d, e, f, g, h: _tuple_new(c, (a, b, d, e, f, g, h)),
        lambda c, a, b, d, e, f, g, h, i: _tuple_new(c, (a, b, d, e, f, g, h, i)),
        lambda c, a, b, d, e, f, g, h, i, j: _tuple_new(c, (a, b, d, e, f, g, h, i, j)),
        lambda c, a, b, d, e, f, g, h, i, j, k: _tuple_new(c, (a, b, d, e, f, g, h, i, j, k)),
        lambda c, a, b, d, e, f, g, h, i, j, k, m: _tuple_new(c, (a, b, d, e, f, g, h, i, j, k, m)),
    )

    def _new_of_many(cls, *values, **named):
        """The constructor of a record with more fields."""
        given, rest = cls._fields[: len(values)], cls._fields[len(values) :]
        if len(values) > len(given) or not named.keys() <= set(rest):
            raise TypeError(f"{cls.__name__}: {len(values)} values and {', '.join(named)} are not what it takes: {', '.join(cls._fields)}")
        known = {**cls._field_defaults, **named}
        try:
            return _tuple_new(cls, (*values, *[known[name] for name in rest]))
        except KeyError as error:
            raise TypeError(f"{cls.__name__} needs {error.args[0]}, too") from None

    def _make(cls, values):
        """From any iterable."""
        made = _tuple_new(cls, values)
        if len(made) != len(cls._fields):
            raise TypeError(f"{cls.__name__} takes {len(cls._fields)} values, not {len(made)}")
        return made

    def _replace(self, **named):
        """The same with other values."""
        made = _tuple_new(type(self), map(named.pop, self._fields, self))
        if named:
            raise ValueError(f"{type(self).__name__} has no {', '.join(named)}")
        return made

    def _asdict(self):
        """Name -> value."""
        return dict(zip(self._fields, self, strict=True))

    def _repr(self):
        inner = ", ".join([f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True)])
        return f"{type(self).__name__}({inner})"

    def _getnewargs(self):
        """For pickle."""
        return tuple(self)

    class _Record(type):
        def __new__(meta, name, bases, body):
            if not bases:
                return type.__new__(meta, name, bases, body)
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body.pop(field) for field in fields if field in body}
            body |= {
                "__slots__": (), "_fields": fields, "_field_defaults": defaults, "__match_args__": fields,
                "_make": classmethod(_make), "_replace": _replace, "_asdict": _asdict, "__getnewargs__": _getnewargs,
            }  # fmt: skip
            body.setdefault("__repr__", _repr)
            body["__new__"] = _constructor(fields, tuple(defaults.values()))
            for index, field in enumerate(fields):
                body[field] = _tuplegetter(index, None)
            return type.__new__(type, name, (tuple,), body)

    def _constructor(fields, defaults):
        if len(fields) >= len(_CONSTRUCTORS):
            return _new_of_many
        code = _CONSTRUCTORS[len(fields)].__code__.replace(co_varnames=("cls", *fields), co_name="__new__")
        return FunctionType(code, globals(), "__new__", defaults)

    class NamedTuple(metaclass=_Record):
        """A base whose annotated names become fields."""

    class _Members(type):
        def __new__(meta, name, bases, body):
            if not bases:
                return type.__new__(meta, name, bases, body)
            values = {key: body.pop(key) for key in list(body) if key[0] != "_" and not hasattr(body[key], "__get__")}
            made = type.__new__(meta, name, bases, body)
            made._members = {}
            for key, value in values.items():
                member = object.__new__(made)
                member.name, member.value = key, value
                made._members[key] = member
                type.__setattr__(made, key, member)
            made._by_value = {member.value: member for member in made._members.values()}
            return made

        def __call__(cls, value):
            try:
                return cls._by_value[value]
            except KeyError:
                raise ValueError(f"{value!r} is no {cls.__name__}") from None

        def __getitem__(cls, name):
            return cls._members[name]

        def __iter__(cls):
            return iter(cls._members.values())

        def __len__(cls):
            return len(cls._members)

        def __contains__(cls, member):
            return isinstance(member, cls)

        def __setattr__(cls, name, value):
            if not name.startswith("_"):
                raise AttributeError(f"{cls.__name__}.{name} stays as it is")
            type.__setattr__(cls, name, value)

    class Enum(metaclass=_Members):
        """A base whose names become members; each is equal to itself alone."""

        def __repr__(self):
            return f"<{type(self).__name__}.{self.name}: {self.value!r}>"

        def __str__(self):
            return f"{type(self).__name__}.{self.name}"

        def __reduce__(self):
            return type(self), (self.value,)
