"""How many processes a second: plain (posix_spawn), and with user, limits, cgroup, capabilities and umask set; each with a filter of
its system calls, too.

Run as root: python3 tests/bench/spawn.py [COUNT]. The ratio to a bare fork and exec of the same run is what counts.
"""

import os
import pathlib
import resource
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from pyinit.core import seccomp
from pyinit.init import spawn
from pyinit.init.pid1 import Init  # noqa: F401 - PID 1's heap
from pyinit.linux import cgroup, process
from pyinit.model import DEFAULT_CAPABILITIES


def group() -> str:
    place = next(one.directory for one in cgroup.hierarchies() if one.version == 2)
    path = f"{place}/pyinit-bench-{os.getpid()}"
    os.mkdir(path)
    return path


def bare() -> None:
    pid = os.fork()
    if pid == 0:
        os.execve("/bin/true", ["true"], {})


def measure(name: str, start, count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        start()
    left = count
    started = time.perf_counter() - begin
    while left:
        left -= len(process.exits(256))
    rate = count / (time.perf_counter() - begin)
    print(f"{name:<12} {rate:7.0f}/s   {1e6 * started / count:6.0f} us each to start")
    return rate


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    path = group()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    procs = os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/"}
    plain = spawn.Child(("true",), "/bin/true", environment, null, null)
    full = plain._replace(
        cgroup_fds=(procs,), uid=65534, gid=65534, groups=(65534,), umask=0o077, rlimits=((resource.RLIMIT_NOFILE, 1024, 1024),),
        dropped=tuple(range(10, 41)), no_new_privileges=True,
    )  # fmt: skip

    program = seccomp.program(seccomp.default(DEFAULT_CAPABILITIES), os.uname().machine)

    def started(child: spawn.Child) -> None:
        fd = spawn.spawn(child).status_fd
        if fd >= 0:
            os.close(fd)

    try:
        for _ in range(3):
            floor = measure("bare fork", bare, count)
            for name, child in (
                ("plain", plain), ("unplain", plain._replace(umask=0o077)), ("filter", plain._replace(filter=program)),
                ("full", full), ("full filter", full._replace(filter=program)),
            ):  # fmt: skip
                rate = measure(name, lambda child=child: started(child), count)
                print(f"{'':<12} {rate / floor:7.2f} of bare")
    finally:
        os.close(procs)
        cgroup.remove_tree(path)


if __name__ == "__main__":
    main()
