"""OCI image layouts as others write them, by the standard library alone: what an import is given."""

import gzip
import hashlib
import io
import json
import pathlib
import tarfile

OCI = "application/vnd.oci.image."
LAYER = f"{OCI}layer.v1.tar"


def entry(name, kind=tarfile.REGTYPE, data=b"", **keys):
    """(TarInfo, content) of one entry."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mtime = kind, len(data), 1_600_000_000
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in keys.items():
        setattr(info, key, value)
    return info, data


def folder(name, **keys):
    return entry(name, tarfile.DIRTYPE, **keys)


def symlink(name, to):
    return entry(name, tarfile.SYMTYPE, linkname=to)


def hardlink(name, to):
    return entry(name, tarfile.LNKTYPE, linkname=to)


def archive(*entries, dialect=tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=dialect, encoding="utf-8", errors="surrogateescape") as file:
        for info, data in entries:
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Layout:
    """A layout in a folder, written blob by blob."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.rows: list[dict[str, object]] = []
        self.write()

    def blob(self, data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def blob_of(self, value: object, media_type: str) -> dict[str, object]:
        return self.blob(json.dumps(value).encode(), media_type)

    def image(self, *archives: bytes, tag="latest", pack=lambda data: gzip.compress(data, mtime=0), media_type=f"{LAYER}+gzip", diff_ids=None, **more):
        """Of layers; its manifest's descriptor."""
        layers = [self.blob(pack(one), media_type) for one in archives]
        ids = [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in archives] if diff_ids is None else diff_ids
        config = self.blob_of({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}, **more}, f"{OCI}config.v1+json")
        manifest = {"schemaVersion": 2, "config": config, "layers": layers}
        row = self.blob_of(manifest, f"{OCI}manifest.v1+json")
        return self.name(row, tag)

    def name(self, row, tag):
        if tag:
            row = {**row, "annotations": {"org.opencontainers.image.ref.name": tag}}
        self.rows.append(row)
        self.write()
        return row

    def write(self) -> None:
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.rows}))
