"""What a command of `pyinit enter` or `pyinit exec` brings along of the host's, and what can be done to it on its way in."""

import os

from payload import opens


def folder() -> str:
    return "a folder of the host's" if os.path.exists("marker") else os.getcwd()


def variable() -> str:
    """Of those that the user of the host has."""
    return "the host's variable" if "PYINIT_ATTACK_WORD" in os.environ else "none of the host's"


def group() -> str:
    """Of cgroup2, as it is seen from our own: what lies above begins with /.."""
    with open("/proc/self/cgroup") as file:
        path = next(line.rstrip("\n").split(":", 2)[2] for line in file if line.startswith("0:"))
    return "a group of the host's" if path.startswith("/..") else "a group of the container's"


def on_the_way() -> str:
    """What a process of pyinit's that is in here and no command yet lets a root service have of it."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if pid == "1" or _is_a_command(pid):
            continue
        for name, attempt in _OF_ONE.items():
            try:
                attempt(f"/proc/{pid}")
                found.add(name)
            except OSError:
                continue
    return ", ".join(sorted(found)) or "nothing"


def _is_a_command(pid: str) -> bool:
    """Or the logger, or we ourselves."""
    with open(f"/proc/{pid}/comm") as file:
        name = file.read().strip()
    return int(pid) == os.getpid() or not (name == "pyinit" or name.startswith("python"))


_OF_ONE = {
    "mem": lambda place: opens(f"{place}/mem", os.O_RDWR),
    "fd": lambda place: opens(f"{place}/fd/{min(os.listdir(f'{place}/fd'), key=int)}", os.O_RDONLY),
    "exe": lambda place: os.readlink(f"{place}/exe"),
    "root": lambda place: os.listdir(f"{place}/root/"),
}
