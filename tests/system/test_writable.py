"""What of a root can be written to, where the changes go, and what of them is kept."""

import os
import pathlib

import pytest
from conftest import make_busybox, squash
from test_container import config, said

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> pathlib.Path:
    """With folders of other owners and modes, and a link."""
    tree = make_busybox(tmp_path_factory.mktemp("writable") / "tree")
    (tree / "var/lib/app").mkdir(parents=True)
    (tree / "var/lib/app/file").write_text("image\n")
    os.chown(tree / "var/lib/app", 1000, 1000)
    (tree / "var/lib/app").chmod(0o750)
    (tree / "data").symlink_to("var/lib/app")
    return squash(tree, tree.parent / "image.squashfs")


def test_a_folder_keeps_what_was_written(bench, image, tmp_path):
    """Its name may have what parts the options of a mount."""
    state = tmp_path / "a:b,c\\\\d"
    more = f"writable = '{state}'"
    box = bench.start(config(image, "rm /var/lib/app/file; echo kept > /word; ls -ld /var/lib/app | head -c 30", more))
    assert box.wait() == 0
    assert sorted(os.listdir(state)) == ["lock", "upper", "work", "works"]
    assert (state / "upper/word").read_text() == "kept\n"
    box = bench.start(config(image, "cat /word; ls /var/lib/app", more))
    assert (box.wait(), said(box)) == (0, ["kept"])


def test_a_kept_folder_goes_under_a_newer_image(bench, image, tmp_path):
    more = 'writable = "./state"'
    assert bench.start(config(image, "echo kept > /word; echo changed > /var/lib/app/own", more)).wait() == 0
    tree = make_busybox(tmp_path / "tree")
    (tree / "var/lib/app").mkdir(parents=True)
    (tree / "var/lib/app/new").write_text("new\n")
    newer = squash(tree, tmp_path / "newer.squashfs")
    box = bench.start(config(newer, "cat /word /var/lib/app/own /var/lib/app/new", more))
    assert (box.wait(), said(box)) == (0, ["kept", "changed", "new"])


def test_a_folder_serves_one_container_at_a_time(bench, image, tmp_path):
    text = config(image, "echo up; while :; do sleep 1; done", 'writable = "./state"')
    first = bench.start(text)
    first.wait_for("app: up")
    (tmp_path / "link").symlink_to("state")
    second = bench.start(text.replace("pyinit-test", "pyinit-other").replace("./state", "./link"), name="other.toml")
    assert second.wait() == 111
    assert second.output == (
        f"pyinit: {bench.folder}/other.toml:5: container.writable: {tmp_path}/link is in use by container pyinit-test; "
        "give this one a folder of its own\n"
    )
    first.process.kill()  # the monitor: PID 1 has the folder until it has stopped
    first.wait()
    again = bench.start(text)
    again.wait_for("app: up")
    assert again.stop() == 0


def test_a_folder_that_can_not_be_an_upper_layer(bench, image, tmp_path):
    box = bench.start(config(image, "true", 'writable = "/proc/state"'))
    assert box.wait() == 111
    assert box.output == (
        f"pyinit: {bench.folder}/services.toml:5: container.writable: /proc/state: No such file or directory; "
        "make it a folder of a writable file system\n"
    )


def test_memory_has_its_inodes(bench, image):
    more = 'writable = "tmpfs"\nwritable_inodes = 30\n'
    box = bench.start(config(image, "for n in $(seq 99); do echo > /f$n || break; done 2>&1; test -e /f9 && echo some", more))
    assert box.wait() == 0
    assert [line.split(": ")[-1] for line in said(box)] == ["No space left on device", "some"]


@pytest.mark.parametrize("writable", ["tmpfs", "./state"])
def test_only_some_paths_are_writable(bench, image, tmp_path, writable):
    """One of the image's with its owner and mode, by a link; one that the image lacks; /etc, which has generated files."""
    more = f'writable = "{writable}"\nwritable_paths = ["/data", "/new/place", "/etc"]\n'
    command = """
ls -ldn /var/lib/app | awk "{print \\$1, \\$3, \\$4}"
cat /data/file; echo changed > /var/lib/app/file; cat /data/file
echo new > /new/place/file && cat /new/place/file
echo more >> /etc/hosts && grep -c . /etc/hosts
touch /x /new/x /var/x /var/lib/x 2>&1
"""
    box = bench.start(config(image, command, more))
    assert box.wait() == 1
    assert said(box) == [
        "drwxr-x--- 1000 1000", "image", "changed", "new", "4",
        *(f"touch: {path}: Read-only file system" for path in ("/x", "/new/x", "/var/x", "/var/lib/x")),
    ]  # fmt: skip
    if writable != "tmpfs":
        box = bench.start(config(image, "cat /data/file /new/place/file", more))
        assert (box.wait(), said(box)) == (0, ["changed", "new"])
        box = bench.start(config(image, "cat /data/file; touch /x && echo whole", f'writable = "{writable}"'))
        assert (box.wait(), said(box)) == (0, ["changed", "whole"])


def test_a_path_of_several_layers_with_what_they_hide(bench, image, tmp_path):
    """A whiteout and an opaque folder of an upper layer hide what is below, as in the root itself."""
    upper = tmp_path / "upper"
    (upper / "var/lib/app").mkdir(parents=True)
    (upper / "var/lib/app/second").write_text("second\n")
    (upper / "opt").mkdir()
    lower = tmp_path / "lower"
    (lower / "opt/hidden").mkdir(parents=True)
    (lower / "srv/gone").mkdir(parents=True)
    os.setxattr(upper / "opt", "trusted.overlay.opaque", b"y")
    os.mknod(upper / "srv", 0o020000, 0)
    layers = f'{image}", "{lower}", "{upper}'
    more = 'writable = "tmpfs"\nwritable_paths = ["/var/lib/app", "/opt", "/srv"]\n'
    box = bench.start(config(layers, "ls /var/lib/app; ls /opt /srv | grep -c .", more))
    assert box.wait() == 0
    assert said(box) == ["file", "second", "2"]  # /opt: and /srv:, of which nothing is seen


def test_a_path_that_is_a_file_is_refused(bench, image):
    more = 'writable = "tmpfs"\nwritable_paths = ["/etc/passwd"]\n'
    box = bench.start(config(image, "true", more))
    assert box.wait() == 111
    assert box.output == (
        f"pyinit: {bench.folder}/services.toml:6: make /etc/passwd writable: /etc/passwd is no folder in the image; name a folder\n"
    )


def test_a_link_that_the_container_left_leads_nowhere(bench, image, tmp_path):
    """With the whole root writable it put a link to a folder of the host in the way."""
    outside = tmp_path / "outside"
    outside.mkdir()
    command = f"mv /var /old 2>/dev/null || rm -r /var; ln -s {outside} /var; ls -l / | grep -c outside"
    box = bench.start(config(image, command, 'writable = "./state"'))
    assert (box.wait(), said(box)) == (0, ["1"])
    box = bench.start(config(image, "true", 'writable = "./state"\nwritable_paths = ["/var/lib/app"]\n'))
    assert box.wait() == 111
    assert box.output == (
        f"pyinit: {bench.folder}/services.toml:6: make /var/lib/app writable: /var is no folder any more in the upper layer; remove it there\n"
    )
    assert list(outside.iterdir()) == []
