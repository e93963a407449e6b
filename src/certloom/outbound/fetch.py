"""One GET over a connection of its own, to an address that has been chosen and judged by the caller.

This is what http-01 is made of, once per certificate, and so it is kept cheap: about a third of what a
general HTTP client costs. It knows no redirects, no cookies, no compression and no reuse; everything the
other side can send is bounded, in bytes and in time.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

import httptools
import msgspec

HEADER_LIMIT = 16_384
"""Bytes of status line and headers, those of interim responses included."""


class Response(msgspec.Struct, frozen=True):
    """An answer as it came. ``body`` is at most the limit's bytes long, ``cut`` if there was more."""

    status: int
    location: str
    """The Location header as latin-1, empty if there is none."""
    encoding: str
    """The Content-Encoding header, empty if there is none."""
    body: bytes
    cut: bool


class FetchFailed(Exception):
    """No answer. The message is fit to follow the name of the address."""


class NotConnected(FetchFailed):
    """There was nobody to talk to at this address: another address may do better."""


class TLSFailed(FetchFailed):
    """The TLS handshake failed."""


class BadResponse(FetchFailed):
    """What came back is no HTTP, too long, or ended early."""


class ResponseTimeout(FetchFailed):
    """Connected, but the answer was not complete in time."""


async def get(
    request: bytes,
    address: str,
    port: int,
    *,
    connect_by: float,
    finish_by: float,
    body_limit: int,
    tls: ssl.SSLContext | None = None,
    server_name: str = "",
) -> Response:
    """Send ``request`` (a whole GET request that asks for the connection to be closed), read the answer.

    ``address`` is an IP literal. ``connect_by`` and ``finish_by`` are event loop times. The connection is
    gone when this returns or raises ``FetchFailed``.
    """
    loop = asyncio.get_running_loop()
    exchange = _Exchange(request, loop.create_future(), body_limit)
    try:
        async with asyncio.timeout_at(connect_by) as limit:
            if tls is None:
                await loop.create_connection(lambda: exchange, address, port)
            else:
                await loop.create_connection(
                    lambda: exchange,
                    address,
                    port,
                    ssl=tls,
                    server_hostname=server_name,
                    ssl_handshake_timeout=max(finish_by - loop.time(), 0.01),
                )
            limit.reschedule(finish_by)
            return await exchange.done
    except TimeoutError:
        if exchange.transport is None:
            raise NotConnected("no connection in time") from None
        raise ResponseTimeout("the response was not complete in time") from None
    except ssl.SSLError as error:
        raise TLSFailed(f"TLS handshake failed: {error.reason or 'protocol error'}") from None
    except OSError as error:
        if exchange.transport is None:
            raise NotConnected(error.strerror or str(error)) from None
        raise BadResponse("the connection was lost") from None
    finally:
        exchange.drop()


class _Exchange(asyncio.Protocol):
    """Sends the request and collects the response; ``done`` holds it, or why there is none."""

    def __init__(self, request: bytes, done: asyncio.Future[Response], body_limit: int) -> None:
        self.done = done
        self.transport: asyncio.Transport | None = None
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._body_limit = body_limit
        self._header_bytes = 0
        self._in_body = False
        self._framed = False
        self._status = 0
        self._location = ""
        self._encoding = ""
        self._body: list[bytes] = []
        self._body_bytes = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from asyncio's
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.done.done():
            return
        before = self._body_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(BadResponse("the server wants to switch protocols"))
            return
        except httptools.HttpParserError:
            self._fail(BadResponse("the response is not HTTP"))
            return
        # Whatever was not body is headers, or chunk framing, of which a server could send without end.
        self._header_bytes += len(data) - (self._body_bytes - before)
        if self._header_bytes > HEADER_LIMIT and not self.done.done():
            self._fail(BadResponse(f"more than {HEADER_LIMIT} bytes of headers"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done.done():
            return
        if self._in_body and not self._framed and exc is None:
            self._finish(cut=False)  # the body ends with the connection, RFC 9112 section 6.3
        else:
            self._fail(BadResponse("the connection was closed before the response was complete"))

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._location = self._encoding = ""
        self._framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"location":
            self._location = value.decode("latin-1")
        elif name == b"content-encoding":
            self._encoding = value.decode("latin-1")
        elif name in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._in_body = self._status >= 200

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self.done.done():
            return
        self._body.append(body)
        if self._body_bytes > self._body_limit:
            self._finish(cut=True)

    def on_message_complete(self) -> None:
        if self._status >= 200 and not self.done.done():  # a 1xx is only a prelude, RFC 9110 section 15.2
            self._finish(cut=False)

    def drop(self) -> None:
        """Close the connection, whatever it is at."""
        if self.transport is not None:
            self.transport.abort()
        if self.done.done() and not self.done.cancelled():
            self.done.exception()  # seen: a failure that came too late is not worth a warning
        else:
            self.done.cancel()

    def _finish(self, *, cut: bool) -> None:
        body = b"".join(self._body)[: self._body_limit]
        self.done.set_result(Response(self._status, self._location, self._encoding, body, cut))

    def _fail(self, failure: FetchFailed) -> None:
        self.done.set_exception(failure)
