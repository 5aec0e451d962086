"""Declared mounts in real containers: what is in them, who owns it, who sees what is mounted later."""

import os
import pathlib
import re
import subprocess

import pytest
from conftest import make_busybox, squash, verb, wait_until

WAIT = '[services.app]\ncommand = ["/bin/sleep", "1000"]\n'
CAPABILITIES = '[container.security]\ncapabilities = ["SYS_ADMIN", "CHOWN", "SETUID", "SETGID", "DAC_OVERRIDE", "KILL"]\n'


def config(busybox, mounts: str, services: str = WAIT) -> str:
    return f'[container]\nname = "mounts"\nlayers = ["{busybox}"]\n{mounts}{services}'


def mount(kind: str, target: str, *lines: str) -> str:
    return "\n".join(["[[container.mounts]]", f'type = "{kind}"', f'target = "{target}"', *lines, ""])


def inside(*words: str) -> str:
    done = verb("exec", "-c", "mounts", "app", "--", *words)
    return done.stdout + done.stderr


def sh(script: str) -> str:
    return inside("/bin/sh", "-c", script)


def options_of(target: str) -> set[str]:
    """As mountinfo has them: of the mount, and its file system with `fs:` before each."""
    fields = inside("/bin/grep", f" {target} ", "/proc/self/mountinfo").split()
    return {*fields[5].split(","), *(f"fs:{word}" for word in fields[-1].split(","))}


def start(bench, busybox, mounts: str, **keys):
    box = bench.start(config(busybox, mounts), **keys)
    box.wait_for("app: ready")
    return box


def test_files_of_a_ram_disk_come_from_a_text_a_file_a_variable_and_a_command(nothing_left, bench, busybox):
    big = os.urandom(5 << 20)
    (bench.folder / "big").write_bytes(big)
    files = (
        '"text" = "a\\n", "sub/table" = { content = "b", mode = "0600", uid = 7 }, "big" = { file = "big", gid = 8 },'
        ' "variable" = { env = "GREETING", mode = "4750" }, "command" = { command = "printf %s%s one two" }'
    )
    start(bench, busybox, mount("tmpfs", "/run/config", "uid = 5", "gid = 6", f"files = {{ {files} }}"), environment={"GREETING": "hello\n"})
    # ls: mode, links, uid, gid, size, month, day, time, name
    rows = [line.split() for line in sh("cd /run/config; ls -ln text sub/table big variable command").splitlines()]
    assert {(row[8], row[0], row[2], row[3], int(row[4])) for row in rows} == {
        ("text", "-rw-r--r--", "5", "6", 2), ("sub/table", "-rw-------", "7", "6", 1), ("big", "-rw-r--r--", "5", "8", 5 << 20),
        ("variable", "-rwsr-x---", "5", "6", 6), ("command", "-rw-r--r--", "5", "6", 6),
    }  # fmt: skip
    assert sh("cd /run/config; cat text sub/table variable command") == "a\nbhello\nonetwo"
    pid = int(next(line.split()[1] for line in verb("list").stdout.splitlines() if line.startswith("mounts ")))
    assert pathlib.Path(f"/proc/{pid}/root/run/config/big").read_bytes() == big


SECRETS = (
    '[container.secrets]\ndb = { env = "DB_PASSWORD", uid = 33, gid = 34 }\nkey = { file = "key", mode = "0440" }\n'
    'token = { command = ["cat", "token"] }\n'
)  # fmt: skip
HIDDEN = ("xyzzy-in-the-environment", "xyzzy-in-a-file", "xyzzy-of-a-command")


def test_a_secret_is_in_its_file_and_nowhere_else(nothing_left, bench, busybox, tmp_path):
    (bench.folder / "key").write_text(HIDDEN[1])
    (bench.folder / "token").write_text(HIDDEN[2])
    text = config(busybox, SECRETS.replace('"token"', f'"{bench.folder}/token"'))
    environment = {"DB_PASSWORD": HIDDEN[0]}
    box = bench.start(text, environment=environment)
    box.wait_for("app: ready")
    rows = [line.split() for line in sh("ls -ln /run/secrets").splitlines()[1:]]
    assert {(row[8], row[0], row[2], row[3]) for row in rows} == {
        ("db", "-r--------", "33", "34"), ("key", "-r--r-----", "0", "0"), ("token", "-r--------", "0", "0"),
    }  # fmt: skip
    assert sh("cd /run/secrets; cat db; echo; cat key; echo; cat token") == "\n".join(HIDDEN)
    assert "Read-only file system" in sh("echo x > /run/secrets/more")
    assert {"ro", "nosuid", "nodev", "noexec"} <= options_of("/run/secrets")
    assert re.search(r" /run/secrets .* - (ramfs|tmpfs .*noswap)", inside("/bin/grep", "/run/secrets", "/proc/self/mountinfo"))
    seen = sh("cat /proc/*/environ /proc/*/cmdline /proc/self/mountinfo; env; cat /var/log/pyinit/*/current")
    seen += verb("status", "-c", "mounts", "--json").stdout + verb("events", "-c", "mounts", "--json").stdout
    # What the launcher and PID 1 show to the host, but for what the test itself gave the launcher's first program.
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            if b"pyinit" in (path.parent / "cmdline").read_bytes():
                seen += path.read_text()
        except OSError:
            continue
    assert box.stop() == 0
    seen += box.output
    seen += subprocess.run(
        ["/usr/bin/env", "python3", "-m", "pyinit", "plan", box.config], cwd=pathlib.Path(__file__).parents[2],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "/run/secrets/db from the variable DB_PASSWORD" in seen
    assert [word for word in HIDDEN if word in seen] == []


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ('{ command = ["/bin/sh", "-c", "echo no luck >&2; exit 3"] }', "/bin/sh: it left with exit code 3: no luck"),
        ('{ command = ["/bin/sh", "-c", "kill -9 $$"] }', "/bin/sh: it was killed by signal 9"),
    ],
)
def test_a_content_that_can_not_be_had_ends_the_start(nothing_left, bench, busybox, source, why):
    box = bench.start(config(busybox, f"[container.secrets]\ndb = {source}\n"))
    assert box.wait() == 111
    assert box.output == f"pyinit: {box.config}:5: read /run/secrets/db from the output of /bin/sh: {why}\n"


def test_ids_of_a_bind_are_mapped_both_ways(nothing_left, bench, busybox):
    data = bench.folder / "data"
    data.mkdir()
    (data / "of-1000").write_text("x")
    for path, uid, gid in ((data, 1000, 1000), (data / "of-1000", 1000, 2001)):
        os.chown(path, uid, gid)
    box = start(bench, busybox, mount("bind", "/data", 'source = "data"', 'idmap = { uid = ["1000:33"], gid = ["1000:33", "2000:40:10"] }'))
    row = inside("/bin/ls", "-ln", "/data/of-1000").split()
    assert (row[2], row[3]) == ("33", "41")
    assert "idmapped" in options_of("/data")
    assert "Value too large" in sh("echo x > /data/of-root")  # no range has the id 0
    assert box.stop() == 0
    box = start(bench, busybox, mount("bind", "/data", 'source = "data"', 'idmap = { uid = ["1000:33"] }'))
    row = inside("/bin/ls", "-ln", "/data/of-1000").split()
    assert (row[2], row[3]) == ("33", "2001")
    assert box.stop() == 0
    service = WAIT + 'user = "33"\ngroup = "33"\n'
    box = bench.start(config(busybox, mount("bind", "/data", 'source = "data"', 'idmap = { uid = ["1000:33"], gid = ["1000:33"] }'), service))
    box.wait_for("app: ready")
    assert sh("echo x > /data/new") == ""
    made = (data / "new").stat()
    assert (made.st_uid, made.st_gid) == (1000, 1000)
    assert box.stop() == 0


def test_ids_on_what_can_not_map_them(nothing_left, bench, busybox):
    box = bench.start(config(busybox, mount("bind", "/data", 'source = "/proc"', 'idmap = { uid = ["0:1"] }')))
    assert box.wait() == 111
    assert box.output == (
        f"pyinit: {box.config}:4: mount bind /proc on /data: the file system of /proc, or one in it, can't map ids; take idmap out\n"
    )


@pytest.fixture
def shared(bench):
    """A folder that is a shared mount of its own."""
    folder = bench.folder / "shared"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "shared", folder], check=True)
    subprocess.run(["mount", "--make-shared", folder], check=True)
    for name in ("before", "after"):
        (folder / name).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "before", folder / "before"], check=True)
    (folder / "before/file").write_text("mounted before\n")
    yield folder
    subprocess.run(["umount", "--recursive", folder], check=True)


def test_what_the_host_mounts_later_is_seen_as_the_propagation_says(nothing_left, bench, busybox, shared):
    kinds = ("private", "slave", "shared")
    box = start(bench, busybox, CAPABILITIES + "".join(mount("bind", f"/{kind}", f'source = "{shared}"', f'propagation = "{kind}"') for kind in kinds))
    subprocess.run(["mount", "-t", "tmpfs", "after", shared / "after"], check=True)
    (shared / "after/file").write_text("mounted after\n")
    assert [sh(f"cat /{kind}/before/file") for kind in kinds] == ["mounted before\n"] * 3
    seen = [sh(f"cat /{kind}/after/file 2>&1") for kind in kinds]
    assert seen == ["cat: can't open '/private/after/file': No such file or directory\n", "mounted after\n", "mounted after\n"]
    for kind in ("slave", "shared"):
        sh(f"mkdir /{kind}/of-{kind} && mount -t tmpfs inside /{kind}/of-{kind}")
    mounts = pathlib.Path("/proc/self/mountinfo").read_text()
    assert f"{shared}/of-shared " in mounts
    assert f"{shared}/of-slave " not in mounts
    assert box.stop() == 0


def test_propagation_of_a_mount_that_is_told_to_nobody(nothing_left, bench, busybox):
    (bench.folder / "data").mkdir()
    place = bench.folder / "data"
    subprocess.run(["mount", "-t", "tmpfs", "data", place], check=True)
    subprocess.run(["mount", "--make-private", place], check=True)
    try:
        box = bench.start(config(busybox, mount("bind", "/data", 'source = "data"', 'propagation = "slave"')))
        assert box.wait() == 111
        assert box.output == (
            f"pyinit: {box.config}:4: open {place}, slave with the host: "
            f"the mount on {place} is not shared on this host; `mount --make-shared {place}` makes it so\n"
        )
    finally:
        subprocess.run(["umount", place], check=True)


def test_an_overlay_of_its_own(nothing_left, bench, busybox, tmp_path):
    for name in ("low", "high"):
        (bench.folder / name).mkdir()
        (bench.folder / name / "both").write_text(f"{name}\n")
        (bench.folder / name / name).write_text("")
    image = squash(make_busybox(tmp_path / "tree"), tmp_path / "other.squashfs")
    layers = f'layers = ["low", "{image}", "high"]'
    mounts = (
        mount("overlay", "/none", layers) + mount("overlay", "/ram", layers, 'writable = "tmpfs"', 'writable_size = "1M"')
        + mount("overlay", "/kept", layers, 'writable = "./state"') + mount("overlay", "/one", 'layers = ["low"]', 'options = ["noexec"]')
    )  # fmt: skip
    box = start(bench, busybox, mounts)
    for target in ("/none", "/ram", "/kept"):
        assert sh(f"cat {target}/both; ls {target}/low {target}/high {target}/bin/busybox") == (
            f"high\n{target}/bin/busybox\n{target}/high\n{target}/low\n"
        )
    said = [sh(f"echo x > {target}/new 2>&1").strip() for target in ("/none", "/one", "/ram", "/kept")]
    assert said == [
        "/bin/sh: can't create /none/new: Read-only file system", "/bin/sh: can't create /one/new: Read-only file system", "", "",
    ]  # fmt: skip
    assert "No space left" in sh("dd if=/dev/zero of=/ram/big bs=1M count=2 2>&1")
    assert box.stop() == 0
    assert (bench.folder / "state/upper/new").read_text() == "x\n"
    box = start(bench, busybox, mounts)
    assert sh("cat /kept/new; ls /ram/new 2>&1") == "x\nls: /ram/new: No such file or directory\n"
    assert box.stop() == 0


def test_options_of_every_mount(nothing_left, bench, busybox):
    data = bench.folder / "data"
    data.mkdir()
    (data / "run").write_text("#!/bin/sh\necho it runs\n")
    (data / "run").chmod(0o755)
    (data / "link").symlink_to("run")
    box = start(
        bench, busybox,
        mount("bind", "/plain", 'source = "data"')
        + mount("bind", "/strict", 'source = "data"', 'options = ["noexec", "nosymfollow", "noatime", "nodiratime", "ro"]')
        + mount("tmpfs", "/loose", 'options = ["suid", "dev", "strictatime", "nr_inodes=123"]')
        + mount("squashfs", "/image", f'source = "{busybox}"', 'options = ["suid", "noexec"]'),
    )  # fmt: skip
    assert sh("/plain/run; /plain/link") == "it runs\nit runs\n"
    assert sh("/strict/run; cat /strict/link; echo > /strict/x") == (
        "/bin/sh: /strict/run: Permission denied\ncat: can't open '/strict/link': Too many levels of symbolic links\n"
        "/bin/sh: can't create /strict/x: Read-only file system\n"
    )
    assert {"nosuid", "nodev", "rw"} <= options_of("/plain")
    assert {"nosuid", "nodev", "noexec", "nosymfollow", "noatime", "nodiratime", "ro"} <= options_of("/strict")
    assert not {"nosuid", "nodev", "relatime", "noatime"} & options_of("/loose")
    assert "fs:nr_inodes=123" in options_of("/loose")
    assert {"ro", "nodev", "noexec"} <= options_of("/image")
    assert "nosuid" not in options_of("/image")
    assert box.stop() == 0


def test_an_option_that_the_file_system_does_not_know(nothing_left, bench, busybox):
    box = bench.start(config(busybox, mount("tmpfs", "/x", 'options = ["colour=red"]')))
    assert box.wait() == 111
    assert box.output == f"pyinit: {box.config}:4: mount tmpfs on /x (colour=red): fsconfig tmpfs colour: Invalid argument: tmpfs: Unknown parameter 'colour'\n"


def test_a_mount_point_that_is_made_has_the_owner_and_mode_that_it_should(nothing_left, bench, busybox):
    (bench.folder / "data").mkdir()
    point = mount("bind", "/made/{}/point", 'source = "data"', 'mode = "2750"', "uid = 12", "gid = 13")
    ram = mount("tmpfs", "/made/ram")
    box = start(bench, busybox, point.format("root") + ram + point.format("ram"))
    pid = int(next(line.split()[1] for line in verb("list").stdout.splitlines() if line.startswith("mounts ")))
    for target in ("/made/root/point", "/made/ram/point"):
        subprocess.run(["nsenter", f"--mount=/proc/{pid}/ns/mnt", "/bin/busybox", "umount", target], check=True)
        row = inside("/bin/ls", "-lnd", target).split()
        assert (row[0], row[2], row[3]) == ("drwxr-s---", "12", "13")
    assert inside("/bin/ls", "-lnd", "/made/root").split()[0:4:2] == ["drwxr-xr-x", "0"]
    assert box.stop() == 0


def test_a_program_of_libfuse_serves_a_mount(nothing_left, bench, busybox, tmp_path):
    image = squash(make_busybox(tmp_path / "tree"), tmp_path / "other.squashfs")
    box = start(bench, busybox, mount("fuse.squashfuse", "/other", f'source = "{image}"', 'options = ["ro"]'))
    assert sh("ls /other/bin/busybox; echo x > /other/x") == "/other/bin/busybox\n/bin/sh: can't create /other/x: Read-only file system\n"
    assert "fuse.squashfuse" in inside("/bin/grep", "/other", "/proc/self/mountinfo")
    assert box.stop() == 0
    wait_until(lambda: "squashfuse" not in subprocess.run(["ps", "-eo", "comm"], capture_output=True, text=True, check=True).stdout, "its end")
