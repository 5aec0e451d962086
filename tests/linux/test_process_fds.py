"""Descriptors that a fork closes under the objects that had them."""

import gc
import os
import socket

from pyinit.linux import process


def _in_a_child(work) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forgotten_object_does_not_close_who_got_its_number():
    """It stands in a cycle, so only a collection ends it, at any later time: a log's file may have the number by then."""
    mine = socket.socket()
    fd = mine.fileno()
    held = [[mine]]
    held[0].append(held[0])
    del mine

    def later() -> int:
        held.clear()
        process.close_all_but({0, 1, 2})
        while os.open("/", os.O_RDONLY) < fd:
            pass
        gc.collect()
        os.fstat(fd)
        return 0

    assert _in_a_child(later) == 0
    held[0][0].close()
