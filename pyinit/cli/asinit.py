"""The name `init`: words that an init gets without knowing any.

Owns what they mean: as PID 1, those of a kernel's or a runtime's command line (`quiet`, `single`, `systemd.unit=...`)
are nobody's here; else `init 0`, `init 6` and `init q` are asked of the PID 1 that runs, as of sysvinit's (telinit(8)).
Must not know how a config is run. Law: what is left out is said.
"""

import os
import sys

from pyinit.errors import EXIT_OK, ControlError, UsageError
from pyinit.model import RTMIN

_WITH_VALUE = ("--config", "-c")
_OURS = ("--no-launch", "--verbose", "--version", "-V", "--help", "-h")
_REBOOT = RTMIN + 5


def own_words(words: list[str]) -> list[str]:
    """As PID 1: those that are pyinit's, in their order."""
    kept: list[str] = []
    strange: list[str] = []
    pending = list(words)
    while pending:
        word = pending.pop(0)
        if word in _WITH_VALUE and pending:
            kept += [word, pending.pop(0)]
        elif word in _OURS or word.startswith("--config="):
            kept.append(word)
        else:
            strange.append(word)
    if strange:
        print(f"pyinit: init: not heeded: {' '.join(strange)}; pyinit takes --config FILE", file=sys.stderr)
    return kept


def ask(words: list[str]) -> int:
    """Beside a PID 1: `init LEVEL`. UsageError for a level that means nothing here; ControlError if none answers."""
    if words == ["0"]:
        from pyinit.cli import shutdown

        return shutdown.run(["--no-wait"])
    if words in (["q"], ["Q"]):
        from pyinit.cli import reload

        return reload.run([])
    if words == ["6"]:
        from pyinit.cli import options
        from pyinit.control.client import Connection

        with Connection(options.Options().socket(), {"verb": "status"}) as connection:
            pid = connection.answer()["init"]["pid"]
        try:
            os.kill(pid, _REBOOT)
        except PermissionError:
            raise ControlError("init 6: only root may signal PID 1") from None
        return EXIT_OK
    raise UsageError(f"init {' '.join(words)}: expected 0 (stop), 6 (reboot) or q (reload); `pyinit --help` lists the verbs")
