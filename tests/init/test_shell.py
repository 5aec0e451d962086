"""What a command of no service runs as: of a config, over a file, with what was asked for."""


import pytest

from pyinit.init import shell
from pyinit.init.shell import Wishes
from pyinit.model import Config, Container, InitSpec, Origin, Seccomp, Security, ServiceSpec

FILTER = Seccomp("default", program=b"12345678", capabilities=("CHOWN",), origin=Origin("a.toml", 5))
BOX = Container("web", "web", (), rlimits=(("nofile", 9, 10),), rlimits_origin=Origin("a.toml", 3), security=Security(no_new_privileges=True, seccomp=FILTER))
CONFIG = Config("/a.toml", InitSpec(environment=(("TZ", "UTC"),), strict=True), (), BOX)


def test_it_is_held_by_what_holds_the_containers_services():
    spec = shell.nameless(shell.basis(CONFIG), kill="cgroup")
    assert (spec.name, spec.user, spec.kill, spec.working_directory, spec.environment) == ("", "root", "cgroup", "/", ())
    assert (spec.process.rlimits, spec.process.no_new_privileges, spec.process.strict) == ((("nofile", 9, 10),), True, True)
    assert spec.process.seccomp == FILTER._replace(origin=Origin("exec", 0))
    assert dict(spec.process.origins) == {"rlimits": Origin("a.toml", 3)}


def test_without_a_container_it_is_as_the_supervisor():
    spec = shell.nameless(shell.basis(CONFIG._replace(container=None)), kill="group")
    assert (spec.process.rlimits, spec.process.no_new_privileges, spec.kill) == ((), False, "group")


def test_it_comes_over_a_file_as_it_was():
    basis = shell.basis(CONFIG)
    assert basis.environment == (("TZ", "UTC"),)
    assert shell.unpacked(shell.packed(CONFIG)) == basis


@pytest.mark.parametrize("data", [b"", b"x", b"()", b"1", b"('0.0.1 other', 1)", shell.packed(CONFIG)[:-1], b"\xff", b"(" * 1000, b"__import__('os')"])
def test_what_another_wrote_is_not_taken(data):
    with pytest.raises(ValueError):
        shell.unpacked(data)


@pytest.mark.parametrize(
    ("user", "wanted"),
    [
        ("", ("app", "", ("extra",))),
        ("app", ("app", "", ("extra",))),
        ("root", ("root", "", None)),
        ("0:5", ("0", "5", ())),
        ("app:app", ("app", "app", ())),
    ],
)
def test_another_user_has_their_own_groups(user, wanted):
    spec = shell.wished(ServiceSpec("a", ("x",), user="app", groups=("extra",)), Wishes(user))
    assert (spec.user, spec.group, spec.groups) == wanted


def test_a_folder_and_variables_come_last():
    spec = ServiceSpec("a", ("x",), environment=(("A", "1"),), working_directory="/a")
    found = shell.wished(spec, Wishes(directory="/b", environment=(("A", "2"),)))
    assert (found.working_directory, found.environment) == ("/b", (("A", "1"), ("A", "2")))
    assert shell.wished(spec, Wishes()) == spec
