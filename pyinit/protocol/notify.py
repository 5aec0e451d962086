"""sd_notify's datagrams: text to keys and values.

Owns the parsing. Must not know sockets. Law: unknown keys are kept for who wants them, junk is dropped, nothing raises.
Source: sd_notify(3).
"""

MOST_BYTES = 4096


def parse(data: bytes) -> dict[str, str]:
    r"""`READY=1\nSTATUS=up` as a dict; the last of a repeated key wins, a line without `=` is dropped."""
    found = {}
    for line in data.decode("utf-8", "replace").split("\n"):
        key, mark, value = line.partition("=")
        if mark and key:
            found[key] = value
    return found
