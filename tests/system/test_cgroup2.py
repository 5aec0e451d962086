"""Limits and tracking where there is cgroup v2 only, of root and of an ordinary user, in a virtual machine: this host's layout is another."""

import json
import pathlib
import re

from guest import Guest

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
[container.cgroup]
memory_max = "200M"
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

# The same of an ordinary user, root alone inside, in a group that is delegated to him.
OF_A_USER = "[init]\nstrict = true" + LIMITS.replace("sleep 77", "sleep 88").replace(
    'layers = ["/images/busybox.squashfs"]', 'layers = ["/images/busybox"]\nuser_namespace = { map = "single" }'
)
# His supervisor, whose services have limits all the same.
PLAIN = """
[init]
log_dir = "/run/user/log"
[services.big]
kind = "oneshot"
command = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]
restart = "never"
cgroup = { memory_max = "8M" }
log = { to = "stdout", timestamp = "none" }
[services.many]
wants = ["big"]
command = ["sh", "-c", "cat /proc/self/cgroup; (for n in 1 2 3 4 5 6; do sleep 9 & done); exec sleep 995"]
cgroup = { pids_max = 4, cpu_max = 0.25 }
log = { to = "stdout", timestamp = "none" }
"""

# First from the root group; then from a group that holds another process and so can't hand controllers down. The limits of
# services as root and as a user at the same time, who is refused a group that is half his own, or that holds another's process.
SCRIPT = f"""
dmesg -n 1
{PYINIT} --config /etc/pyinit/services.toml; echo code $?
echo left $(find /sys/fs/cgroup -name 'pyinit-*' | wc -l)
IN=/sys/fs/cgroup
echo +memory +pids +cpu +cpuset +io > $IN/cgroup.subtree_control
for group in crowd user plain shared half; do mkdir $IN/$group; done
for group in user plain shared; do (cd $IN/$group; busybox chown 1000:1000 . cgroup.procs cgroup.subtree_control cgroup.threads); done
busybox chown 1000:1000 $IN/half
mkdir -p /run/user; busybox chown 1000:1000 /run/user
for group in crowd shared; do sh -c "echo 0 > $IN/$group/cgroup.procs; exec sleep 1000" & done
ROOT="env {PYINIT}"
USER="/usr/bin/setpriv --reuid=1000 --regid=1000 --clear-groups env -i PATH=/bin:/usr/bin XDG_RUNTIME_DIR=/run/user {PYINIT}"
from() {{ echo 0 > $IN/$1/cgroup.procs; shift; exec "$@"; }}

in_time() {{ n=0; until "$@" || [ $((n += 1)) = 150 ]; do sleep 0.3; done; }}
three() {{ [ $(cat $2/cgroup.procs 2> /dev/null | wc -l) = 3 ] && [ $(ps | grep -c "sleep $1[67]") = 3 ]; }}
one() {{ ps | grep -q "[ ] sleep 99[5]"; }}

limits() {{
    (from "$3" $1 --config /etc/pyinit/limits$2.toml) > /run/out$2 2>&1 &
    box=$!
    in_time three $2 $IN/$3/pyinit-limits/svc-daemons
    cd $IN/$3/pyinit-limits
    for f in memory.max svc-big/memory.max svc-many/pids.max svc-daemons/cpu.max svc-daemons/cpu.weight svc-daemons/memory.max svc-daemons/memory.high svc-daemons/cpuset.cpus svc-daemons/io.max; do echo $f $(cat $f); done
    echo 1 > svc-daemons/cgroup.freeze
    ps | grep "sleep $2[67]" > /run/before$2
    $1 restart daemons
    echo restarted $?
    ps | grep "sleep $2[67]" > /run/after$2
    in_time three $2 $IN/$3/pyinit-limits/svc-daemons
    echo survived $(grep -cFf /run/before$2 /run/after$2)
    $1 status --json | tr -d '\n'; echo
    $1 events -n 100 --json
    $1 pause
    echo frozen $(cat svc-daemons/cgroup.freeze) $($1 status daemons | grep -c paused)
    $1 resume
    $1 update daemons memory_max=30M pids_max=7 memory_low=1M io_max='[{{ device = "7:0", read = "1M" }}]'
    $1 update memory_max=100M cpu_max=1.5 cpuset=0-1
    $1 update memory_max=99M pids_max=9 cpuset=77
    echo updated $(cat svc-daemons/memory.max svc-daemons/pids.max svc-daemons/memory.low svc-daemons/io.max memory.max pids.max cpu.max cpuset.cpus)
    echo thawed $(cat svc-daemons/cgroup.freeze)
    $1 pause daemons
    $1 stats --json | tr -d '\n'; echo
    $1 shutdown
    wait $box
    cd /
    cat /run/out$2
}}

plain() {{
    (from plain $USER --config /etc/pyinit/plain.toml) > /run/plain 2>&1 &
    box=$!
    in_time one
    (cd $IN/plain; find . -mindepth 1 -type d | sort; cat cgroup.subtree_control)
    kill $box
    wait $box
    echo code $?
    cat /run/plain
}}

limits "$USER" 88 user > /run/said88 2>&1 &
user88=$!
(from crowd $ROOT --config /etc/pyinit/services.toml) > /run/second 2>&1; echo second code $?
grep -E 'app: (memory.max|own|clean)' /run/second
limits "$ROOT" 77 . > /run/said77 2>&1
wait $user88
plain > /run/said 2>&1 &
plain=$!
for group in shared half; do (from $group $USER --config /etc/pyinit/limits88.toml); echo code $?; done > /run/refused 2>&1
wait $plain
cat /proc/uptime
echo left $(find /sys/fs/cgroup -name 'pyinit-*' | wc -l) $(cat $IN/user/cgroup.subtree_control $IN/plain/cgroup.subtree_control $IN/user/cgroup.procs $IN/plain/cgroup.procs | wc -w)
echo PART; cat /run/said77; echo PART; cat /run/said88; echo PART; cat /run/refused; echo PART; cat /run/said
"""


def boot(folder: pathlib.Path) -> Guest:
    """conftest.py has it begin when there is somebody to share the machine with."""
    files = {f"etc/pyinit/{name}.toml": text for name, text in (("services", CONFIG), ("limits77", LIMITS), ("limits88", OF_A_USER), ("plain", PLAIN))}
    return Guest(folder, SCRIPT, files, programs=("setpriv",))


def test_limits_tracking_and_killing_on_pure_cgroup_v2(cgroup2_guest):
    text = cgroup2_guest.result(150, since_boot=True)
    text = re.sub(r"\x1b\[\d+m(\w+) +\|\x1b\[0m ", r"\1: ", text)  # on the console, which is a terminal, names are coloured
    text, *parts = text.split("PART\n")
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
    assert "left 0 0\n" in second, text
    _check_limits(parts[0])
    _check_limits(parts[1])
    _check_refused(parts[2].splitlines())
    _check_plain(parts[3].splitlines())


def _check_limits(said: str) -> None:
    """Of a container's services: held, changed while they run, told of."""
    for line in (
        "memory.max 209715200", "svc-big/memory.max 8388608", "svc-many/pids.max 4", "svc-daemons/cpu.max 25000 100000", "svc-daemons/cpu.weight 300",
        "svc-daemons/memory.max 20971520", "svc-daemons/memory.high 16777216", "svc-daemons/cpuset.cpus 1",
        "svc-daemons/io.max 7:0 rbps=max wbps=max riops=max wiops=9", "many: sh: can't fork: Resource temporarily unavailable",
        "restarted 0", "survived 0", "frozen 1 1", "thawed 0",
        "updated 31457280 7 1048576 7:0 rbps=1048576 wbps=max riops=max wiops=max 104857600 max 150000 100000 0-1",
    ):  # fmt: skip
        assert f"\n{line}\n" in f"\n{said}", said
    rows = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
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
    assert f"\npyinit: big: failed: {reason}\n" in said
    assert "\npyinit: (container): oom: out of memory: 1 process of big killed\n" in said
    assert said.endswith("pyinit: daemons: stopped: shutdown requested\n"), said


def _check_refused(lines: list[str]) -> None:
    step = "pyinit: /etc/pyinit/limits88.toml:7: make cgroup pyinit-limits with memory_max=200M: "
    fix = "start pyinit in"
    assert [re.sub("[0-9]+ .sleep.", "PID (sleep)", line) for line in lines] == [
        f"{step}/sys/fs/cgroup/shared holds other processes, such as PID (sleep); {fix} a group of its own, as `systemd-run --scope -p Delegate=yes` does",
        "code 111", f"{step}no group is delegated to this user; {fix} one, as `systemd-run --user --scope -p Delegate=yes` does", "code 111",
    ], lines  # fmt: skip


def _check_plain(lines: list[str]) -> None:
    """The groups and the controllers while it runs; then what was said, whose order is a matter of two processes."""
    box, at = lines[1], lines.index("code 0")
    killed, name = "killed by KILL: out of memory", box.removeprefix("./")
    assert lines[:at] == ["./monitor", box, f"{box}/svc-big", f"{box}/svc-many", "cpu memory pids"], lines
    assert sorted(lines[at + 1 :]) == sorted([
        "pyinit: many: ready", "pyinit: (container): oom: out of memory: 1 process of big killed", f"pyinit: big: failed: {killed}",
        f"many: 0::/plain/{name}/svc-many", "many: sh: can't fork: Resource temporarily unavailable", "pyinit: many: stopped: TERM received",
    ]), lines  # fmt: skip
