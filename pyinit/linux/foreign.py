"""Calls of the C library, as ctypes has them, without its start: 3 ms of each of our processes.

Owns the types and the handle. Must not know what is called. It is imported under the name of ctypes, whose core this is.
"""

# ruff: noqa: F401, F403 - the original's names

from pyinit.records import TYPE_CHECKING

if TYPE_CHECKING:
    from ctypes import *
else:
    from _ctypes import (
        FUNCFLAG_CDECL,
        FUNCFLAG_PYTHONAPI,
        FUNCFLAG_USE_ERRNO,
        Array,
        CFuncPtr,
        _SimpleCData,
        addressof,
        byref,
        dlopen,
        get_errno,
        sizeof,
    )  # fmt: skip

    def _simple(name, code):
        return type(_SimpleCData)(name, (_SimpleCData,), {"_type_": code})

    c_int, c_long, c_ulong = _simple("c_int", "i"), _simple("c_long", "l"), _simple("c_ulong", "L")
    c_uint32, c_size_t = _simple("c_uint32", "I"), c_ulong
    c_uint64 = c_ulong if sizeof(c_ulong) == 8 else _simple("c_uint64", "Q")
    c_char_p, c_void_p = _simple("c_char_p", "z"), _simple("c_void_p", "P")

    class _Function(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI | FUNCFLAG_USE_ERRNO
        _restype_ = c_int

    class PyDLL:
        """A library whose functions keep the interpreter's lock and have an errno of their own."""

        def __init__(self, name, *, use_errno):
            assert use_errno
            self._handle = dlopen(name, 0)

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            function = self[name]
            setattr(self, name, function)
            return function

        def __getitem__(self, name):
            return _Function((name, self))
