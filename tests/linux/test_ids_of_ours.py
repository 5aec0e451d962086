"""What a user namespace has of ids."""

import pytest

from pyinit.linux import namespaces


@pytest.mark.parametrize(("number", "has"), [(0, True), (1, True), (65536, True), (65537, False)])
def test_an_id_is_in_one_of_its_ranges(tmp_path, number, has):
    (tmp_path / "uid_map").write_text("         0       1001          1\n         1     500000      65536\n")
    assert namespaces.ids("uid", str(tmp_path)) == [(0, 1001, 1), (1, 500000, 65536)]
    assert namespaces.has_id("uid", number, str(tmp_path)) is has


def test_where_nothing_is_told_of_them_all_may_be_there(tmp_path):
    assert namespaces.has_id("gid", 5, str(tmp_path))
