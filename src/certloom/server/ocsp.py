"""OCSP over HTTP (RFC 6960 appendix A, RFC 9919 sections 5 and 6), below ``/ocsp``, on plain HTTP and HTTPS.

``/ocsp/NAME`` is the address of one authority and ``/ocsp`` that of all: either answers for every one of
them. What is wrong with a request is said in OCSP's own terms, with the status 200. The server bounds headers
and bodies.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Callable, Container
from email.utils import formatdate, parsedate_to_datetime
from urllib.parse import unquote

from certloom.server.connections import ASGIApp, Receive, Scope, Send
from certloom.status.ocsp import OCSPResponder
from certloom.status.ocsp_cache import Answer

_PREFIX = "/ocsp"
_TYPE = (b"content-type", b"application/ocsp-response")
_NO_STORE = (_TYPE, (b"cache-control", b"no-store"))
_MAX_GET = 8192
"""Characters of a request in a URL. RFC 9919 section 5 has clients use POST beyond 255."""
_LENIENT = str.maketrans({"-": "+", "_": "/", " ": "+", "\n": None, "\r": None})
"""What base64 becomes on its way through URLs: other alphabets, a ``+`` read as in forms, line ends."""

_Headers = tuple[tuple[bytes, bytes], ...]


class OCSPApp:
    """The ASGI application. What is not below ``/ocsp`` is another's."""

    def __init__(
        self, responder: OCSPResponder, authorities: Callable[[], Container[str]], otherwise: ASGIApp
    ) -> None:
        """``authorities``: the names that there are."""
        self._responder = responder
        self._authorities = authorities
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        # Whoever writes URLs by hand writes OCSP.
        if path[:5].lower() != _PREFIX or (len(path) > 5 and path[5] != "/"):
            await self._otherwise(scope, receive, send)
            return
        method = scope["method"]
        if method == "POST":
            await self._post(path, receive, send)
        elif method in ("GET", "HEAD"):
            await self._get(scope, send)
        else:
            await _text(send, 405, b"OCSP is asked by POST or GET\n", (b"allow", b"GET, HEAD, POST"))

    async def _post(self, path: str, receive: Receive, send: Send) -> None:
        name, rest = self._place(path)
        if rest:
            await _text(send, 404, b"there is no such authority\n")
            return
        message = await receive()
        request: bytes = message.get("body", b"")
        while message.get("more_body"):
            message = await receive()
            request += message.get("body", b"")
        answer = self._responder.ahead(request)
        if answer is None:
            answer = await self._responder.answer(request, name)
        await _send(send, 200, answer.headers or _headers(answer), answer.body)

    async def _get(self, scope: Scope, send: Send) -> None:
        name, encoded = self._place(scope["path"])
        answer = await self._responder.answer(decode_url(encoded), name)
        headers: _Headers = answer.headers or _headers(answer)
        if answer.max_age and _is_unchanged(scope["headers"], headers, answer.this_update):
            await _send(send, 304, headers[1:], b"")
        else:
            await _send(send, 200, headers, answer.body)

    def _place(self, path: str) -> tuple[str | None, str]:
        """The authority whose address it is, if any one's, and what follows in the path."""
        rest = path[6:].lstrip("/")
        first, _, after = rest.partition("/")
        names = self._authorities()
        for name in (first, first.lower()):
            if name in names:
                return name, after
        return None, rest


def decode_url(encoded: str) -> bytes:
    """The request in a URL's path: base64, percent-encoded or not, padded or not; empty for what is none.

    Slashes in front of it are those of who joined the URL: base64 of a SEQUENCE begins with none.
    """
    if "%" in encoded:
        encoded = unquote(encoded)
    text = encoded.lstrip("/").translate(_LENIENT).rstrip("=")
    if len(text) > _MAX_GET or not text.isascii():
        return b""
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except binascii.Error:
        return b""


def _headers(answer: Answer) -> _Headers:
    """RFC 9919 section 6.2, for an answer that others may keep; made once for each."""
    if not answer.max_age:
        return _NO_STORE
    etag = hashlib.sha256(answer.body).hexdigest()[:40].encode()
    cache = b"max-age=%d, public, no-transform, must-revalidate" % answer.max_age
    answer.headers = headers = (
        _TYPE,
        (b"cache-control", cache),
        (b"etag", b'"' + etag + b'"'),
        (b"last-modified", formatdate(answer.this_update, usegmt=True).encode()),
        (b"expires", formatdate(answer.next_update, usegmt=True).encode()),
    )
    return headers


def _is_unchanged(asked: list[tuple[bytes, bytes]], headers: _Headers, modified: int) -> bool:
    """Whether the client has this very answer (RFC 9110 section 13): by ETag, or else by date."""
    since = b""
    for name, value in asked:
        if name == b"if-none-match":
            tags = [tag.strip().removeprefix(b"W/") for tag in value.split(b",")]
            return headers[2][1] in tags or b"*" in tags
        if name == b"if-modified-since":
            since = value
    if not since:
        return False
    try:
        return parsedate_to_datetime(since.decode("ascii")).timestamp() >= modified
    except (ValueError, UnicodeDecodeError, OverflowError):
        return False


async def _text(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    await _send(send, status, ((b"content-type", b"text/plain; charset=utf-8"), *headers), body)


async def _send(send: Send, status: int, headers: _Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
