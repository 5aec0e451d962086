"""User files on real servers: NFS 4.2, SMB and 9P, mounted by a container in a virtual machine, for few hosts' kernels have all three."""

import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest
from conftest import read, wait_until
from guest import GENERIC, Guest

from pyinit.linux import mount

PYINIT = "PYTHONPATH=/opt /usr/bin/python3.11 -m pyinit"
MODULES = (
    "virtio_pci", "virtio_net", "nfsv4", "9p", "9pnet_virtio", "9pnet_fd", "cifs", "cmac", "ccm", "gcm", "ghash_generic", "ctr", "ecb", "sha512_generic",
)  # fmt: skip
NFS_PORT, SMB_PORT, NOBODYS_PORT = 12049, 10445, 12050
OWNER = 1000
PASSWORD = "s3cret-Word"

NFS = """
NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {port}; Enable_NLM = false; Enable_RQUOTA = false; }}
NFSV4 {{ Minor_Versions = 2; Lease_Lifetime = 5; Grace_Period = 5; RecoveryBackend = fs; RecoveryRoot = {folder}; }}
EXPORT_DEFAULTS {{ Access_Type = RW; Squash = None; SecType = sys; Protocols = 4; }}
EXPORT {{ Export_Id = 1; Path = {folder}/soft; Pseudo = /soft; FSAL {{ Name = VFS; }} }}
EXPORT {{ Export_Id = 2; Path = {folder}/hard; Pseudo = /hard; FSAL {{ Name = VFS; }} }}
"""
SMB = """
[global]
server role = standalone server
map to guest = never
interfaces = lo
bind interfaces only = yes
smb ports = {port}
disable netbios = yes
load printers = no
rpc start on demand helpers = no
passdb backend = smbpasswd:{folder}/users
private dir = {folder}
lock directory = {folder}
state directory = {folder}
cache directory = {folder}
pid directory = {folder}
ncalrpc dir = {folder}/rpc
log file = {folder}/log
[office]
path = {folder}/office
read only = no
force user = root
"""

HEAD = """
[container]
name = "files"
layers = ["/images/busybox.squashfs"]
[init]
exit = "when-main-exits"
main = "app"
"""
CONFIG = f"""{HEAD}
[services.app]
command = ["/bin/sh", "/app/run"]
user = "app"
log = {{ to = "stdout", timestamp = "none" }}
[[container.mounts]]
type = "nfs4"
source = "nas:/soft"
target = "/soft"
options = ["port={NFS_PORT}", "soft", "timeo=10", "retrans=1"]
[[container.mounts]]
type = "nfs"
source = "10.0.2.2:/hard"
target = "/hard"
options = ["port={NFS_PORT}", "hard"]
[[container.mounts]]
type = "cifs"
source = "//nas/office/desk"
target = "/office"
options = ["port={SMB_PORT}", "username=www-data", "uid={OWNER}", "gid={OWNER}", "forceuid", "forcegid"]
secret_options = {{ password = {{ file = "/etc/pyinit/password" }} }}
[[container.mounts]]
type = "9p"
source = "shared"
target = "/shared"
[[container.mounts]]
type = "tmpfs"
target = "/app"
files = {{ run = '''
for d in soft hard office shared; do
  read line < /$d/hello
  echo from the container > /$d/new && echo $d: $line
done
awk '$5 ~ /^.(soft|hard|office|shared)$/ {{ $1=$2=$3=$7=""; print "mounted", $0 }}' /proc/self/mountinfo
echo WRITTEN
until [ -e /shared/stopped ]; do sleep 0.1; done
(echo late > /hard/late; echo hard went on) &
echo late > /soft/late || echo soft gave up
echo DURING
until [ -e /shared/started ]; do sleep 0.1; done
wait
until echo again > /soft/again; do sleep 0.2; done
echo soft came back
exit 7
''' }}
"""

# Its process has written to a server that then goes for good: it hangs in the kernel, and no signal reaches it there.
GONE = f"""{HEAD}
[services.app]
command = ["/bin/sh", "/app/run"]
log = {{ to = "stdout", timestamp = "none" }}
stop_timeout = "1s"
[[container.mounts]]
type = "nfs4"
source = "nas:/hard"
target = "/hard"
options = ["port={NFS_PORT}"]
[[container.mounts]]
type = "9p"
source = "shared"
target = "/shared"
[[container.mounts]]
type = "tmpfs"
target = "/app"
files = {{ run = '''
exec 3> /hard/file
echo HOLDING
until [ -e /shared/gone ]; do sleep 0.1; done
dd if=/dev/zero bs=1M count=4 >&3 &
cat /hard/hello
''' }}
"""

# name -> the mount of a container that does not come to be, and why
REFUSED = {
    "export": (
        f'type = "nfs4"\nsource = "nas:/nothing"\noptions = ["port={NFS_PORT}"]',
        "connect nfs4 nas:/nothing for /x: the server has no such export, or lets this client see none: look at its list of exports"
        " (mount nfs4: No such file or directory: NFS4: Couldn't follow remote path)",
    ),
    "down": (
        f'type = "nfs4"\nsource = "nas:/soft"\noptions = ["port={NOBODYS_PORT}"]',
        f"connect nfs4 nas:/soft for /x: 10.0.2.2 refuses connections to port {NOBODYS_PORT}: is the server up?",
    ),
    "version": (
        f'type = "nfs"\nsource = "nas:/soft"\noptions = ["port={NFS_PORT}", "vers=4.1"]',
        "connect nfs nas:/soft for /x: the server does not speak NFS 4.1, or the kernel does not: set vers to one that both do (4.2, 4.1, 4.0, 3)"
        " (mount nfs4: Protocol not supported: NFS4: Couldn't follow remote path)",
    ),
    "option": (
        f'type = "nfs4"\nsource = "nas:/soft"\noptions = ["port={NFS_PORT}", "nonsense=1"]',
        "connect nfs4 nas:/soft for /x: the kernel takes an option amiss, or sec=krb5 lacks its rpc.gssd"
        " (fsconfig nfs4 nonsense: Invalid argument: nfs4: Unknown parameter 'nonsense')",
    ),
    "stranger": (
        f'type = "cifs"\nsource = "//nas/office"\noptions = ["port={SMB_PORT}", "username=nobody"]\nsecret_options.password.file = "/etc/pyinit/password"',
        "connect cifs //nas/office for /x: the server refuses the user nobody: the name, domain or password is wrong, or the share is not for that user"
        " (mount cifs: Permission denied)",
    ),
    "dialect": (  # the kernel prints what it did not understand, and that may be a password
        f'type = "cifs"\nsource = "//nas/office"\noptions = ["port={SMB_PORT}", "username=x", "vers={PASSWORD}"]\nsecret_options.password.file = "/etc/pyinit/password"',
        "connect cifs //nas/office for /x: the kernel takes an option amiss (fsconfig cifs vers: Invalid argument: Unknown vers= option specified: ***)",
    ),
    "tag": (
        'type = "9p"\nsource = "nothing"',
        "connect 9p nothing for /x: there is no 9p device of that tag (trans=virtio): the machine must be given one,"
        " of qemu by -fsdev and -device virtio-9p-pci,mount_tag= (mount 9p: No such file or directory)",
    ),
    "silent": (  # takes a connection, and never answers
        f'type = "9p"\nsource = "nas"\noptions = ["trans=tcp", "port={NFS_PORT}"]\ntimeout = "1s"',
        "connect 9p nas for /x: nas does not answer within 1 s; is it up, and reachable from this host?",
    ),
}

LEFT = "echo left $(find /sys/fs/cgroup -name 'pyinit-*' | wc -l) $(ls /run/pyinit 2>/dev/null | wc -l) $(grep -cE ' (nfs4?|cifs|9p) ' /proc/self/mountinfo) $(ls -d /sys/block/loop*/loop | wc -l)"
# The kernel's own words for a user at the console are not ours; those of this start are.
SCRIPT = f"""
dmesg -n 1
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
{LEFT}
{PYINIT} --config /etc/pyinit/files.toml &
until grep -qs ' cifs ' /proc/[0-9]*/mountinfo; do sleep 0.1; done
echo known to $(grep -lsrf /etc/pyinit/password /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/mountinfo /run /etc/pyinit/password)
wait $!; echo code $?
{LEFT}
for name in {" ".join(REFUSED)}; do
  {PYINIT} --config /etc/pyinit/$name.toml; echo code $?
done
{LEFT}
{PYINIT} --config /etc/pyinit/gone.toml &
until ps | grep -q "cat /hard/hell[o]"; do sleep 0.2; done
{PYINIT} shutdown; echo shut $?
wait $!; echo code $?
{LEFT}
"""


class Island:
    """A network namespace with servers in it, each the PID 1 of a pid namespace, so that it goes with all its children."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        command = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == b"up\n"
        self.inside = ("nsenter", f"--net=/proc/{self.process.pid}/ns/net")
        self.servers: list[subprocess.Popen[bytes]] = []

    def serve(self, port: int, *command: str) -> subprocess.Popen[bytes]:
        server = subprocess.Popen([*self.inside, "unshare", "--pid", "--fork", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.servers.append(server)
        table = pathlib.Path(f"/proc/{self.process.pid}/net")
        listening = re.compile(rf":{port:04X} 0+:0000 0A ")
        wait_until(lambda: listening.search((table / "tcp").read_text() + (table / "tcp6").read_text()), f"{command[0]} on port {port}")
        return server

    def nfs(self) -> subprocess.Popen[bytes]:
        names = {word: str(self.folder / word) for word in ("conf", "log", "pid")}
        return self.serve(NFS_PORT, "ganesha.nfsd", "-F", "-f", names["conf"], "-L", names["log"], "-p", names["pid"])

    def end(self, server: subprocess.Popen[bytes]) -> None:
        """At once, as a machine that loses its power; unshare waits for it."""
        for pid in read(pathlib.Path(f"/proc/{server.pid}/task/{server.pid}/children")).split():
            os.kill(int(pid), signal.SIGKILL)
        server.wait()
        self.servers.remove(server)

    def close(self) -> None:
        for server in list(self.servers):
            self.end(server)
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@pytest.fixture
def island(tmp_path):
    for name in ("soft", "hard", "office/desk", "shared"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "hello").write_text(f"hello from {name}\n")
        shutil.chown(folder, OWNER, OWNER)
    (tmp_path / "conf").write_text(NFS.format(port=NFS_PORT, folder=tmp_path))
    (tmp_path / "smb.conf").write_text(SMB.format(port=SMB_PORT, folder=tmp_path))
    add = ["smbpasswd", "-c", tmp_path / "smb.conf", "-s", "-a", "www-data"]
    subprocess.run(add, input=f"{PASSWORD}\n{PASSWORD}\n", text=True, capture_output=True, check=True)
    island = Island(tmp_path)
    yield island
    island.close()


def test_user_files_on_nfs_smb_and_9p_through_a_restart_of_the_server(island, tmp_path, nothing_left, cgroup2_guest):
    nfs = island.nfs()
    island.serve(SMB_PORT, "smbd", "--foreground", "--no-process-group", f"--configfile={tmp_path}/smb.conf")
    files = {"etc/pyinit/files.toml": CONFIG, "etc/pyinit/gone.toml": GONE, "etc/pyinit/password": f"{PASSWORD}\n", "etc/hosts": "10.0.2.2 nas\n"}
    for name, (entry, _) in REFUSED.items():
        files[f"etc/pyinit/{name}.toml"] = f'{HEAD}\n[services.app]\ncommand = ["true"]\n[[container.mounts]]\n{entry}\ntarget = "/x"\n'
    guest = Guest(
        tmp_path, SCRIPT, files, package=GENERIC, modules=MODULES, inside=island.inside,
        options=(
            "-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile=",
            "-fsdev", f"local,id=f0,path={tmp_path}/shared,security_model=passthrough", "-device", "virtio-9p-pci,fsdev=f0,mount_tag=shared",
        ),
    )  # fmt: skip
    try:
        guest.wait_for("WRITTEN\n", 60)
        for name in ("soft", "hard", "office/desk", "shared"):
            assert (tmp_path / name / "new").read_text() == "from the container\n"
        assert {(tmp_path / name / "new").stat().st_uid for name in ("soft", "hard", "shared")} == {OWNER}
        island.end(nfs)
        (tmp_path / "shared/stopped").touch()
        guest.wait_for("DURING\n", 60)
        nfs = island.nfs()
        (tmp_path / "shared/started").touch()
        guest.wait_for("HOLDING\n", 60)
        island.end(nfs)
        (tmp_path / "shared/gone").touch()
        text = guest.result(60)
    finally:
        guest.close()
    check_life(re.sub(r"\x1b\[\d+m(\w+) +\|\x1b\[0m ", r"\1: ", text))
    assert ((tmp_path / "hard/late").read_text(), (tmp_path / "soft/again").read_text()) == ("late\n", "again\n")


def check_life(text: str) -> None:
    assert PASSWORD not in text
    life = text.partition("\ncode 7\n")[0]
    for line in (
        "app: soft: hello from soft", "app: hard: hello from hard", "app: office: hello from office/desk", "app: shared: hello from shared",
        "known to /etc/pyinit/password", "app: soft gave up", "app: hard went on", "app: soft came back",
    ):  # fmt: skip
        assert line + "\n" in life, text
    assert life.index("soft gave up") < life.index("hard went on") < life.index("soft came back")
    mounted = [line.split() for line in life.splitlines() if line.startswith("app: mounted ")]
    assert [(row[3], row[5], row[6]) for row in mounted] == [
        ("/soft", "nfs4", "nas:/soft"), ("/hard", "nfs4", "10.0.2.2:/hard"), ("/office", "cifs", "//nas/office/desk"), ("/shared", "9p", "shared"),
    ]  # fmt: skip
    for row, wanted in zip(mounted, ("vers=4.2 soft timeo=10 retrans=1", "vers=4.2 hard", "username=www-data uid=1000", "trans=virtio"), strict=True):
        assert set(wanted.split()) <= set(row[7].split(",")), row
        assert row[4].startswith("rw,nosuid,nodev"), row
    assert re.findall(r"^left (.*)$", text, re.MULTILINE) == ["0 0 0 1"] * 4, text
    refused, gone = text.partition("\ncode 7\n")[2].split("pyinit: app: ready\n")
    assert gone == "app: HOLDING\nshut 0\ncode 0\nleft 0 0 0 1\n", text
    told = refused.splitlines()[1:-1]
    assert told == [line for name, (_, why) in REFUSED.items() for line in (f"pyinit: /etc/pyinit/{name}.toml:11: {why}", "code 111")], text


def test_what_a_file_system_says_besides_its_errno_is_told():
    with pytest.raises(OSError) as caught:
        mount.new_filesystem("tmpfs", {"size": "1M", "nonsense": "1"})
    assert caught.value.strerror == "fsconfig tmpfs nonsense: Invalid argument: tmpfs: Unknown parameter 'nonsense'"
