"""Files of variables."""

import pytest

from pyinit.init.environment import EnvironmentFileError, read_file, read_folder


def test_a_file_of_variables(tmp_path):
    path = tmp_path / "env"
    path.write_text("# a comment\n; another\n\nA=1\n export B='two words' \nC=\"x\"\nD=a=b # no comment\nE=\n")
    assert read_file(str(path)) == {"A": "1", "B": "two words", "C": "x", "D": "a=b # no comment", "E": ""}


@pytest.mark.parametrize(("line", "found"), [("hunter2 secret", "no ="), ("B C=hunter2", "another name"), ("=hunter2", "another name"), ("B=hunter2\0", "a NUL")])
def test_a_wrong_line_is_told_by_its_number_and_not_by_what_may_be_a_secret(tmp_path, line, found):
    path = tmp_path / "env"
    path.write_text(f"A=1\n{line}\n")
    with pytest.raises(EnvironmentFileError) as caught:
        read_file(str(path))
    assert str(caught.value) == f"{path}:2: expected NAME=value, found {found}"


def test_a_missing_file_is_an_error_unless_it_may_be_missing(tmp_path):
    path = tmp_path / "none"
    with pytest.raises(EnvironmentFileError) as caught:
        read_file(str(path))
    assert str(caught.value) == f'{path} is not there; write "-{path}" if it may be missing'
    assert read_file(f"-{path}") == {}


def test_only_regular_files_of_some_size_are_read(tmp_path):
    with pytest.raises(EnvironmentFileError) as caught:
        read_file("/dev/zero")
    assert str(caught.value) == "/dev/zero: expected a regular file"
    (tmp_path / "big").write_bytes(b"#" * (1 << 20) + b"x")
    with pytest.raises(EnvironmentFileError) as caught:
        read_file(str(tmp_path / "big"))
    assert str(caught.value) == f"{tmp_path}/big: expected at most 1048576 bytes"


def test_a_folder_as_envdir_reads_it(tmp_path):
    (tmp_path / "ONE").write_bytes(b"first \t\nsecond")
    (tmp_path / "NUL").write_bytes(b"a\0b")
    (tmp_path / "GONE").write_bytes(b"")
    (tmp_path / "EMPTY").write_bytes(b"\n")
    (tmp_path / ".hidden").write_bytes(b"x")
    assert read_folder(str(tmp_path)) == {"ONE": "first", "NUL": "a\nb", "GONE": None, "EMPTY": ""}
