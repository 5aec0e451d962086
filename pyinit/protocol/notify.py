"""sd_notify's datagrams: bytes to a Message.

Owns the parsing. Must not know sockets. Law: unknown keys are ignored, junk is dropped, nothing raises.
Source: sd_notify(3).
"""

from pyinit.records import NamedTuple

MOST_BYTES = 4096
_LONGEST_STATUS = 256
_LONGEST_NAME = 255


class Message(NamedTuple):
    """What one datagram says; None where it says nothing."""

    ready: bool = False
    reloading: bool = False
    stopping: bool = False
    status: str | None = None
    errno: int | None = None
    mainpid: int | None = None
    watchdog: str = ""  # "alive", or "trigger"
    watchdog_usec: int | None = None
    extend_usec: int | None = None
    fdstore: bool = False
    fdstoreremove: bool = False
    fdname: str = "stored"
    fdpoll: bool = True
    barrier: bool = False
    exit_status: int | None = None


def parse(data: bytes) -> Message:
    r"""`READY=1\nSTATUS=up`; the last of a repeated key wins."""
    found: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").split("\n"):
        key, mark, value = line.partition("=")
        if mark:
            found[key] = value
    return Message(
        ready=found.get("READY") == "1",
        reloading=found.get("RELOADING") == "1",
        stopping=found.get("STOPPING") == "1",
        status=_printable(found["STATUS"]) if "STATUS" in found else None,
        errno=_number(found.get("ERRNO"), 4095),
        mainpid=_number(found.get("MAINPID"), 1 << 22),
        watchdog={"1": "alive", "trigger": "trigger"}.get(found.get("WATCHDOG", ""), ""),
        watchdog_usec=_number(found.get("WATCHDOG_USEC"), 1 << 62),
        extend_usec=_number(found.get("EXTEND_TIMEOUT_USEC"), 1 << 62),
        fdstore=found.get("FDSTORE") == "1",
        fdstoreremove=found.get("FDSTOREREMOVE") == "1",
        fdname=_name(found.get("FDNAME", "")),
        fdpoll=found.get("FDPOLL") != "0",
        barrier=found.get("BARRIER") == "1",
        exit_status=_number(found.get("EXIT_STATUS"), 255),
    )


def _number(text: str | None, highest: int) -> int | None:
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    return int(text) if int(text) <= highest else None


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:_LONGEST_STATUS]


def _name(text: str) -> str:
    """sd_pid_notify_with_fds(3): ASCII without control characters and colons."""
    good = text.isascii() and text.isprintable() and ":" not in text and 0 < len(text) <= _LONGEST_NAME
    return text if good else "stored"
