"""The program that a process of pyinit's runs, which is the host's: a change to it is run by the host next.

A running program can't be opened for writing (ETXTBSY), and ours runs as long as the container does; but set-uid it can be made.
"""

import os

from payload import name_of, opens


def _tried(path: str) -> str:
    found = []
    for what, attempt in (("chmod", lambda: os.chmod(path, 0o4755) or "done"), ("write", lambda: opens(path))):
        try:
            found.append(f"{what}: {attempt()}")
        except OSError as error:
            found.append(f"{what}: {name_of(error)}")
    return ", ".join(found)


def own() -> str:
    """We are the host's interpreter: our command is a symlink to /proc/self/exe."""
    return _tried("/proc/self/exe")


def of_init() -> str:
    return _tried("/proc/1/exe")


def of_all_of_pyinit() -> str:
    """The logger, too."""
    found = []
    for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        with open(f"/proc/{pid}/comm") as file:
            name = file.read().strip()
        if "pyinit" in name and int(pid) != os.getpid():
            found.append(f"{name}: {_tried(f'/proc/{pid}/exe')}")
    return "; ".join(found)
