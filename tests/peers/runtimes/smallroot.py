"""The smallest root that pyinit.pyz runs on: the files of a few Debian packages, copied from this machine, and the program.

Owns which packages these are: README's figures are of them (test_small_root.py). A folder of it is made once and then
hard-linked or mounted read-only: nobody writes to it.
"""

import os
import pathlib
import shutil
import subprocess

from pyinit.image import pyz

# Python without its standard library, and what that has of compiled modules, with the one library that we need of those.
PACKAGES = (
    "dash", "libc6", "libexpat1", "libffi8", "libpython3.11-minimal", "libpython3.11-stdlib", "python3-minimal", "python3.11-minimal", "zlib1g",
)  # fmt: skip
ALONE = tuple(name for name in PACKAGES if name not in ("libpython3.11-stdlib", "libffi8"))  # python3-minimal with its dependencies
_NOT_READ = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/lintian/", "/usr/share/locale/", "gconv", "/usr/share/binfmts/", "/usr/share/menu/")
INIT = "/usr/bin/pyinit"
PLACES = ("dev", "proc", "sys", "run", "tmp", "etc", "root", "var/log", "var/lib", "var/tmp")
EPOCH = 1735689600
_HEAD = """\
[init]
stop_timeout = "4s"
"""
_PROBE = """
[services.{name}]
command = ["/usr/bin/python3", "-IS", "/usr/lib/probe.py", {words}]
log = {{ to = "stdout", timestamp = "none" }}
{more}
"""


def _service(name: str, words: str, more: str = "") -> str:
    return _PROBE.format(name=name, words=words, more=more)


# What the root's configs have: all that is looked at in one start; a main service that leaves; one service.
CONFIGS = {
    "services": _HEAD + "".join((
        _service("base", '"stand", "base"', "ready = { fd = 3 }"),
        _service("top", '"stand", "top"', 'ready = { fd = 3 }\nrequires = ["base"]'),
        _service("find", '"find"', 'kind = "oneshot"'),
        _service("orphans", '"orphans", "20"', 'kind = "oneshot"'),
        _service("loops", '"exit", "3"', 'start_limit = { count = 3, within = "60s", then = "fail" }\nrestart_delay = { first = "10ms", initial = "10ms", max = "10ms" }'),
        _service("ask", '"ask"', 'kind = "oneshot"\nafter = ["top", "find", "orphans", "loops"]').replace('"/usr/bin/python3", "-IS", "/usr/lib/probe.py", "ask"', '"/usr/bin/pyinit", "status", "--json"'),
    )),
    "leaves": _HEAD + 'exit = "when-main-exits"\nmain = "main"\n' + _service("main", '"exit", "7"', 'restart = "never"'),
    "sick": _HEAD + _service("base", '"stand", "base"', "ready = { path = \"/run/never\" }"),
    "one": _HEAD + _service("base", '"stand", "base"', "ready = { fd = 3 }"),
}  # fmt: skip


def lay(folder: pathlib.Path, packages: tuple[str, ...] = PACKAGES) -> pathlib.Path:
    """A merged /usr, as Debian's is; with the bytecode that Debian makes when it installs."""
    for name in (*PLACES, "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"):
        (folder / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (folder / name).symlink_to(f"usr/{name}")
    for path in files(packages):
        target = folder / os.path.realpath(path.parent).lstrip("/") / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)
        cached = path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc"
        if path.suffix == ".py" and cached.exists():
            (target.parent / "__pycache__").mkdir(exist_ok=True)
            shutil.copy2(cached, target.parent / "__pycache__")
    (folder / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\napp:x:1000:\n")
    (folder / "etc/os-release").write_text("ID=small\n")  # systemd-nspawn wants one
    (folder / "etc/machine-id").touch()
    (folder / "etc/resolv.conf").touch()
    (folder / "etc/hosts").touch()
    (folder / "etc/hostname").touch()
    pyz.write(f"{folder}{INIT}", EPOCH)
    shutil.copy(pathlib.Path(__file__).parent / "probe.py", folder / "usr/lib/probe.py")
    (folder / "usr/sbin/init").symlink_to("../bin/pyinit")
    (folder / "etc/pyinit").mkdir()
    for name, text in CONFIGS.items():
        (folder / "etc/pyinit" / f"{name}.toml").write_text(text)
        script = folder / "usr/lib" / f"init-{name}"  # where there can be no words
        script.write_text(f"#!/bin/sh\nexec {INIT} --config /etc/pyinit/{name}.toml\n")
        script.chmod(0o755)
    return folder


def files(packages: tuple[str, ...]) -> list[pathlib.Path]:
    """What the packages have, folders not told, and what only people read left out."""
    listed = subprocess.run(["dpkg", "-L", *packages], check=True, capture_output=True, text=True).stdout.split("\n")
    found = [pathlib.Path(line) for line in dict.fromkeys(listed) if line.startswith("/") and not any(part in line for part in _NOT_READ)]
    return [path for path in found if path.is_file() or (path.is_symlink() and not path.is_dir())]


def megabytes(folder: pathlib.Path) -> int:
    """Of its files."""
    seen = {(found.st_dev, found.st_ino): found.st_size for path in folder.rglob("*") if (found := path.lstat()) and not path.is_dir()}
    return round(sum(seen.values()) / 1e6)
