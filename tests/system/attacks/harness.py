"""Attacks on a container, each performed with its defences and again with them switched off, when it must succeed.

Owns how a row is performed and where its results go. Must not know any attack. Laws: the product has no switch for its
defences, so one is switched off by a key of the config, or in a copy of the package of which a piece of text is replaced
that must be there exactly once; what succeeds harms nothing of this machine: opening is the proof, where to write would hurt.

A row's attack is a function of a payload_*.py, which runs in the container as a service (`inside`), or one of the test's
that has a `Stage` to start containers on (`outside`). What it returns is its outcome; of an OSError that is its name.
Rows that need the same container share it, and those that are the same function on the same setting share what it gave.
"""

import errno
import importlib
import json
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

from conftest import REPO, Bench, Pyinit, make_busybox

from pyinit.linux import caps

HERE = pathlib.Path(__file__).parent
CACHE = "attacks/results"  # of pytest: what table.py reads
NAME = "attack"  # of a stage's container
PATIENCE_S = 60.0


class Mutant(NamedTuple):
    """`old` stands exactly once in `file` of the package; `new` takes its place."""

    file: str
    old: str
    new: str


class Defence(NamedTuple):
    """What holds an attack, and how a test switches it off: by keys of [container.security], as TOML, by more lines, or by mutants."""

    name: str
    keys: tuple[tuple[str, str], ...] = ()
    mutants: tuple[Mutant, ...] = ()
    container: str = ""  # more of [container]


class Row(NamedTuple):
    """One attack. `alone`: for each defence the outcome with all the others off; None where it is no defence by itself."""

    id: str  # a service's name
    title: str  # a CVE, or what the attack is called
    attack: str  # what is attacked, and how
    defences: tuple[Defence, ...]
    refused: object
    succeeds: object
    inside: Callable[[], object] | None = None
    outside: Callable[["Stage"], object] | None = None
    alone: tuple[object, ...] = ()
    service: str = ""  # more keys of its service
    container: str = ""  # more of [container]
    single: bool = False  # has its container to itself


EVERY_CAPABILITY = ", ".join(f'"{name}"' for name in caps.NAMES)
# What holds more than one attack.
# By a mutant: with the key, the profile of seccomp would let through what the capabilities are for.
CAPABILITIES = Defence("capabilities", mutants=(Mutant("launch/inside.py", "    caps.limit_bounding_set(box.security.capabilities)\n", ""),))
DEVICES = Defence(
    "device rules",
    mutants=(
        Mutant(
            "launch/launcher.py",
            '                        devices.limit(step, self.v1_places.pop("devices", ""), self.unified, self.report)\n',
            '                        devices, self.v1_places.pop("devices", "")\n',
        ),
    ),
)
PIDS = Defence("pid namespace", container='share = ["pid:/proc/self/ns/pid"]')  # the host's
SECCOMP = Defence("seccomp", keys=(("seccomp", '"unconfined"'),))
# A container of other ids, and how it becomes one without.
OTHER_IDS = "user_namespace = { map = [{ inside = 0, outside = 200000, count = 70000 }] }"
USERS = Defence(
    "user namespace",
    mutants=(Mutant("config/namespaces.py", "    return tuple(dict.fromkeys(found))\n", '    return tuple(name for name in dict.fromkeys(found) if name != "user")\n'),),
)
MASKED = Defence("masked paths", keys=(("masked_paths", "[]"),))
READ_ONLY = Defence("read-only paths", keys=(("readonly_paths", "[]"),))


class Setting(NamedTuple):
    """All that makes one container differ from another."""

    keys: tuple[tuple[str, str], ...]
    mutants: tuple[Mutant, ...]
    container: str
    single: str  # a row's id

    def security(self) -> str:
        return "[container.security]\n" + "".join(f"{key} = {value}\n" for key, value in self.keys)


class Result(NamedTuple):
    refused: object
    succeeds: object
    alone: tuple[object, ...] = ()


def expected(row: Row) -> Result:
    return Result(row.refused, row.succeeds, row.alone)


def setting(row: Row, off: tuple[Defence, ...]) -> Setting:
    keys: dict[str, str] = {}
    for defence in off:
        for key, value in defence.keys:
            assert keys.setdefault(key, value) == value, f"{row.id}: {key} is switched off in two ways"
    mutants = tuple(dict.fromkeys(mutant for defence in off for mutant in defence.mutants))
    container = "\n".join(filter(None, [row.container, *(defence.container for defence in off)]))
    return Setting(tuple(sorted(keys.items())), tuple(sorted(mutants)), container, row.id if row.single else "")


def _settings(row: Row) -> list[Setting]:
    """With all defences, with none, with each alone."""
    found = [setting(row, ()), setting(row, row.defences)]
    for number, outcome in enumerate(row.alone):
        if outcome is not None:
            found.append(setting(row, row.defences[:number] + row.defences[number + 1 :]))
    return found


def rows() -> list[Row]:
    """All that the folder's test modules declare, by module."""
    for folder in (str(HERE), str(HERE.parent)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    found = []
    for path in sorted(HERE.glob("test_*.py")):
        found += getattr(importlib.import_module(path.stem), "ROWS", ())
    return found


def names(found: tuple[Row, ...]) -> list[str]:
    """For pytest's ids."""
    return [row.id for row in found]


class Stage:
    """What an attack from outside has: a folder, the setting's [container.security], a pyinit that may be a mutant."""

    def __init__(self, arena: "Arena", bench: Bench, found: Setting) -> None:
        self._arena = arena
        self.bench = bench
        self.folder = bench.folder
        self.package = arena.package(found.mutants)  # the folder in which `pyinit` lies
        self.image = arena.image()
        self._setting = found

    def config(self, services: str, *, image: pathlib.Path | None = None, mounts: str = "", init: str = 'exit = "when-all-exited"') -> str:
        """The setting's container, named NAME, with the host's Python in it."""
        return (
            f'[init]\n{init}\n[container]\nname = "{NAME}"\nlayers = ["{image or self.image}"]\n{self._setting.container}\n'
            f"{self._setting.security()}{USR}{mounts}{services}"
        )

    def once(self, name: str, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
        """What is made for all rows of the run, in a folder of its own."""
        folder = self._arena.folder / f"once-{name}"
        if not folder.exists():
            folder.mkdir()
            make(folder)
        return folder

    def start(self, text: str, *options: str, **keys) -> Pyinit:
        return self.bench.start(text, *options, **{"cwd": self.package, **keys})

    def verb(self, *words: str, program: str = sys.executable, **keys) -> subprocess.CompletedProcess[str]:
        """`keys` are subprocess.run's."""
        keys = {"cwd": self.package, **keys}
        return subprocess.run([program, "-m", "pyinit", *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False, **keys)


class Arena:
    """Performs rows; those of one setting together, once."""

    def __init__(self, folder: pathlib.Path, note: Callable[[Row, Result], None]) -> None:
        self.folder = folder
        self._note = note
        self._rows: list[Row] = []
        self._told: dict[Setting, dict[str, object]] = {}
        self._gave: dict[tuple[Callable[[Stage], object], Setting], object] = {}
        self._packages: dict[tuple[Mutant, ...], pathlib.Path] = {(): REPO}
        self._image: pathlib.Path | None = None

    def perform(self, row: Row) -> Result:
        """Its outcomes, which go to the table, too."""
        alone = tuple(
            None if outcome is None else self._outcome(row, row.defences[:number] + row.defences[number + 1 :])
            for number, outcome in enumerate(row.alone)
        )
        found = Result(self._outcome(row, ()), self._outcome(row, row.defences), alone)
        self._note(row, found)
        return found

    def _outcome(self, row: Row, off: tuple[Defence, ...]) -> object:
        wanted = setting(row, off)
        if row.outside is not None:
            if (row.outside, wanted) not in self._gave:
                self._gave[row.outside, wanted] = self._from_outside(row, wanted)
            return self._gave[row.outside, wanted]
        if wanted not in self._told:
            self._told[wanted] = self._from_inside(wanted, self._sharing(wanted))
        return self._told[wanted].get(row.id, "no word of it")

    def _sharing(self, wanted: Setting) -> list[Row]:
        self._rows = self._rows or rows()
        return [row for row in self._rows if row.inside is not None and wanted in _settings(row)]

    def _from_outside(self, row: Row, wanted: Setting) -> object:
        folder = self.folder / f"{row.id}-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        bench = Bench(folder)
        try:
            return row.outside(Stage(self, bench, wanted))
        except OSError as error:
            return errno.errorcode[error.errno]
        finally:
            bench.close()

    def _from_inside(self, wanted: Setting, sharing: list[Row]) -> dict[str, object]:
        folder = self.folder / f"inside-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        bench = Bench(folder)
        try:
            stage = Stage(self, bench, wanted)
            text = stage.config("".join(service(row.id, words(row.inside, row.id), row.service) for row in sharing))
            box = stage.start(text)
            box.wait(PATIENCE_S)
        finally:
            bench.close()
        found = answers(box.output)
        missing = [row.id for row in sharing if row.id not in found]
        assert not missing, f"no word of {' '.join(missing)}:\n{text}\n{box.output}"
        return found

    def image(self) -> pathlib.Path:
        """busybox, the attacks, and where the host's Python goes."""
        if self._image is None:
            self._image = make_image(self.folder / "image")
        return self._image

    def package(self, mutants: tuple[Mutant, ...]) -> pathlib.Path:
        """The folder of a package with these mutants."""
        if mutants not in self._packages:
            self._packages[mutants] = mutated(self.folder / f"package-{len(self._packages)}", mutants)
        return self._packages[mutants]


PYTHON = ("/usr/bin/python3", "-S", "-s", "-B")


def words(attack: Callable[[], object], row: str, python: tuple[str, ...] = PYTHON) -> list[str]:
    """The command, in the container, of an attack of a payload_*.py."""
    return [*python, "/attacks/payload.py", attack.__module__, attack.__name__, row]


def service(name: str, command: list[str], more: str = "") -> str:
    """A service that runs once, and whose output is ours."""
    return f'[services.{name}]\nkind = "oneshot"\ncommand = {json.dumps(command)}\nlog = {{ to = "stdout", timestamp = "none" }}\n{more}\n'


def answers(output: str) -> dict[str, object]:
    """What the attacks said, by row."""
    found = {}
    for line in output.splitlines():
        at = line.find('{"attack": ')
        if at >= 0:
            said = json.loads(line[at:])
            found[said["attack"]] = said["got"]
    return found


# The host's Python, read-only; the image itself needs none.
USR = '[[container.mounts]]\ntype = "bind"\nsource = "/usr"\ntarget = "/usr"\nread_only = true\n'


def make_image(folder: pathlib.Path) -> pathlib.Path:
    make_busybox(folder)
    (folder / "usr").mkdir()
    for name in ("lib", "lib64"):
        (folder / name).symlink_to(f"usr/{name}")
    (folder / "attacks").mkdir()
    for path in HERE.glob("payload*.py"):
        shutil.copy(path, folder / "attacks")
    return folder


def mutated(folder: pathlib.Path, mutants: tuple[Mutant, ...]) -> pathlib.Path:
    """A copy of the package; a text that is not there exactly once is a mutant that has rotted, which tests/test_attack_table.py tells, too."""
    shutil.copytree(REPO / "pyinit", folder / "pyinit")  # with the bytecode of what no mutant changes
    for mutant in mutants:
        assert not (why := rotten(mutant, folder)), why
        path = folder / "pyinit" / mutant.file
        path.write_text(path.read_text().replace(mutant.old, mutant.new))
    return folder


def rotten(mutant: Mutant, folder: pathlib.Path = REPO) -> str:
    """Why it can't be made; "" if it can."""
    path = folder / "pyinit" / mutant.file
    if not path.exists():
        return f"pyinit/{mutant.file}: no such file; mend the mutant"
    count = path.read_text().count(mutant.old)
    return "" if count == 1 else f"{mutant.old!r} stands {count} times in pyinit/{mutant.file}; mend the mutant"


def stop(box: Pyinit) -> int:
    """An orderly end, if it still runs."""
    return box.stop(signal.SIGTERM) if box.process.poll() is None else box.wait()


def inside_pid(name: str) -> int:
    """PID 1 of a running container, as this host numbers it."""
    return int(pathlib.Path(f"/run/pyinit/{name}/pid").read_text())

