"""Variables of a service that stand in files: `environment_files` and `env_dir`.

Owns the two forms. Must not know what else a service's environment holds. Laws: only regular files are read, and
bounded, without blocking; a wrong line is an error with its place, for a service with half its settings is worse.
"""

import os
import stat

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MOST_BYTES = 1 << 20


class EnvironmentFileError(Exception):
    """One line for people: the file, its line, what is wrong."""


def read_file(path: str) -> dict[str, str]:
    """`NAME=value` lines, `#` comments, quotes around a value, `export ` before a name; "-" before the path: it may be missing."""
    found: dict[str, str] = {}
    name = path.removeprefix("-")
    try:
        text = _read(name).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        if path.startswith("-"):
            return found
        raise EnvironmentFileError(f'{name} is not there; write "-{name}" if it may be missing') from None
    except OSError as error:
        raise EnvironmentFileError(f"{name}: {error.strerror or error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        key, mark, value = line.removeprefix("export ").partition("=")
        key = key.rstrip()
        if not mark or not key.isidentifier() or "\0" in value:
            why = "no =" if not mark else "a NUL" if "\0" in value else "another name"  # never the line: it may be a secret
            raise EnvironmentFileError(f"{name}:{number}: expected NAME=value, found {why}")
        found[key] = _unquoted(value.strip())
    return found


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def read_folder(path: str) -> dict[str, str | None]:
    """As envdir(8): a file a variable, its first line the value, NUL for a newline; an empty file removes (None)."""
    found: dict[str, str | None] = {}
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise EnvironmentFileError(f"{path}: {error.strerror}") from error
    for name in names:
        if name.startswith(".") or "=" in name:
            continue
        try:
            data = _read(f"{path}/{name}")
        except OSError as error:
            raise EnvironmentFileError(f"{path}/{name}: {error.strerror or error}") from error
        line = data.split(b"\n", 1)[0].rstrip(b" \t").replace(b"\0", b"\n")
        found[name] = line.decode("utf-8", "surrogateescape") if data else None
    return found


def _read(path: str) -> bytes:
    from pyinit.linux import mount  # for those who have files

    fd = mount.open_plainly(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "expected a regular file")
        data = os.read(fd, _MOST_BYTES + 1)
    finally:
        os.close(fd)
    if len(data) > _MOST_BYTES:
        raise OSError(0, f"expected at most {_MOST_BYTES} bytes")
    return data
