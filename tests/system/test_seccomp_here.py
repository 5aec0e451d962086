"""Real containers whose processes make the calls that a filter is about, and get what their profile says."""

import json
import pathlib
import platform
import shutil

import pytest
from conftest import REPO, make_busybox, verb, wait_until

from pyinit.core import seccomp
from pyinit.model import DEFAULT_CAPABILITIES

pytestmark = pytest.mark.usefixtures("nothing_left")
NAME = "pyinit-test"
X86 = platform.machine() == "x86_64"
ALLOWED = {"clone", "personality(0xffffffff)", "chroot", "ptrace", "socket(AF_INET)", "socket(AF_UNIX)", "ioctl(TIOCGWINSZ)"}
UNKNOWN = {"clone3", "a number without a name", *({"getpid of x32"} if X86 else ())}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> pathlib.Path:
    """A folder as the image: the host's Python is bound into it."""
    folder = make_busybox(tmp_path_factory.mktemp("seccomp") / "tree")
    for name in ("lib", "lib64"):
        (folder / name).symlink_to(f"usr/{name}")
    (folder / "usr").mkdir()
    shutil.copy(REPO / "tests/system/seccomp_probe.py", folder / "probe.py")
    return folder


def box(tree: pathlib.Path, security: str, services: str, more: str = "") -> str:
    return f"""
[init]
exit = "when-main-exits"
main = "probe"
[container]
name = "{NAME}"
layers = ["{tree}"]
{more}
[container.security]
{security}
[[container.mounts]]
type = "bind"
source = "/usr"
target = "/usr"
read_only = true
[services.probe]
command = ["/usr/bin/python3", "-B", "/probe.py"]
restart = "never"
log = {{ to = "stdout", timestamp = "none" }}
{services}
"""


def probed(bench, tree, security: str = "", services: str = "", more: str = "") -> tuple[dict[str, str], dict[str, str]]:
    """What each call came to, and the process's status."""
    started = bench.start(box(tree, security, services, more))
    assert started.wait() == 0, started.output
    [line] = [line.removeprefix("probe: ") for line in started.output.splitlines() if '{"calls"' in line]
    found = json.loads(line)
    return found["calls"], found["status"]


def expected(calls: dict[str, str]) -> dict[str, str]:
    """Of the default profile."""
    found = {name: "ok" if name in ALLOWED else "ENOSYS" if name in UNKNOWN else "EPERM" for name in calls}
    return {**found, **({"getpid of i386": "SIGSYS"} if X86 else {})}


@pytest.mark.parametrize("services", ["", "no_new_privileges = true", 'user = "app"', 'user = "app"\nno_new_privileges = true'])
def test_the_calls_of_a_service_get_what_the_default_profile_says(bench, tree, services):
    calls, status = probed(bench, tree, services=services)
    wanted = expected(calls)
    if "app" in services:  # the kernel asks for the capability, too
        wanted["chroot"] = "EPERM"
    assert calls == wanted
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1" if "true" in services else "0")


def test_without_a_filter_the_kernel_itself_answers(bench, tree):
    """The test of the test: what is refused above is there."""
    calls, status = probed(bench, tree, 'seccomp = "unconfined"')
    assert status["Seccomp"] == "0"
    harmful = ("unshare(CLONE_NEWUSER)", "clone(CLONE_NEWUSER)", "keyctl", "personality(READ_IMPLIES_EXEC)", "userfaultfd", "unshare(CLONE_FS)", "ioctl(TIOCSTI)")
    assert {name: calls[name] for name in harmful} == dict.fromkeys(harmful, "ok")
    assert calls["clone3"] in ("EINVAL", "EFAULT")
    differ = {name for name, answer in expected(calls).items() if answer != calls[name]}
    assert len(differ) > 20, calls


def test_log_mode_refuses_nothing(bench, tree):
    """As without a filter, but there is one."""
    free, _ = probed(bench, tree, 'seccomp = "unconfined"')
    calls, status = probed(bench, tree, "seccomp_log = true")
    assert calls == free
    assert status["Seccomp"] == "2"


def test_a_capability_brings_its_calls_along(bench, tree):
    """To a service that has it, and to no other."""
    security = f'capabilities = {json.dumps([*DEFAULT_CAPABILITIES, "SYS_ADMIN"])}'
    calls, _ = probed(bench, tree, security)
    wanted = expected(calls)
    differ = {name: answer for name, answer in calls.items() if answer != wanted[name]}
    brought = {"unshare(CLONE_NEWUSER)", "unshare(CLONE_FS)", "clone(CLONE_NEWUSER)", "clone(CLONE_NEWNS), a bit above"}
    assert {name for name, answer in differ.items() if answer == "ok"} == brought
    assert set(differ) >= {*brought, "mount", "umount2", "setns", "fsopen", "open_tree", "move_mount", "clone3", "sethostname", "bpf"}
    calls, _ = probed(bench, tree, security, f"capabilities = {json.dumps([*DEFAULT_CAPABILITIES])}")
    assert calls == expected(calls)


PROFILE = """\
allow = ["keyctl"]
deny = { ptrace = "EACCES", chroot = "kill" }
[[rules]]
calls = ["socket"]
when = ["arg0 == 2"]
action = "EPROTONOSUPPORT"
"""


def test_a_profile_of_ones_own(bench, tree):
    (bench.folder / "calls.toml").write_text(PROFILE)
    calls, _ = probed(bench, tree, services='seccomp = "./calls.toml"')
    assert calls == {**expected(calls), "keyctl": "ok", "ptrace": "EACCES", "chroot": "SIGSYS", "socket(AF_INET)": "EPROTONOSUPPORT"}


def test_hooks_probes_and_exec_have_the_filter(bench, tree):
    command = '["/bin/sh", "-c", "grep Seccomp: /proc/self/status | sed s/Seccomp:/{}/"]'
    (tree / "bin/sed").exists() or (tree / "bin/sed").symlink_to("busybox")
    services = f"""
[services.long]
command = ["/bin/sleep", "1000"]
pre_start = [{command.format("pre_start")}]
post_start = {command.format("post_start")}
ready = {{ exec = {command.format("ready")} }}
log = {{ to = "stdout", timestamp = "none" }}
[services.free]
command = ["/bin/sleep", "1000"]
seccomp = "unconfined"
"""
    started = bench.start(box(tree, "", services).replace('exit = "when-main-exits"\nmain = "probe"\n', ""))
    started.wait_for("pyinit: long: ready")
    for name in ("pre_start", "post_start", "ready"):
        started.wait_for(f"long: {name}\t2")
    for name, answer in (("long", "2"), ("free", "0")):
        done = verb("exec", "-c", NAME, name, "--", "/bin/grep", "Seccomp:", "/proc/self/status")
        assert (done.returncode, done.stdout) == (0, f"Seccomp:\t{answer}\n")
    pid = int(pathlib.Path(f"/run/pyinit/{NAME}/pid").read_text())
    assert "\nSeccomp:\t0\n" in pathlib.Path(f"/proc/{pid}/status").read_text()  # PID 1 itself
    assert started.stop() == 0


def test_an_init_of_the_image_has_the_containers(bench, tree):
    (tree / "init").write_text("#!/usr/bin/python3 -B\nimport sys\nsys.path.insert(0, '/')\nimport probe\nprobe.main()\n")
    (tree / "init").chmod(0o755)
    config = box(tree, "", "", 'init = "/init"')
    started = bench.start(config[config.index("[container]") : config.index("[services.probe]")])
    assert started.wait() == 0, started.output
    found = json.loads(started.output[started.output.index('{"calls"') :].splitlines()[0])
    assert found["calls"] == expected(found["calls"])
    assert found["status"]["Seccomp"] == "2"


def test_an_ordinary_user_gets_a_filter_with_no_new_privileges(bench, tmp_path):
    """A plain supervisor without root."""
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    head = f'[init]\nstate_dir = "{tmp_path}/state"\nlog_dir = "{tmp_path}/log"\ncontrol_socket = "{tmp_path}/s"\nexit = "when-main-exits"\nmain = "a"\n'
    service = '[services.a]\ncommand = ["/bin/grep", "-E", "^(NoNewPrivs|Seccomp):", "/proc/self/status"]\nrestart = "never"\nseccomp = "default"\nlog = { to = "stdout", timestamp = "none" }\n'
    started = bench.start(head + service, user=65534, group=65534, extra_groups=[], environment={"XDG_RUNTIME_DIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"})
    assert started.wait() == 0, started.output
    path = bench.folder / "services.toml"
    why = "needs CAP_SYS_ADMIN, which pyinit doesn't have here, or no_new_privileges = true; it gets no_new_privileges"
    assert f"pyinit: {path}:10: seccomp: {why}\n" in started.output
    assert started.output.endswith("a: NoNewPrivs:\t1\na: Seccomp:\t2\n") or "a: NoNewPrivs:\t1\na: Seccomp:\t2\n" in started.output


def test_a_service_of_32_bits_dies_of_sys_and_that_is_said(bench, tree):
    if not X86:
        return
    services = '[services.old]\ncommand = ["/usr/bin/python3", "-B", "-c", "import sys; sys.path.insert(0, \'/\'); import os, probe; os.fork = lambda: 0; probe.of_32_bits()"]\nrestart = "never"\n'
    started = bench.start(box(tree, "", services).replace('exit = "when-main-exits"\nmain = "probe"\n', ""))
    started.wait_for("old: ")
    wait_until(lambda: "killed by SYS" in verb("status", "-c", NAME).stdout, "its death")
    assert started.stop() == 0


def test_the_web_services_run_under_the_default():
    """test_web.py has nginx, sshd with a terminal and php-fpm: its example asks for no other filter."""
    text = (REPO / "examples/web/services.toml").read_text() + "".join(path.read_text() for path in (REPO / "services").glob("*.toml"))
    assert "seccomp" not in text
    assert seccomp.default(DEFAULT_CAPABILITIES).calls["mount"].action == seccomp.EPERM


def test_show_of_a_config(bench, tree):
    path = bench.write(box(tree, "", 'capabilities = []\n[services.free]\ncommand = "x"\nseccomp = "unconfined"\n'))
    done = verb("seccomp", "show", "--json", "--config", str(path), "probe")
    found = json.loads(done.stdout)
    assert (found["profile"], found["calls"]["chroot"]) == ("default", {"number": found["calls"]["chroot"]["number"], "action": "EPERM", "rules": []})
    assert "bpf" not in found
    container = json.loads(verb("seccomp", "show", "--json", "--bpf", "--config", str(path)).stdout)
    assert container["calls"]["chroot"]["action"] == "allow"
    assert len(container["bpf"]) == container["instructions"]
    assert verb("seccomp", "show", "--config", str(path), "free").stdout == "unconfined: every system call is let through\n"
    done = verb("seccomp", "show", "--config", str(path), "prob")
    assert (done.returncode, done.stderr) == (1, "pyinit: prob: no such service; did you mean probe?\n")
