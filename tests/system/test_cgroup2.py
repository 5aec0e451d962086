"""Limits and tracking where there is cgroup v2 only, in a virtual machine: this host's layout is another."""

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
pids_max = 40
cpu_max = 0.5
cpu_weight = 200
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
for f in memory.max memory.high pids.max cpu.max cpu.weight; do echo $f $(cat $f); done
echo own $(cat /proc/self/cgroup)
echo groups *
while [ $(ps | grep -c "sleep 77[7]") -gt 0 ]; do sleep 0.1; done
echo clean
(for n in $(seq 60); do sleep 9 & done)
exit 5
''' }
"""

# First from the root group; then from a group that holds another process and so can't hand controllers down.
SCRIPT = f"""
{PYINIT} --config /etc/pyinit/services.toml; echo code $?
echo left $(find /sys/fs/cgroup -name 'pyinit-*' | wc -l)
echo +memory +pids +cpu > /sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/crowd
sh -c 'echo 0 > /sys/fs/cgroup/crowd/cgroup.procs; exec sleep 1000' &
sh -c 'echo 0 > /sys/fs/cgroup/crowd/cgroup.procs; exec env {PYINIT} --config /etc/pyinit/services.toml' > /run/second 2>&1; echo second code $?
grep -E 'app: (memory.max|own|clean)' /run/second
echo left $(find /sys/fs/cgroup -name 'pyinit-*' | wc -l)
"""


def test_limits_and_tracking_on_pure_cgroup_v2(tmp_path):
    text = boot(tmp_path, SCRIPT, {"etc/pyinit/services.toml": CONFIG}, 150)
    first, second = text.split("left 0\n", 1)
    for line in (
        "app: memory.max 67108864", "app: memory.high 50331648", "app: pids.max 40", "app: cpu.max 50000 100000",
        "app: cpu.weight 200", "app: own 0::/svc-app", "app: clean",
    ):  # fmt: skip
        assert line + "\n" in first, text
    assert re.search(r"^app: groups .*\binit\b.*\bsvc-app\b.*\bsvc-crash\b", first, re.MULTILINE), text
    assert "can't fork" in first, text
    assert "\ncode 5\n" in first, text
    assert second.splitlines()[0:4] == ["second code 5", "app: memory.max 67108864", "app: own 0::/svc-app", "app: clean"], text
    assert "left 0\n" in second, text
