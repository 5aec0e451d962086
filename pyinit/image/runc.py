"""`pyinit export bundle`: a bundle for runc and its like, config.json and rootfs, with pyinit as its process.

Owns config.json. Must not know where layers come from. Law: what the bundle gives is not more than the launcher would.
Source: the OCI runtime-spec, config.md and config-linux.md.
"""

import json
import os
import stat
from _collections_abc import Callable, Mapping

from pyinit.image import export, rootfs
from pyinit.image.export import Asked
from pyinit.model import DEFAULT_READONLY_PATHS, Device, Mount
from pyinit.records import Any

_KEPT = (
    "hostname", "init", "security.capabilities", "security.no_new_privileges", "security.devices", "security.readonly_paths",
    "cgroup.memory_max", "cgroup.memory_low", "cgroup.memory_swap_max", "cgroup.cpu_max", "cgroup.cpu_weight", "cgroup.pids_max", "cgroup.cpuset",
)  # fmt: skip
_SPACES = {"pid": "pid", "mount": "mount", "uts": "uts", "ipc": "ipc", "cgroup": "cgroup", "net": "network"}
_PERIOD_US = 100_000
_DEFAULT = ("nosuid", "noexec", "nodev")
_WHY = {
    "secrets": "a secret is in no export: mount it at /run/secrets",
    "security.seccomp": "a profile of pyinit's is none of the runtime's: add linux.seccomp to config.json; services keep their own",
    "hooks": "a command of this host: run it around the runtime, or add it to config.json",
    "writable": "the root is the folder rootfs, and changes stay in it",
    "network": "the runtime makes no network: add it by a hook, or from outside",
    "share": "a namespace of somebody else's: add its path to linux.namespaces of config.json",
    "user_namespace": "ids are this host's: add linux.uidMappings and gidMappings to config.json",
    "time_offsets": "add linux.timeOffsets to config.json, if the runtime has them",
}
_ELSE = "a bundle has no word for it"


def lost(asked: Asked) -> list[str]:
    """What is not in it, a line each."""

    def why(path: tuple[str | int, ...]) -> str:
        name = ".".join(map(str, path))
        if path[0] == "mounts":
            return _lost_mount(asked, int(path[1]))
        if name == "network.mode" and asked.box.network.mode in ("none", "host"):
            return ""
        if name == "namespaces" or path[0] == "sysctl":
            return _of_namespaces(asked) if name == "namespaces" else ""
        if name == "security.masked_paths":
            return _of_masks(asked)
        if name == "writable" and asked.box.writable == "none":
            return ""
        return _WHY.get(name, _WHY.get(str(path[0]), _ELSE))

    found = export.lost(asked, _KEPT, why)
    if asked.raw("security", "seccomp") is None:
        found.append(f'{asked.origin()}: container.security.seccomp = "default": {_WHY["security.seccomp"]}')
    return found


def _of_namespaces(asked: Asked) -> str:
    left = [name for name in asked.box.namespaces if name not in _SPACES]
    return f"{' and '.join(left)}: {_WHY['user_namespace']}" if left else ""


def _of_masks(asked: Asked) -> str:
    left = [path for path in asked.box.security.masked_paths if "*" in path]
    return f"{' and '.join(left)}: a bundle has no patterns" if left else ""


def _lost_mount(asked: Asked, number: int) -> str:
    one = asked.box.mounts[number]
    if export.is_layer(asked, number):
        return ""
    if any(asked.is_private("mounts", number, key) for key in ("source", "target", "size", "options")):
        return "has ${NAME}: its value here is no export's"
    if one.type == "tmpfs":
        return export.files_lost(asked, number)
    if one.type == "bind":
        return "its mapped ids are no bundle's" if one.idmap else ""
    return f"a {one.type} mount is no bundle's: mount it on the host, and bind it"


def write(asked: Asked, bundle: str, environment: Mapping[str, str], report: Callable[[str], None]) -> None:
    """Make the bundle in a new folder; BuildError."""
    with export.place(bundle) as new, export.layers(asked, environment) as found:
        os.mkdir(f"{new}/rootfs")
        rootfs.write(found, f"{new}/rootfs", report)
        with open(f"{new}/config.json", "w", encoding="ascii") as file:
            json.dump(_config(asked), file, indent=2, sort_keys=True)
            file.write("\n")


def _config(asked: Asked) -> dict[str, Any]:
    box = asked.box
    own = export.program(asked)
    process = {
        "terminal": False, "user": {"uid": 0, "gid": 0}, "args": export.entrypoint(asked), "env": [f"PATH={export.PATH}", "container=oci"], "cwd": "/",
        "capabilities": {key: [f"CAP_{name}" for name in _capabilities(asked)] for key in ("bounding", "effective", "permitted")},
        "noNewPrivileges": bool(own) and box.security.no_new_privileges,
    }  # fmt: skip
    spaces = [{"type": _SPACES[name]} for name in box.namespaces if name in _SPACES and not (name == "net" and box.network.mode == "host")]
    linux: dict[str, Any] = {
        "namespaces": spaces, "resources": _resources(asked), "maskedPaths": [path for path in box.security.masked_paths if "*" not in path],
        "readonlyPaths": list(DEFAULT_READONLY_PATHS if asked.is_private("security", "readonly_paths") else box.security.readonly_paths),
    }  # fmt: skip
    sysctl = {one.path.replace("/", "."): one.value for one in box.sysctl if not _is_private_sysctl(asked, one.name)}
    if sysctl:
        linux["sysctl"] = sysctl
    if box.security.devices and not asked.is_private("security", "devices"):
        linux["devices"] = [_device(one) for one in box.security.devices]
    return {
        "ociVersion": "1.0.2", "process": process, "root": {"path": "rootfs", "readonly": box.writable == "none"},
        "hostname": "pyinit" if asked.is_private("hostname") or asked.is_private("name") else box.hostname, "mounts": _mounts(asked), "linux": linux,
    }  # fmt: skip


def _is_private_sysctl(asked: Asked, name: str) -> bool:
    return asked.is_private("sysctl", name)


def _capabilities(asked: Asked) -> tuple[str, ...]:
    return () if asked.is_private("security", "capabilities") else asked.box.security.capabilities


def _mounts(asked: Asked) -> list[dict[str, Any]]:
    """The kernel's own, the RAM disks that each container has, and the config's."""
    box = asked.box
    found = [
        _mount("proc", "/proc", "proc", *_DEFAULT), _mount("tmpfs", "/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=64k"),
        _mount("devpts", "/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        _mount("tmpfs", "/dev/shm", "shm", *_DEFAULT, "mode=1777", "size=65536k"), _mount("sysfs", "/sys", "sysfs", *_DEFAULT, "ro"),
    ]  # fmt: skip
    if "ipc" in box.namespaces:
        found.append(_mount("mqueue", "/dev/mqueue", "mqueue", *_DEFAULT))
    if "cgroup" in box.namespaces:
        found.append(_mount("cgroup", "/sys/fs/cgroup", "cgroup", *_DEFAULT, "relatime", "ro"))
    declared = {one.target for one in box.mounts}
    disks = [("/run", "0755"), ("/tmp", "1777")]
    logs = export.log_folder(asked)
    disks += [(logs, "0755")] if logs else []
    found += [_mount("tmpfs", target, "tmpfs", "nosuid", "nodev", f"mode={mode}") for target, mode in disks if target not in declared]
    own = [
        one for number, one in enumerate(box.mounts)
        if one.type in ("tmpfs", "bind") and not any(asked.is_private("mounts", number, key) for key in ("source", "target", "size", "options"))
    ]  # fmt: skip
    return found + [_declared(one) for one in sorted(own, key=lambda one: one.target.count("/"))]


def _declared(one: Mount) -> dict[str, Any]:
    options = [name if value is None else f"{name}={value}" for name, value in one.options]
    if one.type == "bind":
        return _mount("bind", one.target, one.source, "rbind", f"r{one.propagation}", *one.flags, *(["ro"] if one.read_only else []), *options)
    size = [f"size={one.size_bytes}"] if one.size_bytes else []
    read_only = ["ro"] if one.read_only and not one.files else []  # the init writes these
    ids = [f"uid={one.uid}", f"gid={one.gid}"] if one.uid or one.gid else []
    return _mount("tmpfs", one.target, "tmpfs", *one.flags, f"mode={one.mode:04o}", *size, *ids, *read_only, *options)


def _mount(kind: str, target: str, source: str, *options: str) -> dict[str, Any]:
    return {"type": kind, "destination": target, "source": source, "options": list(options)}


def _resources(asked: Asked) -> dict[str, Any]:
    limits = asked.box.cgroup

    def has(key: str, value: object) -> bool:
        return bool(value) and not asked.is_private("cgroup", key)

    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    if not asked.is_private("security", "devices"):
        rules += [_rule(one) for one in asked.box.security.devices]
    found: dict[str, Any] = {"devices": rules}
    memory = {}
    if has("memory_max", limits.memory_max_bytes):
        memory["limit"] = limits.memory_max_bytes
        if has("memory_swap_max", limits.memory_swap_max_bytes >= 0):
            memory["swap"] = limits.memory_max_bytes + limits.memory_swap_max_bytes
    if has("memory_low", limits.memory_low_bytes):
        memory["reservation"] = limits.memory_low_bytes
    cpu: dict[str, Any] = {}
    if has("cpu_max", limits.cpu_max):
        cpu |= {"quota": int(limits.cpu_max * _PERIOD_US), "period": _PERIOD_US}
    if has("cpu_weight", limits.cpu_weight):
        cpu["shares"] = 2 + (limits.cpu_weight - 1) * 262142 // 9999  # which a runtime makes a weight of on v2
    if has("cpuset", limits.cpuset):
        cpu["cpus"] = ",".join(map(str, limits.cpuset))
    if has("pids_max", limits.pids_max):
        found["pids"] = {"limit": limits.pids_max}
    return found | ({"memory": memory} if memory else {}) | ({"cpu": cpu} if cpu else {})


def _device(one: Device) -> dict[str, Any]:
    seen = os.stat(one.path)
    kind = "b" if stat.S_ISBLK(seen.st_mode) else "c"
    mode = stat.S_IMODE(seen.st_mode) if one.mode < 0 else one.mode
    uid, gid = (seen.st_uid if one.uid < 0 else one.uid), (seen.st_gid if one.gid < 0 else one.gid)
    return {"path": one.path, "type": kind, "major": os.major(seen.st_rdev), "minor": os.minor(seen.st_rdev), "fileMode": mode, "uid": uid, "gid": gid}


def _rule(one: Device) -> dict[str, Any]:
    made = _device(one)
    return {"allow": True, "type": made["type"], "major": made["major"], "minor": made["minor"], "access": one.access}
