"""A container of busybox: what it sees, what it leaves, what it says when it can't be."""

import json
import os
import signal
import subprocess

import pytest
from conftest import open_files, verb

pytestmark = pytest.mark.usefixtures("nothing_left")

BASE = """
[container]
name = "pyinit-test"
layers = ["{image}"]
{more}
[init]
exit = "when-main-exits"
main = "app"
[services.app]
log = {{ to = "stdout", timestamp = "none" }}
"""


def config(image, command: str, more: str = "", service: str = "") -> str:
    return BASE.format(image=image, more=more) + f"command = ['/bin/sh', '-c', '''{command}''']\n" + service


def said(box, name: str = "app") -> list[str]:
    """The lines of one service."""
    mark = f"{name}: "
    return [line.removeprefix(mark) for line in box.output.splitlines() if line.startswith(mark)]


def test_one_image_one_service_its_exit_code(bench, busybox):
    box = bench.start(config(busybox, "echo hello from $$; hostname; exit 7"))
    assert box.wait() == 7
    assert said(box) == ["hello from 3", "pyinit-test"]


def test_a_death_by_signal_is_128_plus_its_number(bench, busybox):
    box = bench.start(config(busybox, "kill -9 $$"))
    assert box.wait() == 137


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGPWR, 37])
def test_a_stop_signal_ends_in_order_with_0(bench, busybox, number):
    box = bench.start(config(busybox, "trap \"echo bye; exit 3\" TERM; echo up; while :; do sleep 0.1; done"))
    box.wait_for("app: up")
    assert box.stop(number) == 0
    assert said(box) == ["up", "bye"]


def test_the_environment_of_the_host_shows_nowhere(bench, busybox):
    canary = "pyinit-canary-7f3a"
    box = bench.start(
        config(busybox, "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; echo; echo end"),
        environment={"CANARY": canary},
    )
    assert box.wait() == 0
    assert said(box)[-1] == "end"
    assert canary not in box.output
    environment = [line for line in said(box) if "=" in line and "\0" not in line]
    assert {line.partition("=")[0] for line in environment} == {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "container", "PWD", "SHLVL",
    }  # fmt: skip


def test_a_service_gets_only_its_standard_fds(bench, busybox):
    box = bench.start(config(busybox, "for n in $(seq 0 40); do test -e /proc/$$/fd/$n && echo $n; done; echo end"))
    assert box.wait() == 0
    assert said(box) == ["0", "1", "2", "end"]


def test_pid_1_is_closed_to_services(bench, busybox):
    box = bench.start(config(busybox, "for f in environ mem maps fd exe root; do cat /proc/1/$f 2>&1 | head -c 200; echo; done"))
    box.wait()
    assert "Permission denied" in box.output
    assert "PYTHONHOME" not in box.output


def test_root_is_read_only_and_run_is_not(bench, busybox):
    box = bench.start(config(busybox, "touch /x 2>&1; touch /run/x && echo run; touch /tmp/x && echo tmp"))
    assert box.wait() == 0
    assert said(box) == ["touch: /x: Read-only file system", "run", "tmp"]


def test_a_ram_upper_layer_can_be_written(bench, busybox):
    box = bench.start(config(busybox, "touch /x && ls /x", 'writable = "tmpfs"'))
    assert box.wait() == 0
    assert said(box) == ["/x"]


def test_ram_disk_files_and_binds(bench, busybox, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/in").write_text("from the host\n")
    more = """
[[container.mounts]]
type = "tmpfs"
target = "/run/config"
mode = "0750"
files = { "app.env" = "WORD=${WORD:-none}\\n" }
[[container.mounts]]
type = "bind"
source = "data"
target = "/data"
"""
    box = bench.start(
        config(busybox, "cat /run/config/app.env /data/in; echo out > /data/out", more), environment={"WORD": "moon"}
    )
    assert box.wait() == 0
    assert said(box) == ["WORD=moon", "from the host"]
    assert (tmp_path / "data/out").read_text() == "out\n"


def test_a_user_of_the_image(bench, busybox):
    box = bench.start(config(busybox, "id; echo $HOME $USER; grep Cap /proc/self/status", service='user = "app"\n'))
    assert box.wait() == 0
    lines = said(box)
    assert lines[:2] == ["uid=1000(app) gid=1000(app) groups=1000(app),1001(extra)", "/ app"]
    assert lines[2:6] == [f"Cap{kind}:\t{'0' * 16}" for kind in ("Inh", "Prm", "Eff")] + ["CapBnd:\t00000000a00405fb"]


def test_limits_are_set(bench, busybox):
    more = "[container.cgroup]\nmemory_max = '64M'\npids_max = 20\ncpu_max = 0.5\n"
    box = bench.start(config(busybox, "echo up; for n in $(seq 40); do sleep 9 & done; echo none", more))
    box.wait()
    assert "can't fork" in box.output


def test_two_containers_from_copies_of_one_file(bench, busybox):
    """Without a name each gets one of its folder and its path."""
    text = config(busybox, "echo up; while :; do sleep 1; done").replace('name = "pyinit-test"\n', "")
    boxes = [bench.start(text, name=f"{n}/services.toml") for n in ("a", "b")]
    for box in boxes:
        box.wait_for("app: up")
    names = [one["name"] for one in json.loads(verb("list", "--json").stdout)]
    assert [name[:2] for name in names] == ["a-", "b-"]
    done = verb("status")
    assert (done.returncode, done.stderr) == (1, f"pyinit: several run here: say -c {names[0]} or -c {names[1]}\n")
    for name in names:
        assert verb("status", "-c", name, "app").returncode == 0
    assert [box.stop() for box in boxes] == [0, 0]


def test_the_interpreter_can_t_be_overwritten_through_pid_1(bench, busybox):
    box = bench.start(config(busybox, "echo up; while :; do sleep 1; done"))
    box.wait_for("app: up")
    with open("/run/pyinit/pyinit-test/pid") as file:
        pid = int(file.read())
    assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
    with pytest.raises(OSError, match=r"Text file busy|Read-only file system"):
        os.open(f"/proc/{pid}/exe", os.O_WRONLY)
    assert box.stop() == 0


def test_the_name_in_use_is_refused_with_its_pid(bench, busybox):
    text = config(busybox, "echo up; while :; do sleep 1; done")
    first = bench.start(text)
    first.wait_for("app: up")
    second = bench.start(text)
    assert second.wait() == 111
    with open("/run/pyinit/pyinit-test/pid") as file:
        pid = file.read().strip()
    assert second.output == (
        f"pyinit: {bench.folder}/services.toml:2: container pyinit-test is running already, as pid {pid}; stop it with "
        "`pyinit shutdown -c pyinit-test`, or give this one another name in [container]\n"
    )
    assert first.stop() == 0


def test_kill_9_of_the_monitor_then_a_new_start(bench, busybox):
    text = config(busybox, "trap \"echo bye; exit\" TERM; echo up; while :; do sleep 0.1; done")
    first = bench.start(text)
    first.wait_for("app: up")
    first.process.kill()
    second = bench.start(text)
    second.wait_for("app: up")
    first.wait()
    assert said(first) == ["up", "bye"]  # stopped in order, not killed
    assert second.stop() == 0


def test_kill_9_of_monitor_and_pid_1(bench, busybox):
    text = config(busybox, "echo up; while :; do sleep 0.1; done")
    first = bench.start(text)
    first.wait_for("app: up")
    with open("/run/pyinit/pyinit-test/pid") as file:
        pid = int(file.read())
    first.process.kill()
    os.kill(pid, signal.SIGKILL)
    second = bench.start(text)
    second.wait_for("app: up")
    assert second.stop() == 0


def test_nested_image_is_mounted_inside(bench, busybox, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/word").write_text("nested\n")
    subprocess.run(["mksquashfs", tmp_path / "tree", tmp_path / "app.squashfs", "-quiet"], check=True, capture_output=True)
    more = '[[container.mounts]]\ntype = "squashfs"\nsource = "app.squashfs"\ntarget = "/app"\n'
    box = bench.start(config(busybox, "cat /app/word; touch /app/x 2>&1", more))
    assert box.wait() == 1
    assert said(box) == ["nested", "touch: /app/x: Read-only file system"]


def test_veth_address_route_and_hosts(bench, busybox):
    more = """
[container.network]
mode = "veth"
bridge = "pyinit-t0"
address = "10.92.7.2/24"
gateway = "10.92.7.1"
hosts = { "db.internal" = "10.92.7.3" }
"""
    box = bench.start(config(busybox, "ip -4 -o addr show host0; ip route; cat /etc/hosts; echo up; while :; do sleep 1; done", more))
    box.wait_for("app: up")
    found = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert "ve-pyinit-test" in found.replace("ve-pyinit-te", "ve-pyinit-test") and "pyinit-t0" in found
    assert box.stop() == 0
    lines = said(box)
    assert "10.92.7.2/24" in lines[0]
    assert "default via 10.92.7.1 dev host0" in lines[1]
    assert "10.92.7.3\tdb.internal" in lines


VETH = """
[container.network]
mode = "veth"
bridge = "pyinit-t0"
address = "{address}/24"
gateway = "10.92.7.1"
"""


def test_an_address_that_is_taken_is_refused(bench, busybox):
    command = "echo up; while :; do sleep 1; done"
    first = bench.start(config(busybox, command, VETH.format(address="10.92.7.2")), name="a/services.toml")
    first.wait_for("app: up")
    text = config(busybox, command, VETH.format(address="10.92.7.2")).replace("pyinit-test", "pyinit-test-2")
    second = bench.start(text, name="b/services.toml")
    assert second.wait() == 111
    line = text.splitlines().index("[container.network]") + 1
    where = f"pyinit: {bench.folder}/b/services.toml:{line}: container.network.address: "
    assert second.output == where + "10.92.7.2 is taken by container pyinit-test; choose another\n"
    other = text.replace('gateway = "10.92.7.1"', 'gateway = "10.92.7.9"')
    third = bench.start(other.replace("10.92.7.2", "10.92.7.1"), name="b/services.toml")
    assert third.wait() == 111
    assert third.output == where + "10.92.7.1 is this host's own; choose another\n"
    assert first.stop() == 0


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ("missing", "is not there; build or copy it (`pyinit build` makes images)"),
        ("truncated", "is truncated: the superblock says"),
        ("garbage", "expected a squashfs or EROFS image, found something else"),
        ("inside", "squashfs"),  # the superblock is whole, what it points to is not
    ],
)
def test_an_image_that_is_none(bench, busybox, tmp_path, damage, text):
    image = tmp_path / "image.squashfs"
    data = busybox.read_bytes()
    if damage == "truncated":
        image.write_bytes(data[: len(data) // 2])
    elif damage == "garbage":
        image.write_bytes(b"no image" * 1000)
    elif damage == "inside":
        image.write_bytes(data[:96] + b"\xff" * (len(data) - 96))
    box = bench.start(config(image, "true"))
    assert box.wait() == (111 if damage == "inside" else 100)
    assert box.output.startswith(f"pyinit: {bench.folder}/services.toml:4: ")
    assert text in box.output
    assert box.output.count("\n") == 1


def test_a_bad_config_starts_nothing(bench, busybox):
    text = config(busybox, "echo started") + "restrt = 'never'\n[services.b]\ncommand = ['b']\nrequires = ['c']\n[services.c]\ncommand = ['c']\nrequires = ['b']\n"
    box = bench.start(text)
    assert box.wait() == 100
    lines = text.splitlines()
    where = f"pyinit: {bench.folder}/services.toml"
    wrong = lines.index("restrt = 'never'") + 1
    assert box.output == (
        f"{where}:{wrong}: services.app.restrt: there is no such key; did you mean restart?\n"
        f"{where}:{lines.index('[services.b]') + 1}: services wait for each other in a circle: b -> c -> b; remove one of these\n"
    )


@pytest.mark.parametrize("kill", ["cgroup", "process"])
def test_an_open_file_of_the_host_goes_nowhere(bench, busybox, tmp_path, kill):
    """fds that the caller left open reach neither a service, on whichever way it is spawned, nor PID 1."""
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    fd = os.open(secret, os.O_RDONLY)
    os.set_inheritable(fd, True)
    command = "for n in $(seq 3 60); do test -e /proc/$$/fd/$n && echo $n; done; echo up; while :; do sleep 0.1; done"
    box = bench.start(config(busybox, command, service=f'kill = "{kill}"\n'), pass_fds=(fd,))
    os.close(fd)
    box.wait_for("app: up")
    assert said(box) == ["up"]
    with open("/run/pyinit/pyinit-test/pid") as file:
        pid = int(file.read())
    assert str(secret) not in open_files(pid)
    assert box.stop() == 0


def test_memory_over_the_limit_is_killed(bench, busybox):
    more = "[container.cgroup]\nmemory_max = '64M'\n"
    command = 'awk "BEGIN { s = 1; while (1) s = s s }"; echo awk $?'
    box = bench.start(config(busybox, command, more))
    assert box.wait() == 0
    assert said(box)[-1] == "awk 137"


def test_a_full_ram_disk_is_no_memory_killer(bench, busybox):
    """What nobody declared has a size that fits into the limit: else a file in /tmp would be the end of PID 1."""
    more = "[container.cgroup]\nmemory_max = '64M'\n"
    command = "for d in /run /tmp; do dd if=/dev/zero of=$d/x bs=1M count=200 2>&1 | head -n 1; done"
    box = bench.start(config(busybox, command, more))
    assert box.wait() == 0
    assert said(box) == [f"dd: error writing '{folder}/x': No space left on device" for folder in ("/run", "/tmp")]


def test_a_ram_upper_layer_has_its_size(bench, busybox):
    more = 'writable = "tmpfs"\nwritable_size = "2M"\n'
    box = bench.start(config(busybox, "dd if=/dev/zero of=/x bs=1M count=9 2>&1 | head -n 1; wc -c < /x", more))
    assert box.wait() == 0
    assert said(box) == ["dd: error writing '/x': No space left on device", str(2 << 20)]


def test_binds_and_ram_disks_can_be_read_only(bench, busybox, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "file").write_text("one file\n")
    more = """
[[container.mounts]]
type = "bind"
source = "data"
target = "/data"
read_only = true
[[container.mounts]]
type = "bind"
source = "file"
target = "/etc/file"
[[container.mounts]]
type = "tmpfs"
target = "/conf"
read_only = true
files = { "sub/a" = { content = "kept", mode = "0600" } }
"""
    box = bench.start(config(busybox, "touch /data/x 2>&1; touch /conf/x 2>&1; cat /conf/sub/a /etc/file; ls -l /conf/sub", more))
    assert box.wait() == 0, box.output
    lines = said(box)
    assert lines[:3] == ["touch: /data/x: Read-only file system", "touch: /conf/x: Read-only file system", "keptone file"]
    assert lines[-1].startswith("-rw-------")


LIMITED = """
[services.big]
command = ["dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1"]
restart = "never"
cgroup = { memory_max = "16M" }
[services.many]
command = ["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait"]
cgroup = { pids_max = 4 }
log = { to = "stdout" }
restart = "never"
"""


def test_a_services_limits_hold_and_running_out_of_memory_is_the_reason(bench, busybox, nothing_left):
    box = bench.start(f'[container]\nname = "pyinit-test"\nlayers = ["{busybox}"]\n{LIMITED}')
    box.wait_for("big: failed: killed by KILL: out of memory")
    box.wait_for("can't fork")
    assert box.stop() == 0
