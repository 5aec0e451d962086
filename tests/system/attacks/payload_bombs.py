"""What would overwhelm a container, or the init that is in it: each bounded by itself, for it is also let off without its limit."""

import contextlib
import ctypes
import mmap
import os
import resource
import select
import signal
import socket
import struct
import time

from payload import name_of

MOST_CHILDREN = 200
MOST_BYTES = 96 << 20
MOST_FILES = 60_000
MOST_FDS = 1500
CLIENTS = 300
LINGER_S = 5  # longer than an answer is waited for, shorter than a container's end
ZOMBIES, A_BATCH = 100_000 if os.uname().machine == "x86_64" else 20_000, 500
PATIENCE_S = 60
MOST_WAITS = 100  # for a whole batch
FOLDERS = ("/tmp", "/dev/shm", "/run")
# vfork and exit, as often as the argument says; what is left of it is returned. A child that is Python costs 20 times as much.
_VFORKS = bytes.fromhex("53 4889fb b83a000000 0f05 4885c0 740c 7805 48ffcb 75ed 4889d8 5b c3 31ff b83c000000 0f05")


def forks() -> str:
    """Children that stay, until there is no more room for one."""
    pids = []
    try:
        while len(pids) < MOST_CHILDREN:
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            pids.append(pid)
    except OSError as error:
        return name_of(error)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return f"{len(pids)} children"


def memory() -> str:
    """In a child: whom the kernel kills is the one that has most. Of its own: of shared memory the kernel frees nothing before its
    end, and may kill another one meanwhile.
    """
    pid = os.fork()
    if pid == 0:
        kept = mmap.mmap(-1, MOST_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, MOST_BYTES, mmap.PAGESIZE):
            kept[at] = 1
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return f"killed by {-code}" if code < 0 else f"{MOST_BYTES >> 20} MiB"


def space() -> str:
    """All RAM disks, one after the other, and they stay full."""
    return " ".join(_filled(f"{folder}/bomb") for folder in FOLDERS)


def _filled(path: str) -> str:
    fd, chunk, size = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), bytes(1 << 20), 0
    try:
        while size < MOST_BYTES:
            size += os.write(fd, chunk)
    except OSError as error:
        return name_of(error)
    return "all of it"


def inodes() -> str:
    """Empty files: no byte of a RAM disk's size, yet each is the kernel's memory."""
    return " ".join(_crowded(folder) for folder in FOLDERS)


def _crowded(folder: str) -> str:
    try:
        for number in range(MOST_FILES):
            os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError as error:
        return name_of(error)
    return f"{MOST_FILES} files"


def descriptors() -> str:
    fds = []
    try:
        while len(fds) < MOST_FDS:
            fds.append(os.dup(0))
    except OSError as error:
        return name_of(error)
    finally:
        for fd in fds:
            os.close(fd)
    return f"{len(fds)} descriptors"


def clients() -> str:
    """Of the control socket in the container: none of them asks anything, in a child that stays."""
    read_fd, write_fd = os.pipe()
    if os.fork() == 0:
        kept = []
        for _ in range(CLIENTS):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect("/run/pyinit/control.sock")
            sock.send(b"{")
            kept.append(sock)
        os.write(write_fd, b".")
        signal.pause()
    os.read(read_fd, 1)
    return f"{CLIENTS} clients"


def lingering() -> str:
    """A TCP connection with bytes that nobody takes, whose last close waits for that: it is PID 1's, by NOTIFY_SOCKET.

    Again, if PID 1 was faster, so that the last close, and its wait, was ours.
    """
    signal.alarm(PATIENCE_S)
    server = socket.create_server(("127.0.0.1", 0))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(os.environ["NOTIFY_SOCKET"])
        waited_s = LINGER_S
        while waited_s > LINGER_S / 2:
            sock = _full(server)
            socket.send_fds(notify, [b"STATUS=lingering"], [sock.fileno()])
            began_s = time.monotonic()
            sock.close()
            waited_s = time.monotonic() - began_s
    return "sent"


def _full(server: socket.socket) -> socket.socket:
    if os.fork() == 0:  # who never reads; it has no copy of what is sent
        signal.pause()
    sock = socket.create_connection(server.getsockname())
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(1 << 16))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
    return sock


def zombies() -> str:
    """Orphans that have ended already, in batches: each batch's parent ends without a look at them, and PID 1 has them."""
    signal.alarm(PATIENCE_S)
    made, waits, vforks = 0, 0, _vforks()
    while made < ZOMBIES:
        done = _batch(vforks)
        made += done
        waits = 0 if done == A_BATCH else waits + 1
        if waits > MOST_WAITS:
            return "EAGAIN"
        if waits:
            select.select([], [], [], 0.01)  # the limit is reached: PID 1 has not got at them yet
    return f"{ZOMBIES} zombies"


def _batch(vforks) -> int:
    """How many came of it."""
    read_fd, write_fd = os.pipe()
    try:
        pid = os.fork()
    except BlockingIOError:
        pid = -1
    if pid == 0:
        os.write(write_fd, b"%d" % (A_BATCH - vforks(A_BATCH)))
        os._exit(0)
    os.close(write_fd)
    done = int(os.read(read_fd, 16) or 0)
    os.close(read_fd)
    if pid > 0:
        os.waitpid(pid, 0)
    return done


def _vforks():
    """A function of how many; it returns how many it could not make."""
    if os.uname().machine != "x86_64":
        return _forks
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(_VFORKS)
    function = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    function.memory = memory
    return function


def _forks(count: int) -> int:
    for left in range(count, 0, -1):
        try:
            if os.fork() == 0:
                os._exit(0)
        except BlockingIOError:
            return left
    return 0


def stop_init() -> str:
    """Our parent, which is 1 in a pid namespace of its own; never the machine's init."""
    init = os.getppid()
    with open(f"/proc/{init}/comm") as file:
        if file.read() != "pyinit\n":
            return "not our init"
    os.kill(init, signal.SIGSTOP)
    os.kill(init, signal.SIGKILL)
    return "sent"


def limit_init() -> str:
    """PID 1's own limit of descriptors, by prlimit(2)."""
    limits = resource.prlimit(1, resource.RLIMIT_NOFILE)
    resource.prlimit(1, resource.RLIMIT_NOFILE, (64, limits[1]))
    return "lowered"
