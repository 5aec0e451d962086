"""The web example: sshd, nginx and php-fpm from two squashfs images, as users run it."""

import os
import pathlib
import pty
import re
import select
import subprocess
import time
import urllib.request

import pytest
from conftest import DEADLINE_S, REPO, Pyinit, verb

ADDRESS = "10.91.7.2"
NAME = "pyinit-web-test"


@pytest.fixture(scope="module")
def key(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("key") / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture(scope="module")
def config(web_images, key, tmp_path_factory) -> pathlib.Path:
    """The example's own file, in a place, with a name and a network of the test's."""
    folder = tmp_path_factory.mktemp("web")
    text = (REPO / "examples/web/services.toml").read_text()
    for old, new in (
        ("../../services/", f"{REPO}/services/"),
        ("images/", f"{web_images}/"),
        ("pyinit-web0", "pyinit-webt"),
        ("10.91.0.1", "10.91.7.1"),
        ('[container]\n', f'[container]\nname = "{NAME}"\n'),
    ):
        assert old in text
        text = text.replace(old, new)
    path = folder / "services.toml"
    path.write_text(text)
    return path


def boot(config, key) -> Pyinit:
    return Pyinit(config, environment={"WEB_ADDRESS": ADDRESS, "SSH_KEY": pathlib.Path(f"{key}.pub").read_text().strip()})


@pytest.fixture(scope="module")
def web(config, key):
    box = boot(config, key)
    for name in ("ssh", "app", "nginx"):
        box.wait_for(f"pyinit: {name}: ready")
    yield box
    box.close()


def page() -> str:
    with urllib.request.urlopen(f"http://{ADDRESS}/", timeout=DEADLINE_S) as answer:
        return answer.read().decode()


def page_again() -> str:
    """The page, once what serves it is back."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return page()
        except OSError:
            if time.monotonic() > deadline:
                raise
            select.select([], [], [], 0.005)


def services() -> dict[str, dict]:
    import json

    found = json.loads(verb("status", "-c", NAME, "--json").stdout)
    return {one["name"]: one for one in found["services"]}


def ssh(key, *words: str) -> list[str]:
    return [
        "ssh", "-i", str(key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
        "-o", "IdentitiesOnly=yes", "-o", "ControlPath=none", *words, f"root@{ADDRESS}",
    ]  # fmt: skip


def host_pid(pid: int) -> int:
    """The pid on this host of a process that is `pid` in the container: the last number of NSpid."""
    root = int(pathlib.Path(f"/run/pyinit/{NAME}/pid").read_text())
    namespace = os.readlink(f"/proc/{root}/ns/pid")
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if os.readlink(f"/proc/{entry}/ns/pid") == namespace:
                status = pathlib.Path(f"/proc/{entry}/status").read_text()
                if re.search(r"^NSpid:.*\t(\d+)$", status, re.MULTILINE)[1] == str(pid):
                    return int(entry)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    raise AssertionError(f"pid {pid} is not in the container")


def test_the_page_comes_through_nginx(web):
    text = page()
    assert text.startswith("hello from web\nconfig GREETING=hello\nconfig APP_ENV=prod\nvisit ")
    before = int(text.rsplit(None, 1)[1])
    assert int(page().rsplit(None, 1)[1]) == before + 1


def test_ssh_runs_a_command(web, key):
    done = subprocess.run([*ssh(key), "hostname; id -un; cat /proc/1/comm"], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "web\nroot\npyinit\n", "")


def test_ssh_with_a_terminal(web, key):
    """-tt needs AUDIT_WRITE, devpts and a pty of our own."""
    main, side = pty.openpty()
    child = subprocess.Popen([*ssh(key, "-tt"), "tty; exit 3"], stdin=side, stdout=side, stderr=side)
    os.close(side)
    text, deadline = b"", time.monotonic() + DEADLINE_S
    try:
        while time.monotonic() < deadline and (data := os.read(main, 4096)):
            text += data
    except OSError:  # EIO: the other side is closed
        pass
    os.close(main)
    assert child.wait(DEADLINE_S) == 3
    assert b"/dev/pts/" in text


@pytest.mark.parametrize("how", ["restart", "kill -9"])
def test_a_session_survives_the_restart_of_sshd(web, key, how):
    child = subprocess.Popen([*ssh(key), "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        child.stdin.write(b"one\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"one\n"
        before = services()["ssh"]["pid"]
        count = web.output.count("pyinit: ssh: ready")
        if how == "restart":
            assert verb("restart", "-c", NAME, "ssh").returncode == 0
        else:
            os.kill(host_pid(before), 9)
        web.wait_for("pyinit: ssh: ready", count=count + 1)
        assert services()["ssh"]["pid"] != before
        child.stdin.write(b"two\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"two\n"
    finally:
        child.stdin.close()
        child.wait(DEADLINE_S)
        child.stdout.close()


@pytest.mark.parametrize("name", ["nginx", "app"])
def test_kill_9_of_a_master(web, name):
    """Back and serving; its old workers are gone, the others' processes are the same."""
    page_again()
    before = services()
    count = web.output.count(f"pyinit: {name}: ready")
    os.kill(host_pid(before[name]["pid"]), 9)
    web.wait_for(f"pyinit: {name}: ready", count=count + 1)
    assert page_again().startswith("hello from web\n")
    after = services()
    assert {n for n in after if after[n]["pid"] != before[n]["pid"]} == {name}
    assert after[name]["restarts"] == before[name]["restarts"] + 1
    root = int(pathlib.Path(f"/run/pyinit/{NAME}/pid").read_text())
    masters = {"nginx": "nginx: master", "app": "php-fpm: master"}
    found = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    assert sum(masters[name] in line for line in found.splitlines() if line.split()[1] == str(root)) == 1


def test_the_counter_is_kept_over_a_restart(web, config, key):
    before = int(page_again().rsplit(None, 1)[1])
    assert verb("shutdown", "-c", NAME).returncode == 0
    assert web.wait() == 0
    again = boot(config, key)
    try:
        again.wait_for("pyinit: nginx: ready")
        assert int(page_again().rsplit(None, 1)[1]) == before + 1
    finally:
        again.close()
