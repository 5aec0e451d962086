"""`pyinit export systemd`: a machine for systemd-nspawn: its root, its .nspawn file, and a unit that starts it.

Owns both files. Must not know where layers come from. Law: what the machine is given is not more than the launcher would.
Sources: systemd.nspawn(5), systemd-nspawn(1), systemd.resource-control(5).
"""

import os
from _collections_abc import Callable, Mapping

from pyinit.image import export, rootfs
from pyinit.image.export import Asked
from pyinit.image.spec import BuildError
from pyinit.model import Mount, signal_name

# What nspawn gives without a word, and a container of ours does not have.
_NSPAWNS = (
    "AUDIT_CONTROL", "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE",
    "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_ADMIN", "SYS_BOOT",
    "SYS_CHROOT", "SYS_NICE", "SYS_PTRACE", "SYS_RESOURCE", "SYS_TTY_CONFIG",
)  # fmt: skip
_MARGIN_S = 10
_TERM = 15
_OS_RELEASE = "etc/os-release"  # without one nspawn takes it for no system
_KEPT = (
    "hostname", "init", "security.capabilities", "security.no_new_privileges", "network.bridge", "network.publish", "network.parent",
    "cgroup.memory_max", "cgroup.memory_high", "cgroup.memory_low", "cgroup.memory_swap_max", "cgroup.cpu_max", "cgroup.cpu_weight", "cgroup.pids_max",
    "cgroup.cpuset", "cgroup.io_weight",
)  # fmt: skip
_WHY = {
    "secrets": "a secret is in no export: LoadCredential= of the unit, or BindReadOnly= at /run/secrets",
    "security.seccomp": "nspawn has its own filter; services keep theirs",
    "security.masked_paths": "nspawn has its own",
    "security.readonly_paths": "nspawn has its own",
    "security.devices": "Bind= of the .nspawn file, and DeviceAllow= of the unit",
    "hooks": "a command of this host: ExecStartPre= and ExecStopPost= of the unit",
    "writable": "the root is a folder, and changes stay in it",
    "network": "the network of a machine is systemd-networkd's: say it there",
    "namespaces": "nspawn's own: all but user and time",
    "sysctl": "nspawn sets none: say it on the host, or in a service",
    "cgroup": "the unit's own: systemd.resource-control(5)",
}
_ELSE = "nspawn has no word for it"
_UNIT = """\
[Unit]
Description=pyinit container {name}, by systemd-nspawn
After=network.target

[Service]
Type=notify
ExecStart=/usr/bin/systemd-nspawn --quiet --keep-unit --settings=override --machine={name} --directory=/var/lib/machines/{name}
KillMode=mixed
TimeoutStopSec={stop_s}s
Restart=on-failure
RestartPreventExitStatus=2 100
RestartForceExitStatus=133
SuccessExitStatus=133
Slice=machine.slice
Delegate=yes
DevicePolicy=closed
DeviceAllow=/dev/net/tun rwm
DeviceAllow=char-pts rw
{limits}
[Install]
WantedBy=multi-user.target
"""


def lost(asked: Asked) -> list[str]:
    """What is not in it, a line each."""

    def why(path: tuple[str | int, ...]) -> str:
        name = ".".join(map(str, path))
        if path[0] == "mounts":
            return _lost_mount(asked, int(path[1]))
        if name == "network.mode" and asked.box.network.mode in ("none", "host", "veth", "macvlan"):
            return ""
        if name == "writable" and asked.box.writable == "none":
            return ""
        return _WHY.get(name, _WHY.get(str(path[0]), _ELSE))

    return export.lost(asked, _KEPT, why)


def _lost_mount(asked: Asked, number: int) -> str:
    one = asked.box.mounts[number]
    if export.is_layer(asked, number):
        return ""
    if _is_private(asked, number):
        return "has ${NAME}: its value here is no export's"
    if one.type == "tmpfs":
        return export.files_lost(asked, number)
    if one.type == "bind":
        return "its mapped ids are no word of nspawn's" if one.idmap else ""
    return f"a {one.type} mount is none of nspawn's: a .mount unit of the host, and Bind="


def _is_private(asked: Asked, number: int) -> bool:
    return any(asked.is_private("mounts", number, key) for key in ("source", "target", "size", "options"))


def write(asked: Asked, folder: str, environment: Mapping[str, str], report: Callable[[str], None]) -> None:
    """Make NAME/, NAME.nspawn and NAME.service in a new folder; BuildError."""
    name = name_of(asked)
    with export.place(folder) as new, export.layers(asked, environment) as found:
        os.mkdir(f"{new}/{name}")
        rootfs.write(found, f"{new}/{name}", report)
        _check_system(f"{new}/{name}", report)
        for suffix, text in (("nspawn", _settings(asked)), ("service", _unit(asked))):
            with open(f"{new}/{name}.{suffix}", "w", encoding="utf-8") as file:
                file.write(text)


def name_of(asked: Asked) -> str:
    """Of the machine: a host's name, too."""
    return "pyinit" if asked.is_private("name") else asked.box.name.replace("_", "-")


def _check_system(root: str, report: Callable[[str], None]) -> None:
    """nspawn wants /usr, and an os-release that says what it is."""
    if not os.path.isdir(f"{root}/usr"):
        os.mkdir(f"{root}/usr", 0o755)
    if os.path.lexists(f"{root}/{_OS_RELEASE}") or os.path.lexists(f"{root}/usr/lib/os-release"):
        return
    report(f"/{_OS_RELEASE} is made: nspawn takes what has none for no system")
    with open(f"{root}/{_OS_RELEASE}", "x", encoding="ascii") as file:
        file.write("ID=linux\nNAME=Linux\n")


def _settings(asked: Asked) -> str:
    box = asked.box
    has = () if asked.is_private("security", "capabilities") else box.security.capabilities
    rows = ["[Exec]", "Boot=no", "ProcessTwo=no", f"Parameters={' '.join(export.entrypoint(asked))}", f"Environment=PATH={export.PATH}", "PrivateUsers=no"]
    rows += [f"KillSignal=SIG{signal_name(_TERM)}"]
    if not export.program(asked):
        rows.append("NotifyReady=yes")
    elif box.security.no_new_privileges and not asked.is_private("security", "no_new_privileges"):
        rows.append("NoNewPrivileges=yes")
    rows += [f"Hostname={box.hostname}"] if not asked.is_private("hostname") and not asked.is_private("name") else []
    more, less = [name for name in has if name not in _NSPAWNS], [name for name in _NSPAWNS if name not in has]
    rows += [f"Capability={' '.join(f'CAP_{name}' for name in more)}"] if more else []
    rows += [f"DropCapability={' '.join(f'CAP_{name}' for name in less)}"] if less else []
    rows += ["LinkJournal=no", "ResolvConf=off", "", "[Files]", f"ReadOnly={'yes' if box.writable == 'none' else 'no'}"]
    logs = export.log_folder(asked)
    rows += [f"TemporaryFileSystem={_escaped(logs)}:mode=0755,nosuid,nodev"] if logs else []  # /run and /tmp are RAM disks of nspawn's own
    for number, one in enumerate(box.mounts):
        if one.type in ("tmpfs", "bind") and not _is_private(asked, number):
            rows.append(_file(one))
    return "\n".join([*rows, "", "[Network]", *_network(asked), ""])


def _file(one: Mount) -> str:
    if one.type == "bind":
        return f"Bind{'ReadOnly' if one.read_only else ''}={_escaped(one.source)}:{_escaped(one.target)}:rbind"
    ids = [f"uid={one.uid}", f"gid={one.gid}"] if one.uid or one.gid else []
    size = [f"size={one.size_bytes}"] if one.size_bytes else []
    return f"TemporaryFileSystem={_escaped(one.target)}:{','.join([f'mode={one.mode:04o}', *size, *ids, *one.flags])}"


def _escaped(path: str) -> str:
    if any(char.isspace() for char in path):
        raise BuildError(f"{path}: a path with a space is none for a .nspawn file")
    return path.replace("\\", "\\\\").replace(":", "\\:").replace("%", "%%")


def _network(asked: Asked) -> list[str]:
    net = asked.box.network
    if net.mode == "host":
        return ["Private=no", "VirtualEthernet=no"]
    rows = ["Private=yes"]
    if net.mode == "veth":
        bridge = net.bridge if not asked.is_private("network", "bridge") else ""
        rows += [f"Bridge={bridge}"] if bridge else ["VirtualEthernet=yes"]
        if not asked.is_private("network", "publish"):
            rows += [f"Port={one.protocol}:{one.port + step}:{one.to + step}" for one in net.publish for step in range(one.length)]
    elif net.mode == "macvlan" and not asked.is_private("network", "parent"):
        rows += [f"MACVLAN={net.parent}"]
    else:
        rows += ["VirtualEthernet=no"]
    return rows


def _unit(asked: Asked) -> str:
    limits = asked.box.cgroup
    rows = [
        ("memory_max", "MemoryMax", limits.memory_max_bytes), ("memory_high", "MemoryHigh", limits.memory_high_bytes),
        ("memory_low", "MemoryLow", limits.memory_low_bytes), ("pids_max", "TasksMax", limits.pids_max), ("cpu_weight", "CPUWeight", limits.cpu_weight),
        ("cpuset", "AllowedCPUs", " ".join(map(str, limits.cpuset))), ("io_weight", "IOWeight", limits.io_weight),
        ("cpu_max", "CPUQuota", f"{limits.cpu_max * 100:.0f}%" if limits.cpu_max else ""),
    ]  # fmt: skip
    said = [f"{word}={value}" for key, word, value in rows if value and not asked.is_private("cgroup", key)]
    if limits.memory_swap_max_bytes >= 0 and not asked.is_private("cgroup", "memory_swap_max"):
        said.append(f"MemorySwapMax={limits.memory_swap_max_bytes}")
    stop_s = _MARGIN_S + (9 if _of_init(asked) else int(asked.config.init.stop_timeout_s + 0.999))
    return _UNIT.format(name=name_of(asked), stop_s=stop_s, limits="".join(f"{row}\n" for row in said))


def _of_init(asked: Asked) -> bool:
    return "${" in str(asked.written.get("init", {}).get("stop_timeout", ""))
