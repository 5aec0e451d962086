"""A host of its own to run pyinit on, in a network namespace, and another machine that it can reach.

`outside` (198.51.100.2, 2001:db8::2) is behind the host's link up0 (198.51.100.1, 2001:db8::1). What a socket does
somewhere is done by a child that has entered that network: the sockets themselves come back.
"""

import contextlib
import os
import pathlib
import re
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

from conftest import DEADLINE_S, Pyinit

from pyinit.linux import namespaces

HOST, OUTSIDE = "pyinit-test-host", "pyinit-test-outside"
HERE4, HERE6, THERE4, THERE6 = "198.51.100.1", "2001:db8::1", "198.51.100.2", "2001:db8::2"


def ip(*words: str, at: str = "") -> str:
    return subprocess.run(["ip", *(["-n", at] if at else []), *words], check=True, capture_output=True, text=True).stdout


def in_net(path: str, action):
    """`action()` in the network namespace at `path`; this process, which has one thread here, comes back."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    other = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.enter(other, namespaces.CLONE_FLAGS["net"])
        try:
            return action()
        finally:
            namespaces.enter(own, namespaces.CLONE_FLAGS["net"])
    finally:
        os.close(other)
        os.close(own)


class Place:
    """A network: `host`, `outside`, or a container's."""

    def __init__(self, path: str) -> None:
        self.path = path

    def open(self, address: str, kind: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = in_net(self.path, lambda: socket.socket(family, kind))
        made.settimeout(DEADLINE_S)
        return made

    def listen(self, address: str, port: int) -> socket.socket:
        made = self.open(address, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((address, port))
            made.listen(16)
        except OSError:
            made.close()
            raise
        return made

    def receive(self, address: str, port: int) -> socket.socket:
        made = self.open(address, socket.SOCK_DGRAM)
        made.bind((address, port))
        return made

    def connect(self, address: str, port: int, timeout_s: float = DEADLINE_S) -> socket.socket:
        made = self.open(address, socket.SOCK_STREAM)
        made.settimeout(timeout_s)
        try:
            made.connect((address, port))
        except BaseException:
            made.close()
            raise
        return made

    def read(self, path: str) -> str:
        return subprocess.run(["nsenter", f"--net={self.path}", "cat", path], check=True, capture_output=True, text=True).stdout

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["nsenter", f"--net={self.path}", *words], check=False, capture_output=True, text=True, timeout=60)


def talks_tcp(client: Place, to: tuple[str, int], server: Place, at: tuple[str, int]) -> str:
    """Who the server sees, once a word went there and another one came back."""
    with server.listen(*at) as listener, client.connect(*to) as near:
        far, peer = listener.accept()
        with far:
            far.settimeout(DEADLINE_S)
            near.sendall(b"ping")
            assert far.recv(16) == b"ping"
            far.sendall(b"pong")
            assert near.recv(16) == b"pong"
    return peer[0]


def talks_udp(client: Place, to: tuple[str, int], server: Place, at: tuple[str, int]) -> str:
    """As talks_tcp; the answer comes from the address that was asked."""
    with server.receive(*at) as far, client.open(to[0], socket.SOCK_DGRAM) as near:
        near.sendto(b"ping", to)
        word, peer = far.recvfrom(16)
        assert word == b"ping"
        far.sendto(b"pong", peer)
        word, sender = near.recvfrom(16)
        assert (word, sender[:2]) == (b"pong", to)
    return peer[0]


def refusal(client: Place, address: str, port: int, timeout_s: float = 2.0) -> str:
    """Why a TCP connection does not come about."""
    try:
        client.connect(address, port, timeout_s).close()
    except OSError as error:
        return type(error).__name__
    return "connected"


class Lab:
    """The host and the outside; `start` runs a container on the host."""

    def __init__(self, bench, busybox: pathlib.Path) -> None:
        self.bench = bench
        self.busybox = busybox
        self.host, self.outside = Place(f"/run/netns/{HOST}"), Place(f"/run/netns/{OUTSIDE}")

    def write_setting(self, name: str, value: str) -> None:
        done = self.host.run("sh", "-c", f"echo {value} > /proc/sys/{name}")
        assert done.returncode == 0, done.stderr

    def setting(self, name: str) -> str:
        return self.host.read(f"/proc/sys/{name}").strip()

    def text(self, network: str, name: str = "web", command: str = "echo up; exec sleep 1000", more: str = "") -> str:
        return (
            f'[init]\nexit = "when-main-exits"\nmain = "app"\n[container]\nname = "pyinit-{name}"\nlayers = ["{self.busybox}"]\n'
            f"[container.network]\n{network}\n{more}"
            f"[services.app]\nlog = {{ to = \"stdout\", timestamp = \"none\" }}\ncommand = ['/bin/sh', '-c', '''{command}''']\n"
        )

    def launch(self, text: str, name: str = "web", **keys) -> Pyinit:
        command = ("nsenter", f"--net=/run/netns/{HOST}", sys.executable, "-m", "pyinit")
        return self.bench.start(text, name=f"{name}/services.toml", command=command, **keys)

    def start(self, network: str, name: str = "web", **keys) -> Pyinit:
        """Once its service is up."""
        box = self.launch(self.text(network, name, **keys), name)
        box.wait_for("app: up")
        return box

    def refused(self, network: str, name: str = "other", **keys) -> str:
        """What is said of a start that fails, without the file's path."""
        box = self.launch(self.text(network, name, **keys), name)
        assert box.wait() == 111, box.output
        return re.sub(r"\S*/services.toml", "services.toml", box.output)

    def inside(self, name: str = "web") -> Place:
        pid = pathlib.Path(f"/run/pyinit/pyinit-{name}/pid").read_text().strip()
        return Place(f"/proc/{pid}/ns/net")

    def addresses(self, name: str = "web") -> list[str]:
        rows = pathlib.Path(f"/run/pyinit/pyinit-{name}/journal").read_text().splitlines()
        return [row.partition("\t")[2] for row in rows if row.startswith("address\t")]

    def forwarder(self, name: str = "web") -> int:
        """Who carries to it what comes at ::1, in its last life."""
        rows = pathlib.Path(f"/run/pyinit/pyinit-{name}/journal").read_text().splitlines()
        return next(int(row.split()[1]) for row in reversed(rows) if row.startswith("forwarder\t"))

    def hosts(self, name: str = "web") -> list[str]:
        """The lines of /etc/hosts, as the container has it."""
        pid = pathlib.Path(f"/run/pyinit/pyinit-{name}/pid").read_text().strip()
        return pathlib.Path(f"/proc/{pid}/root/etc/hosts").read_text().splitlines()

    def left(self) -> tuple[str, list[str]]:
        """(nft's rules, links) of the host: nothing and what it began with, when all are gone."""
        rules = self.host.run("nft", "list", "ruleset").stdout
        links = re.findall(r"^\d+: ([\w-]+)", ip("-o", "link", at=HOST), re.M)
        return rules, [link for link in links if link not in ("lo", "up0", "ifb0", "ifb1")]


def make() -> None:
    ip("netns", "add", HOST)
    ip("netns", "add", OUTSIDE)
    ip("link", "add", "up0", "netns", HOST, "type", "veth", "peer", "name", "up0", "netns", OUTSIDE)
    for at, four, six in ((HOST, HERE4, HERE6), (OUTSIDE, THERE4, THERE6)):
        ip("link", "set", "lo", "up", at=at)
        ip("addr", "add", f"{four}/24", "dev", "up0", at=at)
        ip("addr", "add", f"{six}/64", "dev", "up0", "nodad", at=at)
        ip("link", "set", "up0", "up", at=at)


def remove() -> None:
    for name in (HOST, OUTSIDE):
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def send_frame(source: str, to: str, port: int) -> None:
    """A datagram that says `to`, from the outside to the host's link, whatever routes and addresses say."""
    there, here = (bytes.fromhex(mac("up0", at).replace(":", "")) for at in (OUTSIDE, HOST))
    data = f"to {to}".encode()
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(data), 1, 0, 64, socket.IPPROTO_UDP, 0, socket.inet_aton(source), socket.inet_aton(to))
    total = sum(struct.unpack("!10H", head))
    check = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    packet = head[:10] + struct.pack("!H", check) + head[12:] + struct.pack("!HHHH", 5000, port, 8 + len(data), 0) + data
    with in_net(f"/run/netns/{OUTSIDE}", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as link:
        link.bind(("up0", 0))
        link.send(here + there + struct.pack("!H", 0x0800) + packet)


def advertise(place: Place, link: str) -> None:
    """From there a router's word (RFC 4861, 4.2) that it is the way to everywhere, and that fd66::/64 is on the link."""
    source, group = (socket.inet_pton(socket.AF_INET6, text) for text in ("fe80::66", "ff02::1"))
    prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 3600, 3600, 0, socket.inet_pton(socket.AF_INET6, "fd66::"))
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
    total = sum(struct.unpack(f"!{20 + len(body) // 2}H", source + group + struct.pack("!II", len(body), 58) + body))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
    head = struct.pack("!IHBB16s16s", 6 << 28, len(body), 58, 255, source, group)
    with in_net(place.path, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as raw:
        in_net(place.path, lambda: raw.bind((link, 0)))
        raw.send(bytes.fromhex("333300000001") + raw.getsockname()[4] + struct.pack("!H", 0x86DD) + head + body)


def mac(link: str, at: str) -> str:
    return re.findall(r"link/ether (\S+)", ip("-o", "link", "show", link, at=at))[0]


@contextlib.contextmanager
def routes(*networks: str) -> Iterator[None]:
    """The outside sends what is for these to the host."""
    for network in networks:
        ip("route", "add", network, "via", HERE6 if ":" in network else HERE4, at=OUTSIDE)
    try:
        yield
    finally:
        for network in networks:
            ip("route", "del", network, at=OUTSIDE)


def wait_for_datagram(sock: socket.socket, timeout_s: float) -> bool:
    return bool(select.select([sock], [], [], timeout_s)[0])
