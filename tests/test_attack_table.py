"""The table of attacks in pyinit-container(7) is that of the rows that the tests declare."""

import pathlib
import sys

ATTACKS = pathlib.Path(__file__).parent / "system/attacks"


def test_the_pages_rows_are_the_declared_ones_with_their_results():
    sys.path.insert(0, str(ATTACKS))
    import table

    page = table.PAGE.read_text()
    assert page == table.in_page(page, table.declared())
    assert len({row["id"] for row in table.declared()}) == len(table.declared())
