"""The table of attacks in pyinit-container(7) is that of the rows that the tests declare."""

import pathlib
import sys

ATTACKS = pathlib.Path(__file__).parent / "system/attacks"


def test_each_mutants_text_is_there_exactly_once():
    """As harness.mutated() demands when a row runs, which takes root: a change that moves or rewords a defence is told of its mutants here."""
    sys.path[:0] = [str(ATTACKS), str(ATTACKS.parent)]
    import harness

    mutants = {(row.id, mutant) for row in harness.rows() for defence in row.defences for mutant in defence.mutants}
    assert [f"{row}: {why}" for row, mutant in sorted(mutants) if (why := harness.rotten(mutant))] == []
    assert len(mutants) > len(harness.rows()) // 2
    for _, mutant in sorted(mutants):  # and what takes its place is Python still
        compile((harness.REPO / "pyinit" / mutant.file).read_text().replace(mutant.old, mutant.new), mutant.file, "exec")


def test_a_rotten_mutant_is_told():
    sys.path[:0] = [str(ATTACKS), str(ATTACKS.parent)]
    import harness

    assert [harness.rotten(harness.Mutant(file, old, "")) for file, old in (("none.py", "x"), ("__init__.py", "not there"), ("__main__.py", "\n"))] == [
        "pyinit/none.py: no such file; mend the mutant",
        "'not there' stands 0 times in pyinit/__init__.py; mend the mutant",
        f"'\\n' stands {(harness.REPO / 'pyinit/__main__.py').read_text().count(chr(10))} times in pyinit/__main__.py; mend the mutant",
    ]


def test_the_pages_rows_are_the_declared_ones_with_their_results():
    sys.path.insert(0, str(ATTACKS))
    import table

    page = table.PAGE.read_text()
    assert page == table.in_page(page, table.declared())
    assert len({row["id"] for row in table.declared()}) == len(table.declared())
