"""`[container.security] devices`: a list becomes the devices of the host that the container has.

Owns its forms. Must not know what the host has (check.py looks).
"""

from pyinit.config.decode import Table, show
from pyinit.model import NOWHERE, Device

# What every container has there, and pyinit makes.
_OURS = ("null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm", "mqueue")
_ACCESS = "rwm"
_MOST_ID = 2**32 - 2


def devices(table: Table) -> tuple[Device, ...]:
    """Strings, or tables with more."""
    value = table.raw("devices")
    if value is None:
        return ()
    if not isinstance(value, list):
        table.fault("devices", f'expected a list such as ["/dev/fuse"], found {show(value)}')
        return ()
    found: list[Device] = []
    for number, one in enumerate(value):
        if isinstance(one, dict):
            device = _of_table(Table(table.document, (*table.path, "devices", number), one))
        elif isinstance(one, str):
            device = Device(table.expanded("devices", one, number))
        else:
            table.fault("devices", f'expected a path such as "/dev/fuse" or a table with one, found {show(one)}', number)
            continue
        parts = device.path.split("/")
        if parts[:2] != ["", "dev"] or len(parts) < 3 or set(parts[2:]) & {"", ".", ".."} or "\0" in device.path:
            table.fault("devices", f"expected a path below /dev, found {show(device.path)}", number)
        elif parts[2] in _OURS:
            table.fault("devices", f"/dev/{parts[2]} is made for every container; take it out", number)
        elif device.path in [other.path for other in found]:
            table.fault("devices", f"{device.path} is there twice; take one out", number)
        else:
            found.append(device._replace(origin=table.document.origin((*table.path, "devices", number))))
    return tuple(found)


def _of_table(table: Table) -> Device:
    access = table.string("access", _ACCESS)
    if not access or set(access) - set(_ACCESS) or len(set(access)) < len(access):
        table.fault("access", f'expected some of the letters "{_ACCESS}", found {show(access)}')
        access = _ACCESS
    found = Device(
        table.string("path"), access, table.octal("mode", 0o660, 0o777) if table.has("mode") else -1,
        table.integer("uid", -1, 0, _MOST_ID), table.integer("gid", -1, 0, _MOST_ID), NOWHERE,
    )  # fmt: skip
    table.close()
    return found
