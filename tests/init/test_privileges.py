"""What can't be granted: clamped with a warning, or refused."""

import pytest

from pyinit.init.privileges import Have, RefusedError, fit
from pyinit.model import Origin, ProcessSpec, Seccomp, ServiceSpec

ALL = frozenset({"SYS_RESOURCE", "SYS_NICE", "SYS_ADMIN", "SYS_CHROOT", "SETPCAP", "KILL"})
NOTHING = Have(frozenset(), ALL, {"nofile": 1024, "core": -1}, 0, 0, frozenset({0, 1}))
EVERYTHING = NOTHING._replace(capabilities=ALL)
WISHES = {
    "rlimits": ((("nofile", 4096, -1),), (("nofile", 1024, 1024),), "nofile = unlimited needs CAP_SYS_RESOURCE, for the hard limit here is 1024", "it gets 1024"),
    "nice": (-5, None, "needs CAP_SYS_NICE, which pyinit doesn't have here", "it gets 0"),
    "oom_score_adj": (-500, None, "needs CAP_SYS_RESOURCE, which pyinit doesn't have here", "it gets 0"),
    "private_tmp": (True, False, "needs CAP_SYS_ADMIN, which pyinit doesn't have here", "it shares /tmp with the others"),
    "read_only_paths": (("/etc",), (), "needs CAP_SYS_ADMIN, which pyinit doesn't have here", "they stay as they are"),
    "capabilities": (("KILL",), None, "needs CAP_SETPCAP, which pyinit doesn't have here", "the bounding set stays as it is"),
    "ambient_capabilities": (("KILL",), (), "pyinit doesn't have KILL here", "it goes without"),
}  # fmt: skip


def service(key, value, *, strict=False):
    process = ProcessSpec(**{key: value}, strict=strict, origins=((key, Origin("s.toml", 7)),))
    return ServiceSpec("app", ("x",), process=process)


@pytest.mark.parametrize(("key", "wish"), WISHES.items())
def test_a_wish(key, wish):
    value, instead, lack, words = wish
    spec = service(key, value)
    assert fit(spec, EVERYTHING) == (spec.process, [])
    found, warnings = fit(spec, NOTHING)
    assert (getattr(found, key), warnings) == (instead, [f"s.toml:7: {key}: {lack}; {words}"])
    with pytest.raises(RefusedError) as caught:
        fit(service(key, value, strict=True), NOTHING)
    assert str(caught.value) == f"s.toml:7: {key}: {lack}"


def test_a_chroot_is_never_left_out():
    with pytest.raises(RefusedError) as caught:
        fit(service("chroot", "/jail"), NOTHING)
    assert (str(caught.value), caught.value.stage) == ("s.toml:7: chroot: needs CAP_SYS_CHROOT, which pyinit doesn't have here", "chroot")


@pytest.mark.parametrize(("cpus", "there", "words"), [((0, 7), (0,), "it runs on 0"), ((8,), (), "it runs on all")])
def test_cpus_that_are_not_there(cpus, there, words):
    found, warnings = fit(service("cpu_affinity", cpus), EVERYTHING)
    assert (found.cpu_affinity, warnings) == (there, [f"s.toml:7: cpu_affinity: CPU {cpus[-1]} can't be used here; {words}"])


FILTER = Seccomp("default", program=b"12345678", origin=Origin("s.toml", 3))


def filtered(*, strict=False, **more):
    return ServiceSpec("app", ("x",), process=ProcessSpec(seccomp=FILTER, strict=strict, **more))


def test_a_filter_without_the_capability_takes_no_new_privileges():
    """More confined than asked for, never less."""
    assert fit(filtered(), EVERYTHING) == (filtered().process, [])
    assert fit(filtered(no_new_privileges=True), NOTHING) == (filtered(no_new_privileges=True).process, [])
    found, warnings = fit(filtered(), NOTHING)
    why = "s.toml:3: seccomp: needs CAP_SYS_ADMIN, which pyinit doesn't have here, or no_new_privileges = true"
    assert (found, warnings) == (filtered(no_new_privileges=True).process, [f"{why}; it gets no_new_privileges"])
    with pytest.raises(RefusedError) as caught:
        fit(filtered(strict=True), NOTHING)
    assert (str(caught.value), caught.value.stage) == (why, "seccomp")


def test_a_filter_where_the_kernel_has_none():
    have = EVERYTHING._replace(filters=False)
    why = 's.toml:3: seccomp: this kernel was built without filters (CONFIG_SECCOMP_FILTER); run another, or write seccomp = "unconfined"'
    found, warnings = fit(filtered(), have)
    assert (found, warnings) == (ProcessSpec(), [f"{why}; every system call is let through"])
    with pytest.raises(RefusedError) as caught:
        fit(filtered(strict=True), have)
    assert str(caught.value) == why
    assert fit(ServiceSpec("app", ("x",)), have) == (ProcessSpec(), [])


def test_what_needs_nothing_is_granted_to_all():
    process = ProcessSpec(nice=5, oom_score_adj=100, rlimits=(("nofile", 10, 20),), cpu_affinity=(1,))
    assert fit(ServiceSpec("app", ("x",), process=process), NOTHING) == (process, [])
