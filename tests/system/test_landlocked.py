"""Services with `landlock`, in a container and of a plain supervisor, as root and without."""

import os
import pathlib
import shutil
import subprocess

import pytest
from conftest import REPO, make_busybox, verb
from test_container import config, said

pytestmark = pytest.mark.usefixtures("nothing_left")


def copy_of_package(folder: pathlib.Path) -> pathlib.Path:
    """Where anybody may read it: a checkout may be root's alone, as its Python."""
    place = folder / "package"
    shutil.copytree(REPO / "pyinit", place / "pyinit", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [place, *place.rglob("*")]:
        path.chmod(0o755)
    return place


TRY = """
try() { "$@" >/dev/null 2>&1 && echo "$*: yes" || echo "$*: no"; }
try cat /etc/passwd; try cat /etc/group; try ls /; try touch /data/x; try touch /run/x; try cat /proc/1/status; try cat /opt/gone
"""
EXPECTED = ["cat /etc/passwd: yes", "cat /etc/group: no", "ls /: no", "touch /data/x: yes", "touch /run/x: no", "cat /proc/1/status: no", "cat /opt/gone: no"]
DATA = '[[container.mounts]]\ntype = "tmpfs"\ntarget = "/data"\nmode = "1777"\n'
RULES = '[services.app.landlock]\nro = ["/bin", "/etc/passwd", "-/opt/gone", "/run/try"]\nrw = ["/data", "/dev/null"]\n'
RUN = f'[[container.mounts]]\ntype = "tmpfs"\ntarget = "/run"\nfiles = {{ try = \'\'\'{TRY}\'\'\' }}\n'


@pytest.mark.parametrize("user", ["root", "app"])
def test_every_process_of_a_service_is_restricted(bench, busybox, user):
    keys = f'user = "{user}"\npre_start = ["/bin/sh", "/run/try"]\nready = {{ exec = ["/bin/sh", "-c", "! cat /etc/group && cat /etc/passwd"] }}\n{RULES}'
    box = bench.start(config(busybox, ". /run/try; grep NoNewPrivs /proc/self/status; echo end; cat /etc/shadow; exec sleep 1000", DATA + RUN, keys))
    box.wait_for("app: end")
    box.wait_for("app: ready")
    lines = [line for line in said(box) if line.startswith(("cat /etc", "ls", "touch", "cat /proc", "cat /opt")) and line.endswith(("yes", "no"))]
    assert lines == EXPECTED * 2
    done = verb("exec", "-c", "pyinit-test", "app", "--", "/bin/sh", "/run/try")
    assert (done.stdout.splitlines(), done.stderr) == (EXPECTED, "")
    assert verb("exec", "-c", "pyinit-test", "app", "--", "/bin/kill", "-0", "1").returncode == (0 if user == "root" else 1)
    assert box.stop() == 0


def line_of(bench, text: str) -> str:
    lines = (bench.folder / "services.toml").read_text().splitlines()
    return f"{bench.folder}/services.toml:{1 + next(n for n, line in enumerate(lines) if line.startswith(text))}"


SCRIPT = "#!/bin/interpreter\necho up\n"
OTHERS = """
[services.forbidden]
command = ["/sbin/tool"]
landlock = { ro = ["/bin"] }
restart = "never"
[services.script]
command = ["/opt/script"]
landlock = { rw = ["/opt"] }
restart = "never"
[services.missing]
command = ["/bin/true"]
landlock = { ro = ["/bin", "/not/there"] }
restart = "never"
[services.no-file]
command = ["/bin/nothing"]
landlock = { ro = ["/bin"] }
restart = "never"
[services.mode]
command = ["/etc/passwd"]
landlock = { ro = ["/etc"] }
restart = "never"
"""


def test_what_is_not_allowed_to_begin_is_told_with_its_line(bench, tmp_path):
    tree = make_busybox(tmp_path / "tree")
    (tree / "sbin").mkdir()
    (tree / "sbin/tool").write_bytes((tree / "bin/busybox").read_bytes())
    (tree / "sbin/tool").chmod(0o755)
    (tree / "bin/interpreter").symlink_to("busybox")
    (tree / "opt").mkdir()
    (tree / "opt/script").write_text(SCRIPT)
    (tree / "opt/script").chmod(0o755)
    wants = 'wants = ["forbidden", "script", "missing", "no-file", "mode"]\n'
    box = bench.start(config(tree, "true", "", wants + OTHERS))
    assert box.wait() == 0
    why = {words[0]: words[2] for line in box.output.splitlines() if "failed" in (words := line.removeprefix("pyinit: ").split(": ", 2))}
    at = [line_of(bench, f"landlock = {{ {text}") for text in ('ro = ["/bin"] }', 'rw = ["/opt"', 'ro = ["/bin", "/not')]
    assert why == {
        "forbidden": f"{at[0]}: landlock allows no execution of /sbin/tool: add it to ro",
        "script": f"{at[1]}: landlock allows no execution of what runs /opt/script, its loader or the program in its first line: add that to ro",
        "missing": f'{at[2]}: landlock: /not/there: No such file or directory; make it, or write "-" before it if it may be missing',
        "no-file": f'{line_of(bench, "command = [" + chr(34) + "/bin/nothing")}: cannot execute /bin/nothing: No such file or directory; is it in the image?',
        "mode": f'{line_of(bench, "command = [" + chr(34) + "/etc/passwd")}: cannot execute /etc/passwd: Permission denied',
    }


def test_ports_and_signals(bench, busybox):
    script = """
(nc -l -p 81 2>&1 | grep -o "Permission denied") ; nc 127.0.0.1 82 2>&1 | grep -o "Permission denied"; nc 127.0.0.1 83 2>&1 | grep -o "Connection refused"
kill -0 1 2>&1 | grep -o "not permitted"; sleep 100 & kill $! && echo own; cat /etc/group >/dev/null && echo any file"""
    rules = '[services.app.landlock]\ntcp_bind = [80]\ntcp_connect = [83]\nscope = ["signals"]\n'
    box = bench.start(config(busybox, script, "", rules))
    assert box.wait() == 0
    assert [line for line in said(box) if line != "Terminated"] == ["Permission denied", "Permission denied", "Connection refused", "not permitted", "own", "any file"]


PLAIN = """
[init]
exit = "when-main-exits"
main = "app"
state_dir = "{folder}/state"
control_socket = "{folder}/s"
[services.app]
command = ["/bin/sh", "-c", "cat /etc/hostname; cat {folder}/services.toml || echo unread; grep NoNewPrivs /proc/self/status; touch {folder}/rw/x && echo written"]
log = {{ to = "stdout", timestamp = "none" }}
{keys}
[services.app.landlock]
ro = ["/usr", "-/bin", "-/lib", "-/lib64", "/etc", "/proc"]
rw = ["{folder}/rw", "/dev/null"]
"""
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")


@pytest.mark.parametrize(("before", "keys", "nnp", "warning"), [
    ((), "", 0, ""), ((), "no_new_privileges = true", 1, ""), (AS_NOBODY, "", 1, ""),
    (AS_NOBODY, "no_new_privileges = false", 1, "it gets no new privileges"), (AS_NOBODY, "no_new_privileges = false\nstrict = true\nrestart = 'never'", -1, ""),
], ids=["root", "root, no new privileges", "nobody", "nobody, against its will", "nobody, strictly"])  # fmt: skip
def test_a_plain_supervisor_with_root_and_without(tmp_path, before, keys, nnp, warning):
    (tmp_path / "rw").mkdir()
    (tmp_path / "rw").chmod(0o777)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    path = tmp_path / "services.toml"
    path.write_text(PLAIN.format(folder=tmp_path, keys=keys))
    (tmp_path / "state").mkdir()
    tmp_path.chmod(0o777)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "PYTHONPATH": str(copy_of_package(tmp_path))}
    done = subprocess.run([*before, "/usr/bin/python3", "-m", "pyinit", "--config", path], env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    lack = "landlock: needs CAP_SYS_ADMIN, which pyinit doesn't have here, or no_new_privileges = true"
    lines = [line.removeprefix("app: ") for line in done.stdout.splitlines() if line.startswith("app: ")]
    at = f"{path}:{path.read_text().splitlines().index('[services.app.landlock]') + 1}"
    if nnp < 0:
        assert (done.returncode, lines) == (111, []), done
        assert f"pyinit: app: failed: {at}: {lack}\n" in done.stdout + done.stderr
        return
    assert (done.returncode, lines[-3:]) == (0, ["unread", f"NoNewPrivs:\t{nnp}", "written"]), done
    assert (f"pyinit: {at}: {lack}; {warning}\n" in done.stdout + done.stderr) == bool(warning), done
