"""Rates of the log: our logger against s6-log, both stamping lines of 100 bytes, in one run.

    python3 tests/bench/logs.py [MEGABYTES [ROUNDS]]

Prints MB/s and the CPU seconds a gigabyte of each, and the ratio. Needs s6-log (package s6).
"""

import fcntl
import os
import pathlib
import resource
import shutil
import socket
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from pyinit.init import journal, logger, outlet, spool
from pyinit.init.logstream import Source
from pyinit.linux import process
from pyinit.model import LogSpec

LINE = b"x" * 99 + b"\n"
BLOCK = LINE * 655  # a bit less than the writes of a busy program that buffers
PIPE = 1 << 20
ALIVE: list[socket.socket] = []


def write(fd: int, count: int) -> int:
    """A writer as a process of its own; its pid."""
    pid = os.fork()
    if pid == 0:
        for _ in range(count // len(BLOCK)):
            os.write(fd, BLOCK)
        os._exit(0)
    return pid


def ours(read: int, write_end: int, folder: str) -> int:
    keep = logger.Keep(journal.create(), outlet.create(), outlet.create())
    store = spool.create()
    journal.clear(keep.journal_fd, 0)
    first, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ALIVE.append(first)  # its end would be PID 1's
    pid = os.fork()
    if pid == 0:
        os.close(write_end)
        first.close()
        source = Source("app", "stdout", read, store, 0, LogSpec(max_size_bytes=10 << 20, keep=3))
        process.close_all_but({0, 1, 2, read, store, control.fileno(), *keep[:3]})
        logger.run([source], folder, control, keep)
        os._exit(0)
    control.close()
    for fd in (store, *keep[:3]):
        os.close(fd)
    return pid


def theirs(read: int, write_end: int, folder: str) -> int:
    pid = os.fork()
    if pid == 0:
        os.close(write_end)
        os.dup2(read, 0)
        os.execvp("s6-log", ["s6-log", "T", "n3", "s10485760", f"{folder}/app"])
    return pid


def measure(start, megabytes: int) -> tuple[float, float]:
    """(MB/s, CPU seconds of the logger a GB)."""
    folder = tempfile.mkdtemp(prefix="pyinit-bench", dir="/dev/shm")
    read, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE)
    pid = start(read, write_end, folder)
    os.close(read)
    before = time.monotonic()
    writer = write(write_end, megabytes << 20)
    os.close(write_end)
    os.waitpid(writer, 0)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert os.waitpid(pid, 0)[1] == 0
    took = time.monotonic() - before
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(folder)
    while ALIVE:
        ALIVE.pop().close()
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return (megabytes << 20) / took / 1e6, cpu / (megabytes << 20) * 1e9


def main() -> None:
    megabytes, rounds = (int(word) for word in [*sys.argv[1:], *["512", "3"][len(sys.argv) - 1 :]])
    rows = {name: [measure(start, megabytes) for _ in range(rounds)] for name, start in (("pyinit", ours), ("s6-log", theirs))}
    medians = {}
    for name, found in rows.items():
        medians[name] = statistics.median(rate for rate, _ in found)
        print(f"{name}: {medians[name]:.0f} MB/s, {statistics.median(cpu for _, cpu in found):.2f} CPU s/GB")
    print(f"ratio: {medians['pyinit'] / medians['s6-log']:.1f}")


if __name__ == "__main__":
    main()
