"""Runtimes that give too little: no more processes, a terminal whose other end is gone, signals that are blocked and ignored."""

import json
import os
import pathlib
import pty
import signal

import pytest
import runtimes
import runtimes_cells
import smallbox

pytest_plugins = ["runtime_fixtures"]
ONE = ["/usr/bin/pyinit", "--config", "/etc/pyinit/one.toml"]
ENV = "/usr/bin/env"


def test_a_full_pid_table_stops_no_init_and_the_service_comes_when_there_is_room(small, tmp_path):
    """runc's pids limit of one: the init is that one; `runc update` makes room."""
    runc = runtimes.Runc(small, tmp_path)
    spec = json.loads((runc.bundle / "config.json").read_text())
    spec["linux"]["resources"]["pids"] = {"limit": 1}
    (runc.bundle / "config.json").write_text(json.dumps(spec))
    running = runc.start("one")
    try:
        running.wait_for("Resource temporarily unavailable")
        runc.run("runc", "--root", str(tmp_path / "state"), "update", "--pids-limit", "64", runc.container)
        running.wait_for("base up", "pyinit: base: ready")
        runc.stop(running)
        assert running.wait() == 0
        assert running.output.endswith("base: base ends\npyinit: base: stopped: TERM received\n")
    finally:
        running.close()
        runc.clean()


@pytest.mark.parametrize("number", [signal.SIGTERM, 37])
def test_a_terminal_that_is_gone_is_no_reason_to_end_and_a_stop_is_one(small, number):
    """Its standard streams give EIO from then on; the kernel's HUP is a reload."""
    ours, theirs = pty.openpty()
    box = smallbox.Box(small, ONE, stdio=theirs)
    try:
        os.close(theirs)
        said = b""
        while b"base: ready" not in said:
            said += os.read(ours, 4096)
        os.close(ours)
        init = box.pid()
        os.kill(init, signal.SIGHUP)
        children = pathlib.Path(f"/proc/{init}/task/{init}/children")
        smallbox.wait_until(children.read_text, "the service is there still")
        os.kill(init, number)
        assert box.process.wait(smallbox.DEADLINE_S) == 0
    finally:
        box.close()


def test_what_is_blocked_and_ignored_where_it_starts_reaches_no_service(small, box):
    """All that a caller can change; the stop comes through all the same."""
    chroot = f"{ENV} --block-signal --ignore-signal /usr/sbin/chroot"
    found = box(small, ["/usr/bin/pyinit", "--config", "/etc/pyinit/services.toml"], chroot=chroot)
    found.wait_for("FOUND", "finder up", "top up")
    [line] = [line for line in found.output.splitlines() if "FOUND {" in line]
    process = json.loads(line.partition("FOUND ")[2])["process"]
    assert (runtimes_cells.signals(process["SigBlk"]), runtimes_cells.signals(process["SigIgn"])) == ("none", "none")
    assert found.stop() == 0
    assert [line for line in found.output.splitlines() if line.endswith(" ends")] == ["top: top ends", "base: base ends"]


def test_one_command_has_them_as_they_were(small, box):
    """Tini's way: the command finds what the caller set."""
    chroot = f"{ENV} --block-signal=USR1 --ignore-signal=PIPE /usr/sbin/chroot"
    shell = "while read -r name mask; do case $name in SigBlk:|SigIgn:) echo $name $mask;; esac; done </proc/self/status"
    found = box(small, ["/usr/bin/pyinit", "--", "/bin/sh", "-c", shell], chroot=chroot)
    assert found.wait() == 0
    assert found.output == "SigBlk: 0000000000000200\nSigIgn: 0000000000001000\n"
