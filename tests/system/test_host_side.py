"""What comes along with a container on the host: sysctls, limits, hooks, --detach."""

import json
import os
import pathlib
import signal
import subprocess

import pytest
from conftest import leftovers, verb, wait_until
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


def test_what_fails_while_the_network_is_being_made_is_told_in_its_own_words(bench, busybox):
    sysctl = '[container.sysctl]\n"kernel.shm_none" = 1\n"net.ipv4.ip_forward" = 1\n'
    box = bench.start(config(busybox, "true", VETH.format(address="10.92.7.2") + sysctl))
    assert box.wait() == 111
    assert box.output == (
        f"{line_of(bench, 'shm_none')}: set the sysctl kernel.shm_none to 1: this kernel has no such setting; mend its name, "
        "or load the module that it belongs to\n"
    )


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


def test_a_pid_1_that_is_killed_while_a_prestart_runs_is_the_end(bench, busybox):
    box = bench.start(hooked(busybox, "echo never", f"prestart = {sh('kill -9 $PYINIT_PID')}\npoststop = {sh('echo last')}"))
    assert (box.wait(), box.output) == (137, "last\n")


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


PLAIN = """
[container]
name = "pyinit-test"
layers = ["{image}"]
{more}
[services.app]
command = ['/bin/sh', '-c', '''{command}''']
"""


def plain(image, command: str, more: str = "", service: str = "") -> str:
    """Its log goes to a file."""
    return PLAIN.format(image=image, more=more, command=command) + service


def detached(bench, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    return verb("--config", str(bench.write(text)), "--detach", *words)


def listed() -> dict[str, dict]:
    return {one["name"]: one for one in json.loads(verb("list", "--json").stdout)}


def parent_of(pid: int) -> int:
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def shut_down(name: str) -> None:
    assert verb("shutdown", "-c", name).returncode == 0
    wait_until(lambda: name not in listed(), "the end of the monitor")
    wait_until(lambda: not pathlib.Path("/run/pyinit", name).exists(), "the end of its folder")


def test_detach_returns_when_all_is_ready_and_the_rest_goes_on_alone(bench, busybox):
    output = bench.folder / "out"
    text = plain(busybox, "echo up; sleep 0.4; touch /run/go; while :; do sleep 0.02; done", service='ready = { path = "/run/go" }\nlog = { echo = true }\n')
    done = detached(bench, text, "--output", str(output))
    pid = int(pathlib.Path("/run/pyinit/pyinit-test/pid").read_text())
    assert (done.returncode, done.stdout, done.stderr) == (0, f"pyinit-test: running as pid {pid}\n", "")
    assert pathlib.Path(f"/proc/{pid}/root/run/go").exists()
    monitor = parent_of(pid)
    assert os.getsid(monitor) == monitor
    assert os.readlink(f"/proc/{monitor}/cwd") == "/"
    assert [os.readlink(f"/proc/{monitor}/fd/{n}") for n in range(3)] == ["/dev/null", str(output), str(output)]
    one = listed()["pyinit-test"]
    assert (one["pid"], one["state"], one["config"]) == (pid, "running", f"{bench.folder}/services.toml")
    assert 0 < one["uptime_s"] < 60
    shut_down("pyinit-test")
    assert output.stat().st_mode & 0o777 == 0o600
    assert "app: up\n" in output.read_text()
    again = detached(bench, text, "--output", str(output))
    assert again.returncode == 0
    shut_down("pyinit-test")
    assert output.read_text().count("app: up\n") == 2


def test_without_output_there_is_none_and_the_log_is_the_file(bench, busybox):
    done = detached(bench, plain(busybox, HOLD))
    assert done.returncode == 0
    pid = int(pathlib.Path("/run/pyinit/pyinit-test/pid").read_text())
    assert [os.readlink(f"/proc/{parent_of(pid)}/fd/{n}") for n in range(3)] == ["/dev/null"] * 3
    assert verb("logs", "-c", "pyinit-test", "app").stdout.endswith("up\n")
    shut_down("pyinit-test")


@pytest.mark.parametrize(("log", "words"), [
    ('{ to = "stdout" }', 'to = "stdout"'), ('{ to = "inherit" }', 'to = "inherit"'), ("{ echo = true }", "echo = true"),
])  # fmt: skip
def test_output_that_would_be_lost_is_refused_before_anything_starts(bench, busybox, log, words):
    done = detached(bench, plain(busybox, HOLD, service=f"log = {log}\n"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"{line_of(bench, 'log = ')}: services.app.log: {words} goes to standard output, which --detach has none of: "
        "say --output FILE, or log to a file\n"
    )


def test_detach_fails_as_a_start_without_it_does(bench, busybox):
    """The launcher's own errors, those of a hook, warnings before them, and a container that ends before it is ready."""
    done = detached(bench, plain(busybox, HOLD, more="orphn = true"))
    assert (done.returncode, done.stderr) == (100, f"{line_of(bench, 'orphn')}: container.orphn: there is no such key; did you mean orphan?\n")
    hooks = f"hooks.poststop = {sh('exit 3')}\nhooks.prestart = {sh('echo no >&2; exit 5')}"
    done = detached(bench, plain(busybox, HOLD, more=hooks))
    assert (done.returncode, done.stdout) == (111, "")
    assert done.stderr == (
        f"{line_of(bench, 'poststop')}: container.hooks.poststop: /bin/sh -c exit 3: exit code 3\n"
        f"{line_of(bench, 'prestart')}: container.hooks.prestart: /bin/sh -c echo no >&2; exit 5: exit code 5: no\n"
    )
    ending = plain(busybox, "exit 7", service='ready = { path = "/none" }\n[init]\nexit = "when-main-exits"\nmain = "app"\n')
    done = detached(bench, ending)
    assert (done.returncode, done.stderr) == (7, "pyinit: pyinit-test: ended before it was ready, with exit code 7; --output FILE keeps what it says\n")
    done = detached(bench, ending, "--output", f"{bench.folder}/out")
    assert (done.returncode, done.stderr) == (7, f"pyinit: pyinit-test: ended before it was ready, with exit code 7; its output is in {bench.folder}/out\n")
    assert "app: failed" in (bench.folder / "out").read_text() or "exit code 7" in (bench.folder / "out").read_text()


def test_the_name_in_use_is_told_by_who_waits(bench, busybox):
    text = plain(busybox, HOLD)
    assert detached(bench, text).returncode == 0
    done = detached(bench, text)
    assert done.returncode == 111
    assert "container pyinit-test is running already" in done.stderr
    shut_down("pyinit-test")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_of_the_one_that_waits_stops_the_container_in_order(bench, busybox, number):
    output = bench.folder / "out"
    service = 'ready = { path = "/none" }\nlog = { echo = true, timestamp = "none" }\n'
    box = bench.start(plain(busybox, 'trap "echo bye; exit" TERM; echo up; while :; do sleep 0.02; done', service=service), "--detach", "--output", str(output))
    wait_until(lambda: output.exists() and "app: up\n" in output.read_text(), "the service")
    assert listed()["pyinit-test"]["state"] == "starting"
    assert box.stop(number) == 0
    assert box.output == ""
    assert "app: bye\n" in output.read_text()


@pytest.mark.parametrize("words", [("--output", "/x"), ("--detach", "--output", "/none/x"), ("--detach", "--output")])
def test_words_of_detach_that_are_wrong(bench, busybox, words):
    done = verb("--config", str(bench.write(plain(busybox, HOLD))), *words)
    assert (done.returncode, done.stdout, done.stderr) == {
        1: (111, "", "pyinit: --output /none/x: No such file or directory; name a file that can be written\n"),
        0: (2, "", "pyinit: --output belongs to --detach; add that, or take this out\n"),
        2: (2, "", "pyinit: --output needs a file: `pyinit --config services.toml`\n"),
    }[0 if words[0] == "--output" else 1 if len(words) == 3 else 2]


def test_an_init_of_the_image_is_ready_when_it_runs(bench, busybox):
    top = bench.folder / "top"
    top.mkdir()
    (top / "init").write_text("#!/bin/sh\ntrap exit TERM\nwhile :; do sleep 0.02; done\n")
    (top / "init").chmod(0o755)
    done = detached(bench, init_of_the_image(busybox, ""))
    pid = int(pathlib.Path("/run/pyinit/pyinit-test/pid").read_text())
    assert (done.returncode, done.stdout) == (0, f"pyinit-test: running as pid {pid}\n")
    assert listed()["pyinit-test"]["state"] is None  # it does not answer
    os.kill(parent_of(pid), signal.SIGTERM)
    wait_until(lambda: "pyinit-test" not in listed(), "its end")
    wait_until(lambda: not pathlib.Path("/run/pyinit/pyinit-test").exists(), "the end of its folder")
    (top / "init").write_text("#!/none/sh\n")
    done = detached(bench, init_of_the_image(busybox, ""), "--output", f"{bench.folder}/out")
    assert done.returncode == 127
    assert (bench.folder / "out").read_text() == f"{line_of(bench, '[container]')}: init /init of the image: No such file or directory\n"


def test_a_supervisor_detaches_too(bench):
    done = detached(bench, '[services.app]\ncommand = ["sleep", "1000"]\n')
    assert done.returncode == 0, done.stderr
    name, mark, pid = done.stdout.strip().rpartition(": running as pid ")
    assert mark
    one = listed()[name]
    assert (one["pid"], one["state"], one["config"]) == (int(pid), "running", f"{bench.folder}/services.toml")
    assert os.getsid(int(pid)) == int(pid)
    shut_down(name)


def test_with_nothing_to_wait_for_it_is_ready_at_once(bench):
    done = detached(bench, '[services."worker@"]\ncommand = ["sleep", "1000"]\n')
    assert done.returncode == 0, done.stderr
    shut_down(done.stdout.partition(":")[0])
