"""A container by mount(2) alone, where a seccomp filter refuses the new mount API: the same as by the new one.

The filter is real (without_mount_api.py); the truth is what the container's own mountinfo, reads and writes say.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from conftest import REPO, Pyinit, erofs, make_busybox, squash
from test_container import config, said

pytestmark = pytest.mark.usefixtures("nothing_left")
REFUSE = str(pathlib.Path(__file__).with_name("without_mount_api.py"))
OLD = ["ENOSYS", "EPERM"]


def under(api: str) -> tuple[str, ...]:
    """The words before a command that take the new API away from it; none for "new"."""
    return () if api == "new" else (sys.executable, REFUSE, api)


def start(bench, api: str, text: str, before: tuple[str, ...] = ()) -> Pyinit:
    return bench.start(text, command=(*before, *under(api), sys.executable, "-m", "pyinit"))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[pathlib.Path]:
    """A base that has an image in it, and two that go above, one of them an EROFS."""
    top = tmp_path_factory.mktemp("layers")
    for name in ("nested", "second", "third", "app"):
        (top / name / "opt" / name).mkdir(parents=True)
        (top / name / "opt" / name / "word").write_text(f"{name}\n")
    tree = make_busybox(top / "base")
    (tree / "var/lib/app").mkdir(parents=True)
    (tree / "var/lib/app/file").write_text("image\n")
    (tree / "srv/real").mkdir(parents=True)
    (tree / "link").symlink_to("srv/real")
    squash(top / "nested", tree / "nested.squashfs")
    erofs(top / "app", top / "app.erofs")
    return [squash(tree, top / "base.squashfs"), squash(top / "second", top / "second.squashfs"), erofs(top / "third", top / "third.erofs")]


MOUNTS = """
{writable}
[[container.mounts]]
type = "squashfs"
source = "image:/nested.squashfs"
target = "/nested"
[[container.mounts]]
type = "erofs"
source = "{app}"
target = "/app"
[[container.mounts]]
type = "tmpfs"
target = "/link/conf"
size = "1M"
mode = "0750"
files = {{ "sub/app.env" = "WORD=moon\\n" }}
[[container.mounts]]
type = "tmpfs"
target = "/fixed"
read_only = true
files = {{ word = "fixed\\n" }}
[[container.mounts]]
type = "bind"
source = "data"
target = "/data"
read_only = true
[[container.mounts]]
type = "bind"
source = "data"
target = "/shared"
[[container.mounts]]
type = "bind"
source = "data/in"
target = "/etc/one"
"""
WRITABLE = {
    "none": "",
    "tmpfs": 'writable = "tmpfs"\nwritable_size = "4M"',
    "paths": 'writable = "tmpfs"\nwritable_paths = ["/var/lib/app", "/new/place"]',
    "folder": 'writable = "./changes-{api}"',
}
PLACES = "/ /etc /nested /app /link/conf /fixed /data /data/sub /data/sub/deep /shared /shared/sub /var/lib/app /new/place /run /tmp /dev /dev/shm /sys /sys/fs/cgroup /proc/sys /proc/bus /proc/acpi"
LOOK = f"""
cat /proc/self/mountinfo; echo ---
cat /opt/second/word /opt/third/word /nested/opt/nested/word /app/opt/app/word /link/conf/sub/app.env /fixed/word /data/in /data/sub/word /data/sub/deep/word /etc/one /var/lib/app/file
for place in {PLACES}; do test -d $place && {{ touch $place/new 2>&1 && echo $place can be written; }}; done
echo x 2>&1 >> /etc/one && echo /etc/one can be written
echo x 2>&1 > /proc/sys/kernel/printk
for file in /proc/interrupts /proc/keys /proc/timer_list; do wc -c < $file; done
ls -a /proc/acpi /sys/firmware
ls -l /link/conf/sub /fixed | wc -l
mount -o remount,rw /data 2>&1
exit 0
"""


def view(lines: list[str]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Of each mount that can be seen, what does not differ from one container to the next; and what was said."""
    cut = lines.index("---")
    mounts, covered = {}, set()
    for line in lines[:cut]:
        words, _, kind = line.partition(" - ")
        number, parent, _, root, target, flags = words.split()[:6]
        fstype, _, options = kind.split()
        mounts[number] = (target, root, flags, fstype, options)
        covered.add((parent, target))
    return sorted(row for number, row in mounts.items() if (number, row[0]) not in covered), lines[cut + 1 :]


def make_data(data: pathlib.Path) -> None:
    """As new: what a container wrote is gone."""
    shutil.rmtree(data, ignore_errors=True)
    (data / "sub").mkdir(parents=True)
    (data / "in").write_text("from the host\n")


@pytest.mark.parametrize("writable", WRITABLE)
def test_the_container_is_the_same_by_either_api(bench, images, tmp_path, writable):
    data = tmp_path / "data"
    views = {}
    # Mounts below a bind, one with flags that a remount must not lose, and one that another covers.
    mounts = (
        'mount -t tmpfs -o noexec,noatime x "$0/sub" && echo sub > "$0/sub/word" && mkdir "$0/sub/deep" && mount -t tmpfs -o nodiratime y "$0/sub/deep" && '
        'echo covered > "$0/sub/deep/word" && mount -t tmpfs z "$0/sub/deep" && echo deep > "$0/sub/deep/word" && exec "$@"'
    )
    for api in ("new", *OLD):
        make_data(data)
        more = MOUNTS.format(writable=WRITABLE[writable].format(api=api), app=images[0].with_name("app.erofs"))
        text = config('", "'.join(map(str, images)), LOOK, more)
        box = start(bench, api, text, ("unshare", "--mount", "sh", "-c", mounts, str(data)))
        assert box.wait() == 0, box.output
        views[api] = view(said(box))
        assert (data / "new").exists()
    assert views["ENOSYS"] == views["new"]
    assert views["EPERM"] == views["new"]
    flags = {target: flags for target, _, flags, _, _ in views["EPERM"][0]}
    assert {target: flags[target] for target in ("/data", "/data/sub", "/data/sub/deep", "/shared/sub", "/fixed", "/nested", "/app", "/etc/one", "/proc/sys")} == {
        "/data": "ro,nosuid,nodev,relatime",
        "/data/sub": "ro,nosuid,nodev,noexec,noatime",
        "/data/sub/deep": "ro,nosuid,nodev,relatime",
        "/shared/sub": "rw,nosuid,nodev,noexec,noatime",
        "/fixed": "ro,nosuid,nodev,relatime",
        "/nested": "ro,nosuid,nodev,relatime",
        "/app": "ro,nosuid,nodev,relatime",
        "/etc/one": "rw,nosuid,nodev,relatime",
        "/proc/sys": "ro,nosuid,nodev,noexec,relatime",
    }
    told = views["EPERM"][1]
    assert told[:11] == ["second", "third", "nested", "app", "WORD=moon", "fixed", "from the host", "sub", "deep", "from the host", "image"]
    for place in ("/nested", "/app", "/fixed", "/data", "/data/sub", "/data/sub/deep", "/sys"):
        assert f"touch: {place}/new: Read-only file system" in told
    for place in ("/shared", "/shared/sub", "/link/conf", "/run"):
        assert f"{place} can be written" in told
    assert ("/var/lib/app can be written" in told) == (writable != "none")


@pytest.mark.parametrize("api", ["ENOSYS:442", "EPERM:430,431,432", "ENOSYS:437"])
def test_where_only_some_calls_are_refused(bench, images, tmp_path, api):
    """Kernels before 5.12 have no mount_setattr, those before 5.6 no openat2; what open_tree gives can't be remounted by mount(2)."""
    text = config('", "'.join(map(str, images)), LOOK, MOUNTS.format(writable=WRITABLE["paths"], app=images[0].with_name("app.erofs")))
    views = []
    for one in ("new", api):
        make_data(tmp_path / "data")
        box = start(bench, one, text)
        assert box.wait() == 0, box.output
        views.append(view(said(box)))
    assert views[0] == views[1]


@pytest.mark.parametrize("api", OLD)
def test_the_interpreter_can_t_be_overwritten_through_pid_1(bench, busybox, api):
    box = start(bench, api, config(busybox, "echo up; while :; do sleep 1; done"))
    box.wait_for("app: up")
    pid = int(pathlib.Path("/run/pyinit/pyinit-test/pid").read_text())
    assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
    with pytest.raises(OSError, match=r"Text file busy|Read-only file system"):
        os.open(f"/proc/{pid}/exe", os.O_WRONLY)
    assert box.stop() == 0


COPY = """
import errno, json, os, sys
from pyinit.linux import mount
fd = mount.detached_copy(sys.argv[1], mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV)
def refused(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "allowed"
inside = f"/proc/self/fd/{fd}"
print(json.dumps([
    open(f"{inside}/word").read(),
    refused(lambda: open(f"{inside}/word", "w")),
    refused(lambda: os.mkdir(f"{inside}/new")),
    refused(lambda: os.chmod(f"{inside}/word", 0)),
    refused(lambda: mount.mount("", inside, "", mount.MS_REMOUNT | mount.MS_BIND)),
    [os.statvfs(inside).f_flag & flag for flag in (os.ST_RDONLY, os.ST_NOSUID, os.ST_NODEV)],
    os.get_inheritable(fd),
    refused(lambda: os.waitpid(-1, os.WNOHANG)),
]))
"""


@pytest.mark.parametrize("api", ["new", *OLD])
def test_a_detached_copy_can_t_be_written_nor_made_writable(tmp_path, api):
    (tmp_path / "word").write_text("kept\n")
    done = subprocess.run(
        ["unshare", "--mount", *under(api), sys.executable, "-c", COPY, str(tmp_path)], cwd=REPO, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == [
        "kept\n", "EROFS", "EROFS", "EROFS", "EINVAL", [os.ST_RDONLY, os.ST_NOSUID, os.ST_NODEV], False, "ECHILD",
    ]  # fmt: skip
    (tmp_path / "word").write_text("the folder itself still can\n")


@pytest.mark.parametrize("api", OLD)
def test_a_copy_of_nothing_says_what_is_missing(tmp_path, api):
    done = subprocess.run(
        [*under(api), sys.executable, "-c", COPY, str(tmp_path / "none")], cwd=REPO, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr.splitlines()[-1] == f"FileNotFoundError: [Errno 2] mount {tmp_path}/none: No such file or directory"


@pytest.mark.parametrize("api", ["new", *OLD])
@pytest.mark.parametrize("link", ["{outside}", "../../../../outside", "srv/../..{outside}", "nowhere"])
def test_a_target_that_leads_out_of_the_root_is_refused(bench, tmp_path, link, api):
    folder = make_busybox(tmp_path / "tree")
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "srv").mkdir()
    (folder / "data").symlink_to(link.format(outside=outside))
    more = '[[container.mounts]]\ntype = "tmpfs"\ntarget = "/data/x"\nfiles = { x = "written" }\n'
    box = start(bench, api, config(folder, "true", more))
    assert box.wait() == 111
    assert box.output.startswith(f"pyinit: {bench.folder}/services.toml:2: ")
    assert f"/data is a symlink to {link.format(outside=outside)}, which leads out of the root" in box.output
    assert box.output.count("\n") == 1
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("api", ["new", *OLD])
@pytest.mark.parametrize("link", ["{outside}/app.squashfs", "../outside/app.squashfs", "/proc/self/root{outside}/app.squashfs"])
def test_an_image_of_the_host_is_not_taken_for_one_of_the_root(bench, tmp_path, link, api):
    folder = make_busybox(tmp_path / "tree")
    outside = tmp_path / "outside"
    (outside / "app").mkdir(parents=True)
    squash(outside / "app", outside / "app.squashfs")
    (folder / "app.squashfs").symlink_to(link.format(outside=outside))
    more = '[[container.mounts]]\ntype = "squashfs"\nsource = "image:/app.squashfs"\ntarget = "/app"\n'
    box = start(bench, api, config(folder, "true", more))
    assert box.wait() == 111
    why = "openat2 /app.squashfs: " + ("Too many levels of symbolic links" if "self" in link else "No such file or directory")
    assert why in box.output, box.output
    assert box.output.count("\n") == 1


@pytest.mark.parametrize("api", OLD)
def test_the_doctor_says_which_api_is_used_and_why(api):
    done = subprocess.run([*under(api), sys.executable, "-m", "pyinit", "doctor"], cwd=REPO, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    why = {"ENOSYS": "Function not implemented", "EPERM": "Operation not permitted"}[api]
    refused = f"open_tree is refused by a seccomp filter ({why})"
    lines = [line.split(None, 1)[1] for line in done.stdout.splitlines() if " mount API " in line or " idmap " in line]
    assert lines == [
        f"mount API                the old one, mount(2): {refused}",
        f"idmap                    only the new mount API can; {refused}; loosen what started us, or run a newer kernel",
    ]


@pytest.mark.parametrize("api", OLD)
def test_a_service_with_a_view_of_its_own(bench, busybox, api, tmp_path):
    """Its read-only paths are made between fork and exec, by a PID 1 that nothing was imported into meanwhile."""
    service = 'private_tmp = true\nread_only_paths = ["/run"]\n'
    box = start(bench, api, config(busybox, "touch /run/x /tmp/x 2>&1; ls /tmp", service=service))
    assert box.wait() == 0
    assert said(box) == ["touch: /run/x: Read-only file system", "x"]


SWAP = """
import ctypes, random, sys
libc = ctypes.CDLL(None)
one, other = (path.encode() for path in sys.argv[1:])
print("up", flush=True)
while True:
    for longest in (1000, 20000):  # of a link, of the folder: seldom enough that some starts meet the folder each time
        libc.renameat2(-100, one, -100, other, 2)  # RENAME_EXCHANGE
        for _ in range(random.randrange(longest)):
            pass
"""
RACING = """
writable = "tmpfs"
writable_paths = ["/data/state"]
[[container.mounts]]
type = "tmpfs"
target = "/data/ram"
files = { "sub/word" = "written\\n" }
[[container.mounts]]
type = "bind"
source = "bound"
target = "/data/bound"
"""


@pytest.mark.parametrize("api", ["new", "EPERM"])
@pytest.mark.parametrize("link", ["{outside}", "../outside"])
def test_a_target_that_is_swapped_for_a_link_all_the_time_never_leads_out(bench, tmp_path, api, link):
    """Each start fails in one line or has all its mounts in the root; the folder outside is never read, written or mounted on."""
    folder = make_busybox(tmp_path / "tree")
    outside = tmp_path / "outside"
    for top in (folder / "data", outside):
        for name in ("state", "ram", "bound"):
            (top / name).mkdir(parents=True)
            (top / name / "word").write_text("secret\n" if top == outside else "image\n")
    (tmp_path / "bound").mkdir()
    (tmp_path / "swapped").symlink_to(link.format(outside=outside))
    before = sorted((str(path), path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in [outside, *outside.rglob("*")])
    text = config(folder, "cat /proc/self/mountinfo; echo ---; cat /data/*/word /data/*/sub/word; touch /data/state/new; true", RACING)
    codes = []
    with subprocess.Popen([sys.executable, "-c", SWAP, str(folder / "data"), str(tmp_path / "swapped")], stdout=subprocess.PIPE) as swapper:
        try:
            assert swapper.stdout.readline() == b"up\n"
            for _ in range(12):
                box = start(bench, api, text)
                codes.append(box.wait())
                assert "secret" not in box.output
                if codes[-1] == 111:
                    assert box.output.startswith(f"pyinit: {bench.folder}/services.toml:"), box.output
                    assert box.output.count("\n") == 1, box.output
                else:
                    targets = [target for target, *_ in view(said(box))[0]]
                    assert [target for target in targets if "data" in target] == ["/data/bound", "/data/ram", "/data/state"]
        finally:
            swapper.kill()
    assert set(codes) <= {0, 111}
    assert 0 in codes, box.output
    assert sorted((str(path), path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in [outside, *outside.rglob("*")]) == before
