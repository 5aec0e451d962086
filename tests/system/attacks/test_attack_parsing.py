"""Words of a config that one reader takes for one thing and the next for another: refused at their line, before anything starts.

The messages are held by tests/config/test_hostile_words.py; here a config with the words is run or checked for real.
"""

import json
import re

import pytest
from harness import Defence, Mutant, Row, expected, make_image, names, service

pytestmark = pytest.mark.usefixtures("nothing_left")

ALL = "all refused"
SERVICE = '[services.app]\ncommand = "x"\n'
NINES = "9" * 5000


def judged(stage, head: str, entries: dict[str, str], tail: str = "") -> str:
    """Of entries, each of one line, by what is said: those that `pyinit check` has no error for."""
    path = stage.bench.write(f"{head}\n" + "\n".join(entries.values()) + f"\n{tail}")
    done = stage.verb("check", str(path))
    assert done.returncode in (0, 100), done
    first = head.count("\n") + 2
    wrong = {int(number) for number in re.findall(rf"^{re.escape(str(path))}:(\d+): ", done.stdout + done.stderr, re.MULTILINE)}
    accepted = [word for number, word in enumerate(entries) if first + number not in wrong]
    return f"taken: {' '.join(accepted)}" if accepted else ALL


def toml(word: str) -> str:
    """JSON's string is one of TOML's."""
    return json.dumps(word)


def ids(stage) -> str:
    words = ("1000:", "+0", "-1", "0x0", "1_000", "007", "4294967296", "0\n", "\u0661", NINES, "")
    tables = {toml(word[:12]): f'"s{number}" = {{ command = "x", user = {toml(word)} }}' for number, word in enumerate(words)}
    return judged(stage, "[services]", tables)


def groups(stage) -> str:
    words = ("1000:", "+0", "-1", "0x0", "0\n", "")
    return judged(stage, f"{SERVICE}groups = [", {toml(word): f"{toml(word)}," for word in words}, "]\n")


def ids_of_the_environment(stage) -> str:
    """What `${}` gives: blanks, other scripts."""
    entries = {}
    for number, word in enumerate((" 0", "0 ", "\u0660", "010")):
        entries[toml(word)] = f'"m{number}" = {{ command = "x", nice = "${{NO_SUCH:-{word}}}" }}'
    return judged(stage, "[services]", entries)


def a_user_named_by_a_number(stage) -> str:
    """CVE-2016-3697: in the image's passwd the user whose name is 1000 has uid 0."""
    tree = make_image(stage.folder / "tree")
    (tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n1000:x:0:0::/:/bin/sh\n")
    box = stage.start(stage.config(service("app", ["/bin/id", "-u"], 'user = "1000"'), image=tree))
    assert box.wait() == 0, box.output
    return next(line for line in box.output.splitlines() if line.startswith("app: ")).replace("app: ", "uid ")


def sysctls(stage) -> str:
    entries = {
        "net/../kernel/core_pattern": '"net/../kernel/core_pattern" = "|/x"',
        "net..core_pattern": '"net..core_pattern" = "x"',
        "kernel.core_pattern": '"kernel.core_pattern" = "|/x"',
        "kernel.modprobe": '"kernel.modprobe" = "/x"',
        "vm.overcommit_memory": '"vm.overcommit_memory" = 1',
        "kernel.shmmax = 1<newline>2": '"kernel.shmmax" = "1\\n2"',
        "net.x<newline>y": '"net.x\\ny" = 1',
    }
    return judged(stage, "[container.sysctl]", entries, f'[container]\nlayers = ["/"]\n{SERVICE}')


def hosts(stage) -> str:
    """A second line of /etc/hosts by way of a name, of an address: what the container's resolver reads."""
    more = '[container.network.hosts]\n"a\\n10.9.9.9 login" = "10.0.0.1"\n"b" = "10.0.0.1 c\\n10.9.9.8 bank"\n'
    box = stage.start(stage.config(service("app", ["/bin/cat", "/etc/hosts"]), mounts=more))
    code = box.wait()
    forged = [word for word in ("login", "bank") if re.search(rf"^app: 10\.9\.9\.\d {word}", box.output, re.MULTILINE)]
    return f"forged: {' '.join(forged)}" if forged else f"exit {code}"


def names_of_things(stage) -> str:
    entries = {word: f'"{word}" = {{ command = "x" }}' for word in ("../x", "a/b", "a\\nb")}
    for word in ("..", ".x", "-x"):
        entries[word] = f'"{word}" = {{ command = "x" }}'
    return judged(stage, "[services]", entries)


def targets(stage) -> str:
    words = ("/x/../../etc", "/..", "/proc/1/root", "/./proc/self/fd/3", "//dev")
    entries = {word: f'{{ type = "tmpfs", target = "{word}" }},' for word in words}
    return judged(stage, f'{SERVICE}[container]\nlayers = ["/"]\nmounts = [', entries, "]\n")


def files(stage) -> str:
    """Names of a RAM disk's files."""
    words = ("../x", "/etc/x", "a/../../x", "a\\u0000b")
    return judged(stage, f'{SERVICE}[container]\nlayers = ["/"]\n[[container.mounts]]\ntype = "tmpfs"\ntarget = "/x"\n[container.mounts.files]', {word: f'"{word}" = "x"' for word in words})


def working_directories(stage) -> str:
    words = ("/proc/self/fd/7", "//proc/self/fd/7", "/./proc/self/fd/7", "/x/../proc/1/root")
    return judged(stage, "[services]", {word: f'"s{number}" = {{ command = "x", working_directory = "{word}" }}' for number, word in enumerate(words)})


def nul(stage) -> str:
    """Where a word of C's ends and one of Python's goes on."""
    entries = {key: f'{key} = "/a\\u0000b"' for key in ("env_dir", "working_directory", "chroot", "tty")}
    return judged(stage, SERVICE.rstrip(), entries)


def overlay_paths(stage) -> str:
    entries = {word: f"'{word}'," for word in ("/a:b", "/a,upperdir=x", "/a\\b")}
    return judged(stage, f'{SERVICE}[container]\nlayers = ["/"]\nwritable = "tmpfs"\nwritable_paths = [', entries, "]\n")


def overlay_paths_in_use(stage) -> str:
    """Layers and kept folders whose paths part an overlay's options: they are mounted by names of our own."""
    odd = ("with:colon", "with,lowerdir=comma", "with\\backslash")
    trees = [make_image(stage.folder / odd[0])]
    for name in odd[1:]:
        (stage.folder / name).mkdir()
        trees.append(stage.folder / name)
    for number, tree in enumerate(trees):
        (tree / f"word{number}").write_text("here\n")
        (tree / "all").mkdir()
    (stage.folder / "kept:a,b\\c").mkdir(mode=0o700)
    layers = ", ".join(f"'{tree}'" for tree in trees)
    text = stage.config(
        service("app", ["/bin/sh", "-c", "cat /word0 /word1 /word2 /all/word0 /all/word1 /all/word2; echo > /written"]),
        mounts=f'[[container.mounts]]\ntype = "overlay"\ntarget = "/all"\nlayers = [{layers}]\n',
    )
    box = stage.start(text.replace(f'layers = ["{stage.image}"]', f"layers = [{layers}]\nwritable = '{stage.folder}/kept:a,b\\c'"))
    box.wait()
    written = any(stage.folder.glob("kept:a,b\\c/**/written"))
    return f"{box.output.count('app: here')} of 6 read, {'written' if written else 'nothing written'}"


def variables(stage) -> str:
    return judged(stage, f"{SERVICE}[services.app.environment]", {"A=B": '"A=B" = 1', "A<NUL>": '"A\\u0000" = 1', "nothing": '"" = "x"'})


def capabilities(stage) -> str:
    words = ("NET_BIND_SERVCE", "cap_sys_admin", "ALL", "")
    return judged(stage, f'{SERVICE}[container]\nlayers = ["/"]\n[container.security]\ncapabilities = [', {toml(word): f"{toml(word)}," for word in words}, "]\n")


def profiles(stage) -> str:
    """Of seccomp: a call that there is none of would go on to be let through."""
    calls = ("ptrce", "open_by_handle", "io_uring")
    (stage.folder / "calls.toml").write_text("deny = [\n" + "".join(f"{toml(name)},\n" for name in calls) + "]\n")
    done = stage.verb("check", str(stage.bench.write(f'{SERVICE}seccomp = "./calls.toml"\n')))
    assert done.returncode in (0, 100), done
    told = {int(number) for number in re.findall(r"calls\.toml:(\d+): .*there is no system call", done.stdout + done.stderr)}
    taken = [name for number, name in enumerate(calls, 2) if number not in told]
    return f"taken: {' '.join(taken)}" if taken else ALL


def off(name: str, *mutants: Mutant) -> tuple[Defence, ...]:
    return (Defence(name, mutants=mutants),)


ACCOUNTS = "a number is plain digits below 2^32-1"
ROWS = (
    Row(
        "parse-uid", "uid parsing", "`user` by words that some reader takes for uid 0 or for two ids, and 5000 digits",
        off(ACCOUNTS, Mutant("config/processes.py", "if key in table.data and not _is_account(text):", "if False:")),
        ALL, 'taken: "1000:" "+0" "-1" "0x0" "1_000" "007" "4294967296" "0\\n" "\\u0661" "999999999999" ""', outside=ids,
    ),
    Row(
        "parse-gid", "gid parsing", "the same of `groups`",
        off(ACCOUNTS, Mutant("config/processes.py", '        if not _is_account(text):\n            table.fault("groups"', '        if False:\n            table.fault("groups"')),
        ALL, 'taken: "1000:" "+0" "-1" "0x0" "0\\n" ""', outside=groups,
    ),
    Row(
        "parse-environment", "numbers by ${}", "a number whose digits are another script's, with blanks, with a leading 0",
        off("`${}` is read as TOML reads a number", Mutant("config/decode.py", "if set(text) - _OF_NUMBERS or (bare[:1] == \"0\" and bare[1:2].isdigit()):", "if False:")),
        ALL, 'taken: " 0" "0 " "\\u0660" "010"', outside=ids_of_the_environment,
    ),
    Row(
        "passwd-number", "CVE-2016-3697", "the image's passwd has a user whose name is 1000 and whose uid is 0; `user = \"1000\"`",
        off("a number is never a name", Mutant("init/users.py", "(row[0] == name if wanted is None else uid == wanted)", "(row[0] == name or uid == wanted)")),
        "uid 1000", "uid 0", outside=a_user_named_by_a_number,
    ),
    Row(
        "parse-sysctl", "sysctl injection", "names with .., names of the whole host's, a value of two lines",
        off(
            "names are a namespace's own, without an empty part; one line",
            Mutant("config/sysctl.py", "and len(parts) > 1 and all(parts) else", "or True else"),
            Mutant("config/sysctl.py", "        elif _is_allowed(table, name, path, own):", "        elif True:"),
            Mutant("config/sysctl.py", '("\\n" in text or not text.strip())', "False"),
        ),
        ALL, "taken: net/../kernel/core_pattern net..core_pattern kernel.core_pattern kernel.modprobe vm.overcommit_memory kernel.shmmax = 1<newline>2 net.x<newline>y",
        outside=sysctls,
    ),
    Row(
        "parse-hosts", "newline in hosts", "a name and an address of `hosts` with a second line for /etc/hosts",
        off(
            "a host name's letters; an address is numeric",
            Mutant("config/network.py", "        elif not is_hostname(name):", "        elif False:"),
            Mutant("config/network.py", "        if not addresses.bits_of(address):", "        if False:"),
        ),
        "exit 100", "forged: login bank", outside=hosts,
    ),
    Row(
        "parse-names", "`..` names", "a service named ../x, a/b, a newline: it becomes a folder, a cgroup, a log",
        off("a name's letters", Mutant("model.py", 'set(text) <= _NAME and text[0] not in ".-@"', "True")),
        ALL, "taken: ../x a/b a\\nb .. .x -x", outside=names_of_things,
    ),
    Row(
        "parse-targets", "`..` targets", "a mount on /x/../../etc, on /proc/1/root, on //dev",
        off("a target is a place of its own, without ..", Mutant("config/mounts.py", 'elif text and (".." in text.split("/") or target in RESERVED or target.startswith("/proc/")):', "elif False:")),
        ALL, "taken: /x/../../etc /.. /proc/1/root /./proc/self/fd/3 //dev", outside=targets,
    ),
    Row(
        "parse-files", "`..` files", "a RAM disk's file named ../x, /etc/x, or with a NUL",
        off("a file's name lies below the target", Mutant("config/mounts.py", 'if not name or name.startswith("/") or ".." in name.split("/") or name.endswith("/") or "\\0" in name:', "if False:")),
        ALL, "taken: ../x /etc/x a/../../x a\\u0000b", outside=files,
    ),
    Row(
        "parse-working-directory", "CVE-2024-21626, by the config", "`working_directory` under /proc/self/fd, by several spellings",
        off("no working directory below /proc", Mutant("config/services.py", 'if (os.path.normpath(text).replace("//", "/") + "/").startswith("/proc/"):', "if False:")),
        ALL, "taken: /proc/self/fd/7 //proc/self/fd/7 /./proc/self/fd/7 /x/../proc/1/root", outside=working_directories,
    ),
    Row(
        "parse-nul", "NUL", "a path with a NUL, at which the kernel's ends",
        off("no string has a NUL", Mutant("config/decode.py", '        if "\\0" in text:\n            self.fault(key, f"expected {what} without NUL', '        if False:\n            self.fault(key, f"expected {what} without NUL')),
        ALL, "taken: env_dir working_directory chroot tty", outside=nul,
    ),
    Row(
        "parse-overlay", "`:` `,` in overlay paths", "`writable_paths` that part an overlay's options",
        off("refused", Mutant("config/container.py", '_NOT_IN_OVERLAYS = frozenset(":,\\\\")', "_NOT_IN_OVERLAYS = frozenset()")),
        ALL, "taken: /a:b /a,upperdir=x /a\\b", outside=overlay_paths,
    ),
    Row(
        "overlay-names", "`:` `,` in overlay paths, in use", "layers, an overlay's layers and the kept folder with `:`, `,` and `\\` in their paths",
        off(
            "mounted by names of our own",
            Mutant(
                "launch/declared.py", 'lowers = ":".join(str(number) for number in reversed(range(len(entry.layers))))',
                'lowers = ":".join(layer.path for layer in reversed(entry.layers))',
            ),
        ),
        "6 of 6 read, written", "0 of 6 read, nothing written", outside=overlay_paths_in_use,
    ),
    Row(
        "parse-variables", "names of variables", "a variable named A=B, one with a NUL, one without a name",
        off("no name has = or NUL", Mutant("config/decode.py", 'if not name or "=" in name or "\\0" in name:', "if False:")),
        ALL, "taken: A=B A<NUL> nothing", outside=variables,
    ),
    Row(
        "parse-capabilities", "a capability misspelt", "a list with a slip of the pen, which would be another list",
        off("known names, did-you-mean", Mutant("config/processes.py", 'if name.removeprefix("CAP_") not in NAMES:', "if False:")),
        ALL, 'taken: "NET_BIND_SERVCE" "cap_sys_admin" "ALL" ""', outside=capabilities,
    ),
    Row(
        "parse-seccomp", "a system call misspelt", "a profile of seccomp that refuses calls that there are none of",
        off("known names, did-you-mean", Mutant("config/profiles.py", "    if name not in NAMES:\n        table.fault(key, f\"there is no", "    if False:\n        table.fault(key, f\"there is no")),
        ALL, "taken: ptrce open_by_handle io_uring", outside=profiles,
    ),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
