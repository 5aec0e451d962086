"""Limits, statistics, pauses and updates on this host's own layout: v1's controllers beside a v2 without any."""

import json
import os
import pathlib
import re

import pytest
from conftest import leftovers, verb, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left")
CGROUPS = pathlib.Path("/sys/fs/cgroup")
CONFIG = """
[init]
strict = {strict}
[container]
name = "lim"
layers = ["{image}"]
[container.cgroup]
{limits}
[services.app]
command = ["/bin/sh", "-c", "echo up; exec sleep 1000"]
log = {{ to = "stdout", timestamp = "none" }}
restart = "never"
cgroup = {{ {own} }}
"""
LIMITS = """
memory_max = "64M"
memory_swap_max = "0"
cpuset = "0-1"
io_weight = 300
io_max = [{ device = "/dev/loop0", read = "1M", write_iops = 77 }]
"""
OWN = "memory_max = '32M', memory_swap_max = '4M', cpuset = [1], io_max = [{ device = '7:0', write = '2M' }]"


def read(controller: str, name: str, group: str = "") -> str:
    [found] = CGROUPS.glob(f"{controller}/**/pyinit-lim")
    return (found / group / name).read_text().strip()


def test_limits_of_container_and_service_are_held(bench, busybox):
    box = bench.start(CONFIG.format(image=busybox, limits=LIMITS, own=OWN, strict="true"))
    box.wait_for("app: up")
    assert (read("memory", "memory.limit_in_bytes"), read("memory", "memory.memsw.limit_in_bytes")) == (str(64 << 20),) * 2
    assert (read("cpuset", "cpuset.cpus"), read("cpuset", "cpuset.mems")) == ("0-1", "0")
    assert read("blkio", "blkio.bfq.weight") == "300"
    assert read("blkio", "blkio.throttle.read_bps_device") == f"7:0 {1 << 20}"
    assert read("blkio", "blkio.throttle.write_iops_device") == "7:0 77"
    assert read("memory", "memory.memsw.limit_in_bytes", "svc-app") == str(36 << 20)
    assert read("cpuset", "cpuset.cpus", "svc-app") == "1"
    assert read("blkio", "blkio.throttle.write_bps_device", "svc-app") == f"7:0 {2 << 20}"
    [pid] = read("cpuset", "cgroup.procs", "svc-app").split()
    assert os.sched_getaffinity(int(pid)) == {1}
    assert box.stop() == 0
    assert "can't" not in box.output


LACKS = """pyinit: {file}:7: cgroup: io_max can't be held here: there is no block device /dev/gone here{then}
pyinit: {file}:7: cgroup: memory_low can't be held here: cgroup v1 has no such limit{then}
"""


def test_a_limit_that_can_not_be_held_is_a_warning_and_with_strict_an_error(bench, busybox):
    limits = 'memory_low = "8M"\nio_max = [{ device = "/dev/gone", read = "1M" }]'
    own = "memory_swap_max = '4M'"
    text = CONFIG.format(image=busybox, limits=limits, own=own, strict="false")
    box = bench.start(text)
    box.wait_for("app: up")
    file = bench.folder / "services.toml"
    why = "memory_swap_max can't be held here: with cgroup v1 it needs memory_max beside it"
    assert box.output.startswith(LACKS.format(file=file, then="; it runs without")), box.output
    assert f"pyinit: {file}:14: cgroup: {why}; it runs without\n" in box.output
    assert box.stop() == 0
    before = leftovers()
    box = bench.start(text.replace("strict = false", "strict = true"))
    assert box.wait() == 111
    assert box.output == LACKS.format(file=file, then="")
    assert leftovers() == before
    box = bench.start(text.replace("strict = false", "strict = true").replace(limits, ""))
    box.wait_for(f"app: failed: {file}:13: cgroup: {why}\n")
    assert box.stop() == 0


STATS = """
[container]
name = "lim"
layers = ["{image}"]
[container.cgroup]
memory_max = "64M"
[services.busy]
command = ["/bin/sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/run/x bs=1M count=10 2>/dev/null; echo done; exec sleep 1000"]
log = {{ to = "stdout", timestamp = "none" }}
cgroup = {{ pids_max = 9 }}
[services.idle]
command = ["/bin/sleep", "1000"]
"""


def stats(*words: str) -> dict:
    found = verb("stats", "--json", *words)
    assert (found.returncode, found.stderr) == (0, "")
    return json.loads(found.stdout)


def test_stats_are_those_of_the_kernels_files(bench, busybox):
    box = bench.start(STATS.format(image=busybox))
    box.wait_for("busy: done")
    found = stats()
    whole, (busy, idle) = found["container"], found["services"]
    assert whole["memory"]["max_bytes"] == 64 << 20
    assert whole["memory"]["used_bytes"] > 10 << 20
    assert whole["memory"]["used_bytes"] == pytest.approx(int(read("memory", "memory.usage_in_bytes")), abs=4 << 20)
    assert whole["memory"]["oom_kills"] == 0
    assert whole["cpu"]["used_s"] > busy["cpu"]["used_s"] > 0.1 > idle["cpu"]["used_s"] > 0
    shown = [len(group.read_text().split()) for group in CGROUPS.glob("pids/**/pyinit-lim/**/cgroup.procs")]
    assert (whole["pids"]["count"], busy["pids"], idle["pids"]) == (sum(shown), {"count": 1, "max": 9}, {"count": 1, "max": None})
    assert idle["memory"]["max_bytes"] is None
    assert 0 < idle["memory"]["used_bytes"] < 4 << 20  # what its processes hold: v1 counts none of its own
    assert set(whole["pressure"]["memory"]["some"]) == {"avg10", "avg60", "avg300", "total_us"}
    assert whole["io"]["read_bytes"] >= 0
    assert idle["io"]["read_bytes"] is None
    assert stats("idle")["container"] is None
    table = verb("stats").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["NAME", "(container)", "busy", "idle"]
    assert box.stop() == 0



# Each of these would be killed within half a second if its clock went on, but for `clock`, which tells the time.
PAUSED = """
[container]
name = "lim"
layers = ["{image}"]
[services.ill]
command = ["/bin/sh", "-c", "echo up; exec sleep 1000"]
log = {{ to = "stdout", timestamp = "none" }}
health = {{ exec = ["/bin/true"], interval = "100ms", timeout = "100ms", failures = 1 }}
[services.dog]
command = ["/bin/sleep", "1000"]
watchdog = "500ms"
[services.slow]
command = ["/bin/sleep", "1000"]
ready = {{ exec = ["/bin/false"], timeout = "900ms" }}
[services.short]
kind = "oneshot"
command = ["/bin/sleep", "0.9"]
timeout = "1200ms"
[services.left]
command = ["/bin/sleep", "1000"]
kill = "process"
[services.clock]
command = ["/bin/sh", "-c", "sleep 1.5; echo late; exec sleep 1000"]
log = {{ to = "stdout", timestamp = "none" }}
enabled = false
"""


def states() -> dict[str, str]:
    rows = json.loads(verb("status", "--json").stdout)["services"]
    return {one["name"]: "paused" if one["paused"] else one["state"] for one in rows}


def test_a_pause_stops_the_clocks_and_a_stop_ends_it(bench, busybox):
    box = bench.start(PAUSED.format(image=busybox))
    box.wait_for("ill: up")
    box.wait_for("dog: ready")
    wait_until(lambda: states()["short"] == "running", "the oneshot")
    found = verb("pause", "ill", "dog", "slow", "short")
    assert (found.returncode, found.stderr) == (0, "")
    assert states() == {"ill": "paused", "dog": "paused", "slow": "paused", "short": "paused", "left": "ready", "clock": "stopped"}
    [group] = CGROUPS.glob("unified/**/pyinit-lim/svc-ill")
    wait_until(lambda: "frozen 1" in (group / "cgroup.events").read_text(), "it stands still")
    assert verb("start", "clock").returncode == 0
    box.wait_for("clock: late")  # and none of the others has been blamed
    assert states() == {"ill": "paused", "dog": "paused", "slow": "paused", "short": "paused", "left": "ready", "clock": "ready"}
    assert "backoff" not in box.output
    refusals = {
        ("pause", "left"): "left: has no cgroup of its own that can be frozen, so it can't be paused",
        ("resume", "left"): "left: is not paused", ("exec", "ill", "--", "true"): "ill: is paused: `pyinit resume ill` first",
        ("hup", "ill"): "ill: is paused: `pyinit resume ill` first",
    }  # fmt: skip
    assert {words: verb(*words).stderr for words in refusals} == {words: f"pyinit: {text}\n" for words, text in refusals.items()}
    assert verb("resume", "ill", "short").returncode == 0
    box.wait_for("short: done")
    assert verb("restart", "ill").returncode == 0  # healthy all the time
    found = verb("pause")
    assert (found.returncode, found.stderr) == (1, f"pyinit: {refusals['pause', 'left']}\n")
    assert verb("stop", "ill").returncode == 0
    assert states()["ill"] == "stopped"
    events = [json.loads(line) for line in verb("events", "--json", "-n", "100", "ill").stdout.splitlines()]
    assert [one["state"] for one in events if one["state"] in ("paused", "resumed", "stopping")] == [
        "paused", "resumed", "stopping", "paused", "resumed", "stopping"
    ]  # fmt: skip
    assert box.stop() == 0
    assert "outlived" not in box.output


def test_what_is_paused_is_killed_with_the_container(bench, busybox):
    box = bench.start(PAUSED.format(image=busybox))
    box.wait_for("ill: up")
    box.wait_for("dog: ready")
    assert verb("pause", "ill", "dog").returncode == 0
    pid = int(pathlib.Path("/run/pyinit/lim/pid").read_text())
    box.process.kill()
    os.kill(pid, 9)
    again = bench.start(PAUSED.format(image=busybox))
    again.wait_for("ill: up")
    assert states()["ill"] in ("ready", "running")
    assert again.stop() == 0


UPDATED = """
[container]
name = "lim"
layers = ["{image}"]
[container.cgroup]
memory_max = "64M"
[services.app]
command = ["/bin/sh", "-c", "echo up; exec sleep 1000"]
log = {{ to = "stdout", timestamp = "none" }}
cgroup = {{ memory_max = "32M", pids_max = 9 }}
"""


FORKS = """
[container]
name = "lim"
layers = ["{image}"]
[services.app]
command = ["/bin/sh", "-c", "while :; do sleep 0.01; sh -c 'sleep 0.02' & done"]
"""


def test_an_update_limits_what_ran_without_any_limit_and_what_it_forks(bench, busybox):
    box = bench.start(FORKS.format(image=busybox))
    box.wait_for("app: ready")
    assert verb("update", "app", "memory_max=24M", "pids_max=50", "cpu_weight=50").stderr == ""
    for controller in ("memory", "pids", "cpu"):
        wait_until(lambda where=controller: _all_in(where), f"all of app in its group of {controller}")
    [app] = stats("app")["services"]
    assert (app["memory"]["max_bytes"], app["pids"]["max"]) == (24 << 20, 50)
    assert verb("restart", "app").returncode == 0
    wait_until(lambda: _all_in("memory"), "all of app in its group after a restart")
    assert box.stop() == 0


def _all_in(controller: str) -> bool:
    """Whether the group has those that the tracking group has: read before and after, for they come and go."""
    tracked = set(read("unified", "cgroup.procs", "svc-app").split())
    found = set(read(controller, "cgroup.procs", "svc-app").split())
    return bool(found) and not tracked & set(read("unified", "cgroup.procs", "svc-app").split()) - found - set(
        read(controller, "cgroup.procs", "svc-app").split()
    )


def test_an_update_holds_whole_or_not_at_all_and_up_to_the_next_reload(bench, busybox):
    box = bench.start(UPDATED.format(image=busybox))
    box.wait_for("app: up")
    assert verb("update", "memory_max=40M", "cpu_max=0.5").stderr == ""
    whole = stats()["container"]
    assert (whole["memory"]["max_bytes"], whole["cpu"]["max"], read("cpu", "cpu.cfs_quota_us")) == (40 << 20, 0.5, "50000")
    assert verb("update", "app", "memory_max=16M", "memory_swap_max=0", "pids_max=none").stderr == ""
    [app] = stats("app")["services"]
    assert (app["memory"]["max_bytes"], app["pids"]["max"]) == (16 << 20, None)
    assert read("memory", "memory.memsw.limit_in_bytes", "svc-app") == str(16 << 20)
    refusals = {
        ("app", "memory_max=8M", "cpuset=1"):
            "app: it has no group here whose controller cpuset could hold the limit; one in the config makes it; nothing was changed",
        ("app", "memory_max=8M", "memory_low=1M"): "app: memory_low can't be held here: cgroup v1 has no such limit; nothing was changed",
        ("memory_max=30M", "memory_swap_max=1G", "pids_max=4", "memory_low=1M"):
            "(container): memory_low can't be held here: cgroup v1 has no such limit; nothing was changed",
        ("memory_high=1G",): "(container): expected memory_high <= memory_max, found 1G and 40M; nothing was changed",
    }  # fmt: skip
    found = {words: (one.returncode, one.stderr) for words in refusals if (one := verb("update", *words))}
    assert found == {words: (1, f"pyinit: {text}\n") for words, text in refusals.items()}
    assert (stats()["container"]["memory"]["max_bytes"], stats("app")["services"][0]["memory"]["max_bytes"]) == (40 << 20, 16 << 20)
    assert (read("pids", "pids.max"), int(read("memory", "memory.memsw.limit_in_bytes")) > 1 << 60) == ("max", True)
    assert verb("restart", "app").returncode == 0
    assert stats("app")["services"][0]["memory"]["max_bytes"] == 16 << 20
    assert verb("reload").stdout == "app: changed, without a restart\n"
    wait_until(lambda: stats()["container"]["memory"]["max_bytes"] == 64 << 20, "the config's limit")
    assert read("cpu", "cpu.cfs_quota_us") == "-1"
    [app] = stats("app")["services"]
    assert (app["memory"]["max_bytes"], app["pids"]["max"]) == (32 << 20, 9)
    events = [json.loads(line) for line in verb("events", "--json", "-n", "100").stdout.splitlines()]
    assert [(one["name"], one["reason"]) for one in events if one["state"] == "updated"] == [
        ("(container)", "memory_max=40M cpu_max=0.5"), ("app", "memory_max=16M memory_swap_max=0"), ("(container)", "memory_max=64M"),
    ]  # fmt: skip
    assert box.stop() == 0


ALARMS = """
[container]
name = "lim"
layers = ["{image}"]
[container.cgroup]
memory_max = "64M"
pressure = {{ cpu = "20ms/2s" }}
[services.big]
command = ["/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=40M count=1; echo survived"]
log = {{ to = "stdout", timestamp = "none" }}
restart = "never"
cgroup = {{ memory_max = "8M", memory_swap_max = "0" }}
[services.whole]
command = ["/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1; echo survived"]
log = {{ to = "stdout", timestamp = "none" }}
restart = "never"
enabled = false
[services.busy]
command = ["/bin/sh", "-c", "for n in 1 2 3 4; do (while true; do :; done) & done; wait"]
enabled = false
cgroup = {{ cpu_max = 0.2, pressure = {{ memory = "100ms/1s" }} }}
"""


def test_memory_that_ran_out_and_pressure_are_events(bench, busybox):
    box = bench.start(ALARMS.format(image=busybox))
    box.wait_for("(container): oom: out of memory: 1 process of big killed\n")
    box.wait_for("big: survived")  # its shell: no exit says what happened
    assert verb("start", "whole").returncode == 0
    box.wait_for("(container): oom: out of memory: 1 process killed\n")
    assert verb("start", "busy").returncode == 0
    file = bench.folder / "services.toml"
    if "without CAP_SYS_RESOURCE" in box.output:  # as on a machine whose root is not all-powerful
        assert f"pyinit: {file}:21: cgroup.pressure.memory: without CAP_SYS_RESOURCE the window must be a multiple of 2s" in box.output
    box.wait_for("(container): pressure: cpu: some waited 0.02 s or more within 2 s\n")
    events = [json.loads(line) for line in verb("events", "--json", "-n", "100").stdout.splitlines()]
    assert [one["reason"] for one in events if one["state"] == "oom"] == [
        "out of memory: 1 process of big killed", "out of memory: 1 process killed"
    ]  # fmt: skip
    assert box.stop() == 0


FILLED = """
[container]
name = "lim"
layers = ["{image}"]
[[container.mounts]]
type = "tmpfs"
target = "/big"
size = "128M"
[container.cgroup]
memory_max = "32M"
[services.app]
command = ["/bin/dd", "if=/dev/zero", "of=/big/file", "bs=1M", "count=100"]
restart = "always"
"""


def test_a_pid_1_that_was_killed_for_memory_is_told(bench, busybox):
    """What is in a RAM disk goes with no process, so the kernel takes one after the other."""
    box = bench.start(FILLED.format(image=busybox))
    assert box.wait() == 137
    said = box.output.splitlines()[-1]
    assert re.fullmatch(
        rf"pyinit: {bench.folder}/services\.toml:9: container lim: its PID 1 was killed: the kernel has killed \d+ process(es)? of it for memory_max; "
        "raise that, or limit its RAM disks, shared memory and services below it", said,
    ), box.output  # fmt: skip
