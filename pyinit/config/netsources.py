"""Where a network file system is: what a `source` names, and which options a config may give.

Owns the forms of sources. Must not know sockets, or what is done with them. Law: pure; a source that is accepted here
is one that the kernel takes, whether or not there is such a server.
Sources: nfs(5), mount.cifs(8), the kernel's Documentation/filesystems/9p.rst.
"""

from pyinit.records import NamedTuple

NFS, CIFS, P9 = ("nfs", "nfs4"), ("cifs",), ("9p",)
PASSWORDS = ("password", "pass", "password2")
MOST_BYTES = 255  # of a value that fsconfig(2) takes
_OURS = {"nfs": ("source", "addr"), "nfs4": ("source", "addr"), "cifs": ("source", "ip", "addr", "unc", "prefixpath"), "9p": ("source",)}
_FILES_OF_PASSWORDS = ("credentials", "cred")


class Place(NamedTuple):
    """A server and what is asked of it: an export, a share with what is below it; of 9p the whole source is the host."""

    host: str
    path: str = ""


def fault(fstype: str, source: str) -> str:
    """What is wrong with the source of a mount of `fstype`, and what was expected; "" if nothing is."""
    found = place(fstype, source)
    return found if isinstance(found, str) else ""


def option_fault(fstype: str, name: str) -> str:
    """Why a config can't give an option in the open, and what was expected; "" if it can."""
    if fstype in CIFS and name in PASSWORDS:
        return f"expected {name} in secret_options, for here it stands in the open"
    if fstype in CIFS and name in _FILES_OF_PASSWORDS:
        return "expected username here and password in secret_options, for only mount.cifs reads such a file"
    return f"pyinit sets {name} itself; take it out" if name in _OURS.get(fstype, ()) else ""


def place(fstype: str, source: str) -> Place | str:
    """The parts of a source, or what is wrong with it."""
    bad = next((char for char in source if char <= " " or char == "\x7f"), "")
    if bad and (fstype in P9 or bad != " "):
        return f"there is a {bad!r} in {source!r}"
    if len(source.encode("utf-8", "surrogateescape")) > MOST_BYTES:
        return f"is longer than the {MOST_BYTES} bytes that the kernel takes"
    if fstype in NFS:
        return _nfs(source)
    return _cifs(source) if fstype in CIFS else _p9(source)


def _nfs(source: str) -> Place | str:
    expected = f'expected "host:/path", found "{source}"'
    if source.startswith("nfs://"):
        return f"{expected}; without nfs://, and with a colon after the host"
    if source.startswith("["):
        host, colon, path = source[1:].partition("]:")
        if not colon or ":" not in host:
            return f'expected "[IPv6 address]:/path", found "{source}"'
    else:
        host, _, path = source.partition(":")
        if ":" in path.partition("/")[0]:
            return f"{expected}; an IPv6 address stands in brackets, [fd00::1]:/path"
    if "," in host:
        return f"{expected}; one server only"
    if not host or not path.startswith("/") or "/" in host or " " in host:
        return expected
    return Place(host, path)


def _cifs(source: str) -> Place | str:
    expected = f'expected "//server/share" or "//server/share/folder", found "{source}"'
    if source.startswith(("\\\\", "smb:", "cifs:")):
        return f"{expected}; with slashes, and nothing before them"
    host, _, path = source[2:].partition("/")
    if not source.startswith("//") or not host or not path.partition("/")[0] or " " in host:
        return expected
    if "@" in host or "\\" in source:
        return f"{expected}; the user goes into options" if "@" in host else f"{expected}; with slashes"
    return Place(host.removeprefix("[").removesuffix("]"), path)


def _p9(source: str) -> Place | str:
    return Place(source) if source else "expected the tag of a 9p device, or a host (trans = \"tcp\"), found nothing"
