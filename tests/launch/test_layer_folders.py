"""A folder of a layer, which may have become a link since it was looked at."""

import pytest

from pyinit.launch import apply


@pytest.mark.parametrize("link", ["{outside}", "../outside"])
def test_a_link_out_of_the_layer_is_not_followed(tmp_path, link):
    """overlayfs itself would have followed it: a container saw a folder of the host."""
    (tmp_path / "layer").mkdir()
    (tmp_path / "outside/state").mkdir(parents=True)
    (tmp_path / "layer/data").symlink_to(link.format(outside=tmp_path / "outside"))
    with pytest.raises(FileNotFoundError) as caught:
        apply._folder_of(str(tmp_path / "layer"), "/data/state")
    assert caught.value.strerror == "openat2 /data/state: No such file or directory"
