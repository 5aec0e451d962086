"""What an OCI image layout says of itself: its index, an image's manifest and config.

Owns the reading of these, by digest. Must not know what is in a layer, or what becomes of one. Laws: no path is made of
what stands in a layout but of digests, which are 64 hexadecimal digits; a text is hashed and measured before it is
understood; each fault says which layout, what was expected and what was found.
Sources: the OCI image-spec's image-layout.md, image-index.md, manifest.md, descriptor.md; Docker's image manifest v2.
"""

import os
import stat

from pyinit.config.decode import show
from pyinit.records import Any, NamedTuple

_MOST_TEXT = 4 << 20
_MOST_LAYERS = 500  # overlayfs has no more
_MOST_DEPTH = 4
_REF_NAME = "org.opencontainers.image.ref.name"
_OCI, _DOCKER = "application/vnd.oci.image.", "application/vnd.docker."
_INDEXES = (f"{_OCI}index.v1+json", f"{_DOCKER}distribution.manifest.list.v2+json")
_MANIFESTS = (f"{_OCI}manifest.v1+json", f"{_DOCKER}distribution.manifest.v2+json")
_CONFIGS = (f"{_OCI}config.v1+json", f"{_DOCKER}container.image.v1+json")
COMPRESSIONS = {
    f"{_OCI}layer.v1.tar": "", f"{_OCI}layer.v1.tar+gzip": "gzip", f"{_OCI}layer.v1.tar+zstd": "zstd",
    f"{_DOCKER}image.rootfs.diff.tar": "", f"{_DOCKER}image.rootfs.diff.tar.gzip": "gzip", f"{_DOCKER}image.rootfs.diff.tar.zstd": "zstd",
}  # fmt: skip
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "riscv64": "riscv64", "ppc64le": "ppc64le", "s390x": "s390x"}


class LayoutError(Exception):
    """A layout that can't be used, in words that begin with its path."""


class Blob(NamedTuple):
    """A content of a layout: `sha256` in hex."""

    media_type: str
    sha256: str
    size_bytes: int


class Manifest(NamedTuple):
    """An image: layers lowest first, and of each the digest of its archive without compression; `runs` is its config."""

    sha256: str
    layers: tuple[Blob, ...]
    diff_ids: tuple[str, ...]
    runs: dict[str, Any]


def split(text: str) -> tuple[str, str]:
    """LAYOUT and TAG of `LAYOUT:TAG`, as skopeo parts them: a layout's path has no colon. No tag: the only image is meant."""
    path, _, tag = text.partition(":")
    return path, tag


def chosen(layout: str, tag: str, machine: str) -> Blob:
    """The manifest of an image; LayoutError. `machine`: uname's, for images of several."""
    head = _object(f"{layout}/oci-layout", _text(layout, "oci-layout"))
    if head.get("imageLayoutVersion") != "1.0.0":
        raise LayoutError(f"{layout}: expected a layout of version 1.0.0, found {show(head.get('imageLayoutVersion'))}")
    index = _object(f"{layout}/index.json", _text(layout, "index.json"))
    rows = _rows(layout, index, "manifests")
    names = {str(notes[_REF_NAME]) for row in rows if isinstance(notes := row.get("annotations"), dict) and _REF_NAME in notes}
    if tag:
        rows = [row for row in rows if isinstance(notes := row.get("annotations"), dict) and notes.get(_REF_NAME) == tag]
        if not rows:
            there = f"; there are: {', '.join(sorted(names))}" if names else "; none has a name: write the path alone"
            raise LayoutError(f"{layout}: there is no image {show(tag)}{there}")
    elif len({str(row.get("digest")) for row in rows}) > 1:
        raise LayoutError(f"{layout}: it has {len(rows)} images; say which, as {layout}:TAG{'; there are: ' + ', '.join(sorted(names)) if names else ''}")
    return _of_machine(layout, rows, ARCHITECTURES.get(machine, machine), 1)


def _of_machine(layout: str, rows: list[dict[str, Any]], architecture: str, depth: int) -> Blob:
    found, others = [], set()
    for row in rows:
        blob = _blob(layout, row)
        platform = row.get("platform")
        platform = platform if isinstance(platform, dict) else {}
        found_for = (platform.get("os", "linux"), platform.get("architecture", architecture))
        if found_for != ("linux", architecture):
            others.add("/".join(map(str, found_for)))
            continue
        if blob.media_type in _INDEXES and depth < _MOST_DEPTH:
            inner = _object(f"{layout}: index sha256:{blob.sha256}", read(layout, blob))
            blob = _of_machine(layout, _rows(layout, inner, "manifests"), architecture, depth + 1)
        elif blob.media_type not in _MANIFESTS:
            raise LayoutError(f"{layout}: sha256:{blob.sha256} is of type {show(blob.media_type)}: expected {_MANIFESTS[0]}")
        found.append(blob)
    if not found:
        said = f"; there are: {', '.join(sorted(others))}" if others else ""
        raise LayoutError(f"{layout}: there is no image for linux/{architecture}{said}")
    if len({blob.sha256 for blob in found}) > 1:
        raise LayoutError(f"{layout}: {len(found)} images are for linux/{architecture} alike, and which is meant nobody says")
    return found[0]


def check_pin(layout: str, found: Blob, sha256: str) -> None:
    """LayoutError if the image is not the one that is pinned. `sha256`: "" if none is."""
    if sha256 and found.sha256 != sha256:
        raise LayoutError(f"{layout}: the image is not the one that is pinned: expected sha256:{sha256}, found sha256:{found.sha256}")


def manifest(layout: str, blob: Blob) -> Manifest:
    """Of what `chosen` found; LayoutError."""
    what = f"{layout}: manifest sha256:{blob.sha256}"
    data = _object(what, read(layout, blob))
    config = _blob(layout, data.get("config"))
    if config.media_type not in _CONFIGS:
        raise LayoutError(f"{what}: no image, but something with a config of type {show(config.media_type)}")
    layers = tuple(_blob(layout, row) for row in _rows(layout, data, "layers"))
    if not 0 < len(layers) <= _MOST_LAYERS:
        raise LayoutError(f"{what}: expected 1 to {_MOST_LAYERS} layers, found {len(layers)}")
    for number, layer in enumerate(layers, 1):
        if layer.media_type not in COMPRESSIONS:
            raise LayoutError(f"{what}: layer {number} is of type {show(layer.media_type)}: expected a tar, as it is, with gzip or with zstd")
    runs = _object(f"{layout}: config sha256:{config.sha256}", read(layout, config))
    rootfs = runs.get("rootfs")
    ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(ids, list) or len(ids) != len(layers):
        count = len(ids) if isinstance(ids, list) else "no"
        raise LayoutError(f"{layout}: config sha256:{config.sha256}: {count} diff_ids of {len(layers)} layers")
    return Manifest(blob.sha256, layers, tuple(_digest(layout, one) for one in ids), runs)


def read(layout: str, blob: Blob) -> bytes:
    """A small content, which is what its digest says; LayoutError."""
    if blob.size_bytes > _MOST_TEXT:
        raise LayoutError(f"{layout}: sha256:{blob.sha256} is of {blob.size_bytes} bytes, of which {_MOST_TEXT} would be many")
    import hashlib  # for those who have a layout

    data = _text(layout, f"blobs/sha256/{blob.sha256}")
    found = hashlib.sha256(data).hexdigest()
    if (len(data), found) != (blob.size_bytes, blob.sha256):
        raise LayoutError(mismatch(layout, blob, len(data), found))
    return data


def mismatch(layout: str, blob: Blob, size_bytes: int, sha256: str) -> str:
    """Why a content is not what it should be. `sha256`: "" if the size was enough."""
    if size_bytes != blob.size_bytes:
        return f"{layout}: sha256:{blob.sha256}: expected {blob.size_bytes} bytes, found {size_bytes}; copy the image again"
    return f"{layout}: sha256:{blob.sha256}: its content has the digest sha256:{sha256}; copy the image again"


def open_blob(layout: str, sha256: str) -> int:
    """fd of a content, a regular file; LayoutError."""
    return _open(layout, f"blobs/sha256/{sha256}")


def _open(layout: str, name: str) -> int:
    try:
        fd = os.open(f"{layout}/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        missing = f"{layout}: expected an OCI image layout, a folder with {name}" if name == "oci-layout" else f"{layout}/{name}"
        raise LayoutError(f"{missing}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise LayoutError(f"{layout}/{name}: expected a regular file")
    return fd


def _text(layout: str, name: str) -> bytes:
    with open(_open(layout, name), "rb") as file:
        data = file.read(_MOST_TEXT + 1)
    if len(data) > _MOST_TEXT:
        raise LayoutError(f"{layout}/{name}: it has more than {_MOST_TEXT} bytes")
    return data


def _object(what: str, data: bytes) -> dict[str, Any]:
    import json  # for those who have a layout

    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{what}: no JSON: {error}") from error
    if not isinstance(found, dict):
        raise LayoutError(f"{what}: expected an object, found {show(found)}")
    return found


def _rows(layout: str, data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows = data.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise LayoutError(f"{layout}: {key}: expected a list of descriptors, found {show(rows)}")
    return rows


def _blob(layout: str, row: object) -> Blob:
    row = row if isinstance(row, dict) else {}
    size, kind = row.get("size"), row.get("mediaType")
    if type(size) is not int or size < 0 or not isinstance(kind, str):
        raise LayoutError(f"{layout}: expected a descriptor with mediaType, digest and size, found size {show(size)}, mediaType {show(kind)}")
    return Blob(kind, _digest(layout, row.get("digest")), size)


def _digest(layout: str, word: object) -> str:
    """The digits, which may stand in a path."""
    name, _, digits = word.partition(":") if isinstance(word, str) else ("", "", "")
    if name != "sha256" or len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise LayoutError(f"{layout}: expected sha256: and its 64 hexadecimal digits, found {show(word)}")
    return digits
