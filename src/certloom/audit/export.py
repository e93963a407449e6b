"""The log as JSON lines, complete enough for a stranger to recompute the chain (``docs/audit.md`` says how).

The first line is of type ``start``: the place before the first event. Then each event is one line of type
``event``, with every hashed column as it was hashed (``data`` as the text it is). The last line is of type
``checkpoint``: the last event's place, signed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from certloom.audit.chain import START
from certloom.audit.checkpoints import Checkpoint, CheckpointError, Checkpoints
from certloom.audit.walk import Row
from certloom.store import events
from certloom.store.base import Store, Tx
from certloom.store.events import Mark

_CHUNK = 1_000
_SKEW_MS = 60_000
"""Events are in the order of linking; by this much an earlier one may bear a later time."""


class StartLine(msgspec.Struct, frozen=True, tag_field="type", tag="start", forbid_unknown_fields=True):
    """The place before the first event of an export."""

    log: str
    sequence: int
    hash: str


class EventLine(msgspec.Struct, frozen=True, tag_field="type", tag="event", forbid_unknown_fields=True):
    """One event."""

    sequence: int
    hash: str
    id: int
    at_ms: int
    kind: str
    subject: str
    actor: str
    origin: str
    trace: str
    data: str


class EndLine(msgspec.Struct, frozen=True, tag_field="type", tag="checkpoint", forbid_unknown_fields=True):
    """The checkpoint."""

    log: str
    sequence: int
    hash: str
    base: int
    at: int
    key: str
    signature: str

    def checkpoint(self) -> Checkpoint:
        """Without the word of its type."""
        return Checkpoint(*msgspec.structs.astuple(self))


_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[StartLine | EventLine | EndLine] = msgspec.json.Decoder(
    StartLine | EventLine | EndLine
)


def read_line(text: bytes, number: int) -> StartLine | EventLine | EndLine:
    """One line of an export. Raises ``CheckpointError``."""
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise CheckpointError(f"line {number}: {error}") from None


def row_of(line: EventLine) -> Row:
    """An exported event as the table has it."""
    try:
        hash = bytes.fromhex(line.hash)
    except ValueError:
        hash = b""
    return (
        line.id,
        line.at_ms,
        line.kind,
        line.subject,
        line.actor,
        line.origin,
        line.trace,
        line.data,
        line.sequence,
        hash,
    )


class Range(msgspec.Struct, frozen=True):
    """Which part: events ``first`` to ``last`` by number, or those of a time; both ends included."""

    first: int = 1
    last: int | None = None
    since_ms: int | None = None
    until_ms: int | None = None


async def export(store: Store, checkpoints: Checkpoints, part: Range) -> AsyncGenerator[bytes, None]:
    """The lines, each ended by a line feed, read in chunks as they are taken.

    A time selects the stretch of the chain that holds all events of it, so a few others may be in it.
    """
    log = await checkpoints.log()
    before, last = await store.scan(lambda tx: _bounds(tx, part))
    yield _encode(StartLine(log, before.sequence, before.hash)) + b"\n"
    place = before.sequence
    while place < last:
        rows = await store.scan(_chunk(place, last))
        if not rows:
            break
        yield b"".join([_line(row) for row in rows])
        place = rows[-1][8]
    end = await checkpoints.make_at(place)
    yield _encode(EndLine(*msgspec.structs.astuple(end))) + b"\n"


def _line(row: tuple[Any, ...]) -> bytes:
    return _encode(EventLine(row[8], row[9].hex(), *row[:8])) + b"\n"


def _chunk(after: int, last: int) -> Any:
    def unit(tx: Tx) -> list[tuple[Any, ...]]:
        return [row for row in events.linked_after(tx, after, _CHUNK) if row[8] <= last]

    return unit


def _bounds(tx: Tx, part: Range) -> tuple[Mark, int]:
    """The place before the first event, and the number of the last one."""
    base = events.mark(tx, events.BASE) or START
    head = events.mark(tx, events.HEAD) or START
    first = max(part.first, base.sequence + 1)
    last = head.sequence if part.last is None else min(part.last, head.sequence)
    if part.since_ms is not None:
        first = max(first, first_at(tx, part.since_ms - _SKEW_MS, base.sequence + 1, head.sequence))
    if part.until_ms is not None:
        last = min(last, first_at(tx, part.until_ms + _SKEW_MS, base.sequence + 1, head.sequence) - 1)
    first = min(first, head.sequence + 1)
    if first <= base.sequence + 1:
        return base, last
    before = events.hash_at(tx, first - 1)
    return Mark(first - 1, (before or b"").hex()), last


def first_at(tx: Tx, at_ms: int, low: int, high: int) -> int:
    """The number of the first event from a time on, found by halving; ``high + 1`` if there is none."""
    high += 1
    while low < high:
        middle = (low + high) // 2
        when = events.at_of(tx, middle)
        if when is not None and when < at_ms:
            low = middle + 1
        else:
            high = middle
    return low
