"""Whether an image is made for the base that it is laid over: the rules of system extensions.

Owns the reading of os-release texts and the comparison. Must not know files or layers.
Sources: os-release(5) with its part on extension-release, systemd-sysext(8); where both levels are there they decide,
else the version does, and a base without a version takes any.
"""

_ARCHITECTURES = {"x86_64": "x86-64", "aarch64": "arm64", "i686": "x86", "armv7l": "arm", "riscv64": "riscv64",
                  "ppc64le": "ppc64-le", "s390x": "s390x", "loongarch64": "loongarch64"}  # fmt: skip
_ANY = "_any"


def parse(text: str) -> dict[str, str]:
    """KEY=VALUE lines; a line that is none is left out. Quotes are a shell's."""
    found = {}
    for line in text.splitlines():
        key, mark, value = line.strip().partition("=")
        if mark and not key.startswith("#"):
            found[key] = _unquoted(value)
    return found


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] not in "\"'" or value[-1] != value[0]:
        return value
    inner = value[1:-1]
    if value[0] == '"':
        for char in '"$`\\':
            inner = inner.replace("\\" + char, char)
    return inner


def mismatch(extension: dict[str, str], base: dict[str, str] | None, machine: str) -> str:
    """`needs X, and the base has Y`, or "" for a fit. `base`: None if it has no os-release; `machine`: uname(2)'s."""
    own = _ARCHITECTURES.get(machine, machine)
    wanted = extension.get("ARCHITECTURE") or _ANY
    if wanted not in (_ANY, own):
        return f"needs ARCHITECTURE={wanted}, and this machine is {own}"
    name = extension.get("ID", "")
    if not name:
        return "does not say what it needs: its extension-release has no ID"
    if name == _ANY:
        return ""
    if base is None:
        return f"needs ID={name}, and the base has no os-release"
    if name not in (base.get("ID", "linux"), *base.get("ID_LIKE", "").split()):
        return f"needs ID={name}, and the base has ID={base.get('ID', 'linux')}"
    levels = extension.get("SYSEXT_LEVEL", ""), base.get("SYSEXT_LEVEL", "")
    if all(levels):
        return _compare("SYSEXT_LEVEL", *levels)
    version = base.get("VERSION_ID", "")
    return _compare("VERSION_ID", extension.get("VERSION_ID", ""), version) if version else ""


def _compare(key: str, wanted: str, found: str) -> str:
    if wanted == found:
        return ""
    if not wanted:
        return f"does not say which {key} it needs, and the base has {key}={found}"
    return f"needs {key}={wanted}, and the base has {key}={found}"
