"""A checked config that is kept from one start to the next: reading and checking one costs more than a start.

Owns what must be as it was for that. Must not know what a key means. Laws: it is kept with the text of every file that
it was read from, and used only where these, the folders that its patterns look at and our own code are the same; what
lies on the host (images, devices) is looked at anew each time; whatever is wrong with what was kept, the files are read;
a config with a value from the environment is not kept, for that may be a secret which shall end with its process.
"""

import marshal
import os
import stat
import sys
import zlib
from _collections_abc import Callable, Iterator, Mapping

from pyinit import kept
from pyinit.records import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pyinit.model import Config

_MOST_BYTES = 1 << 20
_SUM_BYTES = 4  # against damage: nobody but root could forge it


class Witness:
    """What a config was made of, told by the loader."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.folders: dict[str, list[str]] = {}  # of patterns: what was in them
        self.unset: list[str] = []  # variables that have their default
        self.may_be_kept = True

    def read(self, path: str, data: bytes) -> None:
        """A file of the config."""
        self.files[path] = data

    def searched(self, pattern: str) -> None:
        """Before a pattern is searched for; only one whose last part is the pattern can be seen to be the same."""
        folder, _, name = pattern.rpartition("/")
        if set(folder) & set("*?[") or "**" in name:
            self.may_be_kept = False
            return
        try:
            self.folders[folder] = sorted(os.listdir(folder or "/"))
        except OSError:
            self.folders[folder] = []


class _Variables(Mapping[str, str]):
    """The environment, with a note of what is asked for."""

    def __init__(self, environment: Mapping[str, str], witness: Witness) -> None:
        self._environment = environment
        self._witness = witness

    def __getitem__(self, name: str) -> str:
        try:
            value = self._environment[name]
        except KeyError:
            self._witness.unset.append(name)
            raise
        self._witness.may_be_kept = False
        return value

    def __iter__(self) -> Iterator[str]:
        self._witness.may_be_kept = False
        return iter(self._environment)

    def __len__(self) -> int:
        return len(self._environment)


class Kept(NamedTuple):
    """What was kept, and is true still as far as files tell: `packed` for unpack(), `born` as load() was given it."""

    packed: bytes
    born: Any


def find(path: str, environment: Mapping[str, str], *, kill: str, code: Any) -> Kept | None:
    """Of the config at `path`; the arguments are those of load()."""
    data = kept.read(_name(path))
    if data is None:
        return None
    try:
        if zlib.crc32(data[_SUM_BYTES:]).to_bytes(_SUM_BYTES, "little") != data[:_SUM_BYTES]:
            return None
        head, files, folders, unset, born, packed = marshal.loads(data[_SUM_BYTES:])
        if head != _head(path, kill, code) or any(variable in environment for variable in unset):
            return None
        if any(_read(file) != text for file, text in files):
            return None
        if any(sorted(os.listdir(folder or "/")) != names for folder, names in folders):
            return None
    except (OSError, ValueError, EOFError, TypeError):
        return None
    return Kept(packed, born)


def load(path: str, environment: Mapping[str, str], *, kill: str, code: Any, born: "Callable[[Config], Any]") -> "Config":
    """As config.load for a launcher, and keep it. `code`: another one as soon as ours is; `born(config)` is kept with it."""
    from pyinit.config import load as loader

    witness = Witness()
    config = loader.load(path, _Variables(environment, witness), kill=kill, witness=witness)
    if not all(os.path.isfile(file) for file in witness.files):
        witness.may_be_kept = False  # a pipe gives its text once
    if witness.may_be_kept and sum(map(len, witness.files.values())) <= _MOST_BYTES:
        told = (list(witness.files.items()), list(witness.folders.items()), witness.unset)
        data = marshal.dumps((_head(path, kill, code), *told, born(config), pack(config)))
        kept.write(_name(path), zlib.crc32(data).to_bytes(_SUM_BYTES, "little") + data)
    return config


def _name(path: str) -> str:
    return f"config-{zlib.crc32(os.fsencode(os.path.abspath(path))):x}"


def _head(path: str, kill: str, code: Any) -> Any:
    return sys.hexversion, code, path, os.path.abspath(path), kill


def _read(path: str) -> bytes:
    """Of a regular file: a pipe's text is not for us to take."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError
        return file.read()


def take(packed: bytes) -> "Config | None":
    """What was kept, with what the host has now; None if something is wrong with that: the loader tells it with all the rest."""
    from pyinit.config import check, devices

    try:
        config = unpack(packed)
    except (ValueError, EOFError, TypeError, AttributeError, IndexError):
        return None
    box = config.container
    if box is not None and check.container(box):
        return None
    groups = [config.container.cgroup] if config.container else []
    if any(limits.io_max for limits in (*groups, *(spec.cgroup for spec in config.services))):
        config = devices.numbered(config)
    return config


def pack(config: "Config") -> bytes:
    """For unpack(): a record becomes a list, which the model has none of, of its name and its values."""
    known: dict[int, list[Any]] = {}  # one record, one list: marshal keeps what is the same the same

    def packed(value: Any) -> Any:
        if not isinstance(value, tuple):
            return value
        if not hasattr(value, "_fields"):
            return tuple([packed(one) for one in value])
        if id(value) not in known:
            known[id(value)] = [type(value).__name__, *[packed(one) for one in value]]
        return known[id(value)]

    return marshal.dumps(packed(config))


def unpack(data: bytes) -> "Config":
    """What pack() was given; one of the errors of marshal, or TypeError, AttributeError, IndexError if it is none."""
    from pyinit import model  # PID 1 is born without it

    known: dict[int, Any] = {}
    make = tuple.__new__

    def unpacked(value: Any) -> Any:
        kind = type(value)
        if kind is list:
            found = known.get(id(value))
            if found is None:
                record = getattr(model, value[0])
                found = known[id(value)] = make(record, [unpacked(one) if type(one) in _HOLDERS else one for one in value[1:]])
            return found
        return tuple([unpacked(one) if type(one) in _HOLDERS else one for one in value]) if kind is tuple else value

    config = unpacked(marshal.loads(data))
    if type(config) is not model.Config or len(config) != len(model.Config._fields):
        raise TypeError
    return config


_HOLDERS = (list, tuple)
