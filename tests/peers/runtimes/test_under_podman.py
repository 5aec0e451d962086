"""What podman asks of a container beside its life: whether it is healthy, by a verb of ours inside."""

import subprocess

import pytest
import runtimes

pytest_plugins = ["runtime_fixtures"]


@pytest.fixture
def podman(small, tmp_path):
    found = runtimes.Podman(small, tmp_path)
    yield found
    found.clean()


@pytest.mark.parametrize(("config", "code"), [("one", 0), ("sick", 1)])
def test_podman_healthcheck_asks_pyinit(podman, config, code):
    podman.options = ("--health-cmd", "/usr/bin/pyinit wait --timeout 1s base", "--health-interval", "disable")
    running = podman.start(config)
    try:
        running.wait_for("base up")
        words = [*podman.podman(), "healthcheck", "run", podman.container]
        done = subprocess.run(words, env=podman.environment(), capture_output=True, text=True, check=False, timeout=runtimes.DEADLINE_S)
        assert done.returncode == code, (done.stdout, done.stderr)
        podman.stop(running)
        assert running.wait() == 0
    finally:
        running.close()
