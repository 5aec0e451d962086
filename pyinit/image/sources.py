"""The machine's apt sources, cut down to one suite. Pure but for `read_sources`.

Owns both formats of sources.list(5). Must not know mmdebstrap or where the result goes.
Law: of what the machine's administrator wrote, only entries of the suite and its `-updates`, `-security` and the
like are kept: what else the machine follows (a newer release, say) must not get into an image.
"""

import os

from pyinit.image.spec import BuildError
from pyinit.records import NamedTuple

_FOLDER = "/etc/apt"


class Sources(NamedTuple):
    """The texts for a `sources.list` and for a deb822 `.sources` file; "" if there is nothing of that format."""

    one_line: str
    deb822: str


def read_sources(suite: str, folder: str = _FOLDER) -> Sources:
    """The sources of this machine for `suite`; BuildError if there are none."""
    one_line, deb822 = [], []
    for path in _files(folder):
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
        if path.endswith(".sources"):
            deb822.append(select_deb822(text, suite))
        else:
            one_line.append(select_one_line(text, suite))
    found = Sources("".join(one_line), "\n".join(text for text in deb822 if text))
    if not any(found):
        raise BuildError(
            f"no apt source of this machine is for {suite} (looked in {folder}): "
            f"add one to {folder}/sources.list.d, or build for the suite that the machine has"
        )
    return found


def _files(folder: str) -> list[str]:
    parts = f"{folder}/sources.list.d"
    names = sorted(os.listdir(parts)) if os.path.isdir(parts) else []
    paths = [f"{folder}/sources.list", *(f"{parts}/{name}" for name in names if name.endswith((".list", ".sources")))]
    return [path for path in paths if os.path.isfile(path)]


def select_one_line(text: str, suite: str) -> str:
    """The `deb [options] URI SUITE COMPONENT...` lines for the suite, without comments."""
    kept = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words or words[0] != "deb":
            continue
        rest = words[1:]
        if rest and rest[0].startswith("["):
            while rest and not rest[0].endswith("]"):
                rest = rest[1:]
            rest = rest[1:]
        if len(rest) >= 2 and not rest[0].startswith("cdrom:") and _is_of(rest[1], suite):
            kept.append(" ".join(words) + "\n")
    return "".join(kept)


def select_deb822(text: str, suite: str) -> str:
    """The stanzas for the suite, each with only the suites that are wanted."""
    kept = []
    for stanza in _stanzas(text):
        suites = [word for word in stanza.get("suites", "").split() if _is_of(word, suite)]
        if not suites or "deb" not in stanza.get("types", "").split() or stanza.get("enabled", "yes").lower() == "no":
            continue
        fields = stanza | {"types": "deb", "suites": " ".join(suites)}
        kept.append("".join(f"{name.capitalize()}: {value}\n" for name, value in fields.items()))
    return "\n".join(kept)


def _stanzas(text: str) -> list[dict[str, str]]:
    """Fields by lower-case name; a value keeps its continuation lines (an embedded key is such a one)."""
    stanzas: list[dict[str, str]] = [{}]
    name = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if not line.strip():
            stanzas.append({})
        elif line[0] in " \t":
            stanzas[-1][name] = stanzas[-1].get(name, "") + "\n" + line
        else:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            stanzas[-1][name] = value.strip()
    return [stanza for stanza in stanzas if stanza]


def _is_of(word: str, suite: str) -> bool:
    return word == suite or word.startswith(suite + "-")
