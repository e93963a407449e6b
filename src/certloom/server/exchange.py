"""One request and its answer.

The request is complete before the application is asked, so ``receive`` never waits for the client, and
the answer leaves in one write, which over TLS is one record. An answer of unknown length leaves as it comes
where the application asks for that with ``transfer-encoding: chunked``: in chunks (RFC 9112 section 7.1), or
to HTTP/1.0 until the connection ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence
from http import HTTPStatus
from time import perf_counter
from typing import Any, Protocol

import structlog

from certloom.logs import request_id
from certloom.server.connections import Listener

Headers = Sequence[tuple[bytes, bytes]]

STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode())
    for status in HTTPStatus
    if status >= 200
}
_BODILESS = frozenset({204, 304})
_UNTIL_CLOSED = -1
_CHUNKED = -2
"""In the place of a length; -1 sends no header for it."""
_MOST_NAMES = 256

_log = structlog.get_logger("certloom.server")


class _HeaderNames(dict[bytes, bytes]):
    """Names as they are written: ``content-type`` becomes ``Content-Type: ``.

    ASGI names are lower-case and HTTP's are case-blind, but enrolment clients in firmware and shell are not.
    """

    def __missing__(self, name: bytes) -> bytes:
        written = b"-".join([part.capitalize() for part in name.split(b"-")]) + b": "
        if len(self) < _MOST_NAMES:
            self[name] = written
        return written


_NAMES = _HeaderNames()


class ClientGone(Exception):
    """There is nobody any more to take the rest of the answer."""


class Carrier(Protocol):
    """The connection that an exchange takes place on."""

    listener: Listener
    transport: asyncio.Transport

    def exchange_complete(self, exchange: Exchange) -> None:
        """The answer has been handed to the transport."""
        ...

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class Exchange:
    """One request, in the three parts ASGI wants: ``scope``, ``receive`` and ``send``."""

    __slots__ = (
        "_asked",
        "_body",
        "_chunks",
        "_endless",
        "_gone",
        "_headers",
        "_left",
        "_protocol",
        "_status",
        "disconnected",
        "keep_alive",
        "response_complete",
        "scope",
    )

    def __init__(self, protocol: Carrier, scope: dict[str, Any], body: bytes, keep_alive: bool) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.response_complete = False
        self.disconnected = False
        self._protocol = protocol
        self._body = body
        self._asked = False
        self._status = 0
        self._headers: Headers = ()
        self._chunks: list[bytes] | None = None
        self._left = -1
        self._endless = 0
        """``_CHUNKED`` or ``_UNTIL_CLOSED`` once an answer of unknown length has begun to leave."""
        self._gone: asyncio.Event | None = None

    async def run(self) -> None:
        """Ask the application; whatever it does, the client gets one whole answer or a closed connection."""
        protocol = self._protocol
        request_id.set(self.scope["certloom.trace"])
        began = perf_counter()
        try:
            await protocol.listener.app(self.scope, self.receive, self.send)
            if not (self.response_complete or self.disconnected):
                raise RuntimeError("the application returned without a whole answer")
        except asyncio.CancelledError:
            protocol.abort()
            raise
        except ClientGone:
            pass  # an answer that goes on and on ends here, and so does the work behind it
        except Exception:
            _log.exception("request failed", trace=self.scope["certloom.trace"], path=self.scope["path"])
            self._fail()
        finally:
            listener = protocol.listener
            listener.meters.count(self.scope["path"], self._status, perf_counter() - began)
            connections = listener.connections
            connections.in_flight -= 1
            if connections.stopping:
                connections.closed()

    def _fail(self) -> None:
        if self.response_complete or self.disconnected:
            return
        if self._left >= 0 or self._endless:
            # Part of the answer is gone already: a broken connection is the only honest sign left.
            self._protocol.abort()
            return
        content_type, body = self._protocol.listener.refusal(
            500, "the server failed; its log tells why, under this answer's X-Request-Id", self.scope["path"]
        )
        self._status = 500
        self._finish(500, ((b"content-type", content_type),), body)

    def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer without an application; what becomes of the connection is the caller's affair."""
        self._write(self._head(status, headers, len(body)) + body)

    async def receive(self) -> dict[str, Any]:
        """The whole body at once; after it, a wait for the end of the exchange."""
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        if not (self.disconnected or self.response_complete):
            self._gone = asyncio.Event()
            await self._gone.wait()
        return {"type": "http.disconnect"}

    def client_gone(self) -> None:
        """The connection is lost: what is still sent goes nowhere."""
        self.disconnected = True
        if self._gone is not None:
            self._gone.set()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Take the answer. It is written when it is whole, or as it comes where the app gave its length."""
        if message["type"] == "http.response.start":
            if self._status:
                raise RuntimeError("the response has started already")
            self._status = message["status"]
            self._headers = message.get("headers", ())
            return
        if message["type"] != "http.response.body":
            raise RuntimeError(f"unexpected ASGI message {message['type']!r}")
        if not self._status or self.response_complete:
            raise RuntimeError("a response body without its start, or after its end")
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if self._endless:
            await self._stream_on(body, more)
        elif self._chunks is None and not more and self._left < 0:
            self._finish(self._status, self._headers, body)
        elif self._left >= 0 or (self._chunks is None and self._start_streaming()):
            await (self._stream_on if self._endless else self._stream)(body, more)
        else:
            self._chunks = self._chunks or []
            self._chunks.append(body)
            if not more:
                self._finish(self._status, self._headers, b"".join(self._chunks))

    def _start_streaming(self) -> bool:
        """Whether the answer can leave in pieces: where its length was told first, or chunks asked for."""
        if self.scope["method"] == "HEAD" or self._status in _BODILESS:
            return False
        for name, value in self._headers:
            if name == b"content-length":
                self._left = int(value)
                self._write(self._head(self._status, self._headers, self._left))
                return True
            if name == b"transfer-encoding" and value == b"chunked":
                is_old = self.scope["http_version"] == "1.0"
                self._endless = _UNTIL_CLOSED if is_old else _CHUNKED
                if is_old:
                    self.keep_alive = False
                self._write(self._head(self._status, self._headers, self._endless))
                return True
        return False

    async def _stream_on(self, body: bytes, more: bool) -> None:
        if self._endless == _CHUNKED:
            # An empty chunk would be the last.
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            self._write(data if more else data + b"0\r\n\r\n")
        else:
            self._write(body)
        if not more:
            self._complete()
        elif self.disconnected:
            raise ClientGone
        else:
            await self._protocol.drain()

    async def _stream(self, body: bytes, more: bool) -> None:
        self._left -= len(body)
        if self._left < 0 or (self._left and not more):
            self._left = 0
            raise RuntimeError("the response body is not as long as its Content-Length")
        self._write(body)
        if more:
            await self._protocol.drain()
        else:
            self._complete()

    def _finish(self, status: int, headers: Headers, body: bytes) -> None:
        if status in _BODILESS:
            self._write(self._head(status, headers, -1))
        elif self.scope["method"] == "HEAD":
            # RFC 9110 section 9.3.2: the length GET would have, if the app said so.
            length = next((int(v) for n, v in headers if n == b"content-length"), len(body))
            if (b"transfer-encoding", b"chunked") in headers:
                length = -1
            self._write(self._head(status, headers, length))
        else:
            self._write(self._head(status, headers, len(body)) + body)
        self._complete()

    def _write(self, data: bytes) -> None:
        if not self.disconnected:
            self._protocol.transport.write(data)

    def _complete(self) -> None:
        self.response_complete = True
        if self._gone is not None:
            self._gone.set()
        if not self.disconnected:
            self._protocol.exchange_complete(self)

    def _head(self, status: int, headers: Headers, length: int) -> bytes:
        """Status line and headers. Raises ``RuntimeError`` where a header would break out of its line.

        ``length`` -1 leaves Content-Length out, as RFC 9110 section 8.6 wants for 204; ``_CHUNKED`` sends
        Transfer-Encoding in its place.
        """
        pieces = [STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        lines = 4  # the status line, Date, X-Request-Id, and the empty line
        for name, value in headers:
            if name == b"content-length" or name == b"transfer-encoding":
                continue
            if name == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in value.lower()
                continue
            pieces += (_NAMES[name], value, b"\r\n")
            lines += 1
        connections = self._protocol.listener.connections
        if length >= 0:
            pieces.append(b"Content-Length: %d\r\n" % length)
            lines += 1
        elif length == _CHUNKED:
            pieces.append(b"Transfer-Encoding: chunked\r\n")
            lines += 1
        if not self.keep_alive or connections.stopping:
            self.keep_alive = False
            pieces.append(b"Connection: close\r\n")
            lines += 1
        elif self.scope["http_version"] == "1.0":
            pieces.append(b"Connection: keep-alive\r\n")
            lines += 1
        pieces += (connections.date_line(), self.scope["certloom.trace"].encode(), b"\r\n\r\n")
        text = b"".join(pieces)
        if text.count(b"\n") != lines or text.count(b"\r") != lines or b"\0" in text:
            raise RuntimeError("a response header holds a control character")
        return text
