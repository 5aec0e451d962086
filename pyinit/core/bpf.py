"""Programs of the kernel's socket filter machine, as seccomp(2) takes them. Pure.

Owns their form: instructions, labels, bytes, words. Must not know what a program decides. Law: of jumps only those forward
exist, and a conditional one reaches 255 instructions.
Source: linux/filter.h, linux/bpf_common.h, the kernel's Documentation/networking/filter.rst.
"""

import struct
from _collections_abc import Callable

from pyinit.records import NamedTuple

LOAD, AND, GOTO, RETURN = 0x20, 0x54, 0x05, 0x06  # BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_JMP|JA, BPF_RET|K
IF_EQUAL, IF_GREATER, IF_NOT_LESS = 0x15, 0x25, 0x35  # BPF_JMP | JEQ, JGT, JGE | K
MOST = 4096  # BPF_MAXINSNS
FARTHEST = 255
_FORM = "<HBBI"  # struct sock_filter; both architectures of ours are little-endian
SIZE = struct.calcsize(_FORM)
_TESTS = {IF_EQUAL: "==", IF_GREATER: ">", IF_NOT_LESS: ">="}


class Instruction(NamedTuple):
    """`yes`, `no`: how many instructions a test skips by its outcome; a GOTO skips `value`."""

    code: int
    value: int
    yes: int = 0
    no: int = 0


def assemble(program: list[Instruction]) -> bytes:
    """As the kernel takes it."""
    return b"".join(struct.pack(_FORM, one.code, one.yes, one.no, one.value) for one in program)


def instructions(data: bytes) -> list[Instruction]:
    """What assemble() was given."""
    return [Instruction(code, value, yes, no) for code, yes, no, value in struct.iter_unpack(_FORM, data)]


def choice(test: int, value: int, otherwise: list[Instruction], chosen: list[Instruction]) -> list[Instruction]:
    """`chosen` if the test holds; both end by themselves."""
    if len(otherwise) <= FARTHEST:
        return [Instruction(test, value, len(otherwise), 0), *otherwise, *chosen]
    return [Instruction(test, value, 0, 1), Instruction(GOTO, len(otherwise)), *otherwise, *chosen]


def disassemble(data: bytes, field: Callable[[int], str], result: Callable[[int], str]) -> list[str]:
    """A line each; `field` names what is loaded by its offset, `result` what is returned."""
    lines = []
    for at, one in enumerate(instructions(data)):
        if one.code == LOAD:
            text = f"load {field(one.value)}"
        elif one.code == AND:
            text = f"and {one.value:#x}"
        elif one.code == GOTO:
            text = f"go to {at + 1 + one.value}"
        elif one.code == RETURN:
            text = result(one.value)
        else:
            text = f"if {_TESTS[one.code]} {one.value:#x} go to {at + 1 + one.yes}, else {at + 1 + one.no}"
        lines.append(f"{at:4}  {text}")
    return lines
