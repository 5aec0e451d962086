"""Profiles and their programs: what the kernel's machine would answer is what the profile says, for every number."""

import errno
import functools
import itertools
import os
import random
import struct

import pytest

from pyinit.core import bpf, seccomp
from pyinit.core.seccomp import ALLOW, ENOSYS, EPERM, KILL, LOG, TRAP, Check, Decision, Profile, Rule
from pyinit.core.syscalls import ARCHITECTURES, NAMES
from pyinit.model import DEFAULT_CAPABILITIES

MACHINES = sorted(ARCHITECTURES)
I386, ARM = 0x40000003, 0x40000028
# Docker's default profile with Docker's capabilities refuses these 67 of the 362 calls of x86_64 that Linux 6.1 has.
OF_DOCKER = """
    _sysctl acct add_key afs_syscall bpf clock_settime clone3 create_module delete_module fanotify_init finit_module fsconfig fsmount
    fsopen fspick get_kernel_syms get_mempolicy getpmsg init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp
    kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages nfsservctl
    open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise putpmsg query_module quotactl quotactl_fd reboot
    request_key security set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon sysfs syslog
    tuxcall umount2 unshare userfaultfd uselib ustat vhangup vserver
"""


def data(machine: str, number: int, *arguments: int, audit: int = 0) -> bytes:
    """struct seccomp_data."""
    words = [value & (1 << 64) - 1 for value in (*arguments, *[0] * 6)[:6]]
    return struct.pack("<IIQ6Q", number & 0xFFFFFFFF, audit or ARCHITECTURES[machine].audit, 0, *words)


@functools.cache
def rows_of(program: bytes) -> list[tuple[int, int, int, int]]:
    rows = list(struct.iter_unpack("<HBBI", program))
    assert 0 < len(rows) <= 4096
    return rows


def run(program: bytes, given: bytes) -> int:
    """The machine of the kernel, as far as seccomp(2) lets a program use it; its checks, too."""
    rows = rows_of(program)
    at = register = 0
    while True:
        code, yes, no, value = rows[at]
        at += 1
        match code:
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                assert value % 4 == 0
                (register,) = struct.unpack_from("<I", given, value)
            case 0x54:  # BPF_ALU | BPF_AND | BPF_K
                register &= value
            case 0x05:  # BPF_JMP | BPF_JA
                at += value
            case 0x15:  # JEQ
                at += yes if register == value else no
            case 0x25:  # JGT
                at += yes if register > value else no
            case 0x35:  # JGE
                at += yes if register >= value else no
            case 0x06:  # BPF_RET | BPF_K
                return value
            case _:
                raise AssertionError(f"the kernel refuses code {code:#x}")


def holds(check: Check, argument: int) -> bool:
    bits = (1 << (64 if check.wide else 32)) - 1
    found, value = argument & bits & (check.mask or bits), check.value
    return {"==": found == value, "!=": found != value, "<": found < value, "<=": found <= value, ">": found > value, ">=": found >= value}[check.operator]


@functools.cache
def names_of(machine: str) -> dict[int, str]:
    return {value: name for name, value in ARCHITECTURES[machine].numbers.items()}


def said(profile: Profile, machine: str, number: int, arguments: tuple[int, ...]) -> int:
    """What the profile says, without a program."""
    names = names_of(machine)
    if number not in names:
        return ENOSYS
    one = seccomp.decision(profile, names[number])
    for rule in one.rules:
        if all(holds(check, arguments[check.argument]) for check in rule.when):
            return rule.action
    return one.action


def numbers(machine: str) -> list[int]:
    """All of the table, what lies between and above, and the x32 ABI's."""
    return [*range(480), 547, 0x3FFFFFFF, *(0x40000000 + number for number in range(0, 600, 9)), 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def random_profile(choose: random.Random) -> Profile:
    actions = [ALLOW, LOG, TRAP, KILL, EPERM, ENOSYS, seccomp.refusal(errno.EACCES)]
    calls = {}
    for name in choose.sample(sorted(NAMES), choose.choice((0, 3, 20, 80))):
        rules = []
        for _ in range(choose.choice((0, 0, 1, 3))):
            checks = []
            for _ in range(choose.choice((1, 1, 2, 5))):
                wide = choose.random() < 0.5
                mask = choose.choice((0, 0, 0xFF, 0x7E020000, *((0xFF00000000, 0xFFFFFFFFFFFFFFFF) if wide else ())))
                value = choose.choice((0, 1, 38, 0xFFFFFFFF, 0x80000000, *((1 << 32, (1 << 64) - 1, 0x123456789A) if wide else ())))
                checks.append(Check(choose.randrange(6), choose.choice(seccomp.OPERATORS), value & (mask or value), mask, wide))
            rules.append(Rule(tuple(checks), choose.choice(actions)))
        calls[name] = Decision(choose.choice(actions), tuple(rules))
    return Profile(calls, choose.choice(actions))


def arguments_for(profile: Profile, choose: random.Random) -> list[tuple[int, ...]]:
    """What its checks tell apart, and what is one more, one less, and a bit above."""
    edges = {0}
    for one in profile.calls.values():
        edges |= {check.value + more for rule in one.rules for check in rule.when for more in (-1, 0, 1, 1 << 32)}
    found = sorted(value & (1 << 64) - 1 for value in edges)
    return [tuple(choose.choice(found) for _ in range(6)) for _ in range(4)]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("round_", range(10))
def test_the_program_decides_as_its_profile_says(machine, round_):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    choose = random.Random(seed)
    capabilities = choose.sample(["SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE", "BPF", "SYS_NICE"], choose.randrange(5))
    profile = seccomp.default(capabilities) if round_ < 2 else random_profile(choose)
    program, logged = (seccomp.program(profile, machine, log=log) for log in (False, True))
    for number, given in itertools.product(numbers(machine), arguments_for(profile, choose)):
        expected = said(profile, machine, number, given)
        assert run(program, data(machine, number, *given)) == expected, (number, given)
        assert run(logged, data(machine, number, *given)) == (ALLOW if expected == ALLOW else LOG), (number, given)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_foreign_call_ends_the_process(machine):
    other = next(one for one in ARCHITECTURES.values() if one.name != machine)
    for profile in (seccomp.default(()), Profile({}, ALLOW)):
        program, logged = (seccomp.program(profile, machine, log=log) for log in (False, True))
        for audit in (I386, ARM, other.audit, 1):
            assert {run(program, data(machine, number, audit=audit)) for number in range(0, 600, 7)} == {KILL}
            assert {run(logged, data(machine, number, audit=audit)) for number in range(0, 600, 7)} == {LOG}


def test_even_a_profile_that_lets_all_through_knows_no_x32_and_no_call_without_a_name():
    program = seccomp.program(Profile({}, ALLOW), "x86_64")
    assert {run(program, data("x86_64", 0x40000000 | number)) for number in range(600)} == {ENOSYS}
    assert [number for number in range(600) if run(program, data("x86_64", number)) != ALLOW] == [*range(337, 424), *range(472, 600)]


def refused(machine: str, capabilities=DEFAULT_CAPABILITIES, *arguments: int) -> set[str]:
    program = seccomp.program(seccomp.default(capabilities), machine)
    return {name for name, number in ARCHITECTURES[machine].numbers.items() if run(program, data(machine, number, *arguments)) != ALLOW}


def test_the_default_refuses_all_that_dockers_does():
    """And of what is newer or needs an argument for it: these."""
    of_docker = set(OF_DOCKER.split())
    assert len(of_docker) == 67
    more = {"lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules", "open_tree_attr", "listns"}
    assert refused("x86_64") == of_docker | more
    assert refused("aarch64") == (of_docker | more) & set(ARCHITECTURES["aarch64"].numbers)


def test_every_newer_call_has_been_judged():
    """Who adds one to the table decides here whether a container has it."""
    allowed = """
        pidfd_send_signal pidfd_open close_range openat2 faccessat2 epoll_pwait2 landlock_create_ruleset landlock_add_rule
        landlock_restrict_self memfd_secret process_mrelease futex_waitv cachestat fchmodat2 map_shadow_stack futex_wake futex_wait
        futex_requeue statmount listmount mseal setxattrat getxattrat listxattrat removexattrat file_getattr file_setattr
        rseq_slice_yield
    """
    newer = {name for name, number in ARCHITECTURES["x86_64"].numbers.items() if number >= 424}
    assert newer - refused("x86_64") == set(allowed.split())


@pytest.mark.parametrize("machine", MACHINES)
def test_known_bad_is_eperm_clone3_enosys(machine):
    program = seccomp.program(seccomp.default(DEFAULT_CAPABILITIES), machine)
    table = ARCHITECTURES[machine].numbers
    answers = {name: run(program, data(machine, table[name])) for name in refused(machine)}
    assert {name for name, answer in answers.items() if answer != EPERM} == {"clone3"}
    assert answers["clone3"] == ENOSYS


OF_CAPABILITIES = {
    "SYS_ADMIN": "bpf clone3 fanotify_init fsconfig fsmount fsopen fspick listns lookup_dcookie lsm_get_self_attr lsm_list_modules "
    "lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr perf_event_open quotactl quotactl_fd setdomainname "
    "sethostname setns syslog umount2 unshare",
    "BPF": "bpf", "PERFMON": "perf_event_open", "SYSLOG": "syslog", "DAC_READ_SEARCH": "open_by_handle_at", "SYS_BOOT": "reboot",
    "SYS_CHROOT": "chroot", "SYS_MODULE": "delete_module finit_module init_module", "SYS_PACCT": "acct",
    "SYS_PTRACE": "kcmp pidfd_getfd process_madvise", "SYS_RAWIO": "ioperm iopl", "SYS_TIME": "clock_settime settimeofday",
    "SYS_TTY_CONFIG": "vhangup", "SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CHOWN": "", "NET_ADMIN": "",
}  # fmt: skip


@pytest.mark.parametrize(("capability", "names"), OF_CAPABILITIES.items())
def test_a_capability_brings_its_calls_along(capability, names):
    assert sorted(refused("x86_64", ()) - refused("x86_64", (capability,))) == sorted(names.split())


def answer(name: str, *arguments: int, capabilities=DEFAULT_CAPABILITIES, machine="x86_64") -> str:
    program = seccomp.program(seccomp.default(capabilities), machine)
    return seccomp.action_name(run(program, data(machine, ARCHITECTURES[machine].numbers[name], *arguments)))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("high", [0, 1 << 32, 0xFFFFFFFF << 32])
def test_arguments_of_the_default(machine, high):
    """With bits above an int, which the kernel does not look at, it is the same."""

    def said_of(name, *arguments, **keys):
        return answer(name, *(one | high for one in arguments), machine=machine, **keys)

    families = {family: said_of("socket", family, 1) for family in range(46)}
    assert [family for family, action in families.items() if action != "allow"] == [38, 40]  # AF_ALG, AF_VSOCK
    assert {families[38], families[40]} == {"EPERM"}
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert said_of("clone", flag | 17) == said_of("clone", flag | 0x3D0F00) == "EPERM"
        assert said_of("clone", flag | 17, capabilities=("SYS_ADMIN",)) == "allow"
    assert said_of("clone", 17) == said_of("clone", 0x3D0F00) == "allow"  # of fork(), of pthread_create()
    assert [said_of("ioctl", 0, request) for request in (0x5412, 0x541C, 0x5401, 0x5413)] == ["EPERM", "EPERM", "allow", "allow"]
    good = {one: said_of("personality", one) for one in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF, 0x40000, 0x400000, 4, 9)}
    assert [one for one, action in good.items() if action == "allow"] == [0, 8, 0x20000, 0x20008, 0xFFFFFFFF]
    assert good[0x40000] == good[0x400000] == "EPERM"


@pytest.mark.parametrize("machine", MACHINES)
def test_what_spawn_still_has_to_do_is_let_through(machine):
    profile = seccomp.default(())
    assert all(seccomp.lets_through(profile, name) for name in (*seccomp.TO_EXEC, *seccomp.TO_DROP))
    assert set(seccomp.TO_EXEC + seccomp.TO_DROP) <= set(ARCHITECTURES[machine].numbers)


def test_a_program_is_short_and_knows_a_number_after_few_steps():
    """The kernel keeps what is allowed whatever the arguments are: it can, for these instructions."""
    for machine in MACHINES:
        program = seccomp.program(seccomp.default(DEFAULT_CAPABILITIES), machine)
        assert len(program) // bpf.SIZE < 200
        assert {row[0] for row in struct.iter_unpack("<HBBI", program)} <= {0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x06}


def test_jumps_that_a_byte_can_not_hold():
    """A tree whose lower half is long, at each depth."""
    rule = Rule(tuple(Check(0, "==", value, wide=True) for value in range(30)), TRAP)
    profile = Profile({name: Decision(EPERM, (rule,) * (1 + number % 3)) for number, name in enumerate(sorted(NAMES))})
    program = seccomp.program(profile, "x86_64")
    assert len(program) // bpf.SIZE > 4096
    small = Profile(dict(itertools.islice(profile.calls.items(), 12)))
    program = seccomp.program(small, "x86_64")
    assert any(row[0] == 0x05 for row in struct.iter_unpack("<HBBI", program))
    for number in numbers("x86_64"):
        assert run(program, data("x86_64", number)) == said(small, "x86_64", number, (0,) * 6)


LISTING = """\
   0  load architecture
   1  if == 0xc000003e go to 3, else 2
   2  return kill
   3  load number
   4  if >= 0x40000000 go to 5, else 6
   5  return ENOSYS
   6  if >= 0x3 go to 24, else 7  ; close
   7  if >= 0x1 go to 9, else 8  ; write
   8  return allow
   9  if >= 0x2 go to 17, else 10  ; open
  10  load arg0
  11  if >= 0x5 go to 12, else 16
  12  load arg1
  13  and 0x3
  14  if == 0x1 go to 16, else 15
  15  return trap
  16  return EPERM
  17  load arg2.high
  18  if > 0x1 go to 22, else 19
  19  if == 0x1 go to 20, else 23
  20  load arg2
  21  if > 0x2 go to 22, else 23
  22  return kill
  23  return log
  24  if >= 0x1a8 go to 28, else 25  ; pidfd_send_signal
  25  if >= 0x151 go to 27, else 26
  26  return allow
  27  return ENOSYS
  28  if >= 0x1d8 go to 30, else 29
  29  return allow
  30  return ENOSYS
"""


def test_a_small_profile_in_words():
    """Whole, so that a change of what is made of a profile is seen."""
    calls = {
        "write": Decision(EPERM, (Rule((Check(0, ">=", 5), Check(1, "!=", 0x1, 0x3)), TRAP),)),
        "open": Decision(LOG, (Rule((Check(2, ">", 0x100000002, wide=True),), KILL),)),
    }
    program = seccomp.program(Profile(calls, ALLOW), "x86_64")
    assert seccomp.listing(program, "x86_64") == LISTING.splitlines()


def test_every_machine_has_a_table_of_its_own_headers():
    """What this machine's C headers say, as far as they know."""
    path = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"
    if not os.path.exists(path):
        path = "/usr/include/asm/unistd_64.h"
    with open(path) as file:
        rows = [line.split() for line in file if line.startswith("#define __NR_")]
    assert {row[1].removeprefix("__NR_"): int(row[2]) for row in rows}.items() <= ARCHITECTURES["x86_64"].numbers.items()
