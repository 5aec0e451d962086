"""Programs that are kept beside a container: what goes wrong there stays there."""

from pyinit.launch.keeper import Keeper


class Odd:
    where, due, is_lost = "mount /x", None, False

    def fds(self) -> list[int]:
        return [7]

    def turn(self, ready: list[int], now: float) -> None:
        raise ZeroDivisionError(f"{ready} at {now:g}")


def test_a_fault_of_ours_ends_no_more_than_the_keeping_of_that_program():
    lines: list[str] = []
    keeper = Keeper([], [], None, None, -1, lines.append)
    keeper._kept.append(Odd())
    keeper.turn([7], 1.5)
    assert lines[0].startswith("mount /x: ZeroDivisionError: [7] at 1.5 at test_keeper.py:")
    assert lines[0].endswith("; it is kept no more")
    assert keeper.fds() == []
    keeper.turn([7], 2.5)
    assert len(lines) == 1
