"""What a request's head says about its body and its target: pure rules, and strict ones.

Where a message could be read in two ways, a proxy in front may read it in the other one (RFC 9112 section
11.2), so every such message is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import httptools
import msgspec

_TOLD_BY = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})


class Refused(Exception):
    """The request is refused with this status; out of a parser callback, it also ends the parsing."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Framing(msgspec.Struct, frozen=True, gc=False):
    """How long the body is, as the headers tell (RFC 9112 section 6.3)."""

    length: int
    """0 where it is chunked, or there is none."""
    is_chunked: bool
    expects_continue: bool


_NO_BODY = Framing(0, False, False)


def read_framing(
    headers: Sequence[tuple[bytes, bytes]], version: str, *, most_bytes: int, require_host: bool
) -> Framing:
    """Read the headers (names in lower case) of a request. Raises ``Refused``."""
    http11 = version == "1.1"
    if not http11 and version != "1.0":
        raise Refused(400, "this is not HTTP/1.1 or HTTP/1.0")
    hosts = 0
    length = -1
    chunked = expects = False
    for name, value in headers:
        most_bytes -= len(name) + len(value) + 4
        if name in _TOLD_BY:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                if length >= 0:
                    raise Refused(400, "two Content-Length headers")
                length = int(value)
            elif name == b"transfer-encoding":
                if value.strip().lower() != b"chunked":
                    raise Refused(501, "the only transfer coding understood is chunked")
                chunked = True
            elif http11:
                if value.lower() != b"100-continue":
                    raise Refused(417, "the only expectation understood is 100-continue")
                expects = True
    if most_bytes < 0:
        raise Refused(431, "the request's headers are too large")
    if chunked and (length >= 0 or not http11):
        raise Refused(400, "a message whose length can be read in two ways")
    if hosts != 1 and (hosts or (http11 and require_host)):
        raise Refused(400, "the Host header must stand exactly once")
    if length <= 0 and not chunked:
        return _NO_BODY
    return Framing(max(length, 0), chunked, expects)


def split_target(method: bytes, target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request target (RFC 9112 section 3.2), both ASCII. Raises ``Refused``."""
    if not target.isascii() or b"#" in target:
        raise Refused(400, "the request target is malformed")
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
        return path, query
    if target == b"*" and method == b"OPTIONS":
        return target, b""
    try:
        parsed = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        raise Refused(400, "the request target is malformed") from None
    if parsed.schema not in (b"http", b"https") or not parsed.host:
        raise Refused(400, "the request target is malformed")
    return parsed.path or b"/", parsed.query or b""
