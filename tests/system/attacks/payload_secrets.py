"""A secret that somebody else was given: looked for wherever a service can look, and in its own place, which is another's."""

import glob
import os

from payload import opens

WORD = "attack-s3cret-w0rd"
PLACE = "/run/secrets/word"


def search() -> str:
    """Each file of each process, what pyinit has in there, our own environment."""
    found = [f"{name} of a service" for name, value in os.environ.items() if WORD in value]
    for pattern in ("/proc/[0-9]*/environ", "/proc/[0-9]*/cmdline", "/proc/[0-9]*/mountinfo", "/run/pyinit/**", "/var/log/pyinit/**", "/etc/*", "/tmp/**"):
        found += [_called(path) for path in glob.glob(pattern, recursive=True) if _has(path)]
    return ", ".join(dict.fromkeys(found)) or "nowhere"


def _called(path: str) -> str:
    """Without the number of a process."""
    return f"{path.rpartition('/')[2]} of a process in there" if path.startswith("/proc/") else path


def _has(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return WORD.encode() in os.read(fd, 1 << 20)
    except OSError:  # a folder, or what was let open and not read
        return False
    finally:
        os.close(fd)


def read() -> str:
    return opens(PLACE, os.O_RDONLY)


def replace() -> str:
    os.chmod(PLACE, 0o600)
    return opens(PLACE)


def swappable() -> str:
    """What the kernel says of the file system: proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo") as file:
        options = next(line.split()[-1] for line in file if line.split()[4] == "/run/secrets")
    return "never swapped" if "noswap" in options.split(",") else "swapped when memory is short"
