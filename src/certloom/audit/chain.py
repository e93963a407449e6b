"""The hash chain that makes the audit log tamper-evident.

Theory of operation. An event is written in the transaction of the change it tells of, without a place in the
chain: a chain inside each transaction would be one lock over everybody. Within a second the linker, one at a
time over all nodes (it locks the head), gives the events written since the next sequence numbers and
hashes, in the order of their ids; an event whose transaction committed late is simply linked later. An
event's hash is

    SHA-256(hash of the event before it | sequence | every column, each with its length)

and the last one linked is recorded as the chain's head, so that cutting off the end is noticed. Retention
removes events only from the beginning, and records where the rest of the chain begins. Whoever can rewrite
the whole table and both marks can rewrite history; a copy of the head kept elsewhere (``Verdict.head``) shows
even that.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from certloom.store import events
from certloom.store.base import Store, Tx
from certloom.store.events import Mark

BATCH = 1000
"""Events per transaction of the linker, and per chunk of the verification."""
_FAULTS = 100
_START = Mark(0, hashlib.sha256(b"certloom audit chain").hexdigest())


class Fault(msgspec.Struct, frozen=True):
    """One place where the log is not what was written."""

    sequence: int
    """Where in the chain."""
    problem: str
    """``altered`` (contents or position differ from what was linked), ``missing``, ``truncated`` (at the
    end) or ``inserted`` (outside the chain's recorded beginning and end)."""
    detail: str
    event_id: int | None = None


class Verdict(msgspec.Struct, frozen=True):
    """What a verification found."""

    checked: int
    """Events whose hashes were recomputed."""
    head: Mark
    """The chain's last event when the verification began; compare it with a copy kept elsewhere."""
    faults: tuple[Fault, ...]
    """At most the first 100."""

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def digest(previous: bytes, sequence: int, columns: tuple[Any, ...]) -> bytes:
    """An event's hash. ``columns`` are id, at_ms, kind, subject, actor, origin, trace and data."""
    parts = [previous, b"%d;" % sequence]
    for value in columns:
        encoded = b"%d" % value if isinstance(value, int) else value.encode()
        parts.append(b"%d:" % len(encoded))
        parts.append(encoded)
    return hashlib.sha256(b"".join(parts)).digest()


async def link(store: Store) -> int:
    """Put every event that is not in the chain into it; how many there were. Run it every second."""
    total = 0
    # One writer commits in the order of ids, so all before the head is linked and need not be looked for.
    # With several, a lower id may be committed later; an index knows which are not linked.
    ordered = store.dialect == "sqlite"

    def look(tx: Tx) -> bool:
        head = events.mark(tx, events.HEAD)
        return events.has_unlinked(tx, events.id_of(tx, head.sequence) if ordered and head else 0)

    while await store.read(look):
        linked = await store.write(lambda tx: _link_batch(tx, ordered))
        total += linked
        if linked < BATCH:
            break
    return total


def _link_batch(tx: Tx, ordered: bool) -> int:
    head = events.lock_head(tx, _START)
    sequence, previous = head.sequence, bytes.fromhex(head.hash)
    links = []
    for row in events.unlinked(tx, events.id_of(tx, sequence) if ordered else 0, BATCH):
        sequence += 1
        previous = digest(previous, sequence, row)
        links.append((sequence, previous, row[0]))
    if links:
        events.link(tx, links)
        events.set_mark(tx, events.HEAD, Mark(sequence, previous.hex()))
    return len(links)


async def prune(store: Store, before_ms: int) -> int:
    """Delete the beginning of the chain, up to the first event from ``before_ms`` on; how many it was."""
    total = 0
    while True:
        removed = await store.write(lambda tx: _prune_batch(tx, before_ms))
        total += removed
        if removed < BATCH:
            return total


def _prune_batch(tx: Tx, before_ms: int) -> int:
    events.lock_head(tx, _START)  # two nodes must not both move the base
    base = events.mark(tx, events.BASE) or _START
    last = events.last_before(tx, before_ms, base.sequence, BATCH)
    if last is None:
        return 0
    events.set_mark(tx, events.BASE, last)
    return events.delete_through(tx, last.sequence)


async def verify(store: Store) -> Verdict:
    """Recompute the chain from its beginning, in chunks beside everything else; say what is wrong where."""
    head = await store.read(lambda tx: events.mark(tx, events.HEAD)) or _START
    place = _START
    checked = 0
    faults: list[Fault] = []
    while place.sequence < head.sequence and len(faults) < _FAULTS:
        base, rows = await store.scan(_chunk_after(place.sequence))
        if base.sequence > place.sequence:
            place = base  # the beginning, or retention went past us
        found, place = _check(place, rows, head.sequence, faults)
        checked += found
        if len(rows) < BATCH:
            break
    if place.sequence < head.sequence and len(faults) < _FAULTS:
        faults.append(
            Fault(place.sequence + 1, "truncated", f"events {place.sequence + 1} to {head.sequence} are gone")
        )
    elif place.sequence == head.sequence and place.hash != head.hash and not faults:
        faults.append(Fault(head.sequence, "altered", "the last event is not the one that was linked last"))
    faults += await store.read(_outside)
    return Verdict(checked, head, tuple(faults[:_FAULTS]))


def _chunk_after(sequence: int) -> Any:
    def unit(tx: Tx) -> tuple[Mark, list[tuple[Any, ...]]]:
        base = events.mark(tx, events.BASE) or _START
        return base, events.linked_after(tx, max(sequence, base.sequence), BATCH)

    return unit


def _outside(tx: Tx) -> list[Fault]:
    """Events with a place in the chain before its beginning or after its end."""
    base = events.mark(tx, events.BASE) or _START
    head = events.mark(tx, events.HEAD) or _START
    first, last = events.bounds(tx)
    found = []
    if first is not None and first <= base.sequence:
        found.append(Fault(first, "inserted", f"the chain begins after {base.sequence}"))
    if last is not None and last > head.sequence:
        found.append(Fault(last, "inserted", f"the chain ends at {head.sequence}"))
    return found


def _check(place: Mark, rows: list[tuple[Any, ...]], last: int, faults: list[Fault]) -> tuple[int, Mark]:
    """Follow the chain through some rows. After a fault it goes on from the hash that stands in the table."""
    expected, previous = place.sequence + 1, bytes.fromhex(place.hash)
    checked = 0
    for row in rows:
        columns, sequence, stored = row[:8], row[8], row[9] or b""
        if sequence > last:
            break
        if sequence != expected:
            what = (
                f"events {expected} to {sequence - 1} are gone"
                if sequence - expected > 1
                else "the event is gone"
            )
            faults.append(Fault(expected, "missing", what))
        elif digest(previous, sequence, columns) != stored:
            faults.append(
                Fault(
                    sequence,
                    "altered",
                    "its contents, its position or its hash differ from what was linked",
                    columns[0],
                )
            )
        checked += 1
        expected, previous = sequence + 1, stored
    return checked, Mark(expected - 1, previous.hex())
