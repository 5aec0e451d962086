"""The verbs on a running container, signals on their way in, and the less usual kinds of container."""

import json
import os
import pathlib
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from conftest import DEADLINE_S, REPO, make_busybox, verb, wait_until
from test_container import config, said

pytestmark = pytest.mark.usefixtures("nothing_left")
LOOP = "while :; do sleep 0.05; done"

SERVICES = """
[services.base]
command = ["/bin/sh", "-c", "echo base; exec sleep 1000"]
[services.top]
command = ["/bin/sh", "-c", "echo top; exec sleep 1000"]
requires = ["base"]
[services.off]
command = ["/bin/sh", "-c", "exit 3"]
enabled = false
restart = "never"
[services.once]
command = ["/bin/true"]
kind = "oneshot"
"""


def states() -> dict[str, str]:
    found = json.loads(verb("status", "--json").stdout)
    return {one["name"]: one["state"] for one in found["services"]}


def test_start_stop_restart_and_what_status_says(bench, busybox):
    box = bench.start(config(busybox, f"echo up; {LOOP}", service=SERVICES))
    box.wait_for("pyinit: top: ready")
    box.wait_for("pyinit: once: done")
    assert states() == {"app": "ready", "base": "ready", "top": "ready", "off": "stopped", "once": "done"}
    assert verb("stop", "base").returncode == 0
    assert (states()["base"], states()["top"]) == ("stopped", "stopped")
    assert verb("start", "top").returncode == 0
    assert (states()["base"], states()["top"]) == ("ready", "ready")
    before = json.loads(verb("status", "--json").stdout)["services"]
    assert verb("restart", "base").returncode == 0
    after = json.loads(verb("status", "--json").stdout)["services"]
    changed = [old["name"] for old, new in zip(before, after, strict=True) if old["pid"] != new["pid"]]
    assert changed == ["base"]  # an automatic or asked restart leaves dependants alone
    done = verb("start", "off")
    assert (done.returncode, done.stdout) == (0, "")  # it was executed, so it was ready
    assert verb("status", "off").returncode == 3
    done = verb("stop", "nobody")
    assert (done.returncode, done.stderr) == (1, "pyinit: nobody: no such service; there are: app, base, top, off, once\n")
    done = verb("status", "nobody")
    assert (done.returncode, done.stderr) == (1, "pyinit: nobody: no such service; there are: app, base, top, off, once\n")
    done = verb("shutdown", "--exit-code", "42")
    assert (done.returncode, box.wait()) == (0, 42)


def test_logs_look_back_and_follow(bench, busybox):
    service = '[services.talk]\ncommand = ["/bin/sh", "-c", "seq 20; while [ ! -e /run/go ]; do sleep 0.05; done; echo more; exec sleep 99"]\nlog = { timestamp = "none" }\n'
    box = bench.start(config(busybox, LOOP, service=service))
    box.wait_for("pyinit: talk: ready")
    deadline = time.monotonic() + DEADLINE_S
    while verb("logs", "-n", "1", "talk").stdout != "20\n" and time.monotonic() < deadline:
        pass
    assert verb("logs", "-n", "3", "talk").stdout == "18\n19\n20\n"
    follower = subprocess.Popen(
        [sys.executable, "-m", "pyinit", "logs", "-f", "-n", "1", "talk"], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    assert follower.stdout.readline() == "20\n"
    root = int(pathlib.Path("/run/pyinit/pyinit-test/pid").read_text())
    pathlib.Path(f"/proc/{root}/root/run/go").touch()
    assert follower.stdout.readline() == "more\n"
    assert box.stop() == 0
    assert follower.wait(DEADLINE_S) == 0
    follower.stdout.close()


def test_signals_are_forwarded_to_those_who_list_them(bench, busybox):
    command = 'trap "echo usr1" USR1; trap "echo winch" WINCH; echo up; ' + LOOP
    box = bench.start(config(busybox, command, service='forward_signals = ["USR1", "WINCH"]\n'))
    box.wait_for("app: up")
    box.process.send_signal(signal.SIGUSR1)
    box.wait_for("app: usr1")
    box.process.send_signal(signal.SIGWINCH)
    box.wait_for("app: winch")
    assert box.stop() == 0


def test_a_second_int_kills(bench, busybox):
    box = bench.start(config(busybox, f'trap "" TERM; echo up; {LOOP}'))
    box.wait_for("app: up")
    box.process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + DEADLINE_S
    while states().get("app") != "stopping" and time.monotonic() < deadline:
        pass
    started = time.monotonic()
    assert box.stop(signal.SIGINT) == 0
    assert time.monotonic() - started < 5  # not the 7 s that its own stop_timeout would take


def test_a_service_that_ignores_term_is_killed_in_time(bench, busybox):
    box = bench.start(config(busybox, f'trap "" TERM; echo up; {LOOP}', service='stop_timeout = "300ms"\n'))
    box.wait_for("app: up")
    assert box.stop() == 0


def test_hup_from_a_terminal_stops(bench, busybox):
    """The monitor has a controlling terminal, which goes away."""
    path = bench.write(config(busybox, f"echo up; {LOOP}"))
    pid, main = pty.fork()
    if pid == 0:
        os.chdir(REPO)
        os.execv(sys.executable, [sys.executable, "-m", "pyinit", "--config", str(path)])
    text, deadline = b"", time.monotonic() + DEADLINE_S
    while b"app |\x1b[0m up" not in text and time.monotonic() < deadline:
        text += os.read(main, 4096)
    pidfd = os.pidfd_open(pid)
    os.close(main)
    assert select.select([pidfd], [], [], DEADLINE_S)[0]
    os.close(pidfd)
    assert os.waitpid(pid, 0)[1] == 0


def test_an_orphan_goes_on_and_can_be_stopped(bench, busybox):
    box = bench.start(config(busybox, f"echo up; {LOOP}", "orphan = true"))
    box.wait_for("app: up")
    box.process.kill()
    box.process.wait()
    assert states() == {"app": "ready"}
    assert verb("shutdown").returncode == 0
    again = bench.start(config(busybox, "echo up"))  # and cleans up what the orphan left
    assert again.wait() == 0


def test_layers_of_folders_and_images(bench, busybox, tmp_path):
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    (upper / "etc/motd").write_text("of the upper layer\n")
    (upper / "etc/group").write_text("root:x:0:\n")
    text = config(busybox, "cat /etc/motd /etc/group; touch /etc/x 2>&1").replace('squashfs"]', 'squashfs", "upper"]')
    box = bench.start(text)
    assert box.wait() == 1
    assert said(box) == ["of the upper layer", "root:x:0:", "touch: /etc/x: Read-only file system"]


def test_an_image_inside_the_image(bench, busybox, tmp_path):
    folder = make_busybox(tmp_path / "tree")
    (tmp_path / "app").mkdir()
    (tmp_path / "app/word").write_text("from within\n")
    (folder / "images").mkdir()
    subprocess.run(["mksquashfs", tmp_path / "app", folder / "images/app.squashfs", "-quiet"], check=True, capture_output=True)
    more = '[[container.mounts]]\ntype = "squashfs"\nsource = "image:/images/app.squashfs"\ntarget = "/app"\n'
    box = bench.start(config(folder, "cat /app/word", more))
    assert box.wait() == 0
    assert said(box) == ["from within"]


def test_an_init_of_the_image_takes_over(bench, busybox, tmp_path):
    folder = make_busybox(tmp_path / "tree")
    (folder / "init").write_text("#!/bin/sh\necho pid $$ container $container; grep CapPrm /proc/self/status; exit 5\n")
    (folder / "init").chmod(0o755)
    box = bench.start(config(folder, "true", 'init = "/init"'))
    assert box.wait() == 5
    assert box.output == "pid 1 container pyinit\nCapPrm:\t00000000a00405fb\n"


def test_kernel_settings_can_be_read_but_not_written(bench, busybox):
    command = """
for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/uevent_helper /proc/sys/kernel/hostname; do
  (echo x > $f) 2>/dev/null && echo wrote $f
done
ls /sys/firmware | wc -l
mount -t tmpfs none /tmp 2>/dev/null && echo mounted
mknod /dev/mem c 1 1 2>/dev/null && echo node
echo end
"""
    box = bench.start(config(busybox, command.replace("'", "")))
    assert box.wait() == 0
    lines = said(box)
    assert not [line for line in lines if line.startswith("wrote") or line in ("mounted", "node")]
    assert lines[0] == "0"
    assert lines[-1] == "end"


def test_files_of_a_ram_disk_are_written_by_an_init_of_another_runtime(bench, busybox, tmp_path):
    more = f'[[container.mounts]]\ntype = "tmpfs"\ntarget = "{tmp_path}/config"\nfiles = {{ "a.env" = "A=1\\n" }}\n'
    text = config(busybox, f"cat {tmp_path}/config/a.env", more).replace("[init]", f'[init]\nstate_dir = "{tmp_path}/s"\ncontrol_socket = "{tmp_path}/c"')
    text = text.replace(f'"{busybox}"', '"/images/not-here.squashfs"')  # layers are the launcher's affair
    box = bench.start(text, command=("unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "pyinit"))
    assert box.wait() == 0
    assert said(box) == ["A=1"]


def test_the_same_verbs_work_on_the_socket_inside(bench, busybox):
    box = bench.start(config(busybox, f"echo up; {LOOP}"))
    box.wait_for("app: up")
    root = int(pathlib.Path("/run/pyinit/pyinit-test/pid").read_text())
    inside = f"/proc/{root}/root/run/pyinit/control.sock"
    assert os.stat(inside).st_mode & 0o777 == 0o600
    assert verb("status", "--socket", inside, "app").returncode == 0
    assert verb("shutdown", "--socket", inside).returncode == 0
    assert box.wait() == 0


def test_kill_process_spares_the_others_even_when_the_main_one_must_be_killed(bench, busybox):
    """As sshd's sessions: a stop that has to end in KILL is no reason to end them."""
    command = ["/bin/sh", "-c", 'trap "" TERM; (trap "" TERM; while :; do echo alive >> /run/session; sleep 0.05; done) & while :; do sleep 0.05; done']
    service = f"[services.ssh]\ncommand = {json.dumps(command)}\nkill = 'process'\nstop_timeout = '200ms'\n"
    box = bench.start(config(busybox, LOOP, service=service))
    box.wait_for("pyinit: ssh: ready")
    assert verb("stop", "ssh").returncode == 0
    root = int(pathlib.Path("/run/pyinit/pyinit-test/pid").read_text())
    session = pathlib.Path(f"/proc/{root}/root/run/session")
    size = session.stat().st_size
    wait_until(lambda: session.stat().st_size > size, "a sign of life of the session")
    assert box.stop() == 0


def test_a_reboot_stops_in_order_and_starts_anew(bench, busybox):
    box = bench.start(config(busybox, f'trap "echo bye; exit" TERM; echo up; {LOOP}'))
    box.wait_for("app: up")
    box.process.send_signal(34 + 5)
    box.wait_for("app: up", count=2)
    assert said(box) == ["up", "bye", "up"]
    assert states() == {"app": "ready"}
    assert box.stop() == 0


def test_int_of_lxc_is_a_reboot(bench, busybox):
    """Seen from outside: PID 1 dies of HUP, as LXC expects it."""
    text = config(busybox, f'trap "exit" TERM; echo up; {LOOP}').replace("[init]", f'[init]\nstate_dir = "{bench.folder}/s"\ncontrol_socket = "{bench.folder}/c"')
    box = bench.start(text, command=("unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "pyinit"), environment={"container": "lxc"})
    box.wait_for("app: up")
    children = pathlib.Path(f"/proc/{box.process.pid}/task/{box.process.pid}/children")
    os.kill(int(children.read_text()), signal.SIGINT)
    box.wait()
    assert box.process.returncode in (-signal.SIGHUP, 128 + signal.SIGHUP)
