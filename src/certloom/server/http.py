"""HTTP/1.1 and HTTP/1.0 (RFC 9112) for clients of every age, bounded, over httptools (which is llhttp).

It bounds header bytes, header count, body and time (431, 413, 408), gives every answer a Content-Length,
keeps HTTP/1.0 alive when asked, and refuses requests that two servers could read differently.

Theory of operation. A connection is ``IDLE`` between requests, then in ``HEAD``, then in ``BODY``; a whole
request becomes an ``Exchange``. One exchange is answered at a time; further pipelined requests wait, and
reading is paused. Each state has a deadline, which the sweep of ``Connections`` watches. A refusal is written
after the answers that are still due, and leads to ``LINGER``: what the client still sends is dropped until
it has had time to read the refusal (closing with unread input would reset the connection and destroy it).

It is a ``BufferedProtocol`` and not a subclass of uvicorn's ``HttpToolsProtocol``, because uvloop's TLS
hands a plain ``Protocol`` each read in a fresh 256 KiB object: over TLS that was half of a request's cost.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from math import inf
from typing import Any, cast
from urllib.parse import unquote

import httptools
import structlog

from certloom.server.connections import LINGER_SECONDS, Listener
from certloom.server.exchange import Exchange
from certloom.server.framing import Refused, read_framing, split_target
from certloom.server.tls_peer import about_peer

_MOST_PIPELINED = 16
_LINGER_BYTES = 4 * 1024 * 1024
_ASGI = {"version": "3.0", "spec_version": "2.3"}

_log = structlog.get_logger("certloom.server")

# Shared by all connections: what is read is parsed before anything else is read.
_input = memoryview(bytearray(65536))


class _State(Enum):
    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    LINGER = auto()


class _Traces:
    """Short random request ids, cut from the system's randomness by the batch."""

    def __init__(self) -> None:
        self._left: list[str] = []

    def next(self) -> str:
        if not self._left:
            text = os.urandom(6 * 256).hex()
            self._left = [text[i : i + 12] for i in range(0, len(text), 12)]
        return self._left.pop()


_traces = _Traces()


def protocol_factory(listener: Listener) -> Callable[[], HTTPProtocol]:
    """What ``loop.create_server`` calls for each connection of this listener."""
    loop = asyncio.get_running_loop()
    return lambda: HTTPProtocol(listener, loop)


class HTTPProtocol(asyncio.BufferedProtocol):
    """One connection."""

    transport: asyncio.Transport

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        self.listener = listener
        self.deadline = inf
        """When, in the loop's time, the sweep calls ``deadline_passed``."""
        self.loop = loop
        self.client: tuple[str, int] | None = None
        self._parser = httptools.HttpRequestParser(self)
        # After a request with ``Connection: close`` some clients send a stray CRLF, which is no error.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._reading_paused = False
        self._writable: asyncio.Future[None] | None = None
        """Set while the transport's write buffer is full."""
        self._state = _State.IDLE
        self._exchange: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._task: asyncio.Task[None] | None = None
        self._refusal: Refused | None = None
        self._last = False
        """No further request is read from this connection."""
        self._raw = 0
        """Bytes of the current head or body as they came, an upper bound; of dropped input when lingering."""
        self._cut = False
        """Whether the chunk being parsed held the end of a request."""
        self._body: list[bytes] = []
        self._body_length = 0
        self._trailers = 0
        self._keep_alive = False
        self._is_tls = False
        self._about_connection: dict[str, Any] = {}

    # -- the connection's life ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        listener = self.listener
        connections = listener.connections
        connections.open.add(self)
        peer = transport.get_extra_info("peername")
        local = transport.get_extra_info("sockname")
        # Unix sockets have a path, or nothing, for a name.
        self.client = (peer[0], peer[1]) if isinstance(peer, tuple) else None
        self._is_tls = transport.get_extra_info("ssl_object") is not None
        # What every request of this connection shares; facts about the peer's certificate belong here.
        self._about_connection = {
            "type": "http",
            "asgi": _ASGI,
            "scheme": "https" if self._is_tls else "http",
            "root_path": "",
            "server": (local[0], local[1]) if isinstance(local, tuple) else None,
            "client": self.client,
            "certloom.base_url": listener.base_url,
        }
        if listener.asks_for_certificate:
            self._about_connection |= about_peer(transport.get_extra_info("ssl_object"))
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family == socket.AF_UNIX:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            self._about_connection["certloom.peer_uid"] = struct.unpack("3i", credentials)[1]
        self.deadline = self.loop.time() + listener.limits.header_seconds
        if connections.stopping or (listener.limited and len(connections.open) > connections.limit):
            self._refuse(Refused(503, "too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        connections = self.listener.connections
        connections.open.discard(self)
        connections.closed()
        self._waiting.clear()
        if self._exchange is not None:
            self._exchange.client_gone()
        self.resume_writing()
        self.transport.close()
        del self._parser

    def eof_received(self) -> bool:
        """Keep a connection whose client has said all it will say, until it is answered (not so over TLS)."""
        self._last = True
        return not self._is_tls and (self._exchange is not None or bool(self._waiting))

    def shutdown(self) -> None:
        """The server stops: close now if nothing is under way. What is answered from now on also closes."""
        if self._state is _State.LINGER:
            self.transport.abort()
        elif self._exchange is None and not self._waiting and self._state is _State.IDLE:
            self.transport.close()

    def abort(self) -> None:
        """Close at once, whatever is unsent."""
        self.transport.abort()

    def deadline_passed(self) -> None:
        """The sweep's call: the client took too long over what it was at."""
        if self._state is _State.LINGER or self.transport.is_closing():
            self.transport.abort()
        elif self._exchange is not None or self._waiting:
            # Only the next request is late: answer this one, then close.
            self._last = True
            self.deadline = inf
        elif self._state is _State.IDLE:
            self.transport.close()
            self.deadline = self.loop.time() + LINGER_SECONDS
        else:
            what = "headers" if self._state is _State.HEAD else "body"
            self._refuse(Refused(408, f"the request's {what} took too long"))

    # -- bytes in ----------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        return _input

    def buffer_updated(self, nbytes: int) -> None:
        if self._last:
            self._raw += nbytes
            if self._raw > _LINGER_BYTES:
                self.transport.abort()
            return
        if self._cut:
            self._cut = False
            self._raw = 0
        try:
            self._parser.feed_data(_input[:nbytes])
        except httptools.HttpParserUpgrade:
            # Answered in HTTP/1.1, as RFC 9110 section 7.8 allows; what follows is not read.
            self._last = True
        except httptools.HttpParserError as error:
            if self._last:
                return  # what follows the last request is not read
            refused = error.__context__
            if not isinstance(refused, Refused):
                refused = Refused(400, "this is not an HTTP request")
            self._refuse(refused)
            return
        if self._state is not _State.IDLE:
            self._bound_unfinished(nbytes)

    def _bound_unfinished(self, size: int) -> None:
        """Bound a head or body that goes on, with what the parser itself keeps, such as half a header."""
        if self._cut:
            # The chunk also held the end of an earlier request: how much is this one's is not known.
            return
        self._raw += size
        limits = self.listener.limits
        if self._state is _State.HEAD:
            if self._raw > limits.header_bytes:
                self._refuse(Refused(431, "the request's headers are too large"))
        elif self._raw > limits.header_bytes + 2 * limits.body_bytes + 65536:
            self._refuse(Refused(413, "the request's body is too large"))

    def on_message_begin(self) -> None:
        if self._last:
            raise Refused(400, "the last request has been read")
        self._url = b""
        self._headers = []
        self._state = _State.HEAD
        self.deadline = self.loop.time() + self.listener.limits.header_seconds

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._state is _State.HEAD:
            headers = self._headers
            headers.append((name.lower(), value))
            if len(headers) > self.listener.limits.header_count:
                raise Refused(431, "the request has too many headers")
        else:
            # Trailers (RFC 9110 section 6.5.1) are dropped, which is always allowed.
            self._trailers += 1
            if self._trailers > self.listener.limits.header_count:
                raise Refused(431, "the request has too many trailers")

    def on_headers_complete(self) -> None:
        limits = self.listener.limits
        parser = self._parser
        framing = read_framing(
            self._headers,
            parser.get_http_version(),
            most_bytes=limits.header_bytes - len(self._url),
            require_host=self.listener.require_host,
        )
        if framing.length > limits.body_bytes:
            raise Refused(413, "the request's body is too large")
        self._keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        self._state = _State.BODY
        self._body = []
        self._body_length = 0
        self._trailers = 0
        if framing.length or framing.is_chunked:
            self.deadline = self.loop.time() + limits.body_seconds
            if framing.expects_continue and self._exchange is None and not self._waiting:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._body_length += len(body)
        if self._body_length > self.listener.limits.body_bytes:
            raise Refused(413, "the request's body is too large")

    def on_message_complete(self) -> None:
        method = self._parser.get_method()
        raw_path, query = split_target(method, self._url)
        path = raw_path.decode("ascii")
        if "%" in path:
            path = unquote(path)
        scope = self._about_connection.copy()
        scope["http_version"] = self._parser.get_http_version()
        scope["method"] = method.decode()
        scope["path"] = path
        scope["raw_path"] = raw_path
        scope["query_string"] = query
        scope["headers"] = self._headers
        scope["certloom.trace"] = _traces.next()
        body = self._body
        exchange = Exchange(self, scope, body[0] if len(body) == 1 else b"".join(body), self._keep_alive)
        self._body = []
        self._state = _State.IDLE
        self._cut = True
        self.deadline = inf
        if not self._keep_alive:
            self._last = True
        if self._exchange is None and not self._waiting and self._writable is None:
            self._begin(exchange)
            return
        self._waiting.append(exchange)
        self._pause_reading()
        if len(self._waiting) >= _MOST_PIPELINED:
            self._last = True

    # -- answers -----------------------------------------------------------------------------------------

    def _begin(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.listener.connections.in_flight += 1
        self._task = self.loop.create_task(exchange.run())

    def exchange_complete(self, exchange: Exchange) -> None:
        """The answer is handed to the transport: go on to the next request, or end."""
        self._exchange = None
        if not exchange.keep_alive:
            self._close_gently()
        elif self._waiting or self._last or self._reading_paused or self._refusal is not None:
            self._next()
        elif self._state is _State.IDLE:
            self.deadline = self.loop.time() + self.listener.limits.idle_seconds

    def _next(self) -> None:
        if self._exchange is not None or self.transport.is_closing():
            return
        if self._waiting:
            if self._writable is None:
                self._begin(self._waiting.popleft())
            return
        if self._refusal is not None:
            self._refuse(self._refusal)
        elif self._last:
            self._close_gently()
        else:
            self._resume_reading()
            # Time that passed while nothing was read is not the client's.
            limits = self.listener.limits
            allowed = limits.idle_seconds if self._state is _State.IDLE else limits.header_seconds
            self.deadline = self.loop.time() + allowed

    def pause_writing(self) -> None:
        self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None
        if self._exchange is None and self._waiting:
            self._next()

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written."""
        if self._writable is not None:
            await asyncio.shield(self._writable)

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()

    def _close_gently(self) -> None:
        self._waiting.clear()
        self.transport.close()
        self.deadline = self.loop.time() + self.listener.limits.idle_seconds

    def _refuse(self, refused: Refused) -> None:
        """Answer in the application's place and end the connection, once all earlier answers are given."""
        self._last = True
        if self._exchange is not None or self._waiting:
            self._refusal = refused
            return
        if self.transport.is_closing():
            return
        self._refusal = None
        listener = self.listener
        listener.meters.refuse(refused.status)
        trace = _traces.next()
        path = self._url.split(b"?")[0].decode("ascii", "replace")
        content_type, body = listener.refusal(refused.status, refused.detail, path)
        _log.info(
            "request refused",
            listener=listener.name,
            status=refused.status,
            detail=refused.detail,
            client=self.client[0] if self.client else "",
            trace=trace,
        )
        exchange = Exchange(self, {"method": "", "http_version": "1.1", "certloom.trace": trace}, b"", False)
        headers = [(b"content-type", content_type)]
        if refused.status == 503:
            headers.append((b"retry-after", b"1"))
        exchange.refuse(refused.status, headers, body)
        self._state = _State.LINGER
        self._raw = 0
        self._resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.deadline = self.loop.time() + LINGER_SECONDS
