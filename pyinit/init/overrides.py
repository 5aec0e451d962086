"""`pyinit enable` and `disable`: what a user said after the config, kept in the state folder.

Owns one file, `enabled`: a line a service, `+name` or `-name`. Must not know what starts. Laws: written whole or not
at all; a file that can't be read is as none, with one line about it; whatever root of a container puts in its place, or
its folder's, is neither waited for nor followed.
"""

import errno
import os
import stat
from _collections_abc import Callable

from pyinit import scopes as contextlib
from pyinit.model import ServiceSpec, is_name

_MOST_BYTES = 1 << 20
_NAME, _NEW = "enabled", "enabled.new"


class Overrides:
    def __init__(self, state_dir: str, report: Callable[[str], None]) -> None:
        self._folder = state_dir
        self._path = f"{state_dir}/{_NAME}"
        self._report = report
        self._enabled: dict[str, bool] | None = None  # read at first use

    def applied(self, specs: tuple[ServiceSpec, ...]) -> tuple[ServiceSpec, ...]:
        """What the user said wins over the config."""
        said = self._read()
        if not said:
            return specs
        return tuple(spec._replace(enabled=said.get(spec.name, spec.enabled)) for spec in specs)

    def instances(self) -> tuple[str, ...]:
        """What is enabled and may be an instance of a template, which no service need name then."""
        return tuple(name for name, on in self._read().items() if on and "@" in name and is_name(name))

    def set(self, name: str, *, enabled: bool) -> None:
        """Kept for the next start; a folder that can't be written costs only that."""
        said = self._read()
        said[name] = enabled
        lines = "".join(f"{'+' if on else '-'}{one}\n" for one, on in sorted(said.items()))
        try:
            _write(self._folder, lines.encode())
        except OSError as error:
            self._report(f"{name}: is not kept {'enabled' if enabled else 'disabled'} over a restart: {self._path}: {error.strerror}")

    def _read(self) -> dict[str, bool]:
        if self._enabled is None:
            self._enabled = {}
            try:
                os.lstat(self._path)  # mostly there is none, and nothing to load for it
                text = _read(self._folder).decode()
            except FileNotFoundError:
                text = ""
            except (OSError, UnicodeDecodeError) as error:
                self._report(f"{self._path}: {error}: services are enabled as the config says")
                text = ""
            self._enabled = {line[1:]: line[0] == "+" for line in text.split("\n") if line[:1] in ("+", "-")}
        return self._enabled


def _write(path: str, data: bytes) -> None:
    from pyinit.linux import mount  # for those who say something

    folder = mount.folder_plainly(path)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_NEW, dir_fd=folder)  # what a killed init left, or what somebody put there
        fd = os.open(_NEW, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
        with open(fd, "wb", buffering=0) as file:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.rename(_NEW, _NAME, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)


def _read(path: str) -> bytes:
    from pyinit.linux import mount  # for those who have said something

    folder = mount.open_plainly(path, os.O_PATH | os.O_DIRECTORY)
    try:
        fd = os.open(_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "expected a regular file")
        return os.read(fd, _MOST_BYTES)
    finally:
        os.close(fd)
