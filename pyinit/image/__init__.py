"""Squashfs images: base system + skeleton + application, reproducibly."""
