"""Profiles of system calls: a TOML file, or the default, becomes the kernel's program.

Owns the form of a profile. Must not know which service has one (load.py). Laws: a profile is compiled once for each set of
capabilities; a name that only another architecture has is no error, and none of this one's numbers.
"""

import errno
from _collections_abc import Callable

from pyinit.config.decode import Table, show
from pyinit.core import bpf, seccomp
from pyinit.core.seccomp import Check, Decision, Profile, Rule
from pyinit.core.syscalls import ARCHITECTURES, NAMES
from pyinit.errors import hint
from pyinit.model import DEFAULT_PROFILE, UNCONFINED, Origin, Seccomp
from pyinit.records import NamedTuple

_LISTS = ("allow", "deny", "log")
_REFUSALS = ("kill", "trap")
_ERRNOS = {name: getattr(errno, name) for name in dir(errno) if name[0] == "E"}  # errorcode has one name a number
_ANY_ACTION = '"allow", "log", "kill", "trap" or an errno such as "EPERM"'
_ANY_CHECK = 'such as "arg0 == 16", "arg1 & 0x3 != 0" or "long2 > 0xffffffff"'
_LONGEST_NUMBER = 24


class Written(NamedTuple):
    """A profile as its file has it: `calls` with their plain actions, then the rules, in the file's order."""

    file: str
    default: bool  # it starts from the default profile
    other: int  # of what has no entry, if it does not
    calls: dict[str, int]
    rules: tuple[tuple[str, Rule], ...]
    places: dict[str, Origin]  # of the calls


def read(table: Table) -> Written:
    """The file's root."""
    base = table.choice("base", "default", ("default", "none"))
    other = _action(table, "default", seccomp.EPERM)
    if base == "default" and "default" in table.data:
        table.fault("default", 'base = "default" decides each call; write base = "none" beside it, or take it out')
    calls: dict[str, int] = {}
    places: dict[str, Origin] = {}
    for key, action in (("allow", seccomp.ALLOW), ("deny", seccomp.EPERM), ("log", seccomp.LOG)):
        if key == "deny" and isinstance(table.raw(key), dict):
            _take_table(table.table(key), calls, places)
        else:
            for number, name in enumerate(_calls(table, key)):
                if name:
                    _take(table, key, (number,), name, action, calls, places)
    rules = tuple(pair for one in table.tables("rules") for pair in _rules(one))
    table.close()
    return Written(table.document.file, base == "default", other, calls, rules, places)


def _calls(table: Table, key: str) -> list[str]:
    """Names, "" for what is none."""
    return [name if _is_call(table, key, name, number) else "" for number, name in enumerate(table.strings(key))]


def _is_call(table: Table, key: str, name: str, *tail: int) -> bool:
    if name not in NAMES:
        table.fault(key, f"there is no system call {show(name)}{hint(name, NAMES)}", *tail)
    return name in NAMES


def _take_table(table: Table | None, calls: dict[str, int], places: dict[str, Origin]) -> None:
    """`deny = { reboot = "kill" }`."""
    for name in table.data if table is not None else ():
        assert table is not None
        action = _action(table, name, seccomp.EPERM, refuses=True)
        if _is_call(table, name, name):
            _take(table, name, (), name, action, calls, places)


def _take(
    table: Table, key: str, tail: tuple[int, ...], name: str, action: int, calls: dict[str, int], places: dict[str, Origin],
) -> None:  # fmt: skip
    at = table.document.origin((*table.path, key, *tail))
    if name in calls:
        table.fault(key, f"{name} has its action already, at {places[name]}; take one out", *tail)
        return
    calls[name] = action
    places[name] = at


def _action(table: Table, key: str, default: int, *, refuses: bool = False) -> int:
    text = table.string(key, "", what=_ANY_ACTION)
    words = [*(_REFUSALS if refuses else seccomp.ACTIONS), *_ERRNOS]
    if key not in table.data or not isinstance(table.data[key], str):
        return default
    if text not in words:
        wanted = '"kill", "trap" or an errno such as "EPERM"' if refuses else _ANY_ACTION
        table.fault(key, f"expected {wanted}, found {show(text)}{hint(text, words)}")
        return default
    return seccomp.ACTIONS.get(text) or seccomp.refusal(_ERRNOS[text])


def _rules(table: Table) -> list[tuple[str, Rule]]:
    """One of `[[rules]]`, for each of its calls."""
    names = [name for name in _calls(table, "calls") if name]
    checks = [_check(table, number, text) for number, text in enumerate(table.strings("when"))]
    for key, what in (("calls", 'the calls that it is for, such as ["socket"]'), ("when", f"what their arguments are, {_ANY_CHECK}")):
        if not table.data.get(key):
            table.document.problems.append((table.origin, f"rules: {key} is missing: expected {what}"))
    if "action" not in table.data:
        table.document.problems.append((table.origin, f"rules: action is missing: expected {_ANY_ACTION}"))
    action = _action(table, "action", seccomp.EPERM)
    if len(checks) > seccomp.MOST_CHECKS:
        table.fault("when", f"expected at most {seccomp.MOST_CHECKS} of them, found {len(checks)}")
    table.close()
    whole = tuple(one for one in checks if one is not None)
    return [(name, Rule(whole, action)) for name in names] if whole else []


def _check(table: Table, position: int, text: str) -> Check | None:
    """`arg0 & MASK == VALUE`; `long0` for all 64 bits."""
    words = text.split()
    if len(words) == 3:
        words[1:1] = ["&", "-1"]
    good = len(words) == 5 and words[1] == "&" and words[3] in seccomp.OPERATORS
    kind, number = (words[0][:-1], words[0][-1:]) if good else ("", "")
    if kind not in ("arg", "long") or not ("0" <= number < str(seccomp.MOST_ARGUMENTS)):
        table.fault("when", f"expected an argument, 0 to {seccomp.MOST_ARGUMENTS - 1}, and a value, {_ANY_CHECK}, found {show(text)}", position)
        return None
    bits = 64 if kind == "long" else 32
    values = [_integer(word) for word in (words[2], words[4])]
    if None in values:
        table.fault("when", f"expected numbers such as 16 or 0x10, found {show(text)}", position)
        return None
    if any(value is None or not -(1 << (bits - 1)) <= value < 1 << bits for value in values):
        more = f"; long{number} compares 64" if bits == 32 else ""
        table.fault("when", f"expected numbers of {bits} bits, found {show(text)}{more}", position)
        return None
    mask, value = ((one or 0) & ((1 << bits) - 1) for one in values)
    if value & ~mask and words[3] in ("==", "!="):
        table.fault("when", f"expected a value within the mask, found {show(text)}, which is always or never so", position)
        return None
    return Check(int(number), words[3], value, 0 if words[2] == "-1" else mask, wide=bits == 64)


def _integer(word: str) -> int | None:
    try:
        return int(word, 0) if len(word) <= _LONGEST_NUMBER else None
    except ValueError:
        return None


def profile(written: Written | None, capabilities: tuple[str, ...]) -> Profile:
    """Of a file, or, without one, the default."""
    if written is None:
        return seccomp.default(capabilities)
    found = seccomp.default(capabilities) if written.default else Profile({}, written.other)
    calls = {**found.calls, **{name: Decision(action) for name, action in written.calls.items()}}
    rules: dict[str, list[Rule]] = {}
    for name, rule in written.rules:
        rules.setdefault(name, []).append(rule)
    for name, more in rules.items():
        there = calls.get(name) or Decision(found.other)
        calls[name] = Decision(there.action, (*more, *there.rules))
    return Profile(calls, found.other)


class Profiles:
    """All that a config names. `open_file` gives a file's root, or notes why it can't."""

    def __init__(self, machine: str, open_file: Callable[[Seccomp], Table | None], note: Callable[[Origin, str], None]) -> None:
        self._machine = machine
        self._open = open_file
        self._note = note
        self._files: dict[str, Written | None] = {}
        self._made: dict[tuple[str, bool, tuple[str, ...]], bytes] = {}

    def compiled(self, wanted: Seccomp, capabilities: tuple[str, ...], *, comes_last: bool) -> Seccomp:
        """With its program. `comes_last`: with no_new_privileges nothing else is left to be done."""
        if wanted.name == UNCONFINED:
            return wanted
        if self._machine not in ARCHITECTURES:
            text = f'seccomp: pyinit has no table of the system calls of {self._machine}; write seccomp = "unconfined"'
            self._note(wanted.origin, text)
            return wanted
        written = self._written(wanted)
        if written is None and wanted.name != DEFAULT_PROFILE:
            return wanted
        key = (wanted.name, wanted.log, capabilities)
        if key not in self._made:
            self._made[key] = self._program(written, wanted, capabilities)
        if written is not None and not wanted.log:
            self._check(written, profile(written, capabilities), comes_last=comes_last)
        return wanted._replace(program=self._made[key], capabilities=capabilities)

    def _written(self, wanted: Seccomp) -> Written | None:
        if wanted.name != DEFAULT_PROFILE and wanted.name not in self._files:
            table = self._open(wanted)
            self._files[wanted.name] = read(table) if table is not None else None
        return self._files.get(wanted.name)

    def _program(self, written: Written | None, wanted: Seccomp, capabilities: tuple[str, ...]) -> bytes:
        found = seccomp.program(profile(written, capabilities), self._machine, log=wanted.log)
        count = len(found) // bpf.SIZE
        if count > bpf.MOST and written is not None:
            self._note(Origin(written.file, 1), f"it comes to {count} instructions, and the kernel takes {bpf.MOST}; write fewer rules")
        return found

    def _check(self, written: Written, found: Profile, *, comes_last: bool) -> None:
        """What pyinit itself does between the filter and the program must not be refused."""
        for names, advice in (
            (seccomp.TO_EXEC, "let it through"),
            (() if comes_last else seccomp.TO_DROP, "let it through, or write no_new_privileges = true for who has this profile: it comes last then"),
        ):
            refused = [name for name in names if not seccomp.lets_through(found, name)]
            if refused:
                at = next((written.places[name] for name in refused if name in written.places), Origin(written.file, 1))
                text = f"it refuses {', '.join(refused)}, which pyinit has to call once the filter is there: {advice}"
                self._note(at, text)
