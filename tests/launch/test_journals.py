"""What all containers of a host know of each other: who counts, and the lock that nobody has for ever."""

import fcntl
import os
import pathlib
import resource
import subprocess
import sys

import pytest

from pyinit.control import places
from pyinit.errors import LaunchError
from pyinit.launch import fuse, journals, pods
from pyinit.launch.claim import Claim
from pyinit.model import Origin


@pytest.fixture
def base(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setattr(places, "runtime_dir", lambda: str(tmp_path))
    return tmp_path


def container(base: pathlib.Path, name: str, journal: str, *, runs: bool) -> int:
    (base / name).mkdir()
    (base / name / "journal").write_text(journal)
    fd = os.open(base / name / "lock", os.O_RDWR | os.O_CREAT)
    if runs:
        fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def test_a_lock_that_is_never_given_back_ends_in_words(base):
    program = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); print('locked', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", program, base], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout.readline() == "locked\n"
        name = pathlib.Path(f"/proc/{holder.pid}/comm").read_text().strip()
        with pytest.raises(TimeoutError) as caught, journals.locked(patience_s=0.01):
            pass
        assert caught.value.strerror == (
            f"{base} has been locked for 0.01 s by process {holder.pid} ({name}), which changes what containers share; end that"
        )
        holder.stdin.close()
        with journals.locked():
            pass


def test_who_does_not_run_counts_while_another_lives_in_its_network(base):
    fds = [
        container(base, "db", "address\t10.1.0.2\nlink\tve-db db\n", runs=False),
        container(base, "old", "address\t10.1.0.3\n", runs=False),
        container(base, "left", "pod\told\tleft\ngone\tpod\n", runs=True),
        container(base, "dead", "pod\told\tdead\n", runs=False),
        container(base, "web", "pod\tdb\tweb\n", runs=True),
    ]
    try:
        assert {one.name: one.runs for one in journals.others("me")} == {"db": True, "dead": False, "left": True, "old": False, "web": True}
    finally:
        for fd in fds:
            os.close(fd)


def test_another_run_begins_with_nothing_of_the_one_before(base):
    """Neither what could not be undone, nor a network that is others' by now; of that what is given back is given back by the last of them."""
    fds = [
        container(base, "odd", "strange\tthing\ngone\trules\n", runs=False),
        container(base, "db", "address\t10.1.0.2\nstrange\tthing\naddress\tfd01::2\n", runs=False),
        container(base, "web", "pod\tdb\tweb\n", runs=True),
    ]
    try:
        with pytest.raises(LaunchError, match=r"^x\.toml:3: an earlier run of odd was not cleaned up: strange thing is left behind: 'strange'$"):
            Claim(str(base / "odd"), -1, -1).undo_for_another(Origin("x.toml", 3))
        (base / "db/journal").write_text("address\t10.1.0.2\nservices\t/no/such\naddress\tfd01::2\n")
        said = r"^x\.toml:3: container db has left its network to web \(by share\), and can't have it twice; stop what shares it first, then start all again$"
        with pytest.raises(LaunchError, match=said):
            Claim(str(base / "db"), -1, -1).undo_for_another(Origin("x.toml", 3))
        assert (base / "db/journal").read_text() == "address\t10.1.0.2\naddress\tfd01::2\n"
        pods.leave("db\tweb")
        assert not (base / "db").exists()
    finally:
        for fd in fds:
            os.close(fd)


def test_a_network_that_is_being_given_back_is_not_joined(base):
    mine = os.getpid()
    noted = []
    fds = [container(base, "db", "link\tve-db db\n", runs=True), container(base, "web", "pod\tdb\tweb\n", runs=True)]
    try:
        for name in ("db", "web"):
            (base / name / "pid").write_text(f"{mine}\n")
            pods.join(name, "app", mine, lambda *row: noted.append(row))
        assert noted == [("pod", "db\tapp")] * 2
        assert pods.give_back("db") == ["web"]
        journals.mark_gone("web", "pod")
        assert pods.give_back("db") == []
        with pytest.raises(OSError, match="container db has just ended; start it first"):
            pods.join("db", "app", mine, lambda *row: noted.append(row))
        assert len(noted) == 2
    finally:
        for fd in fds:
            os.close(fd)


def test_a_full_disk_leaves_no_half_a_line_and_no_network_that_nobody_knows_of(base):
    fds = [container(base, "db", "address\t10.1.0.2\n", runs=True)]
    journal = base / "db/journal"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    one = Claim(str(base / "db"), -1, -1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size + 3, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            one.note("folder", "/none")
        told = one.undo()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        for fd in fds:
            os.close(fd)
    assert told == ["its network is left behind: [Errno 27] File too large"]
    assert (journal.read_text(), one.members) == ("address\t10.1.0.2\n", [])
    one.note("folder", "/none")
    assert one.undo() == []
    assert not journal.exists()


def test_a_process_of_another_boot_is_no_program_of_a_journal():
    """It may have the number and, counted from its own boot, the same birth."""
    child = subprocess.Popen(["/bin/sleep", "1000"])
    try:
        value = fuse.identity(child.pid)
        number, birth, boot = value.split()
        assert boot == pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fuse.kill_again(f"{number} {birth} {boot[:-1]}{'0' if boot[-1] != '0' else '1'}")
        fuse.kill_again(f"{number} {birth}")
        assert child.poll() is None
        fuse.kill_again(value)
        assert child.wait(20) == -9
    finally:
        child.kill()
        child.wait()
