"""Five hundred services of all kinds at once: they start in order, run, and stop."""

import json

from conftest import Pyinit, verb, wait_until

COUNT = 500


def config(log_dir: str) -> str:
    """Chains of ten: a oneshot, services that need each other, a task, one that comes back, one that never was."""
    text = f'[init]\nlog_dir = "{log_dir}"\nstop_timeout = "20s"\n'
    for number in range(COUNT):
        block, place = divmod(number, 10)
        name, before = f"s{number}", f"s{number - 1}"
        text += f"[services.{name}]\n"
        if place == 0:
            text += f'kind = "oneshot"\ncommand = ["true"]\nwants = ["s{max(0, number - 10)}"]\n' if block else 'kind = "oneshot"\ncommand = ["true"]\n'
        elif place == 7:
            text += 'interval = "200ms"\ncommand = ["true"]\nlog = { to = "null" }\n'
        elif place == 8:
            text += f'command = ["sleep", "0.3"]\nrequires = ["{before}"]\nrestart_delay = {{ first = "200ms", initial = "200ms" }}\n'
        elif place == 9:
            text += 'command = ["sleep", "1000"]\ncondition = { path_exists = "/not/there" }\n'
        else:
            hooks = 'pre_start = ["true"]\nfinish = ["true"]\n' if place == 3 else ""
            text += f'command = ["sleep", "1000"]\nrequires = ["{before}"]\numask = "0077"\n{hooks}'
    return text


def test_five_hundred_services_start_run_and_stop(bench, tmp_path):
    box = bench.start(config(f"{tmp_path}/log").replace("[init]\n", f'[init]\ncontrol_socket = "{tmp_path}/s"\n'))
    box.wait_for("s496: ready", timeout_s=60)
    wait_until(lambda: states(tmp_path)["done"] >= 2 * COUNT // 10, "oneshots and the skipped ones", 30)
    counts = states(tmp_path)
    assert counts["ready"] >= 6 * COUNT // 10
    assert counts["done"] == 2 * COUNT // 10  # the oneshots, and those whose condition is not met
    assert sum(counts.values()) == COUNT
    assert set(counts) <= {"ready", "done", "waiting", "starting", "running", "cleaning", "backoff"}
    wait_until(lambda: restarts(tmp_path) >= COUNT // 10, "each that ends came back", 30)
    assert box.stop() == 0
    assert "internal error" not in box.output
    for chain in range(0, COUNT, 10):  # the order of one chain's stop, backwards
        order = [box.output.index(f"s{chain + place}: stopped") for place in (6, 5, 4, 3, 2, 1)]
        assert order == sorted(order)


def services(tmp_path) -> list[dict]:
    return json.loads(verb("status", "--socket", f"{tmp_path}/s", "--json").stdout)["services"]


def states(tmp_path) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in services(tmp_path):
        found[one["state"]] = found.get(one["state"], 0) + 1
    return found


def restarts(tmp_path) -> int:
    return sum(one["restarts"] > 0 for one in services(tmp_path))


def test_what_ends_as_soon_as_it_runs_has_run(tmp_path):
    """Its exit may be there before we have looked at its exec: that has happened first all the same."""
    names = [f"s{number}" for number in range(300)]
    services = "".join(f'[services.{name}]\ncommand = ["/bin/true"]\nrestart = "never"\nlog = {{ to = "null" }}\n' for name in names)
    path = tmp_path / "services.toml"
    path.write_text(f'[init]\nexit = "when-all-exited"\nstate_dir = "{tmp_path}/state"\ncontrol_socket = "{tmp_path}/s"\n{services}')
    box = Pyinit(path)
    code = box.wait()
    box.close()
    assert code == 0
    assert [name for name in names if f"pyinit: {name}: ready\n" not in box.output] == []
