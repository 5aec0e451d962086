"""`pyinit enable` and `disable`: what a user said after the config, kept in the state folder.

Owns one file, `enabled`: a line a service, `+name` or `-name`. Must not know what starts. Law: written whole or not
at all; a file that can't be read is as none, with one line about it.
"""

import os
from _collections_abc import Callable

from pyinit.model import ServiceSpec, is_name

_MOST_BYTES = 1 << 20


class Overrides:
    def __init__(self, state_dir: str, report: Callable[[str], None]) -> None:
        self._path = f"{state_dir}/enabled"
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
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            with open(f"{self._path}.new", "w") as file:
                file.write(lines)
            os.rename(f"{self._path}.new", self._path)
        except OSError as error:
            self._report(f"{name}: is not kept {'enabled' if enabled else 'disabled'} over a restart: {self._path}: {error.strerror}")

    def _read(self) -> dict[str, bool]:
        if self._enabled is None:
            self._enabled = {}
            try:
                with open(self._path) as file:
                    text = file.read(_MOST_BYTES)
            except FileNotFoundError:
                text = ""
            except (OSError, UnicodeDecodeError) as error:
                self._report(f"{self._path}: {error}: services are enabled as the config says")
                text = ""
            self._enabled = {line[1:]: line[0] == "+" for line in text.split("\n") if line[:1] in ("+", "-")}
        return self._enabled
