"""The web example of an ordinary user: sshd, nginx and php-fpm from images that squashfuse serves, at ports of the host."""

import os
import pathlib
import shutil

from conftest import REPO, Pyinit
from netlab import HERE4
from test_rootless import servers, subids  # noqa: F401 - a fixture
from test_rootless_network import host, slirps, user  # noqa: F401 - fixtures
from test_web import key  # noqa: F401 - a fixture

UNIFIED = pathlib.Path("/sys/fs/cgroup/unified") if os.path.isdir("/sys/fs/cgroup/unified") else pathlib.Path("/sys/fs/cgroup")
DELEGATED = UNIFIED / "pyinit-t-delegated"
LACKS = [  # of a hybrid host: the controllers are v1's, which are root's
    f"{limit} can't be held here: no group with the controller {name} is delegated to this user; it runs without"
    for limit, name in (("cpu_max", "cpu"), ("memory_max", "memory"), ("pids_max", "pids"))
]  # fmt: skip
OWN_GROUP = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


def config(user, web_images) -> pathlib.Path:  # noqa: F811
    """The example's own file, in a folder of the user's."""
    folder = user.folder / "home"
    text = (REPO / "examples/web/rootless.toml").read_text()
    assert text.count("../../services/") == 3
    (folder / "services.toml").write_text(text.replace("../../services/", f"{user.folder}/services/"))
    shutil.copytree(REPO / "services", user.folder / "services")
    shutil.copytree(web_images, folder / "images")
    return folder / "services.toml"


def test_the_example_as_an_ordinary_user_with_a_group_of_his_own(user, web_images, key):  # noqa: F811
    """Twice: what is kept is kept. The group is delegated as a manager would do it, and is his at the end."""
    path = config(user, web_images)
    environment = user.environment({"GREETING": "hello of a user", "SSH_KEY": pathlib.Path(f"{key}.pub").read_text().strip()})
    DELEGATED.mkdir()
    try:
        for file in (DELEGATED, DELEGATED / "cgroup.procs", DELEGATED / "cgroup.subtree_control", DELEGATED / "cgroup.threads"):
            os.chown(file, user.uid, user.uid)
        for visit in (1, 2):
            box = Pyinit(path, command=("sh", "-c", OWN_GROUP, str(DELEGATED), *user.command()), cwd=path.parent, env=environment)
            user.running.append(box)
            for name in ("ssh", "app", "nginx"):
                box.wait_for(f"pyinit: {name}: ready")
            page = user.outside.run("curl", "-fsS", f"http://{HERE4}:8080/")
            assert page.stdout == f"hello of a user from web\nconfig GREETING=hello of a user\nconfig APP_ENV=prod\nvisit {visit}\n", page
            shell = ("ssh", "-p", "8022", "-i", str(key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
            inside = user.host.run(*shell, "root@127.0.0.1", "id -un; cat /proc/self/uid_map; findmnt -n -o FSTYPE / || sed -n 's/.* \\/ .* - \\([a-z]*\\) .*/\\1/p' /proc/self/mountinfo")
            assert inside.stdout.split() == ["root", "0", str(user.uid), "1", "1", "500000", "65536", "overlay"], inside
            assert (len(servers()), len(slirps())) == (2, 1)
            pid = (user.folder / "run/pyinit/web-rootless/pid").read_text().strip()
            assert f"0::/{DELEGATED.name}/pyinit-web-rootless" in pathlib.Path(f"/proc/{pid}/cgroup").read_text()
            lacks = [line.partition(": cgroup: ")[2] for line in box.output.splitlines() if "delegated" in line]
            assert lacks == (LACKS if UNIFIED.name == "unified" else []), box.output
            assert {(path.parent / name).stat().st_uid for name in ("user-files/counter", "user-files")} == {500032}
            assert box.stop() == 0
            assert [one.name for one in DELEGATED.iterdir() if one.is_dir()] == []
    finally:
        DELEGATED.rmdir()
