"""A service's `landlock`: what of it this kernel can hold, and the child's step that takes it on.

Owns the rights that `ro` and `rw` stand for. Must not know services. Law: `set_up` runs between fork and exec.
"""

import os
import stat

from pyinit.linux import landlock as ll
from pyinit.model import Landlock
from pyinit.records import NamedTuple

_SCOPES = {"abstract_sockets": ll.SCOPE_ABSTRACT_UNIX_SOCKET, "signals": ll.SCOPE_SIGNAL}
_READ = ll.EXECUTE | ll.READ_FILE | ll.READ_DIR


class Rules(NamedTuple):
    """In the kernel's numbers: what is handled, and so refused, and what is allowed of it."""

    files: int
    net: int
    scoped: int
    paths: tuple[tuple[str, int, bool], ...]  # with its rights, and whether it may be missing
    ports: tuple[tuple[int, int], ...]  # (right, port)


def rules(wanted: Landlock, abi: int) -> Rules:
    """Without what the ABI does not have."""
    files = ll.rights_of_files(abi) if wanted.ro or wanted.rw else 0
    kinds = ((ll.BIND_TCP, wanted.tcp_bind), (ll.CONNECT_TCP, wanted.tcp_connect)) if abi >= ll.ABI_NET else ()
    rights = ((wanted.ro, _READ), (wanted.rw, files))
    return Rules(
        files,
        sum(right for right, ports in kinds if ports is not None),
        sum(_SCOPES[name] for name in wanted.scope) if abi >= ll.ABI_SCOPE else 0,
        tuple((path.removeprefix("-"), right, path.startswith("-")) for paths, right in rights for path in paths),
        tuple((right, port) for right, ports in kinds for port in ports or ()),
    )


def set_up(wanted: Rules) -> None:
    """Paths are those of the child's own root; OSError."""
    ruleset = ll.create_ruleset(wanted.files, wanted.net, wanted.scoped)
    for path, rights, may_be_missing in wanted.paths:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            if may_be_missing:
                continue
            raise
        is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        ll.allow_path(ruleset, rights if is_folder else rights & ll.OF_FILES, fd)
        os.close(fd)
    for right, port in wanted.ports:
        ll.allow_port(ruleset, right, port)
    ll.restrict_self(ruleset)
    os.close(ruleset)
