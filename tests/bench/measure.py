#!/usr/bin/env python3
"""Figures of a running container, as root: python tests/bench/measure.py [idle] [kill] [log].

idle  100 services: ready after, stopped after, context switches of PID 1 and logger in 30 s, memory
kill  kill -9 of sshd, nginx's master and php-fpm of the web example: a new one has exec'd after, the page is back after
log   1 GB of 100-byte lines through the logger, with timestamps

Absolute times drift with the machine: compare within one run.
"""

import os
import pathlib
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "system"))
from conftest import REPO, Pyinit, make_busybox, squash

NAME = "pyinit-bench"
IDLE_S = 30


def children(pid: int) -> list[int]:
    return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pid_1() -> int:
    return int(pathlib.Path(f"/run/pyinit/{NAME}/pid").read_text())


def logger_of(pid: int) -> int:
    return next(child for child in children(pid) if pathlib.Path(f"/proc/{child}/comm").read_text() == "pyinit-logger\n")


def switches(pid: int) -> int:
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def pss_kib(pid: int) -> int:
    rows = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("Pss:"))


def head(image: pathlib.Path) -> str:
    return f'[container]\nname = "{NAME}"\nlayers = ["{image}"]\n'


def idle(folder: pathlib.Path, image: pathlib.Path) -> None:
    services = "".join(f'[services.s{n}]\ncommand = ["/bin/sleep", "100000"]\n' for n in range(100))
    (folder / "services.toml").write_text(head(image) + services)
    started = time.monotonic()
    box = Pyinit(folder / "services.toml")
    for n in range(100):
        box.wait_for(f"pyinit: s{n}: ready\n")
    print(f"idle: 100 services ready {(time.monotonic() - started) * 1000:.0f} ms after the start of the launcher")
    ours = [pid_1(), logger_of(pid_1())]
    time.sleep(1)
    before = [switches(pid) for pid in ours]
    time.sleep(IDLE_S)
    moved = [switches(pid) - old for pid, old in zip(ours, before, strict=True)]
    print(f"idle: voluntary context switches in {IDLE_S} s: PID 1 {moved[0]}, logger {moved[1]}")
    sizes = [pss_kib(pid) for pid in (box.process.pid, *ours)]
    print(f"idle: PSS in KiB: monitor {sizes[0]}, PID 1 {sizes[1]}, logger {sizes[2]}")
    started = time.monotonic()
    code = box.stop()
    print(f"idle: all gone {(time.monotonic() - started) * 1000:.0f} ms after SIGTERM, exit code {code}")


def kill(folder: pathlib.Path, _image: pathlib.Path) -> None:
    text = (REPO / "examples/web/services.toml").read_text()
    for old, new in (
        ("../../services/", f"{REPO}/services/"), ("images/", f"{REPO}/examples/web/images/"), ("pyinit-web0", "pyinit-bench0"),
        ("10.91.0.1", "10.91.9.1"), ("[container]\n", f'[container]\nname = "{NAME}"\n'),
    ):  # fmt: skip
        text = text.replace(old, new)
    (folder / "services.toml").write_text(text)
    started = time.monotonic()
    box = Pyinit(folder / "services.toml", environment={"WEB_ADDRESS": "10.91.9.2"})
    page(started)
    print(f"kill: the page came {(time.monotonic() - started) * 1000:.0f} ms after the start of the launcher")
    for program, serves in (("/usr/sbin/sshd", False), ("/usr/sbin/nginx", True), ("/usr/sbin/php-fpm8.2", True)):
        print(f"kill: {program}: " + "; ".join(once(program, serves=serves) for _ in range(3)))
    box.stop()


def once(program: str, *, serves: bool) -> str:
    old = [pid for pid in children(pid_1()) if runs(pid, program)]
    started = time.monotonic()
    os.kill(old[0], 9)
    while not [pid for pid in children(pid_1()) if pid not in old and runs(pid, program)]:
        pass
    text = f"exec'd after {(time.monotonic() - started) * 1000:.1f} ms"
    if serves:
        text += f", page after {page(started):.0f} ms"
    time.sleep(11)  # until the back-off is forgiven
    return text


def runs(pid: int, program: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/exe") == program
    except OSError:
        return False


def page(started: float) -> float:
    while True:
        try:
            with urllib.request.urlopen("http://10.91.9.2/", timeout=0.2) as answer:
                if answer.status == 200:
                    return (time.monotonic() - started) * 1000
        except OSError:
            pass


def log(folder: pathlib.Path, image: pathlib.Path) -> None:
    (folder / "log").mkdir()
    command = f"yes {'x' * 99} | head -n 10000000; echo all; exec sleep 1000"
    (folder / "services.toml").write_text(
        head(image) + '[[container.mounts]]\ntype = "bind"\nsource = "log"\ntarget = "/var/log/pyinit"\n'
        f'[services.writer]\ncommand = ["/bin/sh", "-c", "{command}"]\nlog = {{ max_size = "100M", keep = 2 }}\n'
    )
    started = time.monotonic()
    box = Pyinit(folder / "services.toml")
    current = folder / "log/writer/current"
    while not (current.exists() and last_line(current).endswith(b" all\n")):
        time.sleep(0.01)
    took = time.monotonic() - started
    fields = pathlib.Path(f"/proc/{logger_of(pid_1())}/stat").read_text().rpartition(") ")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    print(f"log: 1000 MB in {took:.2f} s = {1000 / took:.0f} MB/s, the logger's CPU {cpu:.2f} s")
    box.stop()


def last_line(path: pathlib.Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 100))
        return file.read()


def main() -> None:
    wanted = sys.argv[1:] or ["idle", "kill", "log"]
    for name in wanted:
        with tempfile.TemporaryDirectory() as place:
            folder = pathlib.Path(place)
            {"idle": idle, "kill": kill, "log": log}[name](folder, squash(make_busybox(folder / "tree"), folder / "busybox.squashfs"))


if __name__ == "__main__":
    main()
