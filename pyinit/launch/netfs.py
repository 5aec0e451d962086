"""Network file systems of the kernel."""

from pyinit.linux import mount


def connect(fstype: str, source: str, options: dict[str, str | None], attributes: int) -> int:
    """A detached mount."""
    return mount.new_filesystem(fstype, {"source": source, **options}, attributes=attributes)
