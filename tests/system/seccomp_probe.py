"""Makes the system calls that test_seccomp_here.py asks about and tells what each came to, as JSON: runs in a container.

Its arguments are such that nothing changes where no filter refuses it: bad addresses, lengths and descriptors. A call is "ok", the name of its errno, or the signal that its process died of.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import signal
import sys
import termios

LIBC = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
NUMBERS = {  # x86_64, aarch64
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "unshare": (272, 97), "mount": (165, 40), "umount2": (166, 39),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "open_by_handle_at": (304, 265), "personality": (135, 92),
    "clone": (56, 220), "setns": (308, 268), "pivot_root": (155, 41), "swapon": (167, 224), "reboot": (169, 142), "kexec_load": (246, 104),
    "init_module": (175, 105), "process_madvise": (440, 440), "pidfd_getfd": (438, 438), "io_uring_setup": (425, 425), "fsopen": (430, 430),
    "open_tree": (428, 428), "move_mount": (429, 429), "clone3": (435, 435), "settimeofday": (164, 170), "sethostname": (170, 161),
    "chroot": (161, 51), "ptrace": (101, 117), "getpid": (39, 172), "mbind": (237, 235), "socket": (41, 198),
}  # fmt: skip
PATH = ctypes.c_char_p(b"/tmp")
CALLS = {
    "io_uring_setup": ("io_uring_setup", 4, 0), "keyctl": ("keyctl", 0, -3, 0), "add_key": ("add_key", 0, 0, 0, 0), "request_key": ("request_key", 0, 0, 0),
    "unshare(CLONE_NEWUSER)": ("unshare", 0x10000000), "unshare(CLONE_FS)": ("unshare", 0x200), "setns": ("setns", -1, 0),
    "mount": ("mount", 0, 0, 0, 0, 0), "umount2": ("umount2", 0, 0), "fsopen": ("fsopen", 0, 0), "open_tree": ("open_tree", -1, 0, 0),
    "move_mount": ("move_mount", -1, 0, -1, 0, 0), "pivot_root": ("pivot_root", 0, 0), "bpf": ("bpf", 0, 0, 0), "perf_event_open": ("perf_event_open", 0, 0, 0, 0, 0),
    "userfaultfd": ("userfaultfd", 1), "open_by_handle_at": ("open_by_handle_at", -1, 0, 0), "clone(CLONE_NEWUSER)": ("clone", 0x10000000 | 17, 0, 0, 0, 0),
    "clone(CLONE_NEWNS), a bit above": ("clone", 1 << 40 | 0x20000 | 17, 0, 0, 0, 0), "clone": ("clone", 17, 0, 0, 0, 0), "clone3": ("clone3", 0, 0),
    "personality(READ_IMPLIES_EXEC)": ("personality", 0x400000), "personality(0xffffffff)": ("personality", 0xFFFFFFFF), "swapon": ("swapon", 0, 0),
    "reboot": ("reboot", 1, 1, 0, 0), "kexec_load": ("kexec_load", 0, 0, 0, -1), "init_module": ("init_module", 0, 0, 0), "settimeofday": ("settimeofday", -1, 0),
    "sethostname": ("sethostname", 0, -1), "process_madvise": ("process_madvise", -1, 0, 0, 0, 0), "pidfd_getfd": ("pidfd_getfd", -1, 0, 0),
    "mbind": ("mbind", 0, 0, 0, 0, 0, 0), "chroot": ("chroot", PATH), "ptrace": ("ptrace", 0, 0, 0, 0),
    "socket(AF_ALG)": ("socket", 38, 5, 0), "socket(AF_VSOCK)": ("socket", 40, 1, 0), "socket(AF_ALG), a bit above": ("socket", 1 << 32 | 38, 5, 0),
    "socket(AF_INET)": ("socket", 2, 1, 0), "socket(AF_UNIX)": ("socket", 1, 1, 0),
}  # fmt: skip


def call(number: int, *words, before=lambda: None) -> str:
    """In a child of its own, which exits with the errno."""
    pid = os.fork()
    if pid == 0:
        before()
        found = LIBC.syscall(ctypes.c_long(number), *[ctypes.c_long(word) if isinstance(word, int) else word for word in words])
        os._exit(ctypes.get_errno() if found < 0 else 0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return errno.errorcode[os.WEXITSTATUS(status)] if os.WEXITSTATUS(status) else "ok"


def tty(request: int) -> str:
    """An ioctl of a terminal that controls us: of any other TIOCSTI takes a capability."""
    main, side = os.openpty()

    def control() -> None:
        os.setsid()
        fcntl.ioctl(side, termios.TIOCSCTTY, 0)

    found = call(16 if X86 else 29, side, request, ctypes.create_string_buffer(b"x", 64), before=control)
    os.close(main)
    os.close(side)
    return found


def of_32_bits() -> str:
    """getpid() by int 0x80: as a call of i386."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
    pid = os.fork()
    if pid == 0:
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "ok"


def main() -> None:
    found = {name: call(NUMBERS[words[0]][not X86], *words[1:]) for name, words in CALLS.items()}
    found["ioctl(TIOCSTI)"], found["ioctl(TIOCSTI), a bit above"], found["ioctl(TIOCLINUX)"] = tty(0x5412), tty(1 << 32 | 0x5412), tty(0x541C)
    found["ioctl(TIOCGWINSZ)"] = tty(0x5413)
    found["a number without a name"] = call(600)
    if X86:
        found["getpid of x32"] = call(0x40000000 | 39)
        found["getpid of i386"] = of_32_bits()
    with open("/proc/self/status") as file:
        state = dict(line.rstrip("\n").split(":\t", 1) for line in file)
    print(json.dumps({"calls": found, "status": {name: state[name] for name in ("Seccomp", "NoNewPrivs", "CapEff")}}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
