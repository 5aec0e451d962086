"""What ships is sound: the example's two files load, and the skeleton is what an image takes."""

import os
import tomllib
from pathlib import Path

from pyinit.config.load import load as load_config
from pyinit.image import tree
from pyinit.image.load import load as load_build

ROOT = Path(__file__).parents[2]
WEB = ROOT / "examples/web"


def test_the_build_file_makes_the_images_that_the_config_mounts() -> None:
    made = load_build(str(WEB / "build.toml"), {})
    config = load_config(str(WEB / "services.toml"), {}, on_host=False)
    assert config.container is not None
    used = [layer.path for layer in config.container.layers]
    used += [mount.source for mount in config.container.mounts if mount.type == "squashfs"]
    assert used == [f"{made.output}/{image.name}" for image in made.images]


def test_the_config_runs_ssh_nginx_and_the_application() -> None:
    config = load_config(str(WEB / "services.toml"), {}, on_host=False)
    assert {(service.name, service.kind, service.kill) for service in config.services} == {
        ("ssh-keys", "oneshot", "cgroup"), ("ssh", "service", "process"),
        ("nginx-folder", "oneshot", "cgroup"), ("nginx", "service", "cgroup"),
        ("app-folder", "oneshot", "cgroup"), ("app", "service", "cgroup"),
    }  # fmt: skip


def test_the_twin_of_an_ordinary_user_differs_by_its_network_alone() -> None:
    own, twin = (tomllib.loads((WEB / name).read_text()) for name in ("services.toml", "rootless.toml"))
    assert twin["container"].pop("name") == "web-rootless"
    assert (own["container"].pop("network")["mode"], twin["container"].pop("network")["mode"]) == ("veth", "slirp4netns")
    assert own == twin


def test_values_of_the_environment_reach_the_ram_disk_and_the_network() -> None:
    config = load_config(
        str(WEB / "services.toml"),
        {"GREETING": "hi", "SSH_KEY": "ssh-ed25519 AAAA", "WEB_ADDRESS": "10.91.0.9"},
        on_host=False,
    )
    assert config.container is not None
    assert config.container.network.addresses == ("10.91.0.9/24",)
    files = [file for mount in config.container.mounts for file in mount.files]
    assert [(file.name, file.content.text, file.mode) for file in files] == [
        ("app.env", "GREETING=hi\nAPP_ENV=prod\n", 0o644), ("authorized_keys", "ssh-ed25519 AAAA\n", 0o644),
    ]  # fmt: skip


def test_the_skeleton_holds_plain_files_and_folders_only() -> None:
    skeleton = str(ROOT / "rootfs-skel")
    assert [name for name, _ in tree.entries(skeleton) if os.path.islink(f"{skeleton}/{name}")] == []


def test_nothing_of_the_skeleton_is_kept_from_git() -> None:
    """An ignored file would be in the image on one machine and not on another."""
    ignored = {line for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("*.")}
    names = [path.name for path in (ROOT / "rootfs-skel").rglob("*")]
    assert [name for name in names for pattern in ignored if name.endswith(pattern[1:])] == []
