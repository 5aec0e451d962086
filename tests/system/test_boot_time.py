"""Boot to `true` and down again beside runc, in turns, so that what else the machine does meets both."""

import json
import os
import shutil
import statistics
import subprocess
import time

import pytest
from conftest import REPO, make_busybox

from pyinit import kept

pytestmark = pytest.mark.usefixtures("nothing_left")
ROUNDS = 21
MOST_OF_RUNC = 2.0  # times its time; 1.0 is meant
TEXT = """\
[init]
exit = "when-main-exits"
main = "app"
[container]
name = "pyinit-test"
layers = ["{image}"]
[services.app]
command = ["{command}"]
restart = "never"
log = {{ to = "null" }}
"""


@pytest.fixture
def bundle(tmp_path):
    """What runc runs: the same tree, all its namespaces, a read-only root."""
    folder = tmp_path / "runc"
    folder.mkdir()
    make_busybox(folder / "rootfs")
    subprocess.run(["runc", "spec"], cwd=folder, check=True)
    spec = json.loads((folder / "config.json").read_text())
    spec["process"] |= {"terminal": False, "args": ["/bin/true"]}
    (folder / "config.json").write_text(json.dumps(spec))
    return folder


def seconds(*words: str, cwd) -> float:
    began = time.perf_counter()
    done = subprocess.run(words, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began


def test_boot_to_true_and_down_again_beside_runc(bench, busybox, bundle, capsys):
    holder = bench.start(TEXT.format(image=busybox, command="/bin/yes").replace("pyinit-test", "pyinit-holder"), name="holder.toml")
    holder.wait_for("app: ready")  # from here on the image is mounted
    path = bench.write(TEXT.format(image=busybox, command="/bin/true"))
    ours, theirs = [], []
    script = str(REPO / "pyinit/cli/pyinit")
    seconds(script, "--config", str(path), cwd="/")  # the config is kept from here on
    for number in range(ROUNDS):
        ours.append(seconds(script, "--config", str(path), cwd="/"))
        theirs.append(seconds("runc", "run", f"pyinit-test-{os.getpid()}-{number}", cwd=bundle))
    assert holder.stop() == 0
    own, other = statistics.median(ours), statistics.median(theirs)
    with capsys.disabled():
        print(f"\nboot to true and down: pyinit {own * 1000:.1f} ms, runc {other * 1000:.1f} ms, {own / other:.2f} of runc's")
    assert own <= MOST_OF_RUNC * other


def test_a_start_that_finds_nothing_that_was_kept_takes_longer_and_no_more(bench, busybox, tmp_path):
    """Nor can it keep anything: there is no place for bytecode, and the folder is not root's alone."""
    path = bench.write(TEXT.format(image=busybox, command="/bin/true"))
    package = shutil.copytree(REPO / "pyinit", tmp_path / "pyinit", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__pycache__").touch()
    seconds(str(REPO / "pyinit/cli/pyinit"), "--config", str(path), cwd="/")
    os.chmod(kept.FOLDER, 0o770)
    try:
        before = sorted(os.listdir(kept.FOLDER))
        seconds(str(package / "cli/pyinit"), "--config", str(path), cwd="/")
        assert sorted(os.listdir(kept.FOLDER)) == before
    finally:
        os.chmod(kept.FOLDER, 0o700)
