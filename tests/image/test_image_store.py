"""Images of OCI layouts become squashfs layers: once, whole, and of no byte that was not verified."""

import gzip
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from layouts import LAYER, OCI, Layout, archive, entry, folder, symlink

from pyinit.image import store
from pyinit.image.spec import BuildError

REPO = pathlib.Path(__file__).parents[2]
BASE = archive(folder("./", mode=0o711), folder("bin"), entry("bin/su", data=b"su", mode=0o4755, uid=3), symlink("sh", "bin/su"))
TOP = archive(entry("bin/.wh.su"), entry("new", data=b"new"))


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "layout")


def bring(layout, tag="", **keys):
    said: list[str] = []
    found = store.bring(str(layout.path), tag, f"{layout.path.parent}/store", said.append, **keys)
    return found, said


def refusal(layout, tag="", **keys):
    with pytest.raises(BuildError) as caught:
        bring(layout, tag, **keys)
    folder = f"{layout.path.parent}/store"
    left = os.listdir(folder) if os.path.exists(folder) else []
    assert [name for name in left if not re.fullmatch(r"\.lock|\.digests|[0-9a-f]{64}\.(squashfs|layers)", name)] == []
    return str(caught.value).replace(str(layout.path), "LAYOUT")


def listing(path):
    """As unsquashfs tells it, without times."""
    lines = subprocess.run(["unsquashfs", "-llnumeric", path], capture_output=True, text=True, check=True).stdout.splitlines()
    return [" ".join([*(words := line.split())[:2], *words[5:]]) for line in lines if line[:1] in "dlc-" and "squashfs-root" in line]


def test_layers_as_squashfs_with_their_digests_for_names(layout):
    layout.image(BASE, TOP, config={"Entrypoint": ["/bin/su"]})
    found, said = bring(layout, "latest")
    assert said == ["layer 1 of 2: 4 entries, 0.0 MB", "layer 2 of 2: 4 entries, 0.0 MB"]
    assert found.runs == {"Entrypoint": ["/bin/su"]}
    for one in found.layers:
        assert one.path == f"{layout.path.parent}/store/{one.sha256}.squashfs"
        assert hashlib.sha256(pathlib.Path(one.path).read_bytes()).hexdigest() == one.sha256
    assert listing(found.layers[0].path) == [
        "drwx--x--x 0/0 squashfs-root", "drwxr-xr-x 0/0 squashfs-root/bin", "-rwsr-xr-x 3/0 squashfs-root/bin/su",
        "lrwxrwxrwx 0/0 squashfs-root/sh -> bin/su",
    ]  # fmt: skip
    assert listing(found.layers[1].path) == [
        "drwx--x--x 0/0 squashfs-root", "drwxr-xr-x 0/0 squashfs-root/bin", "c--------- 0/0 00:00 squashfs-root/bin/su",
        "-rw-r--r-- 0/0 squashfs-root/new",
    ]  # fmt: skip


def test_what_is_there_is_not_made_anew_but_what_was_damaged_is(layout):
    layout.image(BASE, TOP)
    first, _ = bring(layout)
    assert bring(layout) == (first, [])
    os.chmod(first.layers[0].path, 0o644)
    with open(first.layers[0].path, "r+b") as file:
        file.seek(50)
        file.write(b"x")
    again, said = bring(layout)
    assert (again, len(said)) == (first, 2)  # the same bytes
    os.unlink(first.layers[1].path)
    assert bring(layout)[0] == first


def test_the_same_layers_of_another_compression_are_the_same_files(layout):
    layout.image(BASE, TOP, tag="gzip")
    layout.image(BASE, TOP, tag="plain", pack=bytes, media_type=LAYER)
    layout.image(BASE, TOP, tag="zstd", pack=zstd, media_type=f"{LAYER}+zstd")
    layout.image(BASE, TOP, tag="members", pack=lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]))
    layout.image(BASE, TOP, tag="docker", media_type="application/vnd.docker.image.rootfs.diff.tar.gzip")
    found = [bring(layout, tag)[0] for tag in ("gzip", "plain", "zstd", "members", "docker")]
    assert found == [found[0]] * 5


def test_several_at_once_import_once(layout, tmp_path):
    layout.image(BASE, TOP)
    command = [sys.executable, "-m", "pyinit", "import", "oci", "--output", str(tmp_path / "store"), str(layout.path)]
    running = [subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    told = [one.communicate(timeout=60) for one in running]
    assert {out for out, _ in told} == {"".join(f"{one.sha256}  {one.path}\n" for one in bring(layout)[0].layers)}
    assert sorted(err.count("\n") for _, err in told) == [0, 0, 0, 2]


def test_an_image_of_this_machine_is_chosen_by_its_tag_and_platform(layout, monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "here", "6", "1", "x86_64")))
    mine, other = layout.image(BASE, tag=""), layout.image(TOP, tag="")
    layout.rows.clear()
    rows = [{**mine, "platform": {"os": "linux", "architecture": "amd64"}}, {**other, "platform": {"os": "linux", "architecture": "arm64"}}]
    rows.append({**other, "platform": {"os": "unknown", "architecture": "unknown"}})
    layout.name(layout.blob_of({"manifests": rows}, f"{OCI}index.v1+json"), "both")
    layout.name(layout.blob_of({"manifests": rows[1:]}, f"{OCI}index.v1+json"), "arm")
    assert len(bring(layout, "both")[0].layers) == 1
    assert refusal(layout, "arm") == "LAYOUT: there is no image for linux/amd64; there are: linux/arm64, unknown/unknown"
    assert refusal(layout, "none") == 'LAYOUT: there is no image "none"; there are: arm, both'
    assert refusal(layout) == "LAYOUT: it has 2 images; say which, as LAYOUT:TAG; there are: arm, both"
    layout.name({**layout.blob_of({"manifests": [mine, other]}, f"{OCI}index.v1+json")}, "alike")
    assert refusal(layout, "alike") == "LAYOUT: 2 images are for linux/amd64 alike, and which is meant nobody says"


def damaged(layout, row, change):
    path = layout.path / "blobs/sha256" / str(row["digest"])[7:]
    path.write_bytes(change(path.read_bytes()))


def parts(layout):
    """Descriptors of manifest and first layer."""
    manifest = layout.rows[-1]
    inner = json.loads((layout.path / "blobs/sha256" / str(manifest["digest"])[7:]).read_text())
    return manifest, inner["config"], inner["layers"][0]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_content_that_is_another_or_longer_is_refused(layout, which):
    layout.image(BASE)
    row = parts(layout)[which]
    digest, size = row["digest"], row["size"]
    damaged(layout, row, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    found = hashlib.sha256((layout.path / "blobs/sha256" / digest[7:]).read_bytes()).hexdigest()
    assert refusal(layout) == f"LAYOUT: {digest}: its content has the digest sha256:{found}; copy the image again"
    damaged(layout, row, lambda data: data + b"x")
    assert refusal(layout) == f"LAYOUT: {digest}: expected {size} bytes, found {size + 1}; copy the image again"
    (layout.path / "blobs/sha256" / digest[7:]).unlink()
    assert refusal(layout) == f"LAYOUT/blobs/sha256/{digest[7:]}: No such file or directory"
    (layout.path / "blobs/sha256" / digest[7:]).symlink_to("/etc/passwd")
    assert refusal(layout) == f"LAYOUT/blobs/sha256/{digest[7:]}: Too many levels of symbolic links"


def test_an_archive_that_is_not_the_configs_is_refused(layout):
    layout.image(BASE, diff_ids=[f"sha256:{'0' * 64}"])
    name = f"LAYOUT: layer 1 ({parts(layout)[2]['digest'][:19]})"
    assert refusal(layout) == f"{name}: its archive has the digest sha256:{hashlib.sha256(BASE).hexdigest()}, and the image's config says sha256:{'0' * 64}"


def zstd(data):
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize(("pack", "kind"), [(gzip.compress, "gzip"), (zstd, "zstd"), (bytes, "")])
def test_a_bomb_is_not_read_to_its_end(layout, pack, kind):
    layout.image(bytes(100 << 20), pack=pack, media_type=f"{LAYER}+{kind}".rstrip("+"))
    size = parts(layout)[2]["size"]
    name = f"LAYOUT: layer 1 ({parts(layout)[2]['digest'][:19]})"
    assert refusal(layout, most_bytes=4 << 20) == f"{name}: more than 4M come out of its {size} bytes; `pyinit import oci --max-size` lets more through"


@pytest.mark.parametrize(
    ("pack", "said"),
    [
        (lambda data: gzip.compress(data)[:-9], "no gzip, or a damaged one: it is cut off"),
        (lambda data: gzip.compress(data) + b"tail", "no gzip, or a damaged one: Error -3 while decompressing data: incorrect header check"),
        (lambda data: data, "no gzip, or a damaged one: Error -3 while decompressing data: incorrect header check"),
    ],
)
def test_what_is_no_gzip(layout, pack, said):
    layout.image(BASE, pack=pack)
    assert refusal(layout) == f"LAYOUT: layer 1 ({parts(layout)[2]['digest'][:19]}): {said}"


def test_what_is_no_zstd(layout):
    layout.image(BASE, pack=bytes, media_type=f"{LAYER}+zstd")
    assert refusal(layout).startswith("zstd failed with exit code 1; it said last:\n    zstd: ")


def test_an_entry_that_is_refused_is_told_with_its_layer(layout):
    layout.image(BASE, archive(entry("../evil")))
    rows = json.loads((layout.path / "blobs/sha256" / str(layout.rows[0]["digest"])[7:]).read_text())["layers"]
    assert refusal(layout) == f'LAYOUT: layer 2 ({rows[1]["digest"][:19]}): "../evil": ".." in a path, which leads out of a folder'


def test_what_is_no_layout_and_what_is_no_image(layout, tmp_path):
    with pytest.raises(BuildError) as caught:
        store.bring(f"{tmp_path}/none", "", f"{tmp_path}/store", print)
    assert str(caught.value) == f"{tmp_path}/none: expected an OCI image layout, a folder with oci-layout: No such file or directory"
    assert refusal(layout) == f"LAYOUT: there is no image for linux/{'amd64' if os.uname().machine == 'x86_64' else os.uname().machine}"
    layout.name({"mediaType": f"{OCI}manifest.v1+json", "digest": "sha256:../../../etc/passwd", "size": 1}, "")
    assert refusal(layout) == 'LAYOUT: expected sha256: and its 64 hexadecimal digits, found "sha256:../../../etc/passwd"'
    layout.rows[0] = {"mediaType": f"{OCI}manifest.v1+json", "digest": "sha256:" + "0" * 64, "size": -1}
    layout.write()
    assert refusal(layout) == 'LAYOUT: expected a descriptor with mediaType, digest and size, found size -1, mediaType "application/vnd.oci.image.manifest.v1+json"'
    layout.rows[0] = layout.blob(b"[" * 100_000, f"{OCI}manifest.v1+json")
    layout.write()
    assert refusal(layout).startswith(f"LAYOUT: manifest {layout.rows[0]['digest']}: no JSON: ")
    layout.rows[0] = layout.blob(b"{}", "application/vnd.other+json")
    layout.write()
    assert refusal(layout) == f"LAYOUT: {layout.rows[0]['digest']} is of type \"application/vnd.other+json\": expected application/vnd.oci.image.manifest.v1+json"


@pytest.mark.parametrize("kind", [f"{LAYER}+encrypted", f"{OCI}layer.nondistributable.v1.tar+gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", ""])
def test_a_layer_of_another_type_is_refused(layout, kind):
    layout.image(BASE, media_type=kind)
    shown = f'"{kind}"' if len(kind) < 58 else f'"{kind[:56]}..."'
    assert refusal(layout) == (
        f"LAYOUT: manifest {layout.rows[0]['digest']}: layer 1 is of type {shown}: expected a tar, as it is, with gzip or with zstd"
    )


def test_an_artifact_is_no_image(layout):
    config = layout.blob(b"{}", "application/vnd.cncf.helm.config.v1+json")
    layout.name(layout.blob_of({"config": config, "layers": [layout.blob(BASE, LAYER)]}, f"{OCI}manifest.v1+json"), "")
    said = 'no image, but something with a config of type "application/vnd.cncf.helm.config.v1+json"'
    assert refusal(layout) == f"LAYOUT: manifest {layout.rows[0]['digest']}: {said}"


def test_a_folder_that_others_write_to_gives_no_layers(layout, tmp_path):
    layout.image(BASE)
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(0o777)
    assert refusal(layout) == (
        f"{tmp_path}/store: others can write there (owner {os.geteuid()}, mode 0777), and layers of containers are taken from it"
    )
