"""What the connections of one process share: their bounds, their deadlines, and the way they end.

No connection sets a timer of its own. Each keeps a deadline as a plain number, and one sweep every half
second ends those that passed theirs: a request then pays an assignment where a timer would cost more than
parsing its headers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from email.utils import formatdate
from typing import Any, Protocol

import msgspec

from certloom.clock import Clock
from certloom.server.meters import Meters
from certloom.settings.schema import Limits

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

SWEEP_SECONDS = 0.5
LINGER_SECONDS = 1.0
"""After a refusal, how long the client's input is read and dropped, so that it can read the refusal."""

Refusal = Callable[[int, str, str], tuple[bytes, bytes]]
"""(status, what is wrong, path or empty) -> (content type, body) of an answer given in the app's place."""


def plain_refusal(status: int, detail: str, path: str) -> tuple[bytes, bytes]:
    """One line of text."""
    return b"text/plain; charset=utf-8", detail.encode() + b"\n"


class Connection(Protocol):
    """One connection, as those see it that watch over all of them."""

    deadline: float
    """When, in the loop's time, ``deadline_passed`` is called."""

    def deadline_passed(self) -> None:
        """The client took too long over what it was at."""
        ...

    def shutdown(self) -> None:
        """The server stops: close, at once or after what is under way."""
        ...

    def abort(self) -> None:
        """Close at once, whatever is unsent."""
        ...


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """One address the server listens on, and what is served there."""

    name: str
    """``https``, ``http``, ``acme_plain`` or ``admin``."""
    app: ASGIApp
    base_url: str
    """The origin clients use; stands in the scope as ``certloom.base_url``."""
    limits: Limits
    connections: Connections
    require_host: bool = True
    """Refuse HTTP/1.1 without Host (RFC 9112 section 3.2). Off where old SCEP clients come without one."""
    refusal: Refusal = plain_refusal
    meters: Meters = msgspec.field(default_factory=lambda: Meters(""))
    """What its requests are counted with."""
    asks_for_certificate: bool = False
    """Whether its TLS asks for a client certificate, which then stands in the scope."""
    limited: bool = True
    """Whether connections over the limit are refused here. The operator's own are not."""


class Connections:
    """Every open connection of this process, whichever listener it came through."""

    def __init__(self, clock: Clock, limit: int) -> None:
        self.open: set[Connection] = set()
        self.limit = limit
        self.stopping = False
        self.in_flight = 0
        """Requests being answered."""
        self._clock = clock
        self._date_second = 0
        self._date = b""
        self._sweep: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None

    def date_line(self) -> bytes:
        """The ``Date`` header (RFC 9110 section 6.6.1), made once a second, up to the request id's value."""
        now = self._clock.now()
        if now != self._date_second:
            self._date_second = now
            self._date = b"Date: " + formatdate(now, usegmt=True).encode() + b"\r\nX-Request-Id: "
        return self._date

    def start(self) -> None:
        """Begin to watch deadlines; needs a running event loop."""
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._on_sweep)

    def _on_sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [c for c in self.open if c.deadline < now]:
            connection.deadline_passed()
        self._sweep = loop.call_later(SWEEP_SECONDS, self._on_sweep)

    def closed(self) -> None:
        """A connection is gone, or a request answered: tell who waits for the last."""
        emptied = self._emptied
        if emptied is not None and not self.open and not self.in_flight and not emptied.done():
            emptied.set_result(None)

    async def stop(self, seconds: float) -> int:
        """Close idle connections, let requests in flight finish, close the rest after ``seconds``.

        Returns how many were cut off.
        """
        self.stopping = True
        loop = asyncio.get_running_loop()
        for connection in list(self.open):
            connection.shutdown()
        self._emptied = loop.create_future()
        self.closed()
        await asyncio.wait([self._emptied], timeout=seconds)
        cut = list(self.open)
        for connection in cut:
            connection.abort()
        if self._sweep is not None:
            self._sweep.cancel()
        return len(cut)
