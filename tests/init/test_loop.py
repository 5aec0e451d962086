"""PID 1's loop: fds, deadlines, and callbacks that fail."""

import os
import time

from pyinit.init.loop import Loop


def make() -> tuple[Loop, list[Exception]]:
    errors: list[Exception] = []
    return Loop(errors.append), errors


def test_deadlines_run_in_their_order_and_cancelled_ones_not():
    loop, _ = make()
    seen = []
    now = time.monotonic()
    loop.call_at(now + 0.02, lambda: (seen.append("late"), loop.stop()))
    loop.call_at(now + 0.01, lambda: seen.append("early"))
    loop.call_at(now, lambda: seen.append("never")).cancel()
    loop.run()
    assert seen == ["early", "late"]


def test_an_error_is_reported_and_the_loop_goes_on():
    loop, errors = make()

    def fail() -> None:
        raise ValueError("broken")

    loop.call_soon(fail)
    loop.call_soon(loop.stop)
    loop.run()
    assert [str(error) for error in errors] == ["broken"]


def test_readers_are_called_until_they_are_removed():
    loop, errors = make()
    read_end, write_end = os.pipe()
    seen = []

    def read() -> None:
        seen.append(os.read(read_end, 1))
        if len(seen) == 2:
            loop.remove_reader(read_end)
            loop.stop()

    loop.add_reader(read_end, read)
    os.write(write_end, b"abc")
    loop.run()
    assert (seen, errors) == ([b"a", b"b"], [])
    os.close(read_end)
    os.close(write_end)


def test_one_fd_may_have_a_reader_and_a_writer():
    import socket

    loop, errors = make()
    ours, theirs = socket.socketpair()
    seen = []

    def write() -> None:
        seen.append("writable")
        loop.remove_writer(ours.fileno())
        theirs.send(b"x")

    def read() -> None:
        seen.append("readable")
        loop.stop()

    loop.add_reader(ours.fileno(), read)
    loop.add_writer(ours.fileno(), write)
    loop.run()
    assert (seen, errors) == (["writable", "readable"], [])
    loop.remove_reader(ours.fileno())
    ours.close()
    theirs.close()


def test_a_callback_that_removes_another_s_fd_in_the_same_turn():
    loop, errors = make()
    pipes = [os.pipe() for _ in range(2)]
    seen = []

    def read(number: int) -> None:
        seen.append(number)
        for read_end, _ in pipes:
            loop.remove_reader(read_end)
        loop.stop()

    for number, (read_end, write_end) in enumerate(pipes):
        loop.add_reader(read_end, lambda number=number: read(number))
        os.write(write_end, b"x")
    loop.run()
    assert (len(seen), errors) == (1, [])
    for pair in pipes:
        for fd in pair:
            os.close(fd)


def test_what_was_told_of_an_fd_that_is_closed_does_not_reach_who_has_its_number_now():
    """Both are ready in one turn; the first closes the second, whose number the next pipe gets."""
    loop, errors = make()
    first, second = os.pipe(), os.pipe()
    seen = []

    def replace() -> None:
        for one in (first[0], second[0]):
            loop.remove_reader(one)
            os.close(one)
        again = os.pipe()
        assert set(again) & {first[0], second[0]}
        for one in again:
            loop.add_reader(one, lambda one=one: (seen.append(one), loop.stop()))
        loop.call_soon(lambda: os.write(again[1], b"x"))

    for read_end, write_end in (first, second):
        loop.add_reader(read_end, replace)
        os.write(write_end, b"x")
    loop.call_at(time.monotonic() + 5, loop.stop)
    loop.run()
    assert errors == []
    assert seen == [min(first[0], second[0])]
