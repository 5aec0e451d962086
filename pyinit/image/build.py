"""Building the images of a build file: what has changed is made anew, whole or not at all.

Owns the order of a build, the stamps and the names beside an image. Must not know TOML or terminals.
Laws: an image appears under its name only when it is complete; a build that fails or is interrupted leaves what was
there before and nothing else; one build at a time in an output folder; the same inputs give the same bytes.
Beside NAME stand NAME.stamp (what it was made of) and, while it is made, NAME.new and .NAME.tree/.
"""

import fcntl
import hashlib
import json
import os
from _collections_abc import Callable, Iterator
from contextlib import contextmanager

from pyinit.image import pyz, tools, tree
from pyinit.image.sources import Sources, read_sources
from pyinit.image.spec import BuildError, BuildFile, Image
from pyinit.records import NamedTuple

_RECIPE = 1  # goes up when this code makes other bytes of the same inputs
_LOCK = ".build.lock"
_APT_OPTIONS = ('APT::Install-Recommends "0"', 'Acquire::Languages "none"')


class Built(NamedTuple):
    """One image as it now stands: `sha256` in hex, and whether this build made it."""

    path: str
    sha256: str
    size_bytes: int
    fresh: bool


Report = Callable[[str, str], None]  # (image, step)


def build(asked: BuildFile, *, force: bool, report: Report) -> list[Built]:
    """Make the images that are missing or whose inputs have changed (all, if `force`); BuildError if one can't be."""
    os.makedirs(asked.output, exist_ok=True)
    with _lock(asked.output) as lock_fd:
        return [_Build(image, asked, lock_fd, report).run(force=force) for image in asked.images]


@contextmanager
def _lock(folder: str) -> Iterator[int]:
    fd = os.open(f"{folder}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(f"{folder}: another build is at work there, or a program that it left: wait for its end") from None
        yield fd
    finally:
        os.close(fd)


class _Build:
    """One image: its places, and the steps to it."""

    def __init__(self, image: Image, asked: BuildFile, lock_fd: int, report: Report) -> None:
        self.image = image
        self.epoch = asked.epoch
        self.lock_fd = lock_fd
        self.report = report
        self.path = f"{asked.output}/{image.name}"
        self.new = self.path + ".new"
        self.stamp = self.path + ".stamp"
        self.tree = f"{asked.output}/.{image.name}.tree"

    def run(self, *, force: bool) -> Built:
        sources = read_sources(self.image.suite) if self.image.packages else None
        inputs = self._inputs(sources)
        standing = self._standing(inputs)
        if standing is not None and not force:
            self._step("unchanged")
            return standing
        try:
            self._clean()  # what a killed build left
            os.mkdir(self.tree)
            root = f"{self.tree}/root"
            os.mkdir(root)
            os.chmod(root, 0o755)
            self._fill(root, sources)
            if self.image.init:
                self._add_init(root)
            self._squash(root)
            built = self._publish(inputs)
        finally:
            self._clean()
        self._step(f"done, {built.size_bytes / 1e6:.1f} MB")
        return built

    def _fill(self, root: str, sources: Sources | None) -> None:
        if self.image.directory:
            self._step(f"copying {self.image.directory}")
            tree.lay(self.image.directory, root, self.epoch)
            return
        if sources is not None:
            self._install(root, sources)
            tree.settle(root, self.epoch)
        if self.image.skeleton:
            self._step(f"laying {self.image.skeleton} over it")
            tree.lay(self.image.skeleton, root, self.epoch)

    def _add_init(self, root: str) -> None:
        """Laid over the rest, as a skeleton is."""
        self._step(f"adding pyinit as {self.image.init}")
        folder = f"{self.tree}/init"
        path = f"{folder}{self.image.init}"
        os.makedirs(os.path.dirname(path))
        pyz.write(path, self.epoch)
        try:
            tree.lay(folder, root, self.epoch)
        except BuildError as error:
            raise BuildError(f"{self.image.origin}: init: {str(error).partition(': ')[2]}") from error

    def _install(self, root: str, sources: Sources) -> None:
        if os.geteuid() != 0:
            raise BuildError(f"{self.image.origin}: packages are installed by root only: run this build as root")
        self._step(f"installing {len(self.image.packages)} packages and what they need")
        os.chmod(self.tree, 0o755)  # apt's own user downloads into it
        mirrors = []
        for name, text in (("one-line.list", sources.one_line), ("deb822.sources", sources.deb822)):
            if text:
                mirrors.append(f"{self.tree}/{name}")
                with open(mirrors[-1], "x", encoding="utf-8") as file:
                    file.write(text)
        options = [f"--aptopt={option}" for option in _APT_OPTIONS]
        argv = ["mmdebstrap", "--variant=essential", "--mode=root", "--format=directory",
                f"--include={','.join(sorted(self.image.packages))}", *options,
                "--dpkgopt=force-unsafe-io", self.image.suite, root, *mirrors]  # fmt: skip
        self._tool(argv)

    def _squash(self, root: str) -> None:
        self._step(f"packing with {self.image.compression}")
        argv = ["mksquashfs", root, self.new, "-noappend", "-no-progress", "-comp", self.image.compression]
        if self.image.level:
            argv += ["-Xcompression-level", str(self.image.level)]
        if not self.image.packages:
            argv += ["-all-root", "-no-xattrs"]
        if self.image.exclude:
            argv += ["-wildcards", "-e", *self.image.exclude]  # last: all that follows -e is a pattern
        self._tool(argv)

    def _tool(self, argv: list[str]) -> None:
        try:
            tools.run(argv, epoch=self.epoch, lock_fd=self.lock_fd, on_line=self._line)
        except BuildError as error:
            raise BuildError(f"{self.image.origin}: {self.image.name}: {error}") from error

    def _line(self, line: str) -> None:
        # mmdebstrap's steps; it also tells of the signals between its processes
        if line.startswith("I: ") and line.endswith("...") and "received signal" not in line:
            self._step(line[3:-3])

    def _step(self, step: str) -> None:
        self.report(self.image.name, step)

    def _publish(self, inputs: str) -> Built:
        """The stamp goes first and comes last: whatever ends us between, no stamp tells of another image."""
        with open(self.new, "rb") as file:
            total = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
            os.fsync(file.fileno())
        if os.path.exists(self.stamp):
            os.unlink(self.stamp)
        os.rename(self.new, self.path)
        with open(self.stamp + ".new", "w", encoding="ascii") as stamp:
            json.dump({"inputs": inputs, "sha256": total, "size": size}, stamp)
            stamp.write("\n")
        os.rename(self.stamp + ".new", self.stamp)
        return Built(self.path, total, size, fresh=True)

    def _standing(self, inputs: str) -> Built | None:
        """The image of an earlier build, if its inputs were these and its file is as it was left."""
        try:
            with open(self.stamp, encoding="ascii") as file:
                stamp = json.load(file)
            size = os.stat(self.path).st_size
            same = stamp["inputs"] == inputs and stamp["size"] == size
            return Built(self.path, str(stamp["sha256"]), size, fresh=False) if same else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _inputs(self, sources: Sources | None) -> str:
        """A hash of all that the image's bytes depend on, but for what the mirror has: `force` asks that anew."""
        image = self.image
        facts = {
            "recipe": _RECIPE, "epoch": self.epoch, "suite": image.suite, "packages": sorted(image.packages),
            "exclude": image.exclude, "compression": image.compression, "level": image.level,
            "sources": sources, "volatile": tree.VOLATILE + tree.EMPTIED,
            "skeleton": tree.digest(image.skeleton) if image.skeleton else "",
            "directory": tree.digest(image.directory) if image.directory else "",
            "init": [image.init, pyz.digest()] if image.init else "",
            "mksquashfs": tools.version("mksquashfs", "-version"),
            "mmdebstrap": tools.version("mmdebstrap", "--version") if image.packages else "",
        }  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _clean(self) -> None:
        tree.remove(self.tree)
        for path in (self.new, self.stamp + ".new"):
            if os.path.lexists(path):
                os.unlink(path)
