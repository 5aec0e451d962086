"""A secret is in its file and nowhere else: no environment, no command line, no log, no plan, no swap."""

import os
import pathlib

import payload_secrets as payload
import pytest
from harness import NAME, Defence, Mutant, Row, Stage, answers, expected, inside_pid, names, service, words

pytestmark = pytest.mark.usefixtures("nothing_left")

VARIABLE = "PYINIT_ATTACK_WORD"
RUNS = '[services.app]\nlog = { to = "stdout", timestamp = "none" }\ncommand = ["/bin/sh", "-c", "echo up; while :; do sleep 0.1; done"]\n'
NOWHERE = "nowhere"


def tables(stage: Stage) -> str:
    """The same word by each way that a secret comes in."""
    path = stage.folder / "word"
    path.write_text(payload.WORD)
    path.chmod(0o600)
    return (
        f'[container.secrets]\nword = {{ env = "{VARIABLE}" }}\nby-file = {{ file = "{path}" }}\n'
        f'by-command = {{ command = ["/bin/cat", "{path}"] }}\nof-app = {{ env = "{VARIABLE}", uid = 1000 }}\n'
    )


def start(stage: Stage, services: str, **keys):
    return stage.start(stage.config(services, mounts=tables(stage), init=""), environment={VARIABLE: payload.WORD}, **keys)


def searched(stage: Stage) -> str:
    """By a service, and on the host in all that pyinit has there and says."""
    box = start(stage, RUNS + service("attack", words(payload.search, "attack"), 'requires = ["app"]'))
    box.wait_for('{"attack": ')
    inside = answers(box.output)["attack"]
    found = [] if inside == NOWHERE else [inside]
    for who, pid in (("the monitor", box.process.pid), ("PID 1", inside_pid(NAME))):
        found += [f"{kind} of {who}" for kind in ("environ", "cmdline", "mountinfo") if payload.WORD.encode() in pathlib.Path(f"/proc/{pid}/{kind}").read_bytes()]
    found += sorted(str(path) for path in pathlib.Path("/run/pyinit").rglob("*") if path.is_file() and payload.WORD.encode() in path.read_bytes())
    for verb in (("status", "--json"), ("events", "--json"), ("logs", "app")):
        done = stage.verb(verb[0], "-c", NAME, *verb[1:])
        found += [f"`pyinit {verb[0]}`"] if payload.WORD in done.stdout + done.stderr else []
    box.stop()
    return ", ".join([*found, *(["our output"] if payload.WORD in box.output.replace(f'"{inside}"', "") else [])]) or NOWHERE


def in_plan(stage: Stage, more: str = "") -> str:
    path = stage.bench.write(stage.config(service("app", ["/bin/true"]), mounts=tables(stage)).replace("[container]\n", f"[container]\n{more}"))
    done = stage.verb("plan", str(path), env={**os.environ, VARIABLE: payload.WORD})
    assert done.returncode == 0, done.stderr
    return "shown" if payload.WORD in done.stdout + done.stderr else "its name"


def in_plan_by_expansion(stage: Stage) -> str:
    return in_plan(stage, f'hostname = "${{{VARIABLE}}}"\n')


def in_failure(stage: Stage) -> str:
    """A command says the secret and fails."""
    text = stage.config(service("app", ["/bin/true"]), mounts='[container.secrets]\nword = { command = ["/bin/sh", "-c", "echo $PYINIT_ATTACK_WORD; exit 3"] }\n')
    box = stage.start(text, environment={VARIABLE: payload.WORD})
    code = box.wait()
    return f"exit {code}, {'with the word' if payload.WORD in box.output else 'without the word'}"


def by_service(stage: Stage, attack, more: str = "") -> str:
    box = start(stage, service("app", words(attack, "attack"), more))
    box.wait_for("app: done")
    box.stop()
    return answers(box.output)["attack"]


def off(name: str, *mutants: Mutant) -> tuple[Defence, ...]:
    return (Defence(name, mutants=mutants),)


BORN_CLEAN = Mutant("launch/clone.py", '    environment = {"PYTHONHOME": home, **_ENVIRONMENT}\n', '    environment = {**os.environ, "PYTHONHOME": home, **_ENVIRONMENT}\n')
NAMES = Defence("a plan has names for values", mutants=(Mutant("cli/plan.py", "    return re.sub(pattern, lambda found: names[found[0]], line)\n", "    return line\n"),))
ROWS = (
    Row(
        "secret-init", "secrets", "a secret is looked for in the environment and command line of PID 1, in all files of pyinit's, in what its verbs say",
        off("PID 1 is born with none of the host's variables", BORN_CLEAN), NOWHERE, "environ of PID 1", outside=searched,
    ),
    Row(
        "secret-monitor", "secrets", "the same, in the environment of the monitor",
        off("a variable that was a secret is blotted out", Mutant("launch/outside.py", "            process.hide_variable(source.text)\n", "")),
        NOWHERE, "environ of the monitor", outside=searched,
    ),
    Row(
        "secret-words", "secrets", "the same, in the command lines of all processes in there and of the monitor",
        off("no command line has a content", Mutant("launch/clone.py", 'f"/proc/self/fd/{bundle}"]\n', f'f"/proc/self/fd/{{bundle}}", os.environ["{VARIABLE}"]]\n')),
        NOWHERE, "cmdline of a process in there, cmdline of PID 1", outside=searched,
    ),
    Row(
        "secret-options", "secrets", "the same, in the mounts of all processes in there and of the monitor",
        off(
            "a content is written to a file, and no option of a mount",
            Mutant("launch/declared.py", '"size": str(_SECRET_BYTES), "noswap": None}', f'"size": str(_SECRET_BYTES), "noswap": None, "source": os.environ["{VARIABLE}"]}}'),
        ),
        NOWHERE, "mountinfo of a process in there, mountinfo of PID 1", outside=searched,
    ),
    Row(
        "secret-service", "the host's environment", "the same, in the environment of services",
        off(
            "PID 1 is born with none of the host's variables, and hands none on", BORN_CLEAN, Mutant("launch/inside.py", "    os.environ.clear()\n", ""),
            Mutant("launch/inside.py", 'container="pyinit", control_path=', 'container="pyinit", inherited={name: value for name, value in os.environ.items() if name[:6] != "PYTHON"}, control_path='),
        ),
        NOWHERE, f"{VARIABLE} of a service, environ of a process in there, environ of PID 1", outside=searched,
    ),
    Row(
        "secret-plan", "secrets", "`pyinit plan` of a config with a secret is read",
        (*off("a plan reads no secret", Mutant("launch/onhost.py", '"env": f"the variable {self.content.text}"}', '"env": __import__("os").environ.get(self.content.text)}')), NAMES),
        "its name", "shown", outside=in_plan, alone=("its name", "its name"),
    ),
    Row(
        "secret-expansion", "secrets", "`pyinit plan` of a config that has one by `${}` is read",
        (NAMES,),
        "its name", "shown", outside=in_plan_by_expansion,
    ),
    Row(
        "secret-failure", "secrets", "the command that says a secret fails, which is told",
        off("what it says goes nowhere but into the secret", Mutant("launch/outside.py", "stdout_fd=memory, cancel_fd=stops", "stdout_fd=2, cancel_fd=stops")),
        "exit 111, without the word", "exit 111, with the word", outside=in_failure,
    ),
    Row(
        "secret-swap", "secrets", "the host's swap space",
        off("memory that is never swapped", Mutant("launch/declared.py", '"size": str(_SECRET_BYTES), "noswap": None}', '"size": str(_SECRET_BYTES)}')),
        "never swapped", "swapped when memory is short", outside=lambda stage: by_service(stage, payload.swappable),
    ),
    Row(
        "secret-user", "secrets", "a service's user reads what is root's",
        off("a secret's mode is 0400", Mutant("config/mounts.py", "_file(inner, name, 0o400, _CONTENTS[1:])", "_file(inner, name, 0o444, _CONTENTS[1:])")),
        "EACCES", "opened", outside=lambda stage: by_service(stage, payload.read, 'user = "app"'),
    ),
    Row(
        "secret-replaced", "secrets", "a root service changes one",
        off("/run/secrets is read-only", Mutant("launch/plan.py", 'Mount("tmpfs", SECRETS, read_only=True, ', 'Mount("tmpfs", SECRETS, read_only=False, ')),
        "EROFS", "opened", outside=lambda stage: by_service(stage, payload.replace),
    ),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_attack(arena, row):
    assert arena.perform(row) == expected(row)
