"""Limits and tracking where there is cgroup v2 only, in a virtual machine: this host's layout is another."""

import json
import re

from guest import boot

PYINIT = "PYTHONPATH=/opt /usr/bin/python3.11 -m pyinit"

CONFIG = """
[container]
name = "guest"
layers = ["/images/busybox.squashfs"]
[container.cgroup]
memory_max = "64M"
memory_high = "48M"
memory_low = "8M"
memory_swap_max = "0"
cpuset = [0]
io_max = [{ device = "/dev/loop0", read = "9M" }]
io_weight = 300
pids_max = 40
cpu_max = 0.5
cpu_weight = 200
[container.security]
capabilities = ["MKNOD", "SYS_RAWIO"]
devices = [{ path = "/dev/loop0", access = "r" }]
[init]
exit = "when-main-exits"
main = "app"
[services.crash]
command = ["/bin/sh", "-c", "sleep 777 & exit 1"]
restart_delay = { first = "100ms", initial = "60s", max = "60s" }
[services.app]
command = ["/bin/sh", "/app/run"]
wants = ["crash"]
log = { to = "stdout", timestamp = "none" }
[[container.mounts]]
type = "tmpfs"
target = "/app"
files = { run = '''
cd /sys/fs/cgroup
for f in memory.max memory.high memory.low memory.swap.max cpuset.cpus io.max io.weight pids.max cpu.max cpu.weight; do echo $f $(cat $f); done
echo own $(cat /proc/self/cgroup)
(exec < /dev/loop0) && echo device read; (exec >> /dev/loop0) || echo device unwritten
/bin/busybox mknod /dev/mem c 1 1 || echo device unmade
echo groups *
while [ $(ps | grep -c "sleep 77[7]") -gt 0 ]; do sleep 0.1; done
echo clean
(for n in $(seq 60); do sleep 9 & done)
exit 5
''' }
"""

# Limits of services: `big` is killed, `many` is refused a fork, `daemons` leaves what only the cgroup still knows.
LIMITS = """
[container]
name = "limits"
layers = ["/images/busybox.squashfs"]
[services.big]
command = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]
restart = "never"
cgroup = { memory_max = "8M" }
log = { to = "stdout", timestamp = "none" }
[services.many]
command = ["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 775 & done; wait"]
restart = "never"
cgroup = { pids_max = 4 }
log = { to = "stdout", timestamp = "none" }
[services.daemons]
after = ["big", "many"]
command = ["sh", "-c", "(env -i setsid sh -c 'sleep 776 & exec sleep 776' &); exec sleep 777"]
cgroup = { cpu_max = 0.25, cpu_weight = 300, memory_max = "20M", memory_high = "16M", cpuset = "1", io_max = [{ device = "7:0", write_iops = 9 }] }
"""

# First from the root group; then from a group that holds another process and so can't hand controllers down.
SCRIPT = f"""
{PYINIT} --config /etc/pyinit/services.toml; echo code $?
echo left $(find /sys/fs/cgroup -name 'pyinit-*' | wc -l)
echo +memory +pids +cpu +cpuset +io > /sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/crowd
sh -c 'echo 0 > /sys/fs/cgroup/crowd/cgroup.procs; exec sleep 1000' &
sh -c 'echo 0 > /sys/fs/cgroup/crowd/cgroup.procs; exec env {PYINIT} --config /etc/pyinit/services.toml' > /run/second 2>&1; echo second code $?
grep -E 'app: (memory.max|own|clean)' /run/second
echo left $(find /sys/fs/cgroup -name 'pyinit-*' | wc -l)
echo THIRD
{PYINIT} --config /etc/pyinit/limits.toml > /run/third 2>&1 &
until [ $(ps | grep -c "sleep 77[67]") = 3 ]; do sleep 0.1; done
cd /sys/fs/cgroup/pyinit-limits
for f in big/memory.max many/pids.max daemons/cpu.max daemons/cpu.weight daemons/memory.max daemons/memory.high daemons/cpuset.cpus daemons/io.max; do echo $f $(cat svc-$f); done
echo 1 > svc-daemons/cgroup.freeze
ps | grep "sleep 77[67]" > /run/before
{PYINIT} restart daemons
echo restarted $?
ps | grep "sleep 77[67]" > /run/after
until [ $(ps | grep -c "sleep 77[67]") = 3 ]; do sleep 0.1; done
echo survived $(grep -cFf /run/before /run/after)
{PYINIT} status --json | tr -d '\n'; echo
{PYINIT} events -n 100 --json
{PYINIT} pause
echo frozen $(cat svc-daemons/cgroup.freeze) $({PYINIT} status daemons | grep -c paused)
{PYINIT} resume
{PYINIT} update daemons memory_max=30M pids_max=7 memory_low=1M io_max='[{{ device = "7:0", read = "1M" }}]'
{PYINIT} update memory_max=100M cpu_max=1.5 cpuset=0-1
{PYINIT} update memory_max=99M pids_max=9 cpuset=77
echo updated $(cat svc-daemons/memory.max svc-daemons/pids.max svc-daemons/memory.low svc-daemons/io.max memory.max pids.max cpu.max cpuset.cpus)
echo thawed $(cat svc-daemons/cgroup.freeze)
{PYINIT} pause daemons
{PYINIT} stats --json | tr -d '\n'; echo
{PYINIT} shutdown
wait %2
cat /run/third
"""


def test_limits_tracking_and_killing_on_pure_cgroup_v2(tmp_path):
    text = boot(tmp_path, SCRIPT, {"etc/pyinit/services.toml": CONFIG, "etc/pyinit/limits.toml": LIMITS}, 150)
    text = re.sub(r"\x1b\[\d+m(\w+) +\|\x1b\[0m ", r"\1: ", text)  # on the console, which is a terminal, names are coloured
    text, third = text.split("THIRD\n")
    first, second = text.split("left 0\n", 1)
    for line in (
        "app: memory.max 67108864", "app: memory.high 50331648", "app: pids.max 40", "app: cpu.max 50000 100000",
        "app: cpu.weight 200", "app: memory.low 8388608", "app: memory.swap.max 0", "app: cpuset.cpus 0",
        "app: io.max 7:0 rbps=9437184 wbps=max riops=max wiops=max", "app: io.weight default 300", "app: own 0::/svc-app", "app: clean",
        "app: device read", "app: device unwritten", "app: device unmade",
    ):  # fmt: skip
        assert line + "\n" in first, text
    assert re.search(r"^app: groups .*\binit\b.*\bsvc-app\b.*\bsvc-crash\b", first, re.MULTILINE), text
    assert "can't fork" in first, text
    assert "\ncode 5\n" in first, text
    assert second.splitlines()[0:4] == ["second code 5", "app: memory.max 67108864", "app: own 0::/svc-app", "app: clean"], text
    assert "left 0\n" in second, text
    for line in (
        "big/memory.max 8388608", "many/pids.max 4", "daemons/cpu.max 25000 100000", "daemons/cpu.weight 300",
        "daemons/memory.max 20971520", "daemons/memory.high 16777216", "daemons/cpuset.cpus 1",
        "daemons/io.max 7:0 rbps=max wbps=max riops=max wiops=9", "many: sh: can't fork: Resource temporarily unavailable",
        "restarted 0", "survived 0", "frozen 1 1", "thawed 0",
        "updated 31457280 7 1048576 7:0 rbps=1048576 wbps=max riops=max wiops=max 104857600 max 150000 100000 0-1",
    ):  # fmt: skip
        assert f"\n{line}\n" in third, third
    rows = [json.loads(line) for line in third.splitlines() if line.startswith("{")]
    [big] = [one for one in rows[0]["services"] if one["name"] == "big"]
    reason = "killed by KILL: out of memory"
    assert (big["state"], big["exit"], big["reason"]) == ("failed", {"code": None, "signal": 9}, reason)
    whole, used = rows[-1]["container"], {one["name"]: one for one in rows.pop()["services"]}
    assert whole["memory"]["used_bytes"] > used["daemons"]["memory"]["used_bytes"] > 0
    assert (used["daemons"]["memory"]["max_bytes"], used["daemons"]["cpu"]["max"], used["daemons"]["pids"]["count"]) == (30 << 20, 0.25, 3)
    assert (used["big"]["memory"]["oom_kills"], used["big"]["cpu"]["used_s"] > 0) == (1, True)
    assert (used["many"]["pids"], whole["memory"]["oom_kills"], whole["memory"]["max_bytes"]) == ({"count": 0, "max": 4}, 1, 100 << 20)
    assert (whole["io"]["read_bytes"] >= 0, whole["cpu"]["used_s"] > used["daemons"]["cpu"]["used_s"]) == (True, True)
    assert set(whole["pressure"]["memory"]["some"]) == {"avg10", "avg60", "avg300", "total_us"}
    assert [(one["state"], one["reason"]) for one in rows[1:] if one["name"] == "big"] == [
        ("waiting", ""), ("starting", ""), ("ready", ""), ("cleaning", reason), ("failed", reason),
    ]  # fmt: skip
    assert f"\npyinit: big: failed: {reason}\n" in third
    assert "\npyinit: (container): oom: out of memory: 1 process of big killed\n" in third
    assert third.endswith("pyinit: daemons: stopped: shutdown requested\n"), third
