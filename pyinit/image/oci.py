"""`pyinit export oci`: an OCI image layout of a config's image, with pyinit as its entry point.

Owns the layout's form. Must not know where layers come from. Law: the same parts give the same bytes: order, owners and times
are the parts' own, nothing of now or of this host is in it.
Source: the OCI image-spec.
"""

import hashlib
import json
import os
import time
import zlib
from _collections_abc import Callable, Mapping

from pyinit.image import export, tar
from pyinit.image.export import Asked
from pyinit.image.parts import Part
from pyinit.image.spec import DEFAULT_EPOCH
from pyinit.image.tar import Entry
from pyinit.records import Any

_TYPE = "application/vnd.oci.image."
_KEPT = ("init",)
_WHY = {
    "hostname": "no image has one: --hostname of the runtime",
    "writable": "no image says it: --read-only of the runtime, and volumes, decide",
    "network.publish": "the image tells the ports inside; -p of the runtime publishes them",
    "network": "no image has a network: the runtime gives one",
    "cgroup": "no image has limits: the runtime's options do (--memory, --cpus, --pids-limit)",
    "security.capabilities": "no image has them: --cap-add and --cap-drop of the runtime",
    "security.seccomp": "no image has a profile: --security-opt seccomp= of the runtime; services keep their own",
    "security.devices": "no image has devices: --device of the runtime",
    "security": "no image has it: the runtime's own holds",
    "secrets": "a secret is in no export: --secret of the runtime, at /run/secrets",
    "sysctl": "no image has settings of the kernel: --sysctl of the runtime",
    "hooks": "a command of this host: run it around the runtime",
}
_ELSE = "no image can say it: the runtime's own holds"


def lost(asked: Asked) -> list[str]:
    """What is not in it, a line each."""

    def why(path: tuple[str | int, ...]) -> str:
        if path[0] == "mounts":
            return _mount(asked, int(path[1]))
        name = ".".join(map(str, path))
        return _WHY.get(name, _WHY.get(str(path[0]), _ELSE))

    return export.lost(asked, _KEPT, why)


def _mount(asked: Asked, number: int) -> str:
    one, target = asked.box.mounts[number], asked.raw("mounts", number, "target")
    if export.is_layer(asked, number):
        return ""
    if one.type == "tmpfs":
        return "; ".join(text for text in (f"no image mounts: --tmpfs {target} of the runtime", export.files_lost(asked, number)) if text)
    return f"a {one.type} mount is no part of an image: -v or --mount of the runtime, at {target}"


def write(asked: Asked, layout: str, tag: str, environment: Mapping[str, str], report: Callable[[str], None]) -> str:
    """Make the layout in a new folder; the manifest's digest. BuildError."""
    with export.place(layout) as new, export.layers(asked, environment) as found:
        os.makedirs(f"{new}/blobs/sha256")
        layers, ids = [], []
        for number, part in enumerate(found, 1):
            report(f"layer {number} of {len(found)}: {part.what}")
            for path in part.left_out:
                report(f"layer {number}: {path} is left out: no layer may have it")
            row, diff_id = _layer(new, part)
            layers.append(row)
            ids.append(diff_id)
        config = _json(new, _config(asked, ids, environment), "config.v1+json")
        manifest = _json(new, {"schemaVersion": 2, "mediaType": f"{_TYPE}manifest.v1+json", "config": config, "layers": layers}, "manifest.v1+json")
        named = {**manifest, "annotations": {"org.opencontainers.image.ref.name": tag}}
        _text(f"{new}/index.json", {"schemaVersion": 2, "mediaType": f"{_TYPE}index.v1+json", "manifests": [named]})
        _text(f"{new}/oci-layout", {"imageLayoutVersion": "1.0.0"})
    return str(manifest["digest"])


def _config(asked: Asked, ids: list[str], environment: Mapping[str, str]) -> dict[str, Any]:
    epoch = int(environment.get("SOURCE_DATE_EPOCH") or DEFAULT_EPOCH)
    publish = () if asked.is_private("network", "publish") else asked.box.network.publish
    ports: dict[str, Any] = {f"{one.to + step}/{one.protocol}": {} for one in publish for step in range(one.length)}
    runs: dict[str, Any] = {
        "Entrypoint": export.entrypoint(asked), "Env": [f"PATH={export.PATH}"], "WorkingDir": "/", "StopSignal": "SIGTERM",
    }  # fmt: skip
    if ports:
        runs["ExposedPorts"] = ports
    return {
        "architecture": export.architecture(), "os": "linux", "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)), "config": runs,
        "rootfs": {"type": "layers", "diff_ids": ids},
    }  # fmt: skip


def _json(layout: str, value: dict[str, Any], kind: str) -> dict[str, Any]:
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{layout}/blobs/sha256/{digest}", "wb") as file:
        file.write(data)
    return {"mediaType": _TYPE + kind, "digest": f"sha256:{digest}", "size": len(data)}


def _text(path: str, value: dict[str, Any]) -> None:
    with open(path, "w", encoding="ascii") as file:
        json.dump(value, file, sort_keys=True, separators=(",", ":"))


class _Out:
    """A gzip file on its way into the layout, with the digests of both its forms; its header has no name and no time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.file = open(path, "wb")
        self.plain, self.packed = hashlib.sha256(), hashlib.sha256()
        self._packer = zlib.compressobj(6, zlib.DEFLATED, 31)

    def write(self, data: bytes) -> None:
        self.plain.update(data)
        self._put(self._packer.compress(data))

    def _put(self, data: bytes) -> None:
        self.packed.update(data)
        self.file.write(data)

    def close(self) -> None:
        self._put(self._packer.flush())
        self.file.close()


def _layer(layout: str, part: Part) -> tuple[dict[str, Any], str]:
    """(its descriptor, the digest of its archive)."""
    out = _Out(f"{layout}/layer.new")
    try:
        for entry in _with_whiteouts(part):
            out.write(tar.header(entry._replace(xattrs=()) if entry.kind == "hardlink" else entry))
            size = 0
            for piece in part.read(entry.path) if entry.kind == "file" and entry.size_bytes else ():
                size += len(piece)
                out.write(piece)
            if size != entry.size_bytes:
                raise OSError(5, f"it has changed while it was read: /{entry.path}", part.what)
            out.write(bytes(-size % tar.BLOCK))
        out.write(tar.END)
    finally:
        out.close()
    digest, size = out.packed.hexdigest(), os.stat(out.path).st_size
    os.rename(out.path, f"{layout}/blobs/sha256/{digest}")
    return {"mediaType": f"{_TYPE}layer.v1.tar+gzip", "digest": f"sha256:{digest}", "size": size}, f"sha256:{out.plain.hexdigest()}"


def _with_whiteouts(part: Part) -> list[Entry]:
    """By the names that OCI has for them."""
    found = []
    for entry in part.entries:
        if entry.kind == "whiteout":
            folder, _, name = entry.path.rpartition("/")
            found.append(Entry(f"{folder}/.wh.{name}" if folder else f".wh.{name}", "file", 0o644))
        else:
            found.append(entry)
            if entry.path in part.opaque:
                found.append(Entry(f"{entry.path}/.wh..wh..opq" if entry.path else ".wh..wh..opq", "file", 0o644))
    return found
