"""Capability sets of this process, in a child of its own."""

import os
import pathlib

import pytest

from pyinit.linux import caps


def sets() -> dict[str, int]:
    rows = [line.split() for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("Cap")]
    return {name.strip(":").removeprefix("Cap"): int(value, 16) for name, value in rows}


@pytest.mark.parametrize("ambient", [False, True])
def test_only_what_is_named_is_kept_and_nothing_is_inherited(ambient):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if ambient:  # which leaves no other
                caps.raise_ambient((caps.NAMES.index("CHOWN"),))
            before = sets()
            caps.keep_only(("CHOWN", "SYS_ADMIN", "BPF"))
            wanted = sum(1 << caps.NAMES.index(name) for name in ("CHOWN", "SYS_ADMIN", "BPF")) & before["Prm"]
            code = sets() != {"Inh": 0, "Prm": wanted, "Eff": wanted, "Bnd": before["Bnd"], "Amb": 0}
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_mask_by_names():
    assert caps.named(0) == ()
    assert caps.named(1 | 1 << 39) == ("CHOWN", "BPF")
    assert set(caps.named(sets()["Bnd"])) == caps.bounding_set()
