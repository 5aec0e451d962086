"""pyinit.pyz as the entry point of an image that has nothing but Python, and of a runtime that gives next to nothing."""

import json
import pathlib
import re
import shutil
import signal

import pytest
import smallroot

pytest_plugins = ["runtime_fixtures"]
REPO = pathlib.Path(__file__).parents[3]
SERVICES = ["/usr/bin/pyinit", "--config", "/etc/pyinit/services.toml"]
ONE = ["/usr/bin/pyinit", "--config", "/etc/pyinit/one.toml"]
NO_CGROUP = "pyinit: no writable cgroup: what a service leaves behind is found by its session and environment\n"
NO_SOCKET = "pyinit: no verb can reach this init: "
# The end of a start of one service, whatever came before.
ENDED = "base: base up\npyinit: base: ready\n", "base: base ends\npyinit: base: stopped: TERM received\n"
UNPRIVILEGED = "pyinit: {name}: user root needs CAP_SETUID and CAP_SETGID, which we have not: it runs as what we are"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """python3-minimal with what it depends on, and no more."""
    return smallroot.lay(tmp_path_factory.mktemp("alone") / "root", smallroot.ALONE)


def test_all_of_it_on_a_read_only_root_with_a_run_that_executes_nothing(small, box):
    found = box(small, SERVICES)
    found.wait_for("base up", "top up", "REAPED 20", "loops: failed", "ask: done")
    status = json.loads("\n".join(line.removeprefix("ask: ") for line in found.output.splitlines() if line.startswith("ask: ")))
    assert {one["name"]: one["state"] for one in status["services"] if one["name"] != "loops"} == {
        "base": "ready", "top": "ready", "find": "done", "orphans": "done", "ask": "running",
    }  # fmt: skip
    assert found.stop() == 0
    assert [line for line in found.output.splitlines() if line.endswith(" ends")] == ["top: top ends", "base: base ends"]


def test_a_service_is_given_paths_of_ours_where_the_runtime_gives_no_variable_at_all(small, box):
    found = box(small, SERVICES)
    found.wait_for("FOUND ", "finder up")
    [line] = [line for line in found.output.splitlines() if "FOUND " in line]
    environment = json.loads(line.partition("FOUND ")[2])["environment"]
    environment.pop("PYINIT_SERVICE")
    assert environment == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/sh",
    }  # fmt: skip
    assert found.stop() == 0


LACKS = {
    "nothing": ({}, NO_CGROUP),
    "any uid": ({"user": "12345:12345"}, NO_CGROUP),
    "no writable directory": ({"mounts": ("proc", "dev")}, f"{NO_CGROUP}{NO_SOCKET}the control socket /run/pyinit/control.sock: /run/pyinit: Read-only file system\n"),
    "no /proc": ({"mounts": ("run", "dev")}, "pyinit: no /proc: what a service leaves behind is not found; let the runtime mount it\n"),
    "no stdin": ({"redirect": "<&-"}, NO_CGROUP),
    "a blocked TERM and ignored ones": ({"chroot": "/usr/bin/env --block-signal=TERM --ignore-signal=CHLD --ignore-signal=TERM /usr/sbin/chroot"}, NO_CGROUP),
}  # fmt: skip


@pytest.mark.parametrize("lack", LACKS)
def test_it_works_and_says_in_one_line_what_it_lacks(small, box, lack):
    keys, told = LACKS[lack]
    found = box(small, ONE, **keys)
    found.wait_for("pyinit: base: ready")
    assert found.stop() == 0
    assert sorted(found.output.splitlines()) == sorted((told + "".join(ENDED)).splitlines())


def test_without_any_standard_stream_it_works_unseen(small, box, tmp_path):
    """All three closed, and a service that tells by its exit code that it ran; no file of ours becomes anybody's 0, 1 or 2."""
    found = box(small, ["/usr/bin/pyinit", "--config", "/etc/pyinit/leaves.toml"], redirect="<&- >&- 2>&-")
    assert found.wait() == 7
    assert found.output == ""


def test_without_a_dev_null_it_says_so_and_leaves(small, box):
    found = box(small, ONE, mounts=("run", "proc"))
    assert found.wait() == 111
    assert found.output == "pyinit: no device /dev/null that can be read and written is here: let the runtime mount a /dev with the usual devices\n"


def test_without_a_shell_python_is_the_entry_point(small, box):
    found = box(small, ["/usr/bin/python3", "-IS", *ONE])
    found.wait_for("pyinit: base: ready")
    assert found.stop() == 0
    assert sorted(found.output.splitlines()) == sorted((NO_CGROUP + "".join(ENDED)).splitlines())


@pytest.mark.parametrize("words", [["--", "/bin/sh", "-c", "exit 7"], ["-g", "--", "/bin/sh", "-c", "exit 7"]])
def test_one_command_needs_no_more_than_python3_minimal(alone, box, words):
    found = box(alone, ["/usr/bin/pyinit", *words], mounts=())
    assert (found.wait(), found.output) == (7, "")


def test_services_need_the_standard_library_which_is_said_in_one_line(alone, box):
    found = box(alone, ONE)
    assert found.wait() == 111
    assert found.output == "pyinit: this Python has no module tomllib, which is of its standard library: install that (Debian: libpython3-stdlib), or a whole python3\n"


def test_a_launch_needs_more_than_one_file(small, box, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(small, root, symlinks=True, copy_function=shutil.os.link)
    (root / "etc/pyinit/box.toml").write_text('[container]\nlayers = ["/"]\n[services.a]\ncommand = ["/bin/sh"]\n')
    found = box(root, ["/bin/sh", "-c", "/usr/bin/pyinit --config /etc/pyinit/box.toml; exit $?"])
    assert found.wait() == 111
    assert found.output == (
        "pyinit: /etc/pyinit/box.toml: a [container] is launched by a pyinit that is installed, not by one in one file; or add --no-launch, to run its services\n"
    )


def test_an_init_is_told_to_stop_while_it_starts(small, box):
    """A stop that comes as early as can be is not lost: at the first byte of output."""
    found = box(small, ONE)
    found.wait_for("pyinit: no writable cgroup")
    assert found.stop(signal.SIGINT) == 0


def test_the_readme_has_these_packages_and_their_size(small, alone):
    readme = (REPO / "README.md").read_text()
    [(whole, megabytes)] = re.findall(r"`([a-z0-9 .+-]+)`: (\d+) MB with the program", readme)
    assert tuple(whole.split()) == smallroot.PACKAGES
    assert abs(int(megabytes) - smallroot.megabytes(small)) <= 2  # security updates
    [(less, megabytes)] = re.findall(r"without `([a-z0-9 .+-]+)`, (\d+) MB", readme)
    assert tuple(less.split()) == tuple(name for name in smallroot.PACKAGES if name not in smallroot.ALONE)
    assert abs(int(megabytes) - smallroot.megabytes(alone)) <= 2
