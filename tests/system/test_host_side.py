"""What comes along with a container on the host: sysctls, limits, hooks."""

import os
import pathlib
import signal

import pytest
from conftest import leftovers, wait_until
from test_container import VETH, config, said

pytestmark = pytest.mark.usefixtures("nothing_left")
HOLD = "trap exit TERM; echo up; while :; do sleep 0.02; done"


def line_of(bench, text: str) -> str:
    """Where it stands: `pyinit: FILE:LINE`."""
    lines = (bench.folder / "services.toml").read_text().splitlines()
    return f"pyinit: {bench.folder}/services.toml:{next(n for n, line in enumerate(lines, 1) if text in line)}"


SYSCTL = """
[container.sysctl]
"net.ipv4.ip_unprivileged_port_start" = 0
"net/ipv4/ip_forward" = 1
"kernel.shmmax" = 123456789
"kernel.sem" = "250 256000 32 1024"
"fs.mqueue.msg_max" = "20"
"kernel.domainname" = "example.org"
"""
PATHS = ("net/ipv4/ip_unprivileged_port_start", "net/ipv4/ip_forward", "kernel/shmmax", "kernel/sem", "fs/mqueue/msg_max", "kernel/domainname")


def test_sysctls_are_the_containers_and_not_the_hosts(bench, busybox):
    before = [pathlib.Path("/proc/sys", path).read_text() for path in PATHS]
    box = bench.start(config(busybox, "cd /proc/sys; cat " + " ".join(PATHS) + "; touch net/ipv4/ip_forward && echo 0 > net/ipv4/ip_forward", SYSCTL))
    assert box.wait() == 1  # read-only, as all of /proc/sys
    assert [line.replace("\t", " ") for line in said(box)[:6]] == ["0", "1", "123456789", "250 256000 32 1024", "20", "example.org"]
    assert [pathlib.Path("/proc/sys", path).read_text() for path in PATHS] == before


def test_with_port_0_an_ordinary_user_binds_port_80(bench, busybox):
    sysctl = '[container.sysctl]\n"net.ipv4.ip_unprivileged_port_start" = 0\n'
    box = bench.start(config(busybox, "nc -l -p 80 -w 1 2>&1; echo $?", sysctl, 'user = "app"\n'))
    assert box.wait() == 0
    assert "bind" not in box.output


def test_a_sysctl_of_the_network_is_set_once_its_link_is_there(bench, busybox):
    sysctl = '[container.sysctl]\n"net.ipv4.conf.host0.rp_filter" = 2\n"net.ipv4.conf.default.rp_filter" = 1\n'
    box = bench.start(config(busybox, "cd /proc/sys/net/ipv4/conf; cat host0/rp_filter default/rp_filter", VETH.format(address="10.92.7.2") + sysctl))
    assert box.wait() == 0
    assert said(box) == ["2", "1"]


@pytest.mark.parametrize(("entry", "text"), [
    ('"net.ipv4.no_such_thing" = 1', "set the sysctl net.ipv4.no_such_thing to 1: this kernel has no such setting; mend its name, or load the module that it belongs to"),
    ('"net.ipv4.ip_forward" = "many"', "set the sysctl net.ipv4.ip_forward to many: the kernel refuses that value: Invalid argument"),
])  # fmt: skip
def test_a_sysctl_that_can_t_be_set(bench, busybox, entry, text):
    box = bench.start(config(busybox, "true", f"[container.sysctl]\n{entry}\n"))
    assert box.wait() == 111
    assert box.output == f"{line_of(bench, entry)}: {text}\n"


LIMITS = "rlimits = { nofile = 4321, core = 0, nproc = { soft = 1000, hard = 2000 } }\n"
SHOW = "grep -E 'open files|core file|processes' /proc/self/limits"


def limits(lines) -> dict[str, list[str]]:
    return {" ".join(words[:-3]): words[-3:-1] for words in (line.split() for line in lines) if words[0] == "Max"}


def test_limits_of_the_container_are_its_services_and_not_pid_1s(bench, busybox):
    other = '[services.other]\ncommand = ["sh", "-c", "grep open.files /proc/self/limits; sleep 1000"]\nrlimits = { nofile = 99 }\nlog = { to = "stdout", timestamp = "none" }\n'
    box = bench.start(config(busybox, f"{SHOW}; {HOLD}", LIMITS, other))
    box.wait_for("app: up")
    box.wait_for("other: Max")
    pid = pathlib.Path("/run/pyinit/pyinit-test/pid").read_text().strip()
    own = limits(pathlib.Path(f"/proc/{pid}/limits").read_text().splitlines())
    assert limits(said(box)) == {"Max core file size": ["0", "0"], "Max processes": ["1000", "2000"], "Max open files": ["4321", "4321"]}
    assert limits(said(box, "other")) == {"Max open files": ["99", "99"]}
    assert own["Max open files"][1] not in ("4321", "99")
    assert own["Max processes"][1] != "2000"
    assert box.stop() == 0


TOO_MUCH = 'rlimits = { nofile = "unlimited" }\n'


def test_a_limit_that_can_t_be_had_is_clamped_with_one_warning_or_refused(bench, busybox):
    other = '[services.other]\ncommand = ["sleep", "1000"]\n'
    box = bench.start(config(busybox, HOLD, TOO_MUCH, other))
    box.wait_for("app: up")
    assert box.stop() == 0
    where = line_of(bench, "rlimits")
    assert box.output.count(f"{where}: rlimits: nofile = unlimited needs CAP_SYS_RESOURCE") == 1
    strict = bench.start(config(busybox, HOLD, TOO_MUCH).replace("[init]", "[init]\nstrict = true") + 'restart = "never"\n')
    assert strict.wait() == 111
    assert f"app: failed: {where.removeprefix('pyinit: ')}: rlimits: nofile = unlimited needs CAP_SYS_RESOURCE" in strict.output


def init_of_the_image(busybox, limits: str, *, strict: str = "false") -> str:
    return f'[container]\nname = "pyinit-test"\nlayers = ["{busybox}", "top"]\ninit = "/init"\n{limits}[init]\nstrict = {strict}\n'


def test_an_init_of_the_image_has_the_limits_itself(bench, busybox):
    top = bench.folder / "top"
    top.mkdir()
    (top / "init").write_text(f"#!/bin/sh\n{SHOW}\n")
    (top / "init").chmod(0o755)
    box = bench.start(init_of_the_image(busybox, LIMITS))
    assert box.wait() == 0
    assert limits(box.output.splitlines())["Max open files"] == ["4321", "4321"]
    clamped = bench.start(init_of_the_image(busybox, TOO_MUCH))
    assert clamped.wait() == 0
    what = f"{line_of(bench, 'rlimits')}: rlimits: nofile = unlimited needs CAP_SYS_RESOURCE, for the hard limit here is "
    assert what in clamped.output
    strict = bench.start(init_of_the_image(busybox, TOO_MUCH, strict="true"))
    assert strict.wait() == 111
    assert strict.output.startswith(what)
    assert strict.output.count("\n") == 1


def hooked(busybox, command: str, hooks: str, more: str = "") -> str:
    return config(busybox, command, f"{more}[container.hooks]\n{hooks}\n")


def sh(script: str) -> str:
    return f"['/bin/sh', '-c', '''{script}''']"


def test_prestart_has_a_built_container_with_its_network_and_no_service_yet(bench, busybox):
    look = "cat /proc/$PYINIT_PID/comm > seen; nsenter --net=/proc/$PYINIT_PID/ns/net ip -o -4 addr show host0 >> seen; ls /proc/$PYINIT_PID/root/bin/busybox >> seen; cat /proc/$PYINIT_PID/task/*/children >> seen; echo hook; ls -d /sys/fs/cgroup/unified/pyinit-$PYINIT_NAME* > groups 2>&1"
    gone = "echo $PYINIT_PID. $PYINIT_NAME > after; ls -d /proc/$(cat pid) /sys/class/net/ve-pyinit-te* >> after 2>&1; true"
    hooks = f"prestart = [{sh('echo $PYINIT_PID > pid')}, {sh(look)}]\npoststop = [{sh(gone)}]"
    box = bench.start(hooked(busybox, HOLD, hooks, VETH.format(address="10.92.7.2")))
    box.wait_for("app: up")
    assert box.output.index("hook\n") < box.output.index("app: up")
    pid = (bench.folder / "pid").read_text().strip()
    assert pid == pathlib.Path("/run/pyinit/pyinit-test/pid").read_text().strip()
    seen = (bench.folder / "seen").read_text().splitlines()
    assert (seen[0], seen[2:]) == ("pyinit", [f"/proc/{pid}/root/bin/busybox"])
    assert "10.92.7.2/24" in seen[1]
    assert not (bench.folder / "after").exists()
    assert box.stop() == 0
    after = (bench.folder / "after").read_text().splitlines()
    assert after[0] == ". pyinit-test"
    assert len(after) == 3
    assert all("No such file" in line for line in after[1:])


def test_a_prestart_that_fails_ends_the_container_and_says_why(bench, busybox):
    text = hooked(busybox, "echo never", f"prestart = [\n{sh('echo first; exit 0')},\n{sh('echo why >&2; exit 3')},\n]\npoststop = {sh('echo last')}")
    box = bench.start(text)
    assert box.wait() == 111
    where = line_of(bench, "exit 3")
    assert box.output == f"first\nwhy\nlast\n{where}: container.hooks.prestart: /bin/sh -c echo why >&2; exit 3: exit code 3: why\n"


def test_a_prestart_that_takes_too_long_is_killed_with_its_group(bench, busybox):
    text = hooked(busybox, "echo never", f'timeout = "300ms"\nprestart = [{sh("sleep 1000 & echo $! > child; sleep 1000")}]')
    box = bench.start(text)
    assert box.wait() == 111
    assert box.output == (
        f"{line_of(bench, 'prestart')}: container.hooks.prestart: /bin/sh -c sleep 1000 & echo $! > child; sleep 1000: "
        "killed, for it took longer than 0.3 s\n"
    )
    child = pathlib.Path("/proc", (bench.folder / "child").read_text().strip())
    wait_until(lambda: not child.exists(), "the end of what the hook left")


def test_a_stop_while_a_prestart_runs_is_an_end_in_order(bench, busybox):
    box = bench.start(hooked(busybox, "echo never", f"prestart = {sh('echo hook; exec sleep 1000')}\npoststop = {sh('echo last')}"))
    box.wait_for("hook")
    assert box.stop() == 0
    assert box.output.splitlines()[:2] == ["hook", "last"]
    assert "never" not in box.output


def test_a_poststop_that_fails_is_told_and_the_exit_code_is_the_containers(bench, busybox):
    box = bench.start(hooked(busybox, "exit 7", f"poststop = [{sh('echo oh >&2; exit 1')}, {sh('echo second')}]"))
    assert box.wait() == 7
    assert box.output.endswith(f"oh\nsecond\n{line_of(bench, 'poststop')}: container.hooks.poststop: /bin/sh -c echo oh >&2; exit 1: exit code 1: oh\n")


@pytest.mark.parametrize("both", [False, True], ids=["monitor", "monitor and PID 1"])
def test_poststop_after_a_killed_monitor_runs_before_the_next_start_does_anything(bench, busybox, both):
    hooks = f"prestart = {sh('echo pre $(cat state); echo up > state')}\npoststop = [{sh('echo post $(cat state); rm state; exit 5')}, {sh('exit 0')}]"
    first = bench.start(hooked(busybox, HOLD, hooks))
    first.wait_for("app: up")
    pid = int(pathlib.Path("/run/pyinit/pyinit-test/pid").read_text())
    first.process.kill()
    if both:
        os.kill(pid, signal.SIGKILL)
    second = bench.start(hooked(busybox, HOLD, hooks))
    second.wait_for("app: up")
    words = [line for line in second.output.splitlines() if line.startswith(("pre", "post"))]
    assert words == ["post up", "pre"]
    assert f"{line_of(bench, 'poststop')}: container.hooks.poststop: /bin/sh -c echo post $(cat state); rm state; exit 5: exit code 5\n" in second.output
    assert second.stop() == 0
    assert second.output.count("post up") == 2


def test_kill_9_of_the_launcher_while_a_prestart_runs_ends_the_hook_too(bench, busybox):
    hooks = f"prestart = {sh('echo $$ > hook; exec sleep 1000')}\npoststop = {sh('echo undone')}"
    box = bench.start(hooked(busybox, HOLD, hooks))
    wait_until(lambda: (bench.folder / "hook").exists() and (bench.folder / "hook").read_text().strip(), "the hook")
    hook = pathlib.Path("/proc", (bench.folder / "hook").read_text().strip())
    box.process.kill()
    wait_until(lambda: not hook.exists(), "the end of the hook")
    again = bench.start(hooked(busybox, HOLD, hooks.replace("exec sleep 1000", "true")))
    again.wait_for("app: up")
    assert again.output.startswith("undone\n")
    assert again.stop() == 0


def test_a_start_that_fails_before_it_is_built_runs_no_hook(bench, busybox):
    before = leftovers()
    hooks = f"prestart = {sh('echo hook')}\npoststop = {sh('echo hook')}"
    box = bench.start(hooked(busybox, "true", hooks, '[container.sysctl]\n"net.none" = 1\n'))
    assert box.wait() == 111
    assert "hook\n" not in box.output
    assert leftovers() == before


def test_a_reboot_runs_the_hooks_again(bench, busybox):
    box = bench.start(hooked(busybox, HOLD, f"prestart = {sh('echo pre')}\npoststop = {sh('echo post')}"))
    box.wait_for("app: up")
    box.process.send_signal(39)
    box.wait_for("app: up", count=2)
    assert box.stop() == 0
    assert [line for line in box.output.splitlines() if line in ("pre", "post")] == ["pre", "post", "pre", "post"]
