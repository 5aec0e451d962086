"""pyinit: squashfs images and one TOML file become a running container; this is its launcher and its PID 1."""

__version__ = "0.1.0"
