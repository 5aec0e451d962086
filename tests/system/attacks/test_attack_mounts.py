"""CVE-2021-30465, CVE-2019-19921 and their kin: links in an image, or in a volume that others write to, under what is mounted."""

import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tempfile

import payload_mounts as payload
import pytest
from harness import Defence, Mutant, Row, Stage, answers, expected, names, service, words
from test_old_mount_api import SWAP

pytestmark = pytest.mark.usefixtures("nothing_left")

IN_ROOT = Defence(
    "targets are found by openat2(RESOLVE_IN_ROOT)",
    mutants=(
        Mutant(
            "linux/mount.py", "    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)\n",
            '    return os.open(path.strip("/") or ".", flags | os.O_CLOEXEC, dir_fd=root_fd)\n    how = (ctypes.c_uint64 * 3)()\n',
        ),
    ),
)  # fmt: skip
IN_LAYER = Defence(
    "files are made in a layer of our own, at the place that the root's links give",
    mutants=(Mutant("launch/apply.py", 'with open(f"generated{folder}/{os.path.basename(target)}", "x") as file:', 'with open(f"{os.path.realpath(f\'/proc/self/fd/{view}/etc\')}/{os.path.basename(target)}", "x") as file:'),),
)
OURS = Defence("nothing declared is mounted on /proc, /sys or /dev by a link", mutants=(Mutant("launch/declared.py", ", declared=True)", ")"),))
NODEV = Defence(
    "the root has no devices", mutants=(Mutant("launch/apply.py", 'mount.mount("overlay", "root", "overlay", flags | mount.MS_NODEV, options)', 'mount.mount("overlay", "root", "overlay", flags, options)'),)
)
LINKS = {"proc": payload.whose_proc, "sys": payload.whose_sys, "dev": payload.whose_dev}


def _tree(stage: Stage, name: str = "tree") -> pathlib.Path:
    return pathlib.Path(shutil.copytree(stage.image, stage.folder / name, symlinks=True))


def _fake(folder: pathlib.Path) -> pathlib.Path:
    """What passes for /proc, /sys or /dev, at a glance."""
    folder.mkdir(parents=True)
    (folder / "marker").touch()
    (folder / "fs/cgroup").mkdir(parents=True)
    for name in ("pts", "shm", "mqueue"):
        (folder / name).mkdir()
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return folder


def _told(stage: Stage, attack, mounts: str = "", image: pathlib.Path | None = None) -> str:
    """What the attack said, through a volume, for without /proc no logger works; else why there is no container."""
    (stage.folder / "answers").mkdir()
    mounts += f'[[container.mounts]]\ntype = "bind"\nsource = "{stage.folder}/answers"\ntarget = "/answers"\n'
    box = stage.start(stage.config(service("app", words(attack, "attack")).replace('log = { to = "stdout", timestamp = "none" }', 'log = { to = "null" }'), mounts=mounts, image=image))
    code = box.wait()
    if code == 111:
        return "refused: " + box.output.strip().rpartition(": ")[2]
    assert (code, (stage.folder / "answers/attack").exists()) == (0, True), box.output[:2000]
    return answers((stage.folder / "answers/attack").read_text())["attack"]


def by_image(stage: Stage, name: str, attack) -> str:
    """/proc is a link to a folder that is there in the image, and on the host: only the root makes the difference."""
    outside = pathlib.Path(tempfile.mkdtemp(dir="/var/tmp", prefix="pyinit-attack-"))  # /tmp is a RAM disk inside
    try:
        tree = _tree(stage)
        _fake(tree / str(outside).lstrip("/"))
        (tree / name).rmdir()
        (tree / name).symlink_to(outside)
        return _told(stage, attack, image=tree)
    finally:
        shutil.rmtree(outside)


def by_etc(stage: Stage) -> str:
    """/etc, in which files are made, is such a link."""
    outside = pathlib.Path(tempfile.mkdtemp(dir="/var/tmp", prefix="pyinit-attack-"))
    try:
        tree = _tree(stage)
        shutil.copytree(tree / "etc", tree / str(outside).lstrip("/"))
        shutil.rmtree(tree / "etc")
        (tree / "etc").symlink_to(outside)
        box = stage.start(stage.config(service("app", ["/bin/cat", "/etc/hosts"]), image=tree))
        box.wait()
        return f"written on the host: {' '.join(sorted(os.listdir(outside)))}" if os.listdir(outside) else "the image's own folder" if "127.0.0.1\tlocalhost" in box.output else box.output
    finally:
        shutil.rmtree(outside)


def by_target(stage: Stage, name: str, attack) -> str:
    """A folder of the image's that the config has a volume mounted on is a link to /proc."""
    _fake(stage.folder / "volume")
    tree = _tree(stage)
    (tree / "data").symlink_to(f"/{name}")
    mounts = f'[[container.mounts]]\ntype = "bind"\nsource = "{stage.folder}/volume"\ntarget = "/data"\n'
    return _told(stage, attack, mounts, tree)


def by_volume(stage: Stage, name: str, attack) -> str:
    """A volume, which another container can write to, has a link to /proc where a second volume is to be mounted."""
    for one in ("one", "two"):
        _fake(stage.folder / one)
    (stage.folder / "one/data").symlink_to(f"/{name}")
    mounts = "".join(
        f'[[container.mounts]]\ntype = "bind"\nsource = "{stage.folder}/{one}"\ntarget = "{target}"\n' for one, target in (("one", "/vol"), ("two", "/vol/data"))
    )
    return _told(stage, attack, mounts)


def to_host(stage: Stage) -> str:
    """A volume has a link to a folder of the host's where a RAM disk is to be mounted, whose mount point is made."""
    (stage.folder / "outside").mkdir()
    (stage.folder / "one").mkdir()
    (stage.folder / "one/data").symlink_to(stage.folder / "outside")
    mounts = f'[[container.mounts]]\ntype = "bind"\nsource = "{stage.folder}/one"\ntarget = "/vol"\n[[container.mounts]]\ntype = "tmpfs"\ntarget = "/vol/data/made"\n'
    box = stage.start(stage.config(service("app", ["/bin/true"]), mounts=mounts))
    box.wait()
    return "made on the host" if (stage.folder / "outside/made").exists() else f"refused: {box.output.strip().rpartition(': ')[2]}"


def race(stage: Stage) -> str:
    """The same, while somebody swaps the link for a folder all the time."""
    for name in ("outside", "one", "folder"):
        (stage.folder / name).mkdir()
    (stage.folder / "one/data").symlink_to(stage.folder / "outside")
    mounts = f'[[container.mounts]]\ntype = "bind"\nsource = "{stage.folder}/one"\ntarget = "/vol"\n[[container.mounts]]\ntype = "tmpfs"\ntarget = "/vol/data/made"\n'
    with subprocess.Popen([sys.executable, "-c", SWAP, str(stage.folder / "one/data"), str(stage.folder / "folder")], stdout=subprocess.PIPE) as swapper:
        try:
            swapper.stdout.readline()
            for _ in range(8):
                stage.start(stage.config(service("app", ["/bin/true"]), mounts=mounts)).wait()
                if list((stage.folder / "outside").iterdir()):
                    return "made on the host"
        finally:
            swapper.kill()
    return "nothing made"


LED = "refused: {0} leads to /{1} by a symlink, of the image or of a mount; name another folder, or mend the link".format


def image_row(name: str, defences, alone: tuple[object, ...] = ()) -> Row:
    return Row(
        f"image-{name}", "CVE-2021-30465", f"/{name} of the image is a link to a folder of the host's", defences, "the kernel's", "the attacker's",
        outside=lambda stage: by_image(stage, name, LINKS[name]), alone=alone,
    )  # fmt: skip


def redirect_row(kind: str, name: str, path: str, what: str, perform) -> Row:
    return Row(
        f"{kind}-{name}", "CVE-2019-19921, CVE-2025-52881", f"{what} is a link to /{name}, which would be covered, and PID 1 imports by /proc/self/fd" if name == "proc" else f"{what} is a link to /{name}",
        (OURS,), LED(path, name), "the attacker's", outside=lambda stage: perform(stage, name, LINKS[name]),
    )  # fmt: skip


ROWS = (
    image_row("proc", (IN_ROOT,)),
    image_row("sys", (IN_ROOT,)),
    image_row("dev", (IN_ROOT, NODEV), ("the kernel's", None)),
    Row(
        "volume-host", "CVE-2021-30465", "a mount's target in a volume is a link to a folder of the host's", (IN_ROOT,), "refused: File exists",
        "made on the host", outside=to_host,
    ),
    Row(
        "image-etc", "CVE-2021-30465", "/etc of the image, where hosts, hostname and resolv.conf are made, is a link to a folder of the host's", (IN_LAYER,), "the image's own folder",
        "written on the host: hostname hosts resolv.conf", outside=by_etc,
    ),
    Row("volume-race", "CVE-2021-30465", "such a link and a folder take each other's place while the container is made", (IN_ROOT,), "nothing made", "made on the host", outside=race),
    *(redirect_row("target", name, "/data", "the target of a volume, in the image,", by_target) for name in ("proc", "sys")),
    *(redirect_row("volume", name, "/vol/data", "the target of a volume, in another one,", by_volume) for name in ("proc", "sys")),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
