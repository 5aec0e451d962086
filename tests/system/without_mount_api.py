"""`without_mount_api.py ERRNO[:NUMBER,...] COMMAND ...`: a seccomp filter answers ERRNO to the new mount API and to openat2, as old runtimes' do.

Or to the calls of these numbers only.
"""

import ctypes
import errno
import os
import struct
import sys

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
REFUSED = (428, 429, 430, 431, 432, 433, 437, 442)  # open_tree .. fspick, openat2, mount_setattr; the same on every machine but alpha


def program(number: int, refused: tuple[int, ...]) -> bytes:
    """struct sock_filter: code, jump if true, jump if false, operand."""
    lines = [(LOAD, 0, 0, 0)]  # seccomp_data.nr
    lines += [(IF_EQUAL, len(refused) - at, 0, call) for at, call in enumerate(refused)]
    lines += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ERRNO | number)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def main(words: list[str]) -> None:
    name, _, some = words[0].partition(":")
    text = program(getattr(errno, name), tuple(int(word) for word in some.split(",")) if some else REFUSED)
    code = ctypes.create_string_buffer(text, len(text))
    head = ctypes.create_string_buffer(struct.pack("@HxxxxxxP", len(text) // 8, ctypes.addressof(code)))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, head, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl PR_SET_SECCOMP")
    os.execvp(words[1], words[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
