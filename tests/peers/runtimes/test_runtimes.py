"""pyinit as the init of each runtime that people have: every row of runtimes_cells.py, looked at in a few starts of each.

A runtime lives once a session: what it was started for is asked of the record of that life, one named test a question.
What was seen goes into pytest's cache, from which runtimes_table.py makes the documents.
"""

import json
import os
import re
import time

import pytest
import runtimes
import runtimes_cells as expected
import runtimes_table as table

pytest_plugins = ["runtime_fixtures"]
NAMES = [one.name for one in runtimes.ALL]
SIGNALS = {"INT": 2, "PWR": 30, "RTMIN+3": 37, "RTMIN+4": 38, "RTMIN+5": 39}
ALL_SAID = ("base up", "top up", "REAPED", "FOUND", "finder up", "loops: failed", "ask: done")


class Life:
    """What one runtime did: `output` and `code` of the long start, `told` to whoever listens, codes of the others."""

    def __init__(self, runtime: runtimes.Runtime) -> None:
        self.runtime = runtime
        self.is_one_command = runtime.name == "podman-init"
        self._live()
        self.leaves = self._until_end("leaves")
        self.signals = {} if self.is_one_command else {name: self._by_signal(number) for name, number in SIGNALS.items()}

    def _live(self) -> None:
        with runtimes.Up(self.runtime.folder / "up") as up:
            running = self.runtime.start("services", notify=str(self.runtime.folder / "up") if self.runtime.listens else "")
            running.up = up
            try:
                running.wait_for(*(("FOUND", "REAPED", "base up") if self.is_one_command else ALL_SAID))
                began = time.monotonic()
                self.runtime.stop(running)
                self.code = running.wait()
                self.stop_s = time.monotonic() - began
            finally:
                up.collect()
                self.told, self.output = up.told, running.output
                running.close()

    def _until_end(self, config: str) -> int:
        running = self.runtime.start(config)
        try:
            return running.wait()
        finally:
            running.close()

    def _by_signal(self, number: int) -> str:
        """The runtime's code, whether the service was asked to end, whether the runtime has started it again."""
        running = self.runtime.start("one")
        try:
            running.wait_for("base up")
            os.kill(self.runtime.init(running), number)
            again = not running.ends_before("base up", 2)
            if again:
                self.runtime.stop(running)
            code = running.wait()
            return f"{'starts again' if again else code}{'' if 'base ends' in running.output else ' out of order'}"
        finally:
            running.close()

    def found(self) -> dict:
        [line] = [line for line in self.output.splitlines() if "FOUND {" in line]
        return json.loads(line.partition("FOUND ")[2])


@pytest.fixture(scope="session")
def lives(small, tmp_path_factory):
    """`lives(name)`: lived at the first question."""
    lived: dict[str, Life | Exception] = {}
    made: list[runtimes.Runtime] = []

    def of(name: str) -> Life:
        if name not in lived:
            [kind] = [one for one in runtimes.ALL if one.name == name]
            made.append(kind(small, tmp_path_factory.mktemp(name)))
            try:
                lived[name] = Life(made[-1])
            except Exception as error:  # noqa: BLE001 - every question of it fails by it, and it is not tried again
                lived[name] = error
        if isinstance(found := lived[name], Exception):
            raise found
        return found

    yield of
    for one in made:
        one.clean()


def number(life: Life) -> str:
    """The init's own, where its services see it as their parent."""
    pid = life.found()["ppid"]
    return {1: "1", 2: "2, a subreaper"}.get(pid, "any, a subreaper")


def init_name(life: Life) -> str:
    """Of PID 1."""
    return "the host's" if life.runtime.pid == 0 else life.found()["init"].get("name", "?")


def given(life: Life) -> str:
    """What a service finds: its number, user, capabilities, limits, descriptors, signals."""
    found = life.found()
    process = found["process"]
    parts = [
        f"pid 1 is {init_name(life)}",
        f"{'a' if found['leads_session'] else 'no'} session of its own",
        f"fds {' '.join(sorted(found['fds']))}",
        f"capabilities {expected.capabilities(process['CapEff'])}",
        f"inheritable {expected.capabilities(process['CapInh'])}, ambient {expected.capabilities(process['CapAmb'])}",
        f"no_new_privs {process['NoNewPrivs']}, seccomp {process['Seccomp']}",
        f"blocked {expected.signals(process['SigBlk'])}, ignored {expected.signals(process['SigIgn'])}",
        f"/ {'ro' if ' ro' in found['mounts']['/'] else 'rw'}",
    ]
    return "; ".join(parts)


def mounts(life: Life) -> str:
    """What is mounted where every init looks, and how it is held."""
    found = life.found()["mounts"]
    return "; ".join(f"{place} {found.get(place, 'not mounted')}" for place in ("/proc", "/run", "/dev", "/sys"))


def group(life: Life) -> str:
    """Whether there was a cgroup to make a service's own in."""
    own = any(line.endswith("/svc-find") for line in life.found()["cgroup"])
    return "its own" if own else "its container's"


def environment(life: Life) -> str:
    """Names of what a service inherits of the runtime's."""
    return " ".join(sorted(set(life.found()["environment"]) - expected.OURS)) or "nothing"


def services(life: Life) -> str:
    if life.is_one_command:
        return "base" if "base up" in life.output else "none"
    lines = life.output.splitlines()
    ups = [line.rpartition(": ")[2] for line in lines if line.endswith((" up",)) and not line.endswith(("finder up", "main up"))]
    return ", ".join(one.removesuffix(" up") for one in ups)


def crash_loop(life: Life) -> str:
    starts, failed = life.output.count("loops: main up"), "pyinit: loops: failed" in life.output
    return f"{'failed' if failed else 'goes on'} after {starts} starts"


def orphans(life: Life) -> str:
    return re.search(r"REAPED (\d+)", life.output)[1] + " of 20"


def status(life: Life) -> str:
    text = "\n".join(line.rpartition("ask: ")[2] for line in life.output.splitlines() if line.startswith("ask: "))
    states = {one["name"]: one["state"] for one in json.loads(text)["services"]}
    return f"base {states['base']}, top {states['top']}"


def stop(life: Life) -> str:
    ends = re.findall(r"(\w+) ends$", life.output, re.MULTILINE)
    order = f"all at once: {', '.join(sorted(ends))}" if life.runtime.is_for_all else ", ".join(ends)
    return f"{life.runtime.stop_words}: {order}; {life.code}; {'in time' if life.stop_s < expected.GRACE_S else 'late'}"


def exit_code(life: Life) -> str:
    return str(life.leaves)


def ready(life: Life) -> str:
    return " ".join(line for line in life.told if line == "READY=1" or line.startswith("EXIT_STATUS=")) or "nothing"


def by_signals(life: Life) -> str:
    return ", ".join(f"{name} {what}" for name, what in life.signals.items())


QUESTIONS = {
    "PID": number, "given": given, "environment": environment, "mounts": mounts, "cgroup": group, "services": services, "crash loop": crash_loop, "orphans": orphans, "status": status, "stop": stop,
    "exit code": exit_code, "READY": ready, "signals": by_signals,
}  # fmt: skip
PAIRS = [(name, question) for name in NAMES for question in QUESTIONS if question in expected.CELLS.get(name, {})]


@pytest.mark.parametrize(("name", "question"), PAIRS, ids=[f"{name}-{question}".replace(" ", "-") for name, question in PAIRS])
def test_under_a_runtime(lives, request, name, question):
    seen = QUESTIONS[question](lives(name))
    results = request.config.cache.get(table.CACHE, {})
    results[f"{name}: {question}"] = seen
    request.config.cache.set(table.CACHE, results)
    assert seen == expected.CELLS[name][question]


def test_every_question_is_asked_of_every_runtime_but_where_there_is_nothing_to_ask():
    missing = {(name, question) for name in NAMES for question in QUESTIONS if question not in expected.CELLS[name]}
    assert missing == expected.NOT_ASKED
