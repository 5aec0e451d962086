"""The host side: plan the container, make it, watch it, undo it."""
