"""Users and groups of the image, read by ourselves.

Owns the reading of passwd and group. Must not know services. Law: NSS is never called, for it would load the
image's libnss_*.so into PID 1; only a regular file is read, without following a link, without blocking.
"""

import errno
import os
import stat

from pyinit.records import NamedTuple

_MOST_BYTES = 4 * 1024 * 1024
MAX_ID = 2**32 - 2  # -1 means "leave as it is" to setuid(2)
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_DIGITS = len(str(MAX_ID))


class User(NamedTuple):
    name: str
    uid: int
    gid: int
    home: str
    shell: str


def _rows(path: str) -> list[list[str]]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _SHORT:  # not the same as a file that is not there: the user's group would be another
            raise
        return []
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        data = os.read(fd, _MOST_BYTES)
    finally:
        os.close(fd)
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    return [line.split(":") for line in lines if "\0" not in line]  # no variable of an environment can hold one


def _number(text: str) -> int | None:
    """A uid or gid: plain digits only, no sign, no space, not 2**32 - 1."""
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS and int(text) <= MAX_ID:  # int() raises for thousands
        return int(text)
    return None


def find_user(name: str, passwd: str = "/etc/passwd") -> User | None:
    """The user of that name or number; a number that no line has is a user without a home.

    A number is never a name: an image may have a user 1000 whose uid is 0 (CVE-2016-3697).
    """
    wanted = _number(name)
    for row in _rows(passwd):
        if len(row) < 7:
            continue
        uid, gid = _number(row[2]), _number(row[3])
        if uid is not None and gid is not None and (row[0] == name if wanted is None else uid == wanted):
            return User(row[0], uid, gid, row[5] or "/", row[6] or "/bin/sh")
    if name == "root":
        return User("root", 0, 0, "/root", "/bin/sh")
    return None if wanted is None else User(name, wanted, wanted, "/", "/bin/sh")


def find_group(name: str, group: str = "/etc/group") -> int | None:
    """The gid of that name or number."""
    number = _number(name)
    if number is not None:
        return number
    for row in _rows(group):
        if len(row) >= 4 and row[0] == name:
            return _number(row[2])
    return 0 if name == "root" else None


def groups_of(user: User, group: str = "/etc/group") -> list[int]:
    """The user's primary group and the groups that list the user."""
    found = {user.gid}
    for row in _rows(group):
        if len(row) >= 4 and user.name in row[3].split(","):
            number = _number(row[2])
            if number is not None:
                found.add(number)
    return sorted(found)
