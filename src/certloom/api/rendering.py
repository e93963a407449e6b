"""Answers as they are sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec

from certloom.api.routing import JSON, JSON_LINES, PREFIX, Answer, Stream

Header = tuple[bytes, bytes]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_PIECE = 64 * 1024
"""Octets that are gathered before they leave in a stream."""
_encode = msgspec.json.Encoder().encode


class Rendered(msgspec.Struct, frozen=True):
    """Status, headers and body of an answer, before what every answer carries is added."""

    status: int
    headers: list[Header]
    body: bytes = b""


def render(answer: Answer) -> Rendered:
    """Everything but streams."""
    value = answer.value
    headers = head(answer)
    if value is None:
        return Rendered(answer.status, headers)
    if isinstance(value, bytes):
        return Rendered(answer.status, headers, value)
    return Rendered(answer.status, headers, _encode(value))


def head(answer: Answer) -> list[Header]:
    """The headers that the answer itself says."""
    headers: list[Header] = []
    value = answer.value
    if value is not None:
        media = answer.media or (JSON_LINES if isinstance(value, Stream) else JSON)
        headers.append((b"content-type", media.encode()))
    if answer.etag is not None:
        headers.append((b"etag", answer.etag.encode()))
    if answer.location is not None:
        headers.append((b"location", (PREFIX + answer.location).encode()))
    if answer.retry_after is not None:
        headers.append((b"retry-after", b"%d" % answer.retry_after))
    headers += [(name.lower().encode(), text.encode("latin-1")) for name, text in answer.headers]
    return headers


async def whole(send: Send, rendered: Rendered, more: list[Header], is_head: bool) -> None:
    """Send an answer that is there as a whole."""
    headers = [*rendered.headers, *more]
    if rendered.status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(rendered.body)))
    await send({"type": "http.response.start", "status": rendered.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if is_head else rendered.body})


async def stream(
    send: Send,
    status: int,
    headers: list[Header],
    first: bytes,
    pieces: AsyncGenerator[bytes, None],
    is_head: bool,
) -> None:
    """Send pieces as they come; ``transfer-encoding: chunked`` asks the listener to do so too.

    Where the client is gone ``send`` raises, and what the pieces come from is closed.
    """
    async with aclosing(pieces):
        await _stream(send, status, headers, first, pieces, is_head)


async def _stream(
    send: Send, status: int, headers: list[Header], first: bytes, pieces: AsyncIterator[bytes], is_head: bool
) -> None:
    headers = [*headers, (b"transfer-encoding", b"chunked")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if is_head:
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.body", "body": first, "more_body": True})
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def gathered(pieces: AsyncGenerator[Any, None]) -> AsyncGenerator[bytes, None]:
    """Pieces of a good size, each thing as a line of JSON.

    Lines that come slowly (progress) leave one by one, since each is waited for; a source that wants this
    yields ``b""`` after a line to have sent what there is.
    """
    buffer = bytearray()
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, bytes):
                if not piece and buffer:
                    yield bytes(buffer)
                    buffer.clear()
                buffer += piece
            else:
                buffer += _encode(piece)
                buffer += b"\n"
            if len(buffer) >= _PIECE:
                yield bytes(buffer)
                buffer.clear()
    if buffer:
        yield bytes(buffer)
