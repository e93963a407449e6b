"""A listener on a real socket with an application of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

import uvloop

from certloom.clock import SystemClock
from certloom.server.connections import ASGIApp, Connections, Listener
from certloom.server.http import protocol_factory
from certloom.settings.schema import Limits


def run(coroutine: Any) -> Any:
    """Run on the event loop the server uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


class Client:
    """Raw bytes to and from one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def answer(self, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        """The next response: status, headers by lower-case name, body."""
        lines = (
            (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1").split("\r\n")
        )
        headers = {}
        for line in lines[1:-2]:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        status = int(lines[0].split(" ")[1])
        assert lines[0].startswith("HTTP/1.1 ")
        body = b""
        if "transfer-encoding" in headers and not head:
            return status, headers, await self._chunked()
        if status not in (100, 204, 304):
            length = int(headers["content-length"])
            body = b"" if head else await asyncio.wait_for(self.reader.readexactly(length), 10)
        return status, headers, body

    async def _chunked(self) -> bytes:
        body = b""
        while True:
            size = int((await asyncio.wait_for(self.reader.readuntil(b"\r\n"), 10)).strip(), 16)
            piece = await asyncio.wait_for(self.reader.readexactly(size + 2), 10)
            assert piece.endswith(b"\r\n")
            if not size:
                return body
            body += piece[:-2]

    async def closed(self, seconds: float = 10) -> bytes:
        """Wait for the server to close; what it still sent."""
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), seconds)
        return b""


class Server:
    """The listener under test."""

    def __init__(self, connections: Connections, port: int, tls: ssl.SSLContext | None) -> None:
        self.connections = connections
        self.port = port
        self._tls = tls

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, ssl=self._tls))

    async def ask(self, data: bytes, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        """One connection, one request, its answer."""
        client = await self.connect()
        await client.send(data)
        try:
            return await client.answer(head=head)
        finally:
            client.writer.close()


@contextlib.asynccontextmanager
async def listening(
    app: ASGIApp,
    *,
    limits: Limits | None = None,
    connections: int = 100,
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    **listener: Any,
) -> AsyncIterator[Server]:
    """Serve ``app`` on a free loopback port; ``tls`` is the server's context and the client's."""
    shared = Connections(SystemClock(), connections)
    shared.start()
    factory = protocol_factory(
        Listener(
            name="test",
            app=app,
            base_url="https://pki.test",
            limits=limits or Limits(),
            connections=shared,
            **listener,
        )
    )
    server = await asyncio.get_running_loop().create_server(
        factory, "127.0.0.1", 0, ssl=tls[0] if tls else None
    )
    try:
        yield Server(shared, server.sockets[0].getsockname()[1], tls[1] if tls else None)
    finally:
        server.close()
        await shared.stop(1)
        await server.wait_closed()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it was asked, as text."""
    message = await receive()
    text = f"{scope['method']} {scope['path']}?{scope['query_string'].decode()} ".encode() + message["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text})
