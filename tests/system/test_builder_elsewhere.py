"""A root of a user namespace that the host's pid namespace does not belong to: its children can't be born there and here by turns."""

import sys


def test_root_of_a_user_namespace_alone_is_told_and_waits_for_nobody(bench, busybox):
    text = f'[container]\nname = "pyinit-elsewhere"\nlayers = ["{busybox.parent}/tree"]\n[services.app]\ncommand = ["true"]\n'
    enter = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")
    box = bench.start(text, command=(*enter, sys.executable, "-m", "pyinit"))
    assert box.wait() == 111
    assert box.output == (
        f"pyinit: {box.config}:1: make /dev/null zero full random urandom tty and the links fd stdin stdout stderr ptmx: Operation not permitted\n"
    )
