"""`python tests/peers/runtimes/runtimes_table.py`: writes what works under which runtime into README and man page, from the last run's results.

`--check` only says whether they are as they should be. The results lie in pytest's cache, of a run of this folder as root.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parents[2]
README, PAGE = REPO / "README.md", REPO / "pyinit/man/pyinit-container.7.md"
CACHE = "runtimes/results"
RESULTS = REPO / ".pytest_cache/v" / CACHE
BEGIN, END = "<!-- runtimes: made by tests/peers/runtimes/runtimes_table.py -->", "<!-- end of runtimes -->"
# A document's columns: question -> heading.
SHORT = {"PID": "PID", "services": "services up", "orphans": "orphans reaped", "stop": "its own stop: who ended, code", "exit code": "an exit code 7", "READY": "told upward"}
LONG = {
    "PID": "PID", "given": "what a service is given", "environment": "inherited", "mounts": "mounts", "cgroup": "cgroup", "services": "services up", "crash loop": "a crash loop", "orphans": "orphans reaped",
    "status": "`pyinit status` inside", "stop": "its own stop: who ended, code", "exit code": "an exit code 7", "READY": "told upward",
    "signals": "a signal to the init, and the runtime's code",
}  # fmt: skip


def declared() -> dict[str, dict[str, str]]:
    """What each test must see."""
    sys.path[:0] = [str(REPO), str(HERE)]
    import runtimes_cells

    return runtimes_cells.CELLS


def table(cells: dict[str, dict[str, str]], columns: dict[str, str]) -> str:
    lines = [["runtime", *columns.values()], ["---"] * (len(columns) + 1)]
    lines += [[name, *(row.get(question, "-") for question in columns)] for name, row in cells.items()]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def in_document(path: pathlib.Path, cells: dict[str, dict[str, str]]) -> str:
    """The document with its table between the marks."""
    before, found, rest = path.read_text().partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise SystemExit(f"{path}: expected the lines {BEGIN!r} and {END!r}, between which the table goes")
    return f"{before}{BEGIN}\n{table(cells, SHORT if path == README else LONG)}{END}{after}"


def seen(cells: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """The same cells, of the last run."""
    results = json.loads(RESULTS.read_text())
    missing = [f"{name}: {question}" for name, row in cells.items() for question in row if f"{name}: {question}" not in results]
    if missing:
        raise SystemExit(f"{', '.join(missing)}: not in the last run's results: run pytest tests/peers/runtimes as root")
    return {name: {question: results[f"{name}: {question}"] for question in row} for name, row in cells.items()}


def main(words: list[str]) -> int:
    cells = declared()
    if words == ["--check"]:
        return int(any(path.read_text() != in_document(path, cells) for path in (README, PAGE)))
    cells = seen(cells)  # what was seen, not what was hoped for
    for path in (README, PAGE):
        path.write_text(in_document(path, cells))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
