"""What PID 1 is given to run from."""

import os

from pyinit.launch import clone


def test_code_that_another_start_has_just_replaced_is_read_by_whoever_pid_1_is(tmp_path):
    """It was taken for memory, which has no name either, and handed on as root's own file."""
    path = tmp_path / "code"
    path.write_bytes(b"code")
    path.chmod(0o600)
    fd = os.open(path, os.O_RDONLY)
    path.unlink()
    for is_of_all in (True, False):
        copy = clone._copy_file(fd, is_of_all=is_of_all)
        assert os.readlink(f"/proc/self/fd/{copy}").startswith("/memfd:")
        assert os.pread(copy, 10, 0) == b"code"
        again = clone._copy_file(copy, is_of_all=is_of_all)
        assert os.fstat(again).st_ino == os.fstat(copy).st_ino
        for one in (copy, again):
            os.close(one)
    os.close(fd)
