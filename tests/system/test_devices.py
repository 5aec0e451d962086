"""Devices of the host in a container: nodes, and no others, by cgroup v1 or by a program on a group of v2."""

import os
import stat
import subprocess
import sys

import pytest
from conftest import make_busybox
from test_container import config, said

from pyinit.linux import bpf

pytestmark = pytest.mark.usefixtures("nothing_left")

NODES = 'devices = ["/dev/fuse", { path = "/dev/loop-control", access = "r", mode = "0640", uid = 7, gid = 1000 }, "/dev/net/tun"]\n'
# 1:1 is memory, 1:11 the kernel's log, 1:3 null: of what the image and mknod would get.
SCRIPT = """
node() { /bin/busybox mknod /dev/$1 c $2 $3 2>&1 | grep -o "not permitted" || { (exec < /dev/$1) 2>/dev/null && echo opened $1 || echo refused $1; }; }
for f in fuse loop-control net/tun null ptmx; do (exec <> /dev/$f) 2>/dev/null && echo uses $f || echo not $f; done
(exec < /dev/loop-control) && echo reads loop-control
ls -ln /dev/fuse /dev/loop-control /dev/net/tun | awk "{ print \\$1, \\$3, \\$4, \\$5 \\$6, \\$NF }"
node memory 1 1; node kmsg 1 11; node empty 1 3
"""
MIGHTY = '[container.security]\ncapabilities = ["MKNOD", "DAC_OVERRIDE", "SYS_RAWIO", "SYSLOG"]\n'


def listed(path: str, mode: str = "", ids: str = "") -> str:
    seen = os.stat(path)
    number = f"{os.major(seen.st_rdev)},{os.minor(seen.st_rdev)}"
    return f"{mode or stat.filemode(seen.st_mode)} {ids or f'{seen.st_uid} {seen.st_gid}'} {number} {path}"


@pytest.fixture(params=["v1", "v2"])
def hierarchy(request):
    """v2: where nobody has mounted the controller of v1."""
    hide = ("unshare", "--mount", "sh", "-c", 'umount /sys/fs/cgroup/devices && exec "$@"', "sh")
    return () if request.param == "v1" else hide


def test_no_devices_but_those_that_are_declared(bench, tmp_path, hierarchy):
    tree = make_busybox(tmp_path / "tree")
    box = bench.start(config(tree, SCRIPT, MIGHTY + NODES), command=(*hierarchy, sys.executable, "-m", "pyinit"))
    assert box.wait() == 0
    assert said(box) == [
        "uses fuse", "not loop-control", "uses net/tun", "uses null", "uses ptmx", "reads loop-control",
        listed("/dev/fuse"), listed("/dev/loop-control", "crw-r-----", "7 1000"), listed("/dev/net/tun"),
        "not permitted", "not permitted", "opened empty",
    ]  # fmt: skip
    assert [line for line in box.output.splitlines() if "devices:" in line] == []


def test_who_may_make_nodes_may_open_no_others(bench, busybox, hierarchy):
    box = bench.start(config(busybox, SCRIPT.split("\n")[1] + "; node memory 1 1; node kmsg 1 11; node empty 1 3", MIGHTY), command=(*hierarchy, sys.executable, "-m", "pyinit"))
    assert box.wait() == 0
    assert said(box) == ["not permitted", "not permitted", "opened empty"]


@pytest.mark.parametrize("strict", [False, True])
def test_where_no_rules_can_be_had_it_is_said(bench, busybox, strict):
    hide = ("unshare", "--mount", "sh", "-c", 'umount /sys/fs/cgroup/devices /sys/fs/cgroup/unified && exec "$@"', "sh")
    text = config(busybox, "(exec < /dev/fuse) && echo there", '[container.security]\ndevices = ["/dev/fuse"]\n').replace("[init]", f"[init]\nstrict = {str(strict).lower()}")
    box = bench.start(text, command=(*hide, sys.executable, "-m", "pyinit"))
    code = box.wait()
    why = f"pyinit: {bench.folder}/services.toml:6: devices: no hierarchy of cgroup v1 has the controller devices, and there is no group of v2"
    if strict:
        assert (code, box.output) == (111, f"{why}\n")
    else:
        assert (code, said(box)) == (0, ["there"])
        assert box.output.splitlines()[0] == f"{why}; what is made by mknod can be opened"


def test_what_is_no_device_is_told_with_its_line(bench, busybox):
    done = subprocess.run(
        [sys.executable, "-m", "pyinit", "check", bench.write(config(busybox, "true", '[container.security]\ndevices = ["/dev/net"]\n'))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 100
    assert done.stderr == f"{bench.folder}/services.toml:6: container.security.devices: expected a character or block device, found a folder: /dev/net\n"


def test_the_program_of_many_rules_is_one_that_the_kernel_takes():
    """With room for jumps: a rule skips only its own few instructions."""
    many = tuple(bpf.Rule("cb"[n % 2], n, n if n % 3 else -1, ("r", "rw", "rwm")[n % 3]) for n in range(300))
    os.close(bpf.load_device_program(bpf.device_program(many)))
