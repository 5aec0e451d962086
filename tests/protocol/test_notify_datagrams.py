"""sd_notify's datagrams."""

import random

import pytest

from pyinit.protocol.notify import Message, parse


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"READY=1", Message(ready=True)),
        (b"READY=1\nSTATUS=up\x1b[31m\nMAINPID=42\n", Message(ready=True, status="up?[31m", mainpid=42)),
        (b"RELOADING=1\nMONOTONIC_USEC=5", Message(reloading=True)),
        (b"STOPPING=1\nERRNO=2\nEXIT_STATUS=7", Message(stopping=True, errno=2, exit_status=7)),
        (b"WATCHDOG=1", Message(watchdog="alive")),
        (b"WATCHDOG=trigger\nWATCHDOG_USEC=1000", Message(watchdog="trigger", watchdog_usec=1000)),
        (b"EXTEND_TIMEOUT_USEC=5000000", Message(extend_usec=5_000_000)),
        (b"FDSTORE=1\nFDNAME=a b\nFDPOLL=0", Message(fdstore=True, fdname="a b", fdpoll=False)),
        (b"FDSTOREREMOVE=1\nFDNAME=x:y", Message(fdstoreremove=True, fdname="stored")),
        (b"BARRIER=1", Message(barrier=True)),
        (b"READY=0\nnonsense\n=\nMAINPID=-1\nERRNO=99999\nWATCHDOG_USEC=\xff", Message()),
        (b"STATUS=a\nSTATUS=b", Message(status="b")),
        (b"", Message()),
    ],
)
def test_a_datagram(data, message):
    assert parse(data) == message


def test_junk_never_raises():
    dice = random.Random(5)
    keys = [b"READY", b"MAINPID", b"ERRNO", b"WATCHDOG_USEC", b"FDNAME", b"STATUS"]
    for _ in range(2000):
        parse(b"\n".join(dice.choice(keys) + b"=" + dice.randbytes(dice.randint(0, 30)) for _ in range(dice.randint(0, 4))))
