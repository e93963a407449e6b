"""Statements on the audit log's table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from certloom.store.base import Tx

HEAD = "audit.head"
BASE = "audit.base"

COLUMNS = "id, at_ms, kind, subject, actor, origin, trace, data"


class Mark(msgspec.Struct, frozen=True):
    """A place in the chain: the event with this sequence number has this hash."""

    sequence: int
    hash: str
    """Hexadecimal."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Mark).decode


def mark(tx: Tx, key: str) -> Mark | None:
    """The recorded ``HEAD`` (last linked event) or ``BASE`` (last one pruned), if there is one."""
    row = tx.one("SELECT value FROM facts WHERE key = ?", (key,))
    return None if row is None else _decode(row[0])


def lock_head(tx: Tx, initial: Mark) -> Mark:
    """The head of the chain, held against all other linkers until this transaction ends."""
    tx.run(
        "INSERT INTO facts (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING",
        (HEAD, _encode(initial).decode()),
    )
    row = tx.one(f"SELECT value FROM facts WHERE key = ?{tx.for_update}", (HEAD,))
    assert row is not None
    return _decode(row[0])


def set_mark(tx: Tx, key: str, value: Mark) -> None:
    """Record a place in the chain."""
    tx.run(
        "INSERT INTO facts (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, _encode(value).decode()),
    )


def id_of(tx: Tx, sequence: int) -> int:
    """The id of the event with this sequence number; 0 if there is none."""
    row = tx.one("SELECT id FROM events WHERE sequence = ?", (sequence,))
    return 0 if row is None else int(row[0])


def hash_at(tx: Tx, sequence: int) -> bytes | None:
    """The hash of the event with this sequence number."""
    row = tx.one("SELECT hash FROM events WHERE sequence = ?", (sequence,))
    return None if row is None else bytes(row[0])


def at_of(tx: Tx, sequence: int) -> int | None:
    """When the event with this sequence number was written, in milliseconds."""
    row = tx.one("SELECT at_ms FROM events WHERE sequence = ?", (sequence,))
    return None if row is None else int(row[0])


def newest_of(tx: Tx, kind: str) -> int | None:
    """The sequence number of the last linked event of a kind."""
    row = tx.one(
        "SELECT sequence FROM events WHERE kind = ? AND sequence IS NOT NULL ORDER BY id DESC LIMIT 1",
        (kind,),
    )
    return None if row is None else int(row[0])


def unlinked(tx: Tx, after_id: int, limit: int) -> list[tuple[Any, ...]]:
    """Events with higher ids than that which are not yet in the chain, lowest id first."""
    return tx.all(
        f"SELECT {COLUMNS} FROM events WHERE id > ? AND sequence IS NULL ORDER BY id LIMIT ?",
        (after_id, limit),
    )


def has_unlinked(tx: Tx, after_id: int) -> bool:
    """Whether there is anything to link."""
    row = tx.one("SELECT id FROM events WHERE id > ? AND sequence IS NULL ORDER BY id LIMIT 1", (after_id,))
    return row is not None


def bounds(tx: Tx) -> tuple[int | None, int | None]:
    """The lowest and the highest sequence number there is."""
    lowest = tx.one("SELECT sequence FROM events WHERE sequence IS NOT NULL ORDER BY sequence LIMIT 1")
    highest = tx.one("SELECT sequence FROM events WHERE sequence IS NOT NULL ORDER BY sequence DESC LIMIT 1")
    return None if lowest is None else lowest[0], None if highest is None else highest[0]


def link(tx: Tx, rows: Iterable[tuple[int, bytes, int]]) -> None:
    """Put events into the chain: ``(sequence, hash, id)`` each."""
    tx.many("UPDATE events SET sequence = ?, hash = ? WHERE id = ?", rows)


def linked_after(tx: Tx, sequence: int, limit: int) -> list[tuple[Any, ...]]:
    """Linked events after a sequence number, in order: their columns, then ``sequence`` and ``hash``."""
    return tx.all(
        f"SELECT {COLUMNS}, sequence, hash FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?",
        (sequence, limit),
    )


def last_before(tx: Tx, at_ms: int, after: int, limit: int) -> Mark | None:
    """Of the first events after a sequence number, how far all are older and so is the one that follows.

    Looks at ``limit`` of them; the last one that is older never is the answer.
    """
    found = last = None
    rows = tx.all(
        "SELECT sequence, hash, at_ms FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?",
        (after, limit + 1),
    )
    for sequence, digest, when in rows:
        if when >= at_ms:
            break
        found, last = last, (sequence, digest)
    return None if found is None else Mark(found[0], found[1].hex())


def delete_through(tx: Tx, sequence: int) -> int:
    """Delete the linked events up to and including a sequence number."""
    return tx.run("DELETE FROM events WHERE sequence <= ?", (sequence,))
