"""A copy of a mount that no namespace has, made read-only."""

import errno
import os

import pytest

from pyinit.linux import mount


@pytest.mark.parametrize(("busy", "told"), [(1, False), (99, True)])
def test_one_that_the_kernel_calls_busy_is_made_anew(monkeypatch, tmp_path, busy, told):
    """Linux 6.18 did so once in some thousands of starts."""
    made, tries = [], []

    def open_tree(path: str) -> int:
        made.append(os.open(path, os.O_PATH))
        return made[-1]

    def mount_setattr(fd: int, *, attributes: int) -> None:
        tries.append(attributes)
        if len(tries) <= busy:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(mount, "refused_mounts", lambda: None)
    monkeypatch.setattr(mount, "open_tree", open_tree)
    monkeypatch.setattr(mount, "mount_setattr", mount_setattr)
    if told:
        with pytest.raises(OSError, match="busy"):
            mount.detached_copy(str(tmp_path), 1)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(made[-1])  # nothing of it is left open
        assert len(tries) == 16
    else:
        os.close(mount.detached_copy(str(tmp_path), 1))
        assert tries == [1, 1]
