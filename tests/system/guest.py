"""A virtual machine with nothing but cgroup v2: a Debian kernel under emulation, its root a squashfs with pyinit.

Kernels are fetched once and kept beside the other caches of the checkout.
"""

import fcntl
import os
import pathlib
import re
import select
import shutil
import subprocess
import time

from conftest import REPO, make_busybox, squash

CACHE = REPO / ".pytest_cache/guest"
CLOUD, GENERIC = "linux-image-cloud-amd64", "linux-image-amd64"  # the cloud one boots sooner, and has no 9p
MODULES = ("loop", "squashfs", "overlay")
MOST_SAID = 1 << 20  # bytes, while nobody reads the console
_STDLIB_LEFT_OUT = ("test", "idlelib", "lib2to3", "ensurepip", "distutils", "pydoc_data", "unittest", "turtledemo", "config-*", "asyncio", "xml", "multiprocessing", "tkinter")

# The initramfs: loads modules, makes the squashfs the root.
INIT = """#!/bin/busybox sh
export PATH=/bin
busybox mkdir -p /proc /sys /dev /new /bin
busybox mount -t proc none /proc; busybox mount -t sysfs none /sys; busybox mount -t devtmpfs none /dev
for m in $(busybox cat /modules); do busybox insmod /$m || echo no $m; done
busybox mount -o loop,ro -t squashfs /root.squashfs /new || echo NO ROOT
for d in proc sys dev; do busybox mount --move /$d /new/$d; done
exec busybox switch_root /new /guest
"""
# The root's init: what every test wants, then the test's own script, then the end.
GUEST = """#!/bin/sh
mount -t cgroup2 none /sys/fs/cgroup
for d in /run /tmp /root; do mount -t tmpfs none $d; done
ip link set lo up
echo GUEST READY
. /script
echo GUEST DONE
poweroff -f
"""


def kernel(package: str = CLOUD) -> pathlib.Path:
    """The folder of an unpacked kernel, the one that `package` depends on."""
    base = CACHE / package
    if any(base.glob("boot/vmlinuz-*")):
        return base
    shutil.rmtree(base, ignore_errors=True)
    (base / "deb").mkdir(parents=True)
    question = ["apt-cache", "depends", package]
    text = subprocess.run(question, capture_output=True, text=True, check=False).stdout
    if "Depends:" not in text:  # a machine that has never asked for the lists
        subprocess.run(["apt-get", "-qq", "update"], check=True, capture_output=True)
        text = subprocess.run(question, capture_output=True, text=True, check=True).stdout
    name = re.search(r"Depends: (linux-image-\S+)", text)[1]
    subprocess.run(["apt-get", "-qq", "download", name], cwd=base / "deb", check=True, capture_output=True)
    subprocess.run(["dpkg", "-x", next((base / "deb").glob("*.deb")), base / "new"], check=True)
    version = next((base / "new/lib/modules").iterdir()).name
    subprocess.run(["depmod", "-b", base / "new", version], check=True)
    for part in ("lib", "boot"):  # the kernel last: by it a whole one is known
        (base / "new" / part).rename(base / part)
    shutil.rmtree(base / "deb")
    return base


def module_files(base: pathlib.Path, modules: tuple[str, ...]) -> list[pathlib.Path]:
    """In the order in which they must be loaded."""
    version = next((base / "lib/modules").iterdir()).name
    found: list[pathlib.Path] = []
    for name in modules:
        text = subprocess.run(
            ["modprobe", "-d", base, "-S", version, "--show-depends", name], capture_output=True, text=True, check=True
        ).stdout
        for line in text.splitlines():
            words = line.split()
            if words[:1] == ["insmod"] and pathlib.Path(words[1]) not in found:
                found.append(pathlib.Path(words[1]))
    return found


def make_root(folder: pathlib.Path, script: str, files: dict[str, str], programs: tuple[str, ...] = ()) -> pathlib.Path:
    """busybox, the system's Python and its libraries, this checkout's pyinit, an image and a folder for containers.

    `programs`: more of the system's, such as they are.
    """
    root = make_busybox(folder / "root")
    for name in ("mkdir", "rmdir", "poweroff", "find", "sort", "uname", "dmesg", "tr"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "usr/bin").mkdir(parents=True)
    shutil.copy("/usr/bin/python3.11", root / "usr/bin/python3.11")
    shutil.copytree("/usr/lib/python3.11", root / "usr/lib/python3.11", ignore=shutil.ignore_patterns(*_STDLIB_LEFT_OUT), ignore_dangling_symlinks=True)
    for name in programs:
        shutil.copy(shutil.which(name), root / "usr/bin" / name)
    libraries = set()
    for path in [*(root / "usr/bin").iterdir(), *(root / "usr/lib/python3.11").rglob("*.so")]:
        text = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        libraries |= set(re.findall(r"(/\S+) \(", text))
    for library in libraries:
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    package = shutil.copytree(REPO / "pyinit", root / "opt/pyinit", ignore=shutil.ignore_patterns("__pycache__"))
    for path in package.rglob("*.py"):  # in whole seconds, as squashfs has them
        os.utime(path, (int(path.stat().st_mtime),) * 2)
    subprocess.run(["/usr/bin/python3.11", "-m", "compileall", "-q", package, root / "usr/lib/python3.11"], check=False)
    make = f"import sys; sys.path.insert(0, {str(package.parent)!r}); from pyinit import bundle; bundle.get({str(package)!r})"  # emulated it takes half a minute
    subprocess.run(["/usr/bin/python3.11", "-I", "-S", "-c", make], check=True)
    (root / "images").mkdir()
    squash(make_busybox(folder / "box"), root / "images/busybox.squashfs")
    shutil.copytree(folder / "box", root / "images/busybox", symlinks=True)
    (root / "guest").write_text(GUEST)
    (root / "guest").chmod(0o755)
    (root / "script").write_text(script)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return squash(root, folder / "root.squashfs", "-comp", "zstd", "-Xcompression-level", "1")  # which is read three times as fast, too


def make_initramfs(folder: pathlib.Path, root: pathlib.Path, base: pathlib.Path, modules: tuple[str, ...]) -> pathlib.Path:
    tree = folder / "initramfs"
    (tree / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    shutil.copy(root, tree / "root.squashfs")
    names = []
    for path in module_files(base, modules):
        shutil.copy(path, tree / path.name)
        names.append(path.name)
    (tree / "modules").write_text("\n".join(names) + "\n")
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    listed = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    image = folder / "initramfs.cpio"
    with image.open("wb") as file:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=listed.encode(), stdout=file, check=True)
    return image


class Guest:
    """A machine that boots; all that it prints is in `.console`, and its script reads what is sent to it."""

    def __init__(
        self, folder: pathlib.Path, script: str, files: dict[str, str], *,
        package: str = CLOUD, modules: tuple[str, ...] = (), options: tuple[str, ...] = (), inside: tuple[str, ...] = (),
        programs: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """`modules`: loaded besides MODULES; `options`: qemu's, more of them; `inside`: a program that runs qemu; `programs`: make_root's."""
        base = kernel(package)
        image = make_initramfs(folder, make_root(folder, script, files, programs), base, MODULES + modules)
        command = [
            *inside, "qemu-system-x86_64", "-M", "pc", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "768",
            "-kernel", str(next((base / "boot").glob("vmlinuz-*"))), "-initrd", str(image),
            "-append", "console=ttyS0 quiet panic=-1 cgroup_no_v1=all psi=1", "-display", "none", "-no-reboot", "-nodefaults", "-serial", "stdio",
            *options,
        ]  # fmt: skip
        self.console = ""
        self.booted = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        fcntl.fcntl(self.process.stdout, fcntl.F_SETPIPE_SZ, MOST_SAID)

    def wait_for(self, text: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.console:
            if not select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                break
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                break
            self.console += data.decode("utf-8", "replace").replace("\r", "")
        assert text in self.console, self.console[-4000:]

    def send(self, line: str) -> None:
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def result(self, timeout_s: float, *, since_boot: bool = False) -> str:
        """What the console said between GUEST READY and GUEST DONE."""
        self.wait_for("GUEST DONE", timeout_s - (time.monotonic() - self.booted if since_boot else 0.0))
        return self.console.partition("GUEST READY\n")[2].partition("GUEST DONE")[0]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
