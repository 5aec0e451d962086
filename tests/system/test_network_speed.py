"""A veth with NAT and a published port beside podman's, in turns: boot to `true` and down again, and what goes through the port."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import netlab
import pytest
from conftest import REPO, make_busybox, wait_until
from netlab import HERE4, HOST
from test_network import BOTH, host, lab  # noqa: F401 - fixtures

ROUNDS, MOST_OF_PODMAN = 7, 1.0
PAIRS, BYTES, LEAST_OF_PODMAN = 15, "256M", 0.9
AT_HOST = ("nsenter", f"--net=/run/netns/{HOST}")


@pytest.fixture
def podman(tmp_path):
    """The words of `podman run`, up to its options: with its own store, and mounts that nobody else sees."""
    make_busybox(tmp_path / "rootfs")
    short = tempfile.mkdtemp(prefix="pyinit-")  # podman takes no runroot of over 50 characters
    store = ("--root", tmp_path / "store", "--runroot", short, "--tmpdir", tmp_path / "tmp", "--network-config-dir", tmp_path / "net")
    (tmp_path / "net").mkdir()
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
    yield (
        *AT_HOST, "unshare", "-m", "podman", *store, "--runtime", "runc", "--cgroup-manager=cgroupfs", "--events-backend=none", "run", "--rm", *limits,
    )  # fmt: skip
    subprocess.run([*AT_HOST, "ip", "link", "del", "podman0"], check=False, capture_output=True)  # its chains stay, too
    shutil.rmtree(short, ignore_errors=True)
    subprocess.run([*AT_HOST, "nft", "flush", "ruleset"], check=True)


def seconds(*words, cwd="/") -> float:
    began = time.perf_counter()
    done = subprocess.run(words, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began


def test_up_and_down_beside_podman(lab, podman, tmp_path, capsys):  # noqa: F811
    path = lab.bench.write(lab.text(BOTH.replace(', "fd92::/64"', "") + 'publish = ["8080:80"]', command="true"))
    ours = (*AT_HOST, sys.executable, "-IS", str(REPO / "pyinit/cli/pyinit"), "--config", str(path))
    theirs = (*podman, "-p", "8081:80", "--rootfs", str(tmp_path / "rootfs"), "/bin/true")
    seconds(*ours)  # what each keeps from then on
    seconds(*theirs)
    own, other = [], []
    for _ in range(ROUNDS):
        own.append(seconds(*ours))
        other.append(seconds(*theirs))
    mine, podmans = statistics.median(own), statistics.median(other)
    with capsys.disabled():
        print(f"\nveth, NAT, publish: up to true and down: pyinit {mine * 1000:.0f} ms, podman {podmans * 1000:.0f} ms, {mine / podmans:.2f} of podman's")
    assert mine <= MOST_OF_PODMAN * podmans


def test_what_goes_through_a_published_port_beside_podman(lab, podman, tmp_path, capsys):  # noqa: F811
    lab.start(BOTH + 'publish = ["8080:5201"]')
    pidfile = tmp_path / "pid"
    other = subprocess.Popen([*podman, "--pidfile", pidfile, "-p", "8081:5201", "--rootfs", str(tmp_path / "rootfs"), "/bin/sleep", "1000"], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: pidfile.exists() and pidfile.read_text(), "podman's container")
        places = {8080: lab.inside(), 8081: netlab.Place(f"/proc/{pidfile.read_text().strip()}/ns/net")}
        pairs = []  # what else the machine does is in both of a pair, and a burst of it in few pairs
        for number in range(PAIRS):
            rates = {port: rate(lab, places[port], port) for port in ((8080, 8081), (8081, 8080))[number % 2]}
            pairs.append((rates[8080], rates[8081]))
    finally:
        if pidfile.exists():
            os.kill(int(pidfile.read_text()), 9)
        other.wait(30)
    mine, podmans = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    with capsys.disabled():
        print(f"\nthrough a published port: pyinit {mine / 1e9:.1f} Gbit/s, podman {podmans / 1e9:.1f} Gbit/s, {ratio:.2f} of podman's")
    assert ratio >= LEAST_OF_PODMAN


def rate(lab, place, port: int) -> float:  # noqa: F811
    """Bits a second from outside into the container."""
    server = subprocess.Popen(["nsenter", f"--net={place.path}", "iperf3", "-s", "-1", "--forceflush"], stdout=subprocess.PIPE, text=True)
    try:
        while "listening" not in server.stdout.readline():
            pass
        done = lab.outside.run("iperf3", "-c", HERE4, "-p", str(port), "-n", BYTES, "-J")
        assert done.returncode == 0, done.stdout
        return json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]
    finally:
        server.terminate()
        server.wait(10)
        server.stdout.close()
