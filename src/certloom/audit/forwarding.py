"""Sending the audit log to a syslog receiver, at least once, and keeping nobody waiting.

Theory of operation. The place up to which the receiver has the log is a row in the database, with the node
whose turn it is. About once a second that node sends, in order, what was linked since. Syslog has no answers,
so over TCP and TLS the place moves on only when the receiver's host has acknowledged every octet *and* the
connection has stood for some seconds since: a receiver that dies closes it. When it breaks, the next one
begins at the place in the database. So events may come twice (``sequence`` tells) but none is left out;
except over UDP, which loses what the network loses. While there is no receiver, the place stays where it is
and tries come further apart; nothing else notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import socket
import ssl
import struct
import termios
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
import structlog

from certloom.audit import syslog
from certloom.audit.walk import Row
from certloom.clock import Clock
from certloom.settings.schema import Audit
from certloom.store import events
from certloom.store import forwarding as statements
from certloom.store.base import Store, Tx

_BATCH = 500
_TURN_MS = 60_000
_CONNECT_SECONDS = 10.0
_SEND_SECONDS = 20.0
_LONGEST_PAUSE = 60.0
_SETTLE_SECONDS = 5.0

log = structlog.get_logger(__name__)


class TargetError(Exception):
    """``audit.syslog`` does not name a receiver."""


class Target(msgspec.Struct, frozen=True):
    """A receiver: ``udp``, ``tcp`` or ``tls``, host and port."""

    transport: str
    host: str
    port: int


def parse_target(url: str) -> Target:
    """Read ``audit.syslog``. Raises ``TargetError``."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if (
        parts.scheme not in syslog.LONGEST
        or not parts.hostname
        or port is None
        or parts.path not in ("", "/")
    ):
        raise TargetError("audit.syslog must be udp://host:port, tcp://host:port or tls://host:port")
    return Target(parts.scheme, parts.hostname, port)


class _Line(Protocol):
    """A way to the receiver."""

    async def send(self, messages: Sequence[bytes]) -> None:
        """Send all, and return when the receiver's host has them. Raises ``OSError``."""
        ...

    def check(self) -> None:
        """Raises ``OSError`` when the receiver is known to be gone."""
        ...

    def close(self) -> None: ...


class Forwarder:
    """Sends one store's log. Run ``forward`` every second."""

    def __init__(
        self, store: Store, clock: Clock, node: str, settings: Audit, *, settle: float = _SETTLE_SECONDS
    ) -> None:
        """``settle``: seconds a connection must stand for what was sent to count. Raises ``TargetError``."""
        self._store = store
        self._clock = clock
        self._node = node
        self._target = parse_target(settings.syslog)
        self._roots = settings.syslog_roots
        self._settle = 0.0 if self._target.transport == "udp" else settle
        self._host = socket.getfqdn() or "-"
        self._line: _Line | None = None
        self._sent: int | None = None
        """The last event sent over this connection."""
        self._unsettled: deque[tuple[float, int]] = deque()
        """(when, last event) of what was sent and does not count yet."""
        self._failures = 0
        self._not_before = 0.0

    async def forward(self) -> int:
        """Send what was linked since the last time, if it is this node's turn; how many events that were."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before:
            return 0
        try:
            if self._line is not None:
                self._line.check()
            if not self._unsettled and not await self._store.read(self._is_behind):
                return 0
            return await self._forward()
        except (OSError, TimeoutError, EOFError) as error:
            self.close()
            self._failures += 1
            pause = min(_LONGEST_PAUSE, 2.0 ** min(self._failures, 10)) * random.uniform(0.75, 1)  # noqa: S311
            self._not_before = loop.time() + pause
            log.warning("syslog.unreachable", error=str(error) or type(error).__name__, again_in=round(pause))
            return 0

    def close(self) -> None:
        """Hang up, and forget what does not count yet: it is sent again."""
        if self._line is not None:
            self._line.close()
        self._line = None
        self._sent = None
        self._unsettled.clear()

    def _is_behind(self, tx: Tx) -> bool:
        head = events.mark(tx, events.HEAD)
        return head is not None and head.sequence > (self._sent or statements.sent(tx) or 0)

    async def _forward(self) -> int:
        place = await self._store.write(self._take)
        if place is None:
            self.close()  # it is another node's turn
            return 0
        total = 0
        place = self._sent or place
        while rows := await self._store.scan(_after(place)):
            if rows[0][8] > place + 1:
                log.warning("syslog.gap", missing=rows[0][8] - place - 1, why="retention was faster")
            await self._send(rows)
            place = rows[-1][8]
            total += len(rows)
            if len(rows) < _BATCH:
                break
        await self._count()
        return total

    async def _send(self, rows: Sequence[Row]) -> None:
        longest = syslog.LONGEST[self._target.transport]
        texts = [syslog.message(row, self._host, str(os.getpid()), longest) for row in rows]
        if self._line is None:
            self._line = await self._connect()
        async with asyncio.timeout(_SEND_SECONDS):
            await self._line.send(texts)
        self._failures = 0
        self._sent = rows[-1][8]
        self._unsettled.append((asyncio.get_running_loop().time(), rows[-1][8]))

    async def _count(self) -> None:
        """Move the place in the database on, over what was sent long enough ago."""
        limit = asyncio.get_running_loop().time() - self._settle
        settled = 0
        while self._unsettled and self._unsettled[0][0] <= limit:
            settled = self._unsettled.popleft()[1]
        if settled:
            until = self._clock.now_ms() + _TURN_MS
            if not await self._store.write(lambda tx: statements.advance(tx, self._node, settled, until)):
                self.close()

    def _take(self, tx: Tx) -> int | None:
        now = self._clock.now_ms()
        return statements.take(tx, self._node, now, now + _TURN_MS)

    async def _connect(self) -> _Line:
        target = self._target
        async with asyncio.timeout(_CONNECT_SECONDS):
            if target.transport == "udp":
                return await _Datagrams.open(target)
            context = None
            if target.transport == "tls":
                context = ssl.create_default_context(cafile=self._roots or None)
                context.minimum_version = ssl.TLSVersion.TLSv1_2
            return await _Stream.open(target, context)


def _after(place: int) -> Callable[[Tx], list[Row]]:
    def unit(tx: Tx) -> list[Row]:
        return [*events.linked_after(tx, place, _BATCH)]

    return unit


class _Datagrams:
    """RFC 5426: a message each. What arrives is not known."""

    def __init__(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    @classmethod
    async def open(cls, target: Target) -> _Datagrams:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(target.host, target.port)
        )
        return cls(transport)

    async def send(self, messages: Sequence[bytes]) -> None:
        for number, text in enumerate(messages):
            self._transport.sendto(text)
            if number % 50 == 49:
                await asyncio.sleep(0.005)  # a receiver's buffer is small

    def check(self) -> None:
        """Nothing can be known."""

    def close(self) -> None:
        self._transport.close()


class _Stream:
    """RFC 6587 with octet counting, or the same under TLS (RFC 5425)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, target: Target, context: ssl.SSLContext | None) -> _Stream:
        reader, writer = await asyncio.open_connection(
            target.host, target.port, ssl=context, server_hostname=target.host if context else None
        )
        return cls(reader, writer)

    async def send(self, messages: Sequence[bytes]) -> None:
        self.check()
        self._writer.write(b"".join([syslog.octet_counted(text) for text in messages]))
        await self._writer.drain()
        pause = 0.001
        while self._unacknowledged():
            await asyncio.sleep(pause)
            pause = min(0.1, pause * 2)
            self.check()
        self.check()

    def _unacknowledged(self) -> bool:
        """Whether octets are still here or on their way (Linux: SIOCOUTQ, which is TIOCOUTQ)."""
        transport = self._writer.transport
        if transport.is_closing():
            return False
        if transport.get_write_buffer_size():
            return True
        sock = self._writer.get_extra_info("socket")
        count = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        return bool(struct.unpack("i", count)[0])

    def check(self) -> None:
        """A receiver says nothing, so whatever is read is its end. Raises ``OSError``."""
        if self._reader.at_eof() or self._reader.exception() or self._writer.transport.is_closing():
            raise ConnectionResetError("the receiver closed the connection")

    def close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.transport.abort()
