"""`python tests/system/attacks/table.py`: writes the table of attacks into the man page, from the last run's results.

`--check` only says whether it is as it should be. The results lie in pytest's cache, of a run of this folder as root.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parents[2]
PAGE = REPO / "pyinit/man/pyinit-container.7.md"
RESULTS = REPO / ".pytest_cache/v/attacks/results"
BEGIN, END = "<!-- attacks: made by tests/system/attacks/table.py -->", "<!-- end of attacks -->"
HEAD = "| attack | what is attacked | what holds it | with it | without it |\n|---|---|---|---|---|\n"


def declared() -> list[dict[str, str]]:
    """The rows as the tests have them, with what each must give."""
    sys.path[:0] = [str(REPO), str(HERE.parent), str(HERE)]
    import harness

    return [
        {"id": row.id, "title": row.title, "attack": row.attack, "defence": ", ".join(one.name for one in row.defences),
         "with": shown(row.refused), "without": shown(row.succeeds)}
        for row in harness.rows()
    ]  # fmt: skip


def shown(outcome: object) -> str:
    """An outcome as a cell."""
    return outcome if isinstance(outcome, str) else json.dumps(outcome)


def table(rows: list[dict[str, str]]) -> str:
    cells = ("title", "attack", "defence", "with", "without")
    return HEAD + "".join("| " + " | ".join(row[cell].replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n" for row in rows)


def in_page(text: str, rows: list[dict[str, str]]) -> str:
    """The page with the table between its marks."""
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise SystemExit(f"{PAGE}: expected the lines {BEGIN!r} and {END!r}, between which the table goes")
    return f"{before}{BEGIN}\n{table(rows)}{END}{after}"


def main(words: list[str]) -> int:
    rows = declared()
    if words == ["--check"]:
        return int(PAGE.read_text() != in_page(PAGE.read_text(), rows))
    results = json.loads(RESULTS.read_text())
    for row in rows:  # what was seen, not what was hoped for
        seen = results.get(row["id"])
        if seen is None:
            raise SystemExit(f"{row['id']}: not in the last run's results: run pytest tests/system/attacks as root")
        row["with"], row["without"] = shown(seen["with"]), shown(seen["without"])
    PAGE.write_text(in_page(PAGE.read_text(), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
