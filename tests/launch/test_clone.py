"""What PID 1 is given to run from."""

import marshal
import os

import pytest

from pyinit.bundle import CODE, LATER, LATER_INSIDE, SECTIONS, SUMS, TAIL, Bundle
from pyinit.launch import clone

INSIDE = ["inside", "logs", LATER_INSIDE, LATER_INSIDE + CODE]


def test_code_that_another_start_has_just_replaced_is_read_by_whoever_pid_1_is(tmp_path):
    """It was taken for memory, which has no name either, and handed on as root's own file. In memory is what PID 1 needs, and no more."""
    out, places = bytearray(b"the program"), {}
    for name in (*SECTIONS, LATER, LATER + CODE, LATER_INSIDE, LATER_INSIDE + CODE, SUMS):
        part = marshal.dumps([name] * 9)
        places[name] = (len(part), len(out))
        out += part
    path = tmp_path / "code"
    path.write_bytes(out + marshal.dumps(([], places)) + len(out).to_bytes(TAIL, "little"))
    path.chmod(0o600)
    code = Bundle(os.open(path, os.O_RDONLY), "/no/where")
    path.unlink()
    for is_of_all in (True, False):
        copy = Bundle(clone._copy_file(code, is_of_all=is_of_all), "/no/where")
        assert os.readlink(f"/proc/self/fd/{copy.fd}").startswith("/memfd:")
        assert os.pread(copy.fd, 11, 0) == b"the program"
        assert [copy.part(name) for name in INSIDE] == [[name] * 9 for name in INSIDE]
        with pytest.raises(KeyError):
            copy.part("launcher")
        again = clone._copy_file(copy, is_of_all=is_of_all)
        assert os.fstat(again).st_ino == os.fstat(copy.fd).st_ino
        for one in (copy.fd, again):
            os.close(one)
    os.close(code.fd)
