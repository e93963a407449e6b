"""The hash chain that makes the audit log tamper-evident.

Theory of operation. An event is written in the transaction of the change it tells of, without a place in the
chain: a chain inside each transaction would be one lock over everybody. Within a second the linker, one at a
time over all nodes (it locks the head), gives the events written since the next sequence numbers and
hashes, in the order of their ids; an event whose transaction committed late is simply linked later. An
event's hash is

    SHA-256(hash of the event before it | sequence | every column, each with its length)

and the last one linked is recorded as the chain's head, so that cutting off the end is noticed. Retention
removes events only from the beginning, and records where the rest of the chain begins. It leaves the newest
of those that are old enough, so that a log whose first event is young was not shortened by retention.

Whoever can rewrite the whole table and both marks can rewrite history. A signed checkpoint that was exported
before (``audit.checkpoints``) shows even that; ``audit.verification`` compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from certloom.audit.events import SYSTEM, record
from certloom.store import events
from certloom.store.base import Store, Tx
from certloom.store.events import Mark

BATCH = 1000
"""Events per transaction of the linker, and per chunk of the verification."""
START = Mark(0, hashlib.sha256(b"certloom audit chain").hexdigest())
"""The place before the first event."""

Observer = Callable[[Sequence[tuple[str, str]]], None]
"""Is told kind and data (JSON) of events once they are linked; each event on one node only."""


def contents(columns: Sequence[int | str]) -> bytes:
    """What an event's hash covers of it: each of ``events.COLUMNS`` with its length before it."""
    parts = []
    for value in columns:
        encoded = value.encode() if isinstance(value, str) else b"%d" % value
        parts.append(b"%d:%b" % (len(encoded), encoded))
    return b"".join(parts)


def chained(previous: bytes, sequence: int, content: bytes) -> bytes:
    """The hash of an event in this place of the chain."""
    return hashlib.sha256(b"%b%d;%b" % (previous, sequence, content)).digest()


def digest(previous: bytes, sequence: int, columns: Sequence[int | str]) -> bytes:
    """An event's hash. ``columns`` are id, at_ms, kind, subject, actor, origin, trace and data."""
    return chained(previous, sequence, contents(columns))


async def link(store: Store, observe: Observer | None = None) -> int:
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
        total += len(linked)
        if observe is not None and linked:
            observe(linked)
        if len(linked) < BATCH:
            break
    return total


def _link_batch(tx: Tx, ordered: bool) -> list[tuple[str, str]]:
    head = events.lock_head(tx, START)
    sequence, previous = head.sequence, bytes.fromhex(head.hash)
    links = []
    told = []
    for row in events.unlinked(tx, events.id_of(tx, sequence) if ordered else 0, BATCH):
        sequence += 1
        previous = digest(previous, sequence, row)
        links.append((sequence, previous, row[0]))
        told.append((row[2], row[7]))
    if links:
        events.link(tx, links)
        events.set_mark(tx, events.HEAD, Mark(sequence, previous.hex()))
    return told


async def prune(store: Store, before_ms: int, now_ms: int) -> int:
    """Delete the beginning of the chain, up to the last event from before ``before_ms``; how many it was.

    That last one stays, as the proof that no younger ones went. The removal is an event itself.
    """
    total = 0
    while True:
        removed = await store.write(lambda tx: _prune_batch(tx, before_ms, now_ms))
        total += removed
        if removed < BATCH:
            return total


def _prune_batch(tx: Tx, before_ms: int, now_ms: int) -> int:
    events.lock_head(tx, START)  # two nodes must not both move the base
    base = events.mark(tx, events.BASE) or START
    last = events.last_before(tx, before_ms, base.sequence, BATCH)
    if last is None:
        return 0
    events.set_mark(tx, events.BASE, last)
    record(tx, now_ms, "audit.pruned", "audit", SYSTEM, {"from": base.sequence + 1, "through": last.sequence})
    return events.delete_through(tx, last.sequence)
