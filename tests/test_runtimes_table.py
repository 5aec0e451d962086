"""The tables of runtimes in README and pyinit-container(7) are made of the cells that the tests declare."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent / "peers/runtimes"


def test_the_documents_cells_are_the_declared_ones():
    sys.path.insert(0, str(HERE))
    import runtimes_table as table

    for path in (table.README, table.PAGE):
        assert path.read_text() == table.in_document(path, table.declared())


def test_each_runtime_has_a_row_and_each_row_a_runtime():
    sys.path.insert(0, str(HERE))
    import runtimes
    import runtimes_cells

    assert [one.name for one in runtimes.ALL] == list(runtimes_cells.CELLS)
