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


def number(tx: Tx, authority: str, generation: int, shard: int, *, delta: bool = False) -> int | None:
    """The number of the newest."""
    row = tx.one(f"SELECT number FROM crls WHERE {_WHICH}", (authority, generation, shard, int(delta)))
    return row[0] if row else None


class Published(msgspec.Struct, frozen=True):
    """One CRL that there is, without itself."""

    number: int
    this_update: int
    next_update: int


def published(tx: Tx, authority: str, generation: int) -> dict[tuple[int, bool], Published]:
    """Those of a generation, by shard and whether it is a delta CRL."""
    rows = tx.all(
        "SELECT shard, delta, number, this_update, next_update FROM crls"
        " WHERE authority = ? AND generation = ?",
        (authority, generation),
    )
    return {(r[0], bool(r[1])): Published(*r[2:]) for r in rows}


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


# -- what is on them -----------------------------------------------------------------------------------------

Revoked = tuple[bytes, int, int]
"""Serial, Unix seconds of the revocation, reason."""


def revoked(
    tx: Tx, authority: str, generation: int, shard: int, after: tuple[int, int], limit: int
) -> tuple[list[Revoked], tuple[int, int] | None]:
    """Of a shard's revoked certificates those that follow ``after`` in (not_after, id), and where to go on.

    All of it stands in the index.
    """
    rows = tx.all(
        "SELECT serial, revoked, revocation_reason, not_after, id FROM certificates"
        " WHERE authority = ? AND generation = ? AND crl_shard = ? AND revoked IS NOT NULL"
        " AND (not_after, id) > (?, ?) ORDER BY not_after, id LIMIT ?",
        (authority, generation, shard, *after, limit),
    )
    following = (rows[-1][3], rows[-1][4]) if len(rows) == limit else None
    return [(r[0], r[1], r[2]) for r in rows], following


def revoked_since(
    tx: Tx, authority: str, generation: int, shard: int, since: int, after: tuple[int, int], limit: int
) -> tuple[list[Revoked], tuple[int, int] | None]:
    """Of a shard's revoked certificates those whose status changed then or later, from (status_changed,
    id)."""
    rows = tx.all(
        "SELECT serial, revoked, revocation_reason, status_changed, id FROM certificates"
        " WHERE authority = ? AND generation = ? AND crl_shard = ? AND revoked IS NOT NULL"
        " AND status_changed >= ? AND (status_changed, id) > (?, ?) ORDER BY status_changed, id LIMIT ?",
        (authority, generation, shard, since, *after, limit),
    )
    following = (rows[-1][3], rows[-1][4]) if len(rows) == limit else None
    return [(r[0], r[1], r[2]) for r in rows], following


def note_removed(tx: Tx, authority: str, generation: int, shard: int, serial: bytes, at: int) -> None:
    """A certificate's hold was released: delta CRLs say so to who saw it on a list."""
    tx.run(
        "INSERT INTO crl_removals (authority, generation, shard, serial, removed) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (authority, generation, shard, serial) DO UPDATE SET removed = excluded.removed",
        (authority, generation, shard, serial, at),
    )


def forget_removed(tx: Tx, authority: str, generation: int, shard: int, serial: bytes) -> None:
    """It is revoked again."""
    tx.run(
        "DELETE FROM crl_removals WHERE authority = ? AND generation = ? AND shard = ? AND serial = ?",
        (authority, generation, shard, serial),
    )


def removed_since(tx: Tx, authority: str, generation: int, shard: int, since: int) -> list[tuple[bytes, int]]:
    """(serial, Unix seconds) of what left a shard's list then or later."""
    rows = tx.all(
        "SELECT serial, removed FROM crl_removals"
        " WHERE authority = ? AND generation = ? AND shard = ? AND removed >= ? ORDER BY serial",
        (authority, generation, shard, since),
    )
    return [(r[0], r[1]) for r in rows]


def prune_removed(tx: Tx, authority: str, generation: int, before: int) -> int:
    """Forget what every complete list since knows."""
    return tx.run(
        "DELETE FROM crl_removals WHERE authority = ? AND generation = ? AND removed < ?",
        (authority, generation, before),
    )
