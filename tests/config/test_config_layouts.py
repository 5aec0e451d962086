"""`layers = ["oci:LAYOUT:TAG"]`: what it becomes, what `check` says of one that is not there, what `plan` shows of it."""

import pathlib
import subprocess
import sys

import pytest

from pyinit.config.load import load
from pyinit.errors import ConfigError
from pyinit.model import Layer, Origin

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "image"))
from layouts import Layout, archive, entry

REPO = pathlib.Path(__file__).parents[2]
BOX = '[container]\nlayers = [\n{layers}\n]\n[services.app]\ncommand = ["app"]\n'


@pytest.fixture
def layout(tmp_path):
    made = Layout(tmp_path / "layout")
    made.image(archive(entry("a")), tag="v1")
    return made


def write(folder, *layers):
    path = folder / "services.toml"
    path.write_text(BOX.format(layers=",\n".join(f'"{one}"' for one in layers)))
    return str(path)


def problems(path):
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    return caught.value.problems


def test_an_image_of_a_layout_is_a_layer_with_a_tag(tmp_path, layout):
    digest = layout.rows[0]["digest"]
    path = write(tmp_path, "oci:layout:v1", f"oci:{tmp_path}/layout", f"oci:layout:v1@{digest}", "layout")
    assert load(path, {}).container.layers == (
        Layer(f"{tmp_path}/layout", Origin(path, 3), oci=True, tag="v1"),
        Layer(f"{tmp_path}/layout", Origin(path, 4), oci=True),
        Layer(f"{tmp_path}/layout", Origin(path, 5), digest[7:], oci=True, tag="v1"),
        Layer(f"{tmp_path}/layout", Origin(path, 6)),
    )


def test_what_is_not_there_is_told_with_its_line(tmp_path, layout):
    path = write(tmp_path, "oci:none:v1", "oci:layout:v2", "oci:", f"oci:layout:v1@sha256:{'0' * 64}")
    assert problems(path) == [
        f"{path}:3: container.layers: {tmp_path}/none: expected an OCI image layout, a folder with oci-layout: No such file or directory",
        f'{path}:4: container.layers: {tmp_path}/layout: there is no image "v2"; there are: v1',
        f"{path}:5: container.layers[3]: expected an OCI layout, as oci:LAYOUT:TAG, found nothing behind oci:",
        f"{path}:5: container.layers: {tmp_path}: expected an OCI image layout, a folder with oci-layout: No such file or directory",
        f"{path}:6: container.layers: {tmp_path}/layout: the image is not the one that is pinned: "
        f"expected sha256:{'0' * 64}, found {layout.rows[0]['digest']}",
    ]


def test_a_mount_of_an_overlay_takes_files_and_folders_only(tmp_path, layout):
    path = tmp_path / "services.toml"
    path.write_text(
        '[container]\nlayers = ["layout"]\n[[container.mounts]]\ntype = "overlay"\ntarget = "/x"\nlayers = ["layout", "oci:layout:v1"]\n'
        '[services.app]\ncommand = ["app"]\n'
    )
    assert problems(str(path)) == [
        f"{path}:6: container.mounts[1].layers[2]: an image of an OCI layout has layers of a root; `pyinit import oci` makes files of them, for here",
    ]


def pyinit(*words, **environment):
    return subprocess.run([sys.executable, "-m", "pyinit", *words], cwd=REPO, env={"PATH": "/usr/bin:/bin:/usr/sbin", **environment}, capture_output=True, text=True, check=False)


def test_the_plan_says_that_it_would_be_imported_and_changes_nothing(tmp_path, layout):
    path = write(tmp_path, "oci:layout:v1")
    done = pyinit("plan", path)
    assert f"mount layer 0, the layers of {tmp_path}/layout:v1, imported before all that, read-only  [{path}:3]" in done.stdout, done.stderr
    assert sorted(one.name for one in tmp_path.iterdir()) == ["layout", "services.toml"]
