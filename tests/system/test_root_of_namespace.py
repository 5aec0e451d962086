"""Root of no more than a user namespace, as `podman unshare`, `unshare --map-root-user` and most containers' containers have it.

Whoever that is has every capability there, and can make no device: he is served as an ordinary user is.
"""

import os
import pathlib
import re
import sys

import pytest
from conftest import wait_until
from test_rootless import OWNERS, USER, WAIT, Ordinary, made, servers, subids  # noqa: F401 - a fixture

ALONE = "a container of root of a user namespace has a user namespace of its own, from which nobody else's namespaces can be joined"


class Mapped(Ordinary):
    """An ordinary user who has become root of a user namespace with his ranges before."""

    def command(self, fuse: str = "fuse") -> tuple[str, ...]:
        *before, python, flag, module = super().command(fuse)
        return (*before, "unshare", "--user", "--map-root-user", "--map-auto", "--mount", python, flag, module)


@pytest.fixture
def user(subids, nothing_left, tmp_path):  # noqa: F811
    yield from made(Mapped, subids, tmp_path)


def test_all_ids_of_it_are_the_container_s(user):
    more = f'[services.other]\nuser = "app"\ncommand = ["/bin/sleep", "1000"]\n{WAIT}'
    (user.folder / "state").mkdir(mode=0o700)
    os.chown(user.folder / "state", user.uid, user.uid)
    box = user.start('writable = "./state"\n', more)
    box.wait_for("app: ready")
    box.wait_for("other: ready")
    assert pathlib.Path(f"/proc/{user.pid()}/uid_map").read_text().split() == ["0", str(user.uid), "1", "1", "500000", "65535"]
    assert [line.split() for line in user.sh(OWNERS).splitlines()] == [["1000", "1000", "app"], ["65534", "65534", "beyond"], ["0", "0", "root"]]
    assert user.sh("id -u; echo x > /dev/null; head -c 3 /dev/zero | wc -c; echo $$ > /data/new; ls -ln /data/new | awk '{ print $3 }'") == "0\n3\n0\n"
    assert (user.folder / "state/upper/data/new").stat().st_uid == user.uid
    assert len(servers()) == 1
    assert box.stop() == 0
    wait_until(lambda: servers() == [], "the end of squashfuse")
    lines = user.verb("plan", str(box.config)).stdout.splitlines()
    assert lines[0].startswith("  1 map the host's ids: uid 0 is 0, uid 1-65535 is 1-65535, gid 0 is 0, gid 1-65535 is 1-65535 inside  [")


@pytest.mark.parametrize(("keys", "said"), [
    ('network = { mode = "veth", bridge = "b", address = "10.1.0.2/24" }\n',
     '4: container.network: root of a user namespace can make no veth on a bridge; write mode = "slirp4netns", or run pyinit outside of that'),
    ('network = { mode = "netns", path = "/proc/1/ns/net" }\n',
     f'4: container.network: {ALONE}; write mode = "slirp4netns", or run pyinit outside of that'),
    ('share = ["user:db"]\n', f"4: container.share: {ALONE}; make both services of one container, or run both outside of that"),
    ('[[container.mounts]]\ntype = "squashfs"\nsource = "image:/x"\ntarget = "/x"\n',
     "4: container.mounts: root of a user namespace can mount no nested image; take it out, or run pyinit outside of that"),
])  # fmt: skip
def test_what_it_can_not_have_is_told(user, keys, said):
    box = user.start(keys)
    assert box.wait() == 111
    assert box.output == f"pyinit: {box.config}:{said}\n"


LIFE = f"""
mount -t tmpfs none /run
pyinit() {{ {sys.executable} -m pyinit "$@"; }}
pyinit --config "$1" --detach
pyinit exec -c pyinit-elsewhere -- sh -c 'cat /proc/self/uid_map /proc/self/gid_map; echo x > /dev/null; tty'
pyinit enter -c pyinit-elsewhere -- sh -c 'id -u; ps | grep -c "[s]leep 1000"'
pyinit stats -c pyinit-elsewhere | grep container | awk '{{ print $5 }}'
pyinit doctor "$1" | tail -n 1
pyinit shutdown -c pyinit-elsewhere
until [ -z "$(ls /run/pyinit)" ]; do sleep 0.01; done
"""


def test_a_whole_life_with_one_id(bench, busybox, nothing_left):
    """Of the machine's root, to whom its groups are open."""
    text = f'[container]\nname = "pyinit-elsewhere"\nlayers = ["{busybox.parent}/tree"]\nuser_namespace = {{ map = "single" }}\n[container.cgroup]\nmemory_max = "64M"\n{WAIT}'
    box = bench.start(text, command=("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", LIFE))
    assert box.wait() == 0
    lines = re.sub(r"(?m)^ +|pid \d+$", "", box.output).splitlines()
    assert lines == ["pyinit-elsewhere: running as ", "0          0          1", "0          0          1", "not a tty", "0", "1", "64.0M", f"{box.config}: all that it needs is here"]


def test_a_user_that_it_does_not_have_is_told(bench, busybox):
    text = f'[container]\nname = "pyinit-elsewhere"\nlayers = ["{busybox.parent}/tree"]\nuser_namespace = {{ map = "single" }}\n'
    more = '[services.app]\ncommand = ["/bin/sleep", "1000"]\nuser = "app"\nrestart = "never"\n[services.group]\ncommand = ["/bin/sleep", "1000"]\ngroup = "app"\nuser = "root"\nrestart = "never"\n'
    script = f'mount -t tmpfs none /run; exec {sys.executable} -m pyinit --config "$1"'
    box = bench.start(text + more, command=("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script))
    for name, kind, line in (("app", "uid", 7), ("group", "gid", 12)):
        box.wait_for(f"pyinit: {name}: failed: {box.config}:{line}: there is no {kind} 1000 in this user namespace (/proc/self/{kind}_map): name another, or give it a larger map\n")
    assert box.stop() == 0


def test_a_proc_that_a_runtime_has_covered_is_told(bench, busybox, nothing_left):
    """What was mounted outside of the user namespace can't be taken off in it, nor looked behind by another procfs (mount_namespaces(7))."""
    text = f'[container]\nname = "pyinit-elsewhere"\nlayers = ["{busybox.parent}/tree"]\nuser_namespace = {{ map = "single" }}\n{WAIT}'
    enter = ("unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /proc/keys; mount -t tmpfs run /run; exec "$@"', "sh", "unshare", "--user", "--map-root-user", "--mount")
    box = bench.start(text, command=(*enter, sys.executable, "-m", "pyinit"))
    assert box.wait() == 111
    assert box.output == (
        f"pyinit: {box.config}:1: mount proc on /proc (nosuid,nodev,noexec): /proc/keys is covered here, as container runtimes do, and a user namespace "
        "may then have no other /proc that shows more; start this one without (podman: --security-opt unmask=ALL; docker: --security-opt systempaths=unconfined)\n"
    )
