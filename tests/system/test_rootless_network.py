"""The network of an ordinary user's container: slirp4netns, published ports, the end of it all; on a host of its own."""

import os
import pathlib
import re
import signal
import stat
import subprocess

import netlab
import pytest
from conftest import Pyinit, wait_until
from netlab import HERE4, HERE6, HOST, OUTSIDE, THERE4, THERE6, Place, refusal, talks_tcp, talks_udp
from test_each_step import Driver, same_as, seen
from test_rootless import USER, WAIT, Ordinary, made, servers, subids  # noqa: F401 - a fixture

LOOP, OWN = "127.0.0.1", "10.0.2.100"
BIND = 'for f in /dev/fuse /dev/net/tun /etc/resolv.conf; do mount --bind "$1" $f || exit; shift; done; exec "$@"'


class Networked(Ordinary):
    """On the host of netlab, with a /dev/net/tun that he may open, and a resolver."""

    host, outside = Place(f"/run/netns/{HOST}"), Place(f"/run/netns/{OUTSIDE}")

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(folder)
        os.mknod(folder / "tun", stat.S_IFCHR | 0o666, os.makedev(10, 200))
        os.chmod(folder / "tun", 0o666)
        (folder / "resolv.conf").write_text(f"nameserver {THERE4}\n")

    def command(self, fuse: str = "fuse") -> tuple[str, ...]:
        user = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", "--inh-caps=-all")
        files = [str(self.folder / name) for name in (fuse, "tun", "resolv.conf")]
        return ("nsenter", f"--net=/run/netns/{HOST}", "unshare", "-m", "sh", "-c", BIND, "sh", *files, *user, "/usr/bin/python3", "-m", "pyinit")

    def close(self) -> None:
        super().close()
        wait_until(lambda: slirps() == [], "the end of slirp4netns")

    def launch(self, keys: str = "", more: str = "", **keywords) -> Pyinit:
        return self.start(more, f'[container.network]\nmode = "slirp4netns"\n{keys}{WAIT}', **keywords)

    def up(self, keys: str = "", more: str = "", **keywords) -> Pyinit:
        box = self.launch(keys, more, **keywords)
        box.wait_for("app: ready")
        return box

    def inside(self) -> Place:
        return Place(f"/proc/{self.pid()}/ns/net")

    def refused(self, keys: str = "", **keywords) -> str:
        box = self.launch(keys, 'user_namespace = { map = "single" }\n', **keywords)
        assert box.wait() == 111, box.output
        found = re.fullmatch(r"(pyinit: .* it runs without groups and limits; .*\n)?pyinit: \S*/services.toml:(.*)\n", box.output)
        assert found, box.output
        return found[2]


def slirps() -> list[int]:
    """Processes of slirp4netns of that user."""
    found = subprocess.run(["pgrep", "-u", USER, "slirp4netns"], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in found.split()]


@pytest.fixture(scope="module")
def host():
    netlab.make()
    yield
    netlab.remove()


@pytest.fixture
def user(host, subids, nothing_left, tmp_path):  # noqa: F811 - the fixture above
    yield from made(Networked, subids, tmp_path)


def test_a_whole_container_of_an_ordinary_user(user):
    """Ids by newuidmap, an image by squashfuse, a writable overlay, a network with published ports: what the issue promises."""
    publish = f'publish = ["8080:80", "8080:81/udp", "{LOOP}:8081:80", "{HERE4}:8082-8083:82-83"]\nhosts = {{ "db" = "10.0.2.2" }}\n'
    box = user.up(publish, 'writable = "tmpfs"\n')
    inside = user.inside()
    assert pathlib.Path(f"/proc/{user.pid()}/uid_map").read_text().split() == ["0", str(user.uid), "1", "1", "500000", "65536"]
    assert (len(servers()), len(slirps())) == (1, 1)
    assert user.sh("cat /data/app; echo new > /data/app; cat /data/app; mount | awk '$3 == \"/\" { print $5 }'") == "appnew\noverlay\n"
    assert "userxattr" in pathlib.Path(f"/proc/{user.pid()}/mountinfo").read_text()
    assert user.sh("cat /etc/resolv.conf; grep -v localhost /etc/hosts; ip -4 -o addr show host0 | awk '{ print $4 }'; ip route | head -1").splitlines() == [
        "nameserver 10.0.2.3", "10.0.2.100\tmine", "10.0.2.2\tdb", "10.0.2.100/24", "default via 10.0.2.2 dev host0 ",
    ]  # fmt: skip
    assert talks_tcp(inside, (THERE4, 5000), user.outside, (THERE4, 5000)) == HERE4
    assert talks_udp(inside, (THERE4, 5000), user.outside, (THERE4, 5000)) == HERE4
    talks_udp(inside, ("10.0.2.3", 53), user.outside, (THERE4, 53))  # the host's resolver
    talks_tcp(user.outside, (HERE4, 8080), inside, (OWN, 80))
    talks_tcp(user.host, (LOOP, 8080), inside, (OWN, 80))
    talks_tcp(user.host, (LOOP, 8081), inside, (OWN, 80))
    talks_tcp(user.outside, (HERE4, 8083), inside, (OWN, 83))
    talks_udp(user.outside, (HERE4, 8080), inside, (OWN, 81))
    assert refusal(user.outside, HERE4, 8081) == "ConnectionRefusedError"
    assert refusal(user.host, LOOP, 8082) == "ConnectionRefusedError"
    with user.host.listen(LOOP, 5001):
        assert refusal(inside, "10.0.2.2", 5001) != "connected"
    assert not (user.folder / "run/pyinit/mine/slirp.sock").exists()
    assert box.stop() == 0
    assert slirps() == []
    user.up(publish)  # at once, whatever is left of the old connections


def test_root_alone_serves_a_published_port(user):
    """One id, and no program that gives others: what the container's own service says comes out by curl."""
    serve = '[services.app]\ncommand = ["/bin/nc", "-ll", "-p", "80", "-e", "/bin/cat", "/data/app"]\nready = { tcp = "127.0.0.1:80" }\n'
    path = user.folder / "services.toml"
    path.write_text(
        '[container]\nname = "mine"\nlayers = ["image.squashfs"]\nwritable = "tmpfs"\nuser_namespace = { map = "single" }\n'
        f'[container.network]\nmode = "slirp4netns"\npublish = ["8080:80"]\n{serve}'
    )
    box = Pyinit(path, command=user.command(), cwd=user.folder / "home", env=user.environment())
    user.running.append(box)
    box.wait_for("app: ready")
    assert pathlib.Path(f"/proc/{user.pid()}/uid_map").read_text().split() == ["0", str(user.uid), "1"]
    assert (len(servers()), len(slirps())) == (1, 1)
    for place, address in ((user.outside, HERE4), (user.host, LOOP)):
        done = place.run("curl", "-sS", "--http0.9", "--max-time", "10", f"http://{address}:8080/")
        assert done.stdout == "app", done
    assert box.stop() == 0


def test_ipv6_a_network_of_its_own_choice_and_an_mtu(user):
    user.up('pool = "10.77.0.0/16"\nipv6 = true\nmtu = 1400\ndns = ["192.0.2.9"]\n')
    inside = user.inside()
    assert user.sh("cat /etc/resolv.conf; ip -4 -o addr show host0 | awk '{ print $4 }'; cat /sys/class/net/host0/mtu") == "nameserver 192.0.2.9\n10.77.0.100/16\n1400\n"
    wait_until(lambda: re.search(r"inet6 fd00:.* scope global(?! tentative)", user.sh("ip -6 addr show host0")), "IPv6")
    assert talks_tcp(inside, (THERE6, 5000), user.outside, (THERE6, 5000)) == HERE6
    assert talks_tcp(inside, (THERE4, 5000), user.outside, (THERE4, 5000)) == HERE4


def test_it_ends_with_a_killed_launcher_and_is_there_again_at_the_next_start(user):
    box = user.up('publish = ["8080:80"]\n')
    (slirp,) = slirps()
    box.process.kill()
    box.wait()
    wait_until(lambda: slirps() == [], "the end of slirp4netns")
    again = user.up('publish = ["8080:80"]\n')
    assert slirps() != [slirp]
    talks_tcp(user.outside, (HERE4, 8080), user.inside(), (OWN, 80))
    assert again.stop() == 0


def test_it_is_started_again_when_it_ends_before_the_container(user):
    box = user.up('publish = ["8080:80"]\n')
    (slirp,) = slirps()
    os.kill(slirp, signal.SIGKILL)
    box.wait_for("pyinit: network: slirp4netns is connected again\n")
    assert re.findall("pyinit: network: (.*)\n", box.output) == [
        "slirp4netns was killed by signal 9; it is started again in 0.1 s", "slirp4netns is connected again",
    ]  # fmt: skip
    talks_tcp(user.outside, (HERE4, 8080), user.inside(), (OWN, 80))
    talks_tcp(user.inside(), (THERE4, 5000), user.outside, (THERE4, 5000))
    assert box.stop() == 0


def test_what_can_t_be_had_is_told_in_a_line(user):
    with user.host.listen(HERE4, 8081):
        assert user.refused('publish = [\n"8080:80",\n"8081"]\n') == (
            "9: container.network.publish: 0.0.0.0:8081/tcp is in use by another program; stop that, or publish another port"
        )
        user.launch('publish = ["127.0.0.1:8081:80"]\n').wait_for("app: ready")
        user.running[-1].stop()
    assert user.refused('publish = ["192.0.2.1:8080:80/udp"]\n') == (
        "7: container.network.publish: 192.0.2.1:8080/udp is no address of this host; name one that it has"
    )
    assert user.refused('publish = ["80"]\n') == (
        "7: container.network.publish: 0.0.0.0:80/tcp is below 1024, the first port that an ordinary user may have; publish another, or "
        "`sysctl -w net.ipv4.ip_unprivileged_port_start=80`"
    )
    start = "5: start slirp4netns, host0 with 10.0.2.100/24 inside, default route by 10.0.2.2"
    os.mkdir(user.folder / "bin")
    for name in ("squashfuse", "setpriv", "sh", "mount", "unshare", "nsenter"):
        os.symlink(f"/usr/bin/{name}", user.folder / "bin" / name)
    assert user.refused(environment={"PATH": str(user.folder / "bin")}) == (
        f"{start}: No such file or directory; program slirp4netns: it is in no folder of the PATH; install it (on Debian most likely the package slirp4netns)"
    )
    os.chmod(user.folder / "tun", 0o600)
    assert user.refused() == f"{start}: Permission denied; tun: /dev/net/tun can't be opened; set its mode to 0666"
    path = str(user.folder / "services.toml")
    assert f"{path}:5: its network needs tun: /dev/net/tun can't be opened; set its mode to 0666\n" in user.verb("doctor", path).stdout


def test_its_own_words_are_told_where_it_fails(user):
    program = user.folder / "bin/slirp4netns"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'sent tapfd=5 for host0' >&2; echo 'out of luck' >&2; exit 3\n")
    program.chmod(0o755)
    said = user.refused(environment={"PATH": f"{program.parent}:{os.environ['PATH']}"})
    assert said == "5: start slirp4netns, host0 with 10.0.2.100/24 inside, default route by 10.0.2.2: slirp4netns: out of luck"


ROOTS = """
[init]
exit = "when-main-exits"
main = "app"
stop_timeout = "1s"
[container]
name = "pyinit-test"
layers = ["{layer}"]
user_namespace = {{ map = [{{ inside = 0, outside = 200000, count = 65536 }}] }}
[container.network]
mode = "slirp4netns"
publish = ["127.0.0.1:18080:80"]
[container.sysctl]
"net.ipv4.ip_unprivileged_port_start" = 79
[services.app]
log = {{ to = "stdout", timestamp = "none" }}
command = ["/bin/sh", "-c", "ip -4 -o addr show host0 | awk '{{ print $4 }}'; echo whole"]
"""


def test_of_root_each_operation_fails_in_turn_and_its_launcher_is_killed_there(host, nothing_left, busybox, tmp_path):
    (tmp_path / "services.toml").write_text(ROOTS.format(layer=busybox))
    driver = Driver(tmp_path / "services.toml")
    try:
        def whole(what: str = "") -> None:
            done = driver.run()
            assert (done["code"], done["left"], "app: 10.0.2.100/24\napp: whole\n" in done["text"]) == (0, [], True), f"{what}: {done}"

        whole()
        before = seen()
        for number, (origin, words, kind) in enumerate(driver.steps):
            for when in ("before", "after"):
                done = driver.run(step=number, when=when, errno=1)
                assert (done["code"], done["left"]) == (111, []), done
                assert f"pyinit: {origin}: {words}: Operation not permitted" in done["text"], done  # after PID 1's own its services are up
                same_as(before, f"{when} {words}")
            if kind in ("MakeNetwork", "MakeCgroup", "Pivot"):
                for when in ("before", "after"):
                    driver.do("start", step=number, when=when)
                    driver.do("kill")
                    whole(f"killed {when} {words}")
                    same_as(before, f"killed {when} {words}")
    finally:
        driver.close()
