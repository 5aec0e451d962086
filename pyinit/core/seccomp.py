"""Which system calls are let through: profiles, the default one, and the program that the kernel carries out. Pure.

Owns what a profile means. Must not know how one is written (config/seccomp.py) or installed (linux/seccomp.py). Laws: a
number that no table has is ENOSYS, whatever the profile says of calls without a rule, so that a C library falls back; so is
the x32 ABI's; a call of another architecture ends its process, for its numbers mean other calls, and a program that gets an
error for its very exit goes astray; an argument that the kernel takes as an int is compared as one (CVE-2019-10063: a
TIOCSTI with a bit above got through); with `log` nothing is refused, and what would be is told in the kernel's log.
Source: seccomp(2), the kernel's Documentation/userspace-api/seccomp_filter.rst.
"""

import errno
from _collections_abc import Iterable

from pyinit.core import bpf
from pyinit.core.bpf import AND, FARTHEST, IF_EQUAL, IF_GREATER, IF_NOT_LESS, LOAD, RETURN, Instruction
from pyinit.core.syscalls import ARCHITECTURES, Architecture
from pyinit.records import NamedTuple

ALLOW, LOG, TRAP, KILL = 0x7FFF0000, 0x7FFC0000, 0x00030000, 0x80000000  # SECCOMP_RET_; KILL is of the process
_ERRNO = 0x00050000
_ACTION, _DATA = 0xFFFF0000, 0x0000FFFF
ACTIONS = {"allow": ALLOW, "log": LOG, "trap": TRAP, "kill": KILL}
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
MOST_ARGUMENTS = 6
OPERATORS = ("==", "!=", "<=", ">=", "<", ">")


def refusal(number: int) -> int:
    """The action that answers with an errno."""
    return _ERRNO | number


EPERM, ENOSYS = refusal(errno.EPERM), refusal(errno.ENOSYS)


def action_name(action: int) -> str:
    """As a profile has it: "allow", "EPERM"."""
    if action & _ACTION == _ERRNO:
        return errno.errorcode.get(action & _DATA, str(action & _DATA))
    return next(name for name, value in ACTIONS.items() if value == action)


class Check(NamedTuple):
    """What an argument must be; `wide`: all of its 64 bits count, else the low 32, which an int is."""

    argument: int
    operator: str  # of OPERATORS
    value: int
    mask: int = 0  # 0: none
    wide: bool = False

    def text(self) -> str:
        """As a profile has it."""
        masked = f" & {self.mask:#x}" if self.mask else ""
        return f"{'long' if self.wide else 'arg'}{self.argument}{masked} {self.operator} {self.value:#x}"


class Rule(NamedTuple):
    """All of `when` hold, and the action follows."""

    when: tuple[Check, ...]
    action: int


class Decision(NamedTuple):
    """Of one call: the first of the rules that fits, else `action`."""

    action: int
    rules: tuple[Rule, ...] = ()


class Profile(NamedTuple):
    """Of the calls by name; `other` is of those of our tables that have no entry."""

    calls: dict[str, Decision]
    other: int = ALLOW


# The default profile: all that is known, but for these. Docker's refuses the same and some fewer.
_NEVER = """
    add_key request_key keyctl io_uring_setup io_uring_enter io_uring_register userfaultfd kexec_load kexec_file_load pivot_root
    swapon swapoff move_pages migrate_pages sysfs ustat uselib _sysctl create_module get_kernel_syms query_module nfsservctl
    getpmsg putpmsg afs_syscall tuxcall security vserver
"""
_WITH = {  # what a capability of the container, or of the service, brings along
    "SYS_ADMIN": """
        mount umount2 open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr unshare setns bpf
        perf_event_open fanotify_init quotactl quotactl_fd sethostname setdomainname syslog lookup_dcookie lsm_get_self_attr
        lsm_set_self_attr lsm_list_modules listns
    """,
    "BPF": "bpf",
    "DAC_READ_SEARCH": "open_by_handle_at",
    "PERFMON": "perf_event_open",
    "SYSLOG": "syslog",
    "SYS_BOOT": "reboot",
    "SYS_CHROOT": "chroot",
    "SYS_MODULE": "init_module finit_module delete_module",
    "SYS_NICE": "mbind get_mempolicy set_mempolicy set_mempolicy_home_node",
    "SYS_PACCT": "acct",
    # Not ptrace and process_vm_*: since Linux 4.8 the filter sees a call after its tracer has changed it, so that no way round
    # leads there, and whom one may trace (its own user's, with no capability more, dumpable) is the kernel's to judge.
    "SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "SYS_RAWIO": "iopl ioperm",
    "SYS_TIME": "settimeofday clock_settime",
    "SYS_TTY_CONFIG": "vhangup",
}
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET; clone(2) can't ask for NEWTIME
_AF_ALG, _AF_VSOCK = 38, 40
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
# PER_LINUX, PER_LINUX32, both with UNAME26, and the question: others lower what mmap(2) and execve(2) guard.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)


def default(capabilities: Iterable[str]) -> Profile:
    """What a container gets whose bounding set this is."""
    has = set(capabilities)
    refused = set(_NEVER.split())
    for names in _WITH.values():
        refused |= set(names.split())
    for capability, names in _WITH.items():
        if capability in has:
            refused -= set(names.split())
    calls = {name: Decision(EPERM) for name in sorted(refused)}
    if "SYS_ADMIN" not in has:
        calls["clone"] = Decision(EPERM, (Rule((Check(0, "==", 0, _NEW_NAMESPACES),), ALLOW),))
        calls["clone3"] = Decision(ENOSYS)  # its flags are in memory, which no filter sees: libc goes on with clone
    calls["socket"] = Decision(ALLOW, tuple(Rule((Check(0, "==", family),), EPERM) for family in (_AF_ALG, _AF_VSOCK)))
    calls["ioctl"] = Decision(ALLOW, tuple(Rule((Check(1, "==", request),), EPERM) for request in (_TIOCSTI, _TIOCLINUX)))
    calls["personality"] = Decision(EPERM, tuple(Rule((Check(0, "==", one),), ALLOW) for one in _PERSONALITIES))
    return Profile(calls)


def decision(profile: Profile, name: str) -> Decision:
    """Of a call of our tables."""
    return profile.calls.get(name) or Decision(profile.other)


# What spawn.py itself has still to do once the filter is there: always, and where that comes before the ids and capabilities.
TO_EXEC = ("execve", "rt_sigaction", "rt_sigprocmask", "write", "exit_group")
TO_DROP = ("prctl", "capset", "setgroups", "setresgid", "setresuid")


def lets_through(profile: Profile, name: str) -> bool:
    """Whether nothing can refuse it."""
    found = decision(profile, name)
    return all(action in (ALLOW, LOG) for action in (found.action, *(rule.action for rule in found.rules)))


def program(profile: Profile, machine: str, *, log: bool = False) -> bytes:
    """For the kernel; KeyError for a machine that we have no table of. It may be longer than the kernel takes (bpf.MOST)."""
    arch = ARCHITECTURES[machine]
    head = [
        Instruction(LOAD, _ARCHITECTURE),
        Instruction(IF_EQUAL, arch.audit, 1, 0),
        Instruction(RETURN, _told(KILL, log=log)),
        Instruction(LOAD, _NUMBER),
    ]
    if arch.foreign_bit:
        head += [Instruction(IF_NOT_LESS, arch.foreign_bit, 0, 1), Instruction(RETURN, _told(ENOSYS, log=log))]
    return bpf.assemble(head + _tree(_ranges(profile, arch), log=log))


def _told(action: int, *, log: bool) -> int:
    return LOG if log and action != ALLOW else action


def _ranges(profile: Profile, arch: Architecture) -> list[tuple[int, Decision]]:
    """(first number, what is decided) from 0 on; what is decided alike is one."""
    names = {number: name for name, number in arch.numbers.items()}
    found: list[tuple[int, Decision]] = []
    for number in range(max(names) + 2):
        one = decision(profile, names[number]) if number in names else Decision(ENOSYS)
        if not found or found[-1][1] != one:
            found.append((number, one))
    return found


def _tree(ranges: list[tuple[int, Decision]], *, log: bool) -> list[Instruction]:
    """A binary search. The kernel runs it once for each number that needs no argument, and keeps what is allowed."""
    if len(ranges) == 1:
        return _decided(ranges[0][1], log=log)
    middle = len(ranges) // 2
    lower, upper = _tree(ranges[:middle], log=log), _tree(ranges[middle:], log=log)
    return bpf.choice(IF_NOT_LESS, ranges[middle][0], lower, upper)


def _decided(one: Decision, *, log: bool) -> list[Instruction]:
    out: list[Instruction] = []
    for rule in one.rules:
        checks = [part for check in rule.when for part in _check(check)]
        out += [*_linked(checks), Instruction(RETURN, _told(rule.action, log=log))]
    return [*out, Instruction(RETURN, _told(one.action, log=log))]


class _Step(NamedTuple):
    """An instruction whose outcomes are "" (go on), "met" (past this check) or "not" (past the rule)."""

    code: int
    value: int
    yes: str = ""
    no: str = ""
    last: bool = False  # of its check


_HOLDS = {  # of the words compared: (test, where it leads if it holds, where if not)
    "==": (IF_EQUAL, "", "not"), "!=": (IF_EQUAL, "not", ""), ">=": (IF_NOT_LESS, "", "not"),
    ">": (IF_GREATER, "", "not"), "<": (IF_NOT_LESS, "not", ""), "<=": (IF_GREATER, "not", ""),
}  # fmt: skip
_LOW, _WORD = 0xFFFFFFFF, 32


def _check(check: Check) -> list[_Step]:
    at = _ARGUMENTS + 8 * check.argument
    test, yes, no = _HOLDS[check.operator]
    steps: list[_Step] = []
    if check.wide:
        high = check.value >> _WORD
        steps += _loaded(at + 4, check.mask >> _WORD, masked=bool(check.mask))
        if check.operator in (">", ">="):
            steps.append(_Step(IF_GREATER, high, "met"))
        elif check.operator in ("<", "<="):
            steps.append(_Step(IF_GREATER, high, "not"))
        steps.append(_Step(IF_EQUAL, high, "", "met" if check.operator in ("!=", "<", "<=") else "not"))
    steps += _loaded(at, check.mask & _LOW, masked=bool(check.mask))
    return [*steps, _Step(test, check.value & _LOW, yes, no, last=True)]


def _loaded(offset: int, mask: int, *, masked: bool) -> list[_Step]:
    return [_Step(LOAD, offset), *([_Step(AND, mask)] if masked else [])]


MOST_CHECKS = FARTHEST // 7  # of a rule: a wide one has seven instructions at most


def _linked(steps: list[_Step]) -> list[Instruction]:
    """Past the rule is past its RETURN, too."""
    out = []
    for at, step in enumerate(steps):
        met = next((number for number in range(at, len(steps)) if steps[number].last), at)
        skips = {"": 0, "met": met - at, "not": len(steps) - at}
        out.append(Instruction(step.code, step.value, skips[step.yes], skips[step.no]))
    return out


def listing(data: bytes, machine: str) -> list[str]:
    """The program in words."""
    names = {number: name for name, number in ARCHITECTURES[machine].numbers.items()}
    lines = bpf.disassemble(data, _field, lambda action: f"return {action_name(action)}")
    compares_numbers = True  # and not an argument, which a rule begins with and a RETURN ends
    for at, one in enumerate(bpf.instructions(data)):
        if one.code == IF_NOT_LESS and compares_numbers and one.value in names:
            lines[at] += f"  ; {names[one.value]}"
        compares_numbers = one.code == RETURN or (compares_numbers and (one.code != LOAD or one.value < _ARGUMENTS))
    return lines


def _field(offset: int) -> str:
    if offset < _ARGUMENTS:
        return {_NUMBER: "number", _ARCHITECTURE: "architecture"}.get(offset, str(offset))
    argument, rest = divmod(offset - _ARGUMENTS, 8)
    return f"arg{argument}" + (".high" if rest else "")

