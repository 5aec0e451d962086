"""bpf(2): the one kind of program that we load, which says whom a group of cgroup v2 lets at devices.

Owns the program and its calls. Must not know which devices a container has.
Source: bpf(2), include/uapi/linux/bpf.h, Documentation/admin-guide/cgroup-v2.rst, "Device controller".
"""

import os
import struct

from pyinit.linux import foreign as ctypes
from pyinit.linux.libc import syscall
from pyinit.records import NamedTuple

_BPF = {"x86_64": 321}  # of others 280
_PROG_LOAD, _PROG_ATTACH = 5, 8
_PROG_TYPE_CGROUP_DEVICE, _CGROUP_DEVICE, _F_ALLOW_MULTI = 15, 6, 2
_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
_LDX_W, _MOV, _MOV_K, _AND_K, _RSH_K, _JNE_K, _JNE, _EXIT = 0x61, 0xBF, 0xB7, 0x57, 0x77, 0x55, 0x5D, 0x95
_RESULT, _CONTEXT, _KIND, _WANTED, _MAJOR, _MINOR, _REST = 0, 1, 2, 3, 4, 5, 6  # what each register holds


class Rule(NamedTuple):
    """One device that may be used: `kind` is "c" or "b", `minor` -1 any, `access` some of "rwm"."""

    kind: str
    major: int
    minor: int
    access: str


def device_program(rules: tuple[Rule, ...]) -> bytes:
    """Its instructions: 1 for what one of the rules allows as a whole, else 0."""
    code = [
        _instruction(_LDX_W, _KIND, _CONTEXT, 0),  # struct bpf_cgroup_dev_ctx: access << 16 | type, major, minor
        _instruction(_LDX_W, _MAJOR, _CONTEXT, 4),
        _instruction(_LDX_W, _MINOR, _CONTEXT, 8),
        _instruction(_MOV, _WANTED, _KIND),
        _instruction(_RSH_K, _WANTED, value=16),
        _instruction(_AND_K, _KIND, value=0xFFFF),
    ]
    for rule in rules:
        code += _of_rule(rule)
    return b"".join([*code, _instruction(_MOV_K, _RESULT, value=0), _instruction(_EXIT)])


def _of_rule(rule: Rule) -> list[bytes]:
    tests = [(_KIND, _TYPES[rule.kind]), (_MAJOR, rule.major), *([(_MINOR, rule.minor)] if rule.minor >= 0 else [])]
    allowed = sum(_ACCESS[letter] for letter in rule.access)
    tail = [
        _instruction(_MOV, _REST, _WANTED),
        _instruction(_AND_K, _REST, value=allowed),
        _instruction(_JNE, _REST, _WANTED, 2),  # it wants more: past the two that follow
        _instruction(_MOV_K, _RESULT, value=1),
        _instruction(_EXIT),
    ]
    return [*(_instruction(_JNE_K, register, 0, len(tests) - number - 1 + len(tail), value) for number, (register, value) in enumerate(tests)), *tail]


def _instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """struct bpf_insn."""
    return struct.pack("=BBhi", code, source << 4 | to, offset, value)


def load_device_program(program: bytes) -> int:
    """Its fd."""
    words = ctypes.c_char_p(program), ctypes.c_char_p(b"")  # its license: it calls nothing of the kernel's, so any will do
    places = [struct.unpack("=Q", bytes(one))[0] for one in words]
    attributes = struct.pack("=IIQQ24x", _PROG_TYPE_CGROUP_DEVICE, len(program) // 8, *places)
    return _bpf(_PROG_LOAD, attributes)  # CLOEXEC


def attach_device_program(program_fd: int, group_fd: int) -> None:
    """To a group of v2, for as long as that is there; beside what is attached to it and above it, which all have to allow."""
    _bpf(_PROG_ATTACH, struct.pack("=IIII", group_fd, program_fd, _CGROUP_DEVICE, _F_ALLOW_MULTI))


def _bpf(command: int, attributes: bytes) -> int:
    return syscall("bpf", _BPF.get(os.uname().machine, 280), command, attributes, len(attributes))
