"""What runs in the small root: tells what a process finds there, stands as a service, leaves orphans. Python alone, no site.

A line of its output is `WORD {JSON}` or `NAME says`. It reads what the kernel says, where there is a /proc.
"""

import json
import os
import signal
import stat
import sys
import time

TERM = signal.SIGTERM
KINDS = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFREG: "file", stat.S_IFDIR: "folder"}
DEADLINE_S = 20.0


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as error:
        return f"!{error.errno}"


def fds(pid: str = "self") -> dict[str, str]:
    """Of what is open, without the fd that looks."""
    found = {}
    for number in range(256):
        try:
            found[str(number)] = KINDS.get(stat.S_IFMT(os.fstat(number).st_mode), "other")
        except OSError:
            continue
    return found


def process(pid: str) -> dict[str, object]:
    """From /proc/PID/status; what is empty there is not told."""
    fields = dict(line.split(":", 1) for line in read(f"/proc/{pid}/status").splitlines() if ":" in line)
    names = ("Uid", "NoNewPrivs", "Seccomp", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk", "SigIgn")
    return {name: fields[name].strip().replace("\t", " ") for name in names if name in fields}


def mounts() -> dict[str, str]:
    """target -> type, and what of its options restricts."""
    found = {}
    for line in read("/proc/self/mountinfo").splitlines():
        if line.startswith("!"):
            break
        words = line.split(" ")
        kind = words[words.index("-") + 1]
        found[words[4]] = " ".join([kind, *(one for one in ("ro", "nosuid", "nodev", "noexec") if one in words[5].split(","))])
    return found


def found() -> dict[str, object]:
    return {
        "pid": os.getpid(), "ppid": os.getppid(), "leads_session": os.getsid(0) == os.getpid(), "leads_group": os.getpgrp() == os.getpid(),
        "environment": dict(os.environ), "cwd": os.getcwd(), "umask": os.umask(0o22), "fds": fds(), "process": process("self"),
        "cgroup": read("/proc/self/cgroup").splitlines(), "mounts": mounts(), "init": process("1") | {"name": read("/proc/1/comm").strip()},
        "nofile": os.sysconf("SC_OPEN_MAX"),
    }  # fmt: skip


def stand(name: str) -> None:
    """As a service that says when it is ready, on fd 3 if it has one, and when it ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {TERM})
    say(f"{name} up")
    try:
        os.write(3, b"\n")
    except OSError:
        pass
    signal.sigwait({TERM})
    say(f"{name} ends")


def orphans(count: int) -> None:
    """As many leave their parent; told is how many a reaper has had within the time: a zombie keeps its number."""
    pids = []
    for _ in range(count):
        read_fd, write_fd = os.pipe()
        middle = os.fork()
        if middle == 0:
            child = os.fork()
            if child:
                os.write(write_fd, b"%d" % child)
            os._exit(0)
        os.waitpid(middle, 0)
        pids.append(int(os.read(read_fd, 32)))
        os.close(read_fd)
        os.close(write_fd)
    until = time.monotonic() + DEADLINE_S
    left = pids
    while left and time.monotonic() < until:
        left = [pid for pid in left if is_there(pid)]
        time.sleep(0.005)
    say(f"REAPED {json.dumps(count - len(left))}")


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main(words: list[str]) -> int:
    match words:
        case ["find"]:
            say(f"FOUND {json.dumps(found())}")
            say("finder up")
            return 0
        case ["stand", name]:
            stand(name)
            return 0
        case ["all"]:  # of a runtime whose init has one command
            say(f"FOUND {json.dumps(found())}")
            orphans(20)
            stand("base")
            return 0
        case ["orphans", count]:
            orphans(int(count))
            return 0
        case ["exit", code]:
            say("main up")
            return int(code)
    raise SystemExit(f"probe: {words}?")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
