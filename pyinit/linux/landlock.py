"""Landlock: a process that can do less from now on, with all that it makes.

Owns the numbers and one wrapper a call. Must not know what a service is allowed. Law: a right that the kernel's ABI does
not have must not be asked for (EINVAL).
Source: landlock(7), Documentation/userspace-api/landlock.rst, include/uapi/linux/landlock.h.
"""

import struct

from pyinit.linux.libc import syscall

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # the others make sense for folders only, and are refused (EINVAL)
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1
SCOPE_ABSTRACT_UNIX_SOCKET, SCOPE_SIGNAL = 1 << 0, 1 << 1
# Since which ABI; the first has the thirteen lowest rights of files and folders.
ABI_REFER, ABI_TRUNCATE, ABI_NET, ABI_IOCTL_DEV, ABI_SCOPE = 2, 3, 4, 5, 6
_FIRST = (1 << 13) - 1


def abi() -> int:
    """The ABI of this kernel; 0: it has no Landlock (ENOSYS), or was started without it (EOPNOTSUPP), or a filter forbids it."""
    try:
        return syscall("landlock_create_ruleset", _CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def rights_of_files(version: int) -> int:
    """All that an ABI has for files and folders."""
    newer = ((ABI_REFER, REFER), (ABI_TRUNCATE, TRUNCATE), (ABI_IOCTL_DEV, IOCTL_DEV))
    return _FIRST | sum(right for since, right in newer if version >= since)


def create_ruleset(handled_fs: int, handled_net: int, scoped: int) -> int:
    """The fd of a set of rules: what is handled is refused, but for what rules allow."""
    attributes = struct.pack("=QQQ", handled_fs, handled_net, scoped)
    return syscall("landlock_create_ruleset", _CREATE_RULESET, attributes, len(attributes), 0)  # CLOEXEC


def allow_path(ruleset: int, rights: int, fd: int) -> None:
    """What is `fd`, opened with O_PATH, and below it."""
    rule = struct.pack("=Qi", rights, fd)
    syscall("landlock_add_rule", _ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)


def allow_port(ruleset: int, right: int, port: int) -> None:
    """A TCP port, in the host's order of bytes."""
    rule = struct.pack("=QQ", right, port)
    syscall("landlock_add_rule", _ADD_RULE, ruleset, _RULE_NET_PORT, rule, 0)


def restrict_self(ruleset: int) -> None:
    """From here on, and for ever. It takes no_new_privs or CAP_SYS_ADMIN (EPERM)."""
    syscall("landlock_restrict_self", _RESTRICT_SELF, ruleset, 0)
