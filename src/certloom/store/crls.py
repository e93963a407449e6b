"""CRLs as they were published last: statements."""

from __future__ import annotations

import msgspec

from certloom.store.base import Tx

WHOLE = -1
"""The shard number of the whole list of a generation that has several shards."""


class StoredCRL(msgspec.Struct, frozen=True):
    """One CRL; of each authority, generation, shard and kind the newest is kept."""

    authority: str
    generation: int
    shard: int
    delta: bool
    number: int
    base_number: int | None
    """Of a delta CRL: the complete CRL that it adds to."""
    der: bytes
    this_update: int
    next_update: int


_COLUMNS = "authority, generation, shard, delta, number, base_number, der, this_update, next_update"
_WHICH = "authority = ? AND generation = ? AND shard = ? AND delta = ?"


def get(tx: Tx, authority: str, generation: int, shard: int, *, delta: bool = False) -> StoredCRL | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM crls WHERE {_WHICH}", (authority, generation, shard, int(delta)))
    return StoredCRL(row[0], row[1], row[2], bool(row[3]), *row[4:]) if row else None


def deadlines(tx: Tx, authority: str, generation: int) -> dict[tuple[int, bool], int]:
    """next_update of each CRL that there is, by shard and whether it is a delta CRL."""
    rows = tx.all(
        "SELECT shard, delta, next_update FROM crls WHERE authority = ? AND generation = ?",
        (authority, generation),
    )
    return {(r[0], bool(r[1])): r[2] for r in rows}


def put(tx: Tx, c: StoredCRL, after: int | None) -> bool:
    """Publish a CRL as successor of the one numbered ``after`` (None: as the first); False when the newest is
    another one, or its number is not lower."""
    which = (c.authority, c.generation, c.shard, int(c.delta))
    if after is None:
        return (
            tx.run(
                f"INSERT INTO crls ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (*which, c.number, c.base_number, c.der, c.this_update, c.next_update),
            )
            == 1
        )
    return (
        tx.run(
            "UPDATE crls SET number = ?, base_number = ?, der = ?, this_update = ?, next_update = ?"
            f" WHERE {_WHICH} AND number = ? AND number < ?",
            (c.number, c.base_number, c.der, c.this_update, c.next_update, *which, after, c.number),
        )
        == 1
    )
