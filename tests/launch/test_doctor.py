"""What a config needs of a host, and how a lack is said."""

import errno
import os

import pytest

from pyinit.launch import doctor, onhost, operations
from pyinit.launch.doctor import Finding, Need
from pyinit.launch.explain import explain
from pyinit.model import (
    CgroupLimits,
    Config,
    Container,
    Device,
    IdRange,
    InitSpec,
    Landlock,
    Layer,
    Mount,
    Network,
    Origin,
    ProcessSpec,
    Publish,
    Seccomp,
    Security,
    ServiceSpec,
    Shared,
)


def at(line: int) -> Origin:
    return Origin("x.toml", line)


def test_who_stands_in_anothers_root_needs_what_its_own_namespaces_do():
    box = Container("side", "side", (), namespaces=("uts", "net"), share=(Shared("mount", "container", "db"), Shared("pid", "container", "db")), origin=at(1))
    assert doctor.needs(Config("/x.toml", InitSpec(), (), box)) == [
        Need("kernel", at(1), "a container"), Need("capabilities", at(1), "a container"),
        Need("namespace uts", at(1), "the namespace uts"), Need("namespace net", at(1), "the namespace net"),
    ]  # fmt: skip


def test_what_a_config_needs_and_which_line_asks_for_it(tmp_path):
    box = Container(
        "web", "web", (Layer("/no/base.squashfs", at(2)), Layer(str(tmp_path), at(3))), namespaces=("pid", "time"),
        mounts=(Mount("squashfs", "/app", "/no/app.squashfs", origin=at(4)), Mount("bind", "/x", "/x", origin=at(5))),
        cgroup=CgroupLimits(memory_max_bytes=1 << 20, origin=at(6)), network=Network("veth", origin=at(7)), origin=at(1),
        security=Security(devices=(Device("/dev/fuse"),), devices_origin=at(12), seccomp=Seccomp("default", program=b"x", origin=at(1))),
    )  # fmt: skip
    service = ServiceSpec(
        "app", ("x",), origin=at(8), cgroup=CgroupLimits(pids_max=9, origin=at(9)),
        process=ProcessSpec(
            oom_score_adj=-5, origins=(("oom_score_adj", at(10)), ("landlock", at(11))), landlock=Landlock(("/usr",)),
            seccomp=Seccomp("default", program=b"y", origin=at(11)),
        ),
    )  # fmt: skip
    assert doctor.needs(Config("/x.toml", InitSpec(), (service,), box)) == [
        Need("kernel", at(1), "a container"), Need("capabilities", at(1), "a container"),
        Need("namespace pid", at(1), "the namespace pid"), Need("namespace time", at(1), "the namespace time"),
        Need("filesystem overlay", at(1), "the root"),
        Need("filesystem squashfs", at(2), "/no/base.squashfs"), Need("loop", at(2), "/no/base.squashfs"),
        Need("filesystem squashfs", at(4), "the mount on /app"), Need("loop", at(4), "the mount on /app"),
        Need("cgroup memory", at(6), "[container.cgroup]"),
        Need("cgroup devices", at(12), "[container.security] devices"),
        Need("network", at(7), "a veth"), Need("capability NET_ADMIN", at(7), "a veth"),
        Need("seccomp", at(1), "the filter of system calls"), Need("seccomp", at(11), "the filter of app"),
        Need("cgroup pids", at(9), "the limits of app"), Need("capability SYS_RESOURCE", at(10), "oom_score_adj of app"),
        Need("landlock", at(11), "landlock of app"),
    ]  # fmt: skip


def test_what_a_network_by_slirp4netns_needs():
    box = Container("web", "web", (), namespaces=(), network=Network("slirp4netns", origin=at(7)), origin=at(1))
    needs = doctor.needs(Config("/x.toml", InitSpec(), (), box))
    assert [need for need in needs if need.origin == at(7)] == [Need("tun", at(7), "its network"), Need("program slirp4netns", at(7), "its network")]


@pytest.mark.parametrize(
    ("network", "subjects"),
    [
        (Network("veth", addresses=("10.0.0.2/24",)), []),
        (Network("veth", pools=("10.0.0.0/24", "fd00::/64"), nat=True), ["nft", "forwarding IPv4", "forwarding IPv6"]),
        (Network("veth", pools=("10.0.0.0/24",), nat=True, forwarding=True), ["nft"]),
        (Network("veth", addresses=("fd00::2/64",), publish=(Publish("", 80, 80, "tcp"),)), ["nft", "forwarding IPv6"]),
        (Network("veth", addresses=("10.0.0.2/24",), publish=(Publish("127.0.0.1", 80, 80, "tcp"),)), ["nft"]),
        (Network("veth", addresses=("10.0.0.2/24",), outbound=()), ["nft", "br_netfilter"]),
    ],
)
def test_what_the_rules_of_a_network_need(network, subjects):
    box = Container("web", "web", (), namespaces=(), network=network._replace(origin=at(7)), origin=at(1))
    needs = doctor.needs(Config("/x.toml", InitSpec(), (), box))
    assert [need.subject for need in needs if need.origin == at(7)] == ["network", "capability NET_ADMIN", *subjects]


def test_what_a_macvlan_needs():
    box = Container("web", "web", (), namespaces=(), network=Network("macvlan", parent="eth0", addresses=("10.0.0.2/24",), origin=at(7)), origin=at(1))
    needs = doctor.needs(Config("/x.toml", InitSpec(), (), box))
    assert [need for need in needs if need.origin == at(7)] == [Need("network macvlan", at(7), "a macvlan"), Need("capability NET_ADMIN", at(7), "a macvlan")]


def test_what_rules_may_find_missing(monkeypatch):
    """As the start says it."""
    monkeypatch.setattr(doctor.firewall, "_read", lambda path: {"/proc/sys/net/ipv4/ip_forward": "0", "/proc/sys/net/ipv6/conf/all/forwarding": "1"}.get(path, ""))
    monkeypatch.setattr(doctor.firewall, "_PATH", "/no-such")
    monkeypatch.setattr(doctor.network, "_read", lambda _: "")
    assert [(found.state, found.text()) for found in doctor.examine(("forwarding IPv4", "forwarding IPv6", "nft", "br_netfilter"))] == [
        (
            "lack", "net.ipv4.ip_forward is 0, so this host passes nothing on between the container and others; `sysctl -w net.ipv4.ip_forward=1`, "
            "or write forwarding = true in [container.network] to have that done",
        ),
        ("ok", ""),
        ("lack", "there is no program nft on this host; install it (Debian: nftables)"),
        ("lack", "this kernel has no br_netfilter, which outbound needs between the containers of a bridge; `modprobe br_netfilter`"),
    ]  # fmt: skip


def test_what_mounts_need():
    layers = (Layer("/no/a.squashfs", at(9)),)
    mounts = (
        Mount("bind", "/b", "/b", idmap=(IdRange("uid", 1, 2),), origin=at(4)), Mount("nfs4", "/n", "h:/x", origin=at(5)),
        Mount("fuse.no-such", "/f", "x", origin=at(6)), Mount("overlay", "/o", layers=layers, origin=at(7)),
    )  # fmt: skip
    needs = doctor.needs(Config("/x.toml", InitSpec(), (), Container("web", "web", (), namespaces=(), mounts=mounts, origin=at(1))))
    assert [(need.subject, need.origin.line) for need in needs if "mount" in need.what] == [
        ("idmap", 4), ("filesystem nfs4", 5), ("fuse", 6), ("program no-such", 6),
        ("filesystem overlay", 7), ("filesystem squashfs", 7), ("loop", 7),
    ]  # fmt: skip
    assert doctor.diagnosis(("program no-such", "program sh")) == (
        "program no-such: it is in no folder of the PATH; install it (on Debian most likely the package no-such)"
    )


def test_every_need_is_a_subject_that_is_known():
    assert {subject.partition(" ")[0] for subject in doctor.SUBJECTS} | {"program"} == set(doctor._PROBES)
    assert [finding.subject for finding in doctor.examine()] == list(doctor.SUBJECTS)


@pytest.mark.parametrize(
    ("abi", "state", "text"),
    [
        (0, "lack", "this kernel has none, was started without it, or a seccomp filter forbids it; run one with CONFIG_SECURITY_LANDLOCK, and landlock among its lsm="),
        (3, "ok", "ABI 3, without TCP ports and scope"), (5, "ok", "ABI 5, without scope"), (7, "ok", "ABI 7"),
    ],
)  # fmt: skip
def test_what_landlock_here_can_do(monkeypatch, abi, state, text):
    monkeypatch.setattr(doctor.landlock, "abi", lambda: abi)
    [found] = doctor.examine(("landlock",))
    assert (found.state, found.text()) == (state, text)


def refuse(number: int):
    def action(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return action


@pytest.mark.parametrize(
    ("subject", "module", "name", "number", "text"),
    [
        ("namespace time", "namespaces", "unshare", errno.EINVAL, "this kernel was built without it; run one that has it, or take it out of namespaces"),
        ("namespace mount", "namespaces", "unshare", errno.ENOSPC, "user.max_mnt_namespaces is reached; raise it by sysctl"),
        ("filesystem squashfs", "mount", "probe_filesystem", errno.ENODEV, "this kernel has it neither built in nor as a module; load or install the module squashfs"),
        ("seccomp", "process", "prctl", errno.EINVAL, "this kernel was built without it; run one with CONFIG_SECCOMP_FILTER"),
    ],
)
def test_a_lack_says_why_and_what_mends_it(monkeypatch, subject, module, name, number, text):
    monkeypatch.setattr(getattr(doctor, module), name, refuse(number))
    [found] = doctor.examine((subject,))
    assert (found.state, found.text()) == ("lack", text)
    assert doctor.diagnosis((subject, "kernel")) == f"{subject}: {text}"


def test_sysctls_that_keep_users_from_namespaces(monkeypatch):
    values = {path: good for path, _, _, good in doctor._SYSCTLS}
    monkeypatch.setattr(doctor, "_read", lambda path: values.get(path, ""))
    assert doctor.examine(("userns",)) == [Finding("userns", "ok")]
    values["/proc/sys/kernel/apparmor_restrict_unprivileged_userns"] = "1"
    assert doctor.examine(("userns",))[0].text() == (
        "kernel.apparmor_restrict_unprivileged_userns = 1; AppArmor takes the capabilities in user namespaces away; "
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    )
    values["/proc/sys/user/max_user_namespaces"] = "0"
    assert doctor.examine(("userns",))[0].text() == (
        "user.max_user_namespaces = 0; no user namespaces are allowed at all; sysctl -w user.max_user_namespaces=10000"
    )


def test_where_user_namespaces_are_forbidden_that_is_all_that_is_said(monkeypatch):
    """What else lacks then lacks for that."""
    monkeypatch.setattr(doctor, "_read", lambda path: "1" if path.endswith("apparmor_restrict_unprivileged_userns") else "")
    why = "userns: kernel.apparmor_restrict_unprivileged_userns = 1; AppArmor takes the capabilities in user namespaces away; sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    monkeypatch.setattr(doctor.namespaces, "unshare", refuse(errno.EPERM))
    step = onhost.Isolate(("pid", "mount"), at(1), rootless=True)
    refused = OSError(errno.EPERM, "clone3: Operation not permitted")
    assert explain(step, refused) == f"x.toml:1: clone PID 1 into new namespaces: pid mount: clone3: Operation not permitted; {why}"
    assert "userns" not in explain(step._replace(rootless=False), refused)  # which root does not need


def test_a_step_that_fails_tells_what_the_doctor_says(monkeypatch):
    monkeypatch.setattr(doctor.mount, "probe_filesystem", refuse(errno.ENODEV))
    step = operations.AttachLayer(0, "/no/base.squashfs", at(2))
    said = explain(step, OSError(errno.ENODEV, "mount squashfs: No such device"))
    assert said.startswith(
        "x.toml:2: mount layer 0, /no/base.squashfs, read-only: mount squashfs: No such device; filesystem squashfs: this kernel "
        "has it neither built in nor as a module; load or install the module squashfs"
    )
    folder = operations.AttachLayer(0, "/", at(2))  # needs nothing that could lack
    assert explain(folder, OSError(errno.EPERM, "open_tree /: Operation not permitted")) == (
        "x.toml:2: mount layer 0, /, read-only: open_tree /: Operation not permitted"
    )
    assert explain(step, OSError(errno.ENOMEM, "Cannot allocate memory")).endswith("read-only: Cannot allocate memory")


@pytest.mark.parametrize(
    ("mounts", "walks", "release", "text"),
    [
        (None, None, "6.1", "the new one"),
        (("open_tree", errno.EPERM), ("openat2", errno.EPERM), "6.1", "the old one, mount(2): open_tree is refused by a seccomp filter (Operation not permitted)"),
        (("mount_setattr", errno.ENOSYS), None, "5.15.0-91-generic", "the old one, mount(2): mount_setattr is refused by a seccomp filter (Function not implemented)"),
        (("mount_setattr", errno.ENOSYS), None, "5.10.0", "the old one, mount(2): mount_setattr came with kernel 5.12, this one is older"),
        (None, ("openat2", errno.ENOSYS), "5.4.0", "the new one, but for one call: openat2 came with kernel 5.6, this one is older"),
    ],
)
def test_which_mount_api_is_used_and_why(monkeypatch, mounts, walks, release, text):
    monkeypatch.setitem(doctor.mount._decided, "mounts", mounts and doctor.mount.Refusal(*mounts))
    monkeypatch.setitem(doctor.mount._decided, "walks", walks and doctor.mount.Refusal(*walks))
    monkeypatch.setattr(doctor, "_version", lambda: tuple(map(int, release.split(".")[:2])))
    monkeypatch.setattr(doctor.caps, "has", bool)
    assert doctor.examine(("mount API",)) == [Finding("mount API", "ok", text)]
