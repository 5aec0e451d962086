"""What an HTTP answer is worth."""

import pytest

from pyinit.protocol import http

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nall\r\n5;x=y\r\n good\r\n0\r\n\r\n"


def test_the_request_closes_the_connection():
    assert http.request("127.0.0.1:80", "/health") == (
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:80\r\nUser-Agent: pyinit\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("data", "status", "pattern", "text"),
    [
        (OK, (200, 399), "", ""),
        (OK, (200, 200), "^ok$", ""),
        (OK, (204, 204), "", "HTTP 200, expected 204"),
        (OK, (200, 399), "fine", "HTTP 200, but the body does not match fine"),
        (CHUNKED, (200, 399), "^all good$", ""),
        (b"HTTP/1.0 503 No\r\n\r\n", (200, 399), "", "HTTP 503, expected 200-399"),
        (b"", (200, 399), "", "closed without an answer"),
        (b"SSH-2.0-OpenSSH\r\n", (200, 399), "", "no HTTP answer"),
        (b"HTTP/1.1 2\xff0 OK\r\n\r\n", (200, 399), "", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe", (200, 399), "^..$", ""),
    ],
)
def test_a_judgement(data, status, pattern, text):
    assert http.judge(data, status, pattern) == text


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (OK, True), (OK[:-1], False), (b"HTTP/1.1 200 OK\r\n", False), (CHUNKED, True), (CHUNKED[:-3], False),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", False), (b"x" * http.MOST_BYTES, True),
    ],
)  # fmt: skip
def test_when_nothing_more_needs_to_be_read(data, whole):
    assert http.is_whole(data) is whole
