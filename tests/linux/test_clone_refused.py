"""Docker's filter, and our own, answer ENOSYS to clone3(2), so that the C library falls back to clone(2): so do we."""

import pathlib
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).parents[2]
FILTER = REPO / "tests/system/without_mount_api.py"
CODE = """
import os, select
from pyinit.linux import process
parent = os.getpid()
for turn in range(2):
    pid, pidfd = process.clone(0)
    if pid == 0:
        os._exit(7 if os.getppid() == parent else 8)
    assert select.select([pidfd], [], [], 20)[0] and os.get_inheritable(pidfd) is False
    found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    assert (found.si_pid, found.si_status) == (pid, 7)
try:
    process.clone(0, cgroup_fd=0)
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("refused", ["ENOSYS", "EPERM"])
def test_a_child_is_born_by_clone_where_clone3_is_refused(refused):
    words = ["setpriv", "--no-new-privs", sys.executable, FILTER, f"{refused}:435", sys.executable, "-c", CODE]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, check=False, timeout=60)
    text = {"ENOSYS": "[Errno 38] clone3: Function not implemented", "EPERM": "[Errno 1] clone3: Operation not permitted"}[refused]
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{text}\n", "")
