"""Pseudo-terminals: which devpts they are of, what is refused, sizes."""

import fcntl
import os
import subprocess
import sys
import termios

import pytest

from pyinit.linux import pty


def test_a_pair_is_of_the_devpts_that_was_asked_for():
    master, slave = pty.open_pair()
    try:
        assert os.fstat(slave).st_dev == os.stat("/dev/pts").st_dev
        assert os.ttyname(slave) == f"/dev/pts/{os.fstat(slave).st_rdev & 0xFF}"
        assert (pty.is_master(master), pty.is_master(slave)) == (True, False)
        assert not os.get_blocking(master)
        assert not os.get_inheritable(master)
        os.write(slave, b"x\n")
        assert os.read(master, 9) == b"x\r\n"
        os.close(slave)
        slave = -1
        with pytest.raises(OSError, match="Input/output error"):
            os.read(master, 9)
    finally:
        for fd in (master, slave):
            if fd >= 0:
                os.close(fd)


def test_what_is_no_devpts_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("/dev/pts")
    (tmp_path / "folder").mkdir()
    before = os.listdir("/proc/self/fd")
    for name, text in (("none", "No such file"), ("link", "Not a directory"), ("folder", "no devpts")):
        with pytest.raises(OSError, match=text):
            pty.open_pair(f"{tmp_path}/{name}")
    assert os.listdir("/proc/self/fd") == before


def test_what_is_mounted_over_a_devpts_is_refused():
    """In a mount namespace of its own: another devpts' ptmx, a device, a file."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pyinit.linux import pty\n"
        "try: print(pty.open_pair(sys.argv[2]))\n"
        "except OSError as error: print(error.strerror)\n"
    )
    show = f"{sys.executable} -c '{code}' {os.getcwd()}"
    script = (
        "mount -t tmpfs none /mnt && mkdir /mnt/a /mnt/b /mnt/c && for at in a b; do mount -t devpts -o newinstance,ptmxmode=666 none /mnt/$at; done\n"
        f"mount --bind /mnt/b/ptmx /mnt/a/ptmx; {show} /mnt/a; umount /mnt/a/ptmx\n"
        f"mount --bind /dev/zero /mnt/a/ptmx; {show} /mnt/a; umount /mnt/a/ptmx\n"
        f"mount --bind /etc/passwd /mnt/a/ptmx; {show} /mnt/a; umount /mnt/a/ptmx\n"
        f"ln -s ../a/ptmx /mnt/c/ptmx; {show} /mnt/c; {show} /mnt/a\n"
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["No such file or directory", "no ptmx", "no ptmx", "no devpts", "(4, 5)"]  # the first by TIOCGPTPEER


def test_a_size_is_told_and_none_is_none():
    master, slave = pty.open_pair()
    with open("/dev/null") as null:
        assert (pty.size(slave), pty.size(null.fileno())) == (None, None)
    pty.set_size(master, 31, 99)
    assert (pty.size(slave), pty.size(master)) == ((31, 99), (31, 99))
    os.close(master)
    os.close(slave)


def test_it_becomes_the_controlling_terminal_of_a_sessions_leader():
    master, slave = pty.open_pair()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        pty.take(slave)
        os._exit(int.from_bytes(fcntl.ioctl(slave, termios.TIOCGPGRP, bytes(4)), sys.byteorder) != os.getpid())
    assert os.waitpid(pid, 0) == (pid, 0)
    os.close(master)
    os.close(slave)
