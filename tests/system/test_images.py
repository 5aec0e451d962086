"""Images: one superblock for all containers of a file, never another file's, nothing left by whom it was killed."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import random
import select
import signal
import subprocess

import pytest
from conftest import erofs, make_busybox, squash, wait_until
from test_container import config, said

from pyinit.launch import imaging
from pyinit.linux import loop, mount, namespaces

pytestmark = pytest.mark.usefixtures("nothing_left")

COUNT = 50
DATA_BYTES = 8 << 20


def loops_of(image: pathlib.Path) -> list[str]:
    """Loop devices whose file is this one."""
    found = []
    for path in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if path.read_text().strip() == str(image):
                found.append(path.parts[3])
    return found


def named(text: str, number: int) -> str:
    return text.replace('"pyinit-test"', f'"pyinit-test-{number}"')


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> pathlib.Path:
    """An image with a few MB in files of some size, which nobody has read yet."""
    folder = make_busybox(tmp_path_factory.mktemp("library") / "tree")
    for number in range(8):
        (folder / f"book-{number}").write_bytes(random.Random(number).randbytes(DATA_BYTES // 8))
    return squash(folder, folder.parent / "library.squashfs")


def charged_bytes(number: int) -> int:
    """File data that one container brought into memory, as its memory group has counted it."""
    for path in pathlib.Path("/sys/fs/cgroup").glob(f"**/pyinit-pyinit-test-{number}/memory.stat"):
        rows = {key: int(value) for key, value in (line.split() for line in path.read_text().splitlines())}
        return rows["total_cache"] - rows["total_shmem"] if "total_cache" in rows else rows["file"] - rows["shmem"]
    raise AssertionError("no memory group")


def test_fifty_containers_of_one_image_hold_its_files_once(bench, library):
    """Started in parallel; each reads all files. Counted by their memory groups: what the machine has in memory changes by others, too."""
    text = config(library, "cat /bin/busybox /book-* | wc -c; while :; do sleep 1; done", "[container.cgroup]\nmemory_max = \"256M\"")
    whole = DATA_BYTES + (library.parent / "tree/bin/busybox").stat().st_size
    first = bench.start(named(text, 0), name="0.toml")
    first.wait_for(f"app: {whole}\n")
    one = charged_bytes(0)
    assert one >= whole
    boxes = [bench.start(named(text, number), name=f"{number}.toml") for number in range(1, COUNT)]
    for box in boxes:
        box.wait_for(f"app: {whole}\n", timeout_s=60)
    assert len(loops_of(library)) == 1
    everything = sum(charged_bytes(number) for number in range(COUNT))
    assert everything <= 1.1 * one, f"{everything} bytes in memory for {COUNT} containers, {one} for one"
    first.process.kill()
    first.wait()
    for box in boxes[:10]:
        box.process.kill()
    for box in boxes[10:]:
        box.process.send_signal(signal.SIGTERM)
    assert [box.wait(60) for box in boxes[10:]] == [0] * (COUNT - 11)
    wait_until(lambda: not loops_of(library), "the device clears itself")
    for number in range(11):  # what a killed monitor left is undone by the next start
        again = bench.start(named(config(library, "true"), number), name=f"{number}.toml")
        assert (again.wait(), again.output.count("error")) == (0, 0)


def test_a_nested_image_is_shared_too(bench, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "word").write_text("nested\n")
    tree = make_busybox(tmp_path / "tree")
    squash(inner, tree / "inner.squashfs")
    outer = squash(tree, tmp_path / "outer.squashfs")
    more = '[[container.mounts]]\ntype = "squashfs"\nsource = "image:/inner.squashfs"\ntarget = "/inner"\n'
    text = config(outer, "cat /inner/word; while :; do sleep 1; done", more)
    before = loop_count()
    boxes = [bench.start(named(text, number), name=f"{number}.toml") for number in range(3)]
    for box in boxes:
        box.wait_for("app: nested\n")
    assert loop_count() == before + 2
    assert [box.stop() for box in boxes] == [0, 0, 0]


def test_an_image_that_is_written_over_is_not_taken_for_the_old_one(bench, tmp_path):
    """In place, so that the file, its inode and its size stay: who runs keeps the old superblock, the next gets the new."""
    text = 'cat /word; while :; do sleep 1; done'
    images = []
    for word in ("before", "after."):
        tree = make_busybox(tmp_path / word)
        (tree / "word").write_text(word + "\n")
        images.append(squash(tree, tmp_path / f"{word}.squashfs").read_bytes())
    image = tmp_path / "image.squashfs"
    size = max(len(one) for one in images)
    image.write_bytes(images[0].ljust(size, b"\0"))
    old = bench.start(named(config(image, text), 0), name="0.toml")
    old.wait_for("app: before\n")
    with image.open("r+b") as file:
        file.write(images[1].ljust(size, b"\0"))
    new = bench.start(named(config(image, text), 1), name="1.toml")
    new.wait_for("app: after.\n")
    assert len(loops_of(image)) == 2
    assert [old.stop(), new.stop()] == [0, 0]


def test_who_locks_the_image_for_ever_delays_a_start_and_no_more(bench, tmp_path):
    """Whoever may read a file may lock it."""
    image = squash(make_busybox(tmp_path / "tree"), tmp_path / "image.squashfs")
    with image.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        box = bench.start(config(image, "echo up"))
        assert box.wait() == 0
        assert said(box) == ["up"]


def child(action) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        action()
        code = 0
    except BaseException as error:  # noqa: BLE001 - the child's edge
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def word_of(image: pathlib.Path) -> bytes:
    """Mount it as a container does, read its word, let go."""
    with image.open("rb", buffering=0) as file:
        tree = imaging.image(file.fileno(), str(image))
    try:
        fd = os.open("word", os.O_RDONLY, dir_fd=tree)
        try:
            return os.read(fd, 100)
        finally:
            os.close(fd)
    finally:
        os.close(tree)


@pytest.fixture
def twins(tmp_path) -> list[pathlib.Path]:
    """Images of one size."""
    found = []
    for word in ("one", "two"):
        (tmp_path / word).mkdir()
        (tmp_path / word / "word").write_text(word)
        found.append(squash(tmp_path / word, tmp_path / f"{word}.squashfs"))
    assert found[0].stat().st_size == found[1].stat().st_size
    return found


def test_devices_that_clear_themselves_all_the_time_are_never_the_wrong_ones(twins):
    """Each lets go at once, so whoever searches meets devices in every state."""

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(150):
            image = choose.choice(twins)
            found = word_of(image)
            if found != image.stem.encode():
                raise AssertionError(f"{image} reads {found}")

    pids = [child(lambda seed=seed: work(seed)) for seed in range(6)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(pids)


def test_starts_that_are_killed_at_any_moment_leave_no_device(twins):
    choose = random.Random(4)

    def work() -> None:
        while True:
            word_of(twins[0])

    for _ in range(60):
        pids = [child(work) for _ in range(2)]
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: bool(loops_of(twins[0])), "work", 5)
        select.select([], [], [], choose.random() / 500)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    wait_until(lambda: not loops_of(twins[0]), "the device clears itself", 5)
    assert word_of(twins[0]) == b"one"


def test_a_device_of_somebody_elses_is_not_shared(twins):
    """losetup's has another life than ours: it may be taken away, or be written to."""
    fd = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    number = fcntl.ioctl(fd, loop.LOOP_CTL_GET_FREE)
    os.close(fd)
    subprocess.run(["losetup", f"/dev/loop{number}", twins[0]], check=True)
    try:
        with twins[0].open("rb", buffering=0) as file:
            fd, path = loop.attach(file.fileno(), str(twins[0]))
            os.close(fd)
        assert path != f"/dev/loop{number}"
    finally:
        subprocess.run(["losetup", "-d", f"/dev/loop{number}"], check=True)


EROFS_MOUNT = '[[container.mounts]]\ntype = "erofs"\nsource = "{}"\ntarget = "/app"\n'


@pytest.mark.parametrize("options", [(), ("-zlz4hc",)])
def test_an_erofs_is_a_root_and_a_mount_without_a_loop_device(bench, tmp_path, options):
    (tmp_path / "app").mkdir()
    (tmp_path / "app/word").write_text("app\n")
    base = erofs(make_busybox(tmp_path / "tree"), tmp_path / "base.erofs", *options)
    app = erofs(tmp_path / "app", tmp_path / "app.erofs", *options)
    before = loop_count()
    text = "cat /app/word; touch /app/x 2>&1; echo up; while :; do sleep 1; done"
    box = bench.start(config(base, text, EROFS_MOUNT.format(app)))
    box.wait_for("app: up\n")
    assert said(box) == ["app", "touch: /app/x: Read-only file system", "up"]
    assert loop_count() == before
    assert box.stop() == 0


def test_an_erofs_in_a_squashfs_needs_no_loop_device_of_its_own(bench, tmp_path):
    tree = make_busybox(tmp_path / "tree")
    (tmp_path / "app").mkdir()
    (tmp_path / "app/word").write_text("app\n")
    erofs(tmp_path / "app", tree / "app.erofs")
    before = loop_count()
    box = bench.start(config(squash(tree, tmp_path / "base.squashfs"), "cat /app/word; while :; do sleep 1; done", EROFS_MOUNT.format("image:/app.erofs")))
    box.wait_for("app: app\n")
    assert loop_count() == before + 1
    assert box.stop() == 0


def loop_count() -> int:
    return len(list(pathlib.Path("/sys/block").glob("loop*/loop/backing_file")))


def test_an_erofs_that_only_a_block_device_can_give_has_a_loop_device(tmp_path):
    """As a kernel before 6.12 asks for always, and any where the file lies on an overlay."""
    for name in ("tree", "low", "up", "work", "over"):
        (tmp_path / name).mkdir()
    (tmp_path / "tree/word").write_text("word")
    erofs(tmp_path / "tree", tmp_path / "low/word.erofs")

    def work() -> None:
        namespaces.unshare(namespaces.CLONE_FLAGS["mount"])
        mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
        options = f"lowerdir={tmp_path}/low,upperdir={tmp_path}/up,workdir={tmp_path}/work"
        mount.mount("overlay", f"{tmp_path}/over", "overlay", 0, options)
        assert word_of(tmp_path / "over/word.erofs") == b"word"

    assert os.waitpid(child(work), 0)[1] == 0


DAMAGED = "the image is damaged, or this kernel can't read {}: build or copy it again"


@pytest.mark.parametrize("name", ["gzip", "lzo", "xz", "lz4", "zstd"])
def test_an_image_of_another_compressor_than_it_says(bench, tmp_path, name):
    """The superblock names one, the rest was made by another."""
    image = tmp_path / "image.squashfs"
    other = "xz" if name != "xz" else "gzip"
    made = ["mksquashfs", make_busybox(tmp_path / "tree"), image, "-comp", other, "-quiet", "-no-progress"]
    subprocess.run(made, check=True, capture_output=True)
    good = image.read_bytes()
    number = ("gzip", "lzma", "lzo", "xz", "lz4", "zstd").index(name) + 1
    image.write_bytes(good[:20] + bytes([number]) + good[21:])
    box = bench.start(config(image, "true"))
    assert box.wait() == 111
    at = f"pyinit: {bench.folder}/services.toml:4: mount layer 0, {image}, read-only: mount squashfs {image}: "
    assert box.output.startswith(at)
    assert box.output.endswith("; " + DAMAGED.format(name) + "\n")
    assert box.output.count("\n") == 1


@pytest.mark.parametrize("make", [squash, erofs])
def test_a_fuzzed_image_is_an_error_in_words_or_a_mount_and_leaves_no_device(tmp_path, make):
    """Bits of the superblock and of the tables at the end, where the kernel looks first; cut images too."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/word").write_text("word")
    good = make(tmp_path / "tree", tmp_path / "good").read_bytes()
    first = 1024 if make is erofs else 0
    places = [*range(first, first + 96), *range(min(len(good), 4096) - 200 if make is erofs else good.index(b"word"), len(good))]
    image = tmp_path / "image"
    told = set()
    for seed in range(200):
        choose = random.Random(seed)
        content = bytearray(good)
        for _ in range(choose.choice((1, 3, 20))):
            content[choose.choice(places) % len(good)] ^= 1 << choose.randrange(8)
        image.write_bytes(content[: choose.choice((len(good), len(good), choose.randrange(len(good))))])
        try:
            word_of(image)
        except OSError as error:
            _, mark, rest = error.strerror.rpartition("; the image")  # before it stand the kernel's own words
            told.add((mark + rest).removeprefix("; ") if mark else "")
    assert loops_of(image) == []
    assert told - {""} <= {DAMAGED.format(name) for name in ("gzip", "lzma", "lzo", "xz", "lz4", "zstd")} | {"the image is damaged: build or copy it again"}
    assert told - {""}


@pytest.fixture
def no_digests_left():
    """What was remembered by tests; it is meant to stay."""
    cache = pathlib.Path("/run/pyinit/.digests")
    before = cache.read_bytes() if cache.exists() else None
    yield
    if before is None:
        cache.unlink(missing_ok=True)
    else:
        cache.write_bytes(before)


@pytest.mark.usefixtures("no_digests_left")
def test_a_pinned_image_is_the_one_that_is_meant(bench, busybox, tmp_path):
    image = tmp_path / "base.squashfs"
    image.write_bytes(busybox.read_bytes())
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    more = f'[[container.mounts]]\ntype = "squashfs"\nsource = "base.squashfs@sha256:{digest}"\ntarget = "/again"\n'
    box = bench.start(config(f"base.squashfs@sha256:{digest.upper()}", "ls /again/etc", more))
    assert box.wait() == 0
    assert said(box) == ["group", "passwd"]
    other = "0" + digest[1:] if digest[0] != "0" else "1" + digest[1:]
    box = bench.start(config(f"base.squashfs@sha256:{other}", "echo never"))
    assert box.wait() == 111
    assert box.output == (
        f"pyinit: {bench.folder}/services.toml:4: {image} is not the image that is pinned: expected sha256:{other}, "
        f"found sha256:{digest}; copy the right one, or pin the one that is there\n"
    )


def released(folder: pathlib.Path, name: str, text: str) -> pathlib.Path:
    place = folder / "usr/lib/extension-release.d"
    place.mkdir(parents=True)
    (place / f"extension-release.{name}").write_text(text)
    (folder / "word").write_text(f"{name}\n")
    return squash(folder, folder.with_suffix(".squashfs"))


@pytest.fixture
def bookworm(tmp_path) -> pathlib.Path:
    tree = make_busybox(tmp_path / "tree")
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "usr/lib/os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    (tree / "etc/os-release").symlink_to("../usr/lib/os-release")
    return squash(tree, tmp_path / "bookworm.squashfs")


def test_an_application_on_the_base_that_it_names(bench, bookworm, tmp_path):
    app = released(tmp_path / "app", "app", "ID=debian\nVERSION_ID=12\n")
    more = f'[[container.mounts]]\ntype = "squashfs"\nsource = "{app}"\ntarget = "/app"\n'
    box = bench.start(config(f'{bookworm}", "{app}', "cat /word /app/word", more))
    assert box.wait() == 0
    assert said(box) == ["app", "app"]


def test_an_application_on_another_base_is_refused_in_one_line(bench, bookworm, tmp_path):
    app = released(tmp_path / "app", "app", "ID=debian\nVERSION_ID=13\n")
    text = f"{app} needs VERSION_ID=13, and the base has VERSION_ID=12; build it for this base, or put it on the base that it is for\n"
    box = bench.start(config(f'{bookworm}", "{app}', "echo never"))
    assert box.wait() == 111
    assert box.output == f"pyinit: {bench.folder}/services.toml:4: {text}"
    more = f'[[container.mounts]]\ntype = "squashfs"\nsource = "{app}"\ntarget = "/app"\n'
    box = bench.start(config(bookworm, "echo never", more))
    assert box.wait() == 111
    assert box.output == f"pyinit: {bench.folder}/services.toml:5: {text}"


def test_a_release_that_is_a_fifo_or_leads_out_is_not_read(bench, bookworm, tmp_path):
    app = tmp_path / "app"
    place = app / "usr/lib/extension-release.d"
    place.mkdir(parents=True)
    os.mkfifo(place / "extension-release.app")
    image = squash(app, tmp_path / "app.squashfs")
    box = bench.start(config(f'{bookworm}", "{image}', "echo never"))
    assert box.wait() == 111
    assert "app.squashfs does not say what it needs: its extension-release has no ID; " in box.output
