"""As much of HTTP/1.1 as a health check needs: one GET, and whether its answer is good.

Owns the bytes of request and response. Must not know sockets. Laws: nothing raises, junk is a bad answer; what is
kept is bounded. Source: RFC 9112.
"""

MOST_BYTES = 64 * 1024  # of an answer; what comes behind is not looked at


def request(name: str, target: str) -> bytes:
    """A GET that closes the connection behind its answer."""
    head = f"GET {target} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: pyinit\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    return head.encode("ascii", "replace")


def is_whole(data: bytes) -> bool:
    """Whether nothing more needs to be read; an answer without a length ends with the connection."""
    head, mark, body = data.partition(b"\r\n\r\n")
    if len(data) >= MOST_BYTES:
        return True
    if not mark:
        return False
    fields = _fields(head)
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        return body.endswith(b"0\r\n\r\n")
    length = fields.get(b"content-length", b"")
    return length.isdigit() and len(body) >= int(length)


def judge(data: bytes, status: tuple[int, int], pattern: str) -> str:
    """"" for a good answer, else what is bad about it."""
    head, _, body = data.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if not data:
        return "closed without an answer"
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not (len(words[1]) == 3 and words[1].isdigit()):
        return "no HTTP answer"
    code = int(words[1])
    low, high = status
    if not low <= code <= high:
        return f"HTTP {code}, expected {low if low == high else f'{low}-{high}'}"
    if not pattern:
        return ""
    import re  # only for those who look at the body

    if b"chunked" in _fields(head).get(b"transfer-encoding", b""):
        body = _unchunked(body)
    if re.search(pattern, body[:MOST_BYTES].decode("utf-8", "replace")):
        return ""
    return f"HTTP {code}, but the body does not match {pattern}"


def _fields(head: bytes) -> dict[bytes, bytes]:
    found = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        found[name.strip().lower()] = value.strip().lower()
    return found


def _unchunked(body: bytes) -> bytes:
    out = b""
    while body:
        line, mark, rest = body.partition(b"\r\n")
        try:
            size = int(line.split(b";")[0], 16)
        except ValueError:
            break
        if not mark or size <= 0:
            break
        out, body = out + rest[:size], rest[size + 2 :]
    return out
