"""Where keys stand: the scanner held against a TOML parser's own tree, and lines against a table written by hand."""

import random
import tomllib
from pathlib import Path

import pytest

from pyinit.config.source import positions

ROOT = Path(__file__).parents[2]

CORPUS = {
    "nothing": "",
    "only blank lines and comments": "\n\n# [not.a.table]\n   # a = 1\n\t\n",
    "no newline at the end": "a = 1",
    "a comment at the end, no newline": "a = 1 # b = 2",
    "bare keys": "a-b_c9 = 1\n1234 = 2\n- = 3\n",
    "quoted keys": '"a b" = 1\n\'c"d\' = 2\n"" = 3\n"e\\"f\\\\g\\u00e9\\U0001F600\\n\\t" = 4\n"a.b" = 5\n',
    "quoted keys with signs of structure": '"=" = 1\n"]" = 2\n"#" = 3\n[" ] x "]\n"[[" = 4\n',
    "dotted keys": "a.b.c = 1\na.d = 2\na . \"e.f\" . 'g' = 3\n3.14 = 4\n",
    "spaces": "  a  =  1  \n\tb\t=\t2\t\n[ t ]\n[ t . u ]\nc=3\n",
    "tables": "[a]\nx = 1\n[b.c]\ny = 2\n[b]\nz = 3\n[a.d]\n",
    "a table below, before the table itself": "[a.b.c]\nx = 1\n[a]\ny = 2\n",
    "an empty table": "[a]\n[b]\n",
    "comments after headers": "[a] # [b]\nx = 1 # y = 2\n[[c]] # d\n",
    "arrays of tables": "[[a]]\nx = 1\n[[a]]\n[[a]]\nx = 3\ny = 4\n",
    "nested arrays of tables": (
        "[[a]]\nn = 1\n[[a.b]]\nm = 1\n[[a.b]]\nm = 2\n[a.b.c]\nk = 1\n[a.t]\nk = 1\n[[a]]\n[[a.b]]\nm = 3\n[a.b.c.d]\nk = 2\n"
    ),
    "an array of tables below a table": "[x.y]\nk = 1\n[[x.z]]\nk = 2\n[[x.z]]\n[x.z.w]\nk = 3\n",
    "dotted keys in an element": "[[a]]\nb.c = 1\nb.d = { e.f = 2 }\n",
    "arrays": "a = [1, 2, 3]\nb = []\nc = [ ]\nd = [1,]\ne = [[1, 2], [], [3, [4]]]\n",
    "arrays over lines": "a = [\n  1, # one, ] not the end\n  2\n  ,\n  # nothing\n  3,\n]\nb = [\n]\nc = [[\n1],\n[2\n]]\n",
    "arrays of strings": 'a = ["x,y", "]", \'[\', "#", """a"]\n,b""", \'\'\'c\n]\'\'\']\nb = 1\n',
    "inline tables": "a = { x = 1, y.z = 2, 'q r' = { s = 3 } }\nb = {}\nc = { }\nd={e=1,f=2}\n",
    "inline tables in arrays": 'a = [{ x = 1 }, { y = [{ z = 2 }] },\n  { x = "}" }, {}]\nb = 1\n',
    "arrays in inline tables": 'a = { b = [\n1,\n2], c = "x", d = [[\n3]] }\ne = 1\n',
    "strings": "a = \"x = 1\"\nb = '[c]'\nd = \"\"\ne = ''\nf = \"\\\\\"\ng = \"\\\"\"\nh = '\\'\ni = 1\n",
    "multi-line strings": 'a = """\n[b]\nc = 1\n"""\nd = \'\'\'\n[e]\n\'\'\'\nf = 1\n',
    "multi-line strings, quotes within": 'a = """x"y""z"""\nb = """""x"""""\nc = \'\'\'\'x\'\'\'\'\'\nd = """\n\\"""\n"""\ne = 1\n',
    "multi-line strings, escapes": 'a = """x \\\n\n   y \\\\"""\nb = """\\"""\\""""\nc = \'\'\'\\\'\'\'\nd = 1\n',
    "empty multi-line strings": "a = \"\"\"\"\"\"\nb = ''''''\nc = 1\n",
    "multi-line strings in inline tables": 'a = { b = """\n} , c = 2\n""", d = \'\'\'\n\n\'\'\' }\ne = 1\n',
    "numbers": "a = +1_000\nb = 0xDEAD_beef\nc = 0o755\nd = -0.5e+3\ne = inf\nf = -nan\ng = 0b1\n",
    "booleans": "a = true\nb = false\n",
    "dates": "a = 1979-05-27T07:32:00Z\nb = 1979-05-27 07:32:00.5-07:00\nc = 1979-05-27\nd = 07:32:00\ne = [1979-05-27 07:32:00, 1]\n",
    "CRLF": 'a = 1\r\n[b]\r\nc = """x\r\ny"""\r\nd = [\r\n1,\r\n2\r\n] # e\r\n[[f]]\r\ng = 1\r\n',
    "other letters": '"ö ü" = "日本"\n["ß".x]\ny = "\u2028"\nz = 1\n',
    "a value that looks like a header": 'a = "\\n[b]"\nc = """\n[[d]]\n[[d]]"""\n',
    "services": (ROOT / "services/ssh.toml").read_text(),
    "services, nginx": (ROOT / "services/nginx.toml").read_text(),
    "services, app": (ROOT / "services/app.toml").read_text(),
    "the example": (ROOT / "examples/web/services.toml").read_text(),
    "the example's images": (ROOT / "examples/web/build.toml").read_text(),
    "the project": (ROOT / "pyproject.toml").read_text(),
}


def key_paths(value, path=()):
    """Every key and array element of a parsed document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from key_paths(inner, (*path, key))


@pytest.mark.parametrize("text", CORPUS.values(), ids=CORPUS.keys())
def test_the_scanner_sees_the_keys_that_the_parser_sees(text):
    assert set(positions(text)) == set(key_paths(tomllib.loads(text)))


@pytest.mark.parametrize("text", CORPUS.values(), ids=CORPUS.keys())
def test_a_bare_key_is_on_its_line(text):
    lines = text.split("\n")
    for path, line in positions(text).items():
        if isinstance(path[-1], str) and path[-1].isidentifier():
            assert path[-1] in lines[line - 1], path


def test_documents_put_together_at_random_agree_with_the_parser():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    bodies = [text for name, text in CORPUS.items() if not text.startswith("[") and "\n[" not in text and text.endswith("\n")]
    for _ in range(100):
        text, lines_before = "", []
        for number in range(dice.randint(1, 6)):
            head = dice.choice([f"[t{number}]", f"[t{number}.u]", "[[many]]", "[[many.inner]]" if "[[many]]" in text else "[[many]]"])
            lines_before.append(text.count("\n") + 1)
            text += head + dice.choice(["\n", " # x\n", "\n\n"]) + dice.choice(bodies)
        found = positions(text)
        assert set(found) == set(key_paths(tomllib.loads(text))), text
        headers = [found[path] for path in found if path[0] != "many" and len(path) == 1]
        assert set(headers) <= set(lines_before), text


def test_lines():
    text = """\
include = ["a.toml",
           "b.toml"]

[container.network]
mode = "veth"
[container]
layers = [
    "base",

    "app",
]
[[container.mounts]]
type = "tmpfs"
files = { "a b" = '''
x
y
''', c = { content = "z" } }

[[container.mounts]]
type = "bind"
[services.app]
command = "x"; ready.tcp = 1
""".replace('"x"; ', '"x"\n')
    assert positions(text) == {
        ("include",): 1,
        ("include", 0): 1,
        ("include", 1): 2,
        ("container",): 6,  # its own header, not the first that goes through it
        ("container", "network"): 4,
        ("container", "network", "mode"): 5,
        ("container", "layers"): 7,
        ("container", "layers", 0): 8,
        ("container", "layers", 1): 10,
        ("container", "mounts"): 12,
        ("container", "mounts", 0): 12,
        ("container", "mounts", 0, "type"): 13,
        ("container", "mounts", 0, "files"): 14,
        ("container", "mounts", 0, "files", "a b"): 14,
        ("container", "mounts", 0, "files", "c"): 17,
        ("container", "mounts", 0, "files", "c", "content"): 17,
        ("container", "mounts", 1): 19,
        ("container", "mounts", 1, "type"): 20,
        ("services",): 21,
        ("services", "app"): 21,
        ("services", "app", "command"): 22,
        ("services", "app", "ready"): 23,
        ("services", "app", "ready", "tcp"): 23,
    }


def test_an_array_of_arrays_has_the_line_of_each_element():
    assert positions("a = [[1,\n2],\n# x\n[3]]\n") == {
        ("a",): 1, ("a", 0): 1, ("a", 0, 0): 1, ("a", 0, 1): 2, ("a", 1): 4, ("a", 1, 0): 4,
    }  # fmt: skip


def test_a_line_ending_backslash_counts_its_line():
    assert positions('a = """\\\n  x \\\n\n  y"""\nb = 1\n') == {("a",): 1, ("b",): 5}
    assert positions('a = """\\\r\n  x"""\r\nb = 1\r\n') == {("a",): 1, ("b",): 3}


def test_text_that_only_newer_parsers_take():
    """TOML 1.1, as tomli from 2.3 on reads it: inline tables over lines, a comma at their end, \\e and \\x in strings."""
    text = 'a = {\n  b = 1, # one\n  c = 2,\n}\n"\\e\\x41" = 3\n'
    assert positions(text) == {("a",): 1, ("a", "b"): 2, ("a", "c"): 3, ("\x1bA",): 5}
