"""The plan of a launch: pure, so without root, files or a kernel."""

from pyinit.launch import operations, plan
from pyinit.model import (
    DEFAULT_CAPABILITIES,
    CgroupLimits,
    Config,
    Container,
    Content,
    Device,
    FileSpec,
    HostHook,
    HostHooks,
    IdRange,
    InitSpec,
    IoLimit,
    Layer,
    LogSpec,
    Mount,
    Network,
    Origin,
    Place,
    ProcessSpec,
    Publish,
    Seccomp,
    Security,
    ServiceSpec,
    Shared,
    Sysctl,
    UserNamespace,
)


def at(line: int) -> Origin:
    return Origin("services.toml", line)


def config(*, log: str = "null", **changes) -> Config:
    box = Container("web", "web-1", (Layer("/img/base.squashfs", at(3)),), origin=at(1))
    service = ServiceSpec("app", ("/bin/app",), log=LogSpec(to=log))
    return Config("/etc/pyinit/services.toml", InitSpec(), (service,), box._replace(**changes))


def words(*, log: str = "null", **changes) -> list[str]:
    return [f"{step.origin.line} {step.describe()}" for step in plan.make(config(log=log, **changes)).operations()]


DEFAULT = [
    "1 clone PID 1 into new namespaces: pid mount uts ipc cgroup net",
    "1 make cgroup pyinit-web",
    "1 make all mounts private, mount a staging tmpfs",
    "3 mount layer 0, /img/base.squashfs, read-only",
    "1 mount the root: 1 image layer(s) under a generated one, read-only",
    "1 mount proc on /proc (nosuid,nodev,noexec)",
    "1 mount sysfs on /sys (ro,nosuid,nodev,noexec)",
    "1 mount tmpfs on /dev (nosuid,noexec,mode=0755,size=64k,nr_inodes=1k)",
    "1 make /dev/null zero full random urandom tty and the links fd stdin stdout stderr ptmx",
    "1 mount devpts on /dev/pts (nosuid,noexec,ptmxmode=0666,mode=0620,gid=5)",
    "1 mount tmpfs on /dev/shm (nosuid,nodev,noexec,mode=1777,size=64m,nr_inodes=16384)",
    "1 mount mqueue on /dev/mqueue (nosuid,nodev,noexec)",
    "1 mount tmpfs on /run",
    "1 mount tmpfs on /tmp",
    "1 mask 15 paths, make 5 read-only",
    "1 set the host name web-1",
    "1 join a new session keyring, leave the host's keys",
    "1 mount cgroup2 on /sys/fs/cgroup (ro,nosuid,nodev,noexec)",
    "1 pivot_root, detach the host's root",
    "1 limit the bounding set to AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP "
    "SETUID SYS_CHROOT",
]


def test_the_least_config_step_by_step():
    assert words() == DEFAULT


def test_ram_disks_fit_into_the_memory():
    limits = CgroupLimits(memory_max_bytes=256 << 20)
    mounts = (
        Mount("tmpfs", "/tmp", options=(("nr_inodes", "77"),), origin=at(5)), Mount("tmpfs", "/data", size_bytes=1 << 20, origin=at(6)),
        Mount("tmpfs", "/blocks", options=(("nr_blocks", "9"),), origin=at(7)),
    )  # fmt: skip
    assert [line for line in words(cgroup=limits, writable="tmpfs", mounts=mounts) if "mount tmpfs" in line or "RAM" in line] == [
        "1 mount the root: 1 image layer(s) under a generated one, with a RAM upper layer of 32M, 8192 inodes",
        "1 mount tmpfs on /dev (nosuid,noexec,mode=0755,size=64k,nr_inodes=1k)",
        "1 mount tmpfs on /dev/shm (nosuid,nodev,noexec,mode=1777,size=32m,nr_inodes=8192)",
        "1 mount tmpfs of 32M on /run (nr_inodes=8192)",
        "5 mount tmpfs of 32M on /tmp (nr_inodes=77)",
        "6 mount tmpfs of 1M on /data (nr_inodes=1024)",
        "7 mount tmpfs on /blocks (nr_blocks=9,nr_inodes=1024)",
    ]


def test_changes_go_to_memory_to_a_folder_or_only_from_some_paths():
    root = "1 mount the root: 1 image layer(s) under a generated one, "
    own = "make /srv/state with its upper and work folders, lock it for this container"
    kept = {"writable": "/srv/state", "writable_origin": at(5)}
    paths = (Place("/var/lib/app", at(6)), Place("/srv", at(6)))
    for changes, expected in (
        ({"writable": "tmpfs"}, [f"{root}with a RAM upper layer"]),
        ({"writable": "tmpfs", "writable_size_bytes": 1 << 20, "writable_inodes": 99}, [f"{root}with a RAM upper layer of 1M, 99 inodes"]),
        (kept, [f"5 {own}", f"{root}with the upper layer /srv/state/upper"]),
        (
            {**kept, "writable_paths": paths},
            [f"5 {own}", f"{root}read-only, the upper layer /srv/state/upper for its writable paths", "6 make /var/lib/app writable", "6 make /srv writable"],
        ),
    ):  # fmt: skip
        assert [line for line in words(**changes) if line not in DEFAULT] == expected
    steps = plan.make(config(**kept)).operations()
    assert "the lock goes with the monitor and PID 1; the folder is kept" in [step.undo() for step in steps]


def test_pinned_images_are_checked_before_anything_is_made():
    layers = (Layer("/img/base.squashfs", at(3), "0" * 64), Layer("/img/app.squashfs", at(4)))
    mounts = (Mount("squashfs", "/lib", "/img/lib.squashfs", origin=at(6), source_origin=at(7), sha256="1" * 64),)
    assert words(layers=layers, mounts=mounts)[1:4] == [
        f"3 check that /img/base.squashfs has the digest sha256:{'0' * 64}",
        f"7 check that /img/lib.squashfs has the digest sha256:{'1' * 64}",
        "1 make cgroup pyinit-web",
    ]
    assert "4 check that layer 1, /img/app.squashfs, is for the base below it, if it names one" in words(layers=layers)


def test_filters_stand_with_their_lines():
    """The container's once, and those of services that differ."""

    def service(name: str, seccomp: Seccomp) -> ServiceSpec:
        return ServiceSpec(name, ("/bin/x",), log=LogSpec(to="null"), process=ProcessSpec(seccomp=seccomp), origin=at(20))

    common = Seccomp("default", program=b"a" * 8, origin=at(9))
    services = (
        service("same", common),
        service("fewer", common._replace(program=b"b" * 8)),
        service("free", Seccomp(origin=at(22))),
        service("own", Seccomp("/etc/calls.toml", log=True, program=b"c" * 8, origin=at(23))),
    )
    base = config(security=Security(seccomp=common))
    found = plan.make(base._replace(services=services))
    assert [f"{step.origin.line} {step.describe()}" for step in found.own if isinstance(step, operations.FilterCalls)] == [
        "9 filter the system calls of every service: default",
        "9 filter the system calls of fewer: default",
        "22 filter the system calls of free: all are let through",
        "23 filter the system calls of own: /etc/calls.toml, what it refuses is let through and logged",
    ]
    assert words(init="/sbin/init", security=Security(seccomp=common._replace(origin=at(0))))[-2] == "1 filter the system calls of /sbin/init: default"


def test_what_stays_on_the_host_says_how_it_is_undone():
    steps = plan.make(config(network=Network("veth", "br0", ("10.1.0.2/24",), ("10.1.0.1",), origin=at(9)))).operations()
    assert [step.undo() for step in steps if step.undo()] == [
        "kill PID 1: all else in its pid namespace goes with it",
        "they are free again; its name leaves the others' /etc/hosts",
        "kill what is in the group, remove it",
        "the veth goes with its namespace; the bridge is removed if pyinit made it and nothing is left on it",
        "the mount goes with PID 1, an image's loop device with its last mount",
    ]


def test_a_network_by_slirp4netns_is_one_step():
    ports = (Publish("", 8080, 80, "tcp", 1), Publish("127.0.0.1", 5000, 53, "udp", 2))
    network = Network("slirp4netns", addresses=("10.0.2.100/24",), gateways=("10.0.2.2",), pools=("10.0.2.0/24",), ipv6=True, publish=ports, origin=at(9))
    assert [line for line in words(network=network) if line not in DEFAULT] == [
        "9 start slirp4netns, host0 with 10.0.2.100/24 and IPv6 inside, default route by 10.0.2.2, publish 8080 as 80/tcp, 127.0.0.1:5000-5001 as 53-54/udp",
    ]
    steps = plan.make(config(network=network)).operations()
    assert "slirp4netns ends with the monitor, and gives the ports back" in [step.undo() for step in steps]


def test_ports_at_ipv6_s_loopback_need_a_forwarder():
    """Those at one address of another kind do not, nor those of a container without IPv6 that did not ask for it."""
    ports = (Publish("", 8080, 80, "tcp", 1), Publish("127.0.0.1", 81, 81, "tcp", 1), Publish("::1", 5000, 53, "udp", 2), Publish("fd02::1", 82, 82, "tcp", 1))
    network = Network("veth", "br0", ("10.1.0.2/24", "fd01::2/64"), publish=ports, origin=at(9))
    forwarder = "9 start a forwarder of [::1]: 8080 as 80/tcp, 5000-5001 as 53-54/udp"
    assert [line for line in words(network=network) if "forwarder" in line] == [forwarder]
    assert "it ends with the veth" in [step.undo() for step in plan.make(config(network=network)).operations()]
    assert forwarder in words(network=network._replace(addresses=(), pools=("fd01::/64",)))
    found = words(network=network._replace(addresses=("10.1.0.2/24",)))
    assert [line for line in found if "forwarder" in line] == ["9 start a forwarder of [::1]: 5000-5001 as 53-54/udp"]
    assert not [line for line in words(network=network._replace(publish=(ports[1], ports[3]))) if "forwarder" in line]


def test_a_network_limits_and_mounts_stand_with_their_lines():
    found = words(
        network=Network("veth", "br0", ("10.1.0.2/24",), ("10.1.0.1",), origin=at(9)),
        cgroup=CgroupLimits(memory_max_bytes=1 << 20, cpu_max=1.5, pids_max=9, origin=at(7)),
        mounts=(
            Mount("tmpfs", "/run/config", files=(FileSpec("a.env", Content("text", "secret"), 0o600),), origin=at(20)),
            Mount("bind", "/data", "/srv/data", read_only=True, origin=at(30)),
        ),
    )
    assert [line for line in found if line not in DEFAULT] == [
        "9 take 10.1.0.2/24 for web, name it to the others on br0",
        "7 make cgroup pyinit-web with memory_max=1M cpu_max=1.5 pids_max=9",
        "9 make veth ve-web on bridge br0, host0 with 10.1.0.2/24 inside, default route by 10.1.0.1",
        "1 mount tmpfs on /dev/shm (nosuid,nodev,noexec,mode=1777,size=128k,nr_inodes=1024)",
        "1 mount tmpfs of 128K on /run (nr_inodes=1024)",
        "1 mount tmpfs of 128K on /tmp (nr_inodes=1024)",
        "30 mount bind /srv/data on /data read-only",
        "20 mount tmpfs of 128K on /run/config (nr_inodes=1024), with a.env",
        "9 bind /etc/hosts with the neighbours' names and /etc/resolv.conf, read-only",
    ]
    assert "secret" not in "".join(found)


def test_what_the_inside_can_not_get_at_is_had_before_the_clone():
    mounts = (
        Mount(
            "tmpfs", "/cfg", files=(FileSpec("a", Content("text", "x")), FileSpec("b", Content("command", command=("vault", "read"), origin=at(9)))),
            options=(("nr_inodes", "9"),), flags=("nodev", "noexec"), origin=at(8),
        ),
        Mount("bind", "/data", "/srv/data", idmap=(IdRange("uid", 1000, 33), IdRange("gid", 5, 7, 10)), propagation="slave", origin=at(12)),
        Mount("overlay", "/ov", layers=(Layer("/a", at(21)), Layer("/b.squashfs", at(21), "2" * 64)), writable="/srv/ov", origin=at(20)),
        Mount("nfs4", "/files", "h:/x", options=(("soft", None),), secret_options=(("key", Content("env", "KEY", origin=at(31))),), origin=at(30)),
        Mount("fuse.sshfs", "/home", "h:", read_only=True, origin=at(40)),
    )  # fmt: skip
    secrets = (FileSpec("db", Content("file", "/etc/db", origin=at(51)), 0o400),)
    found = [line for line in words(mounts=mounts, secrets=secrets, secrets_origin=at(50)) if line not in DEFAULT]
    assert found == [
        f"21 check that /b.squashfs has the digest sha256:{'2' * 64}",
        "20 make /srv/ov with its upper and work folders, lock it for this container",
        "9 read /cfg/b from the output of vault",
        "12 map the ids of /data: uid 1000 is 33, gid 5-14 is 7-16",
        "12 open /srv/data, slave with the host",
        "31 read the option key of /files from the variable KEY",
        "30 connect nfs4 h:/x for /files",
        "40 connect fuse.sshfs h: for /home",
        "51 read /run/secrets/db from the file /etc/db",
        "8 mount tmpfs on /cfg (suid,noexec,nr_inodes=9), with a b",
        "12 mount bind /srv/data on /data (slave)",
        "20 mount overlay of 2 layer(s) on /ov (writable=/srv/ov)",
        "30 mount nfs4 h:/x on /files (soft,key)",
        "40 mount fuse.sshfs h: on /home read-only",
        "50 mount tmpfs on /run/secrets read-only (noexec,never swapped), with db",
    ]
    undone = {step.describe(): step.undo() for step in plan.make(config(mounts=mounts)).operations()}
    assert undone["connect nfs4 h:/x for /files"] == "the mount goes with PID 1"
    assert undone["connect fuse.sshfs h: for /home"] == "the mount goes with PID 1, sshfs with its mount"


def test_devices_are_made_and_no_others_allowed():
    devices = (Device("/dev/fuse", origin=at(8)), Device("/dev/net/tun", "rw", 0o660, 0, 5, at(8)))
    found = [line for line in words(security=Security(devices=devices, devices_origin=at(8))) if line not in DEFAULT]
    others = "8 allow no devices but /dev/null zero full random urandom tty, terminals"
    assert found == [
        f"{others}, /dev/fuse (rwm), /dev/net/tun (rw)", "8 make /dev/fuse, as on the host", "8 make /dev/net/tun, mode 0660, uid 0, gid 5",
    ]  # fmt: skip
    makes = Security(capabilities=("MKNOD",))
    assert f"1{others[1:]}" in words(security=makes)
    assert "1 make cgroup pyinit-web" in words(security=makes, namespaces=("pid", "mount"))


def test_every_limit_is_told():
    io = (IoLimit("/dev/vda", "254:0", read_bytes=50 << 20, write_iops=9),)
    limits = CgroupLimits(
        1 << 30, 1 << 20, 0.5, 10, 9, at(7), memory_low_bytes=4096, memory_swap_max_bytes=0, cpuset=(0, 1, 2, 5), io_max=io, io_weight=50,
    )  # fmt: skip
    assert words(cgroup=limits)[1] == (
        "7 make cgroup pyinit-web with memory_max=1G memory_high=1M memory_low=4K memory_swap_max=0 cpu_max=0.5 cpu_weight=10 "
        "cpuset=0-2,5 pids_max=9 io_weight=50 io_max=/dev/vda(read=50M,write_iops=9)"
    )


def test_a_parent_is_mounted_before_its_child_whatever_the_order():
    mounts = (Mount("bind", "/a/b/c", "/x", origin=at(5)), Mount("tmpfs", "/a", origin=at(6)), Mount("tmpfs", "/run", origin=at(7)))
    found = [line.split(" on ")[1] for line in words(mounts=mounts) if " on /" in line and line[0] in "567"]
    assert found == ["/a", "/run", "/a/b/c"]


def test_log_files_on_a_read_only_root_get_a_ram_disk():
    assert "1 mount tmpfs on /var/log/pyinit" in words(log="file")
    assert "1 mount tmpfs on /var/log/pyinit" not in words(log="file", writable="tmpfs")
    kept = (Mount("bind", "/var/log", "/srv/log", origin=at(4)),)
    assert "1 mount tmpfs on /var/log/pyinit" not in words(log="file", mounts=kept)


def test_namespaces_that_are_not_asked_for_leave_their_steps_out():
    found = words(namespaces=("pid", "mount"))
    assert [line for line in DEFAULT if line not in found] == [
        "1 clone PID 1 into new namespaces: pid mount uts ipc cgroup net",
        "1 make cgroup pyinit-web",
        "1 mount mqueue on /dev/mqueue (nosuid,nodev,noexec)",
        "1 set the host name web-1",
        "1 mount cgroup2 on /sys/fs/cgroup (ro,nosuid,nodev,noexec)",
    ]


def test_namespaces_are_joined_and_clocks_set_before_the_clone_and_ids_mapped_after_it():
    ranges = tuple(IdRange(kind, 100000, 0, 65536) for kind in ("uid", "gid"))
    share = (Shared("net", "container", "db", at(4)), Shared("ipc", "path", "/run/ipc", at(5)), Shared("uts", "pid", "4321", at(6)))
    namespaces = ("pid", "mount", "cgroup", "user", "time")
    offsets = (("monotonic", 3_600_000_000_000), ("boottime", -1_500_000_000))
    found = words(share=share, namespaces=namespaces, user_namespace=UserNamespace("auto", "", ranges, at(7)), time_offsets=offsets, time_origin=at(8))
    assert found[:6] == [
        "4 join the net namespace of container db",
        "5 join the ipc namespace of /run/ipc",
        "6 join the uts namespace of pid 4321",
        "8 make a time namespace: monotonic +3600 s, boottime -1.5 s",
        "1 clone PID 1 into new namespaces: pid mount cgroup user time",
        "7 map the host's ids: uid 100000-165535 is 0-65535, gid 100000-165535 is 0-65535 inside",
    ]
    assert [line for line in DEFAULT if line not in found] == [DEFAULT[0], "1 set the host name web-1"]
    steps = plan.make(config(share=(Shared("pid", "container", "db", at(4)),), namespaces=("mount",))).operations()
    assert [step.undo() for step in steps][:3] == [
        "PID 1 leaves it; who else is in it keeps it",
        "kill PID 1; what else is in the container's group is killed with that",
        "kill what is in the group, remove it",
    ]


def test_in_the_root_of_another_there_is_nothing_to_build():
    """But what is of namespaces of its own; PID 1 joins that root where it would pivot into one."""
    share = (Shared("mount", "container", "db", at(4)), Shared("pid", "container", "db", at(5)))
    own = {"layers": (), "share": share, "namespaces": ("uts", "ipc", "cgroup", "net")}
    network = Network("veth", "br0", ("10.1.0.2/24",), origin=at(6))
    assert words(log="file", sysctl=(Sysctl("kernel.shmmax", "kernel/shmmax", "9", at(7)),), network=network, **own) == [
        "5 join the pid namespace of container db",
        "1 clone PID 1 into new namespaces: uts ipc cgroup net",
        "6 take 10.1.0.2/24 for web, name it to the others on br0",
        "1 make cgroup pyinit-web",
        "6 make veth ve-web on bridge br0, host0 with 10.1.0.2/24 inside",
        "1 set the host name web-1",
        "7 set the sysctl kernel.shmmax to 9",
        "1 join a new session keyring, leave the host's keys",
        "4 join the mount namespace of container db, and stand in its root",
        f"1 limit the bounding set to {' '.join(DEFAULT_CAPABILITIES)}",
    ]
    steps = plan.make(config(**{**own, "namespaces": ()})).operations()
    assert [step.describe() for step in steps][1] == "clone PID 1 into new namespaces: none"
    assert [step.undo() for step in steps if step.undo()] == [
        "PID 1 leaves it; who else is in it keeps it",
        "kill PID 1; what else is in the container's group is killed with that",
        "kill what is in the group, remove it",
        "PID 1 leaves it, and /run/pyinit-web there is removed; who else is in it keeps it",
    ]


def test_a_map_that_only_the_host_knows_is_told_in_words():
    for users, expected in (
        (UserNamespace(), "the ranges of pyinit, or of root, in /etc/subuid and /etc/subgid are 0 and up inside"),
        (UserNamespace(user="joe"), "the ranges of joe in /etc/subuid and /etc/subgid are 0 and up inside"),
        (UserNamespace("single", "joe"), "joe is root inside"),
    ):
        assert words(namespaces=("pid", "mount", "user"), user_namespace=users)[1] == f"1 map the host's ids: {expected}"


def test_link_names_fit_15_bytes_and_differ():
    names = ["web", "pyinit-test-1", "pyinit-test-2", "a-name-that-is-much-too-long-for-a-link", "customer-app-7w", "customer-app-99"]
    links = [plan.link_name(name) for name in names]
    assert links[0] == "ve-web"
    assert max(len(link) for link in links) <= 15
    assert len(set(links)) == len(links)


def test_hosts_hostname_and_resolver_are_generated():
    network = Network("veth", "br0", ("10.1.0.2/24",), dns=("10.1.0.1",), hosts=(("db", "10.1.0.3"),))
    root = next(step for step in plan.make(config(network=network)).inside if isinstance(step, operations.MakeRoot))
    assert dict(root.files) == {
        "/etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n10.1.0.2\tweb-1\n10.1.0.3\tdb\n",
        "/etc/hostname": "web-1\n",
        "/etc/resolv.conf": "nameserver 10.1.0.1\n",
    }


def test_sysctls_stand_before_the_pivot_and_wait_for_the_network_if_they_are_its():
    shm, port = (Sysctl("kernel.shmmax", "kernel/shmmax", "9", at(7)), Sysctl("net/ipv4/x", "net/ipv4/x", "0", at(8)))
    found = words(sysctl=(shm, port))
    assert found[-6:-1] == [
        "7 set the sysctl kernel.shmmax to 9", "8 set the sysctl net/ipv4/x to 0", "1 join a new session keyring, leave the host's keys",
        "1 mount cgroup2 on /sys/fs/cgroup (ro,nosuid,nodev,noexec)", "1 pivot_root, detach the host's root",
    ]  # fmt: skip
    veth = Network("veth", "br0", ("10.1.0.2/24",))
    cases = [((port,), veth, True), ((port,), Network(), False), ((shm,), veth, False), ((), veth, False)]
    assert [plan.make(config(sysctl=sysctl, network=network)).network_first() for sysctl, network, _ in cases] == [
        expected for _, _, expected in cases
    ]


def test_hooks_stand_last_the_poststop_ones_noted_before_the_first_runs():
    hooks = HostHooks((HostHook(("/bin/up", "a"), at(7)), HostHook(("up2",), at(8))), (HostHook(("/bin/down",), at(9)),), 2.5)
    found = plan.make(config(hooks=hooks)).operations()[-3:]
    assert [(f"{step.origin.line} {step.describe()}", step.undo()) for step in found] == [
        ("9 note what is run on the host in the end: /bin/down", "run it, after all else is undone (2.5 s at most)"),
        ("7 run on the host, before the services start: /bin/up a (2.5 s at most)", ""),
        ("8 run on the host, before the services start: up2 (2.5 s at most)", ""),
    ]


def test_groups_that_are_masked_are_not_mounted_over_the_mask():
    shown = "1 mount cgroup2 on /sys/fs/cgroup (ro,nosuid,nodev,noexec)"
    for masked in ("/sys/fs/cgroup", "/sys/fs", "/sys"):
        assert shown not in words(security=Security(masked_paths=("/proc/keys", masked)))
    assert shown in words(security=Security(masked_paths=("/sys/fs/cgroup2", "/sys/firmware")))
