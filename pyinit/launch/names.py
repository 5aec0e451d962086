"""Who is called what on a bridge: each container's own /etc/hosts, kept up to date, and its /etc/resolv.conf.

Owns the folder `.net` of the runtime folder and the files' texts. Must not know who has which address but by the journals.
Laws: a file is bound read-only into its container, so it is rewritten in place, never replaced; under the lock of all
journals; nobody watches: who comes or goes tells the others.
"""

import os

from pyinit import scopes as contextlib
from pyinit.control import places
from pyinit.launch.journals import Entries, mark_gone, others
from pyinit.model import Container

NAMES = "names"  # in the journal: the container, its bridge or parent, its addresses, its names
HOSTS, RESOLVER = "hosts", "resolv.conf"
_FOLDER = ".net"
_MARK = "# neighbours on {}, as they come and go\n"
_RESOLVERS = ("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf")  # the first has what is behind a stub on 127.0.0.53


def folder(name: str) -> str:
    """Of one container's files."""
    return f"{places.runtime_dir()}/{_FOLDER}/{name}"


def entry(box: Container, addresses: tuple[str, ...]) -> str:
    """For the journal, behind the container's own name."""
    names = dict.fromkeys((box.hostname, box.name))
    return "\t".join((box.network.bridge or box.network.parent, " ".join(addresses), " ".join(names)))


def make(box: Container, addresses: tuple[str, ...], resolver: str) -> None:
    """The container's own files, and its name in its neighbours'; `entry` is in the journal. Under the lock."""
    place = folder(box.name)
    os.makedirs(place, 0o700, exist_ok=True)
    found = [one for one in others(box.name) if one.runs]
    link, _, names = entry(box, addresses).split("\t")
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost"]
    lines += [f"{address}\t{names}" for address in addresses]
    lines += [f"{address}\t{name}" for name, address in box.network.hosts]
    head = "\n".join(lines) + "\n" + _MARK.format(link)
    _write(f"{place}/{HOSTS}", head + _rows(link, found))
    _write(f"{place}/{RESOLVER}", resolver)
    own = Entries(box.name, runs=True, rows=((NAMES, f"{box.name}\t{entry(box, addresses)}"),))
    _tell(link, [*found, own], but=box.name)


def remove(name: str, value: str) -> None:
    """What `make` did, where it has been done: its files, and its name elsewhere. Under the lock."""
    link = value.partition("\t")[0]
    mark_gone(name, NAMES)
    place = folder(name)
    for file in (HOSTS, RESOLVER):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{place}/{file}")
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(place)
    with contextlib.suppress(OSError):  # another's is in it
        os.rmdir(os.path.dirname(place))
    _tell(link, [one for one in others(name) if one.runs], but=name)


def _tell(link: str, found: list[Entries], but: str) -> None:
    """All of `found` on that link, who their neighbours are."""
    for one in found:
        if one.name == but or not _on(link, one):
            continue
        path, mark = f"{folder(one.name)}/{HOSTS}", _MARK.format(link)
        with contextlib.suppress(FileNotFoundError):  # it has not come to that yet, or is ending
            with open(path) as file:
                head, there, _ = file.read().partition(mark)
            if there:
                _write(path, head + mark + _rows(link, [other for other in found if other.name != one.name]), made=True)


def _on(link: str, one: Entries) -> list[str]:
    return [value for value in one.values(NAMES) if value.split("\t")[1] == link]


def _rows(link: str, found: list[Entries]) -> str:
    text = ""
    for one in found:
        for value in _on(link, one):
            _, _, addresses, names = value.split("\t")
            text += "".join(f"{address}\t{names}\n" for address in addresses.split())
    return text


def _write(path: str, text: str, *, made: bool = False) -> None:
    """In place, so that a reader sees the old text or the new one: what is shorter is filled up first, and then cut."""
    data = text.encode()
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | (0 if made else os.O_CREAT), 0o644)
    try:
        os.fchmod(fd, 0o644)
        os.pwrite(fd, data.ljust(os.fstat(fd).st_size, b"\n"), 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def resolver(servers: tuple[str, ...], more: tuple[str, ...]) -> str:
    """The text of a resolv.conf(5)."""
    return "".join([*(f"nameserver {server}\n" for server in servers), *(f"{line}\n" for line in more)])


def of_host() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(name servers that a container can reach, search and options lines) of the host's resolv.conf."""
    servers: list[str] = []
    more: list[str] = []
    for path in _RESOLVERS:
        try:
            with open(path) as file:
                lines = [line.split() for line in file]
        except (OSError, UnicodeDecodeError):
            continue
        servers = [words[1] for words in lines if words[:1] == ["nameserver"] and len(words) > 1]
        more = [" ".join(words) for words in lines if words[:1] in (["search"], ["options"])]
        break
    return tuple(one for one in servers if not _stays_here(one)), tuple(more)


def _stays_here(server: str) -> bool:
    return server.startswith("127.") or server == "::1" or "%" in server
