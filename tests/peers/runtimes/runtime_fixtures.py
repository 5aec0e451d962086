"""One small root for all. A plugin of these tests, not a conftest.py: there is one, of tests/system, and modules import it by its name."""

import os

import pytest
import smallbox
import smallroot


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Python, what the program needs of its library, a shell, the program."""
    return smallroot.lay(open_to_all(tmp_path_factory.mktemp("small")) / "root")


def open_to_all(folder):
    """Any user runs it."""
    for place in (folder, *folder.parents):
        if place.stat().st_uid == os.geteuid() and str(place).startswith("/tmp/"):
            place.chmod(0o755)
    return folder


@pytest.fixture
def box():
    """`box(root, words, ...)`: a smallbox.Box."""
    made = []

    def start(root, words, mounts=("run", "proc", "dev"), **keys):
        made.append(smallbox.Box(root, words, mounts, **keys))
        return made[-1]

    yield start
    for one in made:
        one.close()


def pytest_collection_modifyitems(items):
    for item in items:
        if "runtimes" in item.path.parts and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="containers need root: run tests/run as root"))
