"""A service's `landlock`: what it means to this kernel and to older ones, and a child that has taken it on."""

import pytest
from test_privileges import EVERYTHING, NOTHING, service
from test_spawn import no_open_fds, run  # noqa: F401 - the first is a fixture

from pyinit.init import confinement, spawn
from pyinit.init.privileges import RefusedError, fit
from pyinit.linux import landlock as ll
from pyinit.model import Landlock, Origin

ALL = Landlock(("/usr", "-/lib64"), ("/data",), (80,), (), ("signals",))
NEWEST = 7
SYSTEM = ("/usr", "/etc", "-/bin", "-/lib", "-/lib64")


@pytest.mark.parametrize(
    ("abi", "files", "net", "scoped"),
    [(1, 0x1FFF, 0, 0), (2, 0x3FFF, 0, 0), (3, 0x7FFF, 0, 0), (4, 0x7FFF, 3, 0), (5, 0xFFFF, 3, 0), (6, 0xFFFF, 3, 2), (NEWEST, 0xFFFF, 3, 2)],
)
def test_no_abi_is_asked_for_what_it_does_not_have(abi, files, net, scoped):
    read = ll.EXECUTE | ll.READ_FILE | ll.READ_DIR
    assert confinement.rules(ALL, abi) == confinement.Rules(
        files, net, scoped, (("/usr", read, False), ("/lib64", read, True), ("/data", files, False)), ((1, 80),) if net else ()
    )


def test_what_nobody_asks_for_stays_as_it_is():
    assert confinement.rules(Landlock(tcp_connect=(5432,)), NEWEST) == confinement.Rules(0, 2, 0, (), ((2, 5432),))
    assert confinement.rules(Landlock(scope=("abstract_sockets", "signals")), NEWEST) == confinement.Rules(0, 0, 3, (), ())


CANT = "s.toml:7: landlock: this kernel's Landlock (ABI {}) can't restrict {}"


@pytest.mark.parametrize(
    ("abi", "text"),
    [
        (1, CANT.format(1, "truncation, ioctls of devices, TCP ports, scope")), (3, CANT.format(3, "ioctls of devices, TCP ports, scope")),
        (5, CANT.format(5, "scope")), (NEWEST, ""),
    ],
)  # fmt: skip
def test_what_this_kernel_can_not_hold_is_one_warning_or_with_strict_an_error(abi, text):
    have = EVERYTHING._replace(landlock_abi=abi)
    assert fit(service("landlock", ALL), have) == (service("landlock", ALL).process, [f"{text}; that stays as it is"] if text else [])
    if text:
        with pytest.raises(RefusedError) as caught:
            fit(service("landlock", ALL, strict=True), have)
        assert (str(caught.value), caught.value.stage) == (text, "landlock")
    assert fit(service("landlock", Landlock(tcp_bind=())), have._replace(landlock_abi=4))[1] == []


def test_a_kernel_without_it():
    found, warnings = fit(service("landlock", ALL), EVERYTHING._replace(landlock_abi=0))
    lack = "s.toml:7: landlock: this kernel has no Landlock, or was started without it (lsm=)"
    assert (found.landlock, warnings) == (None, [f"{lack}; it runs without"])
    with pytest.raises(RefusedError, match=r"^s.toml:7: landlock: this kernel has no Landlock"):
        fit(service("landlock", ALL, strict=True), EVERYTHING._replace(landlock_abi=0))


def test_without_privileges_there_are_no_new_ones_either():
    have = NOTHING._replace(landlock_abi=NEWEST)
    found, warnings = fit(service("landlock", ALL), have)
    assert (found.no_new_privileges, found.landlock, warnings) == (True, ALL, [])
    spec = service("landlock", ALL)
    said = spec._replace(process=spec.process._replace(origins=(*spec.process.origins, ("no_new_privileges", Origin("s.toml", 8)))))
    lack = "s.toml:7: landlock: needs CAP_SYS_ADMIN, which pyinit doesn't have here, or no_new_privileges = true"
    assert fit(said, have)[1] == [f"{lack}; it gets no new privileges"]
    with pytest.raises(RefusedError) as caught:
        fit(said._replace(process=said.process._replace(strict=True)), have)
    assert str(caught.value) == lack


def confined(script: str, wanted: Landlock, **keys) -> tuple[list[str], bytes]:
    _, output, report = run("/bin/sh", "-c", script, landlock=confinement.rules(wanted, ll.abi()), **keys)
    return output.decode().splitlines(), report


def test_a_child_reads_and_runs_what_is_ro_and_does_all_to_what_is_rw(tmp_path):
    (tmp_path / "rw").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").write_text("x")
    script = f"""cd {tmp_path}
    ls rw && echo a > rw/a && mkdir rw/b && mv rw/a rw/b/a && rm -r rw/b && echo done
    echo more >> file && cat file
    cat other || echo unread; ls . || echo unlisted; echo > /etc/passwd || echo unwritten; ls / || echo no root"""
    wanted = Landlock(SYSTEM, (f"{tmp_path}/rw", f"{tmp_path}/file", "/dev/null"))
    for keys in ({}, {"no_new_privileges": True}):
        assert confined(f"exec 2>/dev/null; {script}", wanted, **keys) == (["done", "xmore", "unread", "unlisted", "unwritten", "no root"], b"")
        (tmp_path / "file").write_text("x")


def test_paths_are_those_of_the_childs_own_root(tmp_path):
    (tmp_path / "in").mkdir()
    report = run("/in/sh", chroot=str(tmp_path), landlock=confinement.rules(Landlock(("/in",)), ll.abi()))[2]
    assert spawn.read_failure(report) == ("exec", 2)
    report = run("/in/sh", chroot=str(tmp_path), landlock=confinement.rules(Landlock(("/usr",)), ll.abi()))[2]
    assert spawn.read_failure(report) == ("landlock", 2)


def test_what_may_be_missing_is_let_go_and_what_may_not_is_an_error():
    assert confined("echo up", Landlock((*SYSTEM, "-/not/there"))) == (["up"], b"")
    said, report = confined("echo up", Landlock((*SYSTEM, "/not/there")))
    assert (said, spawn.read_failure(report)) == ([], ("landlock", 2))


def test_a_command_that_may_not_be_executed_is_not():
    said, report = confined("echo up", Landlock(("/etc",)))
    assert (said, spawn.read_failure(report)) == ([], ("exec", 13))
