"""`pyinit doctor` on this host, and where something was taken away from it."""

import json
import re
import subprocess

import pytest
from conftest import REPO
from test_container import config

pytestmark = pytest.mark.usefixtures("nothing_left")
PYTHON = "/usr/bin/python3"  # which an ordinary user may run, too


def doctor(*words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*before, PYTHON, "-m", "pyinit", "doctor", *words], cwd=REPO, capture_output=True, text=True, timeout=60, check=False)


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    return {row["subject"]: (row["state"], "; ".join(row[key] for key in ("found", "reason", "fix") if row[key])) for row in json.loads(done.stdout)["host"]}


def test_root_on_this_host_has_what_the_tests_need(bench, busybox):
    done = doctor("--json")
    found = rows(done)
    assert done.returncode == 0
    for subject in ("kernel", "capabilities", "namespace user", "filesystem squashfs", "filesystem overlay", "loop", "seccomp", "cgroup pids", "network"):
        assert found[subject][0] == "ok", (subject, found[subject])
    done = doctor(str(bench.write(config(busybox, "true"))))
    assert done.returncode == 0
    assert done.stdout.endswith("services.toml: all that it needs is here\n")


def test_an_ordinary_user_is_told_what_only_root_can_do(bench, busybox, tmp_path):
    path = bench.write(config(busybox, "true"))
    for folder in (tmp_path, *tmp_path.parents, busybox.parent, *busybox.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    device = 'mount -t tmpfs x /dev && mknod -m 600 /dev/fuse c 10 229 && mknod -m 666 /dev/null c 1 3 && exec "$@"'
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
    done = doctor(str(path), before=("unshare", "--mount", "sh", "-c", device, "sh", *user))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    capabilities = "CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_MKNOD CAP_CHOWN CAP_DAC_OVERRIDE CAP_SETUID CAP_SETGID CAP_SETPCAP CAP_KILL"
    assert f"lack     capabilities             {capabilities} missing; run pyinit as root" in lines
    assert any(re.fullmatch(r"lack     namespace pid +Operation not permitted; run pyinit as root", line) for line in lines)
    assert any(re.fullmatch(r"lack     subids +/etc/subuid has no range of nobody, expected 65536; add a line such as nobody:100000:65536 .*", line) for line in lines)
    assert lines[-1] == f"{path}:4: {busybox} needs fuse: /dev/fuse can't be opened; set its mode to 0666"  # the rest of it he can have


def test_devices_that_are_not_there(bench, busybox):
    """As in a container of Docker's."""
    path = bench.write(config(busybox, "true"))
    bare = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs x /dev && mknod /dev/null c 1 3 && exec "$@"', "sh")
    done = doctor(str(path), before=bare)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == (
        f"{path}:4: {busybox} needs loop: /dev/loop-control is not there; load the module loop, or pass the device into this container"
    )
    started = subprocess.run([*bare, PYTHON, "-m", "pyinit", "--config", str(path)], cwd=REPO, capture_output=True, text=True, timeout=60, check=False)
    assert started.returncode == 111
    assert started.stderr == (
        f"pyinit: {path}:4: mount layer 0, {busybox}, read-only: No such file or directory; "
        "loop: /dev/loop-control is not there; load the module loop, or pass the device into this container\n"
    )
