"""What of a service's wishes this init can grant.

Owns the comparison, and what is done about a lack: warn and clamp, or with `strict` refuse. Must not know processes.
Laws: `fit` is pure; what would make a service less confined than its config says (chroot, user) is never clamped, but for a
filter where the kernel has none.
"""

import errno
import os
import resource

from pyinit.linux import caps, seccomp
from pyinit.model import Origin, ProcessSpec, Seccomp, ServiceSpec
from pyinit.records import NamedTuple


class RefusedError(Exception):
    """A step before fork that has no errno of its own to raise."""

    def __init__(self, stage: str, number: int, message: str) -> None:
        super().__init__(message)
        self.stage, self.number = stage, number


class Have(NamedTuple):
    """What this process may do: capabilities, hard limits by name (-1: none), niceness, OOM score, CPUs, filters."""

    capabilities: frozenset[str]
    bounding: frozenset[str]
    hard_limits: dict[str, int]
    nice: int
    oom_score_adj: int
    cpus: frozenset[int]
    filters: bool = True
    landlock_abi: int = -1  # -1: nobody has asked yet


def read_have() -> Have:
    limits = {}
    for name in dir(resource):
        if name.startswith("RLIMIT_"):
            limits[name.removeprefix("RLIMIT_").lower()] = resource.getrlimit(getattr(resource, name))[1]
    try:
        with open("/proc/self/oom_score_adj", "rb", buffering=0) as file:
            score = int(file.read(16))
    except OSError:
        score = 0
    return Have(
        caps.effective_set(), caps.bounding_set(), limits, os.getpriority(os.PRIO_PROCESS, 0), score,
        frozenset(os.sched_getaffinity(0)), seccomp.is_there(),
    )  # fmt: skip


class _Fitting:
    def __init__(self, spec: ServiceSpec, have: Have) -> None:
        self.origins = {"seccomp": spec.process.seccomp.origin, **dict(spec.process.origins)}  # its key may be the container's
        self.spec = spec
        self.have = have
        self.warnings: list[str] = []

    def lack(self, key: str, text: str, instead: str, stage: str, part: str = "") -> None:
        """What can't be had, and what is done instead; with `strict`, nothing is. A part may stand elsewhere: in [container]."""
        origin: Origin = self.origins.get(f"{key}.{part}", self.origins.get(key, self.spec.origin))
        if self.spec.process.strict or not instead:
            raise RefusedError(stage, errno.EPERM, f"{origin}: {key}: {text}")
        self.warnings.append(f"{origin}: {key}: {text}; {instead}")

    def needs(self, capability: str, key: str, instead: str, stage: str) -> bool:
        if capability in self.have.capabilities:
            return True
        self.lack(key, f"needs CAP_{capability}, which pyinit doesn't have here", instead, stage)
        return False


def fit(spec: ServiceSpec, have: Have) -> tuple[ProcessSpec, list[str]]:
    """The process as it can be had, and a warning for each lack; RefusedError if one is not to be clamped."""
    it, wanted = _Fitting(spec, have), spec.process
    if wanted.chroot:
        it.needs("SYS_CHROOT", "chroot", "", "chroot")
    wanted = wanted._replace(
        rlimits=tuple(_limit(it, *one) for one in wanted.rlimits),
        nice=_nice(it, wanted.nice),
        oom_score_adj=_score(it, wanted.oom_score_adj),
        cpu_affinity=_cpus(it, wanted.cpu_affinity),
        ambient_capabilities=_ambient(it, wanted.ambient_capabilities),
    )
    if wanted.private_tmp and not it.needs("SYS_ADMIN", "private_tmp", "it shares /tmp with the others", "mounts"):
        wanted = wanted._replace(private_tmp=False)
    if wanted.read_only_paths and not it.needs("SYS_ADMIN", "read_only_paths", "they stay as they are", "mounts"):
        wanted = wanted._replace(read_only_paths=())
    if wanted.landlock is not None:
        wanted = _landlock(it, wanted)
    drops = wanted.capabilities is not None and bool(have.bounding - set(wanted.capabilities))
    if drops and not it.needs("SETPCAP", "capabilities", "the bounding set stays as it is", "capabilities"):
        wanted = wanted._replace(capabilities=None)
    return _filtered(it, wanted), it.warnings


def _filtered(it: _Fitting, wanted: ProcessSpec) -> ProcessSpec:
    """Without the capability, no_new_privs is what the kernel asks for, and confines more."""
    if not wanted.seccomp.program:
        return wanted
    if not it.have.filters:
        what = "this kernel was built without filters (CONFIG_SECCOMP_FILTER); run another, or write seccomp = \"unconfined\""
        it.lack("seccomp", what, "every system call is let through", "seccomp")
        return wanted._replace(seccomp=Seccomp())
    if not wanted.no_new_privileges and "SYS_ADMIN" not in it.have.capabilities:
        what = "needs CAP_SYS_ADMIN, which pyinit doesn't have here, or no_new_privileges = true"
        it.lack("seccomp", what, "it gets no_new_privileges", "seccomp")
        return wanted._replace(no_new_privileges=True)
    return wanted


def _limit(it: _Fitting, name: str, soft: int, hard: int) -> tuple[str, int, int]:
    most = it.have.hard_limits.get(name, -1)
    over = most != -1 and (hard == -1 or hard > most)
    if not over or "SYS_RESOURCE" in it.have.capabilities:
        return name, soft, hard
    wanted = "unlimited" if hard == -1 else str(hard)
    it.lack("rlimits", f"{name} = {wanted} needs CAP_SYS_RESOURCE, for the hard limit here is {most}", f"it gets {most}", "rlimits", name)
    return name, most if soft == -1 else min(soft, most), most


def _nice(it: _Fitting, nice: int | None) -> int | None:
    if nice is None or nice >= it.have.nice or it.needs("SYS_NICE", "nice", f"it gets {it.have.nice}", "scheduling"):
        return nice
    return None


def _score(it: _Fitting, score: int | None) -> int | None:
    own = it.have.oom_score_adj
    if score is None or score >= own or it.needs("SYS_RESOURCE", "oom_score_adj", f"it gets {own}", "scheduling"):
        return score
    return None


def _cpus(it: _Fitting, cpus: tuple[int, ...]) -> tuple[int, ...]:
    there = tuple(cpu for cpu in cpus if cpu in it.have.cpus)
    if there != cpus:
        missing = ", ".join(str(cpu) for cpu in cpus if cpu not in there)
        instead = f"it runs on {', '.join(map(str, there))}" if there else "it runs on all"
        it.lack("cpu_affinity", f"CPU {missing} can't be used here", instead, "scheduling")
    return there


def _ambient(it: _Fitting, names: tuple[str, ...]) -> tuple[str, ...]:
    had = tuple(name for name in names if name in it.have.capabilities)
    if had != names:
        missing = ", ".join(name for name in names if name not in had)
        it.lack("ambient_capabilities", f"pyinit doesn't have {missing} here", "it goes without", "capabilities")
    return had


def _landlock(it: _Fitting, wanted: ProcessSpec) -> ProcessSpec:
    """The kernel takes it from who has CAP_SYS_ADMIN, or gives up new privileges."""
    rules, abi = wanted.landlock, it.have.landlock_abi
    assert rules is not None
    if abi <= 0:
        it.lack("landlock", "this kernel has no Landlock, or was started without it (lsm=)", "it runs without", "landlock")
        return wanted._replace(landlock=None)
    lacks = [word for since, word, is_wanted in (
        (3, "truncation", rules.ro or rules.rw), (5, "ioctls of devices", rules.ro or rules.rw),
        (4, "TCP ports", rules.tcp_bind is not None or rules.tcp_connect is not None), (6, "scope", rules.scope),
    ) if is_wanted and abi < since]  # fmt: skip
    if lacks:
        it.lack("landlock", f"this kernel's Landlock (ABI {abi}) can't restrict {', '.join(lacks)}", "that stays as it is", "landlock")
    if "SYS_ADMIN" in it.have.capabilities or wanted.no_new_privileges:
        return wanted
    if "no_new_privileges" in it.origins:
        text = "needs CAP_SYS_ADMIN, which pyinit doesn't have here, or no_new_privileges = true"
        it.lack("landlock", text, "it gets no new privileges", "landlock")
    return wanted._replace(no_new_privileges=True)
